"""Chunk size, latent dimension and KL floor together: which CALM for a given compute budget?"""

from studies.spec import Study

STUDY = Study(
    name="joint",
    summary="chunk size K x latent dimension x KL floor, with token baselines at the same compute",
    question=(
        "At a fixed training compute, which combination of chunk size K, latent dimension and KL floor "
        "gives the best language model, and does K > 1 beat K = 1?"
    ),
    against=(
        "K = 1 scores as high as K = 2 and K = 4 within the measured noise, or the score does not depend "
        "on the latent dimension or the KL floor beyond the noise between seeds."
    ),
    objective=(
        "BrierLM on the validation split at the end of the compute budget, mean over seeds; where an "
        "order of it lies within two of its errors of 0, the smooth per-order score of workbench.brier (maximised)"
    ),
)

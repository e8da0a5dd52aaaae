"""Samples, targets and exponent of the energy score: what do N, M and alpha buy at equal compute?"""

from studies.spec import Study

STUDY = Study(
    name="energy",
    summary="the energy score's samples N, targets M and exponent alpha, one at a time (power distance)",
    question=(
        "At equal training compute, what do the number of model samples N, of target samples M and the exponent "
        "alpha of the energy distance do to the quality of a CALM with K = 4? Compute is what is held equal: a "
        "larger N makes every step dearer and so leaves fewer of them (here N = 16 has two thirds of the steps of "
        "N = 8, N = 2 one and a half times as many), while M costs next to nothing. Published, at equal steps: "
        "BrierLM 4.37 with N = 2 (0.82 times the training cost), 4.70 with N = 8, 4.72 with N = 12 (1.13 times); "
        "alpha below 1 makes gradients explode, and at alpha = 2, which is refused, the score is no longer "
        "strictly proper."
    ),
    against=(
        "Within the noise between seeds N = 2 is as good as N = 8 (or better: its steps then outweigh its noise), "
        "or N = 16 is better than N = 8, so that the published choice is not the best one at equal compute; M = 1 "
        "is as good as M = 100; alpha below 1 trains as well as alpha = 1, without a gradient_norm diagnostic; or "
        "an alpha above 1 is better than 1."
    ),
    objective=(
        "BrierLM on the validation split at the end of the compute budget, mean over seeds; where an order of it "
        "lies within two of its errors of 0, the smooth per-order score of workbench.brier (maximised)"
    ),
)

"""What each regulariser of the autoencoder earns: KL clipping, beta, token dropout, latent dropout, on and off."""

from studies.spec import Study

STUDY = Study(
    name="autoencoder",
    summary="KL clipping, KL weight and both dropouts, on and off: reconstruction, robustness, BrierLM",
    question=(
        "Which of the autoencoder's regularisers (the KL floor, the weight beta of the KL term, dropout of "
        "input tokens, dropout of latent dimensions) earn what: in reconstruction, in its robustness to noise "
        "on the latent vector, in dimensions that do not collapse, and in the BrierLM of the language model "
        "trained on it? Published: all are on; beta = 0.1 ruins reconstruction, 0.001 is best."
    ),
    against=(
        "Switching a regulariser off changes neither accuracy under noise of 0.3 nor downstream BrierLM beyond "
        "the noise between seeds (it earns nothing here), or improves BrierLM (it does harm); or a setting with "
        "better accuracy under noise has the worse BrierLM, so that reconstruction does not tell which "
        "autoencoder to use."
    ),
    objective=(
        "BrierLM at the end of the compute budget, mean over seeds, on the test split (preset quick: "
        "validation); where an order of it lies within two of its errors of 0, the smooth per-order score of "
        "workbench.brier (maximised). Every setting listed is run: nothing is searched for."
    ),
)

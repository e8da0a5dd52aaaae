"""The latent dimension at a fixed chunk size: what reconstructs well, and what the language model can predict."""

from studies.spec import Study

STUDY = Study(
    name="latent_dim",
    summary="latent dimension of the autoencoder at K = 4: reconstruction, robustness and downstream BrierLM",
    question=(
        "With K = 4, how many latent dimensions should a chunk have: how do reconstruction, its robustness to "
        "noise on the latent vector and the BrierLM of the language model trained on it depend on L? Published, "
        "K = 4 and a vocabulary of 128,256: 32 and 256 are worse downstream than 128, although all reconstruct "
        "well."
    ),
    against=(
        "The best L downstream is the one that reconstructs best, so that no language model need be trained to "
        "choose it; or BrierLM rises or falls steadily with L over the whole range (no best L inside it); or no "
        "two values differ beyond the noise between seeds."
    ),
    objective=(
        "BrierLM at the end of the compute budget, mean over seeds, on the test split (preset quick: "
        "validation); where an order of it lies within two of its errors of 0, the smooth per-order score of "
        "workbench.brier (maximised). Every setting is run: nothing is searched for."
    ),
)

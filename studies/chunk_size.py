"""The chunk size K = 1, 2, 4, 8 at several model sizes: where does each K lie on the compute frontier?"""

from studies.spec import Study

STUDY = Study(
    name="chunk_size",
    summary="chunk size K = 1, 2, 4, 8 at several model sizes, token baselines of the same sizes",
    question=(
        "At equal training compute, which chunk size K gives the best language model at each model size, and "
        "where does each K lie on the frontiers of BrierLM over training compute and over inference compute, "
        "beside the token baseline? Published, at 281 M to 1.8 B parameters: K = 1 lies below the token model's "
        "frontier, K = 2 halves the cost for little loss, K = 4 lies above the frontier, K = 8 drops."
    ),
    against=(
        "K = 1 is not below the token baseline at equal training compute, or K = 2 or K = 4 is below K = 1 "
        "beyond the noise between seeds, or no K > 1 lies on the frontier of training or of inference compute, "
        "or K = 8 is as good as K = 4."
    ),
    objective=(
        "BrierLM at the end of the compute budget, mean over seeds, on the test split (preset quick: "
        "validation); where an order of it lies within two of its errors of 0, the smooth per-order score of "
        "workbench.brier (maximised). Every setting is run: nothing is searched for."
    ),
)

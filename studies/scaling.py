"""Size x K x budget, with token baselines: how does BrierLM grow with compute, and which K for which budget?"""

from studies.spec import Study

STUDY = Study(
    name="scaling",
    summary="chunk size K x model size x compute budget and token baselines: frontiers and a scaling law with K",
    question=(
        "How does BrierLM grow with model size, data and chunk size K, so that for a given budget of training "
        "compute the law says which K, which size and how many tokens to train, and how sure that is; and how "
        "much compute does each K need for the quality of the token baseline?"
    ),
    against=(
        "The best K does not depend on the budget, or no form of the law predicts the largest models, which it "
        "was not fitted to, better than the noise of a single run; or at every quality reached each K needs "
        "more compute than the token baseline (published: K = 4 needs 44 % less at BrierLM 5.7)."
    ),
    objective=(
        "BrierLM at the end of each run's own compute budget, mean over seeds, on the test split (preset quick: "
        "validation); where an order of it lies within two of its errors of 0, the smooth per-order score of "
        "workbench.brier (maximised). Every setting is run: nothing is searched for."
    ),
)

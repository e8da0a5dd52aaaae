"""Optimizer, distance of the score, head, initialisation, rate: what does each ingredient of a recipe earn?"""

from studies.spec import Study

STUDY = Study(
    name="recipe",
    summary="tuned recipe against the published one and against itself with one ingredient exchanged",
    question=(
        "At a budget of minutes on one core, how much better than by the published recipe can a CALM with K = 4 "
        "be trained, which ingredient earns which part of it, and how far is it then from the byte baseline that "
        "was tuned with equal care?"
    ),
    against=(
        "With its ingredients exchanged one by one the tuned recipe scores the same within the noise between "
        "seeds, or it stays below half of the tuned byte baseline's BrierLM."
    ),
    objective=(
        "BrierLM at the end of the compute budget, mean over seeds, on the test split (preset quick: validation; "
        "the recipe was chosen there); where an order of it lies within two of its errors of 0, the smooth "
        "per-order score of workbench.brier (maximised)"
    ),
)

"""Exact, batch or noise: how to sample at a temperature from a model known by its samples alone?"""

from studies.spec import Study

STUDY = Study(
    name="sampling",
    summary="accuracy against collision of the exact, batch and noise samplers, beside the baseline's softmax",
    question=(
        "How much sharper, and how much more often right, do draws become with temperature, with the batch size "
        "N and with less noise into the head; which sampler is right most often at the same collision rate, what "
        "does a token cost by each, and how near does that come to the softmax temperature of the token baseline?"
    ),
    against=(
        "Scaling the head's noise, at the cost of one draw, is right as often as exact sampling at the collision "
        "rate that all samplers reach, or the batch approximation is right less often there than exact sampling."
    ),
    objective=(
        "BrierLM at temperature 1 at the end of the compute budget, mean over seeds (the comparison of "
        "samplers is the report's section on sampling); where an order of it lies within two of its errors of "
        "0, the smooth per-order score of workbench.brier (maximised)"
    ),
)

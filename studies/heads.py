"""Energy, diffusion or flow matching: which head at equal training compute, and at what cost a token?"""

from studies.spec import Study

STUDY = Study(
    name="heads",
    summary="energy, flow-matching and diffusion heads at equal training compute, by network calls when sampling",
    question=(
        "At equal training compute, which head gives the best language model, and how does each one's BrierLM "
        "depend on the network calls, and so on the FLOPs, that a generated token may cost? Published: energy ≥ "
        "flow > diffusion, and energy needs one call."
    ),
    against=(
        "Flow or diffusion scores higher than energy beyond the noise between seeds at any number of calls, or "
        "reaches its score with one call, or diffusion scores as high as flow."
    ),
    objective=(
        "BrierLM at the end of the compute budget with each head's own number of network calls (energy 1, "
        "flow 20, diffusion 100), mean over seeds, on the test split (preset quick: validation); where an "
        "order of it lies within two of its errors of 0, the smooth per-order score of workbench.brier "
        "(maximised)"
    ),
)

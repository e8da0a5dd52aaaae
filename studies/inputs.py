"""What the backbone reads of a chunk: its tokens, its latent vector, or both?"""

from studies.spec import Study

STUDY = Study(
    name="inputs",
    summary="the backbone's input: tokens of the last chunk, its latent vector, or both (K = 4 and 2)",
    question=(
        "At equal training compute, does a CALM that reads the tokens of the last chunk become better than one "
        "that reads their latent vector (in training a sample of the posterior), and does it help to read both? "
        "Compute is what is held equal: without the compression of tokens a step is cheaper, so latent inputs get "
        "more steps (about 15 % with K = 4). Published, at equal steps: BrierLM 4.70 with tokens, 3.25 with "
        "the latent vector, both in between. What is fed back in generation (model.latent_feedback) is not "
        "compared: it changes neither training nor BrierLM, which is always measured with the re-encoded vector, "
        "because only then is the next chunk's distribution a function of the tokens."
    ),
    against=(
        "For K = 4 or for K = 2 the latent vector is as good an input as the tokens within the noise between "
        "seeds, or both together are better than the tokens alone."
    ),
    objective=(
        "BrierLM on the validation split at the end of the compute budget, mean over seeds; where an order of it "
        "lies within two of its errors of 0, the smooth per-order score of workbench.brier (maximised)"
    ),
)

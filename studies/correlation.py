"""Token baselines at many checkpoints on several texts: does BrierLM say the same as cross-entropy?"""

from studies.spec import Study

STUDY = Study(
    name="correlation",
    summary="token baselines: sizes x checkpoints x texts x tokenizers, BrierLM against cross-entropy (no search)",
    question=(
        "Does BrierLM, which needs samples only, say the same about a token model as its cross-entropy does: over "
        "sizes and checkpoints, on each text and for each tokenization by itself?"
    ),
    against=(
        "Within one text (corpus and tokenizer) Pearson's correlation is weaker than -0.9, or the 95 % interval "
        "of Spearman's contains -0.9, over the checkpoints at which BrierLM can be told from 0. Published, over "
        "models and checkpoints: -0.966 and -0.991."
    ),
    objective=(
        "nothing is searched; a cell's score is BrierLM at its last evaluation (where an order lies within two of "
        "its errors of 0, the smooth per-order score), mean over seeds; compared within one text only"
    ),
)

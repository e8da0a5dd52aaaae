"""The chunk size on other kinds of text: plays, scripture and source code."""

from studies.spec import Study

STUDY = Study(
    name="domains",
    summary="chunk size K on plays, scripture and source code, with token baselines on each text",
    question=(
        "Is the ranking of chunk sizes, and their distance to the token baseline, the same on other kinds of "
        "text: plays (shakespeare), scripture (kjv) and source code (python-stdlib)?"
    ),
    against=(
        "On some text two chunk sizes come in the opposite order, beyond the noise between seeds, to the one "
        "they have on another; or a K is above the token baseline on one text and below it on another."
    ),
    objective=(
        "BrierLM at the end of the compute budget, mean over seeds, on the test split (preset quick: "
        "validation); where an order of it lies within two of its errors of 0, the smooth per-order score of "
        "workbench.brier (maximised). Scores are compared within one text only. Every setting is run: nothing "
        "is searched for."
    ),
)

"""Runs that went wrong: which, why and how far they came. They have no score at the budget, so no comparison shows
them; a study that lost many says less than its table of means."""

from __future__ import annotations

import pandas as pd

from analysis.caveats import where
from analysis.naming import setting_names
from analysis.sections import Section
from analysis.table import RunTable
from analysis.texts import Part
from analysis.words import Cell, Table, listed, plain, whole
from workbench.records import BAD_NUMBERS

WORDS = {
    "failed": "an error ended it",
    "not_finite": "its loss, weights or outputs were no numbers any more",
    "diverged": "loss or gradients exploded",
    "collapsed": "its autoencoder collapsed, so no language model was trained",
}
"""Statuses of runs that went wrong, and what they mean."""
assert set(WORDS) == {"failed", *BAD_NUMBERS}


def gone_wrong(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["status"].isin(list(WORDS))]


def failures_section(table: RunTable, parts: list[Part]) -> Section | None:
    """None where nothing went wrong."""
    lost = gone_wrong(table.runs)
    if lost.empty:
        return None
    section = Section("failures", "Runs that went wrong", notes=[sentence(table.runs)])
    parameters = list(dict.fromkeys(name for part in parts for name in part.comparison.parameters))
    names = setting_names(table.runs, parameters, table.config_columns)
    rows: list[list[Cell]] = [
        [
            str(run["name"] or run["run_id"]),
            str(run["role"]),
            names.words({str(name): value for name, value in run.items()}),
            plain(run["seed"]),
            f"{str(run['status']).replace('_', ' ')}: {WORDS[str(run['status'])]}",
            str(run["reason"] or "not recorded"),
            f"{whole(run['step'])} of {whole(run['num_steps'])}",
        ]
        for run in lost.to_dict("records")
    ]
    columns = ["run", "role", "setting", "seed", "what happened", "reason", "steps"]
    caption = "Runs that ended without a score at the budget because something went wrong. Runs that the study's "
    caption += "pruner stopped are not among them."
    section.add(Table("failures", caption, columns, rows, frozenset({3})))
    return section


def sentence(runs: pd.DataFrame) -> str:
    """For the summary: ``3 of 24 runs went wrong (2 diverged, 1 failed; K = 4: 3) ...``; empty where none did."""
    lost = gone_wrong(runs)
    if lost.empty:
        return ""
    counts = lost["status"].value_counts()
    kinds = [f"{counts[status]} {status.replace('_', ' ')}" for status in WORDS if status in counts]
    verb = "is" if len(lost) == 1 else "are"
    several = runs.loc[runs["kind"] != "baseline", "K"].nunique() > 1
    place = where(lost).strip().strip("()") if several else ""  # no news where all have one K
    which = f"{listed(kinds)}{f'; {place}' if place else ''}"
    return (
        f"{len(lost)} of {len(runs)} runs went wrong ({which}) and {verb} in no comparison: their settings did "
        "not train as they were set, which says neither that they are good nor that they are bad."
    )

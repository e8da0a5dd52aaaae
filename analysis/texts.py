"""Studies on several texts: each is compared with its own runs only.

A text is a corpus cut into tokens in one way (everything under ``data`` in the configuration). Scores on
different texts are different quantities. A study that trains on several does so on purpose; several evaluations
of *one* text are another matter, and mostly a mistake.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from analysis.comparison import ROLES, Comparison, compare
from analysis.table import RunTable
from analysis.verdict import Standing, standings


@dataclass(frozen=True)
class Part:
    """The runs on one text."""

    text: str
    comparison: Comparison
    floors: pd.DataFrame
    """N-gram tables scored at the comparison's positions."""
    places: list[Standing]


def parts_of(table: RunTable) -> list[Part]:
    """One part a text, in order of first appearance; one without runs where there are none."""
    texts = list(dict.fromkeys(table.runs["text"]))
    if len(texts) < 2:
        return [_part(table, texts[0] if texts else "")]
    return [_part(_only(table, text), text) for text in texts]


def _only(table: RunTable, text: str) -> RunTable:
    runs = table.runs[table.runs["text"] == text]
    ids = set(runs["run_id"])
    return replace(
        table,
        runs=runs,
        evaluations=table.evaluations[table.evaluations["text"] == text],
        floors=table.floors[table.floors["run_id"].isin(ids)],
    )


def _part(table: RunTable, text: str) -> Part:
    comparison = compare(table)
    floors = table.floors[table.floors["fingerprint"] == comparison.fingerprint]
    return Part(text, comparison, floors, standings(comparison, floors))


def largest(parts: list[Part]) -> Part:
    """The text with the most runs at the budget (the first of equal ones): what the sections show that can
    show only one."""
    return max(parts, key=lambda part: len(part.comparison.finals))


def comparable(table: RunTable) -> pd.DataFrame:
    """All evaluations but those of sensitivity checks."""
    return table.evaluations[table.evaluations["role"].isin(ROLES)].reset_index(drop=True)


def several_words(parts: list[Part]) -> str:
    """What a reader must know about a study on several texts; empty where there is one."""
    if len(parts) < 2:
        return ""
    listed = "; ".join(f"{part.text} ({_runs(sum(part.comparison.fingerprints.values()))})" for part in parts)
    return (
        f"These runs train on {len(parts)} texts and are scored on them, on purpose: {listed}. A BrierLM belongs "
        "to its text and its tokenizer, so every run is compared with those on its own text only. Verdict, key "
        "numbers and the correlation with cross-entropy are given text by text; the other comparisons show "
        f"{largest(parts).text} only."
    )


def mixed_words(parts: list[Part]) -> list[str]:
    """A warning for every text that was evaluated in several ways."""
    return [_mixed(part, len(parts) > 1) for part in parts if len(part.comparison.fingerprints) > 1]


def _mixed(part: Part, several: bool) -> str:
    comparison = part.comparison
    others = {f: n for f, n in comparison.fingerprints.items() if f != comparison.fingerprint}
    listed = ", ".join(f"{name} ({_runs(num)})" for name, num in sorted(others.items()))
    which = f"The runs on {part.text}" if several else "These runs"
    return (
        f"{which} were evaluated in {len(comparison.fingerprints)} different ways, and such scores cannot be "
        f"compared. This report compares only the largest group, {comparison.fingerprint} "
        f"({_runs(comparison.fingerprints[comparison.fingerprint])}). Left out of every comparison: {listed}. "
        "`calm evaluate` with one setting makes them comparable."
    )


def _runs(num: int) -> str:
    return f"{num} run{'' if num == 1 else 's'}"

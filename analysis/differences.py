"""What differs between the runs of a study: the parameters that do, and nothing else."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from analysis.naming import values_of
from analysis.sections import Section
from analysis.table import RunTable
from analysis.words import MISSING, Cell, Table, missing, name_of, plain

MAX_VALUES = 8
"""Distinct values that are listed; of more the range, or their number."""
_NOT_MINE = ("runtime.", "eval.")


def differences_section(table: RunTable) -> Section | None:
    """None where no parameter differs. Sensitivity checks are left out: they differ on purpose."""
    section = Section("differences", "What differs between the runs")
    section.add(differences_table(table))
    return None if section.empty else section


def differences_table(table: RunTable) -> Table:
    runs = table.runs[table.runs["role"] != "check"]
    kinds = [
        (kind, words)
        for kind, words in (("calm", "CALM"), ("baseline", "baselines"))
        if (runs["kind"] == kind).any()
    ]
    parts = {kind: runs[runs["kind"] == kind] for kind, _ in kinds}
    rows: list[list[Cell]] = []
    for name in table.config_columns:
        if name.startswith(_NOT_MINE) or name == "model.kind":
            continue
        found = {kind: [v for v in values_of(part, name) if not missing(v)] for kind, part in parts.items()}
        distinct = {plain(value) for values in found.values() for value in values}
        if len(distinct) > 1:
            rows.append([name_of(name), name, *[_words(values) for values in found.values()]])
    seeds = {kind: part["seed"].dropna().tolist() for kind, part in parts.items()}
    if len({seed for values in seeds.values() for seed in values}) > 1:
        rows.append(["seed", "seed", *[_words(values) for values in seeds.values()]])
    caption = "Parameters that differ between runs, with the number of runs; whatever is not listed is the same."
    return Table("differences", caption, ["parameter", "field", *[words for _, words in kinds]], rows)


def _words(values: list[object]) -> str:
    counts = Counter(plain(value) for value in values)
    if not counts:
        return MISSING
    numbers = pd.to_numeric(pd.Series(list(counts)), errors="coerce")
    if len(counts) > MAX_VALUES:
        if numbers.notna().all():
            return f"{len(counts)} values from {plain(numbers.min())} to {plain(numbers.max())} ({len(values)})"
        return f"{len(counts)} different ones ({len(values)})"
    ordered = sorted(counts, key=(lambda v: float(v)) if numbers.notna().all() else str)
    return ", ".join(f"{value} ({counts[value]})" for value in ordered)

"""What may be compared with what (DESIGN, rules of a fair comparison).

The comparison at the budget takes runs of one evaluation fingerprint, one budget and one kind of end
point (constant rate, or decayed). Whatever is left out is listed with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from analysis.frontier import KINDS
from analysis.stats import SeedNoise, seed_noise
from analysis.table import RunTable
from analysis.words import flops as flops_words
from analysis.words import status_words

ROLES = ("run", "trial", "baseline")
"""Sensitivity checks deviate from the stated rules on purpose and are never part of a comparison."""


@dataclass(frozen=True)
class Comparison:
    """Comparable runs and evaluations of one study."""

    fingerprint: str
    finals: pd.DataFrame
    """Completed runs at the budget."""
    evaluations: pd.DataFrame
    """All checkpoints of the fingerprint, sensitivity checks excepted."""
    phase: str
    """Kind of end point of ``finals``: constant or decayed."""
    budget: str
    fingerprints: dict[str, int]
    """Number of runs of each fingerprint that occurs."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """(run, why it is not in the comparison at the budget)."""
    parameters: list[str] = field(default_factory=list)
    """Dotted names of what was searched or varied."""
    noise: SeedNoise | None = None
    noise_kinds: tuple[str, ...] = ()
    """Kinds of model (calm, baseline) that were repeated with other seeds."""

    @property
    def fairness(self) -> str:
        """What the compared runs have in common."""
        return "at equal compute" if "FLOPs" in self.budget else f"at {self.budget}, which is not equal compute"

    @property
    def calm(self) -> pd.DataFrame:
        return self.finals[self.finals["kind"] == "calm"]

    @property
    def baselines(self) -> pd.DataFrame:
        return self.finals[self.finals["kind"] == "baseline"]

    @property
    def chunk_sizes(self) -> list[int]:
        return sorted(int(k) for k in self.calm["K"].dropna().unique())

    def best(self, runs: pd.DataFrame) -> pd.Series | None:
        """The run with the highest score (BrierLM first, the smooth score between equal ones)."""
        if runs.empty:
            return None
        return runs.sort_values(["brierlm", "score", "run_id"], ascending=[False, False, True]).iloc[0]


def compare(table: RunTable) -> Comparison:
    """Choose the largest comparable group of a table (ties: by name, so that the choice is stable)."""
    runs = table.runs
    counts = _fingerprint_counts(table.evaluations)
    fingerprint = min(counts, key=lambda f: (-counts[f], f)) if counts else ""
    left_out: list[tuple[str, str]] = []
    for _, run in runs.iterrows():
        reason = _why_not(run, fingerprint)
        if reason:
            left_out.append((_label(run), reason))
    keep = [not _why_not(run, fingerprint) for _, run in runs.iterrows()]
    finals = runs[pd.Series(keep, index=runs.index, dtype=bool)]
    finals, phase = _one_group(
        finals, finals["phase"], "its end point is {0}, the compared ones are {1}", left_out
    )
    finals, budget = _one_group(finals, _budgets(finals), "its budget is {0}, the compared one is {1}", left_out)
    evaluations = table.evaluations
    evaluations = evaluations[
        (evaluations["fingerprint"] == fingerprint) & evaluations["role"].isin(ROLES)
    ].reset_index(drop=True)
    parameters = _parameters(table, finals)
    grouped = cells(finals, table.config_columns)
    return Comparison(
        fingerprint=fingerprint,
        finals=finals,
        evaluations=evaluations,
        phase=phase,
        budget=budget,
        fingerprints=counts,
        left_out=left_out,
        parameters=parameters,
        noise=seed_noise([cell["brierlm"].tolist() for cell in grouped]),
        noise_kinds=tuple(sorted({str(cell["kind"].iloc[0]) for cell in grouped if len(cell) > 1})),
    )


def cells(runs: pd.DataFrame, columns: Iterable[str]) -> list[pd.DataFrame]:
    """Runs grouped by everything but the seed, in order of first appearance."""
    keys = [name for name in columns if name in runs and not _is_seed(name)]
    if runs.empty:
        return []
    text = runs[["kind", *keys]].astype(object).map(repr).agg("|".join, axis=1)
    return [runs.loc[index] for index in text.groupby(text, sort=False).groups.values()]


def _is_seed(name: str) -> bool:
    return name == "seed" or name.endswith(".seed") or name.startswith("runtime.")


def _fingerprint_counts(evaluations: pd.DataFrame) -> dict[str, int]:
    counts = evaluations.groupby("fingerprint")["run_id"].nunique()
    return {str(name): int(num) for name, num in counts.items()}


def _label(run: pd.Series) -> str:
    return str(run["name"] or run["run_id"])


def _why_not(run: pd.Series, fingerprint: str) -> str:
    """Reason why a run is not among the comparable end points, or an empty string."""
    if run["role"] not in ROLES:
        return "sensitivity check (shown in its own table)"
    if run["status"] != "completed":
        return status_words(run["status"], run["reason"])
    if not run["at_budget"]:
        return "completed without an evaluation"
    if run["fingerprint"] != fingerprint:
        return f"evaluation fingerprint {run['fingerprint']} instead of {fingerprint}: other positions or text"
    if run["phase"] not in KINDS:
        return f"its end point lies in the {run['phase']} phase of its schedule"
    return ""


def _budgets(runs: pd.DataFrame) -> pd.Series:
    """What each run was given, in words."""

    def words(run: pd.Series) -> str:
        flops, tokens = run.get("train.train_flops"), run.get("train.train_tokens")
        if flops is not None and pd.notna(flops):
            return f"{flops_words(flops)} training FLOPs"
        return f"{int(tokens):,} training tokens" if tokens is not None and pd.notna(tokens) else "not recorded"

    return pd.Series([words(run) for _, run in runs.iterrows()], index=runs.index, dtype=object)


def _one_group(
    runs: pd.DataFrame, key: pd.Series, reason: str, left_out: list[tuple[str, str]]
) -> tuple[pd.DataFrame, str]:
    """The runs of the most frequent key; the others go to ``left_out``."""
    if runs.empty:
        return runs, ""
    sizes = key.value_counts()
    chosen = min(sizes.index, key=lambda value: (-sizes[value], str(value)))
    for _, run in runs[key != chosen].iterrows():
        left_out.append((_label(run), reason.format(key[run.name], chosen)))
    return runs[key == chosen], str(chosen)


def _parameters(table: RunTable, finals: pd.DataFrame) -> list[str]:
    """Searched parameters as the study states them; without a study, whatever varies among CALM runs."""
    stated = [name for info in table.studies.values() for name in info.parameters if name in table.config_columns]
    if stated:
        return list(dict.fromkeys(stated))
    calm = finals[finals["kind"] == "calm"]
    skip = ("train.train_", "runtime.")
    return [
        name
        for name in table.config_columns
        if not _is_seed(name) and not name.startswith(skip) and calm[name].astype(object).map(repr).nunique() > 1
    ]

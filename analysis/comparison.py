"""What may be compared with what (DESIGN, rules of a fair comparison).

The comparison at the budget takes runs of one evaluation fingerprint, one budget and one kind of end
point (constant rate, or decayed). Whatever is left out is listed with its reason. What is compared are *settings*:
runs that differ in nothing but their seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from analysis.dimension import Dimension, Key, choose_dimension
from analysis.frontier import KINDS
from analysis.naming import ROLES, Row, SettingNames, is_seed, rows_of, setting_names, setting_rows, varied
from analysis.paired import PairedScores, pair_up
from analysis.scores import bounds
from analysis.stats import scatter_of_scores
from analysis.table import RunTable
from analysis.words import flops as flops_words
from analysis.words import missing, status_words
from workbench.positions import FloorScores, PositionScores
from workbench.seeds import SeedNoise, seed_noise

__all__ = ["ROLES", "Comparison", "Setting", "best_setting", "cells", "compare", "noise_of", "ranking"]


BUDGETS = ("train.train_flops", "train.train_tokens")
"""What a run is given to train with: a comparison holds it equal, so it is no parameter there."""


Rank = tuple[float, float, str]


@dataclass(frozen=True)
class Setting:
    """Runs that agree in everything but the seed, one a seed."""

    runs: pd.DataFrame

    @property
    def kind(self) -> str:
        return str(self.runs["kind"].iloc[0])

    @property
    def k(self) -> int | None:
        """Chunk size; None for a token baseline."""
        return None if self.kind == "baseline" else int(self.runs["K"].iloc[0])

    @cached_property
    def run_ids(self) -> list[str]:
        return [str(run_id) for run_id in self.runs["run_id"]]

    @property
    def num_seeds(self) -> int:
        return len(self.runs)

    @cached_property
    def score(self) -> float:
        """Mean BrierLM over its seeds."""
        return float(self.runs["brierlm"].mean())

    @cached_property
    def objective(self) -> float:
        """Mean over its seeds of what a search maximises: BrierLM, or a smooth score where that is near 0."""
        return float(self.runs["score"].mean())

    @cached_property
    def rank(self) -> Rank:
        """The best setting has the lowest: by mean BrierLM, then by the mean of the smooth score."""
        return -self.score, -self.objective, str(self.runs["run_id"].iloc[0])

    @cached_property
    def objective_rank(self) -> Rank:
        return -self.objective, -self.score, str(self.runs["run_id"].iloc[0])

    @cached_property
    def weak(self) -> bool:
        """Whether an order of one of its runs cannot be told from 0: its scatter is cut off there."""
        return not self.above_0 or bool(bounds(self.runs).any())

    @cached_property
    def above_0(self) -> bool:
        """Whether all its runs have a BrierLM above 0, where it is cut off."""
        return all(value > 0 for value in self.runs["brierlm"].tolist())

    @cached_property
    def best(self) -> pd.Series:
        """Its run with the highest score (the smooth score between equal ones)."""
        return self.runs.sort_values(["brierlm", "score", "run_id"], ascending=[False, False, True]).iloc[0]


def ranking(settings: Sequence[Setting]) -> Callable[[Setting], Rank]:
    """What the best of these has the lowest of: their rank by BrierLM, or by the objective, as a search has it,
    where no BrierLM of theirs can be told from 0: then it is cut off there, and its order is chance."""
    if all(setting.weak for setting in settings):
        return lambda setting: setting.objective_rank
    return lambda setting: setting.rank


def best_setting(settings: Sequence[Setting]) -> Setting:
    """With the highest mean over its seeds (``ranking``)."""
    return min(settings, key=ranking(settings))


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
    settings: list[Setting] = field(default_factory=list)
    """``finals`` by everything but the seed, in order of first appearance."""
    dimension: Dimension = field(default_factory=Dimension)
    """What the runs are grouped and coloured by: K, or what the study varies first."""
    names: SettingNames = field(default_factory=SettingNames)
    """What the settings are called."""
    paired: PairedScores | None = None
    """The runs of ``finals`` that kept their scores, at the positions that all of these share."""
    unpaired: str = ""
    """Why some or all runs of ``finals`` are compared without pairs; empty where none is."""
    noise: SeedNoise | None = None
    """Between seeds of one setting, pooled over the settings that were repeated."""
    noise_is_split: bool = True
    """Whether training and evaluation noise were told apart; else all of it is called training noise."""
    noise_kinds: tuple[str, ...] = ()
    """Kinds of model (calm, baseline) that were repeated with other seeds."""
    positions: Mapping[str, PositionScores] = field(default_factory=dict)
    """By run id, of all completed runs of the study: each as it was scored."""
    floor_scores: Mapping[str, FloorScores] = field(default_factory=dict)
    """N-gram tables at each run's positions, by run id."""

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

    def among(self, runs: pd.DataFrame) -> list[Setting]:
        """The settings whose runs are among ``runs``, a part of ``finals``."""
        there = set(runs.index)
        return [setting for setting in self.settings if there.issuperset(setting.runs.index)]

    def best(self, runs: pd.DataFrame) -> pd.Series | None:
        """The best run of the best setting among ``runs``, which is the one with the highest mean over its seeds:
        where some settings have more seeds than others, the highest single run is often a lucky one."""
        found = self.among(runs)
        return best_setting(found).best if found else None

    @cached_property
    def rows(self) -> dict[str, Row]:
        """What says which setting each of ``finals`` is of, by run id: cheaper than rows of a frame."""
        return {str(row["run_id"]): row for row in setting_rows(self.finals)}

    @cached_property
    def groups(self) -> list[tuple[Key, list[Setting]]]:
        """Settings of the token baselines (None) first, then of each K (or head, ...) in order."""
        found: dict[Key, list[Setting]] = {key: [] for key in (None, *self.dimension.values)}
        for setting in self.settings:
            found.setdefault(self.key(setting), []).append(setting)
        return [(key, settings) for key, settings in found.items() if settings]

    def key(self, setting: Setting) -> Key:
        """The group of a setting."""
        return self.dimension.keys.get(setting.run_ids[0])

    def name(self, setting: Setting, *, whole: bool = False) -> str:
        """What it differs in from others of its group; ``whole``: from all others."""
        without = () if whole or setting.kind == "baseline" else (self.dimension.column,)
        return self.names.words(setting.runs.iloc[0], without)


def compare(table: RunTable) -> Comparison:
    """Choose the largest comparable group of a table (ties: by name, so that the choice is stable)."""
    runs = table.runs
    counts = _fingerprint_counts(table.evaluations)
    fingerprint = min(counts, key=lambda f: (-counts[f], f)) if counts else ""
    left_out: list[tuple[str, str]] = []
    keep = []
    for run in rows_of(runs, _ASKED):
        reason = _why_not(run, fingerprint)
        keep.append(not reason)
        if reason:
            left_out.append((_label(run), reason))
    finals = runs[pd.Series(keep, index=runs.index, dtype=bool)]
    finals, phase = _one_group(
        finals, finals["phase"], "its end point is {0}, the compared ones are {1}", left_out
    )
    finals, budget = _one_group(
        finals, _budgets(finals), "its budget is {0}, the compared one is {1}", left_out, size=_spent(finals)
    )
    evaluations = table.evaluations
    evaluations = evaluations[
        (evaluations["fingerprint"] == fingerprint) & evaluations["role"].isin(ROLES)
    ].reset_index(drop=True)
    settings = [Setting(_one_a_seed(cell)) for cell in cells(finals, table.config_columns)]
    paired, unpaired = pair_up(table.positions, finals["run_id"])
    noise, is_split = noise_of(settings, paired)
    parameters = _parameters(table, finals)
    compared = runs[runs["role"].isin(ROLES)]
    choices = {n: d.get("choices") or () for info in table.studies.values() for n, d in info.dimensions.items()}
    return Comparison(
        fingerprint=fingerprint,
        finals=finals,
        evaluations=evaluations,
        phase=phase,
        budget=budget,
        fingerprints=counts,
        left_out=left_out,
        parameters=parameters,
        settings=settings,
        paired=paired,
        unpaired=unpaired or _left_unpaired(finals, paired),
        dimension=choose_dimension(compared, parameters, choices),
        names=setting_names(runs, parameters, [c for c in table.config_columns if c not in BUDGETS]),
        noise=noise,
        noise_is_split=is_split,
        noise_kinds=tuple(sorted({s.kind for s in settings if s.num_seeds > 1 and s.above_0})),
        positions=table.positions,
        floor_scores=table.floor_scores,
    )


def noise_of(settings: Sequence[Setting], paired: PairedScores | None) -> tuple[SeedNoise | None, bool]:
    """Noise between seeds and whether it could be split. Settings of which a seed has a BrierLM of 0 say nothing:
    it is cut off there, and two seeds at 0 do not scatter."""
    clear = [setting for setting in settings if setting.above_0]
    if paired is not None:
        there = [[r for r in setting.run_ids if r in paired.values] for setting in clear]
        values = [paired.of(run_ids) for run_ids in there]
        found = seed_noise(values, paired.clusters, linearise=paired.linearise)
        if found is not None:
            return found, True
    return scatter_of_scores([setting.runs["brierlm"].tolist() for setting in clear]), False


def _left_unpaired(finals: pd.DataFrame, paired: PairedScores | None) -> str:
    if paired is None:
        return ""
    num = sum(str(run_id) not in paired.values for run_id in finals["run_id"])
    return f"{num} of {len(finals)} runs did not keep their scores position by position" if num else ""


def _one_a_seed(cell: pd.DataFrame) -> pd.DataFrame:
    return cell if cell["seed"].is_unique else cell.drop_duplicates("seed")


def cells(runs: pd.DataFrame, columns: Iterable[str]) -> list[pd.DataFrame]:
    """Runs grouped by everything but the seed, in order of first appearance. How much was scored is no part of a
    setting either: all of ``runs`` have one evaluation fingerprint."""
    if runs.empty:
        return []
    places = cell_places(runs, columns)
    ordered = runs.iloc[[place for where in places for place in where]]  # slices of it cost little
    ends = list(itertools.accumulate(len(where) for where in places))
    return [ordered.iloc[begin:end] for begin, end in itertools.pairwise([0, *ends])]


def cell_places(runs: pd.DataFrame, columns: Iterable[str]) -> list[list[int]]:
    """``cells`` as places of rows: a thousand frames take seconds to make."""
    keys = [name for name in columns if name in runs and not is_seed(name)]
    text = [list(map(repr, runs[c].to_numpy(object).tolist())) for c in ["kind", *keys]]
    telling = [values for values in text if len(set(values)) > 1] or text[:1]
    places: dict[tuple[str, ...], list[int]] = {}
    for place, key in enumerate(zip(*telling, strict=True)):
        places.setdefault(key, []).append(place)
    return list(places.values())


def _fingerprint_counts(evaluations: pd.DataFrame) -> dict[str, int]:
    counts = evaluations.groupby("fingerprint")["run_id"].nunique()
    return {str(name): int(num) for name, num in counts.items()}


def _label(run: Mapping[str, Any]) -> str:
    return str(run["name"] or run["run_id"])


_ASKED = ("run_id", "name", "role", "status", "reason", "at_budget", "fingerprint", "phase")


def _why_not(run: Mapping[str, Any], fingerprint: str) -> str:
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

    def words(run: Mapping[str, Any]) -> str:
        if run.get("tokens") == 0:  # imported weights
            return "unknown training"
        flops, tokens = run.get("train.train_flops"), run.get("train.train_tokens")
        if flops is not None and pd.notna(flops):
            return f"{flops_words(flops)} training FLOPs"
        return f"{int(tokens):,} training tokens" if tokens is not None and pd.notna(tokens) else "not recorded"

    return pd.Series([words(row) for row in _given(runs)], index=runs.index, dtype=object)


def _spent(runs: pd.DataFrame) -> dict[str, float]:
    """How large each budget is, by its words."""
    given = [[row[name] for name in BUDGETS if name in row and not missing(row[name])] for row in _given(runs)]
    amounts = [float(values[0]) if values else 0.0 for values in given]
    return dict(zip(_budgets(runs).tolist(), amounts, strict=True))


def _given(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The columns of ``BUDGETS`` that are there, and the tokens that were trained on, run by run."""
    names = (*BUDGETS, "tokens")
    return [{name: row[name] for name in names if name in row} for row in rows_of(runs, names)]


def _one_group(
    runs: pd.DataFrame,
    key: pd.Series,
    reason: str,
    left_out: list[tuple[str, str]],
    size: Mapping[str, float] | None = None,
) -> tuple[pd.DataFrame, str]:
    """The runs of the most frequent key, of equally frequent ones the largest by ``size`` (a study that runs
    several budgets says most at the last); the others go to ``left_out``."""
    if runs.empty:
        return runs, ""
    counts, sizes = key.value_counts(), size or {}
    chosen = min(counts.index, key=lambda value: (-counts[value], -sizes.get(str(value), 0.0), str(value)))
    others = key != chosen
    if not others.any():
        return runs, str(chosen)
    for run, own in zip(rows_of(runs[others], ("name", "run_id")), key[others].tolist(), strict=True):
        left_out.append((_label(run), reason.format(own, chosen)))
    return runs[~others], str(chosen)


def _parameters(table: RunTable, finals: pd.DataFrame) -> list[str]:
    """Searched parameters as the study states them; without a study, whatever varies among CALM runs."""
    stated = [name for info in table.studies.values() for name in info.parameters if name in table.config_columns]
    stated = [name for name in stated if name not in BUDGETS]
    if stated:
        return list(dict.fromkeys(stated))
    return varied(finals[finals["kind"] == "calm"], table.config_columns)

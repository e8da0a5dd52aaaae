"""Several compute budgets in one study: the best of each group at each of them.

A study that varies the budget has no one budget to compare at; this is the same comparison made budget by budget,
at the largest of which the rest of the report looks.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.comparison import BUDGETS, ROLES, Comparison, cells
from analysis.dimension import Key
from analysis.frontier import KINDS
from analysis.scores import bounds, score_words
from analysis.stats import BETTER, Difference, Scored, mean_over_seeds, unpaired_difference
from analysis.table import RunTable
from analysis.words import MISSING, Cell, Table, difference_words, flops, plus_minus, short_of

BUDGET = BUDGETS[0]
SIZES = ("model.backbone.width", "model.backbone.num_layers")


@dataclass(frozen=True)
class AtBudget:
    """One budget: the best setting of each group, and whether the best CALM is told from the next group's."""

    flops: float
    best: dict[Key, pd.DataFrame]
    """Runs of the group's best setting (highest mean over seeds) there."""
    winner: Key
    """Of the CALM groups; None where no CALM ran at this budget."""
    gap: Difference | None
    """To the second; None where there is none."""
    second: Key = None


def by_budget(table: RunTable, comparison: Comparison) -> list[AtBudget]:
    """One entry a budget, smallest first, over completed runs of the comparison's fingerprint and kind of end
    point; empty where there are fewer than two budgets."""
    runs = table.runs
    if BUDGET not in runs:
        return []
    same = (runs["fingerprint"] == comparison.fingerprint) & (runs["phase"] == comparison.phase)
    keep = runs[same & runs["at_budget"] & runs["role"].isin(ROLES)]
    keep = keep[keep["phase"].isin(KINDS) & keep[BUDGET].notna()]
    if keep[BUDGET].nunique() < 2:
        return []
    return [_at(float(str(budget)), part, table, comparison) for budget, part in keep.groupby(BUDGET, sort=True)]


def _at(budget: float, runs: pd.DataFrame, table: RunTable, comparison: Comparison) -> AtBudget:
    best: dict[Key, pd.DataFrame] = {}
    num = 0
    for key, part in comparison.dimension.groups(runs):
        settings = cells(part, table.config_columns)
        num += len(settings) if key is not None else 0
        best[key] = max(settings, key=lambda s: (s["brierlm"].mean(), s["score"].mean()))
    calm = sorted((k for k in best if k is not None), key=lambda k: -best[k]["brierlm"].mean())
    if len(calm) < 2:
        return AtBudget(budget, best, calm[0] if calm else None, None)
    gap = _gap(best[calm[0]], best[calm[1]], comparison, num * (num - 1) // 2)
    return AtBudget(budget, best, calm[0], gap, calm[1])


def _gap(first: pd.DataFrame, second: pd.DataFrame, comparison: Comparison, comparisons: int) -> Difference | None:
    """The best were picked among all settings there, so the interval is corrected for all pairs of these."""
    both = pd.concat([first, second])
    if bounds(both).any() or not (both["brierlm"] > 0).all():
        return None
    a, b = (Scored(runs["brierlm"].mean(), _error(runs), runs["seed"].nunique()) for runs in (first, second))
    clusters = int(min(first["num_clusters"].min(), second["num_clusters"].min()))
    return unpaired_difference(a, b, clusters=clusters, noise=comparison.noise, comparisons=comparisons)


def _error(runs: pd.DataFrame) -> float:
    return float((runs["brierlm_se"] ** 2).mean()) ** 0.5


def budget_table(found: list[AtBudget], comparison: Comparison) -> Table | None:
    """Rows are budgets, columns groups: the best score with the size that has it."""
    if not found:
        return None
    keys: list[Key] = [None, *comparison.dimension.values]
    keys = [key for key in keys if any(key in one.best for one in found)]
    rows: list[list[Cell]] = []
    for one in found:
        cells_ = [_cell(one.best[key]) if key in one.best else MISSING for key in keys]
        rows.append([flops(one.flops), *cells_, _winner(one, comparison)])
    columns = ["budget (FLOPs)", *[comparison.dimension.name(key) for key in keys], "best CALM"]
    caption = (
        "The best setting of each group at each budget of training compute, with its standard error and, in "
        "brackets, its size (width D, layers). The best was picked by the score shown, which flatters it; the "
        "last column compares the best CALM with the second group, unpaired, corrected for all pairs of settings."
    )
    return Table("by_budget", caption, columns, rows, frozenset(range(1, 1 + len(keys))))


def _cell(runs: pd.DataFrame) -> str:
    first = runs.iloc[0]
    if len(runs) == 1 or bounds(runs).any():
        score = score_words(runs.sort_values("brierlm", ascending=False).iloc[0])
    else:
        mean, error = mean_over_seeds(runs["brierlm"].tolist(), runs["brierlm_se"].tolist())
        score = plus_minus(mean, error)
    width, layers = (first.get(name) for name in SIZES)
    return f"{score} ({short_of(SIZES[0])} {width}, {layers})"


def _winner(one: AtBudget, comparison: Comparison) -> str:
    if one.winner is None:
        return MISSING
    name = comparison.dimension.name(one.winner)
    if one.second is None:
        return name
    other = comparison.dimension.name(one.second)
    if one.gap is None:
        return f"{name} (not told from {other}: a score is only a bound)"
    how = "above" if one.gap.verdict == BETTER else "not told from"
    return f"{name}, {how} {other} ({difference_words(one.gap)})"


def sentence(found: list[AtBudget], comparison: Comparison) -> str:
    """Which group is best at which budget, and where that is beyond the noise."""
    named = [one for one in found if one.winner is not None]
    if len(named) < 2:
        return ""
    parts = []
    for one in named:
        clear = one.gap is not None and one.gap.verdict == BETTER
        name = comparison.dimension.name(one.winner)
        parts.append(f"{name} at {flops(one.flops)}{'' if clear else ' (not clear)'}")
    return f"Best CALM by budget: {'; '.join(parts)}."

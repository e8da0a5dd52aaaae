"""Two or more runs at the same positions: is one better than the other? Imports no torch.

Scores of runs that were evaluated at the same positions share what makes those positions easy or hard; the
paired difference does not contain it. Only runs with one evaluation fingerprint are paired, at the windows
both have.

Letters: W windows, n positions of a window, O = 4 orders, C clusters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special  # type: ignore[import-untyped]

from workbench.errors import RunError
from workbench.positions import FLOORS, POSITIONS, FloorScores, PositionScores, read_floors, read_positions
from workbench.uncertainty import (
    LEVEL,
    NUM_ORDERS,
    Linearised,
    cluster_dof,
    cluster_se,
    geometric_mean,
    interval_of,
    split_variance,
    t_quantile,
    window_influence,
)

POWER = 0.8
"""Chance with which ``positions_needed`` positions would show a difference of the measured size."""

Verdict = Literal["better", "worse", "indistinguishable"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OrderDifference:
    """Of one Brier-n, in per cent points, with its 95 % interval (not corrected)."""

    value: float
    se: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """First minus second, BrierLM points, at the same positions."""

    value: float
    se: float | None
    """None where an order of one of the two is weak: there the delta method fails."""
    low: float
    high: float
    """95 %, corrected for ``comparisons``. Where an order is weak, from the two runs' own bounds."""
    comparisons: int
    num_windows: int
    num_positions: int
    num_clusters: int
    weak: tuple[bool, bool]
    """Whether an order of the first, of the second, lies within three of its errors of 0."""
    orders: tuple[OrderDifference, ...]
    positions_needed: int | None
    """Positions of the same documents at which a true difference of this size would be shown with a chance of
    80 %; None where it is 0 or has no standard error, or where what the documents have in common is larger (more
    documents are needed)."""

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.low, self.high)


def verdict_of(low: float, high: float) -> Verdict:
    """The first against the second, where larger is better."""
    if low > 0:
        return "better"
    return "worse" if high < 0 else "indistinguishable"


@dataclass(frozen=True)
class Shared:
    """Several runs at the windows that all of them have."""

    values: tuple[npt.NDArray[np.float32], ...]
    """One (W, n, O) a run."""
    clusters: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]


def align(scores: Sequence[PositionScores], names: Sequence[str]) -> Shared:
    """The windows that all runs were scored on.

    Raises RunError where fingerprints differ (other text, context, grid or S: the scores are different quantities)
    or fewer than two windows are shared."""
    first = scores[0]
    for other, name in zip(scores[1:], names[1:], strict=True):
        if other.fingerprint != first.fingerprint or other.values.shape[1:] != first.values.shape[1:]:
            raise RunError(
                f"runs of one evaluation fingerprint are wanted; {names[0]} has {first.fingerprint}, {name} has "
                f"{other.fingerprint}: other text, tokenizer, context, positions or samples, so their scores are "
                "different quantities. Where the text and tokenizer are the same, score them alike: `calm compare "
                "A B --set eval.NAME=VALUE`"
            )
    starts = first.starts
    for other in scores[1:]:
        starts = starts[np.isin(starts, other.starts)]
    if len(starts) < 2:
        raise RunError(
            f"{', '.join(names)} share {len(starts)} evaluated windows, at least 2 are wanted; score them alike: "
            "`calm compare A B --set eval.num_windows=N`"
        )
    rows = [_rows(item.starts, starts) for item in scores]
    values = tuple(item.values[index] for item, index in zip(scores, rows, strict=True))
    return Shared(values, first.clusters[rows[0]], starts)


def _rows(have: npt.NDArray[np.int64], want: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    order = np.argsort(have)
    return order[np.searchsorted(have, want, sorter=order)]


def paired_difference(
    first: npt.NDArray[np.floating],
    second: npt.NDArray[np.floating],
    clusters: npt.NDArray[np.integer],
    *,
    comparisons: int = 1,
) -> PairedDifference:
    """BrierLM of ``first`` minus that of ``second``; both (W, n, O), row by row the same positions.

    The variance is that of the difference of the two linearised scores, cluster by cluster. ``comparisons``: how
    many differences are looked at together (Bonferroni)."""
    assert first.shape == second.shape, f"the same positions are wanted, got {first.shape} and {second.shape}"
    one, two = Linearised.of(first, clusters), Linearised.of(second, clusters)
    value, num = one.brierlm - two.brierlm, len(one.influence)
    quantile = t_quantile(one.dof, comparisons=comparisons)
    weak = (bool(one.weak), bool(two.weak))
    se: float | None = None
    if any(weak):
        low, high = bounds_of_difference(first, second, clusters, comparisons)
    else:
        se = float(cluster_se(one.influence - two.influence))
        low, high = value - quantile * se, value + quantile * se
    num_positions = first.shape[0] * first.shape[1]
    return PairedDifference(
        value=value,
        se=se,
        low=low,
        high=high,
        comparisons=comparisons,
        num_windows=first.shape[0],
        num_positions=num_positions,
        num_clusters=num,
        weak=weak,
        orders=_order_differences(one, two),
        positions_needed=_positions_needed(first, second, clusters, value, se, comparisons),
    )


def needed(
    num: int, value: float, se: float | None, dof: float, comparisons: int = 1, *, shared: float = 0.0
) -> int | None:
    """How many instead of ``num`` would show a difference ``value`` with a chance of ``POWER``.

    ``shared``: the part of the variance se^2 that more of them do not average out; None where that alone is too
    much, or nothing is known."""
    if not se or value == 0 or dof < 1:
        return None
    reach = t_quantile(dof, comparisons=comparisons) + float(special.ndtri(POWER))
    left = (value / reach) ** 2 - shared
    return math.ceil(num * (se**2 - shared) / left) if left > 0 else None


def _positions_needed(
    first: npt.NDArray[np.floating],
    second: npt.NDArray[np.floating],
    clusters: npt.NDArray[np.integer],
    value: float,
    se: float | None,
    comparisons: int,
) -> int | None:
    if se is None:
        return None
    gap = window_influence(first, clusters) - window_influence(second, clusters)
    shared, _ = split_variance(gap, clusters)
    num = first.shape[0] * first.shape[1]
    return needed(num, value, se, cluster_dof(clusters), comparisons, shared=shared)


def bounds_of_difference(
    first: npt.NDArray[np.floating],
    second: npt.NDArray[np.floating],
    clusters: npt.NDArray[np.integer],
    comparisons: int,
) -> tuple[float, float]:
    """Interval of the difference from one interval of each, each with half of the allowed error: for scores of
    which an order is weak."""
    level = 1 - (1 - LEVEL) / (2 * comparisons)
    (low_1, high_1), (low_2, high_2) = (interval_of(values, clusters, level) for values in (first, second))
    return low_1 - high_2, high_1 - low_2


def _order_differences(one: Linearised, two: Linearised) -> tuple[OrderDifference, ...]:
    value = 100 * (one.mean - two.mean)
    se = 100 * cluster_se(one.residual - two.residual)
    half = t_quantile(one.dof) * se
    return tuple(
        OrderDifference(float(value[n]), float(se[n]), float(value[n] - half[n]), float(value[n] + half[n]))
        for n in range(NUM_ORDERS)
    )


@dataclass(frozen=True)
class Pair:
    first: str
    second: str
    difference: PairedDifference


def compare_all(scores: Mapping[str, PositionScores]) -> list[Pair]:
    """Every pair of two or more runs, the better one first, intervals corrected for the number of pairs.

    Raises RunError where they cannot be paired (see ``align``)."""
    names = list(scores)
    shared = align(list(scores.values()), names)
    values = dict(zip(names, shared.values, strict=True))
    ranked = sorted(names, key=lambda name: -geometric_mean(values[name].astype(np.float64).mean((0, 1))))
    pairs = list(itertools.combinations(ranked, 2))
    return [
        Pair(a, b, paired_difference(values[a], values[b], shared.clusters, comparisons=len(pairs)))
        for a, b in pairs
    ]


def above_floors(run_dir: Path) -> dict[str, PairedDifference]:
    """The last evaluation of a run minus each n-gram table, at the same positions."""
    scores, tables = read_positions(run_dir / POSITIONS), read_floors(run_dir / FLOORS)
    found = {name: against_floor(scores, tables, name) for name in tables.tables}
    return {name: pair for name, pair in found.items() if pair is not None}


def against_floor(
    scores: PositionScores, floors: FloorScores, table: str, *, comparisons: int = 1
) -> PairedDifference | None:
    """A run minus an n-gram table at the same positions; None where the table was scored elsewhere."""
    if floors.fingerprint != scores.fingerprint or table not in floors.tables:
        return None
    if not np.isin(scores.starts, floors.starts).all():
        return None
    rows = _rows(floors.starts, scores.starts)
    return paired_difference(scores.values, floors.tables[table][rows], scores.clusters, comparisons=comparisons)

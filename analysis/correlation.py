"""Does BrierLM say the same as cross-entropy? Pearson and Spearman over token-baseline checkpoints.

Checkpoints of one run are not independent, so the interval resamples whole runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

PUBLISHED_PEARSON, PUBLISHED_SPEARMAN = -0.966, -0.991
"""Over models and checkpoints (arXiv 2510.27688)."""

MIN_RUNS, MIN_POINTS = 3, 3
RESAMPLES = 2000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Coefficient:
    """``low`` and ``high`` bound 95 %; None where there are fewer than three runs."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Correlation:
    pearson: Coefficient | None
    spearman: Coefficient | None
    num_points: int
    num_runs: int
    num_zero: int
    """Checkpoints left out because BrierLM was 0 there (cut off, so not on the line)."""
    slope: float | None
    intercept: float | None
    """Of the least-squares line BrierLM = intercept + slope * cross-entropy."""
    points: pd.DataFrame

    @property
    def note(self) -> str:
        """Why something is missing; empty where nothing is."""
        if self.num_points < MIN_POINTS:
            return f"at least {MIN_POINTS} baseline checkpoints with a BrierLM above 0 are needed"
        if self.pearson is None:
            return "all checkpoints have the same value, so no correlation is defined"
        if self.num_runs < MIN_RUNS:
            return (
                f"no interval: checkpoints of one run are not independent, and an interval over runs "
                f"needs at least {MIN_RUNS} of them"
            )
        if self.num_runs < 6:
            return f"the interval rests on only {self.num_runs} runs and is rough"
        return ""


def pearson(x: Floats, y: Floats) -> float:
    """NaN where one of the two does not vary."""
    if len(x) < 2:
        return math.nan
    dx, dy = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((dx**2).sum() * (dy**2).sum()))
    return float((dx * dy).sum()) / scale if scale > 0 else math.nan


def spearman(x: Floats, y: Floats) -> float:
    """Pearson of the ranks, ties sharing their mean rank."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(float)
    ranks: Floats = (last - (counts - 1) / 2)[inverse]
    return ranks


def cluster_intervals(
    x: Floats, y: Floats, groups: list[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """95 % percentile intervals of (Pearson, Spearman), whole groups drawn with replacement.

    None for fewer than three groups."""
    names = list(dict.fromkeys(groups))
    if len(names) < MIN_RUNS:
        return None
    members = [np.flatnonzero(np.asarray(groups) == name) for name in names]
    rng = np.random.default_rng(seed)
    draws = []
    for choice in rng.integers(len(names), size=(resamples, len(names))):
        index = np.concatenate([members[i] for i in choice])
        draws.append((pearson(x[index], y[index]), spearman(x[index], y[index])))
    table = np.asarray(draws)
    table = table[np.isfinite(table).all(axis=1)]
    if len(table) < resamples / 2:
        return None
    low, high = np.quantile(table, [0.025, 0.975], axis=0)
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))


def correlate(evaluations: pd.DataFrame, *, resamples: int = RESAMPLES) -> Correlation:
    """Over all baseline checkpoints that have a cross-entropy, whatever their phase (both numbers are of
    the same weights). Raises ValueError where fingerprints are mixed."""
    rows = evaluations[(evaluations["kind"] == "baseline") & evaluations["cross_entropy"].notna()]
    if rows["fingerprint"].nunique() > 1:
        raise ValueError("evaluations of several fingerprints cannot be correlated")
    points = rows[rows["brierlm"] > 0].reset_index(drop=True)
    x = points["cross_entropy"].to_numpy(dtype=float)
    y = points["brierlm"].to_numpy(dtype=float)
    r = pearson(x, y) if len(points) >= MIN_POINTS else math.nan
    result = {
        "num_points": len(points),
        "num_runs": int(points["run_id"].nunique()),
        "num_zero": len(rows) - len(points),
    }
    if math.isnan(r):
        return Correlation(None, None, slope=None, intercept=None, points=points, **result)
    intervals = cluster_intervals(x, y, points["run_id"].tolist(), resamples=resamples)
    first, second = intervals if intervals else ((None, None), (None, None))
    slope, intercept = np.polyfit(x, y, 1)
    return Correlation(
        pearson=Coefficient(r, *first),
        spearman=Coefficient(spearman(x, y), *second),
        slope=float(slope),
        intercept=float(intercept),
        points=points,
        **result,
    )

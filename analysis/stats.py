"""Means, differences and intervals. Everything is at 95 % and uses t quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # type: ignore[import-untyped]

LEVEL = 0.95

BETTER, WORSE, SAME = "better", "worse", "indistinguishable"
UNDECIDED = "not decidable from this study"


def t_quantile(dof: float, *, comparisons: int = 1) -> float:
    """Two-sided quantile at 95 %, Bonferroni-corrected for ``comparisons``; infinite below one degree."""
    if not dof >= 1:
        return math.inf
    return float(stdtrit(dof, 1.0 - (1.0 - LEVEL) / (2.0 * comparisons)))


@dataclass(frozen=True)
class Mean:
    """A mean with its interval; ``low`` and ``high`` are None where there are fewer than two values."""

    value: float
    num: int
    sd: float | None = None
    low: float | None = None
    high: float | None = None


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and t interval of independent values."""
    array = np.asarray(values, dtype=float)
    if len(array) == 0:
        return Mean(math.nan, 0)
    mean = float(array.mean())
    if len(array) == 1:
        return Mean(mean, 1)
    sd = float(array.std(ddof=1))
    half = t_quantile(len(array) - 1) * sd / math.sqrt(len(array))
    return Mean(mean, len(array), sd, mean - half, mean + half)


@dataclass(frozen=True)
class Difference:
    """``value`` = first minus second. Without an interval nothing is claimed."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> str:
        """The first against the second, where larger is better."""
        if self.low is None or self.high is None:
            return UNDECIDED
        if self.low > 0:
            return BETTER
        return WORSE if self.high < 0 else SAME


@dataclass(frozen=True)
class SeedNoise:
    """Training noise: standard deviation between seeds of the same setting, pooled over settings."""

    sd: float
    dof: int
    num_cells: int


def seed_noise(cells: Sequence[Sequence[float]]) -> SeedNoise | None:
    """Pooled over cells with two or more seeds; None where nothing was repeated."""
    repeated = [np.asarray(cell, dtype=float) for cell in cells if len(cell) > 1]
    if not repeated:
        return None
    dof = sum(len(cell) - 1 for cell in repeated)
    squares = sum(float(((cell - cell.mean()) ** 2).sum()) for cell in repeated)
    return SeedNoise(math.sqrt(squares / dof), dof, len(repeated))


def difference_of_runs(
    first: float,
    first_se: float,
    second: float,
    second_se: float,
    *,
    clusters: int,
    noise: SeedNoise | None = None,
) -> Difference:
    """Two single runs. The errors are added as if independent: both were scored at the same positions,
    so the interval is wider than a paired one would be. Measured seed noise is added to both
    (Welch-Satterthwaite degrees of freedom). No interval without both errors."""
    value = first - second
    errors = [first_se, second_se]
    if not all(math.isfinite(e) and e > 0 for e in errors):
        return Difference(value)
    parts = [(e**2, max(clusters - 1, 1)) for e in errors]
    if noise is not None:
        parts.append((2.0 * noise.sd**2, noise.dof))
    variance = sum(v for v, _ in parts)
    dof = variance**2 / sum(v**2 / d for v, d in parts)
    half = t_quantile(max(dof, 1.0)) * math.sqrt(variance)
    return Difference(value, value - half, value + half)


def against_constant(value: float, se: float, constant: float, *, clusters: int) -> Difference:
    """A score against a number without error (an n-gram table scored exactly on the same positions)."""
    if not (math.isfinite(se) and se > 0):
        return Difference(value - constant)
    half = t_quantile(max(clusters - 1, 1)) * se
    return Difference(value - constant, value - constant - half, value - constant + half)

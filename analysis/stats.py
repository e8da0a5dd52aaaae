"""Means, and differences of scores without pairs. Everything is at 95 % and uses t quantiles.

Runs are compared position by position (``analysis.claims``); what stands here is for those that kept their score
and its error only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special  # type: ignore[import-untyped]

from workbench.seeds import SeedNoise
from workbench.uncertainty import LEVEL, t_quantile

BETTER, WORSE, SAME = "better", "worse", "indistinguishable"
UNDECIDED = "not decidable from this study"


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


ONE_ERROR = 0.6827
"""What plus and minus one standard error of a normal estimate hold."""


def mean_over_seeds(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Mean of one setting's runs, and an error that holds 68 %.

    Of several seeds it is the t interval of their mean (two seeds that agree by luck are not taken to be sure). It
    holds the noise of training and of evaluation, except what the positions say about all seeds alike. Of a single
    one it is the evaluation's own error, ``errors``."""
    array = np.asarray(values, dtype=float)
    if len(array) == 1:
        return float(array[0]), float(errors[0])
    half = t_quantile(len(array) - 1, level=ONE_ERROR) * float(array.std(ddof=1)) / math.sqrt(len(array))
    return float(array.mean()), half


@dataclass(frozen=True)
class Difference:
    """``value`` = first minus second. Without an interval nothing is claimed."""

    value: float
    low: float | None = None
    high: float | None = None
    comparisons: int = 1
    """What the interval is corrected for."""
    unpaired: bool = False
    """Whether the scores were taken as independent, because one of them is not known position by position."""
    position_sd: float | None = None
    """What the choice of positions adds to a paired difference (``workbench.seeds``: tau)."""

    @property
    def verdict(self) -> str:
        """The first against the second, where larger is better."""
        if self.low is None or self.high is None:
            return UNDECIDED
        if self.low > 0:
            return BETTER
        return WORSE if self.high < 0 else SAME

    @property
    def flipped(self) -> Difference:
        """Second minus first."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return replace(self, value=-self.value, low=low, high=high)


@dataclass(frozen=True)
class Scored:
    """The mean score of the runs of one setting, or one run's score."""

    value: float
    se: float
    """Of one run's evaluation. Seeds are scored at the same positions, so it is not divided by their number."""
    num_seeds: int = 1


def unpaired_difference(
    first: Scored,
    second: Scored,
    *,
    clusters: int,
    noise: SeedNoise | None = None,
    comparisons: int = 1,
) -> Difference:
    """Two settings or runs, the errors added as if independent: both were scored at the same positions, so the
    interval is wider than a paired one would be. Training noise, where measured, is added as in
    ``workbench.seeds.setting_difference``: in squares of half-widths, each with its own degrees of freedom. No
    interval without both errors."""
    value = first.value - second.value
    errors = [first.se, second.se]
    if not all(math.isfinite(e) and e > 0 for e in errors):
        return Difference(value, comparisons=comparisons, unpaired=True)
    half = t_quantile(max(clusters - 1, 1), comparisons=comparisons) * math.hypot(*errors)
    if noise is not None:
        between = noise.sd * math.sqrt(1 / first.num_seeds + 1 / second.num_seeds)
        half = math.hypot(half, t_quantile(noise.dof, comparisons=comparisons) * between)
    return Difference(value, value - half, value + half, comparisons, unpaired=True)


def against_constant(
    value: float, se: float, constant: float, *, clusters: int, comparisons: int = 1
) -> Difference:
    """A score against a number without error (an n-gram table scored exactly on the same positions)."""
    if not (math.isfinite(se) and se > 0):
        return Difference(value - constant, comparisons=comparisons, unpaired=True)
    half = t_quantile(max(clusters - 1, 1), comparisons=comparisons) * se
    difference = value - constant
    return Difference(difference, difference - half, difference + half, comparisons, unpaired=True)


def scatter_of_scores(settings: Sequence[Sequence[float]]) -> SeedNoise | None:
    """Noise between seeds from scores alone, pooled over settings with two or more; None where there are none.

    How much of it is the evaluation's is not known then: all of it is called training noise."""
    repeated = [np.asarray(scores, dtype=float) for scores in settings if len(scores) > 1]
    if not repeated:
        return None
    dof = sum(len(scores) - 1 for scores in repeated)
    squares = sum(float(((scores - scores.mean()) ** 2).sum()) for scores in repeated)
    sd = math.sqrt(squares / dof)
    low, high = (math.sqrt(squares / float(special.chdtri(dof, p))) for p in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return SeedNoise(sd, low, high, sd_training=sd, sd_evaluation=0.0, dof=dof, num_settings=len(repeated))

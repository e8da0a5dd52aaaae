"""Noise of training against noise of evaluation, from runs that differ in nothing but their seed.

Two seeds of one setting differ because training went differently and because each was scored with noise
(samples, and what the scored positions happen to say about each of the two). At the same positions the second
part is known: it is the paired standard error. What remains of the scatter between seeds is training noise.
Imports no torch.

    s^2 (between seeds) = sd_training^2 + sd_evaluation^2

A difference between settings A and B with n_A and n_B seeds then has the variance

    s^2 (1/n_A + 1/n_B) + tau^2,

tau: what the choice of positions adds to the true difference of the two, which no number of seeds averages out.

Letters: W windows, n positions of a window, O = 4 orders, C clusters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special  # type: ignore[import-untyped]

from workbench.pairs import POWER, Verdict, bounds_of_difference, verdict_of
from workbench.uncertainty import LEVEL, Linearised, cluster_se, t_quantile

MAX_SEEDS = 1000

Values = npt.NDArray[np.floating]
Clusters = npt.NDArray[np.integer]


@dataclass(frozen=True)
class SeedNoise:
    """Standard deviations in BrierLM points between seeds of one setting, pooled over settings."""

    sd: float
    """Between seeds: training and evaluation together."""
    low: float
    high: float
    """95 % interval of ``sd`` (chi-square)."""
    sd_training: float
    """What is left of it beyond the evaluation's noise; 0 where nothing is."""
    sd_evaluation: float
    """Of one run's score at these positions, as far as it is not common to all seeds."""
    dof: int
    num_settings: int
    """Settings with two or more seeds."""


@dataclass(frozen=True)
class SettingDifference:
    """Mean over seeds of setting A minus that of B, BrierLM points."""

    value: float
    low: float
    high: float
    """95 %, corrected for ``comparisons``."""
    num_seeds: tuple[int, int]
    comparisons: int
    training_noise: bool
    """Whether the interval holds training noise; False where no setting was repeated: it then says which of these
    *checkpoints* is better, not which setting."""
    weak: bool
    """An order of one of the two lies within three of its errors of 0."""
    sd: float | None
    """Between seeds, used for the interval."""
    position_sd: float
    """tau."""

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.low, self.high)


def seed_noise(
    settings: Sequence[Sequence[Values]],
    clusters: Clusters,
    *,
    linearise: Callable[[Values, Clusters], Linearised] = Linearised.of,
) -> SeedNoise | None:
    """Pooled over settings with two or more seeds, all at the same positions; None where there are none.

    ``settings``: for each setting one (W, n, O) a seed. Settings of which a seed has a BrierLM of 0 are left
    out: it is cut off there, and two seeds at 0 do not scatter. The noise is taken to be the
    same for all settings. ``linearise``: as of ``setting_difference``."""
    linear = [[linearise(values, clusters) for values in seeds] for seeds in settings if len(seeds) > 1]
    repeated = [seeds for seeds in linear if all(run.brierlm > 0 for run in seeds)]
    if not repeated:
        return None
    dof = sum(len(seeds) - 1 for seeds in repeated)
    squares = sum(float(np.var([run.brierlm for run in seeds]) * len(seeds)) for seeds in repeated)
    variance = squares / dof
    evaluation = sum((len(seeds) - 1) * _evaluation_variance(seeds) for seeds in repeated) / dof
    return SeedNoise(
        sd=math.sqrt(variance),
        low=math.sqrt(squares / float(special.chdtri(dof, (1 - LEVEL) / 2))),
        high=math.sqrt(squares / float(special.chdtri(dof, (1 + LEVEL) / 2))),
        sd_training=math.sqrt(max(0.0, variance - evaluation)),
        sd_evaluation=math.sqrt(evaluation),
        dof=dof,
        num_settings=len(repeated),
    )


def _evaluation_variance(seeds: Sequence[Linearised]) -> float:
    """Of one run's score, from the paired errors of all pairs: var(A - B) = 2 sd_evaluation^2."""
    pairs = list(itertools.combinations(seeds, 2))
    return sum(float(cluster_se(a.influence - b.influence)) ** 2 for a, b in pairs) / (2 * len(pairs))


def setting_difference(
    first: Sequence[Values],
    second: Sequence[Values],
    clusters: Clusters,
    noise: SeedNoise | None,
    *,
    comparisons: int = 1,
    linearise: Callable[[Values, Clusters], Linearised] = Linearised.of,
) -> SettingDifference:
    """Is setting A better than B? ``first``, ``second``: one (W, n, O) a seed, all at the same positions;
    ``noise``: as measured over these and other settings (``seed_noise``); ``linearise``: for callers that compare
    a run many times and keep what was found of it.

    The half-width is the root of the sum of the squares of both parts' own half-widths, each with its own
    degrees of freedom, so that a small scatter between two or three seeds is not taken for none. Without
    ``noise`` it holds the evaluation's noise only."""
    runs = [[linearise(values, clusters) for values in seeds] for seeds in (first, second)]
    value = float(np.mean([r.brierlm for r in runs[0]]) - np.mean([r.brierlm for r in runs[1]]))
    means = [np.mean([run.influence for run in seeds], axis=0) for seeds in runs]
    paired = float(cluster_se(means[0] - means[1])) ** 2
    share = 1 / len(first) + 1 / len(second)
    own = share * noise.sd_evaluation**2 if noise is not None else 0.0
    position = max(0.0, paired - own)
    between = share * noise.sd**2 if noise is not None else 0.0
    seeds_half = t_quantile(noise.dof, comparisons=comparisons) * math.sqrt(between) if noise is not None else 0.0
    weak = any(bool(run.weak) for seeds in runs for run in seeds)
    if weak:
        averages = [np.mean([v.astype(np.float64) for v in seeds], axis=0) for seeds in (first, second)]
        low, high = bounds_of_difference(averages[0], averages[1], clusters, comparisons)
        low, high = value - math.hypot(value - low, seeds_half), value + math.hypot(high - value, seeds_half)
    else:
        own_half = t_quantile(runs[0][0].dof, comparisons=comparisons) * math.sqrt(position) if position else 0.0
        half = math.hypot(own_half, seeds_half)
        low, high = value - half, value + half
    return SettingDifference(
        value=value,
        low=low,
        high=high,
        num_seeds=(len(first), len(second)),
        comparisons=comparisons,
        training_noise=noise is not None,
        weak=weak,
        sd=noise.sd if noise is not None else None,
        position_sd=math.sqrt(position),
    )


def seeds_needed(noise: SeedNoise, difference: float, *, position_sd: float = 0.0) -> int | None:
    """Seeds of each of two settings that would show a true ``difference`` with a chance of 80 % (two-sided 95 %).

    ``position_sd``: what the positions add whatever the number of seeds; None where that alone is too much (more
    text is needed, not more seeds), or more than ``MAX_SEEDS`` would be needed."""
    for num in range(2, MAX_SEEDS + 1):
        reach = t_quantile(2 * num - 2) + float(special.stdtrit(2 * num - 2, POWER))
        if reach**2 * (2 * noise.sd**2 / num + position_sd**2) <= difference**2:
            return num
    return None

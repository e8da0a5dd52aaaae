"""How small a difference a study can show, and what it would take to show a smaller one.

A difference between two settings with n seeds each is seen through the noise between seeds, s sqrt(2 / n), and
through what the choice of positions adds to it, tau (``workbench.seeds``). The first falls with more seeds, the
second with more text only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special  # type: ignore[import-untyped]

from analysis.comparison import Comparison
from analysis.stats import Difference
from workbench.pairs import POWER
from workbench.seeds import SeedNoise, seeds_needed
from workbench.uncertainty import t_quantile

STEPS = (1.0, 2.0, 5.0)
NUM_WISHES = 5
_GRID = 400


@dataclass(frozen=True)
class Needed:
    """What a wished-for true difference between two settings takes, to be shown with a chance of 80 %."""

    difference: float
    """BrierLM points."""
    seeds: int | None
    """Of each setting, at the positions that were scored; None where those do not suffice, or a thousand seeds."""
    positions: int | None
    """Positions with which seeds suffice, where those that were scored do not."""
    seeds_then: int | None
    """Seeds of each setting with so many positions."""


@dataclass(frozen=True)
class NoiseFloor:
    """What this study can tell apart."""

    noise: SeedNoise
    num_seeds: int
    """The study's: of most of its settings that have several."""
    position_sd: float
    """tau: the median over the pairs of settings that were compared; 0 where none could be paired."""
    num_positions: int
    smallest: float
    """True difference of two settings with ``num_seeds`` each that one comparison would show with a chance of
    80 %."""
    smallest_corrected: float
    """The same within the study's comparisons of K and baselines."""
    comparisons: int
    needed: list[Needed]


def noise_floor(comparison: Comparison, gaps: Iterable[Difference], *, comparisons: int) -> NoiseFloor | None:
    """None where no setting was repeated. ``gaps``: the paired differences from which tau is taken."""
    noise = comparison.noise
    if noise is None:
        return None
    repeated = [s.num_seeds for s in comparison.settings if s.num_seeds > 1]
    num_seeds = max(set(repeated), key=lambda n: (repeated.count(n), n))
    known = [gap.position_sd for gap in gaps if gap.position_sd is not None]
    tau = float(np.median(known)) if known else 0.0
    paired = comparison.paired
    num_positions = paired.num_positions if paired is not None else 0
    clusters = paired.num_clusters if paired is not None else 2
    wishes = wished_differences(max(setting.score for setting in comparison.settings))
    return NoiseFloor(
        noise=noise,
        num_seeds=num_seeds,
        position_sd=tau,
        num_positions=num_positions,
        smallest=smallest_difference(noise, num_seeds, tau, clusters),
        smallest_corrected=smallest_difference(noise, num_seeds, tau, clusters, comparisons=comparisons),
        comparisons=comparisons,
        needed=[what_it_takes(noise, wish, tau, num_positions) for wish in wishes],
    )


def smallest_difference(
    noise: SeedNoise, num_seeds: int, position_sd: float, num_clusters: int, *, comparisons: int = 1
) -> float:
    """True difference of two settings with ``num_seeds`` each that ``workbench.seeds.setting_difference`` would
    show with a chance of 80 %, if the noise is what was measured.

    The half-width holds the noise as such a study would measure it, which with few degrees of freedom is often
    less or more than it is: the chance is averaged over that (chi-square, by its quantiles)."""
    quantile = t_quantile(noise.dof, comparisons=comparisons)
    between = noise.sd * math.sqrt(2 / num_seeds)
    measured = between * np.sqrt(special.chdtri(noise.dof, 1 - (np.arange(_GRID) + 0.5) / _GRID) / noise.dof)
    position = t_quantile(max(num_clusters - 1, 1), comparisons=comparisons) * position_sd if position_sd else 0.0
    half, scatter = np.hypot(quantile * measured, position), math.hypot(between, position_sd)
    if scatter == 0:
        return 0.0

    def short_of(difference: float) -> float:
        return float(special.ndtr((difference - half) / scatter).mean()) - POWER

    return float(optimize.brentq(short_of, 0.0, float(half.max()) + 10 * scatter))


def what_it_takes(noise: SeedNoise, difference: float, position_sd: float, num_positions: int) -> Needed:
    """Seeds at the scored positions; where no number of them would do, as much text as leaves the positions half
    of the variance that may be, and the seeds for the other half."""
    seeds = seeds_needed(noise, difference, position_sd=position_sd)
    reach = float(special.ndtri(0.975) + special.ndtri(POWER))
    factor = 2 * (reach * position_sd / difference) ** 2
    if seeds is not None or factor <= 1:
        return Needed(difference, seeds, None, None)
    then = seeds_needed(noise, difference, position_sd=position_sd / math.sqrt(factor))
    return Needed(difference, None, math.ceil(num_positions * factor), then)


def wished_differences(best: float) -> list[float]:
    """Five round numbers, 1, 2, 5 in every decade, the largest of them at most half of the best score."""
    if not best > 0:
        return []
    exponent = math.floor(math.log10(best / 2))
    series = [step * 10.0**power for power in range(exponent - 2, exponent + 1) for step in STEPS]
    return [value for value in series if value <= best / 2 * (1 + 1e-9)][-NUM_WISHES:]

"""Correlation and straight line of points that come in clusters, with intervals that also few clusters allow.

Checkpoints of one run share what the run has of its own (size, seed, order of the data), so the runs are the
clusters. A percentile bootstrap over 3 to 12 runs is far too narrow: few draws never hold more spread than the
few runs do. Instead:

* *Jackknife over runs*: the standard error comes from leaving out one run at a time, its quantiles are Student's
  t, with R - 2 degrees of freedom for the line's two coefficients and R - 1 for the correlations.
* The two correlations are treated on Fisher's scale z = atanh(r), where their error hardly depends on r.
* They are corrected for the jackknife's estimate of their bias: few runs look more alike than the many they stand
  for, which makes the correlation too strong; and ranks of few points are coarser, which makes it too weak.
* When the runs at hand agree by luck, the correlation is too strong *and* its jackknife error too small. That
  error is therefore never taken below the one that normally distributed run offsets would give
  (``_least_error``). One odd run among few makes it absurdly large; Pearson's interval is therefore never
  wider than that of R - 1 independent normal points (``_most_reach``): R runs are worth at least as much.

Measured coverage: tests/unit/analysis/test_clustered.py. Letters: n points, R runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri  # type: ignore[import-untyped]

from workbench.uncertainty import LEVEL, t_quantile

MIN_RUNS = 3
"""Below, there is no interval."""
RESAMPLES = 1000

Floats = npt.NDArray[np.float64]
_PEARSON, _SPEARMAN = 0, 1
_ALMOST_ONE = 1 - 1e-9
"""atanh of a perfect correlation would be infinite."""


@dataclass(frozen=True)
class Coefficient:
    """``low`` and ``high`` bound 95 %; None with fewer than three runs or too little without one of them."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Fit:
    """``y = intercept + slope * x``, least squares, and how well the points lie on it."""

    pearson: Coefficient
    spearman: Coefficient
    slope: Coefficient
    intercept: Coefficient
    residual_sd: float
    """Root of the residual sum of squares over n - 2, in units of y."""
    run_share: float
    """Share of the residual sum of squares that the runs' means make: 1 if a run's points share one offset."""
    curved_share: float
    """Share of it that a parabola instead of the straight line takes away: near 1 if the points lie on a curve."""


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


def fit(x: Floats, y: Floats, runs: Sequence[str]) -> Fit | None:
    """Of n points with the run of each; None where fewer than three points or no variation leave it undefined.

    The 95 % intervals mean: drawn again, this many runs *like these* would give intervals that hold the value of
    endlessly many runs in 95 % of cases. Seeds of one size count as runs of their own, so where sizes differ more
    than seeds do, the interval speaks about more seeds of these sizes rather than about other sizes. Nor does it
    speak about other texts, and an error that all runs share (they are scored on the same positions) is not in
    it. Measured coverage is 93 to 98 % (Spearman's up to 100) for normally distributed run offsets. Where a few
    runs of many are far off (heavy tails), Pearson's interval is too narrow (76 to 87 %), the others are not."""
    groups = np.asarray(runs)
    estimate = _estimates(x, y)
    if len(x) < 3 or not np.isfinite(estimate).all():
        return None
    slope, intercept = float(estimate[2]), float(estimate[3])
    residual = y - intercept - slope * x
    share = _run_share(residual, groups)
    low, high = _intervals(x, y, groups, estimate, share)
    values = (pearson(x, y), spearman(x, y), slope, intercept)
    # ends are kept off a perfect correlation, the estimate is not: its interval holds it all the same
    found = [
        Coefficient(v, None if math.isnan(a) else min(float(a), v), None if math.isnan(b) else max(float(b), v))
        for v, a, b in zip(values, low, high, strict=True)
    ]
    sd = math.sqrt(float((residual**2).sum()) / (len(x) - 2))
    return Fit(
        found[0], found[1], found[2], found[3], residual_sd=sd, run_share=share, curved_share=_curved(x, residual)
    )


def percentile_bootstrap(
    x: Floats, y: Floats, runs: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[tuple[float, float], ...] | None:
    """95 % percentile intervals of Pearson, Spearman, slope, intercept, whole runs drawn with replacement: the
    usual ones, shown beside those of ``fit``. From few runs they are too narrow (measured coverage of Pearson's:
    45 % with 4 runs, 73 to 80 % with 12).

    None with fewer than ``MIN_RUNS`` runs, or where half of the draws leave them undefined."""
    groups = np.asarray(runs)
    members = [np.flatnonzero(groups == name) for name in dict.fromkeys(runs)]
    if len(members) < MIN_RUNS:
        return None
    draws = []
    for choice in np.random.default_rng(seed).integers(len(members), size=(resamples, len(members))):
        index = np.concatenate([members[i] for i in choice])
        draws.append(_estimates(x[index], y[index]))
    table = np.asarray(draws)
    table = table[np.isfinite(table).all(axis=1)]
    if len(table) < resamples / 2:
        return None
    low, high = np.quantile(table, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    low[:2], high[:2] = np.tanh(low[:2]), np.tanh(high[:2])
    return tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))


def _estimates(x: Floats, y: Floats, *, num_points: int | None = None) -> Floats:
    """(4,): z of Pearson, z of Spearman, slope, intercept; NaN where undefined.

    A perfect order of n points is taken to be half a swap of neighbours short of perfect (one swap changes
    Spearman by 12 / (n^3 - n)); ``num_points`` is that n, of all points also where one run is left out."""
    n = num_points or len(x)
    r, rho = pearson(x, y), spearman(x, y)
    if math.isnan(r) or math.isnan(rho):
        return np.full(4, math.nan)
    order_limit = 1 - 6 / (n**3 - n)
    dx = x - x.mean()
    slope = float((dx * y).sum() / (dx**2).sum())
    return np.asarray(
        [
            math.atanh(max(-_ALMOST_ONE, min(_ALMOST_ONE, r))),
            math.atanh(max(-order_limit, min(order_limit, rho))),
            slope,
            float(y.mean()) - slope * float(x.mean()),
        ]
    )


def _intervals(
    x: Floats, y: Floats, groups: npt.NDArray[np.str_], all_runs: Floats, share: float
) -> tuple[Floats, Floats]:
    """(4,), (4,): bounds of Pearson, Spearman, slope, intercept; NaN where there is none."""
    names = list(dict.fromkeys(groups.tolist()))
    num, nothing = len(names), np.full(4, math.nan)
    if num < MIN_RUNS:
        return nothing, nothing
    without = np.stack([_estimates(x[groups != g], y[groups != g], num_points=len(x)) for g in names])  # (R, 4)
    if not np.isfinite(without).all():
        return nothing, nothing
    centre = all_runs.copy()
    centre[:2] = num * all_runs[:2] - (num - 1) * without[:, :2].mean(0)
    error = np.sqrt((num - 1) / num * ((without - all_runs) ** 2).sum(0))
    least = _least_error(len(x), num, share)
    error[:2] = np.maximum(error[:2], least)
    half = np.asarray([t_quantile(num - 1), t_quantile(num - 1), t_quantile(num - 2), t_quantile(num - 2)]) * error
    # the correction for bias must not push the estimate itself out of its interval
    low, high = np.minimum(centre - half, all_runs), np.maximum(centre + half, all_runs)
    to_zero, from_zero = _most_reach(math.tanh(all_runs[_PEARSON]), num - 1)
    below, above = (from_zero, to_zero) if all_runs[_PEARSON] < 0 else (to_zero, from_zero)
    low[_PEARSON] = max(low[_PEARSON], all_runs[_PEARSON] - below)
    high[_PEARSON] = min(high[_PEARSON], all_runs[_PEARSON] + above)
    low[:2], high[:2] = np.tanh(low[:2]), np.tanh(high[:2])
    return low, high


def _least_error(num_points: int, num_runs: int, share: float) -> float:
    """Standard error of z if run offsets and scatter around them were normal.

    Near |r| = 1, z moves with -1/2 log(residual sum of squares). A share w of that sum has R - 1 degrees of
    freedom, the rest n - R - 1; together about nu (Satterthwaite); Var(1/2 log chi^2_nu) is about 1 / (2 nu)."""
    within = max(num_points - num_runs - 1, 1)
    nu = 1.0 / (share**2 / (num_runs - 1) + (1.0 - share) ** 2 / within)
    return math.sqrt(1.0 / (2.0 * nu))


def _most_reach(r: float, dof: int) -> tuple[float, float]:
    """How far from z, towards 0 and away from it, the value of endlessly many points may lie if ``dof``
    independent normal deviations make the scatter about the line.

    dz = -r/2 d(log residual sum of squares) + r d(slope) / slope. The first is chi-square, the second
    Student's t with standard error sqrt((1 - r^2) / dof); they are independent."""
    slope = t_quantile(dof) * math.sqrt((1 - r * r) / dof)
    most, least = (0.5 * r * math.log(chdtri(dof, tail) / dof) for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return math.hypot(least, slope), math.hypot(most, slope)


def _run_share(residual: Floats, groups: npt.NDArray[np.str_]) -> float:
    total = float((residual**2).sum())
    if total <= 0:
        return 1.0
    parts = [residual[groups == name] for name in dict.fromkeys(groups.tolist())]
    return min(1.0, sum(len(part) * float(part.mean()) ** 2 for part in parts) / total)


def _curved(x: Floats, residual: Floats) -> float:
    """By the part of x^2 that a straight line leaves."""
    total = float((residual**2).sum())
    centred = x - x.mean()
    design = np.stack([np.ones(len(x)), centred], axis=1)
    bend = centred**2 - design @ np.linalg.lstsq(design, centred**2, rcond=None)[0]
    size = float((bend**2).sum())
    if total <= 0 or size <= 1e-12 * float((centred**4).sum()):
        return 0.0
    return min(1.0, float(bend @ residual) ** 2 / (size * total))


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(float)
    ranks: Floats = (last - (counts - 1) / 2)[inverse]
    return ranks

"""Fitting the log-sum-exp laws of ``analysis.joint_forms``: robust, several starts, bootstrap over runs.

What is minimised (``analysis.solving``) is Huber's loss of ln BrierLM (or ln loss), as in Hoffmann et al. 2022.
Its bend is not 1e-3 as there, which is far below the noise of single runs and throws precision away, but 1.345
robust standard deviations of the residuals (95 % efficient under normal noise). Every point is weighted by its
own evaluation error on top of what single trainings differ by.

The bootstrap weighs whole runs by gamma variables of mean 1 (Rubin 1981: with shape 1 it is the Bayesian
bootstrap), so that no replicate lacks a size. Their variance is n / (n - p) for p parameters and n runs, because
the residuals of a fit are smaller than the noise by just that, times the square of Student's quantile for n - p
degrees of freedom over the normal one: percentiles alone cover too little where runs are few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.joint_forms import Law
from analysis.scaling_points import Points
from analysis.solving import BEND, Array, is_identified, minimise, small_sample_aic
from workbench.uncertainty import t_quantile

SEED_NOISE = 0.02
"""Relative difference between trainings that differ in the seed only, for the points' weights."""
LEAST_SCALE = 2e-4
"""Of residuals: data made without noise must not divide by 0."""
NUM_DRAWS = 200
FAR_OFF = 5.0
"""Times the scatter, from where on a point is named as being off the law."""
NORMAL = 1.959964
"""Quantile of a two-sided 95 % interval."""
_LEVELS = (2.5, 97.5)


@dataclass(frozen=True)
class Data:
    """What a law is fitted to."""

    design: Array
    """(terms, n, p)."""
    target: Array
    """(n,) ln of the score or loss."""
    weights: Array
    """(n,) of squared residuals, mean 1."""
    run: npt.NDArray[np.int64]
    """(n,) runs numbered from 0."""

    @property
    def num_runs(self) -> int:
        return int(self.run.max()) + 1


def make_data(law: Law, points: Points) -> Data:
    """Points with the design of a law."""
    weights = 1 / relative_errors(points) ** 2
    chunk_size = np.maximum(points.family, 1).astype(float)
    _, run = np.unique(points.run, return_inverse=True)
    design = law.design(points.num_parameters, points.tokens, chunk_size)
    return Data(design, np.log(points.score), weights / weights.mean(), run.astype(np.int64))


def relative_errors(points: Points) -> Array:
    """(n,) of the score: of its evaluation, where known, and between seeds."""
    return np.asarray(np.hypot(SEED_NOISE, np.nan_to_num(points.score_se / points.score, nan=0.0)))


def solve(
    law: Law, data: Data, starts: Array, weights: Array, bend: float, *, tied: Sequence[str] = ()
) -> tuple[Array, Array]:
    """Minimise sum_i weights_i huber(residual_i of ln score) from each start (``analysis.solving.minimise``)."""
    one = np.ones_like(data.target)
    return minimise(law, data.design, data.target, one, weights, starts, bend=bend, tied=tied)


@dataclass(frozen=True)
class Fit:
    """A fitted law."""

    law: Law
    theta: Array
    """(p,)."""
    draws: Array
    """(R, p) bootstrap replicates."""
    loss: float
    """Mean Huber loss, weighted."""
    bend: float
    scale: float
    """Robust standard deviation of the residuals, with their degrees of freedom: what one run differs by."""
    num_points: int
    num_runs: int
    tied: tuple[str, ...] = ()
    """Parameters taken from another fit."""
    num_off: int = 0
    """Points more than ``FAR_OFF`` times the scale off the law."""

    @property
    def num_free(self) -> int:
        """Own parameters, and the scale."""
        return len(self.theta) - len(self.tied) + 1

    @property
    def aicc(self) -> float:
        """Akaike's criterion, comparable between laws of the same points and bend. Runs are the observations:
        checkpoints of one run are not independent."""
        return small_sample_aic(self.num_runs, self.num_free, self.loss, LEAST_SCALE)

    def interval(self, index: int) -> tuple[float, float]:
        """95 % interval of a parameter."""
        low, high = np.percentile(self.draws[:, index], _LEVELS)
        return float(low), float(high)

    def identified(self, index: int) -> bool:
        """Whether the data say where a parameter lies."""
        return is_identified(self.law.parameters[index], *self.interval(index))

    @property
    def unidentified(self) -> list[str]:
        """Names of the parameters that the data do not determine."""
        return [name for i, name in enumerate(self.law.names) if not self.identified(i)]


def robust_scale(residuals: Array, weights: Array, num_parameters: int) -> float:
    """1.4826 x the median size of weighted residuals, with their degrees of freedom."""
    n = len(residuals)
    size = float(np.median(np.abs(residuals) * np.sqrt(weights)))
    return max(LEAST_SCALE, 1.4826 * size * math.sqrt(n / max(n - num_parameters, 1)))


def starts_of(law: Law) -> Array:
    """(S, p) spread over constants and exponents, always the same ones."""
    base = np.array([p.start for p in law.parameters])
    found = [base]
    for exponent in (0.15, 0.6):
        for shift in ((0.0, 0.0, 0.0), (-2.5, 0.5, 0.5), (0.5, -1.5, 0.0), (0.5, 0.0, -1.5)):
            start = base.copy()
            for name, change in zip("EAB", shift, strict=True):
                if name in law.names:
                    start[law.names.index(name)] += change
            for name in "ab":
                if name in law.names:
                    start[law.names.index(name)] = exponent
            found.append(start)
    return np.array(found)


def first_fit(law: Law, points: Points) -> tuple[Array, float]:
    """Parameters and scale of the best of several starts; the bend follows the residuals."""
    data = make_data(law, points)
    starts = starts_of(law)
    weights = np.broadcast_to(data.weights, (len(starts), len(data.target)))
    theta, losses = solve(law, data, starts, weights, 0.3)
    best = theta[int(losses.argmin())]
    scale = LEAST_SCALE
    for _ in range(2):
        scale = robust_scale(law.log_score(best, data.design) - data.target, data.weights, len(best))
        best = solve(law, data, best[None], data.weights[None], BEND * scale)[0][0]
    return best, scale


def fit_law(
    law: Law,
    points: Points,
    bend: float,
    *,
    start: Array | None = None,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
    ties: Mapping[str, Array] | None = None,
) -> Fit:
    """Fit with a given bend of Huber's loss, and bootstrap over runs.

    ``ties``: parameters that are not fitted, but taken from another fit: its value, then those of its draws."""
    data = make_data(law, points)
    ties = ties or {}
    starts = starts_of(law) if start is None else np.vstack([start[None], starts_of(law)])
    for name, values in ties.items():
        starts[:, law.names.index(name)] = values[0]
    weights = np.broadcast_to(data.weights, (len(starts), len(data.target)))
    theta, losses = solve(law, data, starts, weights, bend, tied=tuple(ties))
    best, loss = theta[int(losses.argmin())], float(losses.min())
    residuals = law.log_score(best, data.design) - data.target
    draws = best[None]
    if num_draws:
        draws = np.tile(best, (num_draws, 1))
        for name, values in ties.items():
            draws[:, law.names.index(name)] = np.resize(values[1:], num_draws)
        weights = bootstrap_weights(data, len(best) - len(ties), num_draws, seed)
        draws = solve(law, data, draws, weights, bend, tied=tuple(ties))[0]
    scale = robust_scale(residuals, data.weights, len(best) - len(ties))
    off = int((np.abs(residuals) * np.sqrt(data.weights) > FAR_OFF * scale).sum())
    mean_loss, num = loss / len(residuals), len(residuals)
    return Fit(law, best, draws, mean_loss, bend, scale, num, data.num_runs, tuple(ties), off)


def bootstrap_weights(data: Data, num_parameters: int, num_draws: int, seed: int) -> Array:
    """(R, n): each run's gamma weight, times the points' own weights."""
    num, rng = data.num_runs, np.random.default_rng(seed)
    dof = max(num - num_parameters, 1)
    shape = dof / num * (NORMAL / t_quantile(dof)) ** 2
    by_run = rng.gamma(shape, 1 / shape, size=(num_draws, num))
    return np.asarray(by_run[:, data.run] * data.weights)

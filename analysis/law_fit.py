"""Fitting the log-sum-exp laws of ``analysis.joint_forms``: robust, several starts, bootstrap over runs.

All starts and all bootstrap replicates are solved at once, by damped Gauss-Newton steps in arrays (Marquardt
1963) with the weights of Huber's loss: a report fits five forms with 200 replicates each, and one by one they
would take half a minute. What is minimised is Huber's loss of ln BrierLM (or ln loss), as in Hoffmann et al.
2022. Its bend is not 1e-3 as there, which is far below the noise of single runs and throws precision away, but
1.345 robust standard deviations of the residuals (95 % efficient under normal noise). Every point is weighted by
its own evaluation error on top of what single trainings differ by.

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

from analysis.joint_forms import Law, Parameter
from analysis.scaling_points import Points
from workbench.uncertainty import t_quantile

Array = npt.NDArray[np.float64]
BEND = 1.345
"""Of Huber's loss, in robust standard deviations."""
SEED_NOISE = 0.02
"""Relative difference between trainings that differ in the seed only, for the points' weights."""
LEAST_SCALE = 2e-4
"""Of residuals: data made without noise must not divide by 0."""
NUM_DRAWS = 200
STEPS = 60
FAR_OFF = 5.0
TOLERANCE = 1e-7
"""Relative gain of a step below which a replicate is done."""
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
    relative = np.nan_to_num(points.score_se / points.score, nan=0.0)
    weights = 1 / (SEED_NOISE**2 + relative**2)
    chunk_size = np.maximum(points.family, 1).astype(float)
    _, run = np.unique(points.run, return_inverse=True)
    design = law.design(points.num_parameters, points.tokens, chunk_size)
    return Data(design, np.log(points.score), weights / weights.mean(), run.astype(np.int64))


def huber(residuals: Array, bend: Array | float) -> Array:
    """Half the square up to ``bend``, linear beyond it."""
    size = np.abs(residuals)
    return np.where(size <= bend, 0.5 * size**2, bend * (size - 0.5 * bend))


def solve(
    law: Law,
    data: Data,
    starts: Array,
    weights: Array,
    bend: float,
    *,
    tied: Sequence[str] = (),
    steps: int = STEPS,
) -> tuple[Array, Array]:
    """Minimise sum_i weights_i huber(residual_i) from each start.

    ``starts``: (R, p); ``weights``: (R, n); ``tied``: parameters that stay where they start. Returns parameters
    (R, p) within their bounds and losses (R,)."""
    low = np.array([p.low for p in law.parameters])
    high = np.array([p.high for p in law.parameters])
    stays = np.array([name in tied for name in law.names])
    theta = np.clip(starts, low, high)
    damping = np.full(len(theta), 1e-2)
    residuals = law.log_score(theta, data.design) - data.target
    loss = (weights * huber(residuals, bend)).sum(axis=1)
    active = np.arange(len(theta))
    for _ in range(steps):
        now, own = theta[active], weights[active]
        step = _step(law, data, now, residuals[active], own, bend, damping[active], low, high, stays)
        tried = np.clip(now + step, low, high)
        new = law.log_score(tried, data.design) - data.target
        new_loss = (own * huber(new, bend)).sum(axis=1)
        gain = loss[active] - new_loss
        better, before = gain > 0, loss[active]
        moved = active[better]
        theta[moved], residuals[moved], loss[moved] = tried[better], new[better], new_loss[better]
        damping[active] = np.clip(np.where(better, damping[active] / 4, damping[active] * 6), 1e-9, 1e9)
        settled = (better & (gain <= TOLERANCE * before)) | (~better & (damping[active] > 1e3))
        active = active[~settled]
        if not len(active):
            break
    return theta, loss


def _step(
    law: Law,
    data: Data,
    theta: Array,
    residuals: Array,
    weights: Array,
    bend: float,
    damping: Array,
    low: Array,
    high: Array,
    stays: npt.NDArray[np.bool_],
) -> Array:
    """(R, p) of Marquardt's method; a parameter at a bound that would leave it stays."""
    jacobian = law.jacobian(theta, data.design)  # (R, n, p)
    size = np.maximum(np.abs(residuals), 1e-300)
    weighted = weights * np.minimum(1.0, bend / size)
    scaled = jacobian * weighted[..., None]
    gradient = -np.einsum("rnp,rn->rp", scaled, residuals)
    held = ((theta <= low) & (gradient < 0)) | ((theta >= high) & (gradient > 0))
    normal = scaled.transpose(0, 2, 1) @ jacobian
    diagonal = np.einsum("rpp->rp", normal)
    extra = damping[:, None] * diagonal + 1e-10 * diagonal.max(axis=1, keepdims=True) + 1e-12
    held |= stays
    free = ~held
    normal = normal * (free[:, :, None] & free[:, None, :])
    index = np.arange(theta.shape[1])
    normal[:, index, index] += np.where(held, 1.0, extra)
    return np.asarray(np.linalg.solve(normal, (gradient * free)[..., None])[..., 0])


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
        """Akaike's criterion with the small-sample term (Hurvich and Tsai 1989), Huber's loss in the place of half
        the squares, and runs as the observations: checkpoints of one run are not independent. Comparable between
        laws of the same points and bend; infinite with too few runs."""
        n, k = self.num_runs, self.num_free
        if n <= k + 1:
            return math.inf
        return n * math.log(max(2 * self.loss, LEAST_SCALE**2)) + 2 * k + 2 * k * (k + 1) / (n - k - 1)

    def interval(self, index: int) -> tuple[float, float]:
        """95 % interval of a parameter."""
        low, high = np.percentile(self.draws[:, index], _LEVELS)
        return float(low), float(high)

    def identified(self, index: int) -> bool:
        """Whether the data say where a parameter lies: its interval keeps off its bounds and is no wider than says
        something (``Parameter.widest``)."""
        parameter: Parameter = self.law.parameters[index]
        low, high = self.interval(index)
        margin = 1e-3 * (parameter.high - parameter.low)
        inside = low > parameter.low + margin and high < parameter.high - margin
        return inside and high - low <= parameter.widest

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

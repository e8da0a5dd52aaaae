"""Laws with parameters, and the minimum of Huber's loss for many starts or bootstrap replicates at once.

One by one, scipy would take half a minute for the replicates of a report; in arrays, by damped Gauss-Newton steps
(Marquardt 1963) with the weights of Huber's loss, they take a second. Tests hold the result to
``scipy.optimize.least_squares(loss="huber")``.

Letters: n points, p parameters, R replicates or starts.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
BEND = 1.345
"""Of Huber's loss, in standard deviations: 95 % efficient under normal noise."""
_STEPS = 100
_TOLERANCE = 1e-8
"""Relative gain of a step below which a replicate is done: a ten-thousandth of a standard error."""


@dataclass(frozen=True)
class Parameter:
    """One that is fitted; ``low`` and ``high`` bound the search."""

    name: str
    meaning: str
    low: float
    high: float
    widest: float
    """A 95 % interval wider than that says nothing."""


class Curve(Protocol):
    """What can be minimised: ln score as a function of x, (n,) or (..., n, ...), and parameters."""

    @property
    def parameters(self) -> Sequence[Parameter]: ...

    def log_score(self, theta: Array, x: Array) -> Array: ...

    def jacobian(self, theta: Array, x: Array) -> Array: ...


class Law(abc.ABC):
    """A curve that says where to begin."""

    name: str
    formula: str
    parameters: tuple[Parameter, ...]

    @abc.abstractmethod
    def log_score(self, theta: Array, x: Array) -> Array:
        """(R, n) for ``theta`` (R, p)."""

    @abc.abstractmethod
    def jacobian(self, theta: Array, x: Array) -> Array:
        """(R, n, p) derivatives of ``log_score``."""

    @abc.abstractmethod
    def starts(self, x: Array, y: Array) -> Array:
        """(S, p) where to begin, the same for the same data."""

    @property
    def names(self) -> list[str]:
        return [parameter.name for parameter in self.parameters]


def huber(residuals: Array, bend: Array | float = BEND) -> Array:
    """Half the square up to ``bend``, linear beyond it."""
    size = np.abs(residuals)
    return np.where(size <= bend, 0.5 * size**2, bend * (size - 0.5 * bend))


def is_identified(parameter: Parameter, low: float, high: float) -> bool:
    """Whether a 95 % interval says where a parameter lies: it keeps off the bounds of the search and is no wider
    than says something."""
    margin = 1e-3 * (parameter.high - parameter.low)
    inside = low > parameter.low + margin and high < parameter.high - margin
    return inside and high - low <= parameter.widest


def small_sample_aic(num: int, num_free: int, loss: float, least: float) -> float:
    """Akaike's criterion for small samples (Hurvich and Tsai 1989) of the likelihood whose logarithm is Huber's
    loss, its scale being fitted too. ``num``: independent observations; ``num_free``: parameters with the scale;
    ``loss``: mean; ``least``: scale below which residuals are not told from 0. Infinite with too few of them."""
    if num <= num_free + 1:
        return math.inf
    small = 2 * num_free * (num_free + 1) / (num - num_free - 1)
    return num * math.log(max(2 * loss, least**2)) + 2 * num_free + small


def minimise(
    law: Curve,
    x: Array,
    y: Array,
    sigma: Array,
    weights: Array,
    starts: Array,
    *,
    bend: float = BEND,
    tied: Sequence[str] = (),
) -> tuple[Array, Array]:
    """Minimise sum_i weights_i huber((y_i - f(x_i)) / sigma_i) from each start, all at once.

    ``y`` (n,) or (R, n); ``sigma`` (n,) or (R, n); ``weights`` (R, n); ``starts`` (R, p); ``bend``: of Huber's
    loss; ``tied``: names of parameters that stay where they start. Returns the parameters (R, p), within their
    bounds, and the losses (R,)."""
    low, high = bounds_of(law)
    theta = np.clip(starts, low, high)
    y, sigma, weights = (np.broadcast_to(a, (len(theta), y.shape[-1])) for a in (y, sigma, weights))
    z = (law.log_score(theta, x) - y) / sigma
    loss = (weights * huber(z, bend)).sum(axis=1)
    stays = np.array([parameter.name in tied for parameter in law.parameters])
    damping = np.full(len(theta), 1e-3)
    active = np.arange(len(theta))
    for _ in range(_STEPS):
        now, own = theta[active], sigma[active]
        scaled = law.jacobian(now, x) / own[..., None]
        bent = weights[active] * np.minimum(1.0, bend / np.maximum(np.abs(z[active]), 1e-300))
        step = _step(now, z[active], scaled, bent, damping[active], (low, high), stays)
        tried = np.clip(now + step, low, high)
        new = (law.log_score(tried, x) - y[active]) / own
        new_loss = (weights[active] * huber(new, bend)).sum(axis=1)
        gain, before = loss[active] - new_loss, loss[active]
        better = gain > 0
        moved = active[better]
        theta[moved], z[moved], loss[moved] = tried[better], new[better], new_loss[better]
        damping[active] = np.clip(np.where(better, damping[active] / 8, damping[active] * 6), 1e-12, 1e12)
        small = np.abs(gain) <= _TOLERANCE * before + 1e-14
        active = active[~(small | (~better & (damping[active] > 1e6)))]
        if not len(active):
            break
    return theta, loss


def bounds_of(law: Curve) -> tuple[Array, Array]:
    """(p,) lower and (p,) upper bounds of the search."""
    return np.array([p.low for p in law.parameters]), np.array([p.high for p in law.parameters])


def _step(
    theta: Array,
    z: Array,
    jacobian: Array,
    bent: Array,
    damping: Array,
    bounds: tuple[Array, Array],
    stays: npt.NDArray[np.bool_],
) -> Array:
    """(R, p) of Marquardt's method with Huber's weights ``bent``; a parameter that is tied, or that a bound holds,
    stays."""
    scaled = jacobian * bent[..., None]
    gradient = -np.einsum("rnp,rn->rp", scaled, z)
    held = stays | ((theta <= bounds[0]) & (gradient < 0)) | ((theta >= bounds[1]) & (gradient > 0))
    normal = scaled.transpose(0, 2, 1) @ jacobian
    diagonal = np.einsum("rpp->rp", normal).copy()
    extra = damping[:, None] * diagonal + 1e-13 * diagonal.max(axis=1, keepdims=True) + 1e-12
    normal = normal * (~held[:, :, None] & ~held[:, None, :])
    index = np.arange(theta.shape[1])
    normal[:, index, index] += np.where(held, 1.0, extra)
    return np.asarray(np.linalg.solve(normal, np.where(held, 0.0, gradient)[..., None])[..., 0])

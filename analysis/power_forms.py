"""Candidate forms of BrierLM as a function of compute: a power, and a power that saturates.

    power        b = a C^gamma
    saturating   b = b_inf / (1 + (C_half / C)^gamma)

x is u = ln(C / middle of the data), so that 1e9 and 1e22 FLOPs are the same to the solver. Both are written in
h, the logarithm of the score at the middle, which the data know best; the saturating one adds v, the logarithm of
(C_half / C)^gamma there: ln b = h + ln(1 + e^v) - ln(1 + e^(v - gamma u)). As v grows it becomes the power, so a
saturation that is not seen shows as a v that has no upper end. b cannot exceed 100, which bounds v.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import numpy as np
from scipy import special  # type: ignore[import-untyped]

from analysis.solving import Array, Law, Parameter

HIGHEST = 100.0
"""Of BrierLM."""
LEAST_GROWTH, MOST_GROWTH = -2.0, 4.0
"""Of gamma, in the search."""


@dataclass(frozen=True)
class ScoreLaw(Law):
    """BrierLM in ln compute relative to ``middle``."""

    middle: float
    """FLOPs: geometric mean of the data."""

    def u(self, cost: Array | float) -> Array:
        """x of a cost in FLOPs."""
        return np.log(np.asarray(cost, dtype=float) / self.middle)

    @abc.abstractmethod
    def log_cost(self, theta: Array, score: float) -> Array:
        """(R,) ln FLOPs at which the curve reaches ``score``; infinite where it never does."""

    @abc.abstractmethod
    def level(self, theta: Array) -> Array:
        """(R,) BrierLM that the curve tends to; infinite for a pure power."""


def _common(middle_score: float) -> tuple[Parameter, Parameter]:
    low, high = math.log(1e-9), math.log(HIGHEST) + 5
    return (
        Parameter("h", f"ln BrierLM at the middle (about {middle_score:.3g})", low, high, 1.0),
        Parameter("γ", "growth exponent", LEAST_GROWTH, MOST_GROWTH, 1.0),
    )


class Power(ScoreLaw):
    """b = a C^gamma."""

    name = "power"
    formula = "b = a C^γ"

    def __init__(self, middle: float, middle_score: float = 1.0) -> None:
        super().__init__(middle)
        object.__setattr__(self, "parameters", _common(middle_score))

    def log_score(self, theta: Array, x: Array) -> Array:
        return np.asarray(theta[:, :1] + theta[:, 1:2] * x)

    def jacobian(self, theta: Array, x: Array) -> Array:
        one = np.ones((len(theta), len(x)))
        return np.stack([one, one * x], axis=-1)

    def starts(self, x: Array, y: Array) -> Array:
        h = float(np.median(y))
        return np.array([[h, gamma] for gamma in (*_slopes(x, y), 0.1, 0.3, 0.6)])

    def log_cost(self, theta: Array, score: float) -> Array:
        h, gamma = theta[:, 0], theta[:, 1]
        u = np.where(gamma > 0, (math.log(score) - h) / np.where(gamma > 0, gamma, 1.0), np.inf)
        return np.asarray(u + math.log(self.middle))

    def level(self, theta: Array) -> Array:
        return np.full(len(theta), np.inf)


class Saturating(ScoreLaw):
    """b = b_inf / (1 + (C_half / C)^gamma)."""

    name = "saturating"
    formula = "b = b_∞ / (1 + (C_½ / C)^γ)"

    def __init__(self, middle: float, middle_score: float = 1.0) -> None:
        super().__init__(middle)
        highest = math.log(max(HIGHEST / min(middle_score, 0.99 * HIGHEST) - 1, 1e-2))
        v = Parameter("v", "ln (C_½ / C)^γ at the middle", min(-8.0, highest - 8), highest, 2 * math.log(4.0))
        object.__setattr__(self, "parameters", (*_common(middle_score), v))

    def log_score(self, theta: Array, x: Array) -> Array:
        h, gamma, v = (theta[:, i, None] for i in range(3))
        return np.asarray(h + np.logaddexp(0, v) - np.logaddexp(0, v - gamma * x))

    def jacobian(self, theta: Array, x: Array) -> Array:
        gamma, v = theta[:, 1, None], theta[:, 2, None]
        left = special.expit(v - gamma * x)
        return np.stack([np.ones_like(left), left * x, special.expit(v) - left], axis=-1)

    def starts(self, x: Array, y: Array) -> Array:
        top = self.parameters[2].high
        h = float(np.median(y))
        found = []
        for v in (top, -1.0, 0.5, 2.0):
            for slope in (*_slopes(x, y), 0.4, 1.0):
                found.append([h, slope / special.expit(min(v, top)), min(v, top)])
        return np.array(found)

    def log_cost(self, theta: Array, score: float) -> Array:
        h, gamma, v = theta[:, 0], theta[:, 1], theta[:, 2]
        rest = np.exp(h + np.logaddexp(0, v) - math.log(score)) - 1  # (C_half / C)^gamma
        able = (gamma > 0) & (rest > 0)
        u = (v - np.log(np.where(able, rest, 1.0))) / np.where(able, gamma, 1.0)
        return np.where(able, u, np.inf) + math.log(self.middle)

    def level(self, theta: Array) -> Array:
        return np.asarray(np.exp(theta[:, 0] + np.logaddexp(0, theta[:, 2])))


def _slopes(x: Array, y: Array) -> tuple[float, ...]:
    """Robust first guess: the median slope between the lower and the upper half of the points."""
    order = np.argsort(x, kind="stable")
    half = max(1, len(x) // 2)
    low, high = order[:half], order[-half:]
    run = float(np.median(x[high]) - np.median(x[low]))
    if run <= 0:
        return (0.2,)
    slope = float(np.median(y[high]) - np.median(y[low])) / run
    return (float(np.clip(slope, LEAST_GROWTH, MOST_GROWTH)),)

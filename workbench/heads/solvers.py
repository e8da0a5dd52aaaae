"""Solvers of dz/dt = v(z, t) on a given grid of times, for any velocity function; of the flow head (METHOD
section 3.3).

Orders are of the error at the end as the steps shrink together: Euler 1, midpoint 2, Adams 2, Runge-Kutta 4
(Hairer, Norsett & Wanner 1993, chapters II.1 and III.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
"""(state, time) to the state's derivative, of the state's shape."""
Solver = Callable[[Velocity, Tensor, Sequence[float]], Tensor]


def euler(velocity: Velocity, state: Tensor, times: Sequence[float]) -> Tensor:
    """Order 1, one call a step."""
    for t, after in pairwise(times):
        state = state + (after - t) * velocity(state, t)
    return state


def midpoint(velocity: Velocity, state: Tensor, times: Sequence[float]) -> Tensor:
    """Order 2, two calls a step."""
    for t, after in pairwise(times):
        half = (after - t) / 2
        middle = state + half * velocity(state, t)
        state = state + 2 * half * velocity(middle, t + half)
    return state


def adams(velocity: Velocity, state: Tensor, times: Sequence[float]) -> Tensor:
    """Two-step Adams-Bashforth for steps of any length: order 2, one call a step. The first step is Euler's, whose
    error is made once and so leaves the order at 2."""
    previous: tuple[float, Tensor] | None = None
    for t, after in pairwise(times):
        step, slope = after - t, velocity(state, t)
        towards = slope
        if previous is not None:
            last_step, last_slope = previous
            towards = slope + step / (2 * last_step) * (slope - last_slope)
        state, previous = state + step * towards, (step, slope)
    return state


def rk4(velocity: Velocity, state: Tensor, times: Sequence[float]) -> Tensor:
    """The classical Runge-Kutta method: order 4, four calls a step."""
    for t, after in pairwise(times):
        step, middle = after - t, (t + after) / 2
        first = velocity(state, t)
        second = velocity(state + step / 2 * first, middle)
        third = velocity(state + step / 2 * second, middle)
        fourth = velocity(state + step * third, after)
        state = state + step / 6 * (first + 2 * (second + third) + fourth)
    return state


SOLVERS: dict[str, Solver] = {"euler": euler, "midpoint": midpoint, "adams": adams, "rk4": rk4}
"""The table of alternatives; what a step of each costs is in ``workbench.head_sections.CALLS_PER_STEP``."""


def time_grid(num_steps: int, spacing: str) -> list[float]:
    """``num_steps`` + 1 times from 0 to 1, both exact: evenly spaced (``uniform``), or closer together near 0
    (``dense_start``: the squares of even times) or near 1 (``dense_end``: mirrored)."""
    even = [i / num_steps for i in range(num_steps + 1)]
    if spacing == "dense_start":
        return [t**2 for t in even]
    if spacing == "dense_end":
        return [1 - (1 - t) ** 2 for t in even]
    return even

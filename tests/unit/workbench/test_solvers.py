"""Solvers of the flow head: equations with known solutions, and the order at which the error falls."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from workbench.head_sections import CALLS_PER_STEP
from workbench.heads.solvers import SOLVERS, Velocity, time_grid

ORDERS = {"euler": 1, "midpoint": 2, "adams": 2, "rk4": 4}
SPACINGS = ["uniform", "dense_start", "dense_end"]
ROTATION = torch.tensor([[0.0, -2.0], [2.0, 0.0]], dtype=torch.float64)
"""Two radians in unit time."""


def growing(z: Tensor, t: float) -> Tensor:
    """dz/dt = 2 z cos t, whose solution is z(0) exp(2 sin t)."""
    return 2 * z * math.cos(t)


def turning(z: Tensor, t: float) -> Tensor:
    return z @ ROTATION.T


def error(solver: str, num_steps: int, *, equation: Velocity, spacing: str = "uniform") -> float:
    """Largest deviation from the solution at t = 1."""
    start = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    exact = {growing: start * math.exp(2 * math.sin(1)), turning: start @ torch.linalg.matrix_exp(ROTATION).T}
    found = SOLVERS[solver](equation, start, time_grid(num_steps, spacing))
    return (found - exact[equation]).abs().max().item()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("equation", [growing, turning])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_error_falls_at_the_solvers_order(solver: str, equation: Velocity, spacing: str) -> None:
    coarse = error(solver, 64, equation=equation, spacing=spacing)
    fine = error(solver, 128, equation=equation, spacing=spacing)
    assert math.log2(coarse / fine) == pytest.approx(ORDERS[solver], abs=0.15)


def test_a_higher_order_is_more_accurate_at_equal_steps() -> None:
    errors = [error(solver, 20, equation=turning) for solver in ("euler", "adams", "midpoint", "rk4")]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.05
    assert errors[3] < 1e-4


def test_steps_by_hand() -> None:
    """One or two steps of dz/dt = z + t from z(0) = 1 on the grid 0, 0.5, 1."""
    velocity: Velocity = lambda z, t: z + t  # noqa: E731
    start, grid = torch.ones(1, dtype=torch.float64), [0.0, 0.5, 1.0]
    expected = {
        "euler": 1.5 + 0.5 * 2.0,
        "midpoint": 1.75 + 0.5 * (1.75 + 0.25 * 2.25 + 0.75),
        "adams": 1.5 + 0.5 * (1.5 * 2.0 - 0.5 * 1.0),
    }
    for solver, value in expected.items():
        assert SOLVERS[solver](velocity, start, grid).item() == pytest.approx(value, rel=1e-12), solver


def test_two_step_adams_is_exact_for_a_linear_velocity_on_any_grid_after_the_first_step() -> None:
    """v = 2 t, z = t^2: the multistep rule is exact for straight lines; Euler's first step leaves its error."""
    grid = [0.0, 0.1, 0.4, 0.5, 1.0]
    found = SOLVERS["adams"](lambda z, t: torch.full_like(z, 2 * t), torch.zeros(1, dtype=torch.float64), grid)
    assert found.item() == pytest.approx(1.0 - 0.1**2, rel=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_constant_velocity_needs_one_step(solver: str) -> None:
    found = SOLVERS[solver](lambda z, t: torch.full_like(z, 3.0), torch.ones(2), [0.0, 1.0])
    assert found.tolist() == [4.0, 4.0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_calls_are_what_the_configuration_counts_and_lie_within_their_step(solver: str) -> None:
    called: list[float] = []

    def velocity(z: Tensor, t: float) -> Tensor:
        called.append(t)
        return z

    SOLVERS[solver](velocity, torch.ones(1), time_grid(5, "uniform"))
    assert len(called) == 5 * CALLS_PER_STEP[solver]
    assert called == sorted(called)
    assert called[0] == 0.0
    assert max(called) <= 1.0


def test_the_table_is_that_of_the_configuration() -> None:
    assert list(SOLVERS) == list(CALLS_PER_STEP)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
def test_grids_rise_from_exactly_0_to_exactly_1(num_steps: int, spacing: str) -> None:
    grid = time_grid(num_steps, spacing)
    assert len(grid) == num_steps + 1
    assert (grid[0], grid[-1]) == (0.0, 1.0)
    assert all(a < b for a, b in pairwise(grid))


def test_where_grids_are_dense() -> None:
    start, end = time_grid(10, "dense_start"), time_grid(10, "dense_end")
    assert start[1] == pytest.approx(0.01)
    assert 1 - end[-2] == pytest.approx(0.01)
    assert end == pytest.approx([1 - t for t in reversed(start)])
    assert time_grid(4, "uniform") == [0.0, 0.25, 0.5, 0.75, 1.0]

"""Gradient norms that explode or have spikes are told from ordinary ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from workbench.gradient_norms import LEAST_POINTS, NEIGHBOURS, diagnose_gradient_norms, gradient_norms
from workbench.records import TrainPoint

EVERY = 9
"""Steps in a logging interval."""


def points(norms: Sequence[float]) -> list[TrainPoint]:
    return [
        TrainPoint(
            step=EVERY * (i + 1), tokens=1, train_flops=1.0, loss=1.0, grad_norm=float(norm), lr=1e-3,
            tokens_per_second=1.0, seconds=1.0,
        )
        for i, norm in enumerate(norms)
    ]  # fmt: skip


def ordinary(num: int = 200, seed: int = 0) -> np.ndarray:
    """Falls to a third, with the noise of batches."""
    noise = np.random.default_rng(seed).lognormal(0.0, 0.15, num)
    return noise * np.linspace(0.9, 0.3, num)


def messages(norms: Sequence[float], *, warmup_steps: int = 54, clip: float = 1.0) -> list[str]:
    found = diagnose_gradient_norms(points(norms), warmup_steps=warmup_steps, clip=clip)
    assert all(diagnostic.code == "gradient_norm" for diagnostic in found)
    return [diagnostic.message for diagnostic in found]


@pytest.mark.parametrize("seed", range(5))
def test_ordinary_norms_have_none(seed: int) -> None:
    assert messages(ordinary(seed=seed)) == []
    assert messages(ordinary(seed=seed)[::-1]) == []


def test_norms_that_fall_from_a_high_beginning_have_none() -> None:
    """As with alpha = 0.3, measured: from 8 times the median right after the warm-up."""
    assert messages(0.06 * (1 + 8 * np.exp(-np.arange(200) / 12))) == []


def test_the_warm_up_is_left_out() -> None:
    norms = ordinary()
    norms[[1, 3, 5]] = 50.0
    assert messages(norms, warmup_steps=EVERY * 6) == []
    assert "3 spikes" in messages(norms, warmup_steps=0)[0]


def test_spikes_are_counted_and_the_largest_is_named() -> None:
    norms = ordinary()
    norms[50] *= 11.0 * 2
    norms[120] *= 40.0
    (message,) = messages(norms)
    assert "2 spikes" in message
    assert f"at step {EVERY * 121}" in message
    assert "grew" not in message
    assert "optim.lr" in message


def test_a_single_spike_is_one() -> None:
    norms = np.full(200, 0.5)
    norms[50] = 2.51
    assert "had 1 spike of more than 5 times the logged steps around, the largest 5.02 times" in messages(norms)[0]
    norms[50] = 2.5
    assert messages(norms) == []


def test_a_heavy_tail_is_found() -> None:
    for seed in range(5):
        tail = 0.3 * np.random.default_rng(seed).pareto(1.0, 200) + 0.1
        assert "spikes" in messages(tail)[0]


@pytest.mark.parametrize("factor", [100.0, 1e6])
def test_growth_without_a_spike_is_an_explosion(factor: float) -> None:
    norms = 1e-3 * np.exp(np.linspace(0, math.log(factor), 200)) * ordinary() / ordinary().mean()
    (message,) = messages(norms, clip=1e9)
    assert "grew" in message
    assert "spike" not in message


def test_being_clipped_in_every_step_is_ordinary() -> None:
    """As of the default recipe with alpha = 1: a median of 1.4, and 99 % above 1."""
    norms = 1.4 * ordinary() / ordinary().mean()
    assert messages(norms, clip=0.4) == []
    norms[100] = 20.0
    assert "above optim.clip 0.4" in messages(norms, clip=0.4)[0]


def test_a_median_far_above_the_threshold_of_clipping_is_an_explosion() -> None:
    """Also where it happened in the warm-up, so that nothing grows any more."""
    norms = np.full(200, 11.0)
    (message,) = messages(norms)
    assert "had a median of 11 times optim.clip" in message
    assert "100% above optim.clip 1)" in message
    assert "with an alpha above 1, whose gradients are longer, raise optim.clip" in message
    assert messages(norms, clip=1.2) == []


def test_all_signs_are_named_in_one_message() -> None:
    norms = np.geomspace(1.0, 1e4, 200)
    norms[100] *= 50
    (message,) = messages(norms)
    for part in ("grew", "had a median of", "had 1 spike"):
        assert part in message


def test_short_runs_say_nothing() -> None:
    assert gradient_norms([], warmup_steps=0, clip=1.0) is None
    wild = np.geomspace(1.0, 1e9, LEAST_POINTS)
    assert messages(wild[:-1], warmup_steps=0) == []
    assert messages(wild, warmup_steps=EVERY) == []
    assert len(messages(wild, warmup_steps=0)) == 1


def test_norms_of_zero() -> None:
    norms = np.zeros(40)
    assert messages(norms) == []
    norms[:NEIGHBOURS] = 1.0
    assert messages(norms) == []


def test_the_figures() -> None:
    norms = np.ones(40)
    norms[20] = 7.0
    norms[-10:] = 2.0
    found = gradient_norms(points(norms), warmup_steps=0, clip=1.5)
    assert found is not None
    assert (found.num_points, found.median, found.largest) == (40, 1.0, 7.0)
    assert (found.spike, found.spike_step, found.num_spikes) == (7.0, EVERY * 21, 1)
    assert (found.growth, found.clipped) == (2.0, 11 / 40)

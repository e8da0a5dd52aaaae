"""Drawing to a wished-for error: when it stops, what it draws, whether its intervals still hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.suites.simulated_scores import evaluations, true_brierlm
from workbench.growth import Growth, grow
from workbench.uncertainty import summarise


class Model:
    """A text of windows whose estimates are made once, with sampling noise anew in every round."""

    def __init__(self, seed: int, capacity: int, *, strength: float = 0.0, sampling: float = 0.0) -> None:
        self.text = evaluations(np.random.default_rng(seed), strength, 1, capacity)[0]
        self.seed, self.sampling = seed, sampling
        self.calls: list[tuple[int, int, int]] = []

    def draw(self, first: int, last: int, round_number: int) -> np.ndarray:
        self.calls.append((first, last, round_number))
        rng = np.random.default_rng([self.seed, first, round_number])
        noise = rng.normal(0, self.sampling, (last - first, self.text.shape[1], 1)) * np.array([1, 0.4, 0.2, 0.1])
        return np.asarray(self.text[first:last] + noise)

    def grow(self, target_se: float, *, start: int = 20, max_positions: int = 10**9) -> Growth:
        return grow(
            self.draw,
            np.arange(len(self.text)),
            start=start,
            target_se=target_se,
            max_positions=max_positions,
            num_positions=self.text.shape[1],
        )


def error(values: np.ndarray) -> float:
    return summarise(values, np.arange(len(values)), resamples=0).brierlm_se


def test_an_error_that_is_small_enough_draws_nothing_more() -> None:
    model = Model(0, 400)
    found = model.grow(1.1 * error(model.text[:20]))
    assert (found.stopped_by, found.rounds, len(found.values)) == ("target", 1, 20)
    assert model.calls == [(0, 20, 0)]


def test_every_window_is_drawn_once_in_order() -> None:
    model = Model(1, 2000)
    wished = error(model.text[:20]) / 4
    found = model.grow(wished)
    assert found.stopped_by == "target"
    assert error(found.values) <= wished
    ends = [0, *(last for _, last, _ in model.calls)]
    assert [(first, last) for first, last, _ in model.calls] == list(itertools.pairwise(ends))
    assert len(model.calls) <= 5, "a few stages, not one window at a time"
    np.testing.assert_array_equal(found.values, model.text[: len(found.values)])


@pytest.mark.slow
def test_not_much_more_than_needed_is_drawn() -> None:
    drawn = []
    for seed in range(20):
        model = Model(seed, 4000)
        wished = error(model.text[:400])
        drawn.append(len(model.grow(wished, start=50).values))
    assert np.median(drawn) < 1.4 * 400


def test_the_budget_ends_it() -> None:
    model = Model(2, 1000)
    found = model.grow(1e-6, max_positions=300 * 24)
    assert (found.stopped_by, len(found.values), found.rounds) == ("budget", 300, 1)


def test_the_first_windows_are_drawn_whatever_the_budget_says() -> None:
    found = Model(2, 1000).grow(1e-6, max_positions=1)
    assert (found.stopped_by, len(found.values)) == ("budget", 20)


def test_a_spent_text_is_drawn_again_until_the_error_is_reached() -> None:
    model = Model(3, 60, sampling=0.5)
    floor = error(model.text)
    found = model.grow(1.05 * floor)
    assert found.stopped_by == "target"
    assert found.rounds > 1
    assert len(found.values) == 60
    assert error(found.values) <= 1.05 * floor
    assert [number for _, _, number in model.calls[-found.rounds + 1 :]] == list(range(1, found.rounds))


def test_what_no_number_of_samples_reaches_is_said() -> None:
    """The scatter between the positions of the text that there is."""
    model = Model(4, 60, sampling=0.2)
    found = model.grow(0.5 * error(model.text))
    assert found.stopped_by == "text"
    assert found.rounds == 2, "told as soon as two rounds can be compared"


def test_rounds_count_towards_the_budget() -> None:
    model = Model(5, 60, sampling=2.0)
    found = model.grow(1.2 * error(model.text), max_positions=3 * 60 * 24)
    assert (found.stopped_by, found.rounds) == ("budget", 3)


def test_a_score_near_0_is_not_taken_for_a_known_one() -> None:
    """Its delta-method error is meaningless, however small: what counts is the bound."""
    model = Model(6, 2000, strength=-2.0)
    first = summarise(model.text[:64], np.arange(64), resamples=0)
    assert first.weak_orders
    assert first.brierlm_high is not None
    found = model.grow(0.2, start=64, max_positions=1500 * 24)
    assert len(found.values) > 64
    if found.stopped_by == "target":
        last = summarise(found.values, np.arange(len(found.values)), resamples=0)
        assert not last.weak_orders or last.brierlm_high < first.brierlm_high


def test_nothing_but_zeros_is_not_a_target_reached() -> None:
    model = Model(7, 100)
    model.text = np.zeros_like(model.text)
    assert model.grow(0.02, start=20, max_positions=3 * 100 * 24).stopped_by == "budget"


def test_one_cluster_is_never_enough() -> None:
    model = Model(8, 50)
    found = grow(
        model.draw, np.zeros(50, dtype=int), start=10, target_se=100.0, max_positions=30 * 24, num_positions=24
    )
    assert found.stopped_by == "budget"


@pytest.mark.slow
def test_intervals_still_cover_after_stopping_at_the_wished_for_error() -> None:
    """Stopping when the estimated error happens to be small makes it a little too small: 1,000 evaluations from 20
    windows to a quarter of the variance."""
    truth, covered = true_brierlm(0.0), []
    wished = np.mean([error(v) for v in evaluations(np.random.default_rng(0), 0.0, 50, 80)])
    for seed in range(1000):
        found = Model(seed, 400).grow(float(wished))
        assert found.stopped_by == "target"
        summary = summarise(found.values, np.arange(len(found.values)), resamples=0)
        assert summary.brierlm_low is not None
        assert summary.brierlm_high is not None
        covered.append(summary.brierlm_low <= truth <= summary.brierlm_high)
    assert 0.93 <= np.mean(covered) <= 0.97

"""Sampling at a temperature: the exact sampler's law and budget, the number of its calls."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.suites.chunk_tables import (
    LAWS,
    ORDINARY,
    TOO_RARE,
    UNIFORM,
    Stream,
    TableSource,
    many,
    p_values,
    tempered_probs,
)
from tests.suites.small import rng
from workbench.errors import ConfigError, SamplingError
from workbench.temperature import (
    Draws,
    batch,
    estimate_expected_calls,
    exact,
    expected_calls,
    reciprocal,
)

NUM = 20_000
"""Places of every law."""
THIRD = 1 / 3


# ---- 1 / tau -------------------------------------------------------------------------------------------


def test_reciprocals_of_whole_numbers_are_whole() -> None:
    for k in range(1, 1000):
        for value in (1 / k, math.nextafter(1 / k, 0.0), min(1.0, math.nextafter(1 / k, 2.0))):
            assert reciprocal(value) == (k, 0.0)
    assert any(1 / (1 / k) != k for k in range(1, 1000)), "the trap is real"


@pytest.mark.parametrize(
    ("value", "whole", "part"),
    [
        (0.1, 10, 0.0),
        (0.3333333333, 3, 0.0),  # written with ten digits
        (0.3333333, 3, 3e-7),
        (0.3, 3, THIRD),
        (0.4, 2, 0.5),
        (0.75, 1, THIRD),
        (0.999, 1, 1 / 0.999 - 1),
    ],
)
def test_reciprocals_are_split(value: float, whole: int, part: float) -> None:
    found = reciprocal(value)
    assert found == (whole, pytest.approx(part, rel=1e-6, abs=0))


@pytest.mark.parametrize("value", [0.0, -0.5, 1.0001, math.nan, math.inf])
def test_other_temperatures_are_refused(value: float) -> None:
    source = TableSource(LAWS)
    message = r"temperature must be above 0 and at most 1 .*given"
    for function in (
        lambda: exact(source, temperature=value, rng=rng()),
        lambda: batch(source, temperature=value, batch_size=5, rng=rng()),
        lambda: expected_calls(LAWS, value),
        lambda: estimate_expected_calls(source, temperature=value, num_samples=5, rng=rng()),
    ):
        with pytest.raises(ConfigError, match=message):
            function()
    assert source.drawn == 0


# ---- the exact sampler ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("value", [1.0, 0.75, 0.5, 0.4, 0.3, THIRD])
def test_the_exact_sampler_has_the_tempered_law_and_the_expected_number_of_calls(value: float) -> None:
    found = exact(many(LAWS, NUM), temperature=value, rng=rng(1))
    assert min(p_values(found, tempered_probs(LAWS, value))) > ORDINARY
    assert not found.fallback.any()
    calls = torch.stack([found.calls[i :: len(LAWS)].double() for i in range(len(LAWS))])
    torch.testing.assert_close(calls.mean(1), expected_calls(LAWS, value), rtol=0.03, atol=0)
    off = calls.mean(1) - expected_calls(LAWS, value)
    assert (off.abs() <= 4 * calls.std(1) / NUM**0.5 + 1e-9).all()


@pytest.mark.slow
@pytest.mark.parametrize("value", [1.0, 0.75, 0.5, 0.4, 0.3])
def test_the_test_of_the_law_has_power(value: float) -> None:
    # against a temperature that is off by a tenth, and against leaving stage 2 out
    found = exact(many(LAWS, NUM), temperature=value, rng=rng(1))
    whole, part = reciprocal(value)
    for wrong in (0.9 * value, *([1 / whole] if part else [])):
        p = p_values(found, tempered_probs(LAWS, wrong))
        assert max(p[2:]) < TOO_RARE
        assert p[UNIFORM] > ORDINARY, "every temperature leaves it as it is"


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.75, 0.4, THIRD])
@pytest.mark.parametrize("look_ahead", [1, 5, 1000])
def test_looking_ahead_does_not_change_the_law(value: float, look_ahead: int) -> None:
    source = many(LAWS, 3000)
    found = exact(source, temperature=value, rng=rng(2), look_ahead=look_ahead)
    assert min(p_values(found, tempered_probs(LAWS, value))) > ORDINARY
    assert found.drawn == source.drawn
    assert max(s for _, s in source.asked) <= look_ahead
    used = int(found.calls.sum())
    assert found.drawn == used if look_ahead == 1 else used < found.drawn < 1.25 * used + 4 * source.num_places


@pytest.mark.parametrize("value", [1.0, 0.8, 0.5, 0.4, 0.3, 0.2])
def test_every_place_follows_the_algorithm_step_by_step(value: float) -> None:
    samples = torch.randint(0, 4, (400, 50, 2), generator=rng(3)) // 3  # chunks often agree in part
    found = exact(Stream(samples), temperature=value, rng=rng(4), look_ahead=1)

    coins, (whole, part) = rng(4), reciprocal(value)
    machines = [machine(whole, part) for _ in range(50)]
    results: dict[int, tuple[int, ...]] = {}
    for machine_ in machines:
        next(machine_)
    for step in range(400):
        going = [i for i in range(50) if i not in results]
        flips = torch.rand(1, len(going), generator=coins, dtype=torch.float64)[0].tolist() if part else going
        for i, flip in zip(going, flips, strict=True):
            if machines[i].send((tuple(samples[step, i].tolist()), flip)):
                results[i] = (step + 1, *samples[step, i].tolist())
    assert [results[i] for i in range(50)] == [
        (calls, *chunk) for calls, chunk in zip(found.calls.tolist(), found.chunks.tolist(), strict=True)
    ]


def machine(whole: int, part: float) -> Iterator[bool]:
    """Algorithm 1, written down as in METHOD: gets a sample and a uniform number,
    says whether it is the result."""
    sample, flip = yield False
    while True:
        candidate, agreed = sample, True
        for _ in range(whole - 1):
            sample, flip = yield False
            if sample != candidate:
                agreed = False
                break
        if agreed and part == 0:
            yield True
        for i in itertools.count(1) if agreed else ():
            sample, flip = yield False
            if sample == candidate:
                yield True
            if flip < part / i:
                break
        sample, flip = yield False


def test_temperature_1_takes_one_call_each() -> None:
    found = exact(many(LAWS, 10), temperature=1.0, rng=rng())
    assert found.calls.tolist() == [1] * 40
    assert found.drawn == 40


def test_each_place_keeps_its_own_law_whenever_it_ends() -> None:
    # place i can only give chunk i or chunk 50; places end in a random order
    probs = torch.cat([torch.eye(50), torch.ones(50, 1)], 1) / 2
    chunks = torch.randint(0, 9, (51, 3), generator=rng())
    chunks[:, 0] = torch.arange(51)
    for found in (
        exact(TableSource(probs, chunks), temperature=0.3, rng=rng(1)),
        exact(TableSource(probs, chunks), temperature=0.3, rng=rng(1), budget=9, on_spent="batch"),
        batch(TableSource(probs, chunks), temperature=0.3, batch_size=30, rng=rng(1)),
    ):
        which = found.chunks[:, 0]
        assert ((which == torch.arange(50)) | (which == 50)).all()
        assert torch.equal(found.chunks, chunks[which])
        assert len(found.chunks) == 50
        assert found.latents is not None
        assert torch.equal(found.latents[:, 0], which.float())


@pytest.mark.parametrize("value", [0.5, 0.4])
def test_latents_have_their_law_given_the_chunk(value: float) -> None:
    for found in (
        exact(many(LAWS, 3000), temperature=value, rng=rng(5)),
        batch(many(LAWS, 3000), temperature=value, batch_size=20, rng=rng(5)),
    ):
        assert found.latents is not None
        own = found.latents[:, 1].numpy()
        for token in range(3):
            assert stats.kstest(own[found.chunks[:, 0] == token], "uniform").pvalue > ORDINARY


def test_the_seed_decides() -> None:
    def chunks(seed: int) -> list[Tensor]:
        return [
            exact(many(LAWS, 50), temperature=0.4, rng=rng(seed)).chunks,
            batch(many(LAWS, 50), temperature=0.4, batch_size=20, rng=rng(seed)).chunks,
        ]

    for first, again, other in zip(chunks(0), chunks(0), chunks(1), strict=True):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


# ---- its budget ----------------------------------------------------------------------------------------


class AllDifferent(TableSource):
    """No two samples are alike."""

    def __init__(self, num_places: int) -> None:
        super().__init__(torch.ones(num_places, 1))

    def draw(self, places: Tensor, num_samples: int, *, rng: torch.Generator) -> Draws:
        start = self.drawn
        self.asked.append((len(places), num_samples))
        return Draws(torch.arange(start, self.drawn).view(num_samples, len(places), 1))


@pytest.mark.parametrize("value", [0.8, 0.5, 0.07])
def test_a_spent_budget_is_an_error_that_says_what_to_do(value: float) -> None:
    source = AllDifferent(4)
    message = (
        rf"temperature {value}: 4 of 4 places are unfinished after the budget of 1,030 sampler calls each; "
        r"set a larger budget or a higher temperature, use the batch sampler, .*on_spent=\"batch\""
    )
    with pytest.raises(SamplingError, match=message):
        exact(source, temperature=value, rng=rng(), budget=1030)
    assert source.drawn == 4 * 1030


def test_a_budget_that_no_result_can_keep_to_draws_nothing() -> None:
    for value, budget in ((0.5, 1), (0.4, 2), (1e-6, 10_000), (1e-320, 10_000)):
        source = TableSource(LAWS)
        with pytest.raises(SamplingError, match="4 of 4 places are unfinished"):
            exact(source, temperature=value, rng=rng(), budget=budget)
        assert source.drawn == 0


@pytest.mark.parametrize(("value", "budget"), [(1.0, 1), (0.5, 2), (0.4, 3), (0.1, 10)])
def test_the_last_call_of_a_budget_counts(value: float, budget: int) -> None:
    found = exact(TableSource(torch.ones(3, 1)), temperature=value, rng=rng(), budget=budget)
    assert found.calls.tolist() == [budget] * 3


@pytest.mark.parametrize("name", ["budget", "batch_size", "look_ahead"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, 0 given"):
        exact(TableSource(LAWS), temperature=0.5, rng=rng(), **{name: 0})


def test_the_fallback_decides_the_unfinished_places_alone() -> None:
    probs = torch.full((6, 2000), 1 / 2000)
    probs[::2] = 0.0
    probs[::2, 7] = 1.0
    source = TableSource(probs)
    found = exact(source, temperature=THIRD, rng=rng(), budget=40, on_spent="batch", batch_size=10)
    assert found.fallback.tolist() == [False, True] * 3
    assert found.calls.tolist() == [3, 50] * 3
    assert found.drawn == source.drawn == 3 * 3 + 3 * 50
    assert found.chunks[::2, 0].tolist() == [7] * 3


# ---- the number of calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1.0, 0.9, 0.75, 0.5, 0.4, 0.3, 0.2])
def test_the_formula_is_the_enumeration_of_attempts(value: float) -> None:
    whole, part = reciprocal(value)
    for law in LAWS:
        cost, accepted = 0.0, np.zeros(len(law))
        for texts in itertools.product(range(len(law)), repeat=whole):
            chance = math.prod(law[x].item() for x in texts)
            same = next((j for j, x in enumerate(texts) if x != texts[0]), whole)
            cost += chance * min(same + 1, whole)
            if same == whole and chance:
                calls, heads = stage_two(law[texts[0]].item(), part)
                cost += chance * calls
                accepted[texts[0]] += chance * heads
        assert expected_calls(law, value).item() == pytest.approx(cost / accepted.sum(), rel=1e-6)
        np.testing.assert_allclose(accepted / accepted.sum(), tempered_probs(law, value), rtol=1e-6)


def stage_two(p: float, part: float) -> tuple[float, float]:
    """Mean number of samples, and probability of acceptance."""
    if part == 0:
        return 0.0, 1.0
    calls, heads, going, i = 0.0, 0.0, 1.0, 0
    while going > 1e-12:
        i += 1
        calls += going
        heads += going * p
        going *= (1 - p) * (1 - part / i)
    return calls, heads


def test_the_formula_in_closed_cases() -> None:
    assert expected_calls(torch.full((50,), 0.02), 0.5).item() == pytest.approx(100.0)
    for value, calls in ((1.0, 1), (0.7, 2), (0.5, 2), (0.4, 3), (0.1, 10), (0.01, 100)):
        assert expected_calls(torch.tensor([0.0, 1.0]), value).item() == pytest.approx(calls)
        assert expected_calls(torch.tensor([1e-300, 1 - 1e-16]).double(), value).item() == pytest.approx(calls)
    assert expected_calls(torch.full((10,), 0.1), 0.001).item() == math.inf
    tenths = torch.full((10,), 0.1, dtype=torch.float64)
    assert expected_calls(tenths, 0.01).item() == pytest.approx(10**99 * (1 + 10 / 9))
    assert expected_calls(LAWS.view(2, 2, -1).float(), 0.4).shape == (2, 2)
    assert expected_calls(LAWS.float(), 0.4).dtype == torch.float64


@pytest.mark.parametrize("value", [1.0, 0.75, 0.5, 0.4, 0.3])
def test_the_number_of_calls_is_estimated_from_samples(value: float) -> None:
    source = many(LAWS, 50)
    found = estimate_expected_calls(source, temperature=value, num_samples=2000, rng=rng(7))
    means = torch.stack([found[i :: len(LAWS)].mean() for i in range(len(LAWS))])
    torch.testing.assert_close(means, expected_calls(LAWS, value), rtol=0.03, atol=0)
    assert source.drawn == 50 * len(LAWS) * 2000


def test_the_estimate_where_samples_say_too_little() -> None:
    def estimate(law: Tensor, value: float, num_samples: int = 100) -> Tensor:
        return estimate_expected_calls(
            TableSource(law.repeat(30, 1)), temperature=value, num_samples=num_samples, rng=rng(8)
        )

    spread = torch.full((100_000,), 1e-5)
    for value in (0.5, 0.4, 0.1):
        assert estimate(spread, value).isinf().float().mean() > 0.9
    assert estimate(torch.ones(1), 0.1, num_samples=9).isinf().all()
    # half of the probability on one chunk: a lower bound that is not the bottom
    spread = spread / 2
    spread[0] = 0.5
    found = estimate(spread, 0.9)
    assert (found < expected_calls(spread, 0.9)).all()
    assert found.median() > 300

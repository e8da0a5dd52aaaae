"""Sampling at a temperature: the batch sampler's law, its bias and memory, and how it counts."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.suites.chunk_tables import (
    LAWS,
    ORDINARY,
    TOO_RARE,
    Stream,
    TableSource,
    many,
    p_value,
    p_values,
    tempered_probs,
)
from tests.suites.small import rng
from workbench import temperature
from workbench.temperature import batch, exact, reciprocal
from workbench.temperature_counts import Counts, labels_of

Floats = npt.NDArray[np.float64]
NUM = 20_000
"""Places of every law."""
THIRD = 1 / 3


def plain_weights(counts: Sequence[int], value: float) -> list[float]:
    """The batch sampler's weights, level by level, as METHOD section 6 has them."""
    whole, part = reciprocal(value)
    if part and max(counts) >= whole + 1:
        power = whole + part
        return [math.exp(math.lgamma(c + 1) - math.lgamma(c + 1 - power)) if c > whole else 0.0 for c in counts]
    for level in range(whole, 0, -1):
        weights = [float(math.comb(c, level)) for c in counts]
        if any(weights):
            return weights
    raise AssertionError("level 1 always has a candidate")


def batch_laws(num_samples: int, value: float) -> Tensor:
    """Of its result at the places of ``LAWS``."""
    return torch.from_numpy(np.stack([batch_law(law.tolist(), num_samples, value) for law in LAWS]))


def batch_law(law: Sequence[float], num_samples: int, value: float) -> Floats:
    """By all counts that N samples can have."""
    counts = list(compositions(num_samples, len(law)))
    weights = np.array([plain_weights(each, value) for each in counts])
    chances = stats.multinomial.pmf(np.array(counts), num_samples, law)
    return np.asarray(chances @ (weights / weights.sum(1, keepdims=True)))


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in compositions(total - first, parts - 1):
            yield (first, *rest)


@pytest.mark.slow
@pytest.mark.parametrize("value", [1.0, 0.75, 0.5, 0.4, 0.3, THIRD, 0.1])
def test_the_batch_sampler_has_the_law_of_the_enumeration(value: float) -> None:
    for num_samples in (1, 2, 5):
        found = batch(many(LAWS, NUM), temperature=value, batch_size=num_samples, rng=rng(9))
        assert min(p_values(found, batch_laws(num_samples, value))) > ORDINARY
        assert found.calls.tolist() == [num_samples] * len(found.calls)
        assert found.drawn == num_samples * len(found.calls)
        assert not found.fallback.any()


def test_the_test_of_the_batch_law_has_power() -> None:
    # it sees the bias, and another number of samples
    found = batch(many(LAWS, NUM), temperature=0.4, batch_size=5, rng=rng(9))
    assert min(p_values(found, tempered_probs(LAWS, 0.4))) < TOO_RARE
    assert min(p_values(found, batch_laws(6, 0.4))) < TOO_RARE


def test_the_fallback_is_the_batch_sampler() -> None:
    found = exact(many(LAWS, NUM), temperature=0.4, rng=rng(6), budget=2, on_spent="batch", batch_size=6)
    assert found.fallback.all()
    assert min(p_values(found, batch_laws(6, 0.4))) > ORDINARY


@pytest.mark.parametrize("value", [0.75, 0.5, 0.4, THIRD, 0.3])
def test_the_bias_of_the_batch_sampler_falls_with_its_size(value: float) -> None:
    law = (0.5, 0.3, 0.2)
    wanted = tempered_probs(torch.tensor(law, dtype=torch.float64), value).numpy()
    bias = [np.abs(batch_law(law, num, value) - wanted).sum() / 2 for num in (1, 8, 32, 128)]
    assert sorted(bias, reverse=True) == bias
    assert bias[0] > 0.05
    assert bias[-1] < 0.016
    assert bias[-1] < 0.3 * bias[-2]  # like 1 / N


@pytest.mark.parametrize("value", [0.5, 0.4, 0.15])
def test_given_its_samples_it_chooses_like_a_loop_with_a_counter(value: float) -> None:
    # a few pools of chunks of several tokens, each at many places
    pools, num = 6, 4000
    tokens = torch.randint(0, 3, (40, pools, 4), generator=rng(10)) // 2 * 300  # 16-bit tokens
    tokens[1:, 0] = torch.arange(39 * 4).view(39, 4)  # no two alike
    found = batch(Stream(tokens.repeat(1, num, 1)), temperature=value, batch_size=40, rng=rng(11))
    power = []
    for i in range(pools):
        counts = Counter(map(tuple, tokens[:, i].tolist()))
        weights = torch.tensor(plain_weights(list(counts.values()), value), dtype=torch.float64)
        number = {chunk: j for j, chunk in enumerate(counts)}
        chosen = torch.tensor([number[tuple(chunk)] for chunk in found.chunks[i::pools].tolist()])
        assert p_value(chosen, weights / weights.sum()) > ORDINARY
        wrong = torch.tensor(plain_weights(list(counts.values()), 1.2 * value), dtype=torch.float64)
        power.append(p_value(chosen, wrong / wrong.sum()))
    assert min(power) < TOO_RARE, "another temperature is told from it"


def test_weights_that_no_number_can_hold() -> None:
    # C(5000, 1000) is past float64, and so is any of them at 1/tau = 1e9
    probs = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.7, 0.3]]).repeat(30, 1)
    for value in (0.001, 1e-9, 1e-320):
        found = batch(TableSource(probs), temperature=value, batch_size=5000, rng=rng(12))
        assert (found.chunks[1::2] == 1).all()
        assert set(found.chunks[::2, 0].tolist()) == {0, 1}


def test_samples_are_asked_for_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temperature, "MOST_CHUNKS", 1000)
    source = TableSource(torch.eye(300) * 0.9 + 0.1 / 300)
    assert (batch(source, temperature=0.3, batch_size=60, rng=rng()).chunks[:, 0] == torch.arange(300)).all()
    assert max(m * s for m, s in source.asked) <= 1000
    source = TableSource(LAWS.repeat(2500, 1))
    found = exact(source, temperature=0.3, rng=rng())
    assert all(m * s <= 1000 or s == 1 for m, s in source.asked)
    assert min(p_values(found, tempered_probs(LAWS, 0.3))) > ORDINARY


def test_memory_is_that_of_the_samples() -> None:
    def peak(num_samples: int) -> int:
        tokens = torch.randint(0, 4, (num_samples, 8, 4), generator=rng())
        tracemalloc.start()
        try:
            batch(Stream(tokens), temperature=0.4, batch_size=num_samples, rng=rng())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # what is kept between calls
    assert peak(8000) < 60 * 8000 * 8
    assert peak(8000) < 6 * peak(2000)


# ---- counting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [2, 256, 257, 70_000, 2**40])
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("lowest", [0, -1])
def test_labels_are_equal_exactly_where_chunks_are(vocab_size: int, chunk_size: int, lowest: int) -> None:
    few = torch.randint(0, vocab_size, (6, chunk_size), generator=rng(13))
    few[3] = few[2]
    few[4] = few[5].flip(0)
    few[0, -1] = vocab_size - 1
    few[1] = few[0]
    few[1, -1] = lowest  # differs in one token, and in its highest bits
    chunks = few[torch.randint(0, 6, (20, 3), generator=rng(14))]
    labels = torch.from_numpy(labels_of(chunks).astype(np.int64)).T  # (s, m)
    alike = (chunks.unsqueeze(0) == chunks.unsqueeze(1)).all(-1)
    assert torch.equal(labels.unsqueeze(0) == labels.unsqueeze(1), alike)


def test_chunks_of_small_integers_are_labelled() -> None:
    tokens = torch.tensor([[[1, 2]], [[1, 3]], [[1, 2]]], dtype=torch.int16)
    first, second, third = labels_of(tokens)[0]
    assert first == third != second


def test_counts_are_those_of_a_counter() -> None:
    labels = torch.randint(0, 9, (7, 30), generator=rng(15))
    labels[0] = 5
    labels[1] = torch.arange(30)
    labels[2] = 5  # equal to the end of the row before, which is another place
    counts = Counts(labels.numpy())
    place = counts.start // 30
    for i, row in enumerate(labels.tolist()):
        found = dict(
            zip(counts.ordered[counts.start[place == i]].tolist(), counts.count[place == i].tolist(), strict=True)
        )
        plain = Counter(row)
        assert found == plain
        assert counts.most()[i] == max(plain.values())
        assert counts.seen(2)[i] == sum(c == 2 for c in plain.values())
        pairs = sum(math.comb(c, 2) for c in plain.values()) / math.comb(30, 2)
        assert counts.power_sum(2.0)[i] == pytest.approx(pairs)

"""BrierLM's estimators against enumeration of all n-grams, and against the classic mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.suites.small import decoded
from tests.suites.table_models import (
    Floats,
    OneNoiseSampler,
    TableDistribution,
    TableSampler,
    TokenLaw,
    TruePrefixDistribution,
    TruePrefixSampler,
    random_law,
    surprise,
)
from workbench import brier
from workbench.brier import distribution_brier, sampled_brier

REPEATS = 1500
ORDINARY, CAUGHT = 1e-4, 1e-12
"""p-values: above the first is agreement, below the second a mistake. Seeds are fixed."""


def likely_windows(law: TokenLaw, length: int, *, num: int = 8, seed: int = 5) -> Tensor:
    """(num, T) texts drawn from the law itself, so that the truth is often hit."""
    rng = torch.Generator().manual_seed(seed)
    return law.draw(torch.zeros(num, dtype=torch.long), length, rng)


def exact(law: TokenLaw, windows: Tensor, positions: Tensor) -> Floats:
    """(windows, n, O)."""
    return np.stack([[law.exact_brier(w, int(p)) for p in positions] for w in windows])


def repeated(windows: Tensor, repeats: int = REPEATS) -> Tensor:
    """Every window so many times, (num * repeats, T)."""
    return windows.repeat_interleave(repeats, 0)


def by_position(values: Tensor, num_windows: int) -> Tensor:
    """(R, num * n, O): independent repetitions of each window's positions."""
    return values.unflatten(0, (num_windows, -1)).transpose(0, 1).flatten(1, 2)


def sampled_p_value(model: TableSampler, *, num_samples: int, repeats: int = REPEATS) -> float:
    k = model.chunk_size
    stride = 12 if k == 3 else 8
    positions = torch.arange(stride, 3 * stride, stride)
    windows = likely_windows(model.law, 4 * stride)
    rng = torch.Generator().manual_seed(1)
    values = sampled_brier(model, repeated(windows, repeats), positions, num_samples=num_samples, rng=rng)
    expected = exact(model.law, windows, positions)
    return surprise(by_position(values, len(windows)), expected.reshape(-1, 4))


class TestSampled:
    @pytest.mark.parametrize("num_samples", [2, 6])
    @pytest.mark.parametrize(("chunk_size", "vocab_size"), [(1, 5), (1, 3), (2, 3), (3, 3), (4, 3), (8, 2)])
    def test_unbiased_for_every_chunk_size_and_number_of_samples(
        self, chunk_size: int, vocab_size: int, num_samples: int
    ) -> None:
        model = TableSampler(random_law(vocab_size), chunk_size)
        assert sampled_p_value(model, num_samples=num_samples) > ORDINARY

    @pytest.mark.parametrize(("chunk_size", "num_samples"), [(1, 2), (1, 6), (2, 2), (2, 6), (3, 6)])
    def test_collisions_continued_from_the_true_prefix_are_noticed(
        self, chunk_size: int, num_samples: int
    ) -> None:
        model = TruePrefixSampler(random_law(3), chunk_size)
        assert sampled_p_value(model, num_samples=num_samples) < CAUGHT

    @pytest.mark.parametrize("chunk_size", [1, 2, 4, 8])
    def test_one_noise_for_both_samples_is_noticed(self, chunk_size: int) -> None:
        model = OneNoiseSampler(random_law(2), chunk_size)
        assert sampled_p_value(model, num_samples=2) < CAUGHT

    @pytest.mark.parametrize("chunk_size", [1, 2, 4, 8])
    def test_positions_of_ones_own_grid_are_noticed(self, chunk_size: int) -> None:
        """Mistake: every model scored at its own chunk boundaries (the chunk after the common position), as when
        positions are counted in chunks. Against the common positions' truth that is off."""
        model = TableSampler(random_law(2), chunk_size)
        windows, positions = likely_windows(model.law, 40), torch.tensor([8, 16, 24])
        rng = torch.Generator().manual_seed(1)
        values = sampled_brier(model, repeated(windows), positions + chunk_size, num_samples=6, rng=rng)
        expected = exact(model.law, windows, positions).reshape(-1, 4)
        assert surprise(by_position(values, len(windows)), expected) < CAUGHT

    def test_continuing_any_sample_instead_of_an_agreeing_one_is_noticed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(brier, "_draw_agreeing", lambda seen, rng: seen.tokens[0].clamp_min(0))
        assert sampled_p_value(TableSampler(random_law(3), 1), num_samples=6, repeats=4000) < CAUGHT

    @pytest.mark.slow
    def test_continuing_agreeing_chunks_with_equal_chances_is_noticed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A chunk sampled c times must be continued in proportion to c (c - 1)."""

        def equal_chances(seen: brier._Compared, rng: torch.Generator) -> Tensor:
            count = seen.others + 1  # (S, r)
            tickets = torch.rand(count.shape, generator=rng) ** count  # the largest of c is uniform again
            chosen = torch.where(count > 1, tickets, -1.0).argmax(0)
            return seen.tokens[chosen, torch.arange(len(chosen))].clamp_min(0)

        monkeypatch.setattr(brier, "_draw_agreeing", equal_chances)
        assert sampled_p_value(TableSampler(random_law(3), 1), num_samples=12, repeats=3000) < CAUGHT

    def test_more_samples_give_less_noise(self) -> None:
        model = TableSampler(random_law(3), 2)
        windows, positions = likely_windows(model.law, 32), torch.tensor([8, 16])
        spread = [
            sampled_brier(
                model, repeated(windows), positions, num_samples=s, rng=torch.Generator().manual_seed(0)
            ).var()
            for s in (2, 16)
        ]
        assert spread[1] < 0.5 * spread[0]

    def test_two_samples_give_the_published_estimate(self) -> None:
        """1[x1 = y] + 1[x2 = y] - 1[x1 = x2] for n within a chunk."""
        model = TableSampler(random_law(3), 4)
        windows, positions = likely_windows(model.law, 24, num=300), torch.tensor([8, 12])
        values = sampled_brier(model, windows, positions, num_samples=2, rng=torch.Generator().manual_seed(3))
        context = model.read(windows)
        window = torch.arange(len(windows)).repeat_interleave(len(positions))
        index = (positions // 4 - 1).repeat(len(windows))
        samples = context.sample(window, index, 2, rng=torch.Generator().manual_seed(3))
        first, second = decoded(samples, 4).unflatten(1, (len(windows), -1))
        for n in range(1, 5):
            truth = torch.stack([windows[:, p : p + n] for p in positions.tolist()], 1)
            hits = [
                (x[..., :n] == y[..., :n]).all(-1).float()
                for x, y in ((first, truth), (second, truth), (first, second))
            ]
            torch.testing.assert_close(values[..., n - 1], hits[0] + hits[1] - hits[2])

    def test_seeded(self) -> None:
        model = TableSampler(random_law(3), 2)
        windows, positions = likely_windows(model.law, 32, num=20), torch.tensor([8, 16])
        runs = [
            sampled_brier(model, windows, positions, num_samples=4, rng=torch.Generator().manual_seed(seed))
            for seed in (0, 0, 1)
        ]
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])


class TestDistribution:
    @pytest.mark.parametrize("vocab_size", [2, 3, 5])
    def test_unbiased(self, vocab_size: int) -> None:
        law = random_law(vocab_size)
        assert self.p_value(TableDistribution(law)) > ORDINARY

    def test_continuing_after_the_true_tokens_is_noticed(self) -> None:
        assert self.p_value(TruePrefixDistribution(random_law(3))) < CAUGHT

    def p_value(self, model: TableDistribution) -> float:
        windows, positions = likely_windows(model.law, 32), torch.tensor([8, 16, 24])
        rng = torch.Generator().manual_seed(2)
        values, _ = distribution_brier(model, repeated(windows), positions, rng=rng)
        expected = exact(model.law, windows, positions)
        return surprise(by_position(values, len(windows)), expected.reshape(-1, 4))

    def test_first_order_and_log_probability_are_exact(self) -> None:
        law = random_law(4)
        windows, positions = likely_windows(law, 24, num=10), torch.tensor([8, 16])
        values, log_truth = distribution_brier(
            TableDistribution(law), windows, positions, rng=torch.Generator().manual_seed(0)
        )
        np.testing.assert_allclose(values[..., 0], exact(law, windows, positions)[..., 0], atol=1e-6)
        for b in range(10):
            for i, p in enumerate(positions.tolist()):
                law_there = law.table[law.read(windows[b : b + 1, :p])[0, -1]]
                assert log_truth[b, i] == pytest.approx(float(law_there[windows[b, p]].log()), abs=1e-5)

    def test_less_noise_than_samples(self) -> None:
        law = random_law(3)
        windows, positions = repeated(likely_windows(law, 32)), torch.tensor([8, 16])
        sampled = sampled_brier(
            TableSampler(law, 1), windows, positions, num_samples=4, rng=torch.Generator().manual_seed(0)
        )
        explicit, _ = distribution_brier(
            TableDistribution(law), windows, positions, rng=torch.Generator().manual_seed(0)
        )
        noise = [v.unflatten(0, (8, REPEATS)).var(1).mean((0, 1)) for v in (sampled, explicit)]
        assert (noise[1] < 0.5 * noise[0]).all()


def test_all_chunk_sizes_and_the_token_model_score_the_same_positions() -> None:
    """One law read in chunks of 1, 2, 4 and 8 and as a token model: the same score at each position."""
    law = random_law(2)
    windows, positions = likely_windows(law, 40), torch.tensor([8, 16, 24, 32])
    expected = exact(law, windows, positions)
    assert np.ptp(expected[..., 0]) > 0.5, "positions must differ for a shift to be noticed"
    many = repeated(windows)
    means = []
    for k in (1, 2, 4, 8):
        rng = torch.Generator().manual_seed(k)
        values = sampled_brier(TableSampler(law, k), many, positions, num_samples=4, rng=rng)
        means.append(values.unflatten(0, (8, REPEATS)).mean(1).numpy())
    values, _ = distribution_brier(TableDistribution(law), many, positions, rng=torch.Generator().manual_seed(9))
    means.append(values.unflatten(0, (8, REPEATS)).mean(1).numpy())
    for mean in means:
        np.testing.assert_allclose(mean, expected, atol=0.05)

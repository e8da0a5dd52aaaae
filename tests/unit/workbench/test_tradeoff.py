"""Accuracy against collision of each sampler, against enumeration and against each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.suites.small import VOCAB, build_baseline, build_calm, rng, small_config, tokens
from tests.suites.table_models import TableDistribution, TokenLaw
from workbench.brier import distribution_agreement
from workbench.config import EvalConfig, TradeoffConfig
from workbench.data import Corpus
from workbench.evaluate import evaluation_grid
from workbench.language_model import LanguageModel
from workbench.records import TradeoffPoint
from workbench.tradeoff import tradeoff

RULES = EvalConfig(context_len=64, min_context=16, grid_stride=8, num_windows=12, num_samples=4)
ASKED = TradeoffConfig(
    temperatures=(1.0, 0.5), batch_sizes=(1, 40), noise_scales=(1.0, 0.0), num_windows=6, num_samples=3,
    exact_budget=50, num_tokens=(1, 2),
)  # fmt: skip


def compared(model: LanguageModel, corpus: Corpus, asked: TradeoffConfig = ASKED) -> list[TradeoffPoint]:
    return tradeoff(model, RULES, asked, evaluation_grid(RULES, corpus))


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.3])
def test_softmax_is_what_enumeration_gives(temperature: float) -> None:
    law = TokenLaw(torch.softmax(0.6 * torch.randn(10_007, 4, generator=rng()), -1))
    windows, positions = tokens(3, 16, vocab_size=4), torch.tensor([4, 9])
    tempered = TokenLaw(torch.softmax(law.table.log() / temperature, -1))
    states = law.read(windows)
    context = TableDistribution(law).read(windows)
    draws = [
        distribution_agreement(context, windows, positions, num_tokens=3, rng=rng(seed), temperature=temperature)
        for seed in range(600)
    ]
    for (b, window), (i, place) in itertools.product(enumerate(windows), enumerate(positions.tolist())):
        for length in (1, 2, 3):
            exact = tempered.ngram_law(int(states[b, place - 1]), length)
            truth = tuple(window[place : place + length].tolist())
            assert draws[0].accuracy[b, i, length - 1].item() == pytest.approx(exact[truth], rel=1e-4)
            found = np.array([seen.collision[b, i, length - 1].item() for seen in draws])
            error = found.std() / np.sqrt(len(found)) + 1e-6
            assert abs(found.mean() - (exact**2).sum()) < 4.5 * error


def test_a_baseline_is_compared_at_each_length(tiny_corpus: Corpus) -> None:
    points = compared(build_baseline(small_config(baseline=True), vocab_size=258), tiny_corpus)
    assert [(p.sampler, p.temperature, p.num_tokens) for p in points] == [
        ("softmax", 1.0, 1), ("softmax", 1.0, 2), ("softmax", 0.5, 1), ("softmax", 0.5, 2)
    ]  # fmt: skip
    assert points[0].collision > points[1].collision  # two tokens agree more seldom than one
    assert points[2].collision > points[0].collision
    assert all(p.seconds_per_token > 0 and p.num_positions == 36 for p in points)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["energy", "flow"])
def test_every_sampler_of_a_calm_has_its_points(kind: str, tiny_corpus: Corpus) -> None:
    config = small_config(chunk_size=2, head={"kind": kind})
    told: list[tuple[int, int]] = []
    model = build_calm(config, vocab_size=258)
    grid = evaluation_grid(RULES, tiny_corpus)
    points = tradeoff(model, RULES, ASKED, grid, progress=lambda *done: told.append(done))
    assert [(p.sampler, p.temperature, p.batch_size, p.noise_scale) for p in points] == [
        ("exact", 1.0, None, None),
        ("exact", 0.5, None, None),
        ("batch", 0.5, 1, None),
        ("batch", 0.5, 40, None),
        ("noise", None, None, 1.0),
        ("noise", None, None, 0.0),
    ]
    assert told == [(i, 6) for i in range(1, 7)]
    plain, half, one, forty, as_it_is, still = points
    assert (plain.calls_per_chunk, plain.fallback_share) == (1, 0)
    assert half.calls_per_chunk >= 2
    assert (one.calls_per_chunk, forty.calls_per_chunk) == (1, 40)
    assert still.collision == 100
    assert still.collision_se == 0
    for same in (one, as_it_is):  # other draws of the same distribution
        error = np.hypot(plain.collision_se, same.collision_se) + 0.2
        assert abs(same.collision - plain.collision) < 4 * error
    assert forty.collision > plain.collision + 3 * np.hypot(forty.collision_se, plain.collision_se)
    assert all(p.num_tokens == 2 and p.num_positions == 36 for p in points)


@pytest.mark.slow
def test_draws_at_a_temperature_have_its_law(tiny_corpus: Corpus) -> None:
    """K = 1 and few tokens: P at each place from many samples, and from it the two rates of P^2."""
    config = small_config(chunk_size=1)
    model = build_calm(config, vocab_size=VOCAB)
    model.row_elements = 1
    corpus = _with_few_tokens(tiny_corpus)
    asked = TradeoffConfig(
        temperatures=(0.5,), batch_sizes=(400,), noise_scales=(), num_windows=6, num_samples=40, exact_budget=5000
    )
    grid = evaluation_grid(RULES, corpus)
    exact, batch = tradeoff(model, RULES, asked, grid)
    windows = torch.from_numpy(grid.windows[:6])
    with torch.no_grad():
        hidden = model.read(windows).hidden[:, grid.positions - 1].flatten(0, 1)
        drawn, _ = model.sample_chunks(hidden, 20_000, rng=rng(3))
    law = torch.nn.functional.one_hot(drawn[..., 0], VOCAB).double().mean(0)
    sharp = law.square() / law.square().sum(-1, keepdim=True)
    truth = windows[:, grid.positions].flatten()
    assert exact.fallback_share == 0
    for point in (exact, batch):
        assert abs(point.accuracy - 100 * sharp[torch.arange(len(truth)), truth].mean().item()) < 1.5
        assert abs(point.collision - 100 * sharp.square().sum(-1).mean().item()) < 3.0
    assert abs(exact.collision - 100 * law.square().sum(-1).mean().item()) > 5  # another temperature is told apart


def _with_few_tokens(corpus: Corpus) -> Corpus:
    import dataclasses

    few = {split: (ids.astype(np.int64) % (VOCAB - 1) + 1) for split, ids in corpus.tokens.items()}
    return dataclasses.replace(corpus, tokens=few)

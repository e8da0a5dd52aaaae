"""BrierLM of real networks against enumeration with the network's own probabilities."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.suites.small import build_baseline, build_calm, small_config, with_chunks_of
from tests.suites.table_models import Floats, surprise
from workbench.brier import distribution_brier, sampled_brier
from workbench.heads.base import Head
from workbench.model import Calm
from workbench.posterior import Posterior

VOCAB = 4
"""Ids 1, 2 and 3: a CALM never says PAD_ID."""
REPEATS = 400
ORDINARY = 1e-4
InputMode = Literal["tokens", "latent", "both"]


def texts(num: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(1, VOCAB, (num, length), generator=torch.Generator().manual_seed(seed))


class DiscreteHead(Head):
    """A head whose law is known: one of C latent vectors, with chances that depend on the hidden state."""

    def __init__(self, width: int, latent_dim: int, num_codes: int = 24) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(7)
        self.register_buffer("codes", 4 * torch.randn(num_codes, latent_dim, generator=rng))
        self.register_buffer("weight", 1.5 * torch.randn(num_codes, width, generator=rng) / width**0.5)

    def probabilities(self, hidden: Tensor) -> Tensor:
        return (hidden @ self.weight.T).softmax(-1)  # type: ignore[operator]

    def loss(self, hidden: Tensor, target: Posterior, *, rng: torch.Generator) -> Tensor:
        raise NotImplementedError

    def sample(self, hidden: Tensor, *, num_samples: int, rng: torch.Generator) -> Tensor:
        drawn = torch.multinomial(self.probabilities(hidden), num_samples, replacement=True, generator=rng)
        return self.codes[drawn.T]  # type: ignore[index]


def discrete_calm(chunk_size: int, input_mode: InputMode) -> Calm:
    config = with_chunks_of(chunk_size, small_config(input_mode=input_mode))
    calm = build_calm(config, vocab_size=VOCAB, seed=1)
    calm.network.head = DiscreteHead(32, config.autoencoder.latent_dim)
    with torch.no_grad():  # an untrained decoder says hardly more than one chunk
        calm.autoencoder.expand.weight *= 3
        calm.autoencoder.to_latent.bias.normal_(generator=torch.Generator().manual_seed(3))
    return calm


@torch.no_grad()
def chunk_law(calm: Calm, text: Tensor) -> dict[tuple[int, ...], float]:
    """P(next chunk | text) without cache, branches or batch."""
    chunks = calm.chunks(text[None])
    hidden = calm.network(chunks, calm.feedback(chunks))[:, -1]
    head = calm.network.head
    assert isinstance(head, DiscreteHead)
    law: dict[tuple[int, ...], float] = {}
    decoded = calm.autoencoder.decode(head.codes).tolist()  # type: ignore[arg-type]
    for chunk, chance in zip(decoded, head.probabilities(hidden)[0].double().tolist(), strict=True):
        law[tuple(chunk)] = law.get(tuple(chunk), 0.0) + chance
    return law


def calm_brier(calm: Calm, text: Tensor, position: int) -> Floats:
    """Brier-1..4 by enumeration of all continuations."""
    grams: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(-(-4 // calm.chunk_size)):
        longer: dict[tuple[int, ...], float] = {}
        for gram, chance in grams.items():
            before = torch.cat([text[:position], torch.tensor(gram, dtype=torch.long)])
            for chunk, next_chance in chunk_law(calm, before).items():
                longer[gram + chunk] = longer.get(gram + chunk, 0.0) + chance * next_chance
        grams = longer
    return np.array([_brier(grams, tuple(text[position : position + n].tolist())) for n in range(1, 5)])


def _brier(grams: dict[tuple[int, ...], float], truth: tuple[int, ...]) -> float:
    law: dict[tuple[int, ...], float] = {}
    for gram, chance in grams.items():
        law[gram[: len(truth)]] = law.get(gram[: len(truth)], 0.0) + chance
    assert sum(law.values()) == pytest.approx(1)
    return 2 * law.get(truth, 0.0) - sum(p**2 for p in law.values())


@pytest.mark.parametrize(
    ("chunk_size", "input_mode"),
    [(1, "tokens"), (2, "tokens"), (2, "latent"), (2, "both"), (3, "tokens"), (4, "tokens"), (8, "tokens")],
)
@pytest.mark.parametrize("num_samples", [2, 6])
def test_calm_is_scored_as_enumeration_says(chunk_size: int, input_mode: InputMode, num_samples: int) -> None:
    calm = discrete_calm(chunk_size, input_mode)
    windows, positions = texts(2, 24), torch.tensor([6, 12] if chunk_size == 3 else [8, 16])
    exact = np.concatenate([[calm_brier(calm, w, int(p)) for p in positions] for w in windows])
    assert exact.std() > 0.02, "the positions' scores must differ"
    rng = torch.Generator().manual_seed(0)
    values = sampled_brier(calm, windows.repeat(REPEATS, 1), positions, num_samples=num_samples, rng=rng)
    assert surprise(values.unflatten(0, (REPEATS, 2)).flatten(1, 2), exact) > ORDINARY


@torch.no_grad()
def test_baseline_is_scored_as_enumeration_says() -> None:
    model = build_baseline(small_config(baseline=True), vocab_size=VOCAB)
    model.network.output.weight *= 2
    windows, positions = texts(2, 24), torch.tensor([8, 16])
    grams = torch.tensor(list(itertools.product(range(VOCAB), repeat=4)))  # all V^4 continuations
    exact = []
    for window in windows:
        for p in positions.tolist():
            whole = torch.cat([window[:p].expand(len(grams), -1), grams], 1)
            log_probs = model.network.log_probs(model.network(whole))[:, p - 1 : -1].double()
            chance = log_probs.gather(-1, grams[..., None])[..., 0]
            for n in range(1, 5):
                law: dict[tuple[int, ...], float] = {}
                for gram, value in zip(grams[:, :n].tolist(), chance[:, :n].sum(1).exp().tolist(), strict=True):
                    law[tuple(gram)] = value
                exact.append(_brier(law, tuple(window[p : p + n].tolist())))
    rng = torch.Generator().manual_seed(0)
    values, _ = distribution_brier(model, windows.repeat(REPEATS, 1), positions, rng=rng)
    expected = np.array(exact).reshape(-1, 4)
    assert surprise(values.unflatten(0, (REPEATS, 2)).flatten(1, 2), expected) > ORDINARY


@torch.no_grad()
@pytest.mark.parametrize("input_mode", ["tokens", "latent", "both"])
@pytest.mark.parametrize("chunk_size", [1, 2, 4])
def test_calm_branches_equal_each_position_by_itself(chunk_size: int, input_mode: InputMode) -> None:
    calm = discrete_calm(chunk_size, input_mode)
    windows = texts(3, 24)
    index = torch.tensor([[0, 2, 4], [1, 1, 3], [5, 0, 2]])
    added = texts(3, 3 * 2 * chunk_size, seed=1).view(3, 3, 2, chunk_size)
    branches = calm.read(windows).branch(index)
    for depth in range(2):
        branches.extend(added[:, :, depth])
        for b, r in itertools.product(range(3), range(3)):
            text = windows[b, : (int(index[b, r]) + 1) * chunk_size]
            chunks = calm.chunks(torch.cat([text, added[b, r, : depth + 1].flatten()])[None])
            alone = calm.network(chunks, calm.feedback(chunks))[0, -1]
            torch.testing.assert_close(branches.hidden[b, r], alone, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_baseline_branches_equal_each_position_by_itself() -> None:
    model = build_baseline(small_config(baseline=True, backbone={"num_kv_heads": 2}), vocab_size=VOCAB)
    windows = texts(2, 24)
    index = torch.tensor([[3, 11], [20, 7]])
    added = texts(2, 6, seed=1).view(2, 2, 3)
    branches = model.read(windows).branch(index)
    for depth in range(3):
        branches.extend(added[:, :, depth])
        for b, r in itertools.product(range(2), range(2)):
            text = torch.cat([windows[b, : int(index[b, r]) + 1], added[b, r, : depth + 1]])
            alone = model.network.log_probs(model.network(text[None])[0, -1])
            torch.testing.assert_close(branches.log_probs()[b, r], alone, atol=2e-5, rtol=1e-4)

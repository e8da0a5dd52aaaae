"""One batched pass per depth equals every position by itself; slices bound the memory and change nothing.

Random choices are made deterministic (the same noise at every position, the first agreeing pair, the likeliest
token), so that what remains different is the arithmetic alone.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.suites.small import build_baseline, build_calm, small_config, with_chunks_of
from workbench import brier
from workbench.baseline import TokenBaseline
from workbench.brier import NUM_ORDERS, distribution_brier, sampled_brier, text_log_probs
from workbench.language_model import ChunkSamples
from workbench.model import Calm

VOCAB, SAMPLES = 4, 6
POSITIONS = torch.tensor([8, 16, 24, 32])


def windows(num: int = 3, length: int = 40) -> Tensor:
    return torch.randint(1, VOCAB, (num, length), generator=torch.Generator().manual_seed(0))


def calm(
    chunk_size: int, input_mode: Literal["tokens", "latent", "both"], monkeypatch: pytest.MonkeyPatch
) -> Calm:
    """Sample s has the same noise wherever it is drawn."""
    config = with_chunks_of(chunk_size, small_config(input_mode=input_mode))
    model = build_calm(config, vocab_size=VOCAB, seed=1)
    with torch.no_grad():  # decode to more than one chunk
        model.autoencoder.expand.weight *= 3
        model.network.head.to_latent.weight *= 4
    head = model.network.head
    fixed = torch.rand(SAMPLES, 1, head.config.noise_dim, generator=torch.Generator().manual_seed(2)) - 0.5
    monkeypatch.setattr(head, "noise", lambda num, hidden, rng: fixed[:num].expand(-1, hidden.shape[0], -1))
    monkeypatch.setattr(brier, "_draw_agreeing", first_agreeing)
    return model


def first_agreeing(seen: brier._Compared, rng: torch.Generator) -> Tensor:
    chosen = (seen.others > 0).int().argmax(0)
    return seen.tokens[chosen, torch.arange(len(chosen))].clamp_min(0)


@torch.no_grad()
def by_itself(model: Calm, text: Tensor, position: int, num_samples: int) -> Tensor:
    """(O,) of one position: every context is read anew, nothing is cached, nothing is batched."""
    k, rng = model.chunk_size, torch.Generator()
    num_chunks = math.ceil(NUM_ORDERS / k)

    def draw(before: Tensor) -> Tensor:  # (S, K)
        chunks = model.chunks(before[None])
        hidden = model.network(chunks, model.feedback(chunks))[:, -1]
        return model.sample_chunks(hidden, num_samples, rng=rng)[0][:, 0]

    accuracy, match = [], 1.0
    for j in range(num_chunks):
        start = position + j * k
        hits = (draw(text[:start]) == text[start : start + k]).cumprod(-1).double().mean(0)
        accuracy += [match * float(h) for h in hits]
        match *= float(hits[-1])
    collision, weight, before = [], 1.0, text[:position]
    for _ in range(num_chunks):
        samples = draw(before)
        pairs = [(a, b) for a in range(num_samples) for b in range(a + 1, num_samples)]
        agree = torch.stack([(samples[a] == samples[b]).cumprod(-1) for a, b in pairs])  # (pairs, K)
        share = agree.double().mean(0)
        collision += [weight * float(c) for c in share]
        weight *= float(share[-1])
        before = torch.cat([before, samples[pairs[int(agree[:, -1].argmax())][0]]])
    return 2 * torch.tensor(accuracy[:NUM_ORDERS]) - torch.tensor(collision[:NUM_ORDERS])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chunk_size", "input_mode"),
    [(1, "tokens"), (2, "tokens"), (2, "latent"), (1, "both"), (3, "tokens"), (4, "tokens"), (8, "both")],
)
def test_a_calm_in_one_pass_equals_each_position_by_itself(
    chunk_size: int,
    input_mode: Literal["tokens", "latent", "both"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``by_itself`` samples and decodes everything. Branches that saw true chunks at their own positions, wrong
    rotary positions, and anything left out that changes an estimate would differ."""
    length = 42 if chunk_size == 3 else 40
    model, text = calm(chunk_size, input_mode, monkeypatch), windows(num=4, length=length)
    positions = POSITIONS + POSITIONS // 8 if chunk_size == 3 else POSITIONS
    together = sampled_brier(model, text, positions, num_samples=SAMPLES, rng=torch.Generator())
    alone = torch.stack([torch.stack([by_itself(model, row, int(p), SAMPLES) for p in positions]) for row in text])
    assert alone[..., 1:].abs().max() > 0.05, "there must be something to compare beyond the first order"
    np.testing.assert_allclose(together.numpy(), alone.numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [1, 2, 4])
@pytest.mark.parametrize("max_elements", [1, 5_000, 50_000])
def test_slices_of_positions_give_the_same_estimates(
    chunk_size: int, max_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = calm(chunk_size, "tokens", monkeypatch), windows()
    whole = sampled_brier(model, text, POSITIONS, num_samples=SAMPLES, rng=torch.Generator())
    parts = sampled_brier(
        model, text, POSITIONS, num_samples=SAMPLES, rng=torch.Generator(), max_elements=max_elements
    )
    np.testing.assert_allclose(parts.numpy(), whole.numpy(), atol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 4])
def test_slices_bound_what_the_head_is_asked_for_at_a_time(
    chunk_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = calm(chunk_size, "tokens", monkeypatch), windows()
    rows: list[int] = []
    draw = model.network.head.sample

    def counted(hidden: Tensor, *, num_samples: int, rng: torch.Generator) -> Tensor:
        rows.append(num_samples * hidden.shape[0])
        return draw(hidden, num_samples=num_samples, rng=rng)

    monkeypatch.setattr(model.network.head, "sample", counted)
    per_position = len(text) * SAMPLES
    sampled_brier(
        model, text, POSITIONS, num_samples=SAMPLES, rng=torch.Generator(),
        max_elements=2 * len(text) * (SAMPLES * model.row_elements + SAMPLES**2 + 4 * SAMPLES),
    )  # fmt: skip
    assert max(rows) == 2 * per_position
    least = len(POSITIONS) * per_position  # the first chunk of every position
    assert sum(rows) == least if chunk_size == 4 else least < sum(rows) <= 7 * least


def test_many_samples_make_slices_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs grow as S^2: at S = 64 they, not the head, decide how many positions fit."""
    model, text = calm(1, "tokens", monkeypatch), windows()
    model.row_elements = 1
    sizes: list[int] = []
    compare = brier._compare

    def counted(samples: ChunkSamples, *rest: Any, **options: Any) -> brier._Compared:
        sizes.append(samples.num_places)
        return compare(samples, *rest, **options)

    monkeypatch.setattr(brier, "_compare", counted)
    fixed = torch.rand(64, 1, 10, generator=torch.Generator().manual_seed(2)) - 0.5
    monkeypatch.setattr(model.network.head, "noise", lambda num, hidden, rng: fixed.expand(-1, len(hidden), -1))
    most = 2 * 3 * (64 + 64**2 + 4 * 64)
    sampled_brier(model, text, POSITIONS, num_samples=64, rng=torch.Generator(), max_elements=most)
    assert max(sizes) == 2 * 3


def test_the_window_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices and branches use the keys and values of one pass."""
    model, text = calm(1, "tokens", monkeypatch), windows()
    reads: list[tuple[int, ...]] = []
    forward = model.network.forward

    def counted(chunks: Tensor, *rest: object) -> Tensor:
        reads.append(tuple(chunks.shape))
        return forward(chunks, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(model.network, "forward", counted)
    sampled_brier(model, text, POSITIONS, num_samples=SAMPLES, rng=torch.Generator(), max_elements=1)
    assert reads == [(3, 40, 1)]


# ---- the token baseline --------------------------------------------------------------------------


def baseline(monkeypatch: pytest.MonkeyPatch) -> TokenBaseline:
    """Continuations take the likeliest token."""
    likeliest = lambda p, num, generator: p.argmax(-1, keepdim=True)  # noqa: E731
    monkeypatch.setattr(brier.torch, "multinomial", likeliest)
    model = build_baseline(small_config(baseline=True), vocab_size=VOCAB)
    with torch.no_grad():
        model.network.output.weight *= 2
    return model


@torch.no_grad()
def token_by_itself(model: TokenBaseline, text: Tensor, position: int) -> Tensor:
    def law(before: Tensor) -> Tensor:
        return model.network.log_probs(model.network(before[None]))[0, -1].double().exp()

    accuracy = torch.stack([law(text[: position + n])[text[position + n]] for n in range(NUM_ORDERS)]).cumprod(0)
    collision, weight, before = [], 1.0, text[:position]
    for _ in range(NUM_ORDERS):
        squared = law(before).square()
        weight *= float(squared.sum())
        collision.append(weight)
        before = torch.cat([before, squared.argmax()[None]])
    return 2 * accuracy - torch.tensor(collision)


@pytest.mark.slow
@pytest.mark.parametrize("max_elements", [1, 1000, 2**26])
def test_a_baseline_in_one_pass_equals_each_position_by_itself(
    max_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = baseline(monkeypatch), windows()
    together, log_truth = distribution_brier(
        model, text, POSITIONS, rng=torch.Generator(), max_elements=max_elements
    )
    alone = torch.stack([torch.stack([token_by_itself(model, row, int(p)) for p in POSITIONS]) for row in text])
    np.testing.assert_allclose(together.numpy(), alone.numpy(), atol=1e-5)
    assert log_truth.shape == (3, 4)


@pytest.mark.parametrize("max_elements", [1, 500, 2**26])
def test_log_probabilities_of_the_text(max_elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = baseline(monkeypatch), windows()
    context = model.read(text)
    found = text_log_probs(model, context, text, 8, max_elements=max_elements)
    with torch.no_grad():
        whole = model.network.log_probs(model.network(text))
    expected = whole[:, 7:-1].gather(-1, text[:, 8:, None])[..., 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)

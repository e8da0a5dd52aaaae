"""The benchmark's oracle: unbiased against enumeration, and its variants draw the same samples; its arithmetic.

Letters: W windows, T tokens, K chunk size, V vocabulary, C codes of the head, n positions, O = 4 orders,
R repetitions.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.bench.brier_time import cost, influence, ratio
from tests.bench.plain_brier import Variant, plain_brier, sample_pairs
from tests.suites.small import build_baseline, build_calm, small_config, tokens
from tests.suites.table_models import Floats, surprise
from workbench.baseline import TokenBaseline
from workbench.heads.base import Head
from workbench.model import Calm
from workbench.posterior import Posterior

VOCAB = 4
ORDINARY = 1e-4
POSITIONS = torch.tensor([8, 16])
Model = Calm | TokenBaseline


class CodeHead(Head):
    """One of C latent vectors, with chances that depend on the hidden state: a CALM whose law is known."""

    def __init__(self, width: int, latent_dim: int, num_codes: int = 16) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(5)
        self.register_buffer("codes", 4 * torch.randn(num_codes, latent_dim, generator=rng))
        self.register_buffer("weight", 2 * torch.randn(num_codes, width, generator=rng) / width**0.5)

    def chances(self, hidden: Tensor) -> Tensor:
        """(..., D) to (..., C)."""
        return (hidden @ self.weight.T).softmax(-1)  # type: ignore[operator]

    def loss(self, hidden: Tensor, target: Posterior, *, rng: torch.Generator) -> Tensor:
        raise NotImplementedError

    def sample(self, hidden: Tensor, *, num_samples: int, rng: torch.Generator) -> Tensor:
        drawn = torch.multinomial(self.chances(hidden), num_samples, replacement=True, generator=rng)
        return self.codes[drawn.T]  # type: ignore[index]


def tiny_model(chunk_size: int, *, sharpness: float = 1.0) -> Model:
    """A CALM, or for K = 0 the token baseline, whose samples agree and are right often enough to be counted; with
    a large ``sharpness`` they are always the most likely ones."""
    if chunk_size == 0:
        baseline = build_baseline(small_config(baseline=True), vocab_size=VOCAB, seed=3)
        with torch.no_grad():
            baseline.network.output.weight *= sharpness
        return far_sighted(baseline)
    config = small_config(chunk_size=chunk_size)
    calm = build_calm(config, vocab_size=VOCAB, seed=1)
    calm.network.head = CodeHead(32, config.autoencoder.latent_dim)
    with torch.no_grad():  # an untrained decoder says hardly more than one chunk
        calm.autoencoder.expand.weight *= 3
        calm.network.head.weight *= sharpness  # type: ignore[operator]
    return far_sighted(calm)


def far_sighted(model: Model) -> Model:
    """Untrained attention hardly changes what the last token alone would say: a mistake in it would not show."""
    with torch.no_grad():
        for layer in model.network.backbone.layers:
            layer.attention.qkv.weight *= 2
            layer.attention.out.weight *= 4
    return model


@torch.no_grad()
def chunk_law(model: Model, texts: Tensor) -> Tensor:
    """P(next chunk | text), (R, V**K), of texts (R, t)."""
    if isinstance(model, TokenBaseline):
        return model.network.log_probs(model.network(texts)[:, -1]).double().exp()
    chunks = model.chunks(texts)
    head = model.network.head
    assert isinstance(head, CodeHead)
    chances = head.chances(model.network(chunks, model.feedback(chunks))[:, -1]).double()
    decoded = model.autoencoder.decode(head.codes)  # type: ignore[arg-type]
    number = (decoded * VOCAB ** torch.arange(model.chunk_size).flip(0)).sum(-1)  # (C,)
    return torch.zeros(len(texts), VOCAB**model.chunk_size).double().index_add(1, number, chances)


def all_chunks(model: Model) -> Tensor:
    """(V**K, K), in the order of ``chunk_law``."""
    return torch.tensor(list(itertools.product(range(VOCAB), repeat=model.chunk_size)))


def gram_law(model: Model, text: Tensor) -> Tensor:
    """P(next four tokens | text (1, t)), (V**4,)."""
    chunks = all_chunks(model)
    texts, law = text, torch.ones(1).double()
    for _ in range(-(-4 // model.chunk_size)):
        law = (law[:, None] * chunk_law(model, texts)).flatten()
        texts = torch.cat([texts.repeat_interleave(len(chunks), 0), chunks.repeat(len(texts), 1)], 1)
    assert law.sum() == pytest.approx(1)
    return law.view(VOCAB**4, -1).sum(1)


def enumerated(model: Model) -> tuple[Tensor, Floats]:
    """A window (1, T) and its exact Brier-1..4 at every position, (n, O).

    The text after a position is the most likely one that starts with the second most likely chunk: often enough
    sampled to test the accuracy term, and not where most collisions happen."""
    window = tokens(1, 24, vocab_size=VOCAB)
    scores = []
    for position in POSITIONS.tolist():
        law = gram_law(model, window[:, :position])
        by_start = law.view(VOCAB ** min(model.chunk_size, 4), -1)
        start = int(by_start.sum(1).argsort()[-2])
        truth = start * by_start.shape[1] + int(by_start[start].argmax())
        window[0, position : position + 4] = torch.tensor([truth // VOCAB**i % VOCAB for i in (3, 2, 1, 0)])
        grams = [law.view(VOCAB**order, -1).sum(1) for order in range(1, 5)]
        scores.append([2 * g[truth // VOCAB ** (4 - n)] - g.square().sum() for n, g in enumerate(grams, 1)])
    exact = np.array(scores)
    assert exact.std(0).min() > 0.003, "the positions' scores must differ"
    return window, exact


@pytest.mark.parametrize(
    ("chunk_size", "variant"), [(0, "cached"), (1, "cached"), (2, "cached"), (4, "cached"), (4, "batched")]
)
def test_samples_continue_their_own_prefix(chunk_size: int, variant: Variant) -> None:
    """A model that always says what is most likely must say what repeated reading of its own text says. Catches a
    continuation from the true text or from the other sample, and every wrong position."""
    model = tiny_model(chunk_size, sharpness=1000)
    windows, positions = tokens(6, 32, vocab_size=VOCAB), torch.arange(8, 25, 8)
    samples = sample_pairs(model, windows, positions, variant=variant, rng=torch.Generator().manual_seed(0))
    chunks = all_chunks(model)
    for i, position in enumerate(positions.tolist()):
        texts = windows[:, :position]
        while texts.shape[1] < position + 4:
            texts = torch.cat([texts, chunks[chunk_law(model, texts).argmax(1)]], 1)
        for sample in samples:
            assert torch.equal(sample[:, i], texts[:, position : position + 4])
    assert len(samples[0].flatten(0, 1).unique(dim=0)) > 2, "continuations must differ"


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [0, 1, 2, 4])
def test_loop_over_positions_has_the_enumerated_mean(chunk_size: int) -> None:
    """Catches a pair that shares its noise, an n-gram of the truth that starts a token late, tokens compared
    without those before them, an accuracy or collision term missing."""
    model = tiny_model(chunk_size)
    window, scores = enumerated(model)
    repeats = 200
    again = POSITIONS.repeat_interleave(repeats)
    values = plain_brier(model, window, again, variant="cached", rng=torch.Generator().manual_seed(0))
    assert surprise(values[0].unflatten(0, (-1, repeats)).transpose(0, 1), scores) > ORDINARY


@pytest.mark.parametrize("chunk_size", [4, 8])
def test_batched_variant_has_the_enumerated_mean(chunk_size: int) -> None:
    """Catches hidden states gathered at the wrong position, and more than four tokens of a chunk compared."""
    model = tiny_model(chunk_size)
    window, scores = enumerated(model)
    rng = torch.Generator().manual_seed(0)
    values = plain_brier(model, window.expand(4000, -1), POSITIONS, variant="batched", rng=rng)
    assert surprise(values, scores) > ORDINARY


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [0, 1, 2, 4, 8])
def test_cached_and_reread_draw_the_same_samples(chunk_size: int) -> None:
    """Catches a cache cut one position off, not cut at all, overwritten too early, or shared by the two rows."""
    model = tiny_model(chunk_size)
    windows, positions = tokens(4, 32, vocab_size=VOCAB), torch.arange(8, 25, 8)
    variants: tuple[Variant, Variant] = ("reread", "cached")
    first, second = (
        sample_pairs(model, windows, positions, variant=variant, rng=torch.Generator().manual_seed(1))
        for variant in variants
    )
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1]), "the two samples of a position must differ now and then"


def test_batched_variant_needs_a_chunk_of_four_tokens() -> None:
    with pytest.raises(AssertionError, match="one chunk to hold every n-gram"):
        plain_brier(
            tiny_model(2), tokens(1, 24, vocab_size=VOCAB), POSITIONS, variant="batched",
            rng=torch.Generator().manual_seed(0),
        )  # fmt: skip


def test_influence_gives_the_spread_of_brierlm() -> None:
    """Against simulation. Catches a lost quarter of the geometric mean, and orders treated as independent."""
    rng = np.random.default_rng(0)
    num_windows, mean = 200, np.array([0.3, 0.1, 0.03, 0.01])
    shape = (3000, num_windows, 4)
    values = mean * (1 + 0.5 * rng.normal(size=(*shape[:2], 1)) + 0.8 * rng.normal(size=shape))  # (R, W, O)
    scores = 100 * np.exp(np.log(values.mean(1)).mean(1))
    se = (influence(values[0], mean).var(ddof=1) / num_windows) ** 0.5
    assert se == pytest.approx(scores.std(ddof=1), rel=0.12)  # the error of se itself is 5 %


def test_ratio_is_of_seconds_times_variance_on_the_same_windows() -> None:
    """Five times the seconds, three times the spread: 45 times the time. Catches errors taken for variances, and
    windows resampled separately, which would widen the interval."""
    rng = np.random.default_rng(0)
    windows = rng.normal(size=(2, 50))
    chosen = rng.integers(0, 50, (300, 50))
    ours = cost(np.full(7, 0.2), windows, chosen, rng)
    plain = cost(np.full(4, 1.0), 3 * windows + 1, chosen, rng)
    assert ratio(plain, ours) == pytest.approx((45, 45, 45))

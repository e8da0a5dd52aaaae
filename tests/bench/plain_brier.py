"""BrierLM's published estimator, as plainly as one would write it: the oracle that ours is timed against.

Two continuations x1, x2 of at least four tokens are drawn after every position's context, each from its own
prefix, and Brier-n is estimated by 1[x1 = y] + 1[x2 = y] - 1[x1 = x2] of whole n-grams (paper, section 5; METHOD
section 5).
Three ways to the same estimate, from the plainest to the strongest:

* ``reread``: one position after another; every step is the model's own forward pass over the whole text so far.
* ``cached``: one position after another; a window is read once, and the two samples of a position continue with
  its key/value cache cut at that position.
* ``batched``: no loop at all; a batch is read once and two chunks are drawn at all positions in one call. For
  K >= 4 only, where a chunk holds every n-gram and nothing has to be continued.

Letters: B windows, T tokens, K chunk size, P chunks, D width, n positions, J = ceil(4 / K) chunks, R rows, O = 4
orders.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from workbench.backbone import KVCache
from workbench.baseline import TokenBaseline
from workbench.language_model import gather_positions
from workbench.model import Calm

NUM_ORDERS = 4
Variant = Literal["reread", "cached", "batched"]


def plain_brier(
    model: Calm | TokenBaseline,
    windows: Tensor,
    positions: Tensor,
    *,
    variant: Variant,
    rng: torch.Generator,
) -> Tensor:
    """Unbiased two-sample estimates of Brier-1..4, (B, n, O), of windows (B, T) at ``positions`` (n,): multiples
    of K in rising order, four tokens of truth after each."""
    first, second = sample_pairs(model, windows, positions, variant=variant, rng=rng)
    truth = torch.stack([windows[:, p : p + NUM_ORDERS] for p in positions.tolist()], 1)  # (B, n, O)
    return _same(first, truth) + _same(second, truth) - _same(first, second)


def _same(x: Tensor, y: Tensor) -> Tensor:
    """1 where the first n tokens agree, for n = 1..O: (..., O)."""
    return (x == y).cumprod(-1).float()


@torch.no_grad()
def sample_pairs(
    model: Calm | TokenBaseline,
    windows: Tensor,
    positions: Tensor,
    *,
    variant: Variant,
    rng: torch.Generator,
) -> Tensor:
    """Two independent continuations of four tokens after every position, (2, B, n, O). ``reread`` and ``cached``
    draw the same ones from the same ``rng``."""
    if variant == "batched":
        return _batched(model, windows, positions, rng)[..., :NUM_ORDERS]
    loop = _reread if variant == "reread" else _cached
    return torch.stack([loop(model, window, positions, rng) for window in windows], 1)[..., :NUM_ORDERS]


def _reread(model: Calm | TokenBaseline, window: Tensor, positions: Tensor, rng: torch.Generator) -> Tensor:
    """Two continuations of every position of one window, (2, n, J*K)."""
    pairs = []
    for position in reversed(positions.tolist()):
        text = window[None, :position]
        for _ in range(math.ceil(NUM_ORDERS / model.chunk_size)):
            hidden = _read(model, text)[:, -1].expand(2, -1)
            text = torch.cat([text.expand(2, -1), _draw(model, hidden, rng)], 1)
        pairs.append(text[:, position:])
    return torch.stack(pairs[::-1], 1)


def _cached(model: Calm | TokenBaseline, window: Tensor, positions: Tensor, rng: torch.Generator) -> Tensor:
    """The same, (2, n, J*K), with one pass over the window.

    Positions are taken from the last to the first, so that one cache serves them all: cut back to a position, it
    is overwritten only where it is not needed any more."""
    k = model.chunk_size
    num_chunks = math.ceil(NUM_ORDERS / k)
    one = KVCache(capacity=len(window) // k)
    main = _read(model, window[None], one)[0]  # (P, D)
    cache = _two_rows(one, model.network.config.backbone.num_layers) if num_chunks > 1 else one
    pairs = []
    for position in reversed(positions.tolist()):
        cache.length = position // k
        chunks = [_draw(model, main[position // k - 1].expand(2, -1), rng)]
        while len(chunks) < num_chunks:
            chunks.append(_draw(model, _read(model, chunks[-1], cache)[:, -1], rng))
        pairs.append(torch.cat(chunks, 1))
    return torch.stack(pairs[::-1], 1)


def _batched(model: Calm | TokenBaseline, windows: Tensor, positions: Tensor, rng: torch.Generator) -> Tensor:
    """Two next chunks of every position of every window, (2, B, n, K), for K >= 4."""
    assert isinstance(model, Calm), "the batched variant needs one chunk to hold every n-gram"
    assert model.chunk_size >= NUM_ORDERS, "the batched variant needs one chunk to hold every n-gram"
    index = (positions // model.chunk_size - 1).expand(len(windows), -1)
    return model.sample_chunks(gather_positions(_read(model, windows), index), 2, rng=rng)[0]


def _read(model: Calm | TokenBaseline, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
    """Hidden states (R, P, D) of whole chunks of text (R, P*K); with a cache, after what it holds."""
    if isinstance(model, TokenBaseline):
        return model.network(tokens, cache)
    chunks = model.chunks(tokens)
    return model.network(chunks, model.feedback(chunks), cache)


def _draw(model: Calm | TokenBaseline, hidden: Tensor, rng: torch.Generator) -> Tensor:
    """One next chunk (R, K) of every row of hidden states (R, D)."""
    if isinstance(model, TokenBaseline):
        return torch.multinomial(model.network.log_probs(hidden).exp(), 1, generator=rng)
    return model.sample_chunks(hidden, 1, rng=rng)[0][0]


def _two_rows(cache: KVCache, num_layers: int) -> KVCache:
    """A cache of the same text for two rows."""
    double = KVCache(capacity=cache.length)
    for layer in range(num_layers):
        keys, values = cache.layer(layer)
        double.append(layer, keys.expand(2, -1, -1, -1), values.expand(2, -1, -1, -1))
    double.length = cache.length
    return double

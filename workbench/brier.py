"""BrierLM from samples or probabilities, on a common grid of positions (paper, section 5; METHOD section 5).

For n-grams that start right after a context, Brier(P, y) = 2 P(y) - sum_x P(x)^2. Everything here
returns one unbiased estimate a position and order; the geometric mean is taken once, over the whole
evaluation set, in ``workbench.uncertainty.summarise``.

Letters: B windows, T tokens, K chunk size, n positions, S samples, V vocabulary, R branches of a window,
r places where chunks are sampled, O = 4 orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.language_model import (
    ChunkSamples,
    DistributionContext,
    DistributionModel,
    SampledBranches,
    SampledContext,
    SampledModel,
)
from workbench.uncertainty import NUM_ORDERS, summarise

__all__ = ["NUM_ORDERS", "distribution_brier", "sampled_brier", "summarise"]


MAX_ELEMENTS = 2**26
"""Floats that the samples of a slice of positions, or one table of probabilities, may hold (256 MB): positions are
scored in slices of that size, whatever the windows, samples or vocabulary are. What head and decoder hold on top
of it is bounded in ``workbench.slices``."""


@torch.no_grad()
def sampled_brier(
    model: SampledModel,
    windows: Int[Tensor, "b t"],
    positions: Int[Tensor, " n"],
    *,
    num_samples: int,
    rng: torch.Generator,
    max_elements: int = MAX_ELEMENTS,
) -> Float[Tensor, "b n o"]:
    """Brier-1..4 of every position from S samples of a model with chunks of K tokens.

    Accuracy: with n > K, indicators of consecutive chunks are multiplied, each chunk sampled anew after
    the true text (a sample that matches so far has the true prefix). Collision: all pairs; with n > K one
    agreeing pair is drawn, S fresh samples continue from *its* chunk, and the result is weighted by the
    share of agreeing pairs (an unbiased estimate of sum_x P(x)^2 collision(x)).

    What cannot change an estimate is left out: chunks after a product that is 0 are not sampled, and a token is
    not decoded of a sample that already differs from all that it is compared with. The estimates' law is that of
    sampling everything, so the evaluation fingerprint does not depend on what is left out; which random numbers go
    where does, so a seed gives the same estimates only in one version of this function.

    The windows are read once; branches use that pass' keys and values. Positions are scored in slices of at most
    ``max_elements`` floats: each position's estimate depends on the slice only through its random numbers."""
    context = model.read(windows)
    of_pairs = num_samples**2 + 4 * num_samples  # truth values (S, S) with intermediates, tokens, counts
    row = windows.shape[0] * (num_samples * model.row_elements + of_pairs)
    parts = [
        _sampled_slice(model.chunk_size, context, windows, part, num_samples, rng)
        for part in positions.split(max(1, max_elements // row))
    ]
    return torch.cat(parts, dim=1)


def _sampled_slice(
    k: int, context: SampledContext, windows: Tensor, positions: Tensor, num_samples: int, rng: torch.Generator
) -> Tensor:
    """(B, n, O) of some positions."""
    first = (positions // k - 1).expand(windows.shape[0], -1)  # (B, n): last chunk of the context
    window, place = torch.ones_like(first).nonzero(as_tuple=True)  # (B*n,), all of them
    index = first[window, place]
    truth = windows[window.unsqueeze(-1), ((index + 1) * k).unsqueeze(-1) + _ahead(NUM_ORDERS, windows)]
    chunks = truth.split(k, dim=-1)  # of (B*n, K) tokens; of the last one only those that an order needs

    seen = _compare(context.sample(window, index, num_samples, rng=rng), chunks[0], pairs=True)
    accuracy = [seen.right]
    for j, chunk in enumerate(chunks[1:], 1):
        right = torch.zeros(chunk.shape, device=chunk.device)
        going = accuracy[-1][:, -1].nonzero()[:, 0]
        if len(going):
            samples = context.sample(window[going], index[going] + j, num_samples, rng=rng)
            right[going] = _compare(samples, chunk[going]).right
        accuracy.append(accuracy[-1][:, -1:] * right)

    collision = [seen.agree.unflatten(0, first.shape)]
    if len(chunks) > 1:
        agreed = _draw_agreeing(seen, rng).unflatten(0, first.shape)
        lengths = [chunk.shape[1] for chunk in chunks[1:]]
        branches = context.branch(first)
        collision += _continued(branches, agreed, collision[0][..., -1], lengths, num_samples, rng)
    estimate: Tensor = 2 * torch.cat(accuracy, -1).unflatten(0, first.shape) - torch.cat(collision, -1)
    return estimate


def _ahead(num: int, like: Tensor) -> Tensor:
    return torch.arange(num, device=like.device)


def _continued(
    branches: SampledBranches,
    chunk: Tensor,
    weight: Tensor,
    lengths: Sequence[int],
    num_samples: int,
    rng: torch.Generator,
) -> list[Tensor]:
    """Collision terms of the chunks after the first, (B, n, length) of each, from the chunk (B, n, K) that a pair
    agreed on and its weight (B, n). Only branches of positive weight are continued; windows that have fewer of
    them than another are filled up with branches of weight 0, which are never sampled."""
    found = [weight.new_zeros(*weight.shape, length) for length in lengths]
    column = _ahead(weight.shape[1], weight).expand_as(weight)  # (B, R): place of each branch
    for depth, length in enumerate(lengths):
        alive = weight > 0
        kept = alive.byte().argsort(dim=1, descending=True, stable=True)[:, : int(alive.sum(1).max())]
        if not kept.shape[1]:
            break
        weight, column = weight.gather(1, kept), column.gather(1, kept)
        branches.keep(kept)
        branches.extend(chunk.take_along_dim(kept.unsqueeze(-1), dim=1))
        window, branch = weight.nonzero(as_tuple=True)
        seen = _compare(branches.sample(window, branch, num_samples, rng=rng), length, pairs=True)
        agree = weight[window, branch].unsqueeze(-1) * seen.agree
        found[depth][window, column[window, branch]] = agree
        weight = torch.zeros_like(weight).index_put((window, branch), agree[:, -1])
        chunk = chunk.new_zeros(*weight.shape, length).index_put((window, branch), _draw_agreeing(seen, rng))
    return found


@dataclass(frozen=True)
class _Compared:
    """S samples at each of r places, compared token by token."""

    right: Tensor
    """(r, t) share of the samples whose first 1 ... t tokens are the true ones."""
    agree: Tensor
    """(r, t) share of the S(S-1)/2 pairs that agree on them."""
    tokens: Tensor
    """(S, r, t); -1 where a token was not needed."""
    others: Tensor
    """(S, r): how many other samples of the place have all tokens of this one."""


def _compare(samples: ChunkSamples, truth: Tensor | int, *, pairs: bool = False) -> _Compared:
    """The first tokens of the samples, compared with ``truth`` (r, t), or only so many, and where ``pairs`` are
    wanted with each other. Only tokens of samples that are so far like one of those are asked for."""
    num, shape = samples.num_samples, (samples.num_samples, samples.num_places)
    hit = torch.full(shape, not isinstance(truth, int), device=samples.device)
    same = torch.full((num, *shape), pairs, device=samples.device)  # (S, S, r)
    others = torch.zeros(shape, dtype=torch.long, device=samples.device)
    needed = torch.ones_like(hit)
    columns, right, agree = [], [], []
    for t in range(truth if isinstance(truth, int) else truth.shape[1]):
        which = needed.flatten().nonzero()[:, 0]
        column = torch.full((num * shape[1],), -1, device=samples.device)
        column = column.index_put((which,), samples.tokens(t, which)).view(shape)
        columns.append(column)
        if not isinstance(truth, int):
            hit = hit & (column == truth[:, t])
        if pairs:
            same = same & (column.unsqueeze(1) == column)
            others = same.sum(0) - 1
        right.append(hit.float().mean(0))
        agree.append(others.sum(0) / (num * (num - 1)))
        needed = hit | (others > 0)
    return _Compared(torch.stack(right, -1), torch.stack(agree, -1), torch.stack(columns, -1), others)


def _draw_agreeing(seen: _Compared, rng: torch.Generator) -> Tensor:
    """The tokens (r, t) of one agreeing pair, uniform among them; any where none agree (their weight is 0). A
    chunk that c samples have is drawn in proportion to c(c-1)."""
    upto = seen.others.cumsum(0)
    ticket = torch.rand(upto.shape[1:], generator=rng, device=upto.device, dtype=torch.float64) * upto[-1]
    chosen = (upto <= ticket).sum(0).clamp_max(len(upto) - 1)
    return seen.tokens[chosen, _ahead(len(chosen), chosen)].clamp_min(0)


@torch.no_grad()
def distribution_brier(
    model: DistributionModel,
    windows: Int[Tensor, "b t"],
    positions: Int[Tensor, " n"],
    *,
    rng: torch.Generator,
    context: DistributionContext | None = None,
    max_elements: int = MAX_ELEMENTS,
) -> tuple[Float[Tensor, "b n o"], Float[Tensor, "b n"]]:
    """Brier-1..4 of every position of a token model, and the log probability of the next token.

    P(y) is exact. sum_x P(x)^2 is exact for n = 1; for n > 1 the continuation is drawn from
    p^2 / sum p^2 and the sums are multiplied along the way, which is unbiased. ``context``: the windows, where
    they have been read already."""
    context = model.read(windows) if context is None else context
    row = windows.shape[0] * NUM_ORDERS * model.row_elements
    parts = [
        _distribution_slice(context, windows, part, rng) for part in positions.split(max(1, max_elements // row))
    ]
    return torch.cat([values for values, _ in parts], 1), torch.cat([log_truth for _, log_truth in parts], 1)


def _distribution_slice(
    context: DistributionContext, windows: Tensor, positions: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    seen = distribution_agreement(context, windows, positions, num_tokens=NUM_ORDERS, rng=rng)
    return 2 * seen.accuracy - seen.collision, seen.log_truth


@dataclass(frozen=True)
class Agreement:
    """How probable the true n-gram is, and that two draws agree, for n = 1 ... t at every position; (B, n, t)."""

    accuracy: Tensor
    collision: Tensor
    log_truth: Tensor
    """(B, n): log probability of the next token."""


@torch.no_grad()
def distribution_agreement(
    context: DistributionContext,
    windows: Int[Tensor, "b t"],
    positions: Int[Tensor, " n"],
    *,
    num_tokens: int,
    rng: torch.Generator,
    temperature: float = 1.0,
) -> Agreement:
    """Of a token model whose every next token is drawn at a temperature (softmax of logits / temperature). The
    accuracy is exact, and so is the collision of one token; of more it is an unbiased estimate."""

    def tempered(log_probs: Tensor) -> Tensor:
        return log_probs if temperature == 1.0 else (log_probs / temperature).log_softmax(-1)

    first = (positions - 1).expand(windows.shape[0], -1)
    index = (first.unsqueeze(-1) + _ahead(num_tokens, windows)).flatten(1)
    log_probs = tempered(context.log_probs(index)).unflatten(1, (-1, num_tokens))  # (B, n, t, V)
    truth = windows.gather(1, index + 1).view(*first.shape, num_tokens, 1)
    log_truth = log_probs.gather(-1, truth).squeeze(-1)

    branches = context.branch(first)
    squared = log_probs[:, :, 0].exp().square()  # (B, n, V)
    weight = squared.sum(-1)
    collisions = [weight]
    for _ in range(1, num_tokens):
        token = torch.multinomial(squared.flatten(0, 1), 1, generator=rng).view(first.shape)
        branches.extend(token)
        squared = tempered(branches.log_probs()).exp().square()
        weight = weight * squared.sum(-1)
        collisions.append(weight)
    return Agreement(log_truth.cumsum(-1).exp(), torch.stack(collisions, -1), log_truth[..., 0])


@torch.no_grad()
def text_log_probs(
    model: DistributionModel,
    context: DistributionContext,
    windows: Int[Tensor, "b t"],
    first: int,
    *,
    max_elements: int = MAX_ELEMENTS,
) -> Float[Tensor, "b m"]:
    """Log probability of every true token from offset ``first`` on, (B, T - first)."""
    tokens = torch.arange(first, windows.shape[1], device=windows.device)
    parts = []
    for part in tokens.split(max(1, max_elements // (windows.shape[0] * model.row_elements))):
        log_probs = context.log_probs((part - 1).expand(windows.shape[0], -1))
        parts.append(log_probs.gather(-1, windows[:, part].unsqueeze(-1)).squeeze(-1))
    return torch.cat(parts, dim=1)

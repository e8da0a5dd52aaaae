"""BrierLM from samples or probabilities, on a common grid of positions (paper, section 5; METHOD section 5).

For n-grams that start right after a context, Brier(P, y) = 2 P(y) - sum_x P(x)^2. Everything here
returns one unbiased estimate a position and order; the geometric mean is taken once, over the whole
evaluation set, in ``workbench.uncertainty.summarise``.

Letters: B windows, T tokens, K chunk size, n positions, S samples, V vocabulary, J = ceil(4 / K) chunks,
W windows of the whole set, O = 4 orders.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.language_model import DistributionContext, DistributionModel, SampledContext, SampledModel
from workbench.uncertainty import NUM_ORDERS, summarise

__all__ = ["NUM_ORDERS", "distribution_brier", "sampled_brier", "summarise"]


MAX_ELEMENTS = 2**26
"""Floats that one call of head and decoder, or one table of probabilities, may hold (256 MB): positions are
scored in slices of that size, whatever the windows, samples or vocabulary are."""


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

    The windows are read once; branches use that pass' keys and values. Positions are scored in slices of at most
    ``max_elements`` floats: each position's estimate depends on the slice only through its random numbers."""
    num_chunks = math.ceil(NUM_ORDERS / model.chunk_size)
    context = model.read(windows)
    pairs = num_samples * (num_samples - 1) // 2  # one int64 and two truth values for each token of a pair
    row = windows.shape[0] * max(num_samples * num_chunks * model.row_elements, 3 * model.chunk_size * pairs)
    parts = [
        _sampled_slice(model, context, windows, part, num_samples, rng)
        for part in positions.split(max(1, max_elements // row))
    ]
    return torch.cat(parts, dim=1)


def _sampled_slice(
    model: SampledModel,
    context: SampledContext,
    windows: Tensor,
    positions: Tensor,
    num_samples: int,
    rng: torch.Generator,
) -> Tensor:
    """(B, n, O) of some positions."""
    k = model.chunk_size
    num_chunks = math.ceil(NUM_ORDERS / k)
    first = (positions // k - 1).expand(windows.shape[0], -1)  # (B, n): last chunk of the context
    ahead = torch.arange(num_chunks, device=windows.device)
    index = (first.unsqueeze(-1) + ahead).flatten(1)  # (B, n*J)
    samples = context.sample(index, num_samples, rng=rng)
    samples = samples.unflatten(2, (-1, num_chunks))  # (S, B, n, J, K)
    accuracy = _sampled_accuracy(samples, _true_chunks(windows, first, num_chunks, k))

    collisions = []
    weight = torch.ones(first.shape, device=windows.device)
    current = samples[:, :, :, 0]  # (S, B, n, K)
    branches = context.branch(first) if num_chunks > 1 else None
    for depth in range(num_chunks):
        agree = _agreeing_pairs(current)  # (pairs, B, n, K)
        collisions.append(weight.unsqueeze(-1) * agree.float().mean(0))
        if branches is not None and depth + 1 < num_chunks:
            weight = collisions[-1][..., -1]
            branches.extend(_draw_agreeing(current, agree[..., -1], rng))
            current = branches.sample(num_samples, rng=rng)
    collision = torch.cat(collisions, dim=-1)[..., :NUM_ORDERS]
    return 2 * accuracy - collision


def _true_chunks(windows: Tensor, first: Tensor, num_chunks: int, k: int) -> Tensor:
    """The J chunks after chunk ``first``: (B, n, J, K)."""
    start = (first + 1) * k
    offsets = start.unsqueeze(-1) + torch.arange(num_chunks * k, device=windows.device)
    return windows.gather(1, offsets.flatten(1)).view(*first.shape, num_chunks, k)


def _sampled_accuracy(samples: Tensor, truth: Tensor) -> Tensor:
    """P(y_1..y_n) of every order, (B, n, O), from samples (S, B, n, J, K) and truth (B, n, J, K)."""
    prefix = (samples == truth).cumprod(-1).float().mean(0)  # (B, n, J, K): first t tokens of chunk j match
    before = prefix[..., -1].cumprod(-1).roll(1, -1)  # product over the whole chunks before chunk j
    before[..., 0] = 1.0
    return (before.unsqueeze(-1) * prefix).flatten(-2)[..., :NUM_ORDERS]


def _agreeing_pairs(samples: Tensor) -> Tensor:
    """Which of the S(S-1)/2 pairs agree on the first t tokens: (pairs, B, n, K), bool."""
    num = samples.shape[0]
    first, second = torch.triu_indices(num, num, offset=1, device=samples.device)
    return (samples[first] == samples[second]).cumprod(-1).bool()


def _draw_agreeing(samples: Tensor, agree: Tensor, rng: torch.Generator) -> Tensor:
    """The chunk of one agreeing pair, uniform among them, (B, n, K); any chunk where none agree (its
    weight is 0). A chunk with count c is drawn in proportion to c(c-1)/2."""
    num = samples.shape[0]
    owner = torch.triu_indices(num, num, offset=1, device=samples.device)[0]
    tickets = torch.rand(agree.shape, generator=rng, device=agree.device) * agree
    chosen = owner[tickets.argmax(0)]  # (B, n)
    return samples.gather(0, chosen[None, ..., None].expand(1, -1, -1, samples.shape[-1]))[0]


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
    first = (positions - 1).expand(windows.shape[0], -1)
    ahead = torch.arange(NUM_ORDERS, device=windows.device)
    index = (first.unsqueeze(-1) + ahead).flatten(1)
    log_probs = context.log_probs(index).unflatten(1, (-1, NUM_ORDERS))  # (B, n, O, V)
    truth = windows.gather(1, index + 1).view(*first.shape, NUM_ORDERS, 1)
    log_truth = log_probs.gather(-1, truth).squeeze(-1)
    accuracy = log_truth.cumsum(-1).exp()

    branches = context.branch(first)
    squared = log_probs[:, :, 0].exp().square()  # (B, n, V)
    weight = squared.sum(-1)
    collisions = [weight]
    for _ in range(1, NUM_ORDERS):
        token = torch.multinomial(squared.flatten(0, 1), 1, generator=rng).view(first.shape)
        branches.extend(token)
        squared = branches.log_probs().exp().square()
        weight = weight * squared.sum(-1)
        collisions.append(weight)
    return 2 * accuracy - torch.stack(collisions, -1), log_truth[..., 0]


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

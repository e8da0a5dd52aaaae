"""BrierLM from samples or probabilities, on a common grid of positions (paper, section 5; METHOD section 5).

For n-grams that start right after a context, Brier(P, y) = 2 P(y) - sum_x P(x)^2. Everything here
returns one unbiased estimate a position and order; the geometric mean is taken once, over the whole
evaluation set, in ``summarise``.

Letters: B windows, T tokens, K chunk size, n positions, S samples, V vocabulary, J = ceil(4 / K) chunks,
W windows of the whole set, O = 4 orders.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.language_model import DistributionModel, SampledModel
from workbench.records import Brier

NUM_ORDERS = 4


@torch.no_grad()
def sampled_brier(
    model: SampledModel,
    windows: Int[Tensor, "b t"],
    positions: Int[Tensor, " n"],
    *,
    num_samples: int,
    rng: torch.Generator,
) -> Float[Tensor, "b n o"]:
    """Brier-1..4 of every position from S samples of a model with chunks of K tokens.

    Accuracy: with n > K, indicators of consecutive chunks are multiplied, each chunk sampled anew after
    the true text (a sample that matches so far has the true prefix). Collision: all pairs; with n > K one
    agreeing pair is drawn, S fresh samples continue from *its* chunk, and the result is weighted by the
    share of agreeing pairs (an unbiased estimate of sum_x P(x)^2 collision(x))."""
    k = model.chunk_size
    num_chunks = math.ceil(NUM_ORDERS / k)
    first = (positions // k - 1).expand(windows.shape[0], -1)  # (B, n): last chunk of the context
    context = model.read(windows)
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
) -> tuple[Float[Tensor, "b n o"], Float[Tensor, "b n"]]:
    """Brier-1..4 of every position of a token model, and the log probability of the next token.

    P(y) is exact. sum_x P(x)^2 is exact for n = 1; for n > 1 the continuation is drawn from
    p^2 / sum p^2 and the sums are multiplied along the way, which is unbiased."""
    first = (positions - 1).expand(windows.shape[0], -1)
    context = model.read(windows)
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


def summarise(values: npt.NDArray[np.floating], clusters: npt.NDArray[np.integer]) -> Brier:
    """Brier-n in per cent, BrierLM, and standard errors.

    ``values`` (W, n, O): estimates of every position. ``clusters`` (W,): windows with the same number are
    one cluster. The error of BrierLM comes from the delta method through the logarithms, with clusters of
    positions as the independent units; where an order is not above its own error, that error stands in
    for it, so that a BrierLM of 0 still has a scale."""
    assert values.ndim == 3, f"values must be (W, n, O), got {values.shape}"
    mean = values.mean((0, 1))  # (O,)
    residual = cluster_residuals((values - mean).mean(1), clusters)
    se = cluster_se(residual)
    scale = np.maximum(mean, np.maximum(se, 1e-12))
    brierlm_at = 100 * float(np.exp(np.log(scale).mean()))
    influence = brierlm_at * (residual / (NUM_ORDERS * scale)).sum(1, keepdims=True)
    brierlm = 100 * float(np.exp(np.log(mean).mean())) if (mean > 0).all() else 0.0
    brierlm_se = float(cluster_se(influence)[0])
    return Brier(
        brier=[100 * float(m) for m in mean],
        brier_se=[100 * float(s) for s in se],
        brierlm=brierlm,
        brierlm_se=brierlm_se,
        num_positions=values.shape[0] * values.shape[1],
        num_clusters=len(residual),
        score=smooth_score(mean, se),
    )


def cluster_residuals(
    deviations: npt.NDArray[np.floating], clusters: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """Deviations (W, ...) of windows from the mean to residuals (clusters, ...): each cluster's sum in units
    of a cluster of mean size, so that equal sizes give cluster mean - mean."""
    labels, member = np.unique(clusters, return_inverse=True)
    residual = np.zeros((len(labels), *deviations.shape[1:]))
    np.add.at(residual, member, deviations)
    return residual * (len(labels) / len(deviations))


def cluster_se(residual: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Standard error of the mean from cluster residuals, over the first axis."""
    num = len(residual)
    return np.asarray(np.sqrt((residual**2).sum(0) / (num * max(num - 1, 1))))


def smooth_score(mean: npt.NDArray[np.floating], se: npt.NDArray[np.floating]) -> float:
    """A study's objective: 100 * (prod_n s_n f(b_n / s_n))^(1/4) with s_n the error of order n, and
    f(x) = x from 2 on, 2 exp(x/2 - 1) below.

    It is BrierLM wherever every order lies above two of its errors. Where BrierLM cannot be told from 0 (or is
    0 because one order is negative) it stays positive, smooth and increasing in every order, so that such
    settings can still be told apart; there is no jump between the two."""
    se = np.maximum(se, 1e-6)
    ratio = mean / se
    log_f = np.where(ratio >= 2.0, np.log(np.maximum(ratio, 2.0)), np.log(2.0) + ratio / 2 - 1.0)
    return 100 * float(np.exp((np.log(se) + log_f).mean()))

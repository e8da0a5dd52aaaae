"""Where is the quality of a CALM lost: in the autoencoder, in the noise that the head makes, in what the head
predicts, or in the context that it does not use? (METHOD sections 1, 2, 5 and 8; the panel is ours.)

Everything is read off one chunk: n-grams are the first n = 1 ... min(K, 4) tokens of the chunk that starts at a
scored position, so no continuation is needed and all parts are compared at the same positions.

Letters: W windows, T tokens, K chunk size, P chunks, n positions, S samples, D width, L latent dimension,
O = min(K, 4) orders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.brier import NUM_ORDERS
from workbench.config import EvalConfig
from workbench.layers import generator
from workbench.model import Calm
from workbench.posterior import Posterior
from workbench.records import Bottleneck

MIN_SAMPLES = 32
"""S is at least this, whatever ``eval.num_samples`` says: BrierLM is unbiased for any S, but the most frequent of
few samples is hardly more than the first of them, and a panel costs little."""
NOISE_DRAWS = 8
"""Samples of a position whose noise is measured: each must be encoded and decoded again, which costs more than
drawing it, and so few already tell the noise to a per cent."""
_AT_ONCE = 2**21
"""Elements of the largest tensor of a batch of positions, 8 MB in float32; larger batches are no faster."""
_READ_TOKENS = 4096
"""Tokens of the windows that are read at a time, at least one window."""


@dataclass(frozen=True)
class Places:
    """The scored positions of all windows, window after window: n = windows x positions of a window."""

    hidden: Float[Tensor, "n d"]
    """States from which the chunk at each position is predicted."""
    truth: Int[Tensor, "n k"]
    posterior: Posterior
    """(n, L), of the true chunks."""
    per_window: int

    def next_window(self, values: Tensor) -> Tensor:
        """At every place, what ``values`` (n, ...) holds at the same position of the next window, after the last
        one of the first."""
        return values.roll(-self.per_window, 0)


@torch.no_grad()
def bottleneck(
    model: Calm,
    config: EvalConfig,
    windows: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
    *,
    num_windows: int = 32,
) -> Bottleneck:
    """The panel of ``model`` at ``positions`` (n,) of the first ``num_windows`` of ``windows`` (W, T), as in
    ``grid.Grid``; at least two windows. Scores are in per cent. Any K, any head.

    One set of S = max(32, ``config.num_samples``) samples z a position, decoded to chunks c, serves all of it:

    * the model: Brier-n from all S indicators and all pairs, share of right samples, most frequent n-gram;
    * another window's context: the samples at a position are scored against the truth at the same position of
      the next window. The collision term is then the same in the mean, so the gain from context is twice the
      difference in accuracy, free of the collision's noise;
    * the autoencoder alone: decoding the posterior mean mu of the true chunk is deterministic, so Brier-n is
      2 * accuracy - 1, what a perfect head (a point mass on mu) would reach;
    * the head's noise r = z - mu(c) is what a sample adds to the vector of the chunk that it decodes to. The
      first ``NOISE_DRAWS`` r of a position are added to the next window's mu(truth), so that they are
      independent of that truth, and decoded; Brier-n from all of them and all pairs, unbiased for the noise law
      of another position, in the mean over positions. r is understated where z decodes to a wrong chunk,
      because it is then measured from that chunk, the nearer one: such losses count as the head's prediction.

    Float32 (sums in float64) under any autocast; batch b draws from generator(config.seed, "bottleneck", b)."""
    chosen, num_samples = windows[:num_windows], max(MIN_SAMPLES, config.num_samples)
    assert len(chosen) >= 2, "another window's context needs two windows"
    orders = min(model.chunk_size, NUM_ORDERS)
    with torch.autocast(model.device.type, enabled=False):
        places = read_places(model, chosen, positions)
        mean = places.posterior.mean
        reproduced = right_prefixes(model.autoencoder.decode(mean)[None], places.truth, orders)
        found = _measure(model, places, num_samples, orders, config.seed)
        true = Moments()
        true.add(mean)
    return Bottleneck(
        num_positions=len(places.truth),
        num_samples=num_samples,
        brier=_percent(found.scores["brier"]),
        autoencoder_brier=_percent(2 * reproduced[0].double() - 1),
        noisy_brier=_percent(found.scores["noisy"]),
        head_noise=math.sqrt(found.squared_noise / (NOISE_DRAWS * mean.numel())),
        posterior_noise=float(places.posterior.std.double().square().mean().sqrt()),
        mode_accuracy=_percent(found.scores["mode"]),
        sample_accuracy=_percent(found.scores["accuracy"]),
        shuffled_brier=_percent(found.scores["shuffled"]),
        effective_rank_posterior=true.effective_rank(),
        effective_rank_samples=found.latents.effective_rank(),
        latent_dim=mean.shape[-1],
    )


@dataclass
class _Measured:
    """What the head's samples at all places gave."""

    scores: dict[str, Tensor]
    """(n, O) of every place: those of ``sample_scores`` and "noisy"."""
    latents: Moments
    squared_noise: float
    """Summed over draws, places and latent dimensions."""


def _measure(model: Calm, places: Places, num_samples: int, orders: int, seed: int) -> _Measured:
    """Draw, decode and score the samples, in batches of places."""
    next_truth, next_mean = places.next_window(places.truth), places.next_window(places.posterior.mean)
    scores: dict[str, list[Tensor]] = {}
    moments, squared_noise = Moments(), 0.0
    batches = torch.arange(len(places.truth), device=model.device).split(_batch_size(model, num_samples))
    for number, part in enumerate(batches):
        rng = generator(seed, "bottleneck", number, device=model.device)
        chunks, latents = model.sample_chunks(places.hidden[part], num_samples, rng=rng)  # (S, n, K), (S, n, L)
        found = sample_scores(chunks, places.truth[part], next_truth[part], orders)
        noise = latents[:NOISE_DRAWS] - model.autoencoder.encode(chunks[:NOISE_DRAWS]).mean
        noisy = model.autoencoder.decode(next_mean[part] + noise)
        found["noisy"] = sample_brier(noisy, next_truth[part], orders)
        for name, values in found.items():
            scores.setdefault(name, []).append(values)
        moments.add(latents.flatten(0, 1))
        squared_noise += float(noise.double().square().sum())
    return _Measured({name: torch.cat(values) for name, values in scores.items()}, moments, squared_noise)


def read_places(model: Calm, windows: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> Places:
    """Hidden states, true chunks and their posteriors at ``positions`` (n,) of ``windows`` (W, T)."""
    k = model.chunk_size
    assert not (positions % k).any(), f"positions must be chunk boundaries, multiples of {k}"
    assert positions.min() >= k, "the first chunk of a window is never predicted"
    assert positions.max() + k <= windows.shape[1], "the chunk at a position must lie inside the window"
    index = torch.from_numpy(positions).to(model.device) // k  # (n,): the chunk that starts there
    hidden, truth = [], []
    for part in torch.from_numpy(windows).split(max(1, _READ_TOKENS // windows.shape[1])):
        chunks = model.chunks(part.to(model.device))  # (W, P, K)
        hidden.append(model.network(chunks, model.feedback(chunks))[:, index - 1].float().flatten(0, 1))
        truth.append(chunks[:, index].flatten(0, 1))
    chunk = torch.cat(truth)
    return Places(torch.cat(hidden), chunk, model.autoencoder.encode(chunk).float(), len(positions))


def _batch_size(model: Calm, num_samples: int) -> int:
    """Positions whose S samples go through head, decoder and encoder, and are compared pair by pair, at once."""
    inner = model.autoencoder.config.mlp_width
    assert inner is not None, "resolve the configuration first"
    widest = max(model.network.config.backbone.width, model.chunk_size * 2 * inner, num_samples)  # 2: SwiGLU
    return max(1, _AT_ONCE // (num_samples * widest))


def _percent(values: Float[Tensor, "n o"]) -> list[float]:
    """Mean over positions of each order."""
    return [100 * float(value) for value in values.mean(0)]


def sample_scores(
    chunks: Int[Tensor, "s n k"], truth: Int[Tensor, "n k"], other: Int[Tensor, "n k"], orders: int
) -> dict[str, Float[Tensor, "n o"]]:
    """Of S samples a position: ``brier`` and ``accuracy`` against ``truth``, ``shuffled`` Brier-n against
    ``other``, the truth of another context, and ``mode``: whether the most frequent n-gram among the samples (of
    several, the one drawn first) is the true one. Float64."""
    right, counts = right_prefixes(chunks, truth, orders), agreement(chunks, orders)
    accuracy, collision = right.double().mean(0), _collision(counts)
    first_mode = counts.argmax(0, keepdim=True)  # the first of equal maxima
    return {
        "brier": 2 * accuracy - collision,
        "accuracy": accuracy,
        "mode": right.gather(0, first_mode)[0].double(),
        "shuffled": 2 * right_prefixes(chunks, other, orders).double().mean(0) - collision,
    }


def sample_brier(chunks: Int[Tensor, "s n k"], truth: Int[Tensor, "n k"], orders: int) -> Float[Tensor, "n o"]:
    """Brier-1 ... Brier-O of every position from all S samples and all S(S-1)/2 pairs, unbiased; float64."""
    right = right_prefixes(chunks, truth, orders).double().mean(0)
    return 2 * right - _collision(agreement(chunks, orders))


def right_prefixes(chunks: Int[Tensor, "s n k"], truth: Int[Tensor, "n k"], orders: int) -> Bool[Tensor, "s n o"]:
    """Whether the first 1 ... O tokens of each sample are the true ones."""
    return (chunks == truth)[..., :orders].cumprod(-1).bool()


def agreement(chunks: Int[Tensor, "s n k"], orders: int) -> Int[Tensor, "s n o"]:
    """How many of the S samples at a position begin with the same 1 ... O tokens as this one, itself included."""
    same = torch.ones((), dtype=torch.bool, device=chunks.device)
    counts = []
    for token in chunks[..., :orders].unbind(-1):  # (S, n)
        same = same & (token.unsqueeze(1) == token)  # (S, S, n)
        counts.append(same.sum(1))
    return torch.stack(counts, -1)


def _collision(counts: Int[Tensor, "s n o"]) -> Float[Tensor, "n o"]:
    """Share of the pairs of different samples that agree, from ``agreement``."""
    num = counts.shape[0]
    return (counts.sum(0) - num).double() / (num * (num - 1))


class Moments:
    """First and second moments of latent vectors that come in parts, in float64."""

    def __init__(self) -> None:
        self.number = 0
        self.total: Tensor | None = None  # (L,)
        self.outer: Tensor | None = None  # (L, L)

    def add(self, vectors: Float[Tensor, "n l"]) -> None:
        x = vectors.double()
        self.number += len(x)
        self.total = x.sum(0) if self.total is None else self.total + x.sum(0)
        self.outer = x.T @ x if self.outer is None else self.outer + x.T @ x

    def effective_rank(self) -> float:
        """exp(-sum_i p_i log p_i) with p the eigenvalues of the covariance divided by their sum: the number of
        equally strong directions that would be as spread out; between 1 and L.

        0 where the vectors do not vary (by less than float32 can tell), nan where one is not finite. From few
        vectors it is too low: of m independent ones with L equal variances it finds about L exp(-L / 2m)."""
        assert self.total is not None, "add vectors first"
        assert self.outer is not None
        mean, second = self.total / self.number, self.outer / self.number
        covariance = second - torch.outer(mean, mean)
        if not bool(covariance.isfinite().all()):
            return math.nan
        if float(covariance.trace()) <= 1e-12 * float(second.trace()):  # (1e-6 of the vectors' size)^2
            return 0.0
        eigenvalues = torch.linalg.eigvalsh(covariance).clamp_min(0)
        share = eigenvalues / eigenvalues.sum()
        return float(torch.special.entr(share).sum().exp())

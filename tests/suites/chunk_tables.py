"""Chunks with known probabilities, as a source of samples, and the test that a sampler has its law.

Letters: n places, V chunks, K chunk size, s samples of each of m listed places.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from workbench.temperature import Draws, Tempered

LAWS = torch.tensor(
    [
        [0.8, 0.1, 0.06, 0.04, 0.0, 0.0],
        [1 / 6] * 6,
        [0.45, 0.25, 0.15, 0.1, 0.04, 0.01],
        [0.6, 0.2, 0.2, 0.0, 0.0, 0.0],
    ],
    dtype=torch.float64,
)
"""(4, 6): of the chunks 0 ... 5, from nearly certain to uniform."""
UNIFORM = 1
"""The one that no temperature changes."""
ORDINARY, TOO_RARE = 1e-4, 1e-9
"""A p-value above the former is no surprise; one below the latter is a rejection."""


class TableSource:
    """``probs`` (n, V) of the chunks (V, K); by default chunk i is the token i. The latent vectors are (number of
    the chunk, a number of the sample's own)."""

    def __init__(self, probs: Tensor, chunks: Tensor | None = None) -> None:
        self.probs = probs.double()
        self.chunks = torch.arange(probs.shape[1]).unsqueeze(1) if chunks is None else chunks
        self.num_places = len(probs)
        self.device = probs.device
        self.asked: list[tuple[int, int]] = []
        """(m, s) of every call."""

    def draw(self, places: Tensor, num_samples: int, *, rng: torch.Generator) -> Draws:
        self.asked.append((len(places), num_samples))
        which = torch.multinomial(self.probs[places], num_samples, replacement=True, generator=rng).T  # (s, m)
        own = torch.rand(which.shape, generator=rng)
        return Draws(self.chunks[which], torch.stack([which.float(), own], -1))

    @property
    def drawn(self) -> int:
        return sum(m * s for m, s in self.asked)


def tempered_probs(probs: Tensor, temperature: float) -> Tensor:
    """P^(1/tau), normalised."""
    return torch.softmax(probs.double().log() / temperature, dim=-1)


class Stream:
    """Fixed samples of every place, (s, n, K), handed out in order."""

    def __init__(self, chunks: Tensor) -> None:
        self.chunks = chunks
        self.num_places = chunks.shape[1]
        self.device = chunks.device
        self.read = torch.zeros(self.num_places, dtype=torch.long)

    def draw(self, places: Tensor, num_samples: int, *, rng: torch.Generator) -> Draws:
        rows = self.read[places] + torch.arange(num_samples).unsqueeze(1)
        self.read[places] += num_samples
        return Draws(self.chunks[rows, places])


def many(probs: Tensor, num: int) -> TableSource:
    """Every law at ``num`` places: place i has law i modulo their number."""
    return TableSource(probs.repeat(num, 1))


def p_values(found: Tempered, laws: Tensor) -> list[float]:
    """Chi-square of the chunks at the places of every law, ``many`` having set them out."""
    return [p_value(found.chunks[i :: len(laws), 0], law) for i, law in enumerate(laws)]


def p_value(tokens: Tensor, law: Tensor) -> float:
    """Chi-square; chunks that are expected less than five times are one."""
    counts = np.bincount(tokens.numpy(), minlength=len(law))
    assert len(counts) == len(law)
    expected = len(tokens) * law.double().numpy()
    assert not counts[expected == 0].any()
    common = expected >= 5
    cells = [(counts[common], expected[common])]
    if expected[~common].sum() > 0.5:
        cells.append((counts[~common].sum(keepdims=True), expected[~common].sum(keepdims=True)))
    observed, wanted = (np.concatenate(part) for part in zip(*cells, strict=True))
    if len(wanted) == 1:
        return 1.0
    return float(stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue)

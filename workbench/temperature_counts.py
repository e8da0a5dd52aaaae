"""How often each chunk occurs among the samples of a place: what sampling at a temperature counts.

On the processor and in numpy, whatever the device: it sorts several times faster there than torch does, and what
goes there is small beside the networks that sampled it.

Letters: s samples of each of m places, K chunk size, w words of a chunk, r different labels of all places.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]


def labels_of(chunks: Int[Tensor, "s m k"]) -> Ints:
    """Numbers (m, s) that are equal exactly where chunks are: their tokens' bytes side by side."""
    tokens = chunks.cpu().numpy()
    bits = int(np.bitwise_or.reduce(tokens, axis=None))  # negative if any is
    width = next(width for width in (1, 2, 4, 8) if width == 8 or 0 <= bits < 256**width)
    k = tokens.shape[-1]
    size = next((size for size in (1, 2, 4, 8) if size >= width * k), 8 * math.ceil(width * k / 8))
    narrow = np.zeros((*tokens.shape[:-1], size // width), dtype=f"u{width}")
    narrow[..., :k] = tokens
    words = narrow.view(f"u{min(size, 8)}")  # (s, m, w)
    label: Ints = words[..., 0]
    for w in range(1, words.shape[-1]):
        left, right = (np.unique(each, return_inverse=True)[1] for each in (label, words[..., w]))
        label = left * (right.max() + 1) + right
    return np.ascontiguousarray(label.T)


class Counts:
    """Of labels (m, s): how often each occurs at its place, the labels of all places one after another."""

    def __init__(self, labels: Ints) -> None:
        m, self.num_samples = labels.shape
        self.ordered = np.sort(labels, axis=1).reshape(-1)
        """(m * s,): the places' labels, sorted."""
        is_edge = np.ones(labels.size + 1, dtype=bool)
        np.not_equal(self.ordered[1:], self.ordered[:-1], out=is_edge[1:-1])
        is_edge[:: self.num_samples] = True
        edges = np.flatnonzero(is_edge)
        self.start: Ints = edges[:-1]
        """(r,): where each label's run begins."""
        self.count: Ints = edges[1:] - edges[:-1]
        """(r,): how often it occurs."""
        self.first = np.searchsorted(self.start, np.arange(m) * self.num_samples)
        """(m,): which label is the first of each place."""

    def most(self) -> Ints:
        """(m,): how often the most frequent label of each place occurs."""
        found: Ints = np.maximum.reduceat(self.count, self.first)
        return found

    def seen(self, times: int) -> Ints:
        """(m,): how many labels of each place occur so often."""
        found: Ints = np.add.reduceat((self.count == times).astype(np.int64), self.first)
        return found

    def power_sum(self, power: float) -> Floats:
        """(m,): estimates of sum_x P(x)^power, G(c) / G(s) summed over the labels that occur c >= power times,
        with G as in ``log_weights``. Unbiased for whole powers."""
        log_weight = log_weights(power, self.num_samples)
        each = np.exp(log_weight - log_weight[-1]) * (np.arange(len(log_weight)) >= power)
        found: Floats = np.add.reduceat(each[self.count], self.first)
        return found


@lru_cache(maxsize=16)
def log_weights(power: float, most: int) -> Floats:
    """log G(c), G(c) = Gamma(c+1) / Gamma(c+1-power), for c = 0 ... most; 0 for c < power. For whole powers these
    are the falling factorials c (c-1) ... (c-power+1)."""
    count = torch.arange(most + 1, dtype=torch.float64)
    values = torch.where(count >= power, torch.lgamma(count + 1) - torch.lgamma(count + 1 - power), 0.0)
    return np.asarray(values.numpy())

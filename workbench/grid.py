"""What is scored: windows of held-out text and the positions in them, the same for every model. Imports no torch.

Letters: W windows, T tokens of a window (eval.context_len), n positions of a window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from workbench.config import EvalConfig, content_hash
from workbench.data import Corpus
from workbench.errors import DataError

MANY_DOCUMENTS = 30
"""From so many documents in the split on, a document is a cluster of the standard error; below, a window is."""
NOT_IN_FINGERPRINT = {
    *{"seed", "num_windows", "target_se", "max_positions"},
    *{"network_calls", "solvers", "tradeoff", "sample_tokens"},
}
_FORMAT = 2


@dataclass(frozen=True)
class Grid:
    """The same for every model with the same fingerprint, but for how many windows it has: the windows of a
    smaller grid are the first ones of a larger one."""

    windows: npt.NDArray[np.int64]
    """(W, T)."""
    positions: npt.NDArray[np.int64]
    """(n,) token offsets in a window: multiples of the stride with enough context before and the stride's
    tokens of truth after them."""
    clusters: npt.NDArray[np.int64]
    """(W,) number of the document, or of the window."""
    starts: npt.NDArray[np.int64]
    """(W,) token offset of each window in its split."""
    capacity: int
    """Windows without overlap that the split has."""
    fingerprint: str

    def first(self, num_windows: int) -> Grid:
        """Its first windows, or all where it has fewer."""
        return replace(
            self,
            windows=self.windows[:num_windows],
            clusters=self.clusters[:num_windows],
            starts=self.starts[:num_windows],
        )


def evaluation_grid(config: EvalConfig, corpus: Corpus, *, num_windows: int | None = None) -> Grid:
    """Windows without overlap, starting at token offsets of their own, however many spread evenly over the split.

    ``num_windows`` instead of the configuration's. Raises DataError where the split is too short."""
    wanted = num_windows or config.num_windows
    tokens, length = corpus.tokens[config.split], config.context_len
    capacity = len(tokens) // length
    if capacity < wanted:
        raise DataError(
            f"the {config.split} split of {corpus.name} has {len(tokens)} tokens, {wanted} windows of "
            f"{length} need {wanted * length}; set eval.num_windows to at most {capacity} or use a "
            "larger corpus"
        )
    slots = np.linspace(0, len(tokens) - length, capacity).astype(np.int64)
    documents = np.searchsorted(corpus.document_starts[config.split], slots, side="right")
    by_document = len(np.unique(documents)) >= MANY_DOCUMENTS
    chosen = spread_order(capacity)[:wanted]
    starts = slots[chosen]
    rules = config.model_dump(mode="json", exclude=NOT_IN_FINGERPRINT)
    return Grid(
        windows=np.asarray(tokens[starts[:, None] + np.arange(length)], dtype=np.int64),
        positions=np.arange(config.min_context, length - config.grid_stride + 1, config.grid_stride),
        clusters=(documents[chosen] if by_document else chosen).astype(np.int64),
        starts=starts,
        capacity=capacity,
        fingerprint=content_hash([_FORMAT, corpus.hash, rules]),
    )


def spread_order(num: int) -> npt.NDArray[np.int64]:
    """(num,) a permutation of 0 ... num - 1 whose beginnings are spread evenly: numbers in the order of their
    reversed binary digits (van der Corput)."""
    bits = max(1, (num - 1).bit_length())
    forward = np.arange(2**bits, dtype=np.int64)
    reverse = np.zeros_like(forward)
    for bit in range(bits):
        reverse |= ((forward >> bit) & 1) << (bits - 1 - bit)
    return reverse[reverse < num]

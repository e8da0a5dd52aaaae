"""Where training tokens come from: random blocks of a text that is kept, or a stream of one that is not.

Both give the whole batch of a step, whatever the number of processes. Of random blocks each takes its part; a
stream is read by rank 0 alone, which sends the batches to the others. Imports no torch.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from workbench.config import DataConfig
from workbench.data import Corpus, training_blocks
from workbench.errors import RunError
from workbench.hub_corpus import AUTOENCODER, LANGUAGE_MODEL, open_stream

__all__ = ["AUTOENCODER", "LANGUAGE_MODEL", "Batches", "RandomBlocks", "Received", "as_text", "from_text",
           "training_batches"]  # fmt: skip


class Batches(Protocol):
    """Global batches, step after step."""

    def next_batch(self, step: int, part: slice = slice(None)) -> npt.NDArray[np.int64]:
        """(num_blocks, block_len) ids of step ``step``, or of these blocks only a ``part``. Steps are asked for in
        order, by one thread at a time."""
        ...

    def state_dict(self, step: int) -> dict[str, Any]:
        """What ``load_state_dict`` needs to go on with step ``step``, which is the next or one of the last few;
        any thread may ask. Empty where nothing is needed."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the step that the state was asked for. Raises RunError for a state of something else."""
        ...

    def close(self) -> None:
        """End its threads."""
        ...


class RandomBlocks:
    """Blocks at random offsets of the training split; step s depends on (seed, s) alone, so there is no state."""

    def __init__(self, corpus: Corpus, *, num_blocks: int, block_len: int, seed: int) -> None:
        self._tokens, self._seed = corpus.tokens["train"], seed
        self._num_blocks, self._block_len = num_blocks, block_len

    def next_batch(self, step: int, part: slice = slice(None)) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng([self._seed, step])
        return training_blocks(self._tokens, self._num_blocks, self._block_len, rng, part)

    def state_dict(self, step: int) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise RunError("the checkpoint is of a text that streams, this one is kept; start the run anew")

    def close(self) -> None:
        return None


class Received:
    """Of a rank that is sent its batches (``workbench.train``)."""

    def next_batch(self, step: int, part: slice = slice(None)) -> npt.NDArray[np.int64]:
        return np.empty(0, dtype=np.int64)

    def state_dict(self, step: int) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rank 0 goes on with it."""

    def close(self) -> None:
        return None


def training_batches(
    corpus: Corpus, data: DataConfig, *, purpose: int = LANGUAGE_MODEL, seed: int, num_blocks: int, block_len: int
) -> Batches:
    """Of a corpus as ``data`` says. Raises DataError where the sets of a stream cannot be read."""
    if not data.streams:
        return RandomBlocks(corpus, num_blocks=num_blocks, block_len=block_len, seed=seed)
    return open_stream(
        data,
        corpus.tokenizer,
        corpus.held_out,
        purpose=purpose,
        seed=seed,
        num_blocks=num_blocks,
        block_len=block_len,
    )


def as_text(state: dict[str, Any]) -> str:
    """For a checkpoint; nothing for nothing."""
    return json.dumps(state, sort_keys=True) if state else ""


def from_text(text: str) -> dict[str, Any]:
    """Raises RunError where it is no state."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RunError("the state of the data stream in the checkpoint is damaged; start the run anew")
    return found

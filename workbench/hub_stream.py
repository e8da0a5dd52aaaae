"""Training tokens straight from the documents of one or several sets, nothing kept (METHOD: blocks of tokens).

What is drawn depends on the sets and the settings alone, not on threads, processes or interruptions:

* Each set is read epoch after epoch, its shards in an order of the epoch's own.
* ``shuffle_buffer`` documents at a time (a *buffer*) are drawn from the sets by their weights, put into random
  order and used up. All its random numbers come from (seed, number of the buffer).
* Documents, each followed by END_ID, follow each other without a gap; a block is the next ``block_len`` tokens, so
  that it begins anywhere in a document and no alignment of chunks is privileged.

The state is where the sets were before the buffer, and how much of the buffer was used: small, and exact, because
the buffer is read and shuffled again. A batch is the global one, so that the order does not depend on the number
of processes.

Letters: B blocks of a batch, T tokens of a block.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from workbench.ahead import Ahead, ClosedError
from workbench.corpora import clean
from workbench.errors import DataError, RunError
from workbench.hub import Patience, is_transient, unreachable
from workbench.hub_reading import as_document
from workbench.tokenizer import END_ID, Tokenizer

Ints = npt.NDArray[np.int64]

FORMAT = 2
"""Of the state; raise it when what follows a state, or what it consists of, changes."""
_READ = (1, FORMAT)
"""Formats that can be gone on with: 1 had no ``Place.ended``; the same documents follow."""
_SHARDS, _PICKS, _ORDER = 1, 2, 3
"""What random numbers are for."""
_PART = 32
"""Documents that are tokenised at a time."""
_KEPT_STATES = 5


class Shards(Protocol):
    """A set of rows in shards; ``workbench.hub_reading.SetShards`` is one."""

    @property
    def name(self) -> str: ...

    @property
    def num_shards(self) -> int: ...

    def read(self, shard: int, skip: int) -> Iterator[str]:
        """Texts of the rows of a shard from row ``skip`` on."""
        ...


@dataclass(frozen=True)
class Place:
    """In a set: the next row to be read."""

    epoch: int = 0
    shard: int = 0
    """Of the epoch's order."""
    row: int = 0
    line: str | None = None
    """A row that was read and begins the next document."""
    ended: bool = False
    """The epoch's last rows were given as a document; next comes its end."""


class SetReader:
    """Cleaned documents of a set that may be trained on, without end."""

    def __init__(
        self,
        shards: Shards,
        *,
        seed: Sequence[int],
        keep: Callable[[str], bool] = bool,
        document_start: str | None = None,
        patience: Patience | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """``sleep``: default, until ``stop`` is set."""
        self.place = Place()
        """Before the next document."""
        self.stop = threading.Event()
        """Set from anywhere: no further row is read, ClosedError is raised instead."""
        self._shards, self._seed, self._keep = shards, list(seed), keep
        self._begins = re.compile(document_start) if document_start is not None else None
        self._patience, self._sleep = patience or Patience(), sleep or (lambda seconds: self.stop.wait(seconds))
        self._rows: Iterator[str] | None = None

    def go_to(self, place: Place) -> None:
        self.place, self._rows = place, None

    def next_document(self) -> str:
        """Raises DataError where a whole epoch has none, HubUnreachableError when the patience ends."""
        for _ in range(2):  # the rest of an epoch may have none
            text = self.next_of_epoch()
            if text is not None:
                return text
        raise DataError(f"the set {self._shards.name!r} has no document that may be trained on; give more text")

    def next_of_epoch(self) -> str | None:
        """None once at the end of every epoch."""
        while (text := self._next_text()) is not None:
            text = clean(text)
            if text and self._keep(text):
                return text
        return None

    def _next_text(self) -> str | None:
        """None at the end of an epoch."""
        if self._begins is None:
            return self._next_row()
        if self.place.ended:
            self.place = replace(self.place, ended=False)
            return None
        lines = [] if self.place.line is None else [self.place.line]
        self.place = replace(self.place, line=None)
        while True:
            row = self._next_row()
            if row is None:
                if not lines:
                    return None
                self.place = replace(self.place, ended=True)
                return as_document(lines)
            if lines and self._begins.match(row):
                self.place = replace(self.place, line=row)
                return as_document(lines)
            lines.append(row)

    def _next_row(self) -> str | None:
        """None at the end of an epoch, with the place at the beginning of the next."""
        while self.place.shard < self._shards.num_shards:
            row = self._read()
            if row is not None:
                self.place = replace(self.place, row=self.place.row + 1)
                return row
            self.place, self._rows = replace(self.place, shard=self.place.shard + 1, row=0), None
        self.place = Place(epoch=self.place.epoch + 1)
        return None

    def _read(self) -> str | None:
        """The row at the place; None at the end of its shard. After a network error the shard is opened anew."""
        pauses = self._patience.pauses()
        while True:
            if self.stop.is_set():
                raise ClosedError
            try:
                if self._rows is None:
                    self._rows = self._shards.read(self._shard(), self.place.row)
                return next(self._rows, None)
            except Exception as error:
                self._rows = None
                if not is_transient(error):
                    raise
                if not pauses:
                    why = f"{type(error).__name__}: {error}; {self._patience.attempts} attempts"
                    raise unreachable(f"the data set {self._shards.name!r}", why) from None
                self._sleep(pauses.pop(0))

    def _shard(self) -> int:
        rng = np.random.default_rng([*self._seed, _SHARDS, self.place.epoch])
        return int(rng.permutation(self._shards.num_shards)[self.place.shard])


@dataclass(frozen=True)
class _Buffer:
    number: int
    places: list[Place]
    """Of the sets, before it was read."""
    documents: list[str]


class Documents:
    """Shuffled documents of several sets, buffer after buffer; the next one is read while one is used."""

    def __init__(
        self, readers: Sequence[SetReader], weights: Sequence[float], *, shuffle_buffer: int, seed: Sequence[int]
    ) -> None:
        self._readers, self._size, self._seed = readers, shuffle_buffer, list(seed)
        self._weights = np.asarray(weights, dtype=np.float64) / sum(weights)
        self._ahead = Ahead()
        for reader in readers:
            reader.stop = self._ahead.stop
        self._coming: Future[_Buffer] | None = None
        self._next = 0

    def next_buffer(self) -> _Buffer:
        """Raises ClosedError where it is closed meanwhile, and what ``SetReader.next_document`` raises."""
        coming = self._coming or self._begin(self._next)
        self._coming = None
        found = coming.result()
        self._next = found.number + 1
        self._coming = self._begin(self._next)
        return found

    def _begin(self, number: int) -> Future[_Buffer]:
        return self._ahead.submit(lambda: self._fill(number))

    def go_to(self, number: int, places: Sequence[Place]) -> None:
        if self._coming is not None:
            wait([self._coming])
            self._coming = None
        for reader, place in zip(self._readers, places, strict=True):
            reader.go_to(place)
        self._next = number

    def places(self) -> list[Place]:
        """Of the sets; only before a buffer was asked for."""
        return [reader.place for reader in self._readers]

    def close(self) -> None:
        """At once: reading ends with the next row, and a row that does not come is not waited for."""
        self._ahead.close()

    def _fill(self, number: int) -> _Buffer:
        places = self.places()
        picks = np.random.default_rng([*self._seed, _PICKS, number]).choice(
            len(self._readers), size=self._size, p=self._weights
        )
        try:
            documents = [self._readers[pick].next_document() for pick in picks]
        except Exception:
            for reader, place in zip(self._readers, places, strict=True):  # asked again, it is the same buffer
                reader.go_to(place)
            raise
        order = np.random.default_rng([*self._seed, _ORDER, number]).permutation(self._size)
        return _Buffer(number, places, [documents[i] for i in order])


class TokenStream:
    """Global batches (B, T), and the state before each. One thread at a time may ask for batches."""

    def __init__(
        self, documents: Documents, tokenizer: Tokenizer, *, num_blocks: int, block_len: int, workers: int = 1
    ) -> None:
        self._documents, self._tokenizer = documents, tokenizer
        self._shape = (num_blocks, block_len)
        self._workers = workers
        self._pool = ThreadPoolExecutor(max_workers=workers)
        self._step = 0
        """Of the next batch; -1 while one is made."""
        self._known = threading.Lock()
        """Around ``_states`` alone, which are asked for while a batch is made."""
        self._buffer: _Buffer | None = None
        self._document, self._offset = 0, 0
        """Of the buffer, and tokens of that document: what was used."""
        self._states = {0: self._state()}
        """Before the next batch, and before the last few."""
        self._ready: list[Ints] = []
        """Tokens of the documents from ``_document`` on, as far as they are tokenised."""

    def next_batch(self, step: int, part: slice = slice(None)) -> Ints:
        """(B, T) ids of step ``step``, or of its blocks only a ``part``; steps are asked for in order, from 0 or
        the loaded state's on."""
        assert step == self._step, f"batch {step} asked, {self._step} comes next"
        self._step = -1  # where it fails on the way there is no next batch
        pieces, missing = [], self._shape[0] * self._shape[1]
        while missing:
            piece = self._take(missing)
            missing -= len(piece)
            pieces.append(piece)
        self._step = step + 1
        with self._known:
            self._states[self._step] = self._state()
            self._states.pop(self._step - _KEPT_STATES, None)
        return np.concatenate(pieces).reshape(self._shape)[part]

    def state_dict(self, step: int) -> dict[str, Any]:
        """Before the batch of step ``step``: the next one, or one of the last few, also while it is made. For
        JSON."""
        with self._known:
            return self._states[step]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises RunError where it is no state of these sets."""
        try:
            if state["format"] not in _READ or len(state["places"]) != len(self._documents.places()):
                raise ValueError("it is of other sets or another version")
            self._load(state)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"the state of the data stream cannot be used ({error}); start the run anew") from None

    def close(self) -> None:
        """End its threads, at once; whoever waits for a batch gets ClosedError. States can still be asked for."""
        self._documents.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _state(self) -> dict[str, Any]:
        found = self._buffer
        places = found.places if found is not None else self._documents.places()
        return {
            "format": FORMAT,
            "step": self._step,
            "buffer": found.number if found is not None else 0,
            "document": self._document,
            "offset": self._offset,
            "places": [asdict(place) for place in places],
        }

    def _load(self, state: dict[str, Any]) -> None:
        """The buffer is read when it is needed."""
        places = [Place(**place) for place in state["places"]]
        step, document, offset = int(state["step"]), int(state["document"]), int(state["offset"])
        self._documents.go_to(int(state["buffer"]), places)
        self._buffer, self._ready = None, []
        self._step, self._document, self._offset = step, document, offset
        with self._known:
            self._states = {step: {**state, "format": FORMAT, "places": [asdict(place) for place in places]}}

    def _take(self, most: int) -> Ints:
        """The next tokens, of one document and at most ``most``."""
        if self._buffer is None:
            self._buffer = self._documents.next_buffer()
        if self._document == len(self._buffer.documents):
            self._buffer = self._documents.next_buffer()
            self._document, self._offset = 0, 0
        if not self._ready:
            self._ready = self._tokenised(self._buffer.documents[self._document :][: _PART * self._workers])
        tokens = self._ready[0]
        piece = tokens[self._offset : self._offset + most]
        self._offset += len(piece)
        if self._offset == len(tokens):
            self._ready.pop(0)
            self._document, self._offset = self._document + 1, 0
        return piece

    def _tokenised(self, texts: Sequence[str]) -> list[Ints]:
        return list(self._pool.map(self._encoded, texts))

    def _encoded(self, text: str) -> Ints:
        return np.append(self._tokenizer.encode(text), END_ID).astype(np.int64)

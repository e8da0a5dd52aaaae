"""Text to token ids and back: bytes, or a byte-level BPE trained on the training split. One of somebody else's is
in ``workbench.pretrained_tokenizer``.

Two ids are reserved in every vocabulary: ``PAD_ID`` (padding and dropped tokens; never occurs in
text) and ``END_ID`` (end of a document). Neither has a spelling, so no text can produce them: the ids
of real tokens start at 2.
"""

from __future__ import annotations

import abc
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench.aside import aside
from workbench.config import DEFAULT_BPE_VOCAB
from workbench.errors import DataError
from workbench.files import raise_unreadable, read_json, write_atomic, write_json

PAD_ID = 0
END_ID = 1
NUM_RESERVED = 2

_SURROGATES = re.compile("[\ud800-\udfff]")
LONGEST_WORD = 1000
_LONG_WORD = re.compile(
    "|".join(f"{kind}{{{LONGEST_WORD}}}" for kind in (r"[^\W\d_]", r"\d", r"\s", r"[^\w\s]", "_"))
)
_REPLACEMENT = "�".encode()
LEAVE_SECONDS = 1.0
"""What an interrupted training gets to stop reading."""
KIND_FILE = "tokenizer.json"
BPE_FILE = "bpe.json"


class Tokenizer(abc.ABC):
    """Encodes any text and decodes any ids.

    ``decode(encode(text)) == text`` for every text without lone surrogates (those become U+FFFD)."""

    @property
    @abc.abstractmethod
    def token_bytes(self) -> Sequence[bytes]:
        """(V,) what each id spells in UTF-8; nothing for the two reserved ids."""

    @abc.abstractmethod
    def encode(self, text: str) -> npt.NDArray[np.integer[Any]]:
        """Ids of a text, without an end token, each in [2, V)."""

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write what ``load_tokenizer`` needs. Raises OutputError where that is impossible."""

    @property
    def vocab_size(self) -> int:
        """V, the reserved ids included."""
        return len(self.token_bytes)

    @cached_property
    def byte_lengths(self) -> npt.NDArray[np.int64]:
        """(V,) UTF-8 bytes each id spells: ``byte_lengths[ids].sum()`` turns nats per token into bits
        per byte."""
        return np.array([len(b) for b in self.token_bytes], dtype=np.int64)

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer[Any]]) -> str:
        """Text of any ids; never raises. The end of a document shows as a newline, padding as nothing;
        bytes that are not UTF-8 and ids outside the vocabulary show as U+FFFD."""
        table = self.token_bytes
        pieces = []
        for token in np.asarray(ids, dtype=np.int64).reshape(-1).tolist():
            if token == END_ID:
                pieces.append(b"\n")
            else:
                pieces.append(table[token] if 0 <= token < len(table) else _REPLACEMENT)
        return b"".join(pieces).decode("utf-8", errors="replace")


class ByteTokenizer(Tokenizer):
    """Byte b has id b + 2; V = 258."""

    @cached_property
    def token_bytes(self) -> Sequence[bytes]:
        return [b""] * NUM_RESERVED + [bytes([b]) for b in range(256)]

    def encode(self, text: str) -> npt.NDArray[np.integer[Any]]:
        raw = np.frombuffer(encodable(text).encode("utf-8"), dtype=np.uint8)
        return raw.astype(np.uint16) + np.uint16(NUM_RESERVED)

    def save(self, folder: Path) -> None:
        write_json(Path(folder) / KIND_FILE, {"kind": "byte", "vocab_size": self.vocab_size})


class BpeTokenizer(Tokenizer):
    """Byte-level BPE of the ``tokenizers`` library; its ids are shifted by the two reserved ones."""

    def __init__(self, definition: str) -> None:
        """``definition``: the library's own JSON."""
        import tokenizers

        self._definition = definition
        self._bpe = tokenizers.Tokenizer.from_str(definition)

    @classmethod
    def train(
        cls,
        documents: Iterable[str],
        vocab_size: int = DEFAULT_BPE_VOCAB,
        progress: Callable[[int], None] = lambda read: None,
    ) -> BpeTokenizer:
        """Deterministic; a text too small for ``vocab_size`` ids gives a smaller vocabulary. ``progress`` gets how
        many documents were read, now and then; all of them while pairs are merged.

        The documents are read in other threads. A signal is heard at once; what is merged then goes on, unheard,
        until it is through or the process ends."""
        import tokenizers

        bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
        bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size - NUM_RESERVED,
            min_frequency=2,
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        reader = _Reader(documents)
        try:
            aside(
                lambda: bpe.train_from_iterator(reader.pieces(), trainer),
                lambda: progress(reader.read),
                name="tokenizer",
            )
        except BaseException:
            reader.stop()
            raise
        return cls(bpe.to_str())

    @cached_property
    def token_bytes(self) -> Sequence[bytes]:
        byte_of = byte_of_letter()
        letters = sorted(self._bpe.get_vocab().items(), key=lambda item: item[1])
        return [b""] * NUM_RESERVED + [bytes(byte_of[c] for c in token) for token, _ in letters]

    def encode(self, text: str) -> npt.NDArray[np.integer[Any]]:
        ids = [token for piece in pieces(encodable(text)) for token in self._bpe.encode(piece).ids]
        return np.array(ids, dtype=np.uint32) + np.uint32(NUM_RESERVED)

    def save(self, folder: Path) -> None:
        write_atomic(Path(folder) / BPE_FILE, self._definition)
        write_json(Path(folder) / KIND_FILE, {"kind": "bpe", "vocab_size": self.vocab_size})


class _Stopped(Exception):
    """Nobody waits for the tokenizer any more."""


class _Reader:
    """Documents on their way to the native trainer, which asks for them in threads of its own."""

    def __init__(self, documents: Iterable[str]) -> None:
        self._documents = documents
        self._stopped = False
        self.read = 0
        self._ended = threading.Event()
        """Everything is read, or reading was stopped."""

    def pieces(self) -> Iterator[str]:
        try:
            for document in self._documents:
                if self._stopped:
                    raise _Stopped
                yield from pieces(encodable(document))
                self.read += 1
        finally:
            self._ended.set()

    def stop(self) -> None:
        """Read no more: a thread that still asks for Python code could end the process with an abort while the
        interpreter leaves. One that merges asks for none until it is through, and is not waited for."""
        self._stopped = True
        self._ended.wait(LEAVE_SECONDS)


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """What ``save`` wrote. Raises DataError where it is missing or unreadable."""
    folder = Path(folder)
    try:
        about = read_json(folder / KIND_FILE)
        kind = about["kind"]
        if kind == "byte":
            return ByteTokenizer()
        if kind == "bpe":
            return BpeTokenizer((folder / BPE_FILE).read_text(encoding="utf-8"))
        if kind == "pretrained":
            from workbench.pretrained_tokenizer import PretrainedTokenizer

            definition = (folder / BPE_FILE).read_text(encoding="utf-8")
            return PretrainedTokenizer(
                definition, end_id=about["end_id"], pad_id=about["pad_id"], vocab_size=about["vocab_size"]
            )
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise_unreadable(folder, error)
        raise DataError(
            f"no readable tokenizer in {folder}: {error}; delete that folder to make it anew"
        ) from None
    raise DataError(f"{folder / KIND_FILE} names the tokenizer kind {kind!r}; known: byte, bpe, pretrained")


def pieces(text: str) -> Iterator[str]:
    """A text cut where a word, number, gap or row of signs has gone on for ``LONGEST_WORD`` characters: merging
    takes the square of a word's length. Nearly every text is one piece."""
    start = 0
    for match in _LONG_WORD.finditer(text):
        yield text[start : match.end()]
        start = match.end()
    if start < len(text):
        yield text[start:]


def encodable(text: str) -> str:
    return text if text.isascii() else _SURROGATES.sub("�", text)


def byte_of_letter() -> dict[str, int]:
    """The library writes each byte as one printable letter: printable Latin-1 stands for itself, the
    others follow from U+0100 on, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}

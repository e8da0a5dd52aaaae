"""From a corpus to memory-mapped token ids: read, clean, split, tokenize once, cache by content.

Splits are made of whole documents, in the order of their hashes: which split a document falls into
depends neither on the names nor the order of files, and equal documents stay together. A corpus of
fewer than ten different documents is cut instead: the first part of each document is for training,
the next for validation, the last for testing.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench.config import DEFAULT_BPE_VOCAB, DataConfig, TokenizerConfig, content_hash
from workbench.corpora import Source, clean, find_source
from workbench.errors import DataError
from workbench.files import build_once, locked, read_json, writable_folder, write_json
from workbench.tokenizer import END_ID, BpeTokenizer, ByteTokenizer, Tokenizer, load_tokenizer

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
LEAST_TOKENS = 2048
LEAST_DOCUMENTS = 10
"""With fewer different documents, each is cut into spans instead."""

_FORMAT = 1
"""Raise it when cleaning, splitting or the files change: every corpus is then prepared anew."""

Tokens = npt.NDArray[np.unsignedinteger[Any]]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Token ids of a text, by split.

    ``hash``: over the cleaned text, the tokenizer, the split settings and the format.
    ``tokens``: per split one dimension, read-only, memory-mapped, uint16 (uint32 where V > 65,536);
    every document (or span of one) is followed by END_ID. ``document_starts``: offset of the first
    token of each. ``num_bytes``: UTF-8 bytes of the text, end tokens not counted."""

    name: str
    hash: str
    tokenizer: Tokenizer
    vocab_size: int
    tokens: Mapping[str, Tokens]
    document_starts: Mapping[str, Ints]
    num_bytes: Mapping[str, int]


def prepare(config: DataConfig, cache_dir: Path, *, least_tokens: int = LEAST_TOKENS) -> Corpus:
    """The corpus of a configuration, from ``cache_dir / "corpora"`` or made and put there.

    Nothing is read again while the files' sizes and times are unchanged; processes that ask at the
    same time do the work once. The text is held in memory while it is prepared. Raises DataError for a
    corpus that is unknown, unreadable, empty, or with fewer than ``least_tokens`` tokens in a split."""
    source = find_source(config.corpus)
    root = Path(cache_dir) / "corpora"
    index = root / "index" / f"{_index_key(config, source)}.json"
    folder = _prepared(index, root)
    if folder is None:
        writable_folder(index.parent)
        with locked(index.with_suffix(".lock")):
            folder = _prepared(index, root)
            if folder is None:
                folder = _make(config, source, root, least_tokens)
                write_json(index, {"hash": folder.name})
    corpus = _load(folder, config.corpus)
    _require({s: len(corpus.tokens[s]) for s in SPLITS}, least_tokens, config.corpus)
    return corpus


def training_blocks(
    tokens: npt.NDArray[np.integer[Any]], num_blocks: int, block_len: int, rng: np.random.Generator
) -> Ints:
    """(num_blocks, block_len) ids; blocks start at random token offsets, so that no alignment of chunks
    is privileged. Raises DataError where the text is shorter than a block."""
    require_block(tokens, block_len)
    starts = rng.integers(0, len(tokens) - block_len + 1, size=num_blocks)
    return np.asarray(tokens[starts[:, None] + np.arange(block_len)], dtype=np.int64)


def require_block(tokens: npt.NDArray[np.integer[Any]], block_len: int) -> None:
    """Raises DataError where the text is shorter than a training block."""
    if len(tokens) < block_len:
        raise DataError(
            f"a training block has {block_len} tokens, the training split only {len(tokens)}; "
            "lower train.block_len or give more text"
        )


# ---- the cache ---------------------------------------------------------------------------------


def _index_key(config: DataConfig, source: Source) -> str:
    """Hash of the settings and of names, sizes and times of the files: changes whenever they do."""
    stats = []
    for path in source.files:
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from None
        stats.append([str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
    return content_hash([config.model_dump(mode="json"), _settings(config), stats])


def _settings(config: DataConfig) -> dict[str, Any]:
    """What the token ids depend on besides the text."""
    tokenizer: dict[str, Any] = {"kind": config.tokenizer.kind}
    if config.tokenizer.kind == "bpe":
        tokenizer |= {"vocab_size": _bpe_vocab(config.tokenizer), "library": version("tokenizers")}
    fractions = [config.validation_fraction, config.test_fraction]
    return {"format": _FORMAT, "tokenizer": tokenizer, "fractions": fractions}


def _prepared(index: Path, root: Path) -> Path | None:
    """Folder of the corpus an index file points to, if both are there."""
    try:
        folder = root / str(read_json(index)["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder if folder.is_dir() else None


def _make(config: DataConfig, source: Source, root: Path, least_tokens: int) -> Path:
    logger.info("preparing the corpus %s (%d files)", source.name, len(source.files))
    documents = (text for text in map(clean, source.read()) if text)
    texts = list(itertools.islice(documents, config.max_documents))
    if not texts:
        raise DataError(f"the corpus {source.name!r} holds no text; give files with text in them")
    digests = sorted(_digest(text) for text in texts)
    folder = root / content_hash([_settings(config), digests])
    return build_once(folder, lambda temporary: _build(config, source.name, texts, temporary, least_tokens))


def _build(config: DataConfig, name: str, texts: list[str], folder: Path, least_tokens: int) -> None:
    splits = split_documents(texts, config.validation_fraction, config.test_fraction)
    tokenizer = _make_tokenizer(config.tokenizer, splits["train"])
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    arrays = {split: _tokenize(splits[split], tokenizer, dtype) for split in SPLITS}
    _require({split: len(tokens) for split, (tokens, _) in arrays.items()}, least_tokens, name)
    for split, (tokens, starts) in arrays.items():
        np.save(folder / f"{split}.npy", tokens)
        np.save(folder / f"{split}.starts.npy", starts)
    tokenizer.save(folder)
    num_bytes = {split: sum(len(text.encode()) for text in splits[split]) for split in SPLITS}
    write_json(folder / "corpus.json", {"settings": _settings(config), "num_bytes": num_bytes})
    logger.info("prepared %s: %s tokens", name, {split: len(tokens) for split, (tokens, _) in arrays.items()})


def _load(folder: Path, name: str) -> Corpus:
    try:
        num_bytes = read_json(folder / "corpus.json")["num_bytes"]
        tokens = {split: np.load(folder / f"{split}.npy", mmap_mode="r") for split in SPLITS}
        starts = {split: np.load(folder / f"{split}.starts.npy") for split in SPLITS}
        tokenizer = load_tokenizer(folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the prepared corpus in {folder} is damaged ({error}); delete that folder and try again"
        ) from None
    return Corpus(name, folder.name, tokenizer, tokenizer.vocab_size, tokens, starts, num_bytes)


def _require(num_tokens: Mapping[str, int], least_tokens: int, name: str) -> None:
    least = max(1, least_tokens)
    if min(num_tokens.values()) < least:
        counts = ", ".join(f"{split} {num:,}" for split, num in num_tokens.items())
        raise DataError(
            f"the corpus {name!r} is too small: at least {least:,} tokens are wanted in each split, "
            f"there are: {counts}. Give more text, or change data.validation_fraction, data.test_fraction "
            "or data.max_documents"
        )


# ---- tokens ------------------------------------------------------------------------------------


def _bpe_vocab(config: TokenizerConfig) -> int:
    return config.vocab_size or DEFAULT_BPE_VOCAB


def _make_tokenizer(config: TokenizerConfig, train: Iterable[str]) -> Tokenizer:
    return ByteTokenizer() if config.kind == "byte" else BpeTokenizer.train(train, _bpe_vocab(config))


def _tokenize(texts: Sequence[str], tokenizer: Tokenizer, dtype: np.dtype[Any]) -> tuple[Tokens, Ints]:
    """Ids of all documents, each followed by END_ID, and where each starts."""
    end = np.array([END_ID], dtype=dtype)
    pieces: list[npt.NDArray[Any]] = []
    starts, offset = [], 0
    for text in texts:
        ids = tokenizer.encode(text).astype(dtype)
        pieces += [ids, end]
        starts.append(offset)
        offset += len(ids) + 1
    tokens = np.concatenate(pieces) if pieces else np.zeros(0, dtype=dtype)
    return tokens, np.array(starts, dtype=np.int64)


# ---- splits ------------------------------------------------------------------------------------


def split_documents(
    texts: Sequence[str], validation_fraction: float, test_fraction: float
) -> dict[str, list[str]]:
    """Documents by split, each split in the order of the documents' hashes.

    The fractions are of characters and are met as nearly as whole documents allow, with at least one
    document in each split. Equal documents count as one and go together. With fewer than
    ``LEAST_DOCUMENTS`` different ones, contiguous spans of each document (see ``cut_document``)."""
    copies = Counter(texts)
    different = sorted(copies, key=_digest)
    if len(different) < LEAST_DOCUMENTS:
        spans = [
            cut_document(text, validation_fraction, test_fraction)
            for text in different
            for _ in range(copies[text])
        ]
        return {split: [s[i] for s in spans if s[i]] for i, split in enumerate(SPLITS)}
    sizes = np.array([len(text) * copies[text] for text in different])
    total = int(sizes.sum())
    everything = list(range(len(different)))
    validation = _choose(sizes, everything, validation_fraction * total)
    rest = sorted(set(everything) - set(validation))
    test = _choose(sizes, rest, test_fraction * total)
    train = sorted(set(rest) - set(test))
    if not train:  # fractions that add up to nearly everything
        train = [max(validation, test, key=len).pop()]
    members = {"train": train, "validation": validation, "test": test}
    return {
        split: [different[i] for i in sorted(indices) for _ in range(copies[different[i]])]
        for split, indices in members.items()
    }


def cut_document(text: str, validation_fraction: float, test_fraction: float) -> tuple[str, str, str]:
    """The first, middle and last part of a text, cut after a line where one ends nearby, else after a
    word; joined they are the text."""
    first = _cut_near(text, round(len(text) * (1.0 - validation_fraction - test_fraction)))
    second = max(first, _cut_near(text, round(len(text) * (1.0 - test_fraction))))
    return text[:first], text[first:second], text[second:]


def _cut_near(text: str, at: int, reach: int = 200) -> int:
    for separator in ("\n", " "):
        found = text.find(separator, at, at + min(reach, len(text) // 50))
        if found >= 0:
            return found + 1
    return at


def _choose(sizes: Ints, candidates: Sequence[int], target: float) -> list[int]:
    """Some of the candidates (at least one, not all), in order, whose sizes add up to nearly ``target``."""
    chosen: list[int] = []
    total = 0
    for i in candidates:
        if total + sizes[i] <= target and len(chosen) < len(candidates) - 1:
            chosen.append(i)
            total += int(sizes[i])
        if total >= 0.99 * target:
            return chosen
    if not chosen:
        return [min(candidates, key=lambda i: (sizes[i], i))]
    if len(candidates) <= 1000:  # else the error is small already
        _improve(sizes, candidates, chosen, target)
    return chosen


def _improve(sizes: Ints, candidates: Sequence[int], chosen: list[int], target: float) -> None:
    """Exchange one document at a time while that brings the sum nearer to the target."""
    while True:
        others = np.array([i for i in candidates if i not in set(chosen)])
        error = target - sizes[chosen].sum()
        gains = sizes[others][None, :] - sizes[chosen][:, None]  # (chosen, others)
        out, into = np.unravel_index(np.argmin(np.abs(error - gains)), gains.shape)
        if abs(error - gains[out, into]) >= abs(error):
            return
        chosen[out] = int(others[into])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

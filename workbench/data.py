"""From a corpus to memory-mapped token ids: read, clean, split, tokenize once, cache by content.

Splits are made of whole documents, in the order of their hashes: which split a document falls into
depends neither on the names nor the order of files, and equal documents stay together. A corpus of
fewer than ten different documents is cut instead: the first part of each document is for training,
the next for validation, the last for testing.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench.cache import cached, sound
from workbench.config import DEFAULT_BPE_VOCAB, DataConfig, TokenizerConfig, content_hash
from workbench.corpora import Source, clean, find_source
from workbench.errors import DataError
from workbench.files import locked, raise_unreadable, read_json, writable_folder, write_json
from workbench.hub_corpus import hub_source
from workbench.pretrained_tokenizer import pinned, pretrained_tokenizer
from workbench.progress import Display, NoDisplay
from workbench.splits import SPLITS, digest, split_documents
from workbench.tokenizer import (
    END_ID,
    BpeTokenizer,
    ByteTokenizer,
    Tokenizer,
    load_tokenizer,
)

logger = logging.getLogger(__name__)

LEAST_TOKENS = 2048

_SHOWN_EVERY = 200
"""Documents."""
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
    held_out: frozenset[str] = frozenset()
    """Hashes of documents that come from splits of their own (``data.hub.evaluation``)."""


def prepare(
    config: DataConfig, cache_dir: Path, *, least_tokens: int = LEAST_TOKENS, display: Display | None = None
) -> Corpus:
    """The corpus of a configuration, from ``cache_dir / "corpora"`` or made and put there.

    Nothing is read again while the files' sizes and times are unchanged; processes that ask at the
    same time do the work once. The text is held in memory while it is prepared. What the cache holds is
    made anew where it is damaged. Of a stream (``data.hub.streaming``) the training split is a sample, and
    ``workbench.batches`` reads the rest. Raises DataError for a corpus that is unknown, unreadable, empty, or
    with fewer than ``least_tokens`` tokens in a split."""
    source = source_of(config)
    root = Path(cache_dir) / "corpora"
    index = root / "index" / f"{_index_key(config, source)}.json"
    corpus = _prepared(index, root, config)
    if corpus is None:
        writable_folder(index.parent)
        with locked(index.with_suffix(".lock")):
            corpus = _prepared(index, root, config)
            if corpus is None:
                corpus = _make(config, source, root, least_tokens, display or NoDisplay())
                write_json(index, _pointer(index, corpus.hash))
    _require({s: len(corpus.tokens[s]) for s in SPLITS}, least_tokens, config)
    return corpus


def prepared_bytes(config: DataConfig, cache_dir: Path) -> int | None:
    """UTF-8 bytes of the text where ``prepare`` would find it in the cache, which is not checked. None where
    it would be made, or that cannot be told."""
    root = Path(cache_dir) / "corpora"
    try:
        if not (root / "index").is_dir():  # nothing is asked for in vain
            return None
        pointer = read_json(root / "index" / f"{_index_key(config, source_of(config))}.json")
        about = read_json(root / pointer["hash"] / "corpus.json")
        return sum(int(about["num_bytes"][split]) for split in SPLITS)
    except (DataError, OSError, ValueError, KeyError, TypeError):
        return None


def source_of(config: DataConfig) -> Source:
    """Where the text comes from. Raises DataError."""
    return hub_source(config) if config.hub is not None else find_source(config.corpus)


def require_source(config: DataConfig) -> None:
    """Raises DataError where the text is not there, before anything is opened or written for it. Nobody on the hub
    is asked."""
    if config.hub is None:
        find_source(config.corpus)


@dataclass(frozen=True)
class Survey:
    """A text that was read and cleaned, not prepared."""

    hash: str
    """Of the corpus that it would become."""
    num_documents: int
    num_bytes: int


def survey(config: DataConfig) -> Survey:
    """Read a text without keeping it or writing anything. Raises DataError as ``prepare`` does for what cannot be
    read, and where there is no text."""
    source = source_of(config)
    documents = itertools.islice((text for text in map(clean, source.read()) if text), config.max_documents)
    found = [(digest(text), len(text.encode())) for text in documents]
    if not found:
        raise DataError(f"the corpus {source.name!r} holds no text; give files with text in them")
    digests = sorted(digest for digest, _ in found)
    return Survey(content_hash([_settings(config), digests]), len(found), sum(size for _, size in found))


def training_blocks(
    tokens: npt.NDArray[np.integer[Any]],
    num_blocks: int,
    block_len: int,
    rng: np.random.Generator,
    part: slice = slice(None),
) -> Ints:
    """(num_blocks, block_len) ids; blocks start at random token offsets, so that no alignment of chunks
    is privileged. ``part``: of these blocks only those, as they are among all. Raises DataError where the text is
    shorter than a block."""
    require_block(tokens, block_len)
    starts = rng.integers(0, len(tokens) - block_len + 1, size=num_blocks)[part]
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
    stats += [[name] for name in source.identity]
    return content_hash([config.hashed(), _settings(config), stats])


def _settings(config: DataConfig) -> dict[str, Any]:
    """What the token ids depend on besides the text."""
    tokenizer: dict[str, Any] = {"kind": config.tokenizer.kind}
    if config.tokenizer.kind == "bpe":
        tokenizer |= {"vocab_size": _bpe_vocab(config.tokenizer), "library": version("tokenizers")}
    if config.tokenizer.kind == "pretrained":
        found = pinned(config.tokenizer, offline=config.offline)
        ids = {name: getattr(found, name) for name in ("sha256", "end_id", "pad_id", "vocab_size")}
        tokenizer |= {**ids, "library": version("tokenizers")}
    fractions = [config.validation_fraction, config.test_fraction]
    settings: dict[str, Any] = {"format": _FORMAT, "tokenizer": tokenizer, "fractions": fractions}
    if config.hub is not None and config.streams:  # what is read later depends on them
        settings["stream"] = {"corpus": config.corpus, **config.hub.hashed()}
    return settings


def _pointer(index: Path, corpus_hash: str) -> dict[str, str]:
    """Content of an index file: which corpus, and a checksum that goes with the file's own name."""
    return {"hash": corpus_hash, "checksum": content_hash([index.stem, corpus_hash])}


def _prepared(index: Path, root: Path, config: DataConfig) -> Corpus | None:
    """The corpus an index file points to, if both are there and sound."""
    try:
        pointer = read_json(index)
        folder = root / pointer["hash"]
        if pointer != _pointer(index, folder.name):
            raise ValueError("its checksum differs")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_unreadable(index, error)
        logger.warning("%s is not used (%s); it is made anew", index, error)
        return None
    try:
        return _load(folder, config) if sound(folder) else None
    except DataError:
        return None  # whoever makes it anew says why


def _make(config: DataConfig, source: Source, root: Path, least_tokens: int, display: Display) -> Corpus:
    logger.info("preparing the corpus %s (%d files)", source.name, len(source.files))
    held_out = source.held_out() if source.held_out is not None else {}  # the little first: it may not do
    documents = (text for text in map(clean, source.read()) if text)
    texts = list(itertools.islice(documents, config.max_documents))
    if not texts:
        raise DataError(f"the corpus {source.name!r} holds no text; give files with text in them")
    digests = [sorted(map(digest, texts)), *([sorted(map(digest, held_out[s])) for s in sorted(held_out)])]
    folder = root / content_hash([_settings(config), *digests])
    return cached(
        folder,
        build=lambda temporary: _build(config, texts, held_out, temporary, least_tokens, display),
        load=lambda made: _load(made, config),
    )


def _build(
    config: DataConfig,
    texts: list[str],
    held_out: Mapping[str, list[str]],
    folder: Path,
    least_tokens: int,
    display: Display,
) -> None:
    hashes = {digest(text) for documents in held_out.values() for text in documents}
    if held_out:
        splits = {"train": [text for text in texts if digest(text) not in hashes], **held_out}
    else:
        splits = split_documents(texts, config.validation_fraction, config.test_fraction)
    tokenizer = _make_tokenizer(config, splits["train"], display)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    arrays: dict[str, tuple[Tokens, Ints]] = {}
    for split in SPLITS:
        display.stage(f"tokenising {split} of {config.corpus}", len(splits[split]))
        arrays[split] = _tokenize(splits[split], tokenizer, dtype, display)
    _require({split: len(tokens) for split, (tokens, _) in arrays.items()}, least_tokens, config)
    for split, (tokens, starts) in arrays.items():
        _save(folder / f"{split}.npy", tokens)
        _save(folder / f"{split}.starts.npy", starts)
    tokenizer.save(folder)
    num_bytes = {split: sum(len(text.encode()) for text in splits[split]) for split in SPLITS}
    about: dict[str, Any] = {"settings": _settings(config), "num_bytes": num_bytes}
    write_json(folder / "corpus.json", {**about, **({"held_out": sorted(hashes)} if held_out else {})})
    logger.info(
        "prepared %s: %s tokens", config.corpus, {split: len(tokens) for split, (tokens, _) in arrays.items()}
    )


def _load(folder: Path, config: DataConfig) -> Corpus:
    """Raises DataError where the files are none of a corpus of these settings, UnreadableError where they may not
    be read."""
    try:
        about = read_json(folder / "corpus.json")
        num_bytes = {split: int(about["num_bytes"][split]) for split in SPLITS}
        if about["settings"] != _settings(config):
            raise ValueError("it is of other settings")
        tokens = {split: _array(folder / f"{split}.npy", "u", mapped=True) for split in SPLITS}
        starts = {split: _array(folder / f"{split}.starts.npy", "i") for split in SPLITS}
        tokenizer = load_tokenizer(folder)
        held_out = frozenset(map(str, about.get("held_out", ())))
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise_unreadable(folder, error)
        raise DataError(f"the prepared corpus in {folder} is damaged ({error})") from None
    return Corpus(config.corpus, folder.name, tokenizer, tokenizer.vocab_size, tokens, starts, num_bytes, held_out)


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    """As ``np.save``, which does not say why a disk refused the rest of an array when it is given a real file."""
    with open(path, "wb") as file:
        plain: Any = SimpleNamespace(write=file.write)
        np.save(plain, array, allow_pickle=False)


def _array(path: Path, kind: str, *, mapped: bool = False) -> npt.NDArray[Any]:
    """Of one dimension and a ``kind`` of numpy's. Raises ValueError for another, and for a pickle."""
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    if array.ndim != 1 or array.dtype.kind != kind:
        raise ValueError(f"{path.name} holds {array.dtype} in {array.ndim} dimensions")
    return array


def _require(num_tokens: Mapping[str, int], least_tokens: int, config: DataConfig) -> None:
    least = max(1, least_tokens)
    if min(num_tokens.values()) < least:
        counts = ", ".join(f"{split} {num:,}" for split, num in num_tokens.items())
        change = "data.validation_fraction, data.test_fraction or data.max_documents"
        if config.hub is not None and config.hub.evaluation is not None:
            change = "data.hub.evaluation (validation and test are splits of their own) or data.max_documents"
        raise DataError(
            f"the corpus {config.corpus!r} is too small: at least {least:,} tokens are wanted in each split, "
            f"there are: {counts}. Give more text, or change {change}"
        )


# ---- tokens ------------------------------------------------------------------------------------


def _bpe_vocab(config: TokenizerConfig) -> int:
    return config.vocab_size or DEFAULT_BPE_VOCAB


def _make_tokenizer(config: DataConfig, train: Sequence[str], display: Display) -> Tokenizer:
    wanted = config.tokenizer
    if wanted.kind == "pretrained":
        return pretrained_tokenizer(wanted, offline=config.offline)
    if wanted.kind == "byte":
        return ByteTokenizer()
    display.stage(f"training the tokenizer on {config.corpus}", len(train))
    return BpeTokenizer.train(train, _bpe_vocab(wanted), display.advance)


def _tokenize(
    texts: Sequence[str], tokenizer: Tokenizer, dtype: np.dtype[Any], display: Display
) -> tuple[Tokens, Ints]:
    """Ids of all documents, each followed by END_ID, and where each starts."""
    end = np.array([END_ID], dtype=dtype)
    pieces: list[npt.NDArray[Any]] = []
    starts, offset = [], 0
    for number, text in enumerate(texts):
        if number % _SHOWN_EVERY == 0:
            display.advance(number)
        ids = tokenizer.encode(text).astype(dtype)
        pieces += [ids, end]
        starts.append(offset)
        offset += len(ids) + 1
    tokens = np.concatenate(pieces) if pieces else np.zeros(0, dtype=dtype)
    return tokens, np.array(starts, dtype=np.int64)


# ---- splits ------------------------------------------------------------------------------------

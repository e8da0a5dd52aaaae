"""A byte-level BPE of somebody else, such as Llama 3's, by name on the hub or by path. Imports no torch.

Two of its special tokens take the two reserved ids: ``pad_id``, which no text holds, and ``end_id``, which stands
between documents. All other ids follow in their own order (``file_order``), so that real tokens start at 2 here,
too. A tokenizer with fewer special tokens (GPT-2's has one) leaves a reserved id without one of its own. Special
tokens spell nothing, and a text that spells one is cut like any other. Ids up to ``vocab_size`` that the file does
not have spell nothing either: models pad their vocabulary.
"""

from __future__ import annotations

import itertools
import json
import os
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench import files
from workbench.config import RunConfig, TokenizerConfig
from workbench.errors import DataError
from workbench.files import write_atomic, write_json
from workbench.given_files import read_text, require_regular
from workbench.home import Home
from workbench.hub import (
    QUICK,
    HubUnreachableError,
    commit_of,
    is_offline,
    is_transient,
    unreachable,
    with_retries,
)
from workbench.tokenizer import (
    BPE_FILE,
    END_ID,
    KIND_FILE,
    NUM_RESERVED,
    PAD_ID,
    Tokenizer,
    byte_of_letter,
    encodable,
    pieces,
)

FILE = "tokenizer.json"
NORMALIZERS = (None, "NFC")
"""That leave a cleaned text as it is."""


class PretrainedTokenizer(Tokenizer):
    """Raises DataError for a definition that is no byte-level BPE, ids that are not special, and too few ids."""

    def __init__(self, definition: str, *, end_id: int | None, pad_id: int | None, vocab_size: int) -> None:
        """``definition``: the library's own JSON (``tokenizer.json``). ``end_id``, ``pad_id``: its own ids; None
        where it has no such special token. ``vocab_size``: V, the reserved ids included."""
        self._bpe = _read(definition)
        self._bpe.encode_special_tokens = True
        self._definition, self.end_id, self.pad_id = definition, end_id, pad_id
        special = special_tokens(self._bpe)
        for name, token in (("end_id", end_id), ("pad_id", pad_id)):
            if token is not None and token not in special:
                raise DataError(
                    f"{name} {token} is no special token of the tokenizer; special are {_some(special)}"
                )
        self._spelling = _spelling(self._bpe, special)
        wanted = len(self._spelling) + [end_id, pad_id].count(None)
        if vocab_size < wanted:
            raise DataError(
                f"the tokenizer has {wanted:,} ids with the reserved ones, data.tokenizer.vocab_size is "
                f"{vocab_size:,}; set it to at least {wanted}"
            )
        self._vocab_size = vocab_size

    @cached_property
    def order(self) -> npt.NDArray[np.int64]:
        """(V,) the file's own id of each of ours; -1 where it has none for a reserved one."""
        return file_order(self._vocab_size, end_id=self.end_id, pad_id=self.pad_id)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        known = range(len(self._spelling))
        return [self._spelling[token] if token in known else b"" for token in self.order.tolist()]

    @cached_property
    def _ours(self) -> npt.NDArray[np.uint32]:
        """Our id of each of the file's."""
        ours = np.zeros(int(self.order.max()) + 1, dtype=np.uint32)
        own = self.order >= 0
        ours[self.order[own]] = np.flatnonzero(own)
        return ours

    def encode(self, text: str) -> npt.NDArray[np.integer[Any]]:
        theirs = [
            token
            for piece in pieces(encodable(text))
            for token in self._bpe.encode(piece, add_special_tokens=False).ids
        ]
        return self._ours[np.array(theirs, dtype=np.int64)]

    def save(self, folder: Path) -> None:
        about = {"vocab_size": self.vocab_size, "end_id": self.end_id, "pad_id": self.pad_id}
        write_atomic(Path(folder) / BPE_FILE, self._definition)
        write_json(Path(folder) / KIND_FILE, {"kind": "pretrained", **about})


def file_order(vocab_size: int, *, end_id: int | None, pad_id: int | None) -> npt.NDArray[np.int64]:
    """(V,) the file's own id of each of ours: the reserved ones first (-1: it has none), the others in their
    order."""
    taken = [token for token in (pad_id, end_id) if token is not None]
    rest = np.delete(np.arange(vocab_size - NUM_RESERVED + len(taken)), taken)
    first = np.full(NUM_RESERVED, -1)
    first[PAD_ID] = -1 if pad_id is None else pad_id
    first[END_ID] = -1 if end_id is None else end_id
    return np.concatenate([first, rest])


def special_tokens(bpe: Any) -> dict[int, str]:
    """Ids and names of the special tokens of a ``tokenizers.Tokenizer``."""
    return {token: added.content for token, added in bpe.get_added_tokens_decoder().items() if added.special}


def put_before(bpe: Any) -> list[int]:
    """Ids of what the tokenizer puts before a text."""
    return list(bpe.encode("", add_special_tokens=True).ids[:1])


def pretrained_tokenizer(config: TokenizerConfig, *, offline: bool = False) -> PretrainedTokenizer:
    """Raises DataError where the file cannot be had, is another one than the configuration says, or too large."""
    found = pinned(config, offline=offline)
    assert found.vocab_size is not None
    definition = _definition(find_file(config, offline=offline))
    return PretrainedTokenizer(definition, end_id=found.end_id, pad_id=found.pad_id, vocab_size=found.vocab_size)


def with_tokenizer(config: RunConfig) -> RunConfig:
    """A pretrained tokenizer, if there is one, ``pinned``. Raises DataError."""
    if config.data.tokenizer.kind != "pretrained" or config.data.tokenizer.sha256 is not None:
        return config
    data = config.data.model_copy(update={"tokenizer": pinned(config.data.tokenizer, offline=config.data.offline)})
    return config.model_copy(update={"data": data})


def pinned(config: TokenizerConfig, *, offline: bool = False) -> TokenizerConfig:
    """With the file's sha256, and the special ids that were left open: between documents stands what the tokenizer
    puts before a text, for so language models are trained, otherwise its first special token; dropped tokens are
    the last other one. Raises DataError where the file cannot be had or is another one than ``sha256``."""
    path = find_file(config, offline=offline)
    found = _sha256(path)
    if config.sha256 not in (None, found):
        raise DataError(
            f"the tokenizer {path} is another one than the configuration says (sha256 {found[:12]}..., "
            f"wanted {str(config.sha256)[:12]}...); bring it back as it was, or set data.tokenizer.name"
        )
    if config.end_id is not None and config.pad_id is not None:
        return config.model_copy(update={"sha256": found})
    bpe = _read(_definition(path))
    special = special_tokens(bpe)
    ends = [token for token in [*put_before(bpe), *sorted(special)] if token in special and token != config.pad_id]
    end = config.end_id if config.end_id is not None else next(iter(ends), None)
    pads = [token for token in sorted(special, reverse=True) if token != end]
    pad = config.pad_id if config.pad_id is not None else next(iter(pads), None)
    return config.model_copy(update={"sha256": found, "end_id": end, "pad_id": pad})


def with_kept(config: RunConfig, home: Home, *run_dirs: Path | None) -> RunConfig:
    """With the copy that one of the run folders, or any other of ``home``, keeps (``keep``) where a tokenizer that
    was named by its path is no longer there, or another one is: a home was moved, the run whose tokenizer it was
    deleted. It is the same one: by its sha256."""
    wanted = config.data.tokenizer
    named = _local(wanted)
    if named is None or wanted.sha256 is None or _is(named, wanted.sha256):
        return config
    copies = (run_dir / FILE for run_dir in run_dirs if run_dir is not None)
    others = (path for pattern in ("*/*", "*") for path in sorted(home.root.glob(f"{pattern}/{FILE}")))
    found = next((path for path in itertools.chain(copies, others) if _is(path, wanted.sha256)), None)
    if found is None:
        return config
    tokenizer = wanted.model_copy(update={"name": str(found.absolute())})
    return config.model_copy(update={"data": config.data.model_copy(update={"tokenizer": tokenizer})})


def keep(config: RunConfig, run_dir: Path) -> None:
    """Leave a copy of a tokenizer that was named by its path in the run's folder, so that the run does not depend
    on what becomes of that path."""
    wanted, copy = config.data.tokenizer, run_dir / FILE
    named = _local(wanted)
    if named is not None and wanted.sha256 is not None and not _is(copy, wanted.sha256):
        try:
            definition = named.read_bytes()
        except OSError as error:
            raise _unreadable(named, error.strerror or str(error)) from None
        write_atomic(copy, definition)


def _is(path: Path, sha256: str) -> bool:
    try:
        require_regular(path)
        return files.sha256(path) == sha256
    except OSError:
        return False


def _local(config: TokenizerConfig) -> Path | None:
    """The file of a pretrained tokenizer, there or not; None of one on the hub."""
    if config.kind != "pretrained" or config.name is None:
        return None
    path = Path(os.path.expanduser(config.name))
    if path.is_dir():
        return path / FILE
    return path if path.exists() or path.is_absolute() or path.suffix == ".json" else None


def find_file(config: TokenizerConfig, *, offline: bool = False) -> Path:
    """The tokenizer.json, from the hub if need be; ``offline``, one that was downloaded before. Raises DataError
    where it cannot be had."""
    assert config.name is not None
    return _local(config) or _download(config.name, config.revision, offline)


def _sha256(path: Path) -> str:
    try:
        require_regular(path)
        return files.sha256(path)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None


def _definition(path: Path) -> str:
    """Raises DataError where it cannot be read, is no byte-level BPE, or changes a text before it cuts it."""
    try:
        require_regular(path)
        stat = path.stat()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    return _checked(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _checked(path: Path, changed: int, size: int) -> str:
    """``changed``, ``size``: of the file, so that another content is read anew."""
    try:
        definition = read_text(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from None
    try:
        require_usable(json.loads(definition))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a tokenizer that can be used ({error}); a byte-level BPE in the tokenizers library's "
            "JSON is wanted, as Llama 3's or GPT-2's"
        ) from None
    return definition


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        f"cannot read the tokenizer {path}: {why}; bring it back, set data.tokenizer.name to where it lies, or "
        f"put a copy named {FILE} into the folder of a run in the home"
    )


def require_usable(tree: dict[str, Any]) -> None:
    """Raises ValueError where the definition is no byte-level BPE, or changes the text before it cuts it."""
    if tree["model"]["type"] != "BPE" or "ByteLevel" not in json.dumps(tree.get("pre_tokenizer")):
        raise ValueError("it is no byte-level BPE")
    normalizer = (tree.get("normalizer") or {}).get("type")
    if normalizer not in NORMALIZERS or _adds_a_space(tree["pre_tokenizer"]):
        raise ValueError("it changes the text before it cuts it")


def _adds_a_space(pre: dict[str, Any]) -> bool:
    return bool(pre.get("add_prefix_space")) or any(_adds_a_space(one) for one in pre.get("pretokenizers") or ())


def _read(definition: str) -> Any:
    """A ``tokenizers.Tokenizer``. Raises DataError."""
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # the library has no narrower one
        raise DataError(f"this is no {FILE} of the tokenizers library: {error}") from None


def _spelling(bpe: Any, special: dict[int, str]) -> list[bytes]:
    """Bytes of every id of the file; none of special ones and of gaps. Raises DataError where a token is not
    spelled in bytes."""
    added = {token: entry.content for token, entry in bpe.get_added_tokens_decoder().items()}
    names = bpe.get_vocab()
    byte_of, found = byte_of_letter(), [b""] * (max(names.values(), default=-1) + 1)
    for name, token in names.items():
        if token in special:
            continue
        if token in added:
            found[token] = name.encode()
        elif all(letter in byte_of for letter in name):
            found[token] = bytes(byte_of[letter] for letter in name)
        else:
            raise DataError(
                f"a byte-level BPE is wanted, as Llama-3's; token {token} is {name!r}, which spells no bytes"
            )
    return found


def _some(special: dict[int, str]) -> str:
    shown = [f"{token} {name!r}" for token, name in sorted(special.items())]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "") or "none"


def _download(name: str, revision: str | None, offline: bool) -> Path:
    commit = commit_of(name, revision, "model", offline)
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    what = f"the tokenizer {name!r}"
    if is_offline(offline):
        kept = try_to_load_from_cache(name, FILE, revision=commit)
        if not isinstance(kept, str):
            raise unreachable(what, "offline, and it was not downloaded before", "model", option=offline)
        return Path(kept)
    try:
        return Path(with_retries(lambda: hf_hub_download(name, FILE, revision=commit), what, QUICK, kind="model"))
    except HubUnreachableError:
        raise
    except Exception as error:
        if is_transient(error):
            raise
        raise DataError(
            f"{what} has no {FILE} that can be had ({type(error).__name__}); give a path to one, and where the "
            "model is gated accept its terms and log in (hf auth login)"
        ) from None

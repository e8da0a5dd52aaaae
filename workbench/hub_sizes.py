"""How much text a data set holds, as far as that is known without reading it. Imports no torch.

Known are the files of a folder, what ``datasets`` noted of a set that it has prepared here, the set's card (also
one that was downloaded) and its list of files on the hub, which is asked once and not waited for.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from workbench import files
from workbench.config import DataConfig
from workbench.given_files import read_text
from workbench.hub import ANSWER_SECONDS, folder_of, is_offline
from workbench.hub_sections import HubSet, evaluation_sets, sets_of
from workbench.yaml_reading import read_yaml

DOCUMENT_BYTES = 10_000
"""Of a document that is kept of a stream, on average; the Pile's have about 6,000."""
TEXT_OF = {".zst": 4, ".gz": 4, ".bz2": 4, ".xz": 4, ".zip": 4, ".parquet": 3}
"""Bytes of text in one byte of a compressed file."""
SPLIT_WORDS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "dev", "val"},
    "test": {"test", "testing", "eval", "evaluation"},
}
"""By which ``datasets`` knows the split of a file from its path."""
_PLAIN = (".json", ".jsonl", ".txt", ".csv", ".tsv", ".arrow")


class Size(NamedTuple):
    """Of a part of a set."""

    num_bytes: int
    is_bound: bool = False
    """Whether it may be much less: other splits or configurations are counted too."""


class Known(NamedTuple):
    """Of the text that a corpus keeps on this machine."""

    num_bytes: int
    unknown: tuple[str, ...] = ()
    """Names of sets that come on top."""
    bound: int = 0
    """Of ``num_bytes``: sizes of sets that are no more than upper bounds."""
    bounded: tuple[str, ...] = ()
    """Names of those sets."""
    prepared: bool = False
    """Whether the cache has it already."""


def kept_text(data: DataConfig) -> Known:
    """Of a corpus ``hub:NAME``: the whole set, or its first documents, or what is kept of a stream, and the splits
    of an evaluation."""
    hub = data.hub
    assert hub is not None
    own, evaluation = sets_of(data.corpus, hub), evaluation_sets(data.corpus, hub) or ()
    streamed, whole = (own, evaluation) if hub.streaming else ((), (*own, *evaluation))
    parts: dict[tuple[str, str | None, str], list[HubSet]] = {}
    for one in whole:
        parts.setdefault(_part(one), []).append(one)
    sizes: list[tuple[str, Size | None]] = []
    for (name, config, _), sets in parts.items():
        splits = "+".join(dict.fromkeys(one.split for one in sets))
        size = set_bytes(name, config, splits, sets[0].revision, hub.offline)
        sizes.append((name, _first_documents(size, data.max_documents) if sets == list(own) else size))
    total = sum(size.num_bytes for _, size in sizes if size is not None)
    if streamed:
        held_out = 0 if evaluation else 2 * hub.held_out_documents
        total += round(min(DOCUMENT_BYTES * (hub.sample_documents + held_out), _all_there(streamed)))
    bounded = [(name, size.num_bytes) for name, size in sizes if size is not None and size.is_bound]
    return Known(
        total,
        tuple(dict.fromkeys(name for name, size in sizes if size is None)),
        sum(num_bytes for _, num_bytes in bounded),
        tuple(dict.fromkeys(name for name, _ in bounded)),
    )


def _first_documents(size: Size | None, max_documents: int | None) -> Size | None:
    """Of a text of which no more than so many documents are used."""
    if max_documents is None:
        return size
    most = Size(DOCUMENT_BYTES * max_documents)
    return most if size is None or size.num_bytes > most.num_bytes else size


def _part(of: HubSet) -> tuple[str, str | None, str]:
    """A folder counts once, whichever of its splits is read: the sum of its files is above each."""
    return (of.name, None, "") if folder_of(of.name) is not None else (of.name, of.config, of.split)


def _all_there(sets: Iterable[HubSet]) -> float:
    """Bytes of sets that are all folders; no bound otherwise."""
    folders = {folder_of(one.name) for one in sets}
    return sum(float("inf") if folder is None else _folder_bytes(folder) for folder in folders)


@lru_cache(maxsize=64)
def set_bytes(
    name: str, config: str | None, split: str, revision: str | None, offline: bool = False
) -> Size | None:
    """Of the text of a split (``train[:1%]`` and ``train+test`` are some, too), or a bit more; None where that is
    not known."""
    folder = folder_of(name)
    if folder is not None:
        listed = [(str(path.relative_to(folder)), path.stat().st_size) for path in _files_of(folder)]
        return _data_size(listed, split, has_configs=_names_configs(folder))
    for described in _kept_here(name):
        found = _split_bytes(described, config, split)
        if found:
            return found
    if is_offline(offline):
        return None
    described, listed, has_configs = _asked(name, revision)
    found = _split_bytes(described, config, split) or _data_size(listed, split, has_configs=has_configs)
    return found if found.num_bytes else None


def _files_of(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _folder_bytes(folder: Path) -> int:
    return _data_size(((path.name, path.stat().st_size) for path in _files_of(folder)), "all").num_bytes


def _data_size(listed: Iterable[tuple[str, int]], split: str, *, has_configs: bool = False) -> Size:
    """Of all data files; a bound where they are of several configurations, or names say that they are of several
    splits."""
    splits, total, others = _splits_in(split), 0, False
    for name, size in listed:
        suffix = Path(name).suffix.lower()
        if suffix in TEXT_OF or suffix in _PLAIN:
            total += TEXT_OF.get(suffix, 1) * size
            words = set(re.split("[^a-z]+", name.lower()))
            others |= any(own & words and of not in splits for of, own in SPLIT_WORDS.items())
    return Size(total, has_configs or "[" in split or (others and "all" not in splits))


def _splits_in(split: str) -> set[str]:
    return {part.partition("[")[0].strip() for part in split.split("+")}


def _names_configs(folder: Path) -> bool:
    """Whether the folder's card says which files are of which configuration."""
    try:
        return re.search("^configs:", read_text(folder / "README.md"), re.MULTILINE) is not None
    except (OSError, ValueError, LookupError):
        return False


def _split_bytes(described: Iterable[Mapping[str, Any]], config: str | None, split: str) -> Size | None:
    """Of the split, or all of the configuration, in what a card or ``datasets`` says of configurations. Where none
    is chosen it is the default one, or else a bound for each."""
    own = [one for one in described if config is None or one.get("config_name", config) == config]
    if config is None:
        own = [one for one in own if one.get("config_name") == "default"] or own
    found = [size for one in own if (size := _size_in(one, split)) is not None]
    if not found:
        return None
    largest = max(found)
    return Size(largest.num_bytes, largest.is_bound or len({one.get("config_name") for one in own}) > 1)


def _size_in(described: Mapping[str, Any], split: str) -> Size | None:
    """A slice is at most its split; a split of which nothing is said, the whole configuration."""
    given = described.get("splits")
    listed = given.values() if isinstance(given, Mapping) else given
    sizes = {part.get("name"): part.get("num_bytes") for part in listed or () if isinstance(part, Mapping)}
    own = [sizes.get(name) for name in _splits_in(split)]
    known = [size for size in own if isinstance(size, int) and size > 0]
    if len(known) == len(own):
        return Size(sum(known), "[" in split)
    for size in (described.get("dataset_size"), described.get("download_size")):
        if isinstance(size, int) and size > 0:
            return Size(size, split != "all")
    return None


def _kept_here(name: str) -> Iterable[list[Mapping[str, Any]]]:
    """What was noted when the set was prepared, and its card where that was downloaded."""
    from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets")
    plain = _plain(name.replace("/", "___"))
    noted: list[Mapping[str, Any]] = []
    for folder in prepared.iterdir() if prepared.is_dir() else ():
        if _plain(folder.name) == plain:
            for path in folder.glob("*/*/*/dataset_info.json"):
                with contextlib.suppress(OSError, ValueError):
                    noted += _mappings(files.read_json(path))
    yield noted
    snapshots = Path(HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}" / "snapshots"
    for path in snapshots.glob("*/README.md"):
        with contextlib.suppress(OSError, ValueError, LookupError, yaml.YAMLError):
            yield _of_card(read_yaml(read_text(path).split("---")[1]))


def _plain(name: str) -> str:
    """``datasets`` writes a name in its own way."""
    return name.lower().replace("_", "")


@lru_cache(maxsize=64)
def _asked(name: str, revision: str | None) -> tuple[list[Mapping[str, Any]], list[tuple[str, int]], bool]:
    """What the hub says of a set, its files, and whether they are given to configurations; nothing where it does
    not answer at once."""
    try:
        from huggingface_hub import HfApi

        found: Any = HfApi().repo_info(
            name, repo_type="dataset", revision=revision, timeout=ANSWER_SECONDS, files_metadata=True
        )
        card: Any = getattr(found, "card_data", None)
        listed = getattr(found, "siblings", None) or []
        said = None if card is None else card.to_dict()
        return (
            _of_card(said),
            [(one.rfilename, one.size) for one in listed if one.size],
            bool(isinstance(said, Mapping) and said.get("configs")),
        )
    except Exception:  # of several network libraries; nothing but an estimate is missing
        return [], [], False


def _of_card(card: Any) -> list[Mapping[str, Any]]:
    return _mappings(card.get("dataset_info")) if isinstance(card, Mapping) else []


def _mappings(tree: Any) -> list[Mapping[str, Any]]:
    return [one for one in (tree if isinstance(tree, list) else [tree]) if isinstance(one, Mapping)]

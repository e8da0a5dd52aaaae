"""``calm doctor``: what lies in a home, and the corpora. Imports no torch."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from workbench import formats, records
from workbench.checks import Check
from workbench.config import DataConfig
from workbench.corpora import CORPORA
from workbench.data import survey
from workbench.errors import RunError, UserError
from workbench.home import Home
from workbench.hub import commit_of, folder_of
from workbench.hub_sections import PREFIX
from workbench.room import bytes_words, folder_bytes
from workbench.tracking_schema import KILLED, effective_status

NAMED = 3
"""Of so many folders the names are given."""
LARGE_CACHE = 20_000_000_000
OLD_SECONDS = 3600.0
"""Temporary files older than this belong to no process that still writes them."""
LEFTOVERS = (".checkpoint.", ".record.json.", ".config.yaml.", ".calm-doctor.")
"""Beginnings of names in run folders that are temporary."""


def home_checks(home: Home) -> Iterator[Check]:
    """Runs that were interrupted or are damaged, leftovers, the caches' size."""
    if not home.root.exists():
        yield Check("home", "folder", "ok", f"{home.root} is made with the first run")
        return
    folders = records.find_runs(home.root)
    yield from _runs(folders)
    yield from _leftovers(home, folders)
    yield _caches(home)


def _runs(folders: list[Path]) -> Iterator[Check]:
    statuses: Counter[str] = Counter()
    damaged: list[str] = []
    newer: list[str] = []
    for folder in folders:
        try:
            statuses[effective_status(folder, records.read_record(folder))] += 1
        except RunError as error:
            (newer if "newer workbench" in str(error) else damaged).append(str(folder))
    shown = ", ".join(f"{num} {status.replace('_', ' ')}" for status, num in statuses.most_common())
    yield Check("home", "runs", "ok", shown or "none yet")
    open_ones = statuses["interrupted"] + statuses[KILLED]
    if open_ones:
        advice = "the same command continues them: calm train CONFIG, calm study run LAUNCH"
        yield Check("home", "interrupted runs", "warning", f"{open_ones} can be continued", advice)
    if damaged:
        advice = "their record cannot be read: bring back a copy, or delete the folders and run them again"
        yield Check("home", "damaged runs", "failed", _named(damaged), advice)
    if newer:
        yield Check("home", "newer runs", "failed", _named(newer), formats.UPDATE)


def _named(paths: list[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more


def _leftovers(home: Home, folders: list[Path]) -> Iterator[Check]:
    """Temporary files and folders of killed processes; what is young may be in use."""
    found = [path for folder in folders for path in _temporary(folder, LEFTOVERS)]
    for folder in (home.cache / name for name in ("corpora", "autoencoders", "posteriors", "floors")):
        found += [path for path in _temporary(folder, (".",)) if not path.name.endswith(".lock")]
    if found:
        size = bytes_words(sum(folder_bytes(path) if path.is_dir() else path.stat().st_size for path in found))
        advice = "of killed processes; they may be deleted while nothing runs"
        yield Check("home", "leftovers", "warning", f"{size}: {_named([str(path) for path in found])}", advice)


def _temporary(folder: Path, beginnings: Iterable[str]) -> list[Path]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    now = time.time()
    return [
        Path(entry.path)
        for entry in entries
        if entry.name.startswith(tuple(beginnings)) and now - entry.stat().st_mtime > OLD_SECONDS
    ]


def _caches(home: Home) -> Check:
    sizes = {name: folder_bytes(home.cache / name) for name in ("corpora", "autoencoders", "posteriors")}
    total = folder_bytes(home.cache)
    large = total > LARGE_CACHE
    parts = ", ".join(f"{name} {bytes_words(size)}" for name, size in sizes.items() if size)
    found = f"{bytes_words(total)}{f' ({parts})' if parts else ''} in {home.cache}"
    advice = "safe to delete while nothing runs: all of it is made again" if large else ""
    return Check("home", "caches", "warning" if large else "ok", found, advice)


def corpus_check(name: str) -> Iterator[Check]:
    """The corpus ``name`` is read and cleaned, without preparing it: size, and the hash that runs will record."""
    try:
        if name.startswith(PREFIX) and folder_of(name.removeprefix(PREFIX)) is None:
            yield _hub_check(name)
            return
        text = survey(DataConfig(corpus=name))
    except UserError as error:
        yield Check("corpora", name, "failed", str(error))
        return
    num_tokens = text.num_bytes + text.num_documents  # a byte each, and the end of every document
    found = f"{text.num_documents:,} documents, {num_tokens:,} byte tokens, data {text.hash}"
    yield Check("corpora", name, "ok", found)


def _hub_check(name: str) -> Check:
    """Whether the set can be reached; it is not downloaded."""
    commit = commit_of(name.removeprefix(PREFIX), None)
    return Check("corpora", name, "ok", f"on the hub, commit {commit[:12]}")


def corpora_wanted(names: Iterable[str]) -> list[str]:
    """Those asked for, by default the bundled ones."""
    return list(names) or list(CORPORA)

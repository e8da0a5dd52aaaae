"""Entries of the cache: folders that are made once, appear whole or not at all, and are checked before use.

An entry has a manifest: format, its own name, and size and sha256 of every file. Sizes are compared at every use;
a content is hashed once for every state of its file (size, times, inode): a corpus of many gigabytes is not read
at every start. An entry that is truncated, altered, of another format or name, or without a manifest (an
earlier version's) is refused: a warning says why, it is set aside and made anew. One that may not be read is
left as it is, and whoever asks for it is told. Processes that have one memory-mapped keep what they have. Imports
no torch.

    NAME/manifest.json  the entry
    .NAME.verified      states of its files whose content was hashed and found right
    .NAME.lock          held while it is checked or made
    .NAME.partial/      what a long making has so far (``partial``)
    .NAME.damaged/      the last one refused, for whoever wants to look; may be deleted
    .NAME.xxxxxxxx/     of a process that makes it, or was killed while it did: the next one removes it
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from workbench import files, modes, stored
from workbench.errors import DataError, OutputError, RunError, UnreadableError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1
_KEPT = ("damaged", "partial", "partial.previous")
_SETTLED = 2_000_000_000
"""A file that changed less than so many nanoseconds ago could change again without its times showing it."""
_UNREADABLE = (DataError, RunError, OSError, EOFError, ValueError, KeyError, TypeError)

T = TypeVar("T")


def cached(folder: Path, build: Callable[[Path], None], load: Callable[[Path], T]) -> T:
    """``load(folder)`` of an entry, made by ``build(temporary_folder)`` where there is none that can be used. One
    that is whole but cannot be loaded (it is another's) is refused, too. Raises OutputError where nothing can be
    written, UnreadableError where it may not be read."""
    build_once(folder, build)
    try:
        return load(folder)
    except UnreadableError:
        raise
    except _UNREADABLE as error:
        files.raise_unreadable(folder, error)
    with _lock(folder):
        try:  # another process may have made it anew meanwhile
            return load(folder)
        except UnreadableError:
            raise
        except _UNREADABLE as error:
            files.raise_unreadable(folder, error)
            _set_aside(folder, stored.reason(error))
        _make(folder, build)
    return load(folder)


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Make the entry by ``build(temporary_folder)`` unless it is there and sound; processes that ask at the same
    time wait for the first. Raises OutputError where nothing can be written, UnreadableError where it may not be
    read."""
    if _is_verified(folder):
        return folder
    with _lock(folder):
        if os.path.lexists(folder):
            fault = _fault(folder)
            if fault is None:
                return folder
            _set_aside(folder, fault)
        _make(folder, build)
    return folder


def sound(folder: Path) -> bool:
    """Whether the entry is there and may be used. Raises OutputError where it cannot be locked,
    UnreadableError where it may not be read."""
    if _is_verified(folder):
        return True
    if not os.path.isdir(folder):
        return False
    with _lock(folder):
        return folder.is_dir() and _fault(folder) is None


def partial(folder: Path) -> Path:
    """Where ``build`` may keep what it has so far; it removes that itself once it is done."""
    return _beside(folder, "partial")


def _lock(folder: Path) -> AbstractContextManager[None]:
    if os.path.isdir(folder) and not os.access(folder.parent, os.W_OK):
        return nullcontext()  # a cache that may only be read: nobody makes anything there
    return files.locked(_beside(folder, "lock"))


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


# ---- making ------------------------------------------------------------------------------------


def _make(folder: Path, build: Callable[[Path], None]) -> None:
    """Under the lock."""
    _remove_leftovers(folder)
    temporary = None
    try:
        temporary = modes.new_folder(folder.parent, f".{folder.name}.")
        build(temporary)
        paths = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
        listed = {
            path.relative_to(temporary).as_posix(): {"size": path.stat().st_size, "sha256": files.sha256(path)}
            for path in paths
        }
        files.write_json(temporary / MANIFEST, {"format": FORMAT, "name": folder.name, "files": listed})
        files.sync(*paths)
        os.replace(temporary, folder)
        files.sync_folder(folder.parent)
    except OSError as error:
        if error.errno is None or error.errno in files.ADVICE:  # some libraries leave the number out
            raise files.cannot_write(folder, error) from None
        raise
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Of processes that were killed while they made it."""
    prefix, remembered = f".{folder.name}.", f".{_beside(folder, 'verified').name}."
    for path in folder.parent.iterdir():
        if path.name.startswith(remembered):
            path.unlink(missing_ok=True)
        if path.name.startswith(prefix) and path.name.removeprefix(prefix) not in _KEPT and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _set_aside(folder: Path, reason: str) -> None:
    """Under the lock."""
    damaged = _beside(folder, "damaged")
    logger.warning("%s is not used: %s; it is set aside as %s and made anew", folder, reason, damaged.name)
    try:
        if damaged.is_dir() and not damaged.is_symlink():
            shutil.rmtree(damaged)
        else:
            damaged.unlink(missing_ok=True)
        os.replace(folder, damaged)
    except FileNotFoundError:
        return
    except OSError as error:
        raise files.cannot_write(damaged, error) from None


# ---- checking ----------------------------------------------------------------------------------


class _Refused(Exception):
    """Its text is the reason."""


def _fault(folder: Path) -> str | None:
    """Why the entry cannot be used, if so. Under the lock; what was hashed is remembered. Raises
    UnreadableError where that cannot be told."""
    try:
        listed = _manifest(folder)
        states = _states(folder, listed)
        known = _remembered(folder)
        for name, state in states.items():
            if known.get(name) != [*state, listed[name]["sha256"]]:
                wanted, found = listed[name]["sha256"], files.sha256(folder / name)
                if found != wanted:
                    raise _Refused(f"{name} was altered (sha256 {found[:12]}, written {wanted[:12]})")
        if _states(folder, listed) != states:
            raise _Refused("its files changed while they were read")
    except _Refused as refused:
        return str(refused)
    except OSError as error:
        files.raise_unreadable(folder, error)
        return f"it cannot be read ({error.strerror or error})"
    _remember(folder, {name: [*state, listed[name]["sha256"]] for name, state in states.items()})
    return None


def _is_verified(folder: Path) -> bool:
    """Nothing has changed since every file was hashed; the answer for the entries of every day, without a lock."""
    try:
        listed = _manifest(folder)
        states = _states(folder, listed)
    except (_Refused, OSError):
        return False
    known = _remembered(folder)
    return all(known.get(name) == [*state, listed[name]["sha256"]] for name, state in states.items())


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 by name. Raises _Refused."""
    if not folder.is_dir():
        raise _Refused("it is not a folder")
    try:
        manifest = files.read_json(folder / MANIFEST)
    except FileNotFoundError:
        raise _Refused(f"it has no {MANIFEST} (an earlier version made it, or it was not copied whole)") from None
    except ValueError as error:
        raise _Refused(f"its {MANIFEST} is damaged ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise _Refused(f"it is of format {found!r}, this version reads {FORMAT}")
    if manifest.get("name") != folder.name:
        raise _Refused(f"it was made as {manifest.get('name')!r}")
    listed = manifest.get("files")
    if not isinstance(listed, dict) or not all(_is_listing(entry) for entry in listed.values()):
        raise _Refused(f"its {MANIFEST} is damaged (no list of files)")
    return listed


def _is_listing(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("size"), int) and isinstance(entry.get("sha256"), str)


def _states(folder: Path, listed: dict[str, dict[str, Any]]) -> dict[str, list[int]]:
    """Size, times and inode of every listed file. Raises _Refused where others are there or sizes differ."""
    there = {path.relative_to(folder).as_posix() for path in _paths(folder) if not _is_plain_folder(path)}
    there.discard(MANIFEST)
    for name in sorted(there ^ listed.keys()):
        raise _Refused(f"{name} is missing" if name in listed else f"{name} does not belong to it")
    states = {}
    for name in sorted(listed):
        found = os.lstat(folder / name)
        if not stat.S_ISREG(found.st_mode):
            raise _Refused(f"{name} is not a plain file")
        if found.st_size != listed[name]["size"]:
            raise _Refused(f"{name} has {found.st_size:,} bytes, written were {listed[name]['size']:,}")
        states[name] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
    return states


def _paths(folder: Path) -> Iterator[Path]:
    """All below it; ``rglob`` would pass over what may not be read, as though it were not there."""
    for path in folder.iterdir():
        yield path
        if _is_plain_folder(path):
            yield from _paths(path)


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remembered(folder: Path) -> dict[str, list[Any]]:
    """Name to state and sha256, of files that had that content in that state."""
    try:
        known = files.read_json(_beside(folder, "verified"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(folder: Path, known: dict[str, list[Any]]) -> None:
    now = time.time_ns()
    settled = {name: state for name, state in known.items() if now - max(state[1], state[2]) > _SETTLED}
    path = _beside(folder, "verified")
    text = json.dumps(settled)
    try:
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            files.write_atomic(path, text)
    except (OSError, ValueError, OutputError):  # it saves time, no more
        return

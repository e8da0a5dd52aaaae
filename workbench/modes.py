"""Files and folders that get the permissions of any new one: the umask's, or those that their folder hands down.

``tempfile`` and some libraries make them for their owner alone, and a fixed mode would open what the umask closes,
or close it to a group that shares a home. The umask itself is never asked for: that would mean to change it for a
moment, while other threads make files.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

UNFINISHED = ".new"
"""Ending of a file that waits for its rename."""

T = TypeVar("T")


def new_file(folder: Path, prefix: str, suffix: str = UNFINISHED) -> tuple[BinaryIO, Path]:
    """An empty file of a name that nobody else has, open for writing. Raises OSError."""
    return _new(folder, prefix, suffix, lambda path: path.open("xb"))


def new_folder(folder: Path, prefix: str) -> Path:
    """An empty folder of a name that nobody else has. Raises OSError."""
    return _new(folder, prefix, "", os.mkdir)[1]


def _new(folder: Path, prefix: str, suffix: str, make: Callable[[Path], T]) -> tuple[T, Path]:
    while True:
        path = folder / f"{prefix}{secrets.token_hex(4)}{suffix}"
        try:
            return make(path), path
        except FileExistsError:
            continue


def as_new(path: Path) -> None:
    """Give a file that a library has made the permissions of any new one beside it. Raises OSError."""
    file, probe = new_file(path.parent, f".{path.name}.")
    try:
        with file:
            wanted = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    finally:
        probe.unlink(missing_ok=True)
    if stat.S_IMODE(path.stat().st_mode) != wanted:
        os.chmod(path, wanted)

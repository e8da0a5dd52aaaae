"""Files that are never half-written: atomic writes, JSON lines, folder locks."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from workbench.errors import OutputError, RunError


def writable_folder(path: Path | str) -> Path:
    """Create the folder if need be. Raises OutputError where nothing can be written into it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(f"cannot write into {path}: {error.strerror or error}; choose another folder") from None
    return path


def write_atomic(path: Path | str, content: str | bytes) -> None:
    """Write to a temporary name beside ``path``, flush to disk, rename."""
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a cell that a spreadsheet takes for a formula."""


def spreadsheet_text(cell: object) -> object:
    """For CSV: text that a spreadsheet would run as a formula (names, reasons and samples are anybody's) begins
    with an apostrophe; numbers, also as text, stay as they are."""
    if not isinstance(cell, str) or not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def write_json(path: Path | str, value: object) -> None:
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path | str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def append_json_line(path: Path | str, value: object) -> None:
    """One line in one write, so that a reader never sees half of it (bar a crash of the machine)."""
    line = (json.dumps(value) + "\n").encode()
    with open(path, "ab", buffering=0) as file:
        file.write(line)


def read_json_lines(path: Path | str) -> list[dict[str, Any]]:
    """All complete lines; a torn last line (a crash while writing) is left out."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def rewrite_json_lines(path: Path | str, rows: Iterable[object]) -> None:
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def locked(path: Path | str) -> Iterator[None]:
    """Hold the lock file ``path`` (other processes wait)."""
    path = Path(path)
    writable_folder(path.parent)
    with FileLock(str(path)):
        yield


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Be the only process that writes into ``folder``. Raises RunError at once where another does."""
    lock = FileLock(str(writable_folder(folder) / ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"another process is writing into {folder}; wait for it or end it first") from None
    try:
        yield
    finally:
        lock.release()


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Make ``folder`` by ``build(temporary_folder)`` unless it exists; processes that ask at the same
    time wait for the first. The folder appears complete or not at all."""
    if folder.exists():
        return folder
    writable_folder(folder.parent)
    with locked(folder.parent / f".{folder.name}.lock"):
        if folder.exists():
            return folder
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            build(temporary)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder

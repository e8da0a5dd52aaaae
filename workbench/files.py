"""Files that are never half-written: atomic writes, JSON lines, folder locks, the disk's errors in words.

What is written appears whole or not at all, also where the power fails: content is flushed to disk before a
rename, and the folder after it. Lines that are appended are on disk once ``sync`` has returned.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from workbench import modes
from workbench.errors import OutputError, RunError, UnreadableError
from workbench.given_files import read_text, require_regular

_CONTINUES = "then the same command continues"
ADVICE = {
    errno.ENOSPC: f"no room left on its disk; free some, {_CONTINUES}",
    errno.EDQUOT: f"the quota is used up, no room left; free some, {_CONTINUES}",
    errno.EFBIG: f"the file would be larger than is allowed; raise the limit (ulimit -f), {_CONTINUES}",
    errno.EROFS: "its file system is read-only; choose another folder, or mount it for writing",
    errno.EACCES: "permission denied; choose another folder, or change its permissions",
    errno.EPERM: "not permitted; choose another folder, or change its permissions",
    errno.ENAMETOOLONG: "its name is too long; choose a shorter one",
    errno.EMFILE: f"too many files are open; raise the limit (ulimit -n), {_CONTINUES}",
    errno.EIO: f"the disk reports a fault; check it or choose another folder, {_CONTINUES}",
}
"""Number of an error in writing to its reason and what to do."""

_READ_ADVICE = {
    errno.EACCES: "ask whoever it belongs to for permission to read it and its folder, or use a copy",
    errno.EPERM: "ask whoever it belongs to for permission to read it and its folder, or use a copy",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then give the same command again",
    errno.EIO: "check the disk, then give the same command again",
}
_SOMETHING_ELSE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EINVAL,
    errno.EFBIG,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
"""What lies there is nothing, or no file such as was written."""

_ABANDONED_SECONDS = 600.0
"""A file that has waited so long for its rename is of a process that was killed."""
CLAIM = ".lock"
"""File in a folder that the process which writes there holds locked."""
_ASKED_SECONDS = 0.2
"""Beyond the moment for which somebody who asks whether it is held has it."""
_BLOCK = 2**12
_HASHED_AT_ONCE = 2**20


def cannot_write(path: Path | str, error: OSError, what: str = "cannot write") -> OutputError:
    """To be raised instead of ``error``: what failed, why, what to do."""
    known = ADVICE.get(error.errno or 0)
    return OutputError(f"{what} {path}: {known or f'{error.strerror or error}; choose another folder'}")


def raise_unreadable(path: Path | str, error: BaseException) -> None:
    """Raises UnreadableError where ``error`` says nothing about what ``path`` (or the file in it that ``error``
    names) holds, which may be sound. Returns for any other: it is missing, something else than a file, or no
    content that was wanted."""
    if not isinstance(error, OSError) or error.errno is None or error.errno in _SOMETHING_ELSE:
        return
    advice = _READ_ADVICE.get(error.errno, "mend that, then give the same command again")
    where = error.filename if isinstance(error.filename, str) else path
    raise UnreadableError(f"{where} cannot be read ({error.strerror or error}); {advice}") from None


def writable_folder(path: Path | str) -> Path:
    """Create the folder if need be. Raises OutputError where nothing can be written into it."""
    path = Path(path)
    try:
        _make_folder(path)
        with tempfile.TemporaryFile(dir=path):  # it has no name: one killed here leaves nothing behind
            pass
    except OSError as error:
        if os.path.isfile(path):
            raise OutputError(f"cannot write into {path}: it is a file, a folder is wanted") from None
        raise cannot_write(path, error, "cannot write into") from None
    return path


def _make_folder(path: Path) -> None:
    """With its parents; each new one is on disk in its parent."""
    if path.is_dir():
        return
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(new):
        sync_folder(folder.parent)


def write_atomic(path: Path | str, content: str | bytes) -> None:
    """Write to a temporary name beside ``path``, flush to disk, rename, flush the folder. Raises OutputError."""
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = None
    try:
        _make_folder(path.parent)
        file, temporary = modes.new_file(path.parent, f".{path.name}.")
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sync(*paths: Path | str) -> None:
    """Flush files, such as those that lines were appended to, and their folders to disk; missing ones are passed
    over. Raises OutputError: only now a disk may say that it is full."""
    for path in map(Path, paths):
        try:
            flush(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise cannot_write(path, error) from None
    for folder in {Path(path).parent for path in paths}:
        try:
            sync_folder(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise cannot_write(folder, error) from None


def sync_folder(path: Path) -> None:
    """Names made, renamed and removed in the folder are on disk. Raises OSError; file systems that cannot do it
    for a folder are left alone."""
    try:
        flush(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


def flush(path: Path) -> None:
    """The content is on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal; read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_HASHED_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()


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
    """Raises OSError where there is no file, and ValueError for what is no JSON or could not be written again."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\ud" in text.lower():  # half of a surrogate pair, perhaps
        json.dumps(value, ensure_ascii=False).encode()
    return value


def append_json_line(path: Path | str, value: object) -> None:
    """One line in one write, so that a reader never sees half of it. What a crash has left of another line at the
    end is dropped first. Raises OutputError, with the file as it was, where the line does not fit on the disk."""
    line = (json.dumps(value) + "\n").encode()
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            with _alone(descriptor):
                _append(descriptor, line, _whole_lines(descriptor))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise cannot_write(path, error) from None


@contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    """A line that another process is writing must not be taken for a torn one."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:  # closing would do, were it not for processes that are forked meanwhile and hold the file, too
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _append(descriptor: int, line: bytes, length: int) -> None:
    """Behind ``length`` bytes, which are left where it fails."""
    try:
        while line:  # a disk that fills up takes a part first, and refuses the rest
            line = line[os.write(descriptor, line) :]
    except BaseException:
        os.ftruncate(descriptor, length)
        raise


def _whole_lines(descriptor: int) -> int:
    """Bytes of the file up to its last end of a line; what follows is cut off."""
    end = size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    while end > 0:
        start = max(0, end - _BLOCK)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    os.ftruncate(descriptor, end)
    return end


def read_json_lines(path: Path | str) -> list[dict[str, Any]]:
    """All complete lines. What a crash of the machine leaves at the end is left out: a torn line, blocks of zeros,
    half a letter. Raises RunError where a damaged line stands before others, or nothing can be read."""
    content = _content(path)
    try:
        rows = [json.loads(line) for line in content.decode("utf-8").split("\n")[:-1] if line]
        if all(isinstance(row, dict) for row in rows):
            return rows
    except (ValueError, RecursionError):
        pass
    return [row for _, row in _rows(path, content, lambda _: True)]


def numbered_json_lines(
    path: Path | str, keep: Callable[[dict[str, Any]], bool] = lambda _: True
) -> list[tuple[int, dict[str, Any]]]:
    """The rows that ``keep`` wants with the numbers of their lines. Damaged lines are passed over where only
    unwanted rows follow: those of after the last flush, when the machine stopped. Raises RunError for others."""
    return list(_rows(path, _content(path), keep))


def _content(path: Path | str) -> bytes:
    try:
        require_regular(path)
        return Path(path).read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise_unreadable(path, error)
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from None


def _rows(
    path: Path | str, content: bytes, keep: Callable[[dict[str, Any]], bool]
) -> Iterator[tuple[int, dict[str, Any]]]:
    damaged = None
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        if not line:
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            damaged = damaged or number
        elif keep(row):
            if damaged is not None:
                raise RunError(
                    f"{path} is damaged: line {damaged} is not a JSON object; bring the file back from a copy, or "
                    "delete that line"
                )
            yield number, row


def rewrite_json_lines(path: Path | str, rows: Iterable[object]) -> None:
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def locked(path: Path | str) -> Iterator[None]:
    """Hold the lock file ``path`` (other processes wait)."""
    path = Path(path)
    writable_folder(path.parent)
    lock = FileLock(str(path))
    try:
        lock.acquire()
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        yield
    finally:
        lock.release()


def remove_lock(path: Path | str) -> bool:
    """Remove a lock file unless it is held; whether it is gone. Whoever waits for it makes it again."""
    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=0)
        os.unlink(path)
    except (Timeout, OSError):
        return False
    finally:
        lock.release()
    return True


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Be the only process that writes into ``folder``; what killed ones have left unfinished there is removed.
    Raises RunError where another does, without waiting for it."""
    path = writable_folder(folder) / CLAIM
    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=_ASKED_SECONDS)
    except Timeout:
        raise RunError(f"another process is writing into {folder}; wait for it or end it first") from None
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        remove_unfinished(folder)
        yield
    finally:
        lock.release()


def remove_unfinished(folder: Path, *, shared: tuple[str, ...] = ("",)) -> None:
    """What killed processes have left half-written; of a name that begins with one of ``shared``, which others may
    be about to write, only what is old."""
    for path in folder.rglob(f".*{modes.UNFINISHED}"):
        with suppress(OSError):
            under_way = path.name[1:].startswith(shared)
            if not under_way or time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()


def remove_halves(folder: Path, name: str) -> None:
    """Folders called ``name`` (a pattern) in one where work has ended, which killed processes have left
    half-written. Where one is at work, or nothing may be written: none."""
    if next(folder.glob(name), None) is None:
        return
    with suppress(RunError, OutputError), claimed(folder):
        for path in folder.glob(name):
            shutil.rmtree(path, ignore_errors=True)

"""Which workers of a launch are there, also those that wait: a small file each, in the launch's folder.

A process holds its file locked, which the system undoes however it ends: so it is seen from other containers of
the machine, which share no process numbers. And it touches the file now and then, which is what other hosts go by,
by the clock of whoever keeps the files. Files of the dead are removed when somebody looks; of hosts that cannot be
seen nobody can tell.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from workbench import files, modes, processes
from workbench.errors import OutputError
from workbench.saving import told_by

WORKERS = ".workers"
LAUNCHER = "launcher"
"""Index of a launcher, which is there before its workers are."""
LOCKED = "locked"
"""Stands in the file of a process that holds it locked; earlier versions did not."""
BEAT_SECONDS = 15.0

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Seen:
    """A worker, or launcher, and what is known of it here."""

    worker: dict[str, Any]
    alive: bool | None
    """None where it cannot be seen from here."""
    silent: float
    """Seconds since it was last known to live."""

    @property
    def launches(self) -> bool:
        return bool(self.worker.get("index") == LAUNCHER)


def key(worker: dict[str, Any]) -> Key:
    """Which process it is."""
    where = tuple(worker.get(name) for name in ("host", "boot", "pid_space", "pid"))
    return (*where, worker.get("ticks", worker.get("started")))


@contextmanager
def present(folder: Path, worker: dict[str, Any]) -> Iterator[None]:
    """Be seen while the block lasts. It is no reason to fail where it cannot be written."""
    try:
        file, path = _begin(folder / WORKERS, worker)
    except (OSError, OutputError):
        yield
        return
    ended = threading.Event()
    threading.Thread(target=_touch, args=(path, ended), name="presence", daemon=True).start()
    try:
        with told_by(saving_mark(folder, worker["pid"])):
            yield
    finally:
        ended.set()
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            file.close()


def saving_mark(folder: Path, pid: int) -> Path:
    """Is there while the worker of this host saves a checkpoint, for its launcher."""
    return folder / WORKERS / f"{socket.gethostname()}-{pid}.saving"


def _begin(folder: Path, worker: dict[str, Any]) -> tuple[BinaryIO, Path]:
    """The file, locked before anything stands in it. Processes of two containers may have one number and one
    host's name, hence a name that nobody else has. Raises OSError and OutputError."""
    files.writable_folder(folder)
    file, path = modes.new_file(folder, f"{worker['host']}-{worker['pid']}-", ".json")
    content = {**worker, LOCKED: True} if processes.lock(file) else worker
    file.write(json.dumps(content, indent=1).encode())
    file.flush()
    return file, path


def _touch(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)


def workers(folder: Path, busy: Container[Key] = ()) -> list[Seen]:
    """Those that live or may live; and of those that are ``busy`` (their ``key``), according to a trial, who died
    in another container of this machine. Files of all other dead are removed."""
    found: list[Seen] = []
    now = None
    for path in sorted((folder / WORKERS).glob("*.json")):
        try:
            worker, touched = dict(files.read_json(path)), path.stat().st_mtime
            lock = path if worker.pop(LOCKED, False) else None
            alive = processes.is_alive(worker, lock)
            gone, hidden = processes.gone(worker, lock), processes.is_alive(worker) is None
            which = key(worker)
            hash((which, worker["host"], worker["pid"]))  # a damaged file may have none, or lists
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            continue
        if gone and not (hidden and which in busy):  # the file is all that tells of its end
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            continue
        now = now or _now(path.parent)
        found.append(Seen(worker, False if gone else alive, max(0.0, now - touched)))
    return found


def others(folder: Path) -> str:
    """What a launcher that joins in should know; empty where nobody is at it."""
    found = [one for one in workers(folder) if one.alive and not one.launches]
    here = sum(one.worker.get("host") == socket.gethostname() for one in found)
    if not found:
        return ""
    where = f", {here} of them on this machine: their runs share its cores" if here else ""
    return f"joins in: {len(found)} worker(s) of other launchers are at it already{where}"


def alive(folder: Path, worker: dict[str, Any]) -> bool | None:
    """Whether the worker of a trial lives; None where that cannot be seen from here."""
    said = processes.is_alive(worker)
    if said is not None:
        return said
    seen = [one for one in workers(folder, (key(worker),)) if key(one.worker) == key(worker)]
    return seen[0].alive if seen else None


def _now(folder: Path) -> float:
    """By the clock that the files are dated by: hosts may disagree about the time."""
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
    return time.time()

"""``calm doctor``: the disk under a folder. Imports no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from workbench.checks import Check, graded
from workbench.room import bytes_words, free_room

LITTLE_BYTES, TOO_LITTLE_BYTES = 2_000_000_000, 100_000_000
"""A warning below the one (the largest presets need about this much), a failure below the other."""
LITTLE_FILES, TOO_LITTLE_FILES = 10_000, 100
NETWORK = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "glusterfs", "fuse.glusterfs", "ceph",
    "fuse.ceph", "fuse.sshfs", "afs", "9p", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "davfs", "ncpfs",
}  # fmt: skip
"""Kinds of file systems on which locks or shared memory do not work between machines as SQLite needs them."""
IN_MEMORY = {"tmpfs", "ramfs"}
SLOW_FSYNC = 0.05
"""Seconds; a run flushes some thousand times."""
LOCK_SECONDS = 3.0
OTHER_PROCESS = """
import sys
from filelock import FileLock, Timeout
try:
    FileLock(sys.argv[1]).acquire(timeout=0)
except Timeout:
    sys.exit(7)
"""
"""Ends with 7 where the lock is held."""


def nearest(folder: Path) -> Path:
    """The folder, or the next one above that exists."""
    path = folder.absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def disk_checks(folder: Path, name: str, *, holds_database: bool) -> Iterator[Check]:
    """Room, kind and working of the file system that ``folder`` lies on or would lie on; nothing is left there."""
    place = nearest(folder)
    yield from _room(place, name)
    yield from _kind(place, name, holds_database)
    yield from _quota(name) if holds_database else ()
    yield from _writing(place, name)


def _room(place: Path, name: str) -> Iterator[Check]:
    free = free_room(place)
    if free is None:
        yield Check("disk", f"{name}: free", "warning", "this system does not say")
        return
    few = free.files is not None and free.files < LITTLE_FILES
    none = free.files is not None and free.files < TOO_LITTLE_FILES
    outcome = graded(failed=free.bytes < TOO_LITTLE_BYTES or none, warned=free.bytes < LITTLE_BYTES or few)
    files = "" if free.files is None else f", {free.files:,} files (inodes)"
    advice = (
        "free some, or choose another place with --home (TMPDIR for temporary files)" if outcome != "ok" else ""
    )
    yield Check("disk", f"{name}: free", outcome, f"{bytes_words(free.bytes)}{files} in {place}", advice)


def _kind(place: Path, name: str, holds_database: bool) -> Iterator[Check]:
    kind = file_system(place)
    if kind is None:
        return
    if kind in NETWORK and holds_database:
        advice = (
            "SQLite's locks and write-ahead log cannot be relied on there: put the home on a local disk, or give "
            "--storage postgresql://USER@HOST/NAME and a tracking server"
        )
        yield Check("disk", f"{name}: file system", "warning", f"{kind}, on the network", advice)
    elif kind in IN_MEMORY and holds_database:
        advice = "what is there is gone when the machine restarts: choose a home on a disk"
        yield Check("disk", f"{name}: file system", "warning", f"{kind}, in memory", advice)
    else:
        yield Check("disk", f"{name}: file system", "ok", kind)


def file_system(place: Path, mounts: str | None = None) -> str | None:
    """``ext4``, ``nfs4``, ...; None where the system does not say. ``mounts``: text as in /proc/mounts."""
    try:
        text = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace") if mounts is None else mounts
    except OSError:
        return None
    path, best, kind = place.resolve(), -1, None
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " "))  # later lines are mounted over earlier ones
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def _quota(name: str) -> Iterator[Check]:
    """Where the command ``quota`` says one."""
    if shutil.which("quota") is None:
        return
    done = subprocess.run(
        ["quota", "-w", "-p"], capture_output=True, text=True, errors="replace", timeout=2, check=False
    )
    for line in done.stdout.splitlines():
        fields = line.replace("*", " ").split()
        if len(fields) < 4 or not all(field.isdigit() for field in fields[1:4]):
            continue
        used, soft, hard = (1024 * int(field) for field in fields[1:4])
        limit = soft or hard
        if limit:
            full = used > 0.9 * limit
            found = f"{bytes_words(used)} of {bytes_words(limit)} used on {fields[0]}"
            advice = "free some, or choose another --home" if full else ""
            yield Check("disk", f"{name}: quota", "warning" if full else "ok", found, advice)


def _writing(place: Path, name: str) -> Iterator[Check]:
    """Temporary files are written, flushed, renamed and locked, in a folder of their own."""
    label = f"{name}: writing"
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".calm-doctor.") as made:
            seconds = _flush_and_rename(Path(made))
            slow = seconds > SLOW_FSYNC
            advice = "a run flushes some thousand times; a local disk is faster" if slow else ""
            found = f"writes, flushes (fsync {1e3 * seconds:.1f} ms) and renames"
            yield Check("disk", label, "warning" if slow else "ok", found, advice)
            yield _locking(Path(made), name)
    except OSError as error:
        found = f"cannot write into {place}: {error.strerror or error}"
        yield Check("disk", label, "failed", found, "mend that, or choose another folder with --home")


def _flush_and_rename(folder: Path) -> float:
    """Seconds of one fsync, the median of three."""
    times = []
    for number in range(3):
        path = folder / f"{number}.tmp"
        with open(path, "wb") as file:
            file.write(os.urandom(65_536))
            file.flush()
            start = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
        os.replace(path, folder / "kept")
    return sorted(times)[1]


def _locking(folder: Path, name: str) -> Check:
    path = folder / "lock"
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path[:0] = {sys.path!r}\n{OTHER_PROCESS}",
        str(path),
    ]
    with FileLock(str(path)).acquire(timeout=1):
        held = subprocess.run(command, timeout=LOCK_SECONDS, capture_output=True, check=False).returncode
    freed = subprocess.run(command, timeout=LOCK_SECONDS, capture_output=True, check=False).returncode
    if (held, freed) == (7, 0):
        return Check("disk", f"{name}: locks", "ok", "held by one process, refused to another")
    advice = "several processes would write the same files: choose a --home on a local disk"
    return Check("disk", f"{name}: locks", "failed", f"do not work between processes ({held}, {freed})", advice)

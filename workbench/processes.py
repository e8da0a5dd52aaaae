"""Whether a process that was seen once still lives. Imports no torch.

A process number alone says nothing: it is given again, other machines have it too, and so have the containers of
one machine. So a process is remembered with the machine's boot, the container's number space and the tick at which
it began. Nothing of this depends on the clock, which may be set meanwhile.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from pathlib import Path
from typing import Any, BinaryIO

PROC = Path("/proc")
MACHINE = Path("/etc/machine-id")
OUTSIDE_CONTAINERS = "pid:[4026531836]"
"""The number space of processes that Linux makes when it starts, the same on every machine."""
CLOCK_TOLERANCE = 1.0
"""Seconds between two readings of one process's start, where the operating system offers only those."""


def this_process() -> dict[str, Any]:
    """host, pid, started (seconds since 1970); and where the system offers it boot, pid_space, ticks, machine."""
    import psutil

    own: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }
    found = {"boot": _boot(), "pid_space": _pid_space(), "ticks": _ticks(os.getpid()), "machine": _machine()}
    return own | {name: value for name, value in found.items() if value is not None}


def is_alive(process: dict[str, Any], held: Path | None = None) -> bool | None:
    """Whether it still runs; None where that cannot be seen from here: it is on another machine, in another
    container, or from before the machine was started last.

    ``held``: a file that it holds locked as long as it lives, which tells of other containers as well."""
    if "boot" in process:
        if (process["boot"], process.get("pid_space")) != (_boot(), _pid_space()) or "ticks" not in process:
            return _alive_by_lock(process, held)
        pid = int(process["pid"])
        ticks = _ticks(pid)
        if ticks is None and _is_hidden(pid):
            return _alive_by_lock(process, held)
        return bool(ticks == process["ticks"])
    if process.get("host") != socket.gethostname():
        return None
    return _alive_by_clock(int(process["pid"]), float(process["started"]))


def gone(process: dict[str, Any], held: Path | None = None) -> bool:
    """Whether it is known to be no more: it has ended, or this machine has been started again since. False where
    that cannot be known from here. ``held`` as for ``is_alive``."""
    return is_alive(process, held) is False or _was_switched_off(process)


def _alive_by_lock(process: dict[str, Any], held: Path | None) -> bool | None:
    """Its system frees the lock at its end. Another one's locks may not reach us, so of another machine, or
    another boot of it, only a lock that is seen to be held says something."""
    locked = None if held is None else is_locked(held)
    same_system = process["boot"] is not None and process["boot"] == _boot()
    return locked if locked or same_system else None


def lock(file: BinaryIO) -> bool:
    """Hold an open file locked until it is closed, or this process ends; False where its file system cannot do
    that, or another holds it."""
    try:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def is_locked(path: Path) -> bool | None:
    """Whether a process holds the file locked, in whatever container; None where it is not there, or that cannot
    be told. For the moment of the question nobody else can lock it."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError as error:
        return True if error.errno in (errno.EAGAIN, errno.EACCES) else None
    finally:
        os.close(descriptor)


def is_stopped(pid: int) -> bool:
    """Whether it does nothing at all until somebody lets it go on (SIGSTOP, a debugger)."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP))
    except psutil.Error:
        return False


def waited_for_a_core(pid: int) -> float:
    """Seconds for which its main thread could have run and others did; 0 where nobody counts them."""
    try:
        return int((PROC / str(pid) / "schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _was_switched_off(process: dict[str, Any]) -> bool:
    """Whether this machine, known by its name and number, had another boot then. A container's name is what
    somebody gave it, on several machines perhaps, so nothing is concluded in or about one. Earlier versions did
    not store the machine's number."""
    boot = _boot()
    if boot is None or process.get("boot") in (None, boot) or process.get("host") != socket.gethostname():
        return False
    if not process.get("pid_space") == _pid_space() == OUTSIDE_CONTAINERS:
        return False
    return bool(process.get("machine", _machine()) == _machine())


def _alive_by_clock(pid: int, started: float) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < CLOCK_TOLERANCE
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _boot() -> str | None:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    except OSError:
        return None


def _pid_space() -> str | None:
    try:
        return os.readlink(PROC / "self/ns/pid")
    except OSError:
        return None


def _machine() -> str | None:
    """A hash of its number, which systems ask to be kept to oneself."""
    try:
        number = MACHINE.read_bytes().strip()
    except OSError:
        return None
    return hashlib.sha256(b"calm" + number).hexdigest()[:16] if number else None


def _is_hidden(pid: int) -> bool:
    """Whether there is such a process although it cannot be looked at: machines that are shared often hide the
    processes of other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return not (PROC / str(pid) / "stat").exists()


def _ticks(pid: int) -> int | None:
    """Since the machine's start, at which the process began; None where there is none, or it has ended and only
    waits for its parent to notice."""
    try:
        stat = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name in brackets may hold anything
    return None if fields[0] in ("Z", "X") else int(fields[19])


def holders(path: Path) -> list[str]:
    """Other processes of this machine that have locked the file for writing, as far as the system shows them:
    ``process 123 (calm)``."""
    try:
        inode = path.stat().st_ino
        lines = [line.split() for line in (PROC / "locks").read_text(encoding="ascii").splitlines()]
    except (OSError, UnicodeDecodeError):
        return []
    held = [line for line in lines if len(line) == 8 and line[3] == "WRITE"]  # who waits has an arrow more
    found = {int(line[4]) for line in held if line[5].rpartition(":")[2] == str(inode)}
    return [_words(pid) for pid in sorted(found - {os.getpid()}) if _has_open(pid, path)]


def _has_open(pid: int, path: Path) -> bool:
    """File systems number their files independently, and some tell the locks' owner another device than us."""
    try:
        return any(os.path.realpath(link) == os.path.realpath(path) for link in (PROC / f"{pid}/fd").iterdir())
    except OSError:
        return False


def _words(pid: int) -> str:
    """Without its arguments, which may hold a password."""
    try:
        return f"process {pid} ({(PROC / f'{pid}/comm').read_text(encoding='utf-8', errors='replace').strip()})"
    except OSError:
        return f"process {pid}"


def out_of_memory_kills() -> int | None:
    """Processes that the kernel has killed for want of memory so far: in this process's control group or container
    where that counts, otherwise on this machine; None where nobody counts."""
    for path in (_own_group() / "memory.events", Path("/sys/fs/cgroup/memory.events"), PROC / "vmstat"):
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.isdigit():
                return int(value)
    return None


def _own_group() -> Path:
    """Of control groups, version 2."""
    try:
        lines = (PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    inside = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    return Path("/sys/fs/cgroup") / inside.lstrip("/")

"""How many cores and how much memory this process may use. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""Where a container's limits stand on Linux (version 2)."""


def available_cores() -> int:
    """Those the operating system and the container allow this process, where they say so; otherwise all."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read("cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def asked_threads() -> int | None:
    """OMP_NUM_THREADS; None where it is not set, or no number above 0."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else None


def available_memory() -> int:
    """Bytes that new processes can take without swapping."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = _read("memory.max"), _read("memory.current")
    if limit.isdigit() and used.isdigit():
        free = min(free, max(0, int(limit) - int(used) + _reclaimable()))
    return free


def _reclaimable() -> int:
    """Bytes of files that the container's use counts and the kernel drops as soon as memory is wanted."""
    for line in _read("memory.stat").splitlines():
        name, _, size = line.partition(" ")
        if name == "inactive_file" and size.isdigit():
            return int(size)
    return 0


def _read(name: str) -> str:
    try:
        return (CGROUP / name).read_text(encoding="utf-8").strip()
    except OSError:
        return ""

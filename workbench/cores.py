"""How many cores this process may use. Imports no torch."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Those the operating system allows this process, where it says so; otherwise all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

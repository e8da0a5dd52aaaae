"""Waiting for what other processes do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any


def wait_for(
    condition: Callable[[], Any], process: subprocess.Popen[str] | None = None, *, seconds: float = 90.0
) -> None:
    """Until ``condition()`` is true; an error where that takes longer, or ``process`` ends before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)

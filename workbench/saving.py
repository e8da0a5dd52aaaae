"""Said outside of a process that it saves a checkpoint: whoever has asked it to leave waits longer then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_mark: Path | None = None
"""The file that is there meanwhile; None where nobody asked for one."""


@contextmanager
def told_by(mark: Path) -> Iterator[None]:
    """For ``with``: what this process saves is told by the file ``mark``."""
    global _mark
    before, _mark = _mark, mark
    _remove(mark)  # of a killed process that had the name
    try:
        yield
    finally:
        _mark = before
        _remove(mark)


@contextmanager
def saving() -> Iterator[None]:
    """Around what writes a checkpoint. That it cannot be told is no reason to save nothing."""
    mark = _mark
    if mark is None:
        yield
        return
    with contextlib.suppress(OSError):
        mark.touch()
    try:
        yield
    finally:
        _remove(mark)


def _remove(mark: Path) -> None:
    with contextlib.suppress(OSError):
        mark.unlink(missing_ok=True)

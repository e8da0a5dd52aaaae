"""When Python looks for cyclic garbage: seldom where nearly all objects stay. Imports no torch.

What a process of ours imports makes hundreds of thousands of objects. Looking through them again and again takes a
quarter of its start, and once more at its end up to a second.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

AT_START = (10_000, 10, 10)
"""New objects before a look at the youngest, looks before one at the next, and before one at all of them. Python's
own are 700, 10, 10."""
IN_REPORTS = (200_000, 20, 50)
"""A thousand runs are millions of small objects. Python's own take a seventh of such a report's time."""
_usual: tuple[int, int, int] | None = None


def start() -> None:
    """At the beginning of a process that is ours alone: few looks until ``settle``, none at its end."""
    global _usual
    _usual = gc.get_threshold()
    gc.set_threshold(*AT_START)
    atexit.register(gc.freeze)


def settle() -> None:
    """Before training, whose garbage may hold tensors: looks are as frequent as ever, and what is there already is
    left out of them. Nothing where ``start`` was not called, in somebody's notebook perhaps."""
    global _usual
    if _usual is not None:
        gc.freeze()
        gc.set_threshold(*_usual)
        _usual = None


@contextmanager
def rare_collections() -> Iterator[None]:
    """Looks as ``IN_REPORTS``; afterwards as before."""
    before = gc.get_threshold()
    gc.set_threshold(*IN_REPORTS)
    try:
        yield
    finally:
        gc.set_threshold(*before)

"""Where the time of running code goes: calls of chosen functions are timed while a benchmark runs, unchanged
otherwise.

A part's time is its own: what an inner part takes is taken off. Calls in other threads are parts of their own,
said to be beside: they take no time from the repetition where a core is free for them.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

REST = "rest"
"""What belongs to no part."""


class Spans:
    """``watch`` functions; ``start`` before every repetition and take ``lap`` after it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._thread = threading.get_ident()
        self._seconds: dict[str, float] = {}
        self._beside: dict[str, float] = {}
        self._inner: list[float] = []
        """Seconds inside each open span that belong to parts within it."""
        self.start()

    def watch(self, owner: object, name: str, part: str) -> None:
        """Time calls of ``owner.name`` as ``part``; what is not there (any more) is passed over."""
        function = getattr(owner, name, None)
        if callable(function):
            setattr(owner, name, self._timed(function, part))

    def start(self) -> None:
        """What is measured begins here."""
        self._seconds, self._beside = {}, {}
        self._start = self._now()

    def lap(self) -> dict[str, float]:
        """Seconds by part since the start, with ``REST``."""
        rest = self._now() - self._start - sum(self._seconds.values())
        beside = {f"{part} (beside)": seconds for part, seconds in self._beside.items()}
        return {**self._seconds, REST: rest, **beside}

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                start = self._now()
                result = function(*args, **kwargs)
                self._beside[part] = self._beside.get(part, 0.0) + self._now() - start
                return result
            self._inner.append(0.0)
            start = self._now()
            try:
                return function(*args, **kwargs)
            finally:
                seconds = self._now() - start
                own = seconds - self._inner.pop()
                self._seconds[part] = self._seconds.get(part, 0.0) + own
                if self._inner:
                    self._inner[-1] += seconds

        return timed

"""Native code that may take long, or hang, beside the thread that waits for it: Python hears no signal in there.

Whoever waits wakes up every SLICE_SECONDS, where a signal's handler may raise. What was begun cannot be ended
from outside: it goes on in its daemon thread until it is through or the process ends, and nobody hears of it.
Imports no torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

SLICE_SECONDS = 0.1
T = TypeVar("T")


class Begun(Generic[T]):
    """``action``, under way in a thread called ``name``."""

    def __init__(self, action: Callable[[], T], *, name: str) -> None:
        self._action, self._done = action, threading.Event()
        self._result: list[T] = []
        self._errors: list[BaseException] = []
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        try:
            self._result.append(self._action())
        except BaseException as error:
            self._errors.append(error)
        finally:
            self._done.set()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within them."""
        return self._done.wait(seconds)

    def result(self) -> T:
        """What it has returned or raised, once it has ended."""
        if self._errors:
            raise self._errors.pop()
        return self._result[0]


def aside(action: Callable[[], T], meanwhile: Callable[[], None], *, name: str) -> T:
    """What ``action`` returns or raises, in a thread called ``name``; ``meanwhile`` is called here every
    SLICE_SECONDS. What that raises, or a signal's handler, is raised at once."""
    begun = Begun(action, name=name)
    while not begun.wait(SLICE_SECONDS):
        meanwhile()
    return begun.result()

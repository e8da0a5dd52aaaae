"""Work that is done ahead in a thread for which nobody has to wait. Imports no torch.

Python joins the threads of an executor when a process ends, however long they still take: minutes, for one that
waits for a dead network. Threads of an ``Ahead`` are told to stop, get a moment, and are left behind.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

T = TypeVar("T")

MOMENT_SECONDS = 1.0
"""What a thread gets to look at ``stop`` before it is left behind."""


class ClosedError(Exception):
    """What was asked for will not come any more."""


class Ahead:
    """Calls in threads of their own, until it is closed: by ``close``, or when the process ends."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        """Set when it is closed; what takes long looks at it."""
        self._begun: dict[threading.Thread, Future[Any]] = {}
        self._close = weakref.finalize(self, _close, self.stop, self._begun)

    def submit(self, action: Callable[[], T]) -> Future[T]:
        """The result to come; ClosedError where it is closed before."""
        coming: Future[T] = Future()
        if self.stop.is_set():
            coming.set_exception(ClosedError())
            return coming
        thread = threading.Thread(target=_work, args=(action, coming, self._begun), name="ahead", daemon=True)
        self._begun[thread] = coming
        thread.start()
        return coming

    def close(self) -> None:
        """Whoever waits for a result is told at once."""
        self._close()


def _work(action: Callable[[], T], coming: Future[T], begun: dict[threading.Thread, Future[Any]]) -> None:
    with contextlib.suppress(InvalidStateError):  # it was closed meanwhile
        try:
            coming.set_result(action())
        except InvalidStateError:
            raise
        except BaseException as error:
            coming.set_exception(error)
    begun.pop(threading.current_thread(), None)


def _close(stop: threading.Event, begun: dict[threading.Thread, Future[Any]]) -> None:
    stop.set()
    left = list(begun.items())
    for _, coming in left:
        with contextlib.suppress(InvalidStateError):
            coming.set_exception(ClosedError())
    end = time.monotonic() + MOMENT_SECONDS
    for thread, _ in left:
        if thread is not threading.current_thread():
            thread.join(max(0.0, end - time.monotonic()))

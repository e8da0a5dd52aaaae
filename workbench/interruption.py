"""Ctrl-C, SIGTERM, and SIGHUP of a terminal that is gone: finish the step, save, leave. Twice means now.

    with interruption.listening():      # around the work, in the main thread
        with interruption.held():       # what must not be torn: a step, a checkpoint
            ...

The first signal raises KeyboardInterrupt at once outside ``held`` and at its end inside, though no later than
PATIENCE_SECONDS after the signal. A second one ends the process as it stands (``os._exit``; in an interactive
session it raises KeyboardInterrupt): nothing is lost but what was done since the last checkpoint, as with SIGKILL.
Without ``listening`` the others do nothing, and Python's own KeyboardInterrupt comes wherever it comes. Imports no
torch.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

PATIENCE_SECONDS = 6.0
"""What a step or a checkpoint under way gets to end; with the save that follows, ten seconds in all."""
ECHO_SECONDS = 0.5
"""A second signal within so short a time is the first one's echo: terminals signal a whole group, and whoever
started us passes it on."""
AGAIN_SECONDS = 0.02
"""After an interruption that was swallowed."""
EXIT_INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))


def heard() -> tuple[signal.Signals, ...]:
    """Those to handle: nohup ignores SIGHUP, and so do we then."""
    return tuple(
        number
        for number in SIGNALS
        if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN
    )


class _Listener:
    def __init__(self) -> None:
        self.depth = 0
        self.asked_at: float | None = None
        self.heard_at: float | None = None
        """The same, but known as well while no handler runs (``heard_at_once``)."""
        self.raised = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked_at is not None:
            if now - self.asked_at > ECHO_SECONDS:
                if hasattr(sys, "ps1"):  # a person's Python session or notebook must not end for one of its runs
                    self.interrupt()
                _leave_now()
            return
        self.asked_at = now
        if self.depth:
            self._arm()
        else:
            self.interrupt()

    def interrupt(self) -> None:
        self.raised = True
        raise KeyboardInterrupt

    @property
    def due(self) -> bool:
        """Asked for, and not raised yet."""
        return self.asked_at is not None and not self.raised

    def _arm(self) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)

    def swallowed(self, said: Any, otherwise: Callable[[Any], Any]) -> None:
        """Raised where an exception goes no further, in a destructor or the callback of a weak reference: again,
        once that is left."""
        if self.raised and said.exc_type is KeyboardInterrupt:
            self.raised = False
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
        else:
            otherwise(said)

    def alarm(self, number: int, frame: FrameType | None) -> None:
        if not self.due or self.asked_at is None:
            return
        patience = self.asked_at + PATIENCE_SECONDS - time.monotonic()
        if self.depth and patience > AGAIN_SECONDS:
            signal.setitimer(signal.ITIMER_REAL, patience)
        else:
            self.interrupt()


_active: _Listener | None = None


def _leave_now() -> None:
    with suppress(OSError, ValueError):  # a terminal that is gone
        print("left at once; the last checkpoint is kept, the same command continues from it", file=sys.stderr)
        sys.stderr.flush()
    os._exit(EXIT_INTERRUPTED)


def _mine() -> _Listener | None:
    """Signals are handled in the main thread, so only that can hold them up."""
    return _active if threading.current_thread() is threading.main_thread() else None


@contextmanager
def listening() -> Iterator[None]:
    """Handle the signals so until the end. Inside another ``listening``, or not in the main thread: nothing."""
    global _active
    if _active is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _active = listener = _Listener()
    handlers: dict[signal.Signals, Callable[[int, FrameType | None], Any]] = dict.fromkeys(
        heard(), listener.handle
    )
    if hasattr(signal, "SIGALRM"):
        handlers[signal.SIGALRM] = listener.alarm
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    otherwise = sys.unraisablehook
    sys.unraisablehook = lambda said: listener.swallowed(said, otherwise)
    try:
        yield
    finally:
        sys.unraisablehook = otherwise
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        _active = None
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextmanager
def heard_at_once() -> Iterator[None]:
    """Inside ``listening``, around what may wait long in native code, such as a step for other ranks: there Python
    calls no handler, but a second signal ends the process all the same. ``requested`` knows of the first."""
    listener = _mine()
    if listener is None:
        yield
        return
    if listener.heard_at is None:  # one that came before is the first
        listener.heard_at = listener.asked_at
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    previous = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_hear, args=(ours, listener), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        theirs.close()
        thread.join()
        ours.close()


def _hear(numbers: socket.socket, listener: _Listener) -> None:
    while said := numbers.recv(64):
        for number in said:
            now = time.monotonic()
            if number not in SIGNALS:
                continue
            if listener.heard_at is None:
                listener.heard_at = now
            elif now - listener.heard_at > ECHO_SECONDS and not hasattr(sys, "ps1"):
                time.sleep(ECHO_SECONDS / 2)  # where the handler runs, it ends the process itself
                _leave_now()


@contextmanager
def held() -> Iterator[None]:
    """Not to be torn: a signal meanwhile raises KeyboardInterrupt at the end (of the outermost ``held``)."""
    listener = _mine()
    if listener is None:
        yield
        return
    listener.depth += 1
    try:
        yield
    finally:
        listener.depth -= 1
    if listener.depth == 0 and listener.due:
        listener.interrupt()


@contextmanager
def released() -> Iterator[None]:
    """Inside ``held``: here a signal may interrupt after all, and one that came before does."""
    listener = _mine()
    if listener is None:
        yield
        return
    depth, listener.depth = listener.depth, 0
    try:
        if listener.due:
            listener.interrupt()
        yield
    finally:
        listener.depth = depth


def obey() -> None:
    """Raise KeyboardInterrupt, now that others have been told: a signal to one of them counts for all, and is
    asked for once (``requested``), so that its echo does not tear the save that follows."""
    listener = _mine()
    if listener is not None and listener.asked_at is None:
        listener.asked_at = time.monotonic()
    if listener is not None and listener.due:
        listener.interrupt()
    raise KeyboardInterrupt


def requested() -> bool:
    """Whether a signal has come since ``listening`` began."""
    return _active is not None and (_active.asked_at is not None or _active.heard_at is not None)

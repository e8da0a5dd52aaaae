"""A database that takes calls and does not answer: how long somebody waits, most of all who was asked to leave.

A driver waits inside its own code for a server that is stopped, swaps, or is cut off without a word, and may wait
on after Ctrl-C for the server to take the cancellation. So calls of a server run beside the thread that needs them
(``workbench.aside``). What is given up goes on unheard, as after a lost connection: whether the server has taken
it shows when it is back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy

from workbench import interruption
from workbench.aside import aside

HANGING_SECONDS = 3.0
"""What a call gets once this process was asked to leave; the first that takes longer is the last."""
NOW_SECONDS = 0.5
"""The same, asked twice."""
CONNECT_SECONDS = 10
"""What a server gets to take a connection."""
IDLE_SECONDS, PROBE_SECONDS, PROBES = 30, 10, 3
"""Silence after which either end asks whether the other is there, how often again, and when it is taken for gone:
the server then frees the locks of a host that lost its power, the host calls anew over another connection."""
T = TypeVar("T")

_leaving = threading.Event()
_now = threading.Event()
_given_up = threading.Event()


class HangingError(sqlalchemy.exc.OperationalError):
    """An outage without an answer."""

    def __init__(self) -> None:
        super().__init__(None, None, TimeoutError())

    def __str__(self) -> str:
        return "it takes calls and answers none"


def hurry(*, now: bool = False) -> None:
    """This process was asked to leave: have little patience from now on; ``now``: asked twice."""
    _leaving.set()
    if now:
        _now.set()


def begin_anew() -> None:
    """Something else begins in this process, such as the next cell of a notebook."""
    for said in (_leaving, _now, _given_up):
        said.clear()


def hurried() -> bool:
    return _leaving.is_set() or interruption.requested()


def bounded(action: Callable[[], T], seconds: float) -> T:
    """``action()`` within ``seconds``, and HANGING_SECONDS after this process was asked to leave; a signal's
    handler is heard. Raises HangingError, at once where a call was given up while leaving."""
    began, asked_at = time.monotonic(), None

    def meanwhile() -> None:
        nonlocal asked_at
        now = time.monotonic()
        if hurried():
            asked_at = asked_at or now
            if now - asked_at > (NOW_SECONDS if _now.is_set() else HANGING_SECONDS):
                _given_up.set()
                raise HangingError
        if now - began > seconds:
            raise HangingError

    if _given_up.is_set():
        raise HangingError
    try:
        return aside(action, meanwhile, name="storage")
    except KeyboardInterrupt:
        if time.monotonic() - began > HANGING_SECONDS:
            _given_up.set()
        raise


def connect_arguments(url: str | sqlalchemy.URL) -> dict[str, Any]:
    """For ``sqlalchemy.create_engine``, of a PostgreSQL server: sessions without a time zone of their own, and
    connections that notice a lost network. What the address says itself is left to it; nothing for another
    database."""
    parsed = sqlalchemy.make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return {}
    settings = {
        "timezone": "UTC",  # heartbeats are stored without a zone: hosts differ, and summers come
        "tcp_keepalives_idle": IDLE_SECONDS,
        "tcp_keepalives_interval": PROBE_SECONDS,
        "tcp_keepalives_count": PROBES,
    }
    arguments = {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives": 1,
        "keepalives_idle": IDLE_SECONDS,
        "keepalives_interval": PROBE_SECONDS,
        "keepalives_count": PROBES,
        "tcp_user_timeout": 1000 * (IDLE_SECONDS + PROBE_SECONDS * PROBES),
    }
    said = {name: value for name, value in arguments.items() if name not in parsed.query}
    return {**said, "options": " ".join(f"-c {name}={value}" for name, value in settings.items())}

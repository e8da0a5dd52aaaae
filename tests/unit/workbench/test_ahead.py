"""Threads that nobody waits for: results, errors, and what happens when they are closed."""

from __future__ import annotations

import threading
import time

import pytest

from workbench.ahead import MOMENT_SECONDS, Ahead, ClosedError


def test_results_and_errors_come_as_from_an_executor() -> None:
    ahead = Ahead()
    assert [ahead.submit(lambda i=i: i * i).result(2) for i in range(3)] == [0, 1, 4]  # type: ignore[misc]
    with pytest.raises(ZeroDivisionError):
        ahead.submit(lambda: 1 / 0).result(2)
    assert not ahead.stop.is_set()


def test_what_looks_at_the_flag_is_waited_for() -> None:
    ahead, left = Ahead(), []

    def work() -> None:
        ahead.stop.wait(30)
        left.append(1)

    coming = ahead.submit(work)
    start = time.monotonic()
    ahead.close()
    assert time.monotonic() - start < MOMENT_SECONDS
    assert left == [1]
    with pytest.raises(ClosedError):
        coming.result(0)


def test_what_does_not_is_left_behind() -> None:
    ahead, gate = Ahead(), threading.Event()
    coming = ahead.submit(lambda: gate.wait(30))
    waiting = Ahead().submit(lambda: coming.result(30))
    start = time.monotonic()
    ahead.close()
    with pytest.raises(ClosedError):
        waiting.result(2)
    assert time.monotonic() - start < MOMENT_SECONDS + 0.5
    ahead.close()  # twice does nothing
    with pytest.raises(ClosedError):
        ahead.submit(lambda: 1).result(0)
    gate.set()

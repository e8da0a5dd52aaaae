"""What only shows in processes of their own: killed at any moment, a full disk, several at once.

Children are forked, so that nothing is imported anew."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CONTEXT = multiprocessing.get_context("fork")


def _run(connection: Any, limit: tuple[int, int] | None, function: Callable[..., Any], arguments: Any) -> None:
    try:
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        function(*arguments)
        connection.send("")
    except BaseException as error:
        connection.send("".join(traceback.format_exception_only(error)))


_limit: tuple[int, int] | None = None


@contextmanager
def small_disk(num_bytes: int) -> Iterator[None]:
    """In children started meanwhile no file gets longer: writing fails as on a full disk."""
    global _limit
    _limit = (num_bytes, num_bytes)
    try:
        yield
    finally:
        _limit = None


def apart(function: Callable[..., Any], *arguments: Any, wait: bool = True) -> Any:
    """Call it in a process of its own; returns the exception as text, "" without one. Without ``wait`` a function
    that returns it."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_run, args=(theirs, _limit, function, arguments))
    process.start()
    theirs.close()

    def result() -> str:
        try:
            said: str = ours.recv() if ours.poll(60) else "it does not end"
        except EOFError:
            said = "it died"
        process.join(10)
        return said

    return result() if wait else result


def killed_at_random(
    function: Callable[..., Any], *arguments: Any, rng: random.Random, seconds: float = 0.05
) -> Any:
    """Let ``function(*arguments, acknowledge)`` run for ever, and end it with SIGKILL up to so many seconds after
    its first ``acknowledge(value)``; returns the last value that it acknowledged."""
    reader, writer = os.pipe()
    process = CONTEXT.Process(target=_forever, args=(writer, function, arguments))
    process.start()
    os.close(writer)
    said = os.read(reader, 100)
    process.join(rng.uniform(0.0, seconds))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    while more := os.read(reader, 2**16):
        said = (said + more)[-200:]
    os.close(reader)
    assert process.exitcode == -signal.SIGKILL, "it has ended by itself"
    return int(said.split(b"\n")[-2])


def _forever(writer: int, function: Callable[..., Any], arguments: Any) -> None:
    def acknowledge(value: int) -> None:
        os.write(writer, f"{value}\n".encode())

    function(*arguments, acknowledge)

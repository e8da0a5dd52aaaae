"""Several ranks of one training on this machine, forked, so that nothing is imported anew; or ``clean``, where
ranks do much: without what libraries keep of earlier tests. A copy of a process with threads and pools is
delicate, and one has aborted in the C library once, late in a run of all tests.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

from tests.suites.processes import CONTEXT
from workbench import interruption
from workbench.rank_place import LISTENER, Place
from workbench.ranks import Ranks, joined


def _run(
    connection: Any,
    place: Place,
    listener: socket.socket,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    address, port = listener.getsockname()
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    if place.rank == 0:
        os.environ[LISTENER] = str(listener.fileno())
    try:
        with interruption.listening(), joined(place) as ranks:
            connection.send(("ended", function(ranks, *arguments)))
    except BaseException as error:
        connection.send(("raised", "".join(traceback.format_exception(error))))


def together(
    function: Callable[..., Any], *arguments: Any, world: int = 2, seconds: float = 120.0, clean: bool = False
) -> list[Any]:
    """``function(ranks, *arguments)`` on so many ranks; what it returned on each. An error where one raised."""
    found = apart(function, *arguments, world=world, seconds=seconds, clean=clean)
    assert all(how == "ended" for how, _ in found), "\n".join(str(what) for _, what in found)
    return [what for _, what in found]


def apart(
    function: Callable[..., Any], *arguments: Any, world: int = 2, seconds: float = 120.0, clean: bool = False
) -> list[tuple[str, Any]]:
    """The same: ("ended", result), ("raised", traceback) or ("died", exit code) of each."""
    context: Any = multiprocessing.get_context("spawn") if clean else CONTEXT
    started = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for rank in range(world):
            ours, theirs = context.Pipe()
            place = Place(rank, world, rank, world)
            process = context.Process(target=_run, args=(theirs, place, listener, function, arguments))
            process.start()
            theirs.close()
            started.append((process, ours))
    found: list[tuple[str, Any]] = []
    for process, ours in started:
        try:
            said = ours.recv() if ours.poll(seconds) else ("raised", "it does not end")
        except EOFError:
            said = ("died", "")
        process.join(10)
        if process.is_alive():
            process.kill()
        found.append(said if said[0] != "died" else ("died", process.exitcode))
    return found


def leads(ranks: Ranks) -> bool:
    return ranks.leads

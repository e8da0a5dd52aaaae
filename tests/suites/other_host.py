"""Processes that believe themselves on another host, whose clock may be wrong.

    python -m tests.suites.other_host NAME SECONDS_AHEAD ARGUMENTS_OF_THE_WORKER

runs one worker of a study so; with ``environment`` any Python process does, and all that it starts.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

NAME = "CALM_TEST_HOST"


def pretend(name: str, ahead: float = 0.0) -> None:
    if ahead:
        _set_clock(ahead)
    socket.gethostname = lambda: name
    from workbench import processes

    processes._boot = lambda: _boot(name)


def _boot(name: str) -> str:
    return f"boot of {name}"


def _set_clock(ahead: float) -> None:
    real_time, real_datetime = time.time, datetime.datetime

    class Ahead(real_datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return real_datetime.now(tz) + datetime.timedelta(seconds=ahead)

    time.time = lambda: real_time() + ahead
    datetime.datetime = Ahead  # type: ignore[misc]


def environment(name: str, folder: Path) -> dict[str, str]:
    """Of processes on host ``name``: Python imports what is written to ``folder`` before anything else."""
    folder.mkdir(parents=True, exist_ok=True)
    code = "import os\nfrom tests.suites.other_host import NAME, pretend\npretend(os.environ[NAME])\n"
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    return {**os.environ, NAME: name, "PYTHONPATH": os.pathsep.join([str(folder), os.getcwd()])}


@contextlib.contextmanager
def seen_from(name: str) -> Iterator[None]:
    """This process believes itself on host ``name`` meanwhile, and knows who of it is alive."""
    with (
        mock.patch("socket.gethostname", return_value=name),
        mock.patch("workbench.processes._boot", return_value=_boot(name)),
    ):
        yield


if __name__ == "__main__":
    pretend(sys.argv[1], float(sys.argv[2]))
    from studies.worker import main

    sys.exit(main(sys.argv[3:]))

"""Launches of a study: the parent runs under which its runs nest on a tracking server.

Kept in ``HOME/<study>/mlflow.json``, so that worker processes and ``calm sync`` find the parent, and
so that a launch whose process was killed can be ended.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from workbench import files, processes, stored
from workbench.home import Home
from workbench.tracking_home import followed, from_stored, to_stored
from workbench.tracking_schema import process_gone

LAUNCHES = "mlflow.json"
STUDY, SUMMARY = "study.json", "summary.json"
"""In a study's folder: its frozen specification, and what it amounted to when it was finished."""


class Launch(BaseModel):
    """One parent run."""

    model_config = ConfigDict(extra="ignore")

    tracking_uri: str
    experiment_id: str
    run_id: str
    """Empty while the server's answer to its creation has not come."""
    token: str = ""
    """Tag of the run, to find it again if that answer got lost."""
    doubted: bool = False
    """Whether the run was found or made after an attempt without an answer, so that there may be a second one."""
    described: bool = True
    """Whether its specification has arrived."""
    status: str = "RUNNING"
    pid: int
    host: str
    started: float
    process: dict[str, Any] = {}
    """Which process it is (``workbench.processes``); earlier versions did not say."""

    @classmethod
    def here(cls, uri: str, experiment_id: str, run_id: str, **more: object) -> Self:
        """A launch by this process."""
        given = {"tracking_uri": uri, "experiment_id": experiment_id, "run_id": run_id}
        return cls.model_validate({**given, **_here(), **more})

    @property
    def gone(self) -> bool:
        """Whether it was never ended although its process is no more."""
        if self.status != "RUNNING":
            return False
        if self.process:
            return processes.gone(self.process)
        return process_gone(self.pid, self.host, self.started)


def read_study_part(home: Home, study: str, name: str) -> dict[str, Any] | None:
    """``STUDY`` or ``SUMMARY``; None where there is none. Raises RunError where it is damaged."""
    return stored.read_mapping(home.study(study) / name, "bring it back from a copy")


def read_launches(home: Home, study: str) -> list[Launch]:
    """Oldest first; an unreadable file counts as none."""
    try:
        rows = [Launch.model_validate(row) for row in files.read_json(_path(home, study))]
    except (OSError, ValueError, TypeError, ValidationError):
        return []
    uris = [followed(from_stored(row.tracking_uri, home), home) for row in rows]
    return [row.model_copy(update={"tracking_uri": uri}) for row, uri in zip(rows, uris, strict=True)]


def latest_launch(home: Home, study: str, uri: str) -> Launch | None:
    """The last launch shown at ``uri`` (without its password)."""
    launches = [row for row in read_launches(home, study) if row.tracking_uri == uri and row.run_id]
    return launches[-1] if launches else None


def awaited_launch(home: Home, study: str, uri: str) -> Launch | None:
    """The one that was asked for at ``uri`` without an answer."""
    return next((row for row in read_launches(home, study) if row.tracking_uri == uri and not row.run_id), None)


def add_launch(home: Home, study: str, launch: Launch) -> None:
    with _locked(home, study):
        _write(home, study, [*read_launches(home, study), launch])


def answer_launch(home: Home, study: str, token: str, run_id: str, *, doubted: bool) -> None:
    """The server has answered to the launch of ``token``, which is this process's now."""

    def is_asked_for(row: Launch) -> bool:  # others of its token were lost by the server
        return row.token == token and row.run_id in ("", run_id)

    _change(home, study, is_asked_for, {"run_id": run_id, "doubted": doubted, **_here()})


def update_launch(home: Home, study: str, run_id: str, status: str) -> None:
    _change(home, study, lambda row: row.run_id == run_id, {"status": status})


def adopt_launch(home: Home, study: str, run_id: str, uri: str) -> None:
    """It was found at ``uri``, by whichever address it was known so far."""
    _change(home, study, lambda row: row.run_id == run_id, {"tracking_uri": uri})


def describe_launch(home: Home, study: str, run_id: str) -> None:
    """Its specification has arrived."""
    _change(home, study, lambda row: row.run_id == run_id, {"described": True})


def take_over(home: Home, study: str, run_id: str) -> None:
    """This process goes on with the launch, and ends it."""
    _change(home, study, lambda row: row.run_id == run_id, {"status": "RUNNING", **_here()})


def _here() -> dict[str, object]:
    here = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
    return {**here, "process": processes.this_process()}


def _change(home: Home, study: str, which: Callable[[Launch], bool], changes: dict[str, object]) -> None:
    with _locked(home, study):
        rows = read_launches(home, study)
        _write(home, study, [row.model_copy(update=changes) if which(row) else row for row in rows])


def _locked(home: Home, study: str) -> AbstractContextManager[None]:
    path = _path(home, study)
    return files.locked(path.with_name(f".{path.name}.lock"))


def _write(home: Home, study: str, launches: list[Launch]) -> None:
    rows = [{**launch.model_dump(), "tracking_uri": to_stored(launch.tracking_uri, home)} for launch in launches]
    files.write_json(_path(home, study), rows)


def _path(home: Home, study: str) -> Path:
    return home.study(study) / LAUNCHES

"""Launches of a study: the parent runs under which its runs nest on a tracking server.

Kept in ``HOME/<study>/mlflow.json``, so that worker processes and ``calm sync`` find the parent, and
so that a launch whose process was killed can be ended.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from workbench import files
from workbench.home import Home
from workbench.tracking_schema import process_gone

LAUNCHES = "mlflow.json"


class Launch(BaseModel):
    """One parent run."""

    model_config = ConfigDict(extra="ignore")

    tracking_uri: str
    experiment_id: str
    run_id: str
    status: str = "RUNNING"
    pid: int
    host: str
    started: float

    @classmethod
    def here(cls, uri: str, experiment_id: str, run_id: str) -> Self:
        """A launch by this process."""
        place = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        return cls.model_validate({"tracking_uri": uri, "experiment_id": experiment_id, "run_id": run_id, **place})

    @property
    def gone(self) -> bool:
        """Whether it was never ended although its process is no more."""
        return self.status == "RUNNING" and process_gone(self.pid, self.host, self.started)


def read_launches(home: Home, study: str) -> list[Launch]:
    """Oldest first; an unreadable file counts as none."""
    try:
        return [Launch.model_validate(row) for row in files.read_json(_path(home, study))]
    except (OSError, ValueError, TypeError, ValidationError):
        return []


def latest_launch(home: Home, study: str, uri: str) -> Launch | None:
    """The last launch shown at ``uri`` (without its password)."""
    launches = [launch for launch in read_launches(home, study) if launch.tracking_uri == uri]
    return launches[-1] if launches else None


def add_launch(home: Home, study: str, launch: Launch) -> None:
    path = _path(home, study)
    with files.locked(path.with_name(f".{path.name}.lock")):
        _write(home, study, [*read_launches(home, study), launch])


def update_launch(home: Home, study: str, run_id: str, status: str) -> None:
    path = _path(home, study)
    with files.locked(path.with_name(f".{path.name}.lock")):
        rows = read_launches(home, study)
        _write(home, study, [r.model_copy(update={"status": status}) if r.run_id == run_id else r for r in rows])


def _write(home: Home, study: str, launches: list[Launch]) -> None:
    files.write_json(_path(home, study), [launch.model_dump() for launch in launches])


def _path(home: Home, study: str) -> Path:
    return home.study(study) / LAUNCHES

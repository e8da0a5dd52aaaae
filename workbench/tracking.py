"""Mirrors run folders to a tracking server. The contract; ``tracking_mlflow`` is the one that talks to MLflow.

The run folder comes first: everything delivered is read from it, so nothing is lost when the server
is away, and ``calm sync`` (``tracking_sync``) delivers the rest. Light to import.
"""

from __future__ import annotations

import abc
import enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workbench.errors import TrackingError
from workbench.home import Home
from workbench.records import MlflowLink
from workbench.tracking_report import StudyReport
from workbench.tracking_schema import SINGLE, read_cursor, without_password

__all__ = ["SINGLE", "Followed", "NullTracker", "Outcome", "Tracker", "link", "open_tracker"]

SCHEMES = ("sqlite", "postgresql", "mysql", "http", "https")


class Outcome(enum.Enum):
    """What became of one delivery."""

    DELIVERED = "delivered"
    COMPLETE = "complete"
    """Nothing was missing."""
    AWAY = "away"
    """The server does not answer; try again later."""
    REFUSED = "refused"
    """The server answers but will not take it, for example because the run was deleted there."""
    BUSY = "busy"
    """Another process is delivering this run."""


class Tracker(abc.ABC):
    """Shows runs on a tracking server; the contract of all trackers (tests: ``TrackerSuite``).

    After opening, no method raises for a server that is away or refuses: it warns once, in one line,
    and says so in its result. A server that hangs costs 2 s an attempt, and attempts get rarer
    (30 s to 10 min apart)."""

    @property
    def uri(self) -> str:
        """Where it shows runs: absolute, without a password; empty where it shows none."""
        return ""

    @abc.abstractmethod
    def start_study(self, name: str, spec: dict[str, Any]) -> str | None:
        """A parent run for one launch of the study ``name``; ``spec`` is its frozen specification
        (``question`` becomes the description). Returns its id, None where there is none."""

    @abc.abstractmethod
    def mirror(self, run_dir: Path, *, parent: str | None = None, final: bool = False) -> Outcome:
        """Send what stands in ``run_dir`` and was not sent before, as a child of ``parent`` (by default
        of the study's latest launch). Idempotent: a point, parameter or file is never sent twice.
        Artifacts go out once the run has ended, or with ``final``.

        Raises RunError where ``run_dir`` is no readable run folder."""

    @abc.abstractmethod
    def finish_study(self, parent: str | None, summary: dict[str, Any], artifacts: list[Path]) -> None:
        """End the launch ``parent``: numbers of ``summary`` as metrics, it and ``artifacts`` as artifacts."""

    @abc.abstractmethod
    def show_report(self, study: str, parent: str | None, report: StudyReport) -> Outcome:
        """Send what is new of a study's report to its launch ``parent``: page, figures and tables as artifacts,
        its numbers as metrics, question and verdict as tags and description. Idempotent.

        Raises OutputError where the report's folder cannot be read."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of connections. Nothing is buffered, so nothing is lost without it."""

    def deliver(self, run_dir: Path, *, parent: str | None = None, final: bool = False) -> bool:
        """``mirror``, told in one bit: False when something is left for a later ``deliver`` or ``calm sync``."""
        return self.mirror(run_dir, parent=parent, final=final) in (Outcome.DELIVERED, Outcome.COMPLETE)


class NullTracker(Tracker):
    """``--tracking-uri none``: the run folder is all there is."""

    def start_study(self, name: str, spec: dict[str, Any]) -> str | None:
        return None

    def mirror(self, run_dir: Path, *, parent: str | None = None, final: bool = False) -> Outcome:
        return Outcome.COMPLETE

    def finish_study(self, parent: str | None, summary: dict[str, Any], artifacts: list[Path]) -> None:
        return None

    def show_report(self, study: str, parent: str | None, report: StudyReport) -> Outcome:
        return Outcome.COMPLETE

    def close(self) -> None:
        return None


class Followed(NullTracker):
    """Given to a run that another process mirrors (a study's launcher): the run only notes where it is shown."""


def open_tracker(uri: str | None, *, experiment: str = SINGLE, home: Home) -> Tracker:
    """Connect to ``uri`` (None: the sqlite database of ``home``, made if need be; "none": no tracking).

    ``experiment`` is the study's name. Raises TrackingError, within about 10 s, where the server does not
    answer, the URI is of an unsupported kind or the experiment cannot be used."""
    if uri == "none":
        return NullTracker()
    uri = home.mlflow_uri if uri is None else uri
    _check_scheme(uri)
    from workbench.tracking_mlflow import MlflowTracker  # MLflow takes more than a second to import

    return MlflowTracker.open(uri, experiment, home)


def link(run_dir: Path | str) -> MlflowLink | None:
    """Where the run is shown, None before its first delivery."""
    cursor = read_cursor(run_dir)
    if cursor is None or not cursor.run_id:
        return None
    return MlflowLink(tracking_uri=cursor.tracking_uri, experiment_id=cursor.experiment_id, run_id=cursor.run_id)


def _check_scheme(uri: str) -> None:
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme in SCHEMES:
        host = urlsplit(uri).hostname
        if scheme == "sqlite" and not uri.removeprefix("sqlite:///").strip("/"):
            raise TrackingError(f"the tracking URI {uri} names no file; wanted: sqlite:///PATH/mlflow.db")
        if scheme in ("http", "https") and not host:
            raise TrackingError(f"the tracking URI {uri!r} names no host; wanted: http://HOST:PORT")
        return
    wanted = "http://HOST:PORT, sqlite:///PATH/mlflow.db, postgresql://USER@HOST/DATABASE or none"
    what = "a folder (MLflow no longer supports its file store)" if scheme in ("", "file") else "not supported"
    raise TrackingError(f"the tracking URI {without_password(uri)!r} is {what}; wanted: {wanted}")

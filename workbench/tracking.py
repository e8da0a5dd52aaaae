"""Mirrors run folders to a tracking server. The contract; ``tracking_mlflow`` is the one that talks to MLflow.

The run folder comes first: everything delivered is read from it, so nothing is lost when the server
is away, and ``calm sync`` (``tracking_sync``) delivers the rest. Light to import.
"""

from __future__ import annotations

import abc
import enum
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workbench.errors import RunError, TrackingError
from workbench.home import Home
from workbench.records import MlflowLink
from workbench.tracking_report import StudyReport
from workbench.tracking_schema import SINGLE, read_cursor, without_password

__all__ = [
    "SINGLE",
    "Followed",
    "LaunchRequest",
    "NullTracker",
    "Outcome",
    "Tracker",
    "deliver_at_work",
    "link",
    "open_tracker",
]

log = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class LaunchRequest:
    """What the hosts of a study know of a launch that is to be made, so that there is one of it."""

    token: str
    """Tag of the launch."""
    asked: bool
    """Whether it may have been asked for before, by whomever: then it is looked for first."""


class Tracker(abc.ABC):
    """Shows runs on a tracking server; the contract of all trackers (tests: ``TrackerSuite``).

    After opening, no method raises for a server that is away or refuses: it warns once, in one line,
    and says so in its result. A server that hangs costs 2 s an attempt, one that stops in the middle or is slow
    10 s at most (60 s at the end of a run), and attempts get rarer (30 s to 10 min apart)."""

    @property
    def uri(self) -> str:
        """Where it shows runs: absolute, without a password; empty where it shows none."""
        return ""

    @property
    def busy(self) -> bool:
        """Whether something that nobody waits for any more is still under way to the server."""
        return False

    def be_patient(self) -> None:
        """Nobody who trains is kept waiting: after an outage try again every few seconds, and wait longer."""
        return

    @abc.abstractmethod
    def start_study(
        self,
        name: str,
        spec: dict[str, Any],
        known: str | None = None,
        *,
        request: LaunchRequest | None = None,
        final: bool = False,
    ) -> str | None:
        """The parent run of the runs of study ``name``: its earlier one (``known``, or the latest of this home)
        where the server has it, else a new one. ``spec`` is the study's frozen specification (``question``
        becomes the description). ``request``: of a new one. ``final``: ask also in the pause after an outage.
        Returns its id, None where there is none, or none yet (``busy``)."""

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
    def stop_study(self, parent: str | None, status: str = "KILLED") -> None:
        """The launch ``parent`` has ended before its study did; ``start_study`` continues it."""

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

    def start_study(
        self,
        name: str,
        spec: dict[str, Any],
        known: str | None = None,
        *,
        request: LaunchRequest | None = None,
        final: bool = False,
    ) -> str | None:
        return None

    def mirror(self, run_dir: Path, *, parent: str | None = None, final: bool = False) -> Outcome:
        return Outcome.COMPLETE

    def finish_study(self, parent: str | None, summary: dict[str, Any], artifacts: list[Path]) -> None:
        return None

    def stop_study(self, parent: str | None, status: str = "KILLED") -> None:
        return None

    def show_report(self, study: str, parent: str | None, report: StudyReport) -> Outcome:
        return Outcome.COMPLETE

    def close(self) -> None:
        return None


class Followed(NullTracker):
    """Given to a run that another process mirrors (a study's launcher): the run only notes where it is shown."""


def open_tracker(uri: str | None, *, experiment: str = SINGLE, home: Home, later: bool = False) -> Tracker:
    """Connect to ``uri`` (None: the sqlite database of ``home``, made if need be; "none": no tracking).

    ``experiment`` is the study's name. ``later``: a server that is away is told of in one line and connected to
    when it is back, since work that was begun goes on without it.

    Raises TrackingError, within about 20 s (ten minutes for a file, which may have to be made), where the server
    does not answer, the URI is of an unsupported kind or the experiment cannot be used."""
    if uri == "none":
        return NullTracker()
    uri = home.mlflow_uri if uri is None else uri
    _check_scheme(uri)
    from workbench.tracking_mlflow import MlflowTracker  # MLflow takes more than a second to import

    return MlflowTracker.open(uri, experiment, home, later=later)


def deliver_at_work(tracker: Tracker, run_dir: Path, *, parent: str | None, final: bool) -> None:
    """``tracker.deliver`` of a run that does not fail where a file of an earlier session is damaged that it can do
    without; at its end that is told."""
    try:
        tracker.deliver(run_dir, parent=parent, final=final)
    except RunError as error:
        if final:
            log.warning("tracking: %s, then deliver the run with: calm sync", error)


def require_answer(uri: str | None) -> None:
    """Raises TrackingError where a server does not answer or the URI is of an unsupported kind; makes nothing."""
    if uri is None or uri == "none":
        return
    _check_scheme(uri)
    from workbench.tracking_database import check_answers

    check_answers(uri)


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

"""The MLflow side of tracking; it and ``tracking_experiment`` alone import mlflow.

Works through ``MlflowClient`` alone: no global run, no autologging, no asynchronous queue (which
would lose what it holds when the process is killed).
"""

from __future__ import annotations

import getpass
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import filelock
import yaml

from workbench.tracking_experiment import find_experiment, migrate  # isort: skip

import mlflow
import requests
import sqlalchemy
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from workbench import config_file, records, tracking_database
from workbench.config import content_hash
from workbench.errors import OutputError
from workbench.home import Home
from workbench.tracking import Outcome, Tracker
from workbench.tracking_launches import Launch, add_launch, latest_launch, update_launch
from workbench.tracking_metrics import milliseconds
from workbench.tracking_report import (
    REPORT_CURSOR,
    MissingReport,
    ReportCursor,
    StudyReport,
    find_missing_report,
    read_report_cursor,
    write_report_cursor,
)
from workbench.tracking_schema import (
    CURSOR,
    NAMES,
    Cursor,
    Missing,
    find_missing,
    read_cursor,
    without_password,
    write_cursor,
)

logger = logging.getLogger("workbench.tracking")

OUTAGES = (MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError, OSError)
REFUSALS = {
    "BAD_REQUEST",
    "ENDPOINT_NOT_FOUND",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
}
BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 30.0, 600.0
"""After an outage, do not try again for so long (the end of a run apart); doubled each time."""
REACH_SECONDS = 2.0
"""A server that hangs costs a training so much per attempt, not MLflow's time-outs."""
METRICS_PER_BATCH, ENTITIES_PER_BATCH = 1000, 100
T = TypeVar("T")


class MlflowTracker(Tracker):
    """Mirrors run folders to one experiment of an MLflow server or database."""

    def __init__(self, client: Any, uri: str, experiment_id: str, home: Home) -> None:
        self._client = client
        self._address = uri
        self._uri = without_password(uri)
        self._experiment_id = experiment_id
        self._home = home
        self._verified: set[Path] = set()
        self._quiet_until = 0.0
        self._backoff = BACKOFF_SECONDS
        self._warned = False
        self._refusals: set[str] = set()

    @classmethod
    def open(cls, uri: str, experiment: str, home: Home) -> Self:
        """Raises TrackingError as told in ``tracking.open_tracker``."""
        tracking_database.check_answers(uri)
        if urlsplit(uri).scheme.startswith("sqlite"):
            uri = tracking_database.prepare_sqlite(uri, lambda path: migrate(path, home.artifacts))
        try:
            client = mlflow.MlflowClient(tracking_uri=uri)
            return cls(client, uri, find_experiment(client, uri, experiment, home), home)
        except (*OUTAGES, ImportError) as error:
            raise tracking_database.cannot_use(uri, error) from None

    @property
    def uri(self) -> str:
        """As it stands in cursors: absolute, without a password."""
        return self._uri

    def close(self) -> None:
        self._verified.clear()

    # One run

    def mirror(self, run_dir: Path, *, parent: str | None = None, final: bool = False) -> Outcome:
        run_dir = Path(run_dir)
        record = records.read_record(run_dir)
        if not final and time.monotonic() < self._quiet_until:
            return Outcome.AWAY
        lock = filelock.FileLock(str(run_dir / f".{CURSOR}.lock"), timeout=30 if final else 0)
        try:
            with lock:
                tracking_database.reach(self._address, REACH_SECONDS)
                return self._mirror(run_dir, record, parent, final)
        except filelock.Timeout:
            return Outcome.BUSY
        except OUTAGES as error:
            return self._report(error)

    def _mirror(self, run_dir: Path, record: records.RunRecord, parent: str | None, final: bool) -> Outcome:
        cursor, created = self._cursor(run_dir, record, parent)
        missing = find_missing(run_dir, record, cursor, final=final)
        if missing or cursor.names != NAMES:
            try:
                self._send(record, cursor, missing, run_dir)
                cursor.names = NAMES
            finally:  # what did arrive need not be sent again
                write_cursor(run_dir, cursor)
        self._quiet_until, self._backoff, self._warned = 0.0, BACKOFF_SECONDS, False
        return Outcome.DELIVERED if missing or created else Outcome.COMPLETE

    def _cursor(self, run_dir: Path, record: records.RunRecord, parent: str | None) -> tuple[Cursor, bool]:
        """The cursor with its MLflow run, and whether the run was made now."""
        cursor = read_cursor(run_dir)
        if cursor is None or cursor.tracking_uri != self._uri:
            cursor = Cursor(tracking_uri=self._uri, token=uuid.uuid4().hex)
            write_cursor(run_dir, cursor)  # the token must outlive a lost answer
        elif cursor.run_id and (run_dir not in self._verified or cursor.sending):
            if not self._reconcile(cursor):
                cursor = Cursor(tracking_uri=self._uri, token=uuid.uuid4().hex)
            write_cursor(run_dir, cursor)
        created = not cursor.run_id
        if created:
            run = self._find(cursor.token) or self._create(cursor.token, record, parent)
            cursor.run_id, cursor.experiment_id = run.info.run_id, run.info.experiment_id
            write_cursor(run_dir, cursor)
        self._verified.add(run_dir)
        return cursor, created

    def _reconcile(self, cursor: Cursor) -> bool:
        """Ask the server what it has; False where it does not know the run (its database was replaced)."""
        try:
            run = self._client.get_run(cursor.run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        if run.info.lifecycle_stage == "deleted":
            restore = f"restore it with: mlflow runs restore --run-id {cursor.run_id}"
            raise MlflowException.invalid_parameter_value(f"run {cursor.run_id} was deleted there; {restore}")
        cursor.status = run.info.status
        if cursor.sending:  # an answer was lost: what arrived must not be sent again
            for key in run.data.metrics:
                history = self._client.get_metric_history(cursor.run_id, key)
                cursor.steps[key] = max((metric.step for metric in history), default=-1)
            cursor.sending = False
        return True

    def _find(self, token: str) -> Any:
        """A run made earlier whose answer got lost."""
        found = self._client.search_runs([self._experiment_id], f"tags.`calm.token` = '{token}'", max_results=1)
        return found[0] if found else None

    def _create(self, token: str, record: records.RunRecord, parent: str | None) -> Any:
        if parent is None and record.study is not None:
            launch = latest_launch(self._home, record.study, self._uri)
            parent = launch.run_id if launch else None
        tags = {"calm.token": token, "mlflow.user": _user(), "mlflow.source.name": "calm"}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        start = milliseconds(record.created) or None
        return self._client.create_run(self._experiment_id, start_time=start, tags=tags, run_name=record.name)

    def _send(self, record: records.RunRecord, cursor: Cursor, missing: Missing, run_dir: Path) -> None:
        """Each part is noted in the cursor as soon as it is done; the status comes last."""
        run_id = cursor.run_id
        if missing.status == "RUNNING":  # a resumed run
            self._client.update_run(run_id, status="RUNNING")
            cursor.status = missing.status
        for params in _chunks(list(missing.params.items()), ENTITIES_PER_BATCH):
            self._client.log_batch(run_id, params=[Param(key, value) for key, value in params])
        cursor.params = True
        if missing.dataset is not None:
            self._log_dataset(run_id, missing.dataset)
            cursor.dataset = True
        for tags in _chunks(list(missing.tags.items()), ENTITIES_PER_BATCH):
            self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags])
            cursor.tags |= dict(tags)
        for key in missing.stale_tags:
            self._client.delete_tag(run_id, key)
            del cursor.tags[key]
        self._send_points(run_dir, cursor, missing)
        for path, digest in missing.artifacts.items():
            folder = str(Path(path).parent)
            self._client.log_artifact(run_id, str(run_dir / path), None if folder == "." else folder)
            cursor.artifacts[path] = digest
        if missing.status not in (None, "RUNNING"):
            end = milliseconds(record.finished) if record.finished else None
            self._client.set_terminated(run_id, status=missing.status, end_time=end)
            cursor.status = str(missing.status)

    def _send_points(self, run_dir: Path, cursor: Cursor, missing: Missing) -> None:
        for points in _chunks(missing.points, METRICS_PER_BATCH):
            cursor.sending = True
            write_cursor(run_dir, cursor)
            metrics = [Metric(point.key, point.value, point.timestamp, point.step) for point in points]
            self._client.log_batch(cursor.run_id, metrics=metrics)
            for point in points:
                cursor.steps[point.key] = max(point.step, cursor.steps.get(point.key, -1))
            cursor.sending = False

    def _log_dataset(self, run_id: str, given: dict[str, str]) -> None:
        entity = Dataset(given["name"], given["digest"], source_type="code", source=given["source"])
        context = InputTag("mlflow.data.context", "training")
        self._client.log_inputs(run_id, datasets=[DatasetInput(entity, [context])])

    # A launch of a study

    def start_study(self, name: str, spec: dict[str, Any]) -> str | None:
        return self._attempt(lambda: self._start_study(name, spec))

    def _start_study(self, name: str, spec: dict[str, Any]) -> str:
        tags = {"calm.study": name, "calm.role": "launch", "mlflow.user": _user(), "mlflow.source.name": "calm"}
        if spec.get("question"):
            tags["mlflow.note.content"] = str(spec["question"])
        tags |= {f"calm.{key}": str(spec[key]) for key in ("preset", "objective", "spec_hash") if spec.get(key)}
        run = self._client.create_run(self._experiment_id, tags=tags, run_name=name)
        run_id = str(run.info.run_id)
        # known before anything else can fail, so that a launch cut short is found and ended later
        add_launch(self._home, name, Launch.here(self._uri, self._experiment_id, run_id))
        self._client.log_text(run_id, yaml.safe_dump(spec, sort_keys=False), "spec.yaml")
        return run_id

    def finish_study(self, parent: str | None, summary: dict[str, Any], artifacts: list[Path]) -> None:
        if parent is not None:
            self._attempt(lambda: self._finish_study(parent, summary, artifacts))

    def _finish_study(self, parent: str, summary: dict[str, Any], artifacts: list[Path]) -> None:
        now = int(1000 * time.time())
        numbers = {k: v for k, v in config_file.flatten(summary).items() if type(v) in (int, float)}
        metrics = [Metric(f"study/{key}", float(value), now, 0) for key, value in sorted(numbers.items())]
        sent = content_hash(summary)
        run = self._client.get_run(parent)
        if run.data.tags.get("calm.summary") != sent:
            for part in _chunks(metrics, METRICS_PER_BATCH):
                self._client.log_batch(parent, metrics=part)
            self._client.log_text(parent, yaml.safe_dump(summary, sort_keys=False), "summary.yaml")
            self._client.set_tag(parent, "calm.summary", sent)
        for path in artifacts:
            self._client.log_artifact(parent, str(path))
        self._end_launch(run.data.tags["calm.study"], parent, "FINISHED")

    def show_report(self, study: str, parent: str | None, report: StudyReport) -> Outcome:
        if parent is None:
            return Outcome.COMPLETE
        try:
            with filelock.FileLock(str(self._home.study(study) / f".{REPORT_CURSOR}.lock"), timeout=30):
                return self._show_report(study, parent, report)
        except filelock.Timeout:
            return Outcome.BUSY

    def _show_report(self, study: str, parent: str, report: StudyReport) -> Outcome:
        cursor = read_report_cursor(self._home, study, parent)
        try:
            missing = find_missing_report(report, cursor, self._experiment_id)
        except OSError as error:
            raise OutputError(f"the report in {report.folder} cannot be read: {error}") from None
        if not missing:
            return Outcome.COMPLETE
        try:
            tracking_database.reach(self._address, REACH_SECONDS)
            self._send_report(parent, cursor, missing)
        except OUTAGES as error:
            return self._report(error)
        finally:  # what did arrive need not be sent again
            write_report_cursor(self._home, study, cursor)
        return Outcome.DELIVERED

    def _send_report(self, parent: str, cursor: ReportCursor, missing: MissingReport) -> None:
        now = int(1000 * time.time())
        metrics = [Metric(key, value, now, missing.step) for key, value in sorted(missing.metrics.items())]
        for part in _chunks(metrics, METRICS_PER_BATCH):
            self._client.log_batch(parent, metrics=part)
            cursor.metrics |= {metric.key: metric.value for metric in part}
            cursor.step = missing.step
        for path, (content, digest) in missing.files.items():
            if isinstance(content, Path):
                self._client.log_artifact(parent, str(content), str(Path(path).parent))
            else:
                self._client.log_text(parent, content, path)
            cursor.files[path] = digest
        for key, value in missing.tags.items():  # last: the description shows what has arrived
            self._client.set_tag(parent, key, value)
            cursor.tags[key] = value

    def kill_launch(self, study: str, run_id: str) -> None:
        """Mark a launch whose process is gone."""
        self._attempt(lambda: self._end_launch(study, run_id, "KILLED"))

    def _end_launch(self, study: str, run_id: str, status: str) -> None:
        self._client.set_terminated(run_id, status=status)
        update_launch(self._home, study, run_id, status)

    # Outages

    def _attempt(self, action: Callable[[], T]) -> T | None:
        try:
            tracking_database.reach(self._address, REACH_SECONDS)
            return action()
        except OUTAGES as error:
            self._report(error)
            return None

    def _report(self, error: Exception) -> Outcome:
        """One line for the first failure in a row; then quiet for a while."""
        refused = isinstance(error, MlflowException) and error.error_code in REFUSALS
        reason = tracking_database.first_line(error)
        if refused:
            if reason not in self._refusals:
                logger.warning("tracking: %s refuses a run: %s", self._uri, reason)
            self._refusals.add(reason)
            return Outcome.REFUSED
        self._quiet_until = time.monotonic() + self._backoff
        self._backoff = min(2 * self._backoff, MAX_BACKOFF_SECONDS)
        if not self._warned:
            rest = "the run goes on, its folder has everything; deliver later with: calm sync"
            logger.warning("tracking: %s does not answer (%s); %s", self._uri, reason, rest)
        self._warned = True
        return Outcome.AWAY


def _chunks(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"

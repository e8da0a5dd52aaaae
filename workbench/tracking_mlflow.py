"""The MLflow side of tracking; it and the ``tracking_`` modules named after what they do for it import mlflow.

Works through ``MlflowClient`` alone: no global run, no autologging, no asynchronous queue (which
would lose what it holds when the process is killed).

What keeps a point from being sent twice, or not at all, is the order of things: the cursor in the run folder says
that a batch is on its way before it is sent, and what has arrived afterwards; whoever finds it "on its way" asks
the server first. The same holds for the run itself, by its token.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import filelock

from workbench.tracking_experiment import connect, find_experiment, forget_places, migrate  # isort: skip

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from workbench import records, tracking_database
from workbench.errors import OutputError, RunError, TrackingError
from workbench.home import Home
from workbench.tracking import LaunchRequest, Outcome, Tracker
from workbench.tracking_home import own_uri
from workbench.tracking_launches import STUDY, read_study_part
from workbench.tracking_metrics import milliseconds
from workbench.tracking_mlflow_study import (
    METRICS_PER_BATCH,
    Place,
    find_launch,
    finish_launch,
    is_alive,
    log_datasets,
    make_launch,
    send_report,
    start_launch,
    stop_launch,
    user,
)
from workbench.tracking_outages import OUTAGES, Line, chunks, is_unknown
from workbench.tracking_report import (
    REPORT_CURSOR,
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
    settled_mark,
    without_password,
    write_cursor,
)
from workbench.tracking_tokens import begun_cursor, delete_doubles, find_by_token, new_cursor, still_doubted

logger = logging.getLogger("workbench.tracking")

REACH_SECONDS = 2.0
"""For a server that hangs; MLflow's own time-out for a request is longer."""
LOCK_SECONDS = 30.0
"""Another process that delivers the run is waited for at its end so long."""
ENTITIES_PER_BATCH = 100
T = TypeVar("T")


class MlflowTracker(Tracker):
    """Mirrors run folders to one experiment of an MLflow server or database."""

    def __init__(self, uri: str, experiment: str, home: Home) -> None:
        self._address = tracking_database.absolute(uri)
        self._uri = without_password(self._address)
        self._name = experiment
        self._home = home
        self._client: Any = None
        self._experiment_id = ""
        self._line = Line(self._uri)
        self._verified: set[Path] = set()

    @classmethod
    def open(cls, uri: str, experiment: str, home: Home, *, later: bool = False) -> Self:
        """``later``: a server that is away is told of, and connected to when it is back.

        Raises TrackingError as told in ``tracking.open_tracker``."""
        tracker = cls(uri, experiment, home)
        try:
            with tracking_database.said_when_slow(tracker._address):
                tracker._line.call(tracker._connect, seconds=tracking_database.seconds_to_open(tracker._address))
        except tracking_database.ServerAway as error:
            if not later:
                raise
            tracker._line.report(error)
        except TimeoutError as error:
            if not later:
                raise tracking_database.cannot_use(tracker._address, error) from None
            tracker._line.report(error)
        return tracker

    def _connect(self) -> None:
        """Raises TrackingError; ServerAway where the server may come back."""
        if self._client is not None:
            self._follow_home()
            tracking_database.reach(self._address, REACH_SECONDS)
            return
        tracking_database.check_answers(self._address)
        if self._address.startswith("sqlite"):
            tracking_database.prepare_sqlite(self._address, lambda path: migrate(path, self._home.artifacts))
            self._follow_home()
        try:
            client, self._experiment_id = connect(self._address, self._name, self._home)
        except TrackingError:
            raise
        except (*OUTAGES, ImportError) as error:
            raise tracking_database.cannot_use(self._address, error) from None
        self._client = client

    def _follow_home(self) -> None:
        if self._uri == own_uri(self._home) and tracking_database.follow_home(self._home):
            forget_places()

    @property
    def uri(self) -> str:
        """As it stands in cursors: absolute, without a password."""
        return self._uri

    def client(self) -> Any:
        """MLflow's own, connected. Raises TrackingError."""
        self._connect()
        return self._client

    def close(self) -> None:
        self._verified.clear()

    @property
    def busy(self) -> bool:
        return self._line.busy

    def be_patient(self) -> None:
        self._line.patient = True

    # One run

    def mirror(self, run_dir: Path, *, parent: str | None = None, final: bool = False) -> Outcome:
        run_dir = Path(run_dir)
        record = records.read_record(run_dir)
        if not final and self._line.quiet:
            return Outcome.AWAY

        def deliver() -> Outcome:
            with filelock.FileLock(str(run_dir / f".{CURSOR}.lock"), timeout=LOCK_SECONDS if final else 0):
                return self._known(lambda: self._mirror(run_dir, record, parent, final))

        def unless_busy() -> Outcome:
            try:
                return deliver()
            except filelock.Timeout:
                return Outcome.BUSY

        try:
            return self._line.deliver(unless_busy, final=final)
        except OutputError as error:  # the cursor cannot be written, for example on a disk that is full
            return self._line.report(error)

    def _known(self, action: Callable[[], T]) -> T:
        """``action``, once more where the server does not know what it was asked about any more: its database was
        lost or replaced under our hands."""
        self._connect()
        try:
            return action()
        except MlflowException as error:
            if not is_unknown(error):
                raise
        self._verified.clear()
        self._find_experiment()
        return action()

    def _find_experiment(self) -> None:
        """Again before something is made in it: numbers begin anew in a database that was replaced."""
        self._experiment_id = find_experiment(self._client, self._address, self._name, self._home)

    def _mirror(self, run_dir: Path, record: records.RunRecord, parent: str | None, final: bool) -> Outcome:
        cursor, created = self._cursor(run_dir, record, parent)
        missing = find_missing(run_dir, record, cursor, final=final)
        settled = settled_mark(run_dir, record)
        if missing or cursor.names != NAMES or cursor.doubted or cursor.settled != settled:
            try:
                self._send(record, cursor, missing, run_dir)
                cursor.names, cursor.settled = NAMES, settled
                if cursor.doubted:
                    delete_doubles(self._client, self._experiment_id, cursor.token, cursor.run_id)
                    cursor.doubted = still_doubted(cursor.doubted)
            finally:  # what did arrive need not be sent again
                write_cursor(run_dir, cursor)
        return Outcome.DELIVERED if missing or created else Outcome.COMPLETE

    def _cursor(self, run_dir: Path, record: records.RunRecord, parent: str | None) -> tuple[Cursor, bool]:
        """The cursor with its MLflow run, and whether the run was made now."""
        cursor, asked = begun_cursor(self._client, self._experiment_id, self._uri, run_dir)
        if cursor.run_id and (run_dir not in self._verified or cursor.sending):
            if self._reconcile(cursor):
                write_cursor(run_dir, cursor)
            else:
                cursor, asked = new_cursor(self._uri, run_dir), False
        created = not cursor.run_id
        if created:
            run = find_by_token(self._client, self._experiment_id, cursor.token) if asked else None
            run = run or self._create(cursor.token, record, parent)
            cursor.run_id, cursor.experiment_id = run.info.run_id, run.info.experiment_id
            cursor.doubted = time.time() if asked else 0.0
            write_cursor(run_dir, cursor)
        self._verified.add(run_dir)
        return cursor, created

    def _reconcile(self, cursor: Cursor) -> bool:
        """Ask the server what it has, which may be more than the cursor says (an answer was lost) or less (it was
        set back to an older state); False where it does not know the run (its database was replaced)."""
        try:
            run = self._client.get_run(cursor.run_id)
        except MlflowException as error:
            if is_unknown(error):
                return False
            raise
        if run.info.lifecycle_stage == "deleted":
            restore = f"restore it with: mlflow runs restore --run-id {cursor.run_id}"
            raise MlflowException.invalid_parameter_value(f"run {cursor.run_id} was deleted there; {restore}")
        cursor.status = run.info.status
        cursor.steps = {metric.key: metric.step for metric in run.data.to_proto().metrics}  # the latest of each
        cursor.params = cursor.params and bool(run.data.params)
        cursor.dataset = cursor.dataset and bool(run.inputs and run.inputs.dataset_inputs)
        cursor.tags = {key: value for key, value in cursor.tags.items() if key in run.data.tags}
        cursor.sending = False
        return True

    def _create(self, token: str, record: records.RunRecord, parent: str | None) -> Any:
        self._find_experiment()
        launch = self._launch_of(record.study, parent)
        tags = {"calm.token": token, "mlflow.user": user(), "mlflow.source.name": "calm"}
        if launch is not None:
            tags["mlflow.parentRunId"] = launch
        start = milliseconds(record.created) or None
        return self._client.create_run(self._experiment_id, start_time=start, tags=tags, run_name=record.name)

    def _launch_of(self, study: str | None, known: str | None) -> str | None:
        """The launch that runs of ``study`` belong to: ``known`` where the server has it, else the study's latest,
        made where the server has none."""
        if study is None:
            return known
        place = self._place(study)
        launch = find_launch(place, known)
        if launch is not None:
            return launch
        try:
            spec = read_study_part(self._home, study, STUDY)
        except RunError as error:  # not the run's fault, which goes on
            raise TrackingError(f"its study's launch cannot be shown: {error}") from None
        return None if spec is None else make_launch(place, spec)

    def _send(self, record: records.RunRecord, cursor: Cursor, missing: Missing, run_dir: Path) -> None:
        """Each part is noted in the cursor as soon as it is done; the status comes last."""
        run_id = cursor.run_id
        if missing.status == "RUNNING":  # a resumed run
            self._client.update_run(run_id, status="RUNNING")
            cursor.status = missing.status
        for params in chunks(list(missing.params.items()), ENTITIES_PER_BATCH):
            self._client.log_batch(run_id, params=[Param(key, value) for key, value in params])
        cursor.params = True
        if missing.datasets:
            log_datasets(self._client, run_id, missing.datasets)
            cursor.dataset = True
        for tags in chunks(list(missing.tags.items()), ENTITIES_PER_BATCH):
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
        for points in chunks(missing.points, METRICS_PER_BATCH):
            cursor.sending = True
            write_cursor(run_dir, cursor)
            metrics = [Metric(point.key, point.value, point.timestamp, point.step) for point in points]
            self._client.log_batch(cursor.run_id, metrics=metrics)
            for point in points:
                cursor.steps[point.key] = max(point.step, cursor.steps.get(point.key, -1))
            cursor.sending = False

    # A launch of a study

    def start_study(
        self,
        name: str,
        spec: dict[str, Any],
        known: str | None = None,
        *,
        request: LaunchRequest | None = None,
        final: bool = False,
    ) -> str | None:
        if self._line.patient and self._line.quiet and not final:
            return None

        def start() -> str:
            self._find_experiment()
            return start_launch(self._place(name), spec, known, request)

        return self._line.attempt(lambda: self._known(start))

    def ensure_launch(self, study: str, spec: dict[str, Any] | None) -> str | None:
        """The study's launch, made where the server has none and there is a specification; it stays as it is."""

        def ensure() -> str | None:
            place = self._place(study)
            return find_launch(place) or (None if spec is None else make_launch(place, spec))

        return self._line.attempt(lambda: self._known(ensure), final=True)

    def finish_study(self, parent: str | None, summary: dict[str, Any], artifacts: list[Path]) -> None:
        def finish() -> None:
            launch = self._launch_of(self._name, parent)
            if launch is not None:
                finish_launch(self._place_of(launch), launch, summary, artifacts)

        if parent is not None:
            self._line.attempt(lambda: self._known(finish), final=True)

    def stop_study(self, parent: str | None, status: str = "KILLED") -> None:
        def stop() -> None:
            if parent is not None and is_alive(self._client, parent):
                stop_launch(self._place_of(parent), parent, status)

        if parent is not None:
            self._line.attempt(lambda: self._known(stop), final=True)

    def show_report(self, study: str, parent: str | None, report: StudyReport) -> Outcome:
        if parent is None:
            return Outcome.COMPLETE
        lock = str(self._home.study(study) / f".{REPORT_CURSOR}.lock")

        def show() -> Outcome:
            try:
                with filelock.FileLock(lock, timeout=LOCK_SECONDS):
                    return self._show_report(study, parent, report)
            except filelock.Timeout:
                return Outcome.BUSY

        return self._line.deliver(show, final=True)

    def _show_report(self, study: str, parent: str, report: StudyReport) -> Outcome:
        cursor = read_report_cursor(self._home, study, parent)
        try:
            missing = find_missing_report(report, cursor, self._experiment_id)
        except OSError as error:
            raise OutputError(f"the report in {report.folder} cannot be read: {error}") from None
        if not missing:
            return Outcome.COMPLETE
        self._connect()
        try:
            send_report(self._client, parent, cursor, missing)
        finally:  # what did arrive need not be sent again
            write_report_cursor(self._home, study, cursor)
        return Outcome.DELIVERED

    def _place(self, study: str) -> Place:
        return Place(self._client, self._uri, self._experiment_id, self._home, study)

    def _place_of(self, launch: str) -> Place:
        """Of the study that the launch belongs to."""
        return self._place(self._client.get_run(launch).data.tags.get("calm.study", self._name))

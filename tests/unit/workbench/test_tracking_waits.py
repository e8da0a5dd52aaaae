"""Tracking: what a server that is slow, busy or away costs whoever waits for it, and what is made good later."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.suites.fake_mlflow import MemoryClient
from tests.suites.mlflow_shown import here, look
from tests.suites.run_folders import make_run_folder
from tests.suites.tracker_suite import set_record
from workbench import files, tracking_outages
from workbench.errors import TrackingError
from workbench.home import Home
from workbench.tracking import Outcome, open_tracker
from workbench.tracking_launches import read_launches
from workbench.tracking_mlflow import MlflowException, MlflowTracker
from workbench.tracking_outages import Helper, Line
from workbench.tracking_sync import deliver_left


def connected(home: Home, client: object) -> MlflowTracker:
    tracker = MlflowTracker(home.mlflow_uri, "single", home)
    tracker._client = client
    return tracker


def test_a_server_that_stops_in_the_middle_costs_a_bounded_wait(
    home: Home, run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And what it took all the same is not sent again."""
    go_on = threading.Event()

    class Stops(MemoryClient):
        def log_batch(self, run_id: str, **given: object) -> None:
            go_on.wait(20)
            super().log_batch(run_id, **given)

    client = Stops()
    tracker = connected(home, client)
    start = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(tracking_outages, "WAIT_SECONDS", 0.2)
        assert tracker.mirror(run_dir) is Outcome.AWAY
        assert tracker.mirror(run_dir) is Outcome.AWAY
        assert tracker.mirror(run_dir, final=True) is Outcome.AWAY
    assert time.monotonic() - start < 5
    (message,) = [r.getMessage() for r in caplog.records if r.name == "workbench.tracking"]
    assert "no answer in time" in message
    go_on.set()
    assert tracker.mirror(run_dir, final=True) in (Outcome.DELIVERED, Outcome.COMPLETE)
    (run,) = client.active()
    sent = [(metric.key, metric.step) for metric in run.points]
    assert len(sent) == len(set(sent)) > 100


def test_one_action_at_a_time_and_each_waits_so_long_and_no_longer() -> None:
    helper, go_on = Helper(), threading.Event()
    with pytest.raises(TimeoutError):
        helper.run(lambda: go_on.wait(20), 0.05)
    with pytest.raises(TimeoutError, match="still under way"):
        helper.run(lambda: 1, 0.05)
    go_on.set()
    assert helper.run(lambda: 2, 20) == 2
    with pytest.raises(ZeroDivisionError):
        helper.run(lambda: 1 / 0, 20)
    assert helper.run(lambda: 3, 20) == 3


@pytest.mark.parametrize(("final", "outcome"), [(False, Outcome.AWAY), (True, Outcome.DELIVERED)])
def test_a_locked_database_is_asked_again_at_the_end_of_a_run(
    home: Home, run_dir: Path, monkeypatch: pytest.MonkeyPatch, *, final: bool, outcome: Outcome
) -> None:
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

    class Locked(MemoryClient):
        times = 3

        def log_batch(self, run_id: str, **given: object) -> None:
            self.times -= 1
            if self.times >= 0:
                raise MlflowException("database is locked", error_code=TEMPORARILY_UNAVAILABLE)
            super().log_batch(run_id, **given)

    monkeypatch.setattr(tracking_outages, "FIRST_PAUSE_SECONDS", 0.01)
    assert connected(home, Locked()).mirror(run_dir, final=final) is outcome


def test_a_busy_server_is_given_up_in_time(home: Home, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(MemoryClient):
        def log_batch(self, run_id: str, **given: object) -> None:
            raise MlflowException("too many 500 error responses")

    monkeypatch.setattr(tracking_outages, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(tracking_outages, "PATIENT_SECONDS", 0.4)
    start = time.monotonic()
    assert connected(home, Broken()).mirror(run_dir, final=True) is Outcome.AWAY
    assert 0.1 < time.monotonic() - start < 5


def test_who_is_patient_asks_again_soon(home: Home, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(MemoryClient):
        def create_run(self, *_: object, **__: object) -> None:
            raise ConnectionRefusedError("Connection refused")

    tracker = connected(home, Gone())
    tracker.be_patient()
    for _ in range(10):
        tracker._line._quiet_until = 0.0
        assert tracker.mirror(run_dir) is Outcome.AWAY
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + tracking_outages.MAX_PATIENT_BACKOFF_SECONDS)
    assert not tracker._line.quiet


def test_a_cursor_that_cannot_be_written_stops_no_run(
    home: Home, run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise files.OutputError("cannot write: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", full)
        assert connected(home, MemoryClient()).mirror(run_dir) is Outcome.AWAY
    assert "No space left" in caplog.text


@pytest.mark.parametrize(
    ("shown", "said"), [("sqlite:////x/mlflow.db", "cannot be used now"), ("http://x:5000", "does not answer")]
)
def test_a_file_does_not_answer_to_anybody(caplog: pytest.LogCaptureFixture, shown: str, said: str) -> None:
    assert Line(shown).report(OSError(errno.ENOSPC, "No space left on device")) is Outcome.AWAY
    assert f"{shown} {said} (" in caplog.text


def test_mlflow_itself_sends_nothing_twice() -> None:
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


# A server that is away at the start


def test_what_was_begun_goes_on_without_a_server(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(TrackingError, match="refused"):
        open_tracker(uri, experiment="demo", home=home)
    tracker = open_tracker(uri, experiment="demo", home=home, later=True)
    assert tracker.uri == uri
    run_dir = make_run_folder(home.study("demo") / "t0", study="demo")
    assert tracker.start_study("demo", {}) is None
    assert tracker.mirror(run_dir, final=True) is Outcome.AWAY
    tracker.stop_study(None)
    (message,) = [r.getMessage() for r in caplog.records if r.name == "workbench.tracking"]
    assert f"{uri} does not answer (connection refused)" in message
    with pytest.raises(TrackingError, match="not supported"):
        open_tracker("ftp://somewhere/x", home=home, later=True)


def test_a_tracker_connects_when_the_server_is_back(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    database = home.root / "mlflow.db"
    away = database.rename(database.with_suffix(".away"))
    database.mkdir()  # cannot be opened: what a file system that is not mounted looks like
    with pytest.raises(TrackingError, match="cannot be used"):
        open_tracker(None, experiment="demo", home=home, later=True)
    database.rmdir()
    away.rename(database)
    tracker = MlflowTracker(home.mlflow_uri, "demo", home)  # as ``later`` leaves it
    run_dir = make_run_folder(home.study("demo") / "t0", study="demo")
    assert tracker.mirror(run_dir) is Outcome.DELIVERED
    assert look(tracker, run_dir).status == "FINISHED"


def test_in_the_pause_after_an_outage_only_the_last_round_asks(home: Home, tracker: MlflowTracker) -> None:
    tracker.be_patient()
    tracker._line.report(TimeoutError("timed out"))
    assert tracker.start_study("demo", {}) is None
    assert tracker.start_study("demo", {}, final=True)


# What earlier processes left


def test_the_next_start_closes_what_was_killed(home: Home, tracker: MlflowTracker, dead_pid: int) -> None:
    run_dir = make_run_folder(home.single_runs() / "r", status="running", environment=here(os.getpid()))
    assert deliver_left(home, None) is None, "at work"
    tracker.mirror(run_dir)
    set_record(run_dir, environment=here(dead_pid))
    report = deliver_left(home, None)
    assert report is not None
    assert (report.reaped, report.failed) == (1, 0)
    assert look(tracker, run_dir).status == "KILLED"
    assert deliver_left(home, None) is None
    assert deliver_left(home, "none") is None


def test_the_next_start_ends_a_launch_that_was_not(home: Home) -> None:
    files.write_json(home.study("demo") / "study.json", {"name": "demo"})
    run_dir = make_run_folder(home.study("demo") / "t0", study="demo")
    tracker = open_tracker(None, experiment="demo", home=home)
    parent = tracker.start_study("demo", {"name": "demo"})
    tracker.mirror(run_dir, parent=parent, final=True)
    rows = [row.model_dump() | {"process": {**row.process, "ticks": 1}} for row in read_launches(home, "demo")]
    files.write_json(home.study("demo") / "mlflow.json", rows)
    files.write_json(home.study("demo") / "summary.json", {"num_trials": 1})
    assert deliver_left(home, None, "demo") is not None
    assert [(row.run_id, row.status) for row in read_launches(home, "demo")] == [(parent, "FINISHED")]
    assert deliver_left(home, None, "demo") is None

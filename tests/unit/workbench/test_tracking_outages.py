"""Tracking: outages, lost answers, killed runs; nothing is lost and nothing sent twice."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from tests.suites.mlflow_shown import client, faulty, here, look
from tests.suites.run_folders import make_run_folder
from tests.suites.tracker_suite import cut_back, grow_again, set_record
from workbench import files, records, tracking_schema
from workbench.errors import RunError
from workbench.home import Home, open_home
from workbench.tracking import Outcome, Tracker, link, open_tracker
from workbench.tracking_mlflow import MlflowTracker
from workbench.tracking_sync import sync

# Outages and lost answers


def test_an_outage_is_told_once_and_made_good(
    tracker: MlflowTracker, run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faulty(tracker, monkeypatch, "log_batch", times=2)
    with caplog.at_level(logging.WARNING):
        assert tracker.mirror(run_dir) is Outcome.AWAY
        assert not tracker.deliver(run_dir, final=True)  # tries although it is quiet, and fails again
    (message,) = [r.getMessage() for r in caplog.records if r.name == "workbench.tracking"]
    assert "calm sync" in message
    assert "\n" not in message
    assert tracker.deliver(run_dir, final=True)
    assert len(look(tracker, run_dir).history["train/loss"]) == 20


def test_after_an_outage_it_is_quiet_for_a_while(
    tracker: MlflowTracker, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(tracker, monkeypatch, "create_run")
    assert tracker.mirror(run_dir) is Outcome.AWAY
    assert tracker.mirror(run_dir) is Outcome.AWAY  # the client would work again: it was not asked
    assert link(run_dir) is None
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 31)
    assert tracker.mirror(run_dir) is Outcome.DELIVERED


@pytest.mark.slow
@pytest.mark.parametrize("method", ["create_run", "log_batch", "log_inputs", "log_artifact", "set_terminated"])
def test_a_lost_answer_doubles_nothing(
    tracker: MlflowTracker, run_dir: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    faulty(tracker, monkeypatch, method, times=3, after=True)
    attempts = 1
    while not tracker.deliver(run_dir, final=True):
        attempts += 1
    assert 2 <= attempts <= 4
    shown = look(tracker, run_dir)
    assert [step for step, _ in shown.history["train/loss"]] == list(range(10, 201, 10))
    assert all(len(set(points)) == len(points) for points in shown.history.values())
    place = link(run_dir)
    assert place is not None
    assert len(client(tracker).search_runs([place.experiment_id])) == 1


def test_starting_and_ending_a_study_survive_an_outage(
    tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(tracker, monkeypatch, "create_run")
    assert tracker.start_study("demo", {}) is None
    parent = tracker.start_study("demo", {})
    faulty(tracker, monkeypatch, "set_terminated")
    tracker.finish_study(parent, {"num_trials": 1}, [])
    assert client(tracker).get_run(parent).info.status == "RUNNING"


@pytest.mark.slow
def test_another_server_gets_everything(
    tracker: Tracker, run_dir: Path, tmp_path: Path, tracking_database: Path
) -> None:
    tracker.deliver(run_dir)
    shutil.copy(tracking_database, tmp_path / "other.db")
    home = open_home(tmp_path / "home")
    other = open_tracker(f"sqlite:///{tmp_path / 'other.db'}", home=home)
    assert other.mirror(run_dir) is Outcome.DELIVERED
    assert len(look(other, run_dir).history["train/loss"]) == 20


@pytest.mark.slow
def test_a_lost_database_is_filled_again(tracker: Tracker, home: Home, run_dir: Path) -> None:
    tracker.deliver(run_dir)
    cursor = tracking_schema.read_cursor(run_dir)
    assert cursor is not None
    tracking_schema.write_cursor(run_dir, cursor.model_copy(update={"run_id": "0" * 32}))  # unknown there
    again = open_tracker(None, home=home)
    assert again.mirror(run_dir) is Outcome.DELIVERED
    assert len(look(again, run_dir).history["train/loss"]) == 20


def test_a_run_deleted_there_is_not_brought_back(
    tracker: Tracker, home: Home, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.deliver(run_dir)
    place = link(run_dir)
    assert place is not None
    client(tracker).delete_run(place.run_id)
    fresh = open_tracker(None, home=home)
    assert fresh.mirror(run_dir) is Outcome.REFUSED
    assert "mlflow runs restore" in caplog.text


def test_two_deliverers_do_not_mix(tracker: Tracker, run_dir: Path) -> None:
    with files.locked(run_dir / ".mlflow.json.lock"):  # as another process, such as calm sync, holds it
        assert tracker.mirror(run_dir) is Outcome.BUSY
    assert tracker.deliver(run_dir)


def test_copies_of_records_among_the_artifacts_are_no_runs(tracker: Tracker, home: Home, run_dir: Path) -> None:
    tracker.deliver(run_dir, final=True)
    assert list(home.artifacts.rglob(records.RECORD))
    assert records.find_runs(home.root) == [run_dir]


def test_a_folder_that_is_no_run_is_an_error(tracker: Tracker, run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        tracker.deliver(tmp_path)
    (run_dir / records.CONFIG).unlink()
    with pytest.raises(RunError, match=r"config\.yaml cannot be read"):
        tracker.deliver(run_dir)


# Killed runs


@pytest.mark.slow
def test_a_killed_run_is_reaped_and_can_be_resumed(home: Home, tracker: Tracker, dead_pid: int) -> None:
    run_dir = make_run_folder(home.single_runs() / "r", status="running", environment=here(os.getpid()))
    cut = cut_back(run_dir, 100)
    tracker.deliver(run_dir)
    assert look(tracker, run_dir).status == "RUNNING"
    set_record(run_dir, environment=here(dead_pid))
    report = sync(home)
    assert report.reaped == 1
    assert look(tracker, run_dir).status == "KILLED"
    assert look(tracker, run_dir).tags["calm.status"] == "killed"
    set_record(run_dir, environment=here(os.getpid()))  # as a resumed run does
    resumed = open_tracker(None, home=home)
    resumed.deliver(run_dir)
    assert look(resumed, run_dir).status == "RUNNING"
    grow_again(run_dir, cut)
    set_record(run_dir, status="completed")
    resumed.deliver(run_dir, final=True)
    assert look(resumed, run_dir).status == "FINISHED"
    assert len(look(resumed, run_dir).history["train/loss"]) == 20


def test_whether_a_process_is_gone(dead_pid: int) -> None:
    now = time.time()
    assert tracking_schema.process_gone(dead_pid, socket.gethostname(), now)
    assert not tracking_schema.process_gone(os.getpid(), socket.gethostname(), now)
    assert tracking_schema.process_gone(os.getpid(), socket.gethostname(), 1e9)  # a newer one got the number
    assert not tracking_schema.process_gone(dead_pid, "another-host", now)
    assert not tracking_schema.process_gone(None, None, now)

"""The launcher's deliveries: what has changed, once; nothing is lost at the end or while a server is away."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from studies import delivery
from studies.claim import claim
from studies.delivery import Delivery
from tests.suites.fake_mlflow import MemoryClient
from tests.suites.run_folders import make_run_folder
from tests.suites.study_launch import create, tiny_spec
from workbench import records
from workbench.tracking import NullTracker, Outcome, Tracker, link, open_tracker
from workbench.tracking_mlflow import MlflowTracker
from workbench.tracking_sync import sync


class Remembers(Tracker):
    """Answers as it is told; notes what it was asked to show."""

    def __init__(self, *answers: Outcome) -> None:
        self.answers, self.shown, self.asked = list(answers), [], []
        self.first = threading.Event()

    def mirror(self, run_dir, *, parent=None, final=False):
        self.shown.append((run_dir.name, parent, final))
        self.first.set()
        return self.answers.pop(0) if self.answers else Outcome.DELIVERED

    def start_study(self, name, spec, known=None, *, request=None, final=False):
        self.asked.append(final)
        return known or "launch"

    def finish_study(self, parent, summary, artifacts):
        return None

    def stop_study(self, parent, status="KILLED"):
        self.stopped = status

    def show_report(self, study, parent, report):
        return Outcome.COMPLETE

    def close(self):
        return None


@pytest.fixture
def launch(tmp_path):
    made = create(tmp_path, tiny_spec())
    for name in ("t000-s0", "t001-s0"):
        make_run_folder(made.folder / name, study=made.name)
    (made.folder / "logs").mkdir()
    return made


@pytest.fixture
def dead_pid():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def touch(launch, name, **changes):
    record = records.read_record(launch.folder / name).model_copy(update=changes)
    records.write_record(launch.folder / name, record)


def test_each_change_goes_out_once(launch):
    tracker = Remembers()
    deliveries = Delivery(launch, tracker, "parent")
    touch(launch, "t001-s0", status="running")
    assert deliveries.deliver_due() == 2
    assert tracker.shown == [("t000-s0", "parent", False), ("t001-s0", "parent", False)]
    assert deliveries.deliver_due() == 0
    touch(launch, "t001-s0", step=7)
    assert deliveries.deliver_due() == 1
    assert tracker.shown[2:] == [("t001-s0", "parent", False)]


def test_an_outage_ends_a_round_and_the_next_tries_again(launch):
    tracker = Remembers(Outcome.AWAY)
    deliveries = Delivery(launch, tracker, None)
    assert deliveries.deliver_due() == 0
    assert len(tracker.shown) == 1
    assert deliveries.deliver_due() == 2


def test_no_run_is_shown_before_its_launch(launch, monkeypatch):
    """Shown without one it would make one of its own, beside that which another host is just making."""
    monkeypatch.setattr(delivery, "BEGIN_SECONDS", 0.05)
    tracker = Remembers()
    deliveries = Delivery(launch, tracker)
    with claim(launch.url, f"{launch.name} on the server").within(1) as others:
        assert others
        assert deliveries.deliver_due() == 0
        assert deliveries.deliver_due(last=True) == 0
    assert not tracker.shown
    assert tracker.asked == []
    assert deliveries.deliver_due(last=True) == 2
    assert tracker.asked == [True], "the last round asks also in the pause after an outage"
    assert {parent for _, parent, _ in tracker.shown} == {"launch"}


def test_a_run_that_another_process_delivers_is_looked_at_again(launch):
    deliveries = Delivery(launch, Remembers(Outcome.BUSY), None)
    assert deliveries.deliver_due() == 1
    assert deliveries.deliver_due() == 1


def test_what_fails_or_is_no_run_does_not_stop_the_rest(launch, caplog):
    (launch.folder / "t000-s0" / records.RECORD).write_text("{")
    tracker = Remembers()
    Delivery(launch, tracker, None).deliver_due()
    assert [name for name, _, _ in tracker.shown] == ["t001-s0"]

    class Broken(Remembers):
        def mirror(self, run_dir, *, parent=None, final=False):
            raise ValueError("unexpected")

    Delivery(launch, Broken(), None).deliver_due()
    assert "t001-s0 could not be delivered" in caplog.text


def test_the_thread_follows_and_the_end_delivers_the_rest(launch, monkeypatch):
    monkeypatch.setattr(delivery, "DELIVER_SECONDS", 0.02)
    tracker = Remembers()
    with Delivery(launch, tracker, None):
        assert tracker.first.wait(10)
        monkeypatch.setattr(delivery, "DELIVER_SECONDS", 1000.0)
        make_run_folder(launch.folder / "t002-s0", study=launch.name)
    assert "t002-s0" in [name for name, _, _ in tracker.shown]


def test_an_interrupted_end_waits_for_the_run_in_hand(launch):
    """The tracker, which is closed next, must not be in use any more."""

    class Slow(Remembers):
        def mirror(self, run_dir, **given):
            time.sleep(0.1)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.1)
            return super().mirror(run_dir, **given)

    tracker = Slow()
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Delivery(launch, tracker, None) as deliveries:
            pass
        assert [name for name, _, _ in tracker.shown] == ["t000-s0"]
        assert deliveries._ended.is_set()
    finally:
        signal.signal(signal.SIGINT, previous)


def test_without_tracking_nothing_runs(launch):
    with Delivery(launch, NullTracker(), None) as deliveries:
        assert not deliveries._thread.is_alive()


@pytest.mark.slow
@pytest.mark.parametrize("then", ["sync", "resume"])
def test_runs_of_a_killed_launcher_stay_running_until_a_sync_or_a_resume(launch, tracking_database, then):
    """Its workers notice and end, but there is nobody who would tell the server."""
    shutil.copy(tracking_database, launch.home.root / "mlflow.db")
    tracker = open_tracker(None, experiment=launch.name, home=launch.home)
    parent = tracker.start_study(launch.name, {})
    touch(launch, "t000-s0", status="running")
    Delivery(launch, tracker, parent).deliver_due()

    def shown():
        place = link(launch.folder / "t000-s0")
        return tracker._client.get_run(place.run_id).info.status

    touch(launch, "t000-s0", status="interrupted")
    assert shown() == "RUNNING"
    if then == "sync":
        sync(launch.home)
        assert shown() == "KILLED"
    else:
        touch(launch, "t000-s0", status="running")
        deliveries = Delivery(launch, tracker, parent)
        deliveries.deliver_due()
        assert shown() == "RUNNING"
        touch(launch, "t000-s0", status="completed")
        deliveries.deliver_due(last=True)
        assert shown() == "FINISHED"
    tracker.close()


@pytest.fixture
def memory(launch):
    """A tracker whose server is in memory."""
    tracker = MlflowTracker(launch.home.mlflow_uri, launch.name, launch.home)
    tracker._client = MemoryClient()
    return tracker


def statuses(tracker):
    return sorted((run.tags.get("calm.role", "launch"), run.info.status) for run in tracker._client.active())


def test_an_interrupted_launch_is_shown_so_and_goes_on_as_the_same(launch, memory):
    with Delivery(launch, memory) as first:
        pass
    assert ("launch", "RUNNING") in statuses(memory)
    first.stop()
    assert ("launch", "KILLED") in statuses(memory)
    with Delivery(launch, memory) as second:
        pass
    assert ("launch", "RUNNING") in statuses(memory)
    second.finish({"num_trials": 2}, [])
    assert second.parent == first.parent
    assert statuses(memory) == [("launch", "FINISHED"), ("run", "FINISHED"), ("run", "FINISHED")]


def test_a_launch_begins_when_the_server_is_back(launch, memory, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(memory, "_client", None)
        patch.setattr(memory, "_connect", lambda: (_ for _ in ()).throw(ConnectionRefusedError("refused")))
        deliveries = Delivery(launch, memory)
        assert deliveries.deliver_due() == 0
        assert deliveries.parent is None
    memory._line.answered()
    assert deliveries.deliver_due() == 2
    (one,) = [run for run in memory._client.active() if run.tags.get("calm.role") == "launch"]
    assert deliveries.parent == one.info.run_id
    assert {run.tags.get("mlflow.parentRunId") for run in memory._client.active()} == {None, one.info.run_id}


def test_a_run_that_is_killed_while_others_go_on_is_shown_so(launch, memory, dead_pid):
    place = {"host": socket.gethostname(), "pid": os.getpid()}
    touch(launch, "t000-s0", status="running", environment=place)
    deliveries = Delivery(launch, memory)
    assert deliveries.deliver_due() == 2
    assert ("run", "RUNNING") in statuses(memory)
    time_of_record = os.stat(launch.folder / "t000-s0" / records.RECORD)
    touch(launch, "t000-s0", environment={**place, "pid": dead_pid})
    os.utime(launch.folder / "t000-s0" / records.RECORD, ns=(0, time_of_record.st_mtime_ns))  # nobody wrote it
    assert deliveries.deliver_due() == 1
    assert ("run", "KILLED") in statuses(memory)
    assert deliveries.deliver_due() == 0

"""Tracking: the delivering process is killed, or the server replaced, at every moment there is; a client in memory
keeps every point that it was sent, so that a double shows."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.suites.fake_mlflow import KilledError, MemoryClient, Mortal
from tests.suites.run_folders import make_run_folder, write_usage
from tests.suites.tracker_suite import cut_back, grow_again, set_record
from workbench import files, records
from workbench.home import Home, open_home
from workbench.tracking import Outcome
from workbench.tracking_metrics import points
from workbench.tracking_mlflow import MlflowTracker

SPEC = {"name": "demo", "question": "Does K matter?"}


def connected(home: Home, client: object, experiment: str = "demo") -> MlflowTracker:
    """As a new process has it."""
    tracker = MlflowTracker(home.mlflow_uri, experiment, home)
    tracker._client = client
    tracker._experiment_id = "0"  # nobody's: it is looked for when the client says so
    return tracker


def small_study(folder: Path) -> tuple[Home, Path]:
    home = open_home(folder)
    files.write_json(home.study("demo") / "study.json", SPEC)
    run_dir = make_run_folder(
        home.study("demo") / "t0", study="demo", num_points=4, num_evaluations=2, plots=False, num_windows=None
    )
    write_usage(run_dir)
    return home, run_dir


def follow(tracker: MlflowTracker, run_dir: Path) -> None:
    """A launch from its begin to its end, with a run that grows."""
    parent = tracker.start_study("demo", SPEC)
    record = records.read_record(run_dir)
    if record.status == "running":
        tracker.mirror(run_dir, parent=parent)
        grow_again(run_dir, GROWTH)
        set_record(run_dir, status="completed")
    tracker.mirror(run_dir, parent=parent, final=True)
    tracker.finish_study(parent, {"num_trials": 1}, [run_dir / records.CONFIG])


GROWTH: dict[str, list[dict[str, object]]] = {}


def check_whole(client: MemoryClient, run_dir: Path) -> None:
    """One launch, one run below it, every point once."""
    launch, run = sorted(client.active(), key=lambda run: run.tags.get("calm.role") != "launch")
    assert (launch.info.status, run.info.status) == ("FINISHED", "FINISHED")
    assert run.tags["mlflow.parentRunId"] == launch.info.run_id
    sent = Counter((metric.key, metric.step) for metric in run.points)
    assert {point for point, times in sent.items() if times > 1} == set()
    record = records.read_record(run_dir)
    assert set(sent) == {(point.key, point.step) for point in points(run_dir, record, ended=True)}
    assert {"config.yaml", "record.json"} <= set(run.files)
    assert {"spec.yaml", "summary.yaml"} <= set(launch.files)
    assert len(launch.points) == 1
    assert run.params["model.chunk_size"] == "4"
    assert sorted(given.dataset.name for given in run.inputs) == ["shakespeare train", "shakespeare validation"]
    assert "system/cpu_utilization_percentage" in {key for key, _ in sent}


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_moment_of_a_delivery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("workbench.tracking_mlflow.METRICS_PER_BATCH", 10)  # ends among the metrics of a step
    _, made = small_study(tmp_path / "made")
    set_record(made, status="running")
    GROWTH.update(cut_back(made, 20))
    for last in range(1, 100):
        home = open_home(tmp_path / f"{last}")
        shutil.copytree(tmp_path / "made" / "demo", home.study("demo"))
        run_dir, client = home.study("demo") / "t0", MemoryClient()
        mortal = Mortal(client, last, after=after)
        with contextlib.contextmanager(mortal.watching)(monkeypatch), contextlib.suppress(KilledError):
            follow(connected(home, mortal), run_dir)
        follow(connected(home, client), run_dir)
        check_whole(client, run_dir)
        if not mortal.dead:
            break
    assert 25 < last < 100


def test_a_database_lost_under_our_hands_is_filled_again(tmp_path: Path) -> None:
    home, run_dir = small_study(tmp_path)
    set_record(run_dir, status="running")
    cut = cut_back(run_dir, 20)
    tracker = connected(home, MemoryClient())
    parent = tracker.start_study("demo", SPEC)
    assert tracker.mirror(run_dir, parent=parent) is Outcome.DELIVERED
    lost = tracker._client
    tracker._client = empty = MemoryClient()
    empty.create_experiment("another study's, with the number of ours", tags={})
    grow_again(run_dir, cut)
    set_record(run_dir, status="completed")
    assert tracker.mirror(run_dir, parent=parent, final=True) is Outcome.DELIVERED
    tracker.finish_study(parent, {"num_trials": 1}, [])
    check_whole(empty, run_dir)
    assert {run.info.experiment_id for run in empty.active()} == {"2"}
    assert len(lost.active()) == 2


def test_a_database_set_back_gets_what_it_lost(tmp_path: Path) -> None:
    home, run_dir = small_study(tmp_path)
    client = MemoryClient()
    follow(connected(home, client), run_dir)
    (run,) = [run for run in client.active() if "calm.role" in run.tags and run.tags["calm.role"] != "launch"]
    run.points = [metric for metric in run.points if metric.step <= 20]
    del run.tags["calm.head"]
    run.info.status = "RUNNING"
    assert connected(home, client).mirror(run_dir) is Outcome.DELIVERED
    check_whole(client, run_dir)
    assert run.tags["calm.head"] == "energy"


def test_a_run_begun_after_the_database_was_replaced_has_its_experiment_and_launch(tmp_path: Path) -> None:
    home, run_dir = small_study(tmp_path)
    tracker = connected(home, MemoryClient())
    parent = tracker.start_study("demo", SPEC)
    tracker._client = empty = MemoryClient()
    empty.create_experiment("another study's, with the number of ours", tags={})
    assert tracker.mirror(run_dir, parent=parent, final=True) is Outcome.DELIVERED
    tracker.finish_study(parent, {"num_trials": 1}, [])
    check_whole(empty, run_dir)
    assert {run.info.experiment_id for run in empty.active()} == {"2"}


def test_a_run_that_a_stopped_server_makes_late_is_deleted(tmp_path: Path) -> None:
    """The request lay in the queue of the server, which was asked again meanwhile."""
    home, run_dir = small_study(tmp_path)

    class Stopped(MemoryClient):
        queue: list[dict[str, object]] = []

        def create_run(self, experiment_id: str, **given: object) -> object:
            if not self.queue:
                self.queue.append({"experiment_id": experiment_id, **given})
                raise TimeoutError("timed out")
            return super().create_run(experiment_id, **given)

    client = Stopped()
    tracker = connected(home, client)
    assert tracker.start_study("demo", SPEC) is None
    parent = tracker.start_study("demo", SPEC)
    MemoryClient.create_run(client, **client.queue.pop())  # type: ignore[arg-type]
    assert tracker.mirror(run_dir, parent=parent, final=True) is Outcome.DELIVERED  # it asks a busy server again
    MemoryClient.create_run(client, **client.queue[0])  # type: ignore[arg-type]
    tracker.mirror(run_dir)
    tracker.finish_study(parent, {"num_trials": 1}, [run_dir / records.CONFIG])
    assert len(client.runs) == 4
    check_whole(client, run_dir)

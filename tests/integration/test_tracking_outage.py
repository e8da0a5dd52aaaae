"""A launcher's delivery to a real server that fails in every way there is, while runs grow and end.

The same with a whole study: ``python -m tests.chaos.tracking_outage``."""

from __future__ import annotations

import io
import shutil
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from studies import delivery
from studies import launch as launching
from studies.delivery import Delivery
from studies.display import Display
from studies.prepare import Options, write_study_file
from studies.storage import Launch
from tests.suites.cells_only import CELLS
from tests.suites.faulty_server import FAULTS, Server, compare, free_port
from tests.suites.run_folders import make_run_folder
from tests.suites.study_launch import FAKE, create, tiny_spec
from tests.suites.tracker_suite import cut_back, grow_again, set_record
from workbench import files, tracking_outages
from workbench.errors import TrackingError
from workbench.home import open_home
from workbench.tracking import Outcome, open_tracker
from workbench.tracking_launches import read_launches
from workbench.tracking_mlflow import MlflowTracker
from workbench.tracking_sync import sync

pytestmark = pytest.mark.slow


def grow_run(launch: Launch, number: int) -> None:
    """A run folder that appears, grows in three parts and ends, in about a second."""
    run_dir = launch.folder / f"t{number:03d}-s0"
    hidden = make_run_folder(launch.home.root / "made", study=launch.name, seed=number, num_points=12)
    set_record(hidden, status="running")
    cut = cut_back(hidden, 40)
    hidden.rename(run_dir)
    for part in range(3):
        time.sleep(0.3)
        rows = {name: [row for row in cut[name] if int(str(row["step"])) // 41 == part + 1] for name in cut}
        grow_again(run_dir, rows)
        set_record(run_dir, wall_seconds=float(part))
    set_record(run_dir, status="completed")


def test_nothing_is_lost_or_doubled_by_a_server_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking_database: Path
) -> None:
    monkeypatch.setattr(delivery, "DELIVER_SECONDS", 0.2)
    monkeypatch.setattr(tracking_outages, "PATIENT_BACKOFF_SECONDS", 0.2)
    monkeypatch.setattr(tracking_outages, "MAX_PATIENT_BACKOFF_SECONDS", 1.0)
    launch = create(tmp_path / "home", tiny_spec())
    files.write_json(launch.folder / "study.json", launch.spec.to_dict())
    theirs = open_home(tmp_path / "server")
    (theirs.root / "mlflow.db").write_bytes(tracking_database.read_bytes())
    with Server(theirs) as server:
        tracker = open_tracker(server.proxy.url, experiment=launch.name, home=launch.home)
        start = time.monotonic()
        with Delivery(launch, tracker) as deliveries:
            for number, kind in enumerate(FAULTS):
                out = threading.Thread(target=server.fault, args=(kind, 1.5))
                out.start()
                grow_run(launch, number)
                out.join()
                time.sleep(0.7)
            assert server.down > (time.monotonic() - start) / 3
        deliveries.finish({"num_trials": len(FAULTS)}, [])
        tracker.close()
        sync(launch.home, server.proxy.url)
        verdict = compare(server, launch.home, launch.name)
    assert server.proxy.lost_answers > 0
    assert verdict.runs == len(FAULTS)
    assert verdict.points > 500
    assert verdict.whole, verdict


def test_a_study_whose_server_is_away_is_resumed_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tracking_database: Path
) -> None:
    """And what it made is delivered later."""
    uri = f"http://127.0.0.1:{free_port()}"
    launch = create(tmp_path / "home", tiny_spec(**CELLS))
    write_study_file(launch, uri)
    options = Options(name=launch.name, workers=1, threads=1, execute=FAKE)
    result = launching.run(options, launch.home, Display(Console(file=io.StringIO()), launch.name))
    assert result.state.finished
    warnings = [r.getMessage() for r in caplog.records if r.name == "workbench.tracking"]
    assert [f"{uri} does not answer (connection refused)" in text for text in warnings] == [True]
    shutil.copy(tracking_database, launch.home.root / "mlflow.db")
    with pytest.raises(TrackingError, match=f"{uri} does not answer"):
        sync(launch.home)
    report = sync(launch.home, launch.home.mlflow_uri)
    assert report.counts[Outcome.DELIVERED] == 2
    (shown,) = read_launches(launch.home, launch.name)
    assert shown.status == "FINISHED"


def test_an_interrupted_study_is_shown_as_killed_and_goes_on_as_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking_database: Path
) -> None:
    launch = create(tmp_path / "home", tiny_spec(**CELLS))
    shutil.copy(tracking_database, launch.home.root / "mlflow.db")
    write_study_file(launch, None)
    options = Options(name=launch.name, workers=1, threads=1, execute=FAKE)
    display = Display(Console(file=io.StringIO()), launch.name)
    with monkeypatch.context() as patch:
        patch.setattr(
            launching, "watch", lambda _, crew, __: ("interrupted" if crew.stop() else "now", time.monotonic())
        )
        assert launching.run(options, launch.home, display).interrupted
    (row,) = read_launches(launch.home, launch.name)
    assert row.status == "KILLED"
    assert launching.run(options, launch.home, display).state.finished
    (again,) = read_launches(launch.home, launch.name)
    assert (again.run_id, again.status) == (row.run_id, "FINISHED")
    assert again.started > row.started
    tracker = open_tracker(None, experiment=launch.name, home=launch.home)
    assert isinstance(tracker, MlflowTracker)
    runs = tracker._client.search_runs([tracker._experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs} == {None, row.run_id}

"""``calm sync`` and ``calm ui``."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from tests.suites.mlflow_shown import client, look
from tests.suites.run_folders import make_run_folder
from tests.suites.tracker_suite import set_record
from workbench import files, processes, records
from workbench.cli import ui
from workbench.doctor_home import home_checks
from workbench.errors import TrackingError
from workbench.home import Home
from workbench.tracking import Outcome, link, open_tracker
from workbench.tracking_launches import read_launches
from workbench.tracking_mlflow import MlflowTracker
from workbench.tracking_schema import effective_status
from workbench.tracking_sync import sync

# Sync


def make_study(home: Home, num_runs: int = 2) -> list[Path]:
    files.write_json(home.study("demo") / "study.json", {"name": "demo", "question": "Does K matter?"})
    return [make_run_folder(home.study("demo") / f"t{i}", study="demo", seed=i) for i in range(num_runs)]


@pytest.mark.slow
def test_sync_delivers_runs_and_their_study(home: Home) -> None:
    run_dirs = make_study(home)
    files.write_json(home.study("demo") / "summary.json", {"num_trials": 2})
    make_run_folder(home.single_runs() / "s")
    report = sync(home)
    assert str(report) == "3 delivered, 0 already complete, 0 failed"
    tracker = open_tracker(None, experiment="demo", home=home)
    (launch,) = read_launches(home, "demo")
    assert look(tracker, run_dirs[0]).parent == launch.run_id
    parent = client(tracker).get_run(launch.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["study/num_trials"] == 2
    assert str(sync(home)) == "0 delivered, 3 already complete, 0 failed"


@pytest.mark.slow
def test_sync_removes_half_checkpoints_where_nobody_is_at_work(home: Home) -> None:
    """The host that was killed at the last of its writes trains nothing again, but it is synchronised."""
    ended, at_work = make_study(home)
    for run_dir in (ended, at_work):
        files.write_atomic(run_dir / ".checkpoint.12345678" / "model.safetensors", "half")
    with files.claimed(at_work):
        sync(home)
    assert not (ended / ".checkpoint.12345678").exists()
    assert (ended / records.RECORD).exists()
    assert (at_work / ".checkpoint.12345678" / "model.safetensors").exists()


def test_sync_ends_a_launch_whose_process_was_killed(home: Home, dead_pid: int) -> None:
    make_study(home)
    tracker = open_tracker(None, experiment="demo", home=home)
    parent = tracker.start_study("demo", {})
    sync(home)
    assert read_launches(home, "demo")[0].status == "RUNNING"  # this process is alive
    rows = [launch.model_dump() | {"pid": dead_pid, "process": {}} for launch in read_launches(home, "demo")]
    files.write_json(home.study("demo") / "mlflow.json", rows)
    sync(home)
    assert client(tracker).get_run(parent).info.status == "KILLED"
    assert len(read_launches(home, "demo")) == 1


@pytest.mark.slow
def test_sync_ends_what_was_at_work_when_the_machine_went_down(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_pid_space", lambda: processes.OUTSIDE_CONTAINERS)
    before, at_work = make_study(home)
    process = processes.this_process()
    set_record(at_work, status="running", environment={"process": process})
    set_record(before, status="running", environment={"process": {**process, "boot": "another"}})
    tracker = open_tracker(None, experiment="demo", home=home)
    parent = tracker.start_study("demo", {})
    rows = [row.model_dump() | {"process": {**process, "boot": "another"}} for row in read_launches(home, "demo")]
    files.write_json(home.study("demo") / "mlflow.json", [row | {"pid": 1} for row in rows])
    assert sync(home).reaped == 1
    assert [look(tracker, run_dir).status for run_dir in (before, at_work)] == ["KILLED", "RUNNING"]
    assert look(tracker, before).tags["calm.status"] == "killed"
    assert client(tracker).get_run(parent).info.status == "KILLED"


@pytest.mark.slow
def test_sync_ends_what_was_killed_in_another_container_and_nothing_that_lives(home: Home) -> None:
    """There nobody's process can be looked for; whoever is at a run holds its folder."""
    killed, at_work = make_study(home)
    inside = {**processes.this_process(), "pid_space": "pid:[1]"}
    with files.claimed(killed):
        pass
    for run_dir in (killed, at_work):
        set_record(run_dir, status="running", environment={"process": inside})
    tracker = open_tracker(None, experiment="demo", home=home)
    with files.claimed(at_work):
        assert sync(home).reaped == 1
        assert [look(tracker, run_dir).status for run_dir in (killed, at_work)] == ["KILLED", "RUNNING"]
        (runs,) = [check.found for check in home_checks(home) if check.name == "runs"]
        assert sorted(runs.split(", ")) == ["1 killed", "1 running"]
    for changes in (
        {"boot": "another"},
        {"machine": "another", "boot": "another"},
    ):  # whose locks may not reach us
        set_record(killed, status="running", environment={"process": {**inside, **changes}})
        assert effective_status(killed, records.read_record(killed)) == "running"
    (at_work / files.CLAIM).unlink()
    assert effective_status(at_work, records.read_record(at_work)) == "running"


def test_sync_goes_on_after_a_run_that_cannot_be_read(home: Home) -> None:
    first, second = make_study(home)
    (first / records.METRICS).write_text('{"step": "many"}\n')
    report = sync(home)
    assert str(report) == "1 delivered, 0 already complete, 1 failed"
    assert str(first) in report.problems[0]
    assert link(second) is not None


@pytest.mark.slow
def change_line(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """In the last line of a log, or in a file of one mapping."""
    *before, last = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    content = json.loads(last)
    change(content)
    path.write_text("\n".join([*before, json.dumps(content)]) + "\n")


DAMAGES: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "fewer errors than orders": (records.EVALUATIONS, lambda row: row["brier"]["brier_se"].pop()),
    "no orders": (records.EVALUATIONS, lambda row: row["brier"].update(brier=[])),
    "a step that no database holds": (records.EVALUATIONS, lambda row: row.update(step=2**70)),
    "a number of 400 digits": (records.EVALUATIONS, lambda row: row.update(tokens=10**400)),
    "a time without end": (records.METRICS, lambda row: row.update(seconds=float("inf"))),
    "parameters of 400 digits": (records.RECORD, lambda row: row["parameters"].update(total=10**400)),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_numbers_that_no_run_leaves_behind_keep_no_other_run_back(home: Home, damage: str) -> None:
    damaged, _ = make_study(home)
    name, change = DAMAGES[damage]
    change_line(damaged / name, change)
    report = sync(home)
    assert (report.counts[Outcome.DELIVERED], report.unreadable, report.away) == (1, 1, False)
    assert [str(damaged) in problem for problem in report.problems] == [True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "value"),
    [("model", []), ("model.backbone", 3), ("model.head", "x"), ("train", 3), ("train.train_flops", "x")],
)
def test_a_configuration_of_another_shape_keeps_no_other_run_back(home: Home, where: str, value: object) -> None:
    damaged, _ = make_study(home)
    tree = yaml.safe_load((damaged / records.CONFIG).read_text())
    *path, last = where.split(".")
    node = tree
    for key in path:
        node = node[key]
    node[last] = value
    (damaged / records.CONFIG).write_text(yaml.safe_dump(tree))
    report = sync(home)
    assert (report.counts[Outcome.DELIVERED], report.unreadable) == (1, 1)
    assert [str(damaged) in problem for problem in report.problems] == [True]


@pytest.mark.slow
@pytest.mark.parametrize("content", ["{broken", "[1]"])
@pytest.mark.parametrize("name", ["study.json", "summary.json"])
def test_a_damaged_file_of_a_study_does_not_keep_others_back(home: Home, name: str, content: str) -> None:
    """One problem; the study's runs wait for a launch that they would stand outside of for good."""
    run_dirs = make_study(home)
    other = make_run_folder(home.study("other") / "t0", study="other")
    path = home.study("demo") / name
    path.write_text(content)
    heard: list[Path] = []
    report = sync(home, on_run=lambda run_dir, outcome: heard.append(run_dir))
    assert sorted(heard) == sorted([*run_dirs, other])
    waiting = 2 if name == "study.json" else 0
    assert (report.counts[Outcome.REFUSED], report.counts[Outcome.DELIVERED]) == (waiting, 3 - waiting)
    assert len(report.problems) == 1
    assert f"{path} cannot be read" in report.problems[0]
    assert "bring it back from a copy, then give the same command again" in report.problems[0]
    assert link(other) is not None
    files.write_json(path, {"question": "Does K matter?"})
    assert sync(home).problems == []
    (launch,) = read_launches(home, "demo")
    tracker = open_tracker(None, experiment="demo", home=home)
    assert [look(tracker, run_dir).parent for run_dir in run_dirs] == [launch.run_id] * 2


@pytest.mark.slow
def test_a_launch_that_is_there_needs_no_specification(home: Home) -> None:
    make_study(home, num_runs=1)
    sync(home)
    new = make_run_folder(home.study("demo") / "t9", study="demo", seed=9)
    (home.study("demo") / "study.json").write_text("{broken")
    report = sync(home)
    assert (report.counts[Outcome.DELIVERED], len(report.problems)) == (1, 1)
    (launch,) = read_launches(home, "demo")
    assert look(open_tracker(None, experiment="demo", home=home), new).parent == launch.run_id


def test_a_run_outlives_a_launch_that_cannot_be_made(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    (run_dir,) = make_study(home, num_runs=1)
    (home.study("demo") / "study.json").write_text("[1]")
    tracker = open_tracker(None, experiment="demo", home=home)
    assert tracker.mirror(run_dir, final=True) is Outcome.REFUSED
    assert "a mapping is wanted, found list" in caplog.text


@pytest.mark.slow
def test_a_summary_of_numbers_that_no_float_holds(home: Home) -> None:
    make_study(home, num_runs=1)
    files.write_json(home.study("demo") / "summary.json", {"num_trials": 10**400, "best": 3})
    sync(home)
    (launch,) = read_launches(home, "demo")
    parent = client(open_tracker(None, experiment="demo", home=home)).get_run(launch.run_id)
    assert (parent.info.status, parent.data.metrics) == ("FINISHED", {"study/best": 3.0})


# Commands


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    ui.register(app)
    return app


@pytest.mark.slow
def test_calm_sync_says_how_many(app: typer.Typer, home: Home) -> None:
    make_study(home)
    result = CliRunner().invoke(app, ["sync", "--home", str(home.root)])
    assert result.exit_code == 0
    assert "2 runs: 2 delivered, 0 already complete, 0 failed" in result.output
    result = CliRunner().invoke(app, ["sync", "--home", str(home.root)])
    assert "2 runs: 0 delivered, 2 already complete, 0 failed" in result.output


def test_calm_sync_without_runs(app: typer.Typer, home: Home) -> None:
    assert "no runs under" in CliRunner().invoke(app, ["sync", "--home", str(home.root)]).output


def test_calm_sync_to_a_server_that_is_away(app: typer.Typer, home: Home) -> None:
    make_study(home)
    result = CliRunner().invoke(app, ["sync", "--home", str(home.root), "--tracking-uri", "http://127.0.0.1:1"])
    assert isinstance(result.exception, TrackingError)  # the command line makes it exit code 2


def test_calm_sync_to_nowhere(app: typer.Typer, home: Home) -> None:
    make_study(home)
    result = CliRunner().invoke(app, ["sync", "--home", str(home.root), "--tracking-uri", "none"])
    assert isinstance(result.exception, TrackingError)


def test_calm_sync_when_the_server_goes_away(
    app: typer.Typer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study(home)
    monkeypatch.setattr(MlflowTracker, "mirror", lambda *_, **__: Outcome.AWAY)
    result = CliRunner().invoke(app, ["sync", "--home", str(home.root)])
    assert isinstance(result.exception, TrackingError)
    assert "2 failed" in result.output


def test_calm_sync_of_a_run_that_cannot_be_read(
    app: typer.Typer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.cli.study_report.build_study_report", lambda *_: None)
    first, _ = make_study(home)
    (first / records.METRICS).write_text('{"step": "many"}\n')
    result = CliRunner().invoke(app, ["sync", "--home", str(home.root)])
    assert result.exit_code == 1
    assert "1 delivered, 0 already complete, 1 failed" in result.output


@pytest.mark.slow
def test_calm_sync_with_a_damaged_study_ends_with_1(app: typer.Typer, home: Home) -> None:
    make_study(home, num_runs=1)
    (home.study("demo") / "summary.json").write_text("5")
    result = CliRunner().invoke(app, ["sync", "--home", str(home.root)])
    assert (result.exit_code, "found int" in result.output) == (1, True)


@pytest.mark.slow
def test_a_deleted_experiment_does_not_keep_other_studies_back(home: Home) -> None:
    make_study(home)
    make_run_folder(home.study("other") / "t0", study="other")
    deleted = client(open_tracker(None, experiment="demo", home=home))
    deleted.delete_experiment(deleted.get_experiment_by_name("demo").experiment_id)
    report = sync(home)
    assert (report.counts[Outcome.REFUSED], report.counts[Outcome.DELIVERED], report.away) == (2, 1, False)
    assert "mlflow experiments restore" in report.problems[0]


def test_sync_asks_a_server_that_went_away_no_more(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    make_study(home, num_runs=3)
    asked = []
    monkeypatch.setattr(MlflowTracker, "mirror", lambda _, run_dir, **__: asked.append(run_dir) or Outcome.AWAY)
    report = sync(home)
    assert (len(asked), report.counts[Outcome.AWAY]) == (1, 3)


def test_calm_ui_before_any_run(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["ui", "--home", str(tmp_path / "new")])
    assert isinstance(result.exception, TrackingError)
    assert "run a study" in str(result.exception)


def test_calm_ui_on_a_port_that_is_taken(app: typer.Typer, home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = CliRunner().invoke(app, ["ui", "--home", str(home.root), "--port", str(port)])
    assert isinstance(result.exception, TrackingError)
    assert f"port {port}" in str(result.exception)

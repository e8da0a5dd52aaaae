"""A study's report at its launch: everything is there, nothing is sent twice, nothing fails without a server."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.suites.mlflow_shown import artifacts, client, faulty
from tests.suites.run_folders import make_run_folder
from workbench import files
from workbench.cli import study, study_report
from workbench.errors import OutputError
from workbench.home import Home, open_home
from workbench.tracking import NullTracker, Outcome, open_tracker
from workbench.tracking_mlflow import MlflowTracker
from workbench.tracking_report import StudyReport
from workbench.tracking_sync import sync

FILES = ("report.html", "figures/frontier.png", "figures/frontier.svg", "tables/runs.tex", "data/runs.csv")


@pytest.fixture
def report(tmp_path: Path) -> StudyReport:
    folder = tmp_path / "report"
    for name in (*FILES, "data/runs.parquet"):
        files.write_atomic(folder / name, f"content of {name}")
    rows = [["K4", 2.5], ["baseline", 5.0]]
    return StudyReport(
        folder=folder,
        step=7,
        metrics={"best/brierlm/K4": 2.5, "runs/completed": 7.0},
        question="Does K matter?",
        verdict="K = 4 is *not* decided [yet].",
        tables={"best": (["family", "brierlm"], rows)},
    )


def test_text_that_a_spreadsheet_would_run_is_quoted_in_csv_only(tmp_path: Path) -> None:
    rows = [["=HYPERLINK(1)", -2.5], ["@x", "-0.5"], ["\tx", None]]
    contents = StudyReport(tmp_path, 1, {}, tables={"best": (["+name", "value"], rows)}).contents()
    assert contents["study/best.csv"] == "'+name,value\n'=HYPERLINK(1),-2.5\n'@x,-0.5\n'\tx,\n"
    assert json.loads(str(contents["study/best.json"])) == {"columns": ["+name", "value"], "data": rows}


@pytest.fixture
def tracker(home: Home) -> MlflowTracker:
    tracker = open_tracker(None, experiment="demo", home=home)
    assert isinstance(tracker, MlflowTracker)
    return tracker


@pytest.fixture
def parent(tracker: MlflowTracker) -> str:
    parent = tracker.start_study("demo", {"question": "Does K matter?"})
    assert parent is not None
    return parent


def history(tracker: MlflowTracker, parent: str, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client(tracker).get_metric_history(parent, key)]


def test_everything_is_at_the_launch(tracker: MlflowTracker, parent: str, report: StudyReport) -> None:
    assert tracker.show_report("demo", parent, report) is Outcome.DELIVERED
    wanted = {f"report/{name}" for name in FILES} | {"study/best.csv", "study/best.json", "spec.yaml"}
    assert set(artifacts(client(tracker), parent)) == wanted
    run = client(tracker).get_run(parent)
    assert run.data.metrics == {"best/brierlm/K4": 2.5, "runs/completed": 7.0}
    assert run.data.tags["calm.question"] == "Does K matter?"
    assert run.data.tags["calm.verdict"] == report.verdict
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "study/best.json", "type": "table"}]
    note = run.data.tags["mlflow.note.content"]
    assert r"K = 4 is \*not\* decided \[yet\]." in note
    assert f"![BrierLM against training compute](get-artifact?run_uuid={parent}&path=report%2Ffigures" in note
    assert f"#/experiments/{run.info.experiment_id}/runs?" in note
    experiment = client(tracker).get_experiment(run.info.experiment_id)
    assert {"mlflow.experimentKind", "mlflow.sharedViewState.calm-compute"} <= set(experiment.tags)


def test_delivering_again_sends_nothing(
    tracker: MlflowTracker, parent: str, report: StudyReport, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker.show_report("demo", parent, report)
    again = open_tracker(None, experiment="demo", home=home)
    for method in ("log_batch", "log_artifact", "log_text", "set_tag"):
        monkeypatch.setattr(client(again), method, lambda *_, **__: pytest.fail("sent again"))
    assert again.show_report("demo", parent, report) is Outcome.COMPLETE
    assert history(tracker, parent, "runs/completed") == [(7, 7.0)]


def test_only_what_has_changed_is_sent(
    tracker: MlflowTracker, parent: str, report: StudyReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker.show_report("demo", parent, report)
    files.write_atomic(report.folder / "figures/frontier.png", "another picture")
    sent: list[str] = []
    real = client(tracker).log_artifact

    def log_artifact(run_id: str, path: str, folder: str | None = None) -> None:
        sent.append(Path(path).name)
        real(run_id, path, folder)

    monkeypatch.setattr(client(tracker), "log_artifact", log_artifact)
    later = StudyReport(report.folder, step=8, metrics=report.metrics | {"runs/completed": 8.0})
    assert tracker.show_report("demo", parent, later) is Outcome.DELIVERED
    assert sent == ["frontier.png"]
    assert history(tracker, parent, "runs/completed") == [(7, 7.0), (8, 8.0)]
    assert history(tracker, parent, "best/brierlm/K4") == [(7, 2.5)]
    downloaded = client(tracker).download_artifacts(parent, "report/figures/frontier.png")
    assert Path(downloaded).read_text() == "another picture"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["log_batch", "log_artifact", "log_text", "set_tag"])
def test_an_outage_is_made_good(
    tracker: MlflowTracker, parent: str, report: StudyReport, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    faulty(tracker, monkeypatch, method)
    assert tracker.show_report("demo", parent, report) is Outcome.AWAY
    assert tracker.show_report("demo", parent, report) is Outcome.DELIVERED
    assert {f"report/{name}" for name in FILES} <= set(artifacts(client(tracker), parent))
    assert history(tracker, parent, "runs/completed") == [(7, 7.0)]


def test_a_report_that_is_gone(tracker: MlflowTracker, parent: str, report: StudyReport) -> None:
    (report.folder / "report.html").unlink()
    (report.folder / "report.html").symlink_to("nowhere")
    tracker.show_report("demo", parent, report)  # what is no file is left out
    assert "report/report.html" not in artifacts(client(tracker), parent)


def test_no_tracking_shows_nothing(report: StudyReport) -> None:
    assert NullTracker().show_report("demo", None, report) is Outcome.COMPLETE


# As the commands call it


@pytest.fixture
def built(report: StudyReport, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the studies a report was built for."""
    names: list[str] = []

    def build(home: Home, study: str) -> StudyReport:
        names.append(study)
        return report

    monkeypatch.setattr(study_report, "build_study_report", build)
    return names


def test_deliver_report_finds_the_launch(
    tracker: MlflowTracker, parent: str, home: Home, built: list[str]
) -> None:
    assert study_report.deliver_report(home, "demo") is None
    assert built == ["demo"]
    assert "report/report.html" in artifacts(client(tracker), parent)


def test_without_a_launch_nothing_is_built(home: Home, built: list[str]) -> None:
    assert study_report.deliver_report(home, "demo") is None
    assert study_report.deliver_report(home, "demo", tracking_uri="none") is None
    assert built == []


def test_a_server_that_is_away_is_told_and_fails_nothing(parent: str, home: Home, built: list[str]) -> None:
    note = study_report.deliver_report(home, "demo", tracking_uri="http://127.0.0.1:1")
    assert note is not None
    assert "not shown in MLflow" in note
    assert "127.0.0.1:1" in note


def test_whatever_goes_wrong_is_told(parent: str, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> StudyReport:
        raise ZeroDivisionError("a bug in a report")

    monkeypatch.setattr(study_report, "build_study_report", fails)
    assert "ZeroDivisionError: a bug in a report" in str(study_report.deliver_report(home, "demo"))
    monkeypatch.setattr(study_report, "build_study_report", lambda *_: (_ for _ in ()).throw(OutputError("full")))
    assert "full" in str(study_report.deliver_report(home, "demo"))


def test_sync_delivers_the_report_once(home: Home, report: StudyReport) -> None:
    files.write_json(home.study("demo") / "study.json", {"name": "demo"})
    make_run_folder(home.study("demo") / "t0", study="demo")
    asked: list[str] = []

    def build(study: str) -> StudyReport:
        asked.append(study)
        return report

    assert str(sync(home, build_report=build)) == "1 delivered, 0 already complete, 0 failed, 1 report delivered"
    assert str(sync(home, build_report=build)) == "0 delivered, 1 already complete, 0 failed"
    assert asked == ["demo"]


@pytest.mark.parametrize(
    ("state", "options", "delivered"),
    [
        ({}, [], True),
        ({"interrupted": True}, [], False),
        ({"already_finished": True}, [], False),
        ({}, ["--tracking-uri", "none"], False),
    ],
)
def test_calm_study_run_delivers_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, bool], options: list[str], delivered: bool
) -> None:
    home = open_home(tmp_path / "runs")
    launch = SimpleNamespace(home=home, name="demo")
    shown = SimpleNamespace(in_vain=False)
    usual = {"launch": launch, "interrupted": False, "already_finished": False, "state": shown}
    result = SimpleNamespace(**(usual | state))
    asked: list[str] = []

    def deliver(home: Home, name: str, **_: Any) -> str:
        asked.append(name)
        return "the server is away"

    monkeypatch.setattr("studies.launch.run", lambda *_: result)
    monkeypatch.setattr(study, "_print_result", lambda *_: None)
    monkeypatch.setattr(study_report, "deliver_report", deliver)
    done = CliRunner().invoke(study.study_app, ["run", "joint", "--home", str(home.root), *options])
    assert done.exit_code == (130 if state.get("interrupted") else 0), done.output
    assert asked == (["demo"] if delivered else [])
    assert ("the server is away" in done.output) == delivered

"""Without a server's name runs go to the one that they were begun with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.suites.mlflow_shown import look
from tests.suites.run_folders import make_run_folder
from workbench import files, tracking_targets
from workbench.cli import ui
from workbench.errors import TrackingError
from workbench.home import Home
from workbench.tracking import Outcome, open_tracker
from workbench.tracking_home import own_uri
from workbench.tracking_launches import read_launches
from workbench.tracking_schema import Cursor, read_cursor, write_cursor
from workbench.tracking_sync import deliver_left, sync

AWAY = "http://127.0.0.1:9"


def begin(home: Home, study: str, uri: str | None) -> Path:
    files.write_json(home.study(study) / "study.json", {"name": study, "tracking_uri": uri})
    return make_run_folder(home.study(study) / "t0", study=study)


def begin_alone(home: Home, name: str, uri: str) -> Path:
    run_dir = make_run_folder(home.single_runs() / name)
    write_cursor(run_dir, Cursor(tracking_uri=uri, token=name))
    return run_dir


@pytest.fixture
def other(tracking_database: Path, tmp_path: Path) -> str:
    """Another database than the home's."""
    path = tmp_path / "elsewhere" / "other.db"
    path.parent.mkdir()
    shutil.copy(tracking_database, path)
    return f"sqlite:///{path}"


@pytest.mark.slow
def test_each_study_goes_where_it_was_begun(home: Home, other: str) -> None:
    there, here = begin(home, "there", other), begin(home, "here", None)
    report = sync(home)
    assert (report.counts[Outcome.DELIVERED], set(report.servers)) == (2, {other, own_uri(home)})
    assert look(open_tracker(other, experiment="there", home=home), there).parent
    assert look(open_tracker(None, experiment="here", home=home), here).parent
    assert sync(home).counts[Outcome.COMPLETE] == 2
    assert sync(home, home.mlflow_uri).counts[Outcome.DELIVERED] == 1  # asked for, to another one as well
    assert tracking_targets.of_study(home, "there") == other
    assert sync(home).failed == 0
    assert look(open_tracker(other, experiment="there", home=home), there).parent


def test_a_server_that_is_away_is_no_reason_to_deliver_elsewhere(home: Home) -> None:
    begin(home, "there", AWAY)
    with pytest.raises(TrackingError, match=f"{AWAY} does not answer"):
        sync(home)
    assert read_launches(home, "there") == []


@pytest.mark.slow
def test_it_keeps_no_other_server_s_runs_back(home: Home, other: str) -> None:
    begin(home, "a", AWAY)
    begin(home, "b", AWAY)
    begin(home, "c", other)
    app = typer.Typer()
    app.callback()(lambda: None)
    ui.register(app)
    said = CliRunner().invoke(app, ["sync", "--home", str(home.root)])
    assert "3 runs: 1 delivered, 0 already complete, 2 failed" in said.output
    assert said.output.count(f"{AWAY} does not answer") == 1
    assert f"delivered to {other}\n" in said.output
    assert isinstance(said.exception, TrackingError)
    assert str(said.exception).startswith(f"{AWAY} did not answer")


def test_runs_outside_studies(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    run_dir = begin_alone(home, "r", AWAY)
    assert tracking_targets.of_run(home, run_dir) == AWAY
    assert deliver_left(home, None) is None, "it waits for another server"
    cursor = read_cursor(run_dir)
    assert cursor is not None
    assert cursor.tracking_uri == AWAY
    copied = begin_alone(home, "copied", "sqlite:////home/of/another/mlflow.db")
    assert tracking_targets.of_run(home, copied) == own_uri(home)
    assert tracking_targets.of_run(home, make_run_folder(home.single_runs() / "new")) == own_uri(home)


def test_what_came_to_the_home_s_own_server_goes_to_its_database(home: Home) -> None:
    run_dir = begin(home, "demo", None)
    tracker = open_tracker(None, experiment="demo", home=home)
    tracker.start_study("demo", {"name": "demo"})
    tracker.mirror(run_dir, final=True)
    begin(home, "demo", AWAY)  # as through calm ui, which has ended
    assert tracking_targets.of_study(home, "demo") == AWAY
    rows = [row.model_copy(update={"tracking_uri": AWAY}) for row in read_launches(home, "demo")]
    files.write_json(home.study("demo") / "mlflow.json", [row.model_dump() for row in rows])
    assert tracking_targets.of_study(home, "demo") == own_uri(home)


@pytest.mark.parametrize("stored", [None, "none", 5])
def test_a_study_without_a_server_is_the_home_s(home: Home, stored: object) -> None:
    files.write_json(home.study("demo") / "study.json", {"tracking_uri": stored})
    assert tracking_targets.of_study(home, "demo") == own_uri(home)


def test_of_a_damaged_study_file_its_launches_are_asked(home: Home) -> None:
    begin(home, "demo", None)
    (home.study("demo") / "study.json").write_text("[")
    assert tracking_targets.of_study(home, "demo") == own_uri(home)
    row = {"experiment_id": "1", "run_id": "r", "pid": 1, "host": "h", "started": 0.0}
    files.write_json(home.study("demo") / "mlflow.json", [{"tracking_uri": AWAY, **row}])
    assert tracking_targets.of_study(home, "demo") == AWAY


def test_a_password_comes_from_the_environment(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(home, "demo", "http://me:***@127.0.0.1:9")
    monkeypatch.delenv("CALM_TRACKING_URI", raising=False)
    with pytest.raises(TrackingError, match=r"http://me:\*\*\*@127\.0\.0\.1:9, whose password is not stored"):
        sync(home)
    begin(home, "here", None)
    report = sync(home)
    assert (report.counts[Outcome.DELIVERED], report.counts[Outcome.REFUSED], report.away) == (1, 1, False)
    assert ["whose password is not stored" in problem for problem in report.problems] == [True]
    monkeypatch.setenv("CALM_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    (problem,) = sync(home).problems
    assert "does not answer" in problem
    assert "secret" not in problem

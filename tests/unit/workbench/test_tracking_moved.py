"""Tracking: a home that was moved or copied, and a server with two addresses, show every run once."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.suites.fake_mlflow import MemoryClient
from tests.suites.mlflow_shown import artifacts, client, look
from tests.suites.run_folders import make_run_folder
from tests.suites.tracker_suite import set_record
from workbench import files, tracking_database, tracking_server
from workbench.errors import TrackingError
from workbench.home import Home, open_home
from workbench.tracking import Outcome, link, open_tracker
from workbench.tracking_home import OWN, bring_artifacts_along, own_uri
from workbench.tracking_launches import read_launches
from workbench.tracking_mlflow import MlflowTracker
from workbench.tracking_schema import Cursor, read_cursor, write_cursor
from workbench.tracking_sync import deliver_left, sync

SPEC = {"name": "demo", "question": "Does K matter?"}


@pytest.fixture
def filled(home: Home) -> Home:
    """Two runs of a study and a single one, delivered."""
    files.write_json(home.study("demo") / "study.json", SPEC)
    for number in range(2):
        make_run_folder(home.study("demo") / f"t{number}", study="demo", seed=number, plots=False)
    make_run_folder(home.single_runs() / "s", plots=False)
    sync(home)
    return home


def as_of_earlier_versions(home: Home) -> None:
    """Which stored the database's path."""
    for path in (*home.root.glob("*/*/mlflow.json"), *home.root.glob("*/mlflow.json")):
        path.write_text(path.read_text().replace(f'"{OWN}"', f'"{home.mlflow_uri}"'))
    assert OWN not in {
        cursor["tracking_uri"] for cursor in map(files.read_json, home.root.glob("*/*/mlflow.json"))
    }


def move(home: Home, name: str = "moved") -> Home:
    return open_home(shutil.move(home.root, home.root.with_name(name)))


def shown(home: Home) -> dict[str, list[str]]:
    """Places of the artifacts of all runs, by experiment."""
    with contextlib.closing(sqlite3.connect(home.root / "mlflow.db")) as connection:
        rows = connection.execute("SELECT e.name, artifact_uri FROM runs JOIN experiments e USING (experiment_id)")
        found: dict[str, list[str]] = {}
        for name, place in rows:
            found.setdefault(name, []).append(place)
    return found


def check_moved(home: Home, old: Path) -> None:
    """Every run once; what was sent is found, and what is sent now goes to the new place."""
    places = shown(home)
    assert {name: len(runs) for name, runs in places.items()} == {"demo": 3, "single": 1}
    assert all(place.startswith(f"{home.artifacts.as_uri()}/{name}/") for name in places for place in places[name])
    run_dir = home.single_runs() / "s"
    tracker = open_tracker(None, home=home)
    assert "config.yaml" in look(tracker, run_dir).artifacts
    (run_dir / "plots").mkdir()
    (run_dir / "plots" / "late.txt").write_text("later")
    set_record(run_dir, reason="looked at again")
    assert tracker.mirror(run_dir, final=True) is Outcome.DELIVERED
    assert "plots/late.txt" in look(tracker, run_dir).artifacts
    assert len(list(home.artifacts.rglob("late.txt"))) == 1
    assert not (old / "mlartifacts").exists()
    (launch,) = read_launches(home, "demo")
    assert "spec.yaml" in artifacts(client(tracker), launch.run_id)
    assert launch.tracking_uri == own_uri(home)


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [False, True])
def test_a_home_that_was_moved(filled: Home, caplog: pytest.LogCaptureFixture, *, earlier: bool) -> None:
    if earlier:
        as_of_earlier_versions(filled)
    moved = move(filled)
    assert str(sync(moved)) == "0 delivered, 3 already complete, 0 failed"
    messages = [record.getMessage() for record in caplog.records if record.name == "workbench.tracking"]
    (told,) = [message for message in messages if str(filled.root.parent) in message]  # not other tests' threads'
    assert str(filled.artifacts) in told
    assert str(moved.artifacts) in told
    assert not filled.root.exists()
    assert {files.read_json(path)["tracking_uri"] for path in moved.root.glob("*/*/mlflow.json")} == {OWN}
    assert deliver_left(moved, None, "demo") is None
    check_moved(moved, filled.root)
    assert str(sync(moved)) == "0 delivered, 3 already complete, 0 failed"


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [False, True])
def test_a_home_that_was_copied_leaves_the_first_alone(filled: Home, *, earlier: bool) -> None:
    if earlier:
        as_of_earlier_versions(filled)
    before = shown(filled)
    copy = open_home(shutil.copytree(filled.root, filled.root.with_name("copy")))
    assert str(sync(copy)) == "0 delivered, 3 already complete, 0 failed"
    assert shown(filled) == before
    shutil.rmtree(filled.artifacts)
    check_moved(copy, filled.root)
    assert str(sync(filled)) == "0 delivered, 3 already complete, 0 failed"


@pytest.mark.slow
def test_a_run_that_came_from_another_home_is_shown_in_both(filled: Home, tmp_path: Path) -> None:
    other = open_home(tmp_path / "other")
    shutil.copy(filled.root / "mlflow.db", other.root / "mlflow.db")
    with contextlib.closing(sqlite3.connect(other.root / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE runs SET run_uuid = 'x' || substr(run_uuid, 2)")
    shutil.copytree(filled.single_runs(), other.single_runs())
    assert str(sync(other)) == "1 delivered, 0 already complete, 0 failed"


def test_registered_models_are_found_after_a_move(home: Home) -> None:
    first = client(open_tracker(None, home=home))
    made = first.create_logged_model(first.get_experiment_by_name("single").experiment_id, name="m")
    first.create_registered_model("calm-x")
    first.create_model_version("calm-x", source=made.artifact_location)
    elsewhere = first.create_experiment("mine", artifact_location="file:///chosen/by/me")
    moved = move(home)
    assert bring_artifacts_along(moved)
    assert not bring_artifacts_along(moved)
    then = client(open_tracker(None, home=moved))
    now = f"{moved.artifacts.as_uri()}/single/models/{made.model_id}/artifacts"
    assert then.get_logged_model(made.model_id).artifact_location == now
    assert then.get_model_version("calm-x", "1").source == now
    assert then.get_model_version_download_uri("calm-x", "1") == now
    assert then.get_experiment(elsewhere).artifact_location == "file:///chosen/by/me"


@pytest.mark.slow
def test_what_came_to_the_homes_server_is_found_without_it(home: Home) -> None:
    first = client(open_tracker(None, home=home))
    number = first.create_experiment("demo", artifact_location="file:///to/be/said")
    run = first.create_run(number).info.run_id
    with contextlib.closing(sqlite3.connect(home.root / "mlflow.db")) as connection, connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
            (f"mlflow-artifacts:/{number}", number),
        )
        connection.execute("UPDATE runs SET artifact_uri = ?", (f"mlflow-artifacts:/{number}/{run}/artifacts",))
    with pytest.raises(TrackingError, match=r"'demo' at .* was made by way of a tracking server, which alone"):
        open_tracker(None, experiment="demo", home=home)  # nothing came: another server may have it
    place = home.artifacts / number / run / "artifacts"
    place.mkdir(parents=True)
    (place / "report.txt").write_text("sent")
    tracker = open_tracker(None, experiment="demo", home=home)
    assert artifacts(client(tracker), run) == ["report.txt"]
    run_dir = make_run_folder(home.single_runs() / "r")
    assert tracker.mirror(run_dir, final=True) is Outcome.DELIVERED
    assert "config.yaml" in look(tracker, run_dir).artifacts


def served_experiment(home: Home, name: str) -> tuple[str, str]:
    """Number of an experiment that came to the home's database by way of a server, and of a run in it."""
    first = client(open_tracker(None, home=home))
    number = first.create_experiment(name, artifact_location="file:///to/be/said")
    run = first.create_run(number).info.run_id
    with contextlib.closing(sqlite3.connect(home.root / "mlflow.db")) as connection, connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
            (f"mlflow-artifacts:/{number}", number),
        )
        place = f"mlflow-artifacts:/{number}/{run}/artifacts"
        connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (place, run))
    return number, run


@pytest.mark.slow
@pytest.mark.parametrize("sent", [{}, {"config.yaml": "0" * 64}])
def test_a_server_that_went_away_before_any_artifact_locks_nobody_out(home: Home, sent: dict[str, str]) -> None:
    number, run = served_experiment(home, "demo")
    run_dir = make_run_folder(home.single_runs() / "r")
    server = "http://127.0.0.1:5000"
    write_cursor(run_dir, Cursor(tracking_uri=server, token="t", run_id=run, artifacts=sent))
    if sent:  # to another server's folders, for it is not in the home's
        with pytest.raises(TrackingError, match="made by way of a tracking server, which alone"):
            open_tracker(None, experiment="demo", home=home)
        return
    then = client(open_tracker(None, experiment="demo", home=home))
    assert then.get_experiment(number).artifact_location == f"{home.artifacts.as_uri()}/{number}"
    assert then.get_run(run).info.artifact_uri == f"{home.artifacts.as_uri()}/{number}/{run}/artifacts"


@pytest.mark.slow
def test_what_has_no_run_is_left_as_it_is(home: Home) -> None:
    """Whose it is nobody knows: MLflow's own experiment is one of them, and others come to other servers."""
    client(open_tracker(None, home=home))
    with contextlib.closing(sqlite3.connect(home.root / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/' || experiment_id")
    assert not bring_artifacts_along(home)


@pytest.mark.slow
def test_a_launch_with_a_report_counts_as_sent(home: Home) -> None:
    _, run = served_experiment(home, "demo")
    home.study("demo").mkdir()
    files.write_json(home.study("demo") / "mlflow.json", [{"run_id": run}])
    (home.study("demo") / "mlflow-report.json").write_text("{}")
    assert not bring_artifacts_along(home)
    (home.study("demo") / "mlflow-report.json").unlink()
    assert bring_artifacts_along(home)
    assert not bring_artifacts_along(home)


@pytest.mark.slow
def test_of_several_served_experiments_only_the_homes_own_are_taken(home: Home) -> None:
    ours, run = served_experiment(home, "ours")
    other, their_run = served_experiment(home, "theirs")
    (home.artifacts / ours / run / "artifacts").mkdir(parents=True)
    assert bring_artifacts_along(home)
    then = client(open_tracker(None, home=home))
    assert then.get_run(run).info.artifact_uri.startswith("file://")
    assert then.get_experiment(other).artifact_location == f"mlflow-artifacts:/{other}"
    assert then.get_run(their_run).info.artifact_uri == f"mlflow-artifacts:/{other}/{their_run}/artifacts"


def test_places_are_corrected_all_or_none(home: Home, tmp_path: Path) -> None:
    open_tracker(None, experiment="a study's name", home=home).mirror(make_run_folder(home.single_runs() / "r"))
    before = shown(home)
    moved = move(home)
    with contextlib.closing(sqlite3.connect(moved.root / "mlflow.db")) as connection, connection:
        connection.execute("CREATE TRIGGER no BEFORE UPDATE ON runs BEGIN SELECT RAISE(ABORT, 'refused'); END")
    with pytest.raises(TrackingError, match=r"moved/mlflow.db cannot be used \(refused\)"):
        open_tracker(None, home=moved)
    assert shown(moved) == before
    with contextlib.closing(sqlite3.connect(moved.root / "mlflow.db")) as connection, connection:
        connection.execute("DROP TRIGGER no")
        (old,) = connection.execute("SELECT artifact_location FROM experiments WHERE name LIKE 'a%'").fetchone()
    assert old == f"{home.artifacts.as_uri()}/a%20study%27s%20name"
    open_tracker(None, home=moved)
    assert shown(moved) != before
    assert not home.root.exists()


def test_the_pages_of_a_home_that_was_moved(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    open_tracker(None, home=home)
    moved = move(home)
    monkeypatch.setattr(tracking_server, "_command", lambda *_: [sys.executable, "-c", ""])
    with pytest.raises(TrackingError, match="did not start"), tracking_server.serve(moved, port=0):
        pass
    assert not bring_artifacts_along(moved)


def test_another_database_is_not_taken_for_the_homes(home: Home, tmp_path: Path) -> None:
    run_dir = make_run_folder(home.single_runs() / "r")
    write_cursor(run_dir, Cursor(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", token="t"))
    assert read_cursor(run_dir).tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"  # type: ignore[union-attr]
    assert files.read_json(run_dir / "mlflow.json")["tracking_uri"] != OWN


@pytest.mark.slow
def test_the_homes_database_by_another_path(home: Home, tmp_path: Path) -> None:
    run_dir = make_run_folder(home.single_runs() / "r")
    (tmp_path / "way").symlink_to(home.root)
    assert open_tracker(f"sqlite:///{tmp_path}/way/mlflow.db", home=home).deliver(run_dir)
    assert files.read_json(run_dir / "mlflow.json")["tracking_uri"] == OWN
    assert link(run_dir).tracking_uri == home.mlflow_uri  # type: ignore[union-attr]


# Servers


def connected(home: Home, address: str, server: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> MlflowTracker:
    monkeypatch.setattr(tracking_database, "reach", lambda *_: None)
    tracker: Any = MlflowTracker(address, "demo", home)
    tracker._client, tracker._experiment_id = server, "0"
    return tracker  # type: ignore[no-any-return]


def test_a_server_by_two_addresses_has_every_run_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_json(home.study("demo") / "study.json", SPEC)
    run_dir = make_run_folder(home.study("demo") / "t0", study="demo", plots=False)
    server = MemoryClient()
    for address in ("http://localhost:5000", "http://127.0.0.1:5000", "http://localhost:5000"):
        tracker = connected(home, address, server, monkeypatch)
        parent = tracker.start_study("demo", SPEC)
        tracker.mirror(run_dir, parent=parent, final=True)
        assert link(run_dir).tracking_uri == address  # type: ignore[union-attr]
        assert len(server.runs) == 2
    points = [(metric.key, metric.step) for run in server.active() for metric in run.points]
    assert len(points) == len(set(points)) > 50
    assert len(read_launches(home, "demo")) == 1


def test_a_run_delivered_to_two_servers_in_turn_is_once_on_each(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make_run_folder(home.single_runs() / "r", plots=False)
    servers = {address: MemoryClient() for address in ("http://one:5000", "http://two:5000")}
    for address in [*servers, *servers]:
        outcome = connected(home, address, servers[address], monkeypatch).mirror(run_dir, final=True)
        assert outcome in (Outcome.DELIVERED, Outcome.COMPLETE)
    for server in servers.values():
        (run,) = server.runs.values()
        points = [(metric.key, metric.step) for metric in run.points]
        assert len(points) == len(set(points)) > 50
        assert run.info.status == "FINISHED"

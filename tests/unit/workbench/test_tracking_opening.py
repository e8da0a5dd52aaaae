"""Tracking: which servers and databases can be used, and what is said of the others."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.suites.fake_mlflow import MemoryClient
from tests.suites.mlflow_shown import client
from tests.suites.run_folders import make_run_folder
from workbench import tracking_database, tracking_experiment, tracking_schema
from workbench.errors import TrackingError
from workbench.home import Home, open_home
from workbench.tracking import Tracker, link, open_tracker

# Opening


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("runs/mlruns", "no longer supports its file store"),
        ("file:///tmp/mlruns", "no longer supports its file store"),
        ("ftp://somewhere/x", "not supported; wanted: http"),
        ("sqlite:///", "names no file"),
        ("http://", "names no host"),
        ("http://127.0.0.1:99999", "does not answer"),
        ("postgresql://me:secret@127.0.0.1:1/db", r"me:\*\*\*@127.*refused"),
    ],
)
def test_unusable_uris(home: Home, uri: str, message: str) -> None:
    with pytest.raises(TrackingError, match=message) as caught:
        open_tracker(uri, home=home)
    assert "secret" not in str(caught.value)
    assert "none" in str(caught.value) or "wanted" in str(caught.value)


def test_a_server_that_is_not_there(home: Home) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # calm ui refuses a home without runs
    start = rf"start one \(calm ui --port {port} where the home has runs, else mlflow server --port {port}\)"
    with pytest.raises(TrackingError, match=rf"127.0.0.1:{port}.*refused.*{start}.*none"):
        open_tracker(f"http://127.0.0.1:{port}", home=home)


def test_a_server_that_hangs(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_database, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TrackingError, match="no answer in time"):
        open_tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", home=home)


def test_a_file_that_is_no_database(home: Home) -> None:
    (home.root / "mlflow.db").write_text("not a database")
    with pytest.raises(TrackingError, match=r"cannot be used.*calm sync"):
        open_tracker(None, home=home)


def test_an_experiment_that_was_deleted(home: Home) -> None:
    tracker = open_tracker(None, experiment="demo", home=home)
    client(tracker).delete_experiment(client(tracker).get_experiment_by_name("demo").experiment_id)
    with pytest.raises(TrackingError, match=r"'demo'.*was deleted.*mlflow experiments restore"):
        open_tracker(None, experiment="demo", home=home)


@pytest.mark.slow
def test_an_experiment_made_by_another_process_meanwhile(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    first = client(open_tracker(None, experiment="demo", home=home))
    wanted = first.get_experiment_by_name("demo").experiment_id
    real, calls = mlflow.MlflowClient.get_experiment_by_name, []

    def blind_at_first(self: Any, name: str) -> Any:
        calls.append(name)
        return None if len(calls) == 1 else real(self, name)

    monkeypatch.setattr(mlflow.MlflowClient, "get_experiment_by_name", blind_at_first)
    run_dir = make_run_folder(home.single_runs() / "r")
    tracker = open_tracker(None, experiment="demo", home=home)
    tracker.deliver(run_dir)
    assert link(run_dir).experiment_id == wanted  # type: ignore[union-attr]
    assert len(calls) == 3  # and again before a run is made in it


def test_the_database_is_in_wal_mode_and_artifacts_lie_in_the_home(home: Home, tracker: Tracker) -> None:
    import sqlite3

    with sqlite3.connect(home.root / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    location = client(tracker).get_experiment_by_name("single").artifact_location
    assert location == f"{home.artifacts.as_uri()}/single"


@pytest.mark.slow
def test_two_threads_of_a_process_make_two_databases(tmp_path: Path) -> None:
    """Alembic keeps what it works on in global names."""
    homes = [open_home(tmp_path / name) for name in ("one", "two", "three")]
    together = threading.Barrier(len(homes))

    def opened(home: Home) -> str:
        together.wait(60)
        return client(open_tracker(None, experiment="demo", home=home)).get_experiment_by_name("demo").name

    with ThreadPoolExecutor(len(homes)) as threads:
        assert list(threads.map(opened, homes)) == ["demo"] * len(homes)


def test_who_hangs_while_it_makes_tables_keeps_others_waiting_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_experiment, "MIGRATION_SECONDS", 0.05)
    monkeypatch.setattr(tracking_experiment, "_migrating", threading.Lock())  # an earlier test's may be held yet
    with tracking_experiment.one_migration():
        with tracking_experiment.one_migration():
            assert tracking_experiment._migrating.locked()
        assert tracking_experiment._migrating.locked(), "released by its holder alone"
    assert not tracking_experiment._migrating.locked()


@pytest.mark.parametrize(("said", "attempts"), [('relation "experiments" already exists', 3), ("disk full", 1)])
def test_tables_that_another_host_makes_are_waited_for(
    home: Home, monkeypatch: pytest.MonkeyPatch, said: str, attempts: int
) -> None:
    made = []

    class Client(MemoryClient):
        def __init__(self, tracking_uri: str) -> None:
            made.append(tracking_uri)
            if len(made) < 3:
                raise RuntimeError(said)
            super().__init__()

    monkeypatch.setattr(tracking_experiment, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr("mlflow.MlflowClient", Client)
    uri = "postgresql://me@127.0.0.1/db"
    try:
        client, number = tracking_experiment.connect(uri, "demo", home)
    except RuntimeError:
        assert attempts == 1
    else:
        assert client.get_experiment_by_name("demo").experiment_id == number
    assert made == [uri] * attempts


def test_passwords_are_not_stored() -> None:
    assert tracking_schema.without_password("http://me:secret@host:1/x") == "http://me:***@host:1/x"
    assert tracking_schema.without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


@pytest.mark.slow
def test_importing_the_contract_does_not_import_mlflow() -> None:
    script = (
        "import sys, workbench.tracking, workbench.tracking_sync, workbench.cli.ui; print('mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

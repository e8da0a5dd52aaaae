"""Tracking: a database in a file, which this machine makes and opens itself, however long that takes."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest

from tests.suites.processes import apart
from workbench import processes, tracking_database, tracking_mlflow
from workbench.errors import TrackingError
from workbench.home import Home, open_home
from workbench.tracking import open_tracker
from workbench.tracking_database import ServerAway, cannot_use, prepare_sqlite


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """MLflow's migration, which ends (in an error) when this is set."""
    go_on = threading.Event()

    def migrate(*_: object) -> None:
        go_on.wait(20)
        raise OSError("it was given up")

    monkeypatch.setattr(tracking_mlflow, "migrate", migrate)
    yield go_on
    go_on.set()


def test_a_file_has_not_the_limit_of_a_server(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_database, "OPEN_SECONDS", 0.0)
    assert open_tracker(None, home=home).uri == home.mlflow_uri
    assert tracking_database.seconds_to_open("http://127.0.0.1:5000") == 0.0


def test_what_is_said_of_a_file_that_takes_too_long(
    tmp_path: Path, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_database, "FILE_SECONDS", 0.05)
    home = open_home(tmp_path)
    with pytest.raises(ServerAway, match=r"mlflow.db cannot be opened.*same command again.*none") as caught:
        open_tracker(None, home=home)
    assert "start it" not in str(caught.value)
    assert "server" not in str(caught.value)
    assert open_tracker(None, home=home, later=True).uri == home.mlflow_uri  # what was begun goes on


def test_it_is_told_that_a_file_is_still_being_opened(
    tmp_path: Path, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())
            slow.set()

    monkeypatch.setattr(tracking_database, "SLOW_SECONDS", 0.0)
    handler = Listening()
    tracking_database.logger.addHandler(handler)
    try:
        with pytest.raises(TrackingError, match="it was given up"):
            open_tracker(None, home=open_home(tmp_path))
    finally:
        tracking_database.logger.removeHandler(handler)
    assert told == [f"tracking: {tmp_path / 'mlflow.db'} is still being made or opened"]


def test_ctrl_c_is_heard_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def migrate(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        go_on.wait(20)
        raise OSError("it was given up")

    monkeypatch.setattr(tracking_mlflow, "migrate", migrate)
    with pytest.raises(KeyboardInterrupt):
        open_tracker(None, home=open_home(tmp_path))
    assert not go_on.is_set()
    go_on.set()


def test_who_has_locked_the_file_is_named(tmp_path: Path) -> None:
    """By another process: SQLite's own locks do not hold against oneself."""
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    said = apart(_who, path)
    connection.close()
    assert f"process {os.getpid()} (" in said
    assert processes.holders(path) == []


def _who(path: Path) -> None:
    assert processes.holders(path) == [], str(cannot_use(f"sqlite:///{path}", OSError("database is locked")))


def test_who_makes_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with filelock.FileLock(str(tmp_path / ".mlflow.db.lock")):
        said = apart(_cannot_open, path)
    assert f"mlflow.db is locked by process {os.getpid()} (" in said
    assert "start it" not in said


def _cannot_open(path: Path) -> None:
    raise cannot_use(f"sqlite:///{path}", TimeoutError("timed out"))


def test_a_locked_file_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mlflow.db"
    path.touch()

    def locked(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(tracking_database.sqlite3, "connect", locked)
    with pytest.raises(ServerAway, match=r"locked by another process.*same command again.*none.*calm sync"):
        prepare_sqlite(f"sqlite:///{path}", lambda _: None)


def test_another_error_of_a_file_is_said_as_it_is(tmp_path: Path) -> None:
    error = cannot_use(f"sqlite:///{tmp_path / 'mlflow.db'}", OSError("disk I/O error"))
    assert "cannot be used (disk I/O error); choose another" in str(error)
    assert isinstance(error, ServerAway)

"""Patience with a database that is locked, away or full."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from studies import database
from studies.claim import claim
from studies.database import database_of, patiently
from tests.suites.study_launch import create, tiny_spec

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")


def outage(words: str = "database is locked") -> sqlalchemy.exc.OperationalError:
    return sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception(words))


def wrapped(words: str) -> optuna.exceptions.StorageInternalError:
    """As Optuna reports it."""
    error = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = outage(words)
    return error


class Failing:
    """Fails ``times`` times."""

    def __init__(self, times: int, error: Exception) -> None:
        self.times, self.error, self.calls = times, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "done"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(database, "LONGEST_PAUSE", 0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "error", [outage(), wrapped("database is locked"), wrapped("server closed the connection")]
)
def test_an_outage_is_waited_for(error: Exception) -> None:
    action = Failing(5, error)
    assert patiently(action) == "done"
    assert action.calls == 6


@pytest.mark.usefixtures("quick")
def test_within_bounds(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 0.1)
    began = time.monotonic()
    with pytest.raises(sqlalchemy.exc.OperationalError):
        patiently(Failing(10**6, outage()))
    assert time.monotonic() - began < 2
    assert caplog.text.count("the storage does not answer") == 1  # not at every attempt


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("words", ["database or disk is full", "attempt to write a readonly database"])
def test_what_waiting_cannot_mend_is_told_at_once(words: str) -> None:
    action = Failing(1, wrapped(words))
    with pytest.raises(optuna.exceptions.StorageInternalError) as raised:
        patiently(action)
    assert action.calls == 1
    assert words in database.first_line(raised.value)


@pytest.mark.usefixtures("quick")
def test_our_own_mistakes_are_not_repeated() -> None:
    for error in (ValueError("wrong"), wrapped("no such table: trials")):
        action = Failing(1, error)
        with pytest.raises(type(error)):
            patiently(action)
        assert action.calls == 1


@pytest.mark.usefixtures("quick")
def test_calls_within_calls_do_not_multiply_the_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Failing(3, outage())
    assert patiently(lambda: patiently(inner)) == "done"
    assert inner.calls == 4


def test_a_lock_of_another_program_delays_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than SQLite itself waits."""
    monkeypatch.setattr(database, "SQLITE_TIMEOUT", 0.05)
    launch = create(tmp_path, tiny_spec())
    other = sqlite3.connect(tmp_path / "optuna.db", check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(1.0, other.rollback).start()
    began = time.monotonic()
    trial = launch.search.ask()
    trial.suggest_categorical("model.chunk_size", [1, 2, 4])
    trial.set_user_attr("runs", ["t000-s0"])
    launch.search.tell(trial, 1.0)
    assert time.monotonic() - began > 0.9
    (stored,) = launch.search.get_trials()
    assert (stored.value, stored.user_attrs) == (1.0, {"runs": ["t000-s0"]})
    other.close()


def test_a_creation_whose_answer_got_lost_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be there: an orphan is found by the next recovery, a second one would be a trial too many."""
    launch = create(tmp_path, tiny_spec())
    backend = database_of(launch.search)
    calls = []
    real = optuna.storages.RDBStorage._get_prepared_new_trial

    def answer_lost(self: Any, *arguments: Any) -> Any:
        calls.append(real(self, *arguments))
        raise sqlalchemy.exc.OperationalError("INSERT", {}, Exception("server closed the connection"))

    monkeypatch.setattr(optuna.storages.RDBStorage, "_get_prepared_new_trial", answer_lost)
    monkeypatch.setattr("optuna.storages._rdb.storage.time.sleep", lambda _: None)
    with pytest.raises(optuna.exceptions.StorageInternalError):
        backend.create_new_trial(launch.search._study_id)
    assert len(calls) == 5  # Optuna's own attempts, each rolled back; none of ours


class TestClaim:
    def test_one_at_a_time(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/optuna.db"
        with claim(url, "a") as held:
            assert not claim(url, "a")._lock.attempt()
            with claim(url, "b"):  # another launch's decisions do not wait
                pass
            held.release()
            with claim(url, "a"):
                pass

    def test_it_waits(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/optuna.db"
        order: list[str] = []
        held = claim(url, "a")

        def wait() -> None:
            with claim(url, "a"):
                order.append("second")

        with held:
            thread = threading.Thread(target=wait)
            thread.start()
            time.sleep(0.3)
            order.append("first")
        thread.join(10)
        assert order == ["first", "second"]

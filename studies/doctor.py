"""``calm doctor``: the database of studies."""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages._rdb import models

from studies import database
from studies.database import first_line, masked
from workbench.checks import Check
from workbench.doctor_services import clock_check
from workbench.errors import StudyError
from workbench.home import Home

SLOW_ANSWER = 0.2
"""Seconds of a round trip; a trial makes some thirty."""
ANSWER_SECONDS = 4
"""To connect to a server; for a lock of SQLite."""
TABLES = ("studies", "trials", "trial_heartbeats", "version_info")


def storage_checks(url: str | None, home: Home) -> Iterator[Check]:
    """Whether studies can use the database ``url``, by default the home's own. Nothing is written there: what is
    tried out is rolled back."""
    try:
        url = database.storage_url(url, home)
    except StudyError as error:
        yield Check("database", "address", "failed", str(error))
        return
    parsed = sqlalchemy.make_url(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    if sqlite and not Path(str(parsed.database)).exists():
        yield Check("database", "studies", "ok", f"{parsed.database} is made with the first study")
        return
    engine = None
    try:
        limit = {"timeout" if sqlite else "connect_timeout": ANSWER_SECONDS}
        known = sqlite or parsed.get_backend_name() in ("postgresql", "mysql")
        engine = sqlalchemy.create_engine(url, connect_args=limit if known else {})
        with engine.connect() as connection:
            yield from _checks(connection, url, sqlite=sqlite)
    except ImportError as error:
        advice = "for PostgreSQL: pip install 'psycopg[binary]>=3'"
        yield Check("database", "driver", "failed", first_line(error), advice)
    except (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError) as error:
        advice = (
            "end the program that holds the file, or bring back a copy of it"
            if sqlite
            else "start the server, or correct --storage"
        )
        yield Check("database", "studies", "failed", f"{masked(url)}: {first_line(error)}", advice)
    finally:
        if engine is not None:
            engine.dispose()


def _checks(connection: sqlalchemy.Connection, url: str, *, sqlite: bool) -> Iterator[Check]:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        connection.execute(sqlalchemy.text("SELECT 1")).fetchone()
        times.append(time.perf_counter() - start)
    seconds = sorted(times)[1]
    slow = seconds > SLOW_ANSWER
    advice = "take a database nearer to the workers" if slow else ""
    found = f"{masked(url)} answers in {1e3 * seconds:.1f} ms"
    yield Check("database", "studies", "warning" if slow else "ok", found, advice)
    if sqlite:
        yield _whole(connection)
    else:
        yield _clock(connection)
    yield from _tables(connection)


def _whole(connection: sqlalchemy.Connection) -> Check:
    said = str(connection.execute(sqlalchemy.text("PRAGMA quick_check(1)")).scalar_one())
    if said == "ok":
        return Check("database", "file", "ok", "whole")
    advice = "bring back a copy of it; runs of the launch stay in their folders and can be reported"
    return Check("database", "file", "failed", f"damaged: {said}", advice)


def _clock(connection: sqlalchemy.Connection) -> Check:
    before = time.time()
    there = connection.execute(sqlalchemy.text("SELECT CURRENT_TIMESTAMP")).scalar_one()
    now = (before + time.time()) / 2
    if not isinstance(there, datetime.datetime):
        return Check("clock", "against the database", "ok", f"it says {there!r}")
    aware = there if there.tzinfo is not None else there.astimezone()
    return clock_check(now - aware.timestamp(), "database")


def _tables(connection: sqlalchemy.Connection) -> Iterator[Check]:
    there = set(sqlalchemy.inspect(connection).get_table_names())
    missing = [name for name in TABLES if name not in there]
    if len(missing) == len(TABLES):
        yield Check("database", "tables", "ok", "none yet; they are made with the first study")
        return
    if missing:
        advice = "give a database of Optuna's, or an empty one, with --storage"
        yield Check("database", "tables", "failed", f"not Optuna's: no {', '.join(missing)}", advice)
        return
    number, by = connection.execute(
        sqlalchemy.text("SELECT schema_version, library_version FROM version_info")
    ).one()
    if number != models.SCHEMA_VERSION:
        advice = "pip install -r requirements.lock, or: optuna storage upgrade --storage URL"
        found = f"schema {number} of Optuna {by}, here {models.SCHEMA_VERSION} of {optuna.__version__}"
        yield Check("database", "tables", "failed", found, advice)
    else:
        yield Check("database", "tables", "ok", f"schema {number}, made by Optuna {by}")
    yield _heartbeats(connection)
    connection.rollback()
    yield _writable(connection)


def _heartbeats(connection: sqlalchemy.Connection) -> Check:
    beats = connection.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(models.TrialHeartbeatModel))
    running = connection.execute(
        sqlalchemy.select(sqlalchemy.func.count())
        .select_from(models.TrialModel)
        .where(models.TrialModel.state == optuna.trial.TrialState.RUNNING)
    )
    found = f"{beats.scalar_one()} recorded, {running.scalar_one()} trials run now"
    return Check("database", "heartbeats", "ok", found)


def _writable(connection: sqlalchemy.Connection) -> Check:
    """A row is written and rolled back."""
    try:
        connection.execute(sqlalchemy.text("UPDATE version_info SET schema_version = schema_version"))
        return Check("database", "writing", "ok", "a row can be written")
    except sqlalchemy.exc.SQLAlchemyError as error:
        advice = "see that the disk has room, that you may write, and that no other program holds it"
        return Check("database", "writing", "failed", first_line(error), advice)
    finally:
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
            connection.rollback()

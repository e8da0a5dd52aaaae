"""The database of a study: its address, opening it, and patience with it.

A database that is locked, restarted or slow for a while must cost no trial: every call is tried again with growing
pauses, PATIENCE_SECONDS in all. Heartbeats are read by the database's own clock, so hosts may disagree about the
time.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.storages._rdb import models

from studies.hanging import HangingError, begin_anew, bounded, connect_arguments, hurried
from studies.search_spec import HeartbeatSpec
from workbench import files
from workbench.errors import OutputError, StudyError, UserError
from workbench.home import Home

SQLITE_TIMEOUT = 60.0
"""Seconds a process waits for another's write."""
PATIENCE_SECONDS = 300.0
OPENING_SECONDS = 60.0
"""What a server gets to be looked at and given its tables."""
HURRIED_SECONDS = 2.0
"""Patience of a process that was asked to leave."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
UNAVAILABLE = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.OperationalError)
DAMAGED = ("malformed", "not a database")
"""In the words of SQLite about a file that is none of its own, or no longer."""
HOPELESS = ("disk is full", "readonly database", "read-only", "no such table", *DAMAGED)
"""In the words of a database that will not answer otherwise in a minute."""
KEPT = "finished runs stay in their folders, and calm report needs no database"
T = TypeVar("T")

log = logging.getLogger("studies.database")


def storage_url(url: str | None, home: Home) -> str:
    """The storage's URL; relative SQLite paths become absolute.

    Raises StudyError for what is no database: only those know heartbeats."""
    if url is None:
        return home.optuna_url
    scheme = url.partition("://")[0] if "://" in url else ""
    if not scheme or scheme in ("grpc", "http", "https", "redis", "journal", "file"):
        raise StudyError(
            f"--storage wants a database URL (sqlite:////path/optuna.db or postgresql://user@host/name), "
            f"{url!r} given; journal files and gRPC proxies have no heartbeat, so a dead worker's trial "
            "would be lost"
        )
    if scheme == "postgres":
        raise StudyError("--storage wants postgresql://, as SQLAlchemy calls it; not postgres://")
    try:
        parsed = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError as error:
        raise StudyError(f"--storage {url!r} is not a database URL: {error}") from None
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise StudyError("--storage wants an SQLite file that all workers see, not a database in memory")
        parsed = parsed.set(database=str(Path(str(parsed.database)).resolve()))
    return parsed.render_as_string(hide_password=False)


def is_there(url: str) -> bool:
    """Whether the database may hold launches: an SQLite file that is not there holds none."""
    parsed = sqlalchemy.make_url(url)
    return parsed.get_backend_name() != "sqlite" or Path(str(parsed.database)).exists()


def require_place(url: str) -> None:
    """Raises OutputError where a new SQLite database could not be written; makes nothing."""
    parsed = sqlalchemy.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        file = Path(str(parsed.database)).absolute()
        files.writable_folder(next(folder for folder in file.parents if os.path.lexists(folder)))


def masked(url: str) -> str:
    """The URL as it may be shown and stored: without its password, wherever it stands."""
    parsed = sqlalchemy.make_url(url)
    secret = {key: "***" for key in parsed.query if key.lower() in ("password", "passwd", "sslpassword")}
    return parsed.update_query_dict(secret).render_as_string(hide_password=True)


def first_line(error: BaseException) -> str:
    """The gist of an error; of Optuna's wrapper the database's own words."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else None
    return (str(cause or error).splitlines() or [type(error).__name__])[0]


def unusable(url: str, error: BaseException, again: str) -> UserError:
    """To be raised for an error of the database: what it says, and to do ``again`` when that is mended."""
    words = first_line(error).removeprefix("(sqlite3.DatabaseError) ")
    if url.startswith("sqlite") and any(said in words for said in DAMAGED):
        return StudyError(
            f"storage {masked(url)} is damaged, or no database ({words}); check the address, or bring back a copy "
            f"of it: then {again}; {KEPT}"
        )
    if "disk is full" in words or "disk I/O" in words:
        return OutputError(
            f"storage {masked(url)} has no room left on its disk ({words}); free some, then {again}"
        )
    return StorageAwayError(f"storage {masked(url)} does not answer ({words}); when it does, {again}")


def forgotten(url: str, name: str, folder: Path) -> StudyError:
    """To be raised where a database no longer knows the launch ``name``, which was started with it."""
    found = "was emptied, replaced, or has fallen back" if is_there(url) else "is gone"
    return StudyError(
        f"storage {masked(url)} does not know the launch {name} (folder {folder}), which was started with it: it "
        f"{found}; bring back a copy of it, and the same command continues ({KEPT}), or move the folder away and "
        "start anew"
    )


class StorageAwayError(StudyError):
    """The database did not answer, here: no reason to end the study for others."""


@contextlib.contextmanager
def said_plainly(url: str, again: str) -> Iterator[None]:
    """An outage inside becomes one message."""
    try:
        yield
    except UNAVAILABLE as error:
        raise unusable(url, error, again) from None


def quiet() -> None:
    """Optuna's own log lines and experimental warnings say nothing a user of studies can act on."""
    import warnings

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class PatientStorage(RDBStorage):  # type: ignore[misc]
    """Optuna's storage that tries again, and leaves it to ``studies.recovery`` which trial has lost its worker."""

    @property
    def served(self) -> bool:
        """By a server, not from a file."""
        return bool(self.engine.dialect.name != "sqlite")

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """None: Optuna would fail a trial whose worker lives on this machine but could not write for a while."""
        return []

    def seconds_since_heartbeat(self, study_id: int) -> dict[int, float]:
        """Of running trials by their number, by the database's clock; those without a heartbeat are not there."""

        return {number: age for number, (age, _) in self.heartbeats(study_id).items()}

    def heartbeats(self, study_id: int) -> dict[int, tuple[float, str]]:
        """Of running trials by their number: seconds since the last heartbeat by the database's clock, and when it
        was."""

        def ask() -> dict[int, tuple[float, str]]:
            with self.engine.connect() as connection:
                now = connection.execute(sqlalchemy.select(sqlalchemy.func.now())).scalar_one()
                trial, beat = models.TrialModel, models.TrialHeartbeatModel
                rows = connection.execute(
                    sqlalchemy.select(trial.number, beat.heartbeat)
                    .join(beat, beat.trial_id == trial.trial_id)
                    .where(trial.study_id == study_id, trial.state == optuna.trial.TrialState.RUNNING)
                )
                return {number: (_seconds(now, beat_at), str(beat_at)) for number, beat_at in rows}

        return patiently(ask, served=self.served)


def _seconds(now: datetime.datetime, then: datetime.datetime) -> float:
    return (now.replace(tzinfo=None) - then.replace(tzinfo=None)).total_seconds()


_waiting = threading.local()
"""Calls inside a call that is tried again are not tried again themselves."""


def patiently(
    action: Callable[[], T], *, again: Callable[[Exception], bool] = lambda error: True, served: bool = False
) -> T:
    """``action()``, tried again while the database does not answer and ``again`` says so; at last its error.
    ``served``: by a server, which may hang, so that it runs in a thread of its own."""
    if getattr(_waiting, "inside", False):
        return action()

    def inside() -> T:
        _waiting.inside = True
        try:
            return action()
        finally:
            _waiting.inside = False

    return _tried((lambda: bounded(inside, PATIENCE_SECONDS)) if served else inside, again)


def _tried(action: Callable[[], T], again: Callable[[Exception], bool]) -> T:
    began, pause = time.monotonic(), FIRST_PAUSE
    while True:
        try:
            return action()
        except UNAVAILABLE as error:
            passed = time.monotonic() - began
            patience = HURRIED_SECONDS if hurried() else PATIENCE_SECONDS
            hangs = isinstance(error, HangingError)  # all patience went into one call
            if hangs or not (is_outage(error) and again(error)) or passed + pause > patience:
                raise
            if pause == FIRST_PAUSE:
                limit = f"{PATIENCE_SECONDS:g} s"
                log.warning("the storage does not answer (%s); tried again for up to %s", first_line(error), limit)
        time.sleep(pause * random.uniform(0.5, 1.0))  # workers that failed together must not come back together
        pause = min(2 * pause, LONGEST_PAUSE)


def is_outage(error: BaseException) -> bool:
    """Whether the database may answer in a while: it is locked, away or restarted, not full or damaged."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    kinds = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.TimeoutError)
    text = str(cause).lower()
    return isinstance(cause, kinds) and not any(words in text for words in HOPELESS)


def _is_locked(error: Exception) -> bool:
    """SQLite refused at once, so nothing was written; of a lost connection that is not known."""
    return "locked" in first_line(error).lower()


def _patient(name: str) -> Callable[..., Any]:
    method = getattr(RDBStorage, name)
    # a trial or study whose creation was answered by silence may be there: trying again could make it twice
    again = _is_locked if "create_new" in name else lambda error: True

    @functools.wraps(method)
    def call(self: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        return patiently(lambda: method(self, *args, **kwargs), again=again, served=self.served)

    return call


CALLS = (
    *sorted(optuna.storages.BaseStorage.__abstractmethods__),
    *("record_heartbeat", "get_trial_id_from_study_id_trial_number"),
    *(
        "_create_new_trial",
        "_set_trial_param",
        "_get_trials",
        "_get_best_trial_id",
    ),  # Optuna's own cache asks these
)
for _name in CALLS:
    setattr(PatientStorage, _name, _patient(_name))


def _beat(self: PatientStorage, trial_id: int) -> None:
    """A heartbeat that the database does not take is left out: Optuna's thread would end at its error, and the
    trial go on without a heartbeat."""
    try:
        _patient("record_heartbeat")(self, trial_id)
    except UNAVAILABLE as error:
        log.warning("a heartbeat is missing: %s", first_line(error))


PatientStorage.record_heartbeat = _beat


def database_of(study: optuna.Study) -> PatientStorage:
    """Optuna hides the storage it was given behind a cache."""
    database = study._storage._backend
    assert isinstance(database, PatientStorage), "opened by open_storage"
    return database


def open_storage(url: str, home: Home, heartbeat: HeartbeatSpec, *, checked: bool = False) -> PatientStorage:
    """Connect, creating the tables once. ``checked``: another process has just done so, and need not be
    repeated. Raises StudyError where the database does not answer."""
    quiet()
    begin_anew()
    sqlite = url.startswith("sqlite")
    if sqlite:
        files.writable_folder(Path(str(sqlalchemy.make_url(url).database)).parent)
    try:
        with files.locked(home.root / ".optuna.lock"):
            if sqlite:
                _touch(Path(str(sqlalchemy.make_url(url).database)))
            if url == home.optuna_url:
                _write_ahead(home.root / "optuna.db")
            opened = functools.partial(
                PatientStorage,
                url,
                engine_kwargs=_engine_options(url),
                heartbeat_interval=heartbeat.interval,
                grace_period=heartbeat.grace,
                skip_compatibility_check=checked,
                skip_table_creation=checked,
            )
            database = opened() if sqlite else bounded(opened, OPENING_SECONDS)
            if url == home.optuna_url:
                sqlalchemy.event.listen(database.engine, "connect", _seldom_flushed)
                database.engine.dispose()  # connections opened before are not set so
            return database
    except HangingError as error:
        raise unusable(url, error, "the same command continues") from None
    except ImportError as error:
        raise StudyError(
            f"storage {masked(url)} needs a database driver that is not installed ({first_line(error)}); "
            "for PostgreSQL: pip install 'psycopg[binary]>=3'"
        ) from None
    except (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError, RuntimeError, ValueError) as error:
        if any(words in str(error) for words in ("disk is full", *(DAMAGED if sqlite else ()))):
            raise unusable(url, error, "the same command continues") from None
        remedy = "no other program holds the file" if sqlite else "the server is running"
        raise StudyError(
            f"storage {masked(url)} cannot be opened: {first_line(error)}; check the address and that {remedy}"
        ) from None


def _engine_options(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": SQLITE_TIMEOUT}}
    return {"pool_pre_ping": True, "connect_args": connect_arguments(url)}


def _touch(path: Path) -> None:
    """Make the file before SQLite does, which would let no group write, whatever the umask. Raises OutputError."""
    if not path.exists():
        try:
            path.touch()
        except OSError as error:
            raise files.cannot_write(path, error) from None


def _write_ahead(path: Path) -> None:
    """A trial's thirty commits then cost one millisecond each, not ten, and readers never block a worker. Only for
    the home's own file: not every network file system can do it, and a home on one needs another ``--storage``.
    Who copies ``optuna.db`` must copy ``optuna.db-wal`` beside it, which holds the latest commits."""
    with contextlib.closing(sqlite3.connect(path, timeout=SQLITE_TIMEOUT)) as connection:
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode=WAL")


def _seldom_flushed(connection: Any, _: object) -> None:
    """With write-ahead logging a killed process loses nothing; a power cut can take the last commits, never the
    file: a trial that ended in them is given out again and finds its finished run. Must be said on every
    connection."""
    connection.execute("PRAGMA synchronous=NORMAL")

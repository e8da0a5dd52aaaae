"""What must hold before MLflow is asked anything: the server answers, the sqlite file is whole.

MLflow migrates a fresh sqlite file at first use; several processes doing so at once leave it broken.
So the file is made once, under a lock, beside its final name, and renamed when it is complete.
"""

from __future__ import annotations

import errno
import http.client
import logging
import os
import re
import socket
import sqlite3
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workbench import files, modes, processes
from workbench.errors import TrackingError
from workbench.home import Home
from workbench.tracking_home import bring_artifacts_along
from workbench.tracking_schema import without_password

logger = logging.getLogger("workbench.tracking")

ANSWER_SECONDS = 5.0
OPEN_SECONDS = 20.0
"""For a server to answer at the start."""
FILE_SECONDS = 600.0
"""The same for a file, which this machine itself has to make and to read: MLflow's migrations take minutes on one
that is slow and loaded, and whoever opens the file meanwhile waits for them."""
SLOW_SECONDS = 20.0
"""After which it is told that a file is still being opened."""
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}
_tuned: set[str] = set()


class ServerAway(TrackingError):
    """Nobody answers, or not as a tracking server does: it may be back later."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """In a few words."""


class ExperimentRefused(TrackingError):
    """The study's experiment cannot be used there, deleted perhaps; other studies can be delivered."""


def check_answers(uri: str) -> None:
    """Raises TrackingError where a server does not accept connections, or a web server does not reply.

    MLflow itself would retry a database for more than a minute."""
    try:
        reach(uri, ANSWER_SECONDS)
        if is_server(uri):
            _log_in(uri, urlsplit(uri).scheme.partition("+")[0])
    except Exception as error:  # a database driver may raise its own
        raise cannot_use(uri, error) from None


def reach(uri: str, seconds: float) -> None:
    """Raises OSError or ValueError where nobody answers at ``uri`` within ``seconds``."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme in ("http", "https"):
        _reach_http(uri, seconds)
    elif scheme != "sqlite":
        address = (parts.hostname or "127.0.0.1", parts.port or PORTS[scheme])
        with socket.create_connection(address, timeout=seconds):
            pass


def prepare_sqlite(uri: str, migrate: Callable[[Path], None]) -> str:
    """Make the database of ``sqlite:///PATH`` by ``migrate(temporary_path)`` if it is not there; returns
    the URI with an absolute path.

    Raises TrackingError where the file cannot be made, or is no database; ServerAway where it is locked;
    OutputError where the disk is full."""
    uri = absolute(uri)
    path = Path(uri.removeprefix("sqlite:///"))
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.locked(_making(path)):
                if not path.exists():
                    _make_sqlite(path, migrate)
        _tune_connections(path)
        with sqlite3.connect(path, timeout=20) as connection:  # cheap, and clearer than what MLflow would say
            connection.execute("SELECT count(*) FROM alembic_version")
        connection.close()
    except (OSError, sqlite3.Error) as error:
        if "locked" in str(error):
            raise _file_in_use(path, str(error)) from None
        if getattr(error, "errno", None) == errno.ENOSPC or "disk is full" in str(error):
            raise files.cannot_write(path, OSError(errno.ENOSPC, "")) from None
        raise TrackingError(_unusable_file(path, str(error))) from None
    return uri


def follow_home(home: Home) -> bool:
    """After the home was moved its own database, if there is one, goes with it; True where it does now. Raises
    TrackingError."""
    try:
        return bring_artifacts_along(home)
    except sqlite3.Error as error:
        raise cannot_use(home.mlflow_uri, error) from None


def is_file(uri: str) -> bool:
    return urlsplit(uri).scheme.startswith("sqlite")


def is_server(uri: str) -> bool:
    """A database that MLflow reaches itself, neither a file nor a web server."""
    return not is_file(uri) and not urlsplit(uri).scheme.startswith("http")


def seconds_to_open(uri: str) -> float:
    """How long ``uri`` may take at the start."""
    return FILE_SECONDS if is_file(uri) else OPEN_SECONDS


@contextmanager
def said_when_slow(uri: str) -> Iterator[None]:
    """Where a file takes long to open, say so, and who keeps it. A server has its own limit."""
    path = Path(uri.removeprefix("sqlite:///"))

    def say() -> None:
        who = _who_holds(path)
        logger.warning("tracking: %s is still being made or opened%s", path, f"; locked by {who}" if who else "")

    timer = threading.Timer(SLOW_SECONDS, say)
    timer.daemon = True
    if is_file(uri):
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def absolute(uri: str) -> str:
    """``sqlite:///PATH`` with an absolute path, as homes have it; another URI as it is."""
    if not is_file(uri):
        return uri
    path = Path(uri.removeprefix("sqlite:///")).absolute()
    return f"sqlite:///{path.parent.resolve() / path.name}"


def cannot_use(uri: str, error: Exception) -> TrackingError:
    """One message for whatever keeps a tracking URI from being used."""
    shown = without_password(uri)
    text = first_line(error)
    if isinstance(error, ImportError):
        return TrackingError(
            f"the tracking URI {shown} needs a package that is not installed ({text}); "
            "for PostgreSQL: pip install 'psycopg[binary]>=3'"
        )
    if "out-of-date database schema" in text:
        return TrackingError(
            f"the tracking database {shown} was made by another version of MLflow; "
            f"make a copy, then upgrade it with: mlflow db upgrade {shown}"
        )
    if is_file(uri):
        return _file_in_use(Path(absolute(uri).removeprefix("sqlite:///")), text)
    parts = urlsplit(uri)
    port = parts.port if _has_port(uri) else None
    start = "start it"
    if parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost"):
        own = port or 5000  # calm ui shows what there is, and refuses a home in which nothing is
        start = f"start one (calm ui --port {own} where the home has runs, else mlflow server --port {own})"
    return ServerAway(
        f"the tracking server {shown} does not answer or refuses ({text}); {start}, check the address, or go "
        "on without it (--tracking-uri none) and deliver later with calm sync",
        text,
    )


def _file_in_use(path: Path, text: str) -> ServerAway:
    """Nobody need be started for a file: somebody may have to let go of it."""
    if not ("locked" in text or "in time" in text):
        return ServerAway(_unusable_file(path, text), text)
    who = _who_holds(path) or ("another process" if "locked" in text else "")
    state = f"is locked by {who}" if who else "cannot be opened"
    return ServerAway(
        f"the tracking database {path} {state} ({text}); wait until it is free, or end what keeps it, and give "
        "the same command again, or go on without it (--tracking-uri none) and deliver later with calm sync",
        text,
    )


def _unusable_file(path: Path, text: str) -> str:
    return (
        f"the tracking database {path} cannot be used ({text}); choose another with --tracking-uri, go "
        "without (--tracking-uri none), or move the file away: calm sync fills a new one from the run folders"
    )


def _who_holds(path: Path) -> str:
    """Those who make the file or write into it; empty where nobody is seen."""
    lock, shared = _making(path), path.with_name(f"{path.name}-shm")
    return ", ".join(dict.fromkeys(who for file in (lock, path, shared) for who in processes.holders(file)))


def _making(path: Path) -> Path:
    """Locked by who makes the database."""
    return path.with_name(f".{path.name}.lock")


def first_line(error: BaseException) -> str:
    """The gist of an error, without its nested representation and without passwords."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "Max retries exceeded" in text or "Connection refused" in text:
        text = "connection refused" if "refused" in text else "no answer"
    elif "timed out" in text:
        text = "no answer in time"
    text = re.sub(r"://([^:/@\s]+):[^@\s]+@", r"://\1:***@", text)
    return text if len(text) <= 300 else text[:297] + "..."


def _reach_http(uri: str, seconds: float) -> None:
    """Any reply counts, even a refusal: what it means is seen when something is asked for."""
    parts = urlsplit(uri)
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/health"
    try:
        urllib.request.urlopen(address, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        if error.code in (502, 503, 504):
            raise
    except http.client.RemoteDisconnected:
        raise
    except http.client.HTTPException as error:
        raise ConnectionError(f"it does not speak HTTP: {error}") from None


def _log_in(uri: str, scheme: str) -> None:
    import sqlalchemy

    options: dict[str, Any] = {"connect_timeout": int(ANSWER_SECONDS)} if scheme == "postgresql" else {}
    engine = sqlalchemy.create_engine(uri, connect_args=options)
    engine.connect().close()
    engine.dispose()


def _make_sqlite(path: Path, migrate: Callable[[Path], None]) -> None:
    """Migrate under a temporary name, switch to WAL, rename."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        try:
            migrate(temporary)
        except Exception as error:
            cause = getattr(error, "orig", None)  # SQLAlchemy shows the whole statement, too
            if isinstance(cause, sqlite3.Error):
                raise cause from None
            raise
        connection = sqlite3.connect(temporary)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
        modes.as_new(temporary)  # SQLite's lets no group write, whatever the umask
        os.replace(temporary, path)


def _tune_connections(path: Path) -> None:
    """``synchronous=NORMAL`` (ten times faster, safe with WAL) holds for one connection only: set it on
    each that SQLAlchemy opens to this file."""
    import sqlalchemy

    if not _tuned:
        sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", _on_connect)
    _tuned.add(os.path.realpath(path))


def _on_connect(connection: Any, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        rows = connection.execute("PRAGMA database_list").fetchall()
        if rows and os.path.realpath(rows[0][2]) in _tuned:
            connection.execute("PRAGMA synchronous=NORMAL")


def _has_port(uri: str) -> bool:
    try:
        return urlsplit(uri).port is not None
    except ValueError:
        return False

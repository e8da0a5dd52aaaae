"""What must hold before MLflow is asked anything: the server answers, the sqlite file is whole.

MLflow migrates a fresh sqlite file at first use; several processes doing so at once leave it broken.
So the file is made once, under a lock, beside its final name, and renamed when it is complete.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import sqlite3
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workbench import files
from workbench.errors import TrackingError
from workbench.tracking_schema import without_password

ANSWER_SECONDS = 5.0
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}
_tuned: set[str] = set()


def check_answers(uri: str) -> None:
    """Raises TrackingError where a server does not accept connections, or a web server does not reply.

    MLflow itself would retry a database for more than a minute."""
    try:
        reach(uri, ANSWER_SECONDS)
        scheme = urlsplit(uri).scheme.partition("+")[0]
        if scheme not in ("sqlite", "http", "https"):
            _log_in(uri, scheme)
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

    Raises TrackingError where the file cannot be made, or is no database."""
    path = Path(uri.removeprefix("sqlite:///")).absolute()
    uri = f"sqlite:///{path}"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.locked(path.with_name(f".{path.name}.lock")):
                if not path.exists():
                    _make_sqlite(path, migrate)
        _tune_connections(path)
        with sqlite3.connect(path, timeout=20) as connection:  # cheap, and clearer than what MLflow would say
            connection.execute("SELECT count(*) FROM alembic_version")
        connection.close()
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(
            f"the tracking database {path} cannot be used ({error}); choose another with --tracking-uri, go "
            "without (--tracking-uri none), or move the file away: calm sync fills a new one from the run folders"
        ) from None
    return uri


def cannot_use(uri: str, error: Exception) -> TrackingError:
    """One message for whatever keeps a tracking URI from being used."""
    shown = without_password(uri)
    text = first_line(error)
    if isinstance(error, ImportError):
        return TrackingError(
            f"the tracking URI {shown} needs a package that is not installed ({text}); "
            "for PostgreSQL: pip install 'calm-workbench[postgres]'"
        )
    if "out-of-date database schema" in text:
        return TrackingError(
            f"the tracking database {shown} was made by another version of MLflow; "
            f"make a copy, then upgrade it with: mlflow db upgrade {shown}"
        )
    parts = urlsplit(uri)
    port = parts.port if _has_port(uri) else None
    start = "start it"
    if parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost"):
        start = f"start one (calm ui --port {port or 5000})"
    return TrackingError(
        f"the tracking server {shown} does not answer or refuses ({text}); {start}, check the address, or go "
        "on without it (--tracking-uri none) and deliver later with calm sync"
    )


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
        migrate(temporary)
        connection = sqlite3.connect(temporary)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
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

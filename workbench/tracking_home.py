"""The home's own tracking database, which stays the same one when the home is moved or copied.

Cursors name it by a mark instead of its path. MLflow notes the absolute path of every artifact in the database;
those are corrected before anything is sent there. Imports no MLflow.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from workbench import files
from workbench.home import Home

OWN = "home"
"""What stands in cursors for the database of the home that they lie in. Earlier versions wrote its path."""
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's that hold an artifact's place."""
SERVED = "mlflow-artifacts:"
"""Begins the places of artifacts that came to the home's own server (``calm ui``), which keeps them in the home.
Without the server MLflow does not know where that is."""
WAIT_SECONDS = 20.0
"""For another process that writes into the database."""

log = logging.getLogger("workbench.tracking")


def home_of(run_dir: Path | str) -> Home:
    """The home in which a run folder lies."""
    return Home(Path(run_dir).absolute().parent.parent)


def own_uri(home: Home) -> str:
    """Of the home's database, however the home is written."""
    path = _path(home.mlflow_uri).absolute()
    return f"sqlite:///{path.parent.resolve() / path.name}"


def to_stored(uri: str, home: Home) -> str:
    """``uri`` as it is stored in ``home``."""
    return OWN if uri == own_uri(home) else uri


def from_stored(stored: str, home: Home) -> str:
    return own_uri(home) if stored == OWN else stored


def followed(uri: str, home: Home) -> str:
    """``uri``; the home's own database where it is the path of one that is no longer there: earlier versions
    stored the path, and the home was moved."""
    path, own = _path(uri), _path(own_uri(home))
    lost = uri.startswith("sqlite:///") and path.name == own.name and not path.exists()
    return own_uri(home) if lost else uri


def bring_artifacts_along(home: Home) -> bool:
    """Correct the places of artifacts in the home's own database: where the home was moved or copied, what is
    sent must not go to the old place, and what came along must be found; what came to the home's server lies in
    the home and is found there without it. True where something was corrected, all of it or nothing.

    Raises sqlite3.Error where the database cannot be read or written, or is locked for too long."""
    path, now = _path(home.mlflow_uri), home.artifacts.resolve().as_uri()
    if not path.exists():
        return False
    with contextlib.closing(sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)) as connection:
        if not _former_places(connection, home):
            return False
        connection.execute("BEGIN IMMEDIATE")  # who comes second finds nothing to do
        try:
            places = _former_places(connection, home)
            changed = {former: _replace(connection, former, place) for former, place in places.items()}
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    for former in [place for place, num_runs in changed.items() if num_runs and not place.startswith(SERVED)]:
        log.warning("tracking: the home was moved; artifacts that were in %s are looked for in %s", former, now)
    return bool(changed)


def _path(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///"))


def _former_places(connection: sqlite3.Connection, home: Home) -> dict[str, str]:
    """Folders of artifacts, and where those are now: of other homes, by the layout that homes have, and of
    experiments that came by way of a server and whose artifacts it put into this home, or whose runs have none.
    A place that somebody chose for an experiment, or another server's, is left alone."""
    found, now = {}, home.artifacts.resolve().as_uri()
    for number, name, location in connection.execute(
        "SELECT experiment_id, name, artifact_location FROM experiments WHERE artifact_location IS NOT NULL"
    ):
        folder, _, last = location.rpartition("/")
        ours = last in (str(number), name, quote(name)) and folder.endswith(now[now.rindex("/") :])
        if ours and folder.startswith("file://") and folder != now:
            found[folder] = now
        if location == f"{SERVED}/{number}" and (
            (home.artifacts / str(number)).is_dir() or _nothing_sent(connection, number, home)
        ):
            found[location] = f"{now}/{number}"
    return found


def _nothing_sent(connection: sqlite3.Connection, number: int, home: Home) -> bool:
    """Whether an experiment has runs, all of them known here, and none has sent an artifact to whatever server: it
    went away before."""
    known = connection.execute("SELECT run_uuid FROM runs WHERE experiment_id = ?", (number,)).fetchall()
    if not known:
        return False
    sent: dict[object, bool] = {}
    for path in (*home.root.glob("*/mlflow.json"), *home.root.glob("*/*/mlflow.json")):
        with contextlib.suppress(
            OSError, ValueError, TypeError, AttributeError
        ):  # of what is damaged nothing is known
            stored = files.read_json(path)
            if isinstance(stored, list):  # launches of a study, whose report may have been sent
                reported = (path.parent / "mlflow-report.json").exists()
                sent |= {row.get("run_id"): reported for row in stored}
            else:
                sent[stored.get("run_id")] = bool(stored.get("artifacts"))
    return all(sent.get(run_id) is False for (run_id,) in known)


def _replace(connection: sqlite3.Connection, former: str, now: str) -> int:
    """How many runs had their artifacts there."""
    num_runs = 0
    for table, column in _present(connection):
        done = connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (now, len(former) + 1, former, len(former) + 1, f"{former}/"),
        )
        num_runs += done.rowcount if table == "runs" else 0
    return num_runs


def _present(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """Versions of MLflow differ in what they have."""
    for table, column in LOCATIONS:
        if any(row[1] == column for row in connection.execute(f"PRAGMA table_info({table})").fetchall()):
            yield table, column

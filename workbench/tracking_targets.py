"""Which tracking server the runs of a home belong to: the one that their study, or they, were begun with.

A server is stored without its password, which CALM_TRACKING_URI may know. Imports no MLflow.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from workbench.errors import RunError, TrackingError
from workbench.home import Home
from workbench.tracking_database import absolute, is_file
from workbench.tracking_home import followed, own_uri
from workbench.tracking_launches import STUDY, latest_launch, read_launches, read_study_part
from workbench.tracking_schema import read_cursor, without_password

ADDRESS = "tracking_uri"
"""In a study's file: what the user asked for; none for the home's own database."""


def of_study(home: Home, study: str) -> str:
    """Without its password. The home's own database where nothing was asked for, or no tracking, and where all
    that is known of the study came to that by way of the home's own server (``calm ui``)."""
    asked = _asked(home, study)
    if asked is None:
        return own_uri(home)
    launch = latest_launch(home, study, asked)
    return own_uri(home) if launch is not None and _came_here(home, launch.run_id) else asked


def _asked(home: Home, study: str) -> str | None:
    try:
        stored = read_study_part(home, study, STUDY)
    except RunError:  # told where it is needed
        stored = None
    if stored is None or ADDRESS not in stored:
        launches = [row for row in read_launches(home, study) if not is_file(row.tracking_uri)]
        return launches[-1].tracking_uri if launches else None
    asked = stored[ADDRESS]
    if not isinstance(asked, str) or asked == "none":
        return None
    return without_password(followed(absolute(asked), home))


def of_run(home: Home, run_dir: Path) -> str:
    """Of a run outside studies, without its password. Files are the home's own: the path of another home's may
    have come along with a copy."""
    cursor = read_cursor(run_dir)
    if cursor is None or is_file(cursor.tracking_uri) or _came_here(home, cursor.run_id):
        return own_uri(home)
    return cursor.tracking_uri


def with_password(uri: str) -> str:
    """``uri`` as the environment has it, where that is the same server. Raises TrackingError where a password is
    needed that it does not know."""
    known = os.environ.get("CALM_TRACKING_URI")
    if known and without_password(known) == uri:
        return known
    if ":***@" in uri:
        raise TrackingError(
            f"runs belong to {uri}, whose password is not stored; give it with --tracking-uri or CALM_TRACKING_URI"
        )
    return uri


def _came_here(home: Home, run_id: str) -> bool:
    """Whether the home's own database knows the MLflow run."""
    if not run_id or not home.mlflow_database.exists():
        return False
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(home.mlflow_database, timeout=20)) as connection,
    ):
        return connection.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone() is not None
    return False

"""MLflow's own settings, a fresh database and a study's experiment: what stands before the first run is shown.

Imported before anything else of MLflow, since its settings are read then.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Read when mlflow is imported or a request is made; what a user has set wins, telemetry and retries apart:
# a request that MLflow itself sends again after a lost answer could double what it holds, and would take longer
# than the tracker waits. The tracker asks again, once it knows what has arrived.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking._tracking_service import utils

from workbench import files
from workbench.home import Home
from workbench.tracking_database import ExperimentRefused, is_server
from workbench.tracking_home import SERVED
from workbench.tracking_launches import STUDY
from workbench.tracking_schema import without_password
from workbench.tracking_views import experiment_tags, missing_tags

__all__ = ["MlflowException", "connect", "find_experiment", "forget_places", "migrate"]

_migrating = threading.Lock()
MIGRATION_SECONDS = 60.0
"""Whoever is still at its tables then waits for a database that hangs."""
MADE_ELSEWHERE = ("already exists", "duplicate key", "Duplicate entry")
"""Words of databases in which another host makes MLflow's tables at the same time."""
PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before it is asked again whether they are there."""

logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # outages are reported by the tracker, in one line
logging.getLogger("alembic").setLevel(logging.WARNING)


def connect(uri: str, name: str, home: Home) -> tuple[Any, str]:
    """MLflow's client and the id of the experiment. In a database without MLflow's tables they are made first; one
    in which another host does that meanwhile is asked again.

    Raises TrackingError where the experiment was deleted, and whatever MLflow and the database raise."""
    if not is_server(uri):
        client = mlflow.MlflowClient(tracking_uri=uri)
        return client, find_experiment(client, uri, name, home)
    for pause in (*PAUSES, None):
        try:
            with one_migration():
                client = mlflow.MlflowClient(tracking_uri=uri)
                return client, find_experiment(client, uri, name, home)
        except Exception as error:
            if pause is None or not any(words in str(error) for words in MADE_ELSEWHERE):
                raise
            time.sleep(pause)
    raise AssertionError


@contextmanager
def one_migration() -> Iterator[None]:
    """While MLflow may make tables: alembic, which does it, keeps what it works on in global names, so that two
    threads at it, if only in different databases, spoil each other's."""
    held = _migrating.acquire(timeout=MIGRATION_SECONDS)
    try:
        yield
    finally:
        if held:
            _migrating.release()


def find_experiment(client: Any, uri: str, name: str, home: Home) -> str:
    """Id of the experiment, made if need be (another process may be making it, too), with the views that MLflow's
    pages offer for it.

    Raises TrackingError where it was deleted, or keeps its artifacts at a server and ``uri`` is a database."""
    local = not urlsplit(uri).scheme.startswith("http")
    location = (home.artifacts / name).as_uri() if local else None
    for _ in range(2):
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            break
        tags = experiment_tags(int(1000 * time.time()), varied(home, name))
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    if experiment is None or experiment.lifecycle_stage == "deleted":
        number = experiment.experiment_id if experiment else "ID"
        raise ExperimentRefused(
            f"the experiment {name!r} at {without_password(uri)} was deleted; restore it "
            f"(mlflow experiments restore --experiment-id {number}) or give the study another name"
        )
    if local and str(experiment.artifact_location).startswith(SERVED):
        raise ExperimentRefused(
            f"the experiment {name!r} at {without_password(uri)} was made by way of a tracking server, which "
            "alone knows where its artifacts lie; deliver to that server (--tracking-uri http://...) or give the "
            "study another name"
        )
    created = int(experiment.creation_time or 0)
    for key, value in missing_tags(experiment.tags, created, varied(home, name)).items():
        client.set_experiment_tag(experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


def varied(home: Home, study: str) -> list[str]:
    """Fields of the configuration that a launched study searches or compares; empty where it is not known."""
    try:
        return [str(name) for name in files.read_json(home.study(study) / STUDY)["parameters"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def forget_places() -> None:
    """MLflow remembers where a run's artifacts lie as long as the process lives, a notebook's perhaps."""
    getattr(utils, "_artifact_repos_cache", {}).clear()


def migrate(path: Path, artifacts: Path) -> None:
    """Create MLflow's tables in a fresh sqlite file (about 5 s)."""
    with one_migration():
        store = SqlAlchemyStore(f"sqlite:///{path}", artifacts.as_uri())
        store.engine.dispose()

"""Runs on an MLflow server by their token, a tag of our own making.

MLflow gives a run its id in the answer to its creation. Where that answer is lost, the token finds the run. And
where a server was stopped with the request in its queue, it makes the run once it goes on, perhaps after it was
asked again: the second one is deleted (MLflow keeps it in its bin).
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from workbench.tracking_experiment import MlflowException
from workbench.tracking_outages import is_unknown
from workbench.tracking_schema import Cursor, read_cursor, write_cursor

DOUBT_SECONDS = 60.0
"""So long after a server has answered again, what was in its queue has been worked off."""


def find_by_token(client: Any, experiment_id: str, token: str) -> Any:
    """The run, None where there is none. MLflow reads all tags of an experiment for it, so it is asked only where
    there may be one."""
    found = client.search_runs([experiment_id], _tagged(token), max_results=1)
    return found[0] if found else None


def find_shown(client: Any, experiment_id: str, run_id: str, token: str) -> Any:
    """The run of ``token``, known so far under another address of the server, or of another server; None where it
    is not here. Mostly it has the id that it was given there."""
    try:
        run = client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if not is_unknown(error):
            raise
        run = None
    if run is not None and run.data.tags.get("calm.token") == token:
        return run
    return find_by_token(client, experiment_id, token)


def begun_cursor(client: Any, experiment_id: str, uri: str, run_dir: Path) -> tuple[Cursor, bool]:
    """The run's cursor for the server ``uri``, and whether a run may have been made there for its token."""
    cursor = read_cursor(run_dir)
    if cursor is None:
        return new_cursor(uri, run_dir), False
    if cursor.tracking_uri == uri:
        return cursor, True
    run = find_shown(client, experiment_id, cursor.run_id, cursor.token)
    if run is None:
        return new_cursor(uri, run_dir, cursor.token), False
    if run.info.run_id != cursor.run_id:  # it was at another server since; what was sent here is asked for
        cursor = Cursor(tracking_uri=uri, token=cursor.token, run_id=run.info.run_id)
    experiment = str(run.info.experiment_id)
    cursor = cursor.model_copy(update={"tracking_uri": uri, "experiment_id": experiment})
    write_cursor(run_dir, cursor)
    return cursor, True


def new_cursor(uri: str, run_dir: Path, token: str | None = None) -> Cursor:
    """A run keeps its ``token`` from server to server, so that it is found where it has been before."""
    cursor = Cursor(tracking_uri=uri, token=token or uuid.uuid4().hex)
    write_cursor(run_dir, cursor)  # the token must outlive a lost answer
    return cursor


def delete_doubles(client: Any, experiment_id: str, token: str, keep: str) -> None:
    """Delete the runs of ``token`` other than ``keep``."""
    for run in client.search_runs([experiment_id], _tagged(token), max_results=100):
        if run.info.run_id != keep:
            client.delete_run(run.info.run_id)


def still_doubted(doubted: float) -> float:
    """``doubted``, 0 once enough time has passed."""
    return doubted if time.time() - doubted < DOUBT_SECONDS else 0.0


def _tagged(token: str) -> str:
    return f"tags.`calm.token` = '{token}'"

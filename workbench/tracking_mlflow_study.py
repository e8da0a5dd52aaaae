"""The launches of a study on an MLflow server: begun, continued, ended, with the study's summary and report.

A study has one launch on a server. Whoever resumes the study continues it; where the server has lost it (its
database was replaced) another is made.
"""

from __future__ import annotations

import getpass
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workbench.tracking_experiment import MlflowException  # isort: skip

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric

from workbench import config_file
from workbench.config import content_hash
from workbench.home import Home
from workbench.tracking import LaunchRequest
from workbench.tracking_datasets import DatasetUse
from workbench.tracking_launches import (
    Launch,
    add_launch,
    adopt_launch,
    answer_launch,
    awaited_launch,
    describe_launch,
    latest_launch,
    read_launches,
    take_over,
    update_launch,
)
from workbench.tracking_outages import chunks, is_unknown
from workbench.tracking_report import MissingReport, ReportCursor
from workbench.tracking_tokens import delete_doubles, find_by_token

METRICS_PER_BATCH = 1000
RACES = 4
"""How often one run's datasets are sent where others add the same ones: MLflow looks, then inserts, and who comes
second is refused; asked again, it finds what the first has added."""


@dataclass(frozen=True)
class Place:
    """One study's experiment on one server."""

    client: Any
    uri: str
    """As it stands in cursors."""
    experiment_id: str
    home: Home
    study: str


def find_launch(at: Place, known: str | None = None) -> str | None:
    """Id of the launch that the server has: ``known``, or the latest of this home, also under another address of
    the server. None where it has none, or they were deleted there."""
    latest = latest_launch(at.home, at.study, at.uri)
    candidates = [known, latest.run_id if latest else None]
    found = next((run_id for run_id in candidates if run_id and is_alive(at.client, run_id)), None)
    if found is None:
        elsewhere = [row.run_id for row in read_launches(at.home, at.study) if row.tracking_uri != at.uri]
        found = next((run_id for run_id in reversed(elsewhere) if run_id and is_alive(at.client, run_id)), None)
        if found is not None:
            adopt_launch(at.home, at.study, found, at.uri)
    return found


def is_alive(client: Any, run_id: str) -> bool:
    """Whether the server has the run, not deleted."""
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage != "deleted")
    except MlflowException as error:
        if is_unknown(error):
            return False
        raise


def start_launch(at: Place, spec: dict[str, Any], known: str | None, request: LaunchRequest | None = None) -> str:
    """Begin the launch or continue it; returns its id. ``request``: of a new one."""
    run_id = find_launch(at, known)
    if run_id is None:
        return make_launch(at, spec, request)
    at.client.update_run(run_id, status="RUNNING")
    if _row(at, run_id) is None:  # begun by another host, with a home of its own
        _add_other(at, run_id, request)
    take_over(at.home, at.study, run_id)
    _describe(at, run_id, spec)
    return run_id


def _add_other(at: Place, run_id: str, request: LaunchRequest | None) -> None:
    awaited = awaited_launch(at.home, at.study, at.uri)
    if awaited is not None and request is not None and awaited.token == request.token:
        answer_launch(at.home, at.study, request.token, run_id, doubted=True)
        return
    doubt = {"token": request.token, "doubted": request.asked} if request is not None else {}
    add_launch(at.home, at.study, Launch.here(at.uri, at.experiment_id, run_id, **doubt))


def make_launch(at: Place, spec: dict[str, Any], request: LaunchRequest | None = None) -> str:
    """A new one. What is asked for is noted before, so that a lost answer leaves no second launch: in this home,
    and with a ``request`` wherever that is known."""
    awaited = awaited_launch(at.home, at.study, at.uri)
    if awaited is not None:
        request = LaunchRequest(awaited.token, asked=True)
    request = request or LaunchRequest(uuid.uuid4().hex, asked=False)
    if awaited is None:
        row = Launch.here(at.uri, at.experiment_id, "", token=request.token, described=False)
        add_launch(at.home, at.study, row)
    run = find_by_token(at.client, at.experiment_id, request.token) if request.asked else None
    if run is None:
        tags = _tags(at.study, request.token, spec)
        run = at.client.create_run(at.experiment_id, tags=tags, run_name=at.study)
    run_id = str(run.info.run_id)
    answer_launch(at.home, at.study, request.token, run_id, doubted=request.asked)
    _describe(at, run_id, spec)
    return run_id


def _tags(study: str, token: str, spec: dict[str, Any]) -> dict[str, str]:
    tags = {"calm.study": study, "calm.role": "launch", "calm.token": token}
    tags |= {"mlflow.user": user(), "mlflow.source.name": "calm"}
    if spec.get("question"):
        tags["mlflow.note.content"] = str(spec["question"])
    return tags | {f"calm.{key}": str(spec[key]) for key in ("preset", "objective", "spec_hash") if spec.get(key)}


def _describe(at: Place, run_id: str, spec: dict[str, Any]) -> None:
    row = _row(at, run_id)
    if row is not None and not row.described:
        at.client.log_text(run_id, yaml.safe_dump(spec, sort_keys=False), "spec.yaml")
        describe_launch(at.home, at.study, run_id)


def finish_launch(at: Place, run_id: str, summary: dict[str, Any], artifacts: list[Path]) -> None:
    """Its summary, as metrics and as a file, its artifacts, then its end: as failed where all was in vain."""
    now = int(1000 * time.time())
    numbers = {k: v for k, v in config_file.flatten(summary).items() if type(v) in (int, float)}
    numbers = {k: v for k, v in numbers.items() if not abs(v) > sys.float_info.max}  # of a damaged file
    metrics = [Metric(f"study/{key}", float(value), now, 0) for key, value in sorted(numbers.items())]
    sent = content_hash(summary)
    run = at.client.get_run(run_id)
    if run.data.tags.get("calm.summary") != sent:
        metrics = [metric for metric in metrics if run.data.metrics.get(metric.key) != metric.value]
        for part in chunks(metrics, METRICS_PER_BATCH):  # what has arrived is not sent again
            at.client.log_batch(run_id, metrics=part)
        at.client.log_text(run_id, yaml.safe_dump(summary, sort_keys=False), "summary.yaml")
        at.client.set_tag(run_id, "calm.summary", sent)
    for path in artifacts:
        at.client.log_artifact(run_id, str(path))
    end_launch(at, run_id, "FAILED" if summary.get("in_vain") else "FINISHED")


def end_launch(at: Place, run_id: str, status: str) -> None:
    """With one of MLflow's words for a status."""
    row = _row(at, run_id)
    if row is not None and row.doubted:
        delete_doubles(at.client, at.experiment_id, row.token, run_id)
    at.client.set_terminated(run_id, status=status)
    update_launch(at.home, at.study, run_id, status)


def stop_launch(at: Place, run_id: str, status: str) -> None:
    """End it before its study has; where another host has ended it meanwhile, that stays."""
    shown = at.client.get_run(run_id).info.status
    if shown == "RUNNING":
        end_launch(at, run_id, status)
    else:
        update_launch(at.home, at.study, run_id, shown)


def send_report(client: Any, run_id: str, cursor: ReportCursor, missing: MissingReport) -> None:
    """What is missing of a report; the cursor notes each part when it has arrived."""
    now = int(1000 * time.time())
    has = client.get_run(run_id).data.metrics if missing.metrics else {}  # the answer may have been lost
    metrics = [Metric(key, value, now, missing.step) for key, value in sorted(missing.metrics.items())]
    for part in chunks(metrics, METRICS_PER_BATCH):
        new = [metric for metric in part if has.get(metric.key) != metric.value]
        client.log_batch(run_id, metrics=new)
        cursor.metrics |= {metric.key: metric.value for metric in part}
        cursor.step = missing.step
    for path, (content, digest) in missing.files.items():
        if isinstance(content, Path):
            client.log_artifact(run_id, str(content), str(Path(path).parent))
        else:
            client.log_text(run_id, content, path)
        cursor.files[path] = digest
    for key, value in missing.tags.items():  # last: the description shows what has arrived
        client.set_tag(run_id, key, value)
        cursor.tags[key] = value


def log_datasets(client: Any, run_id: str, given: list[DatasetUse]) -> None:
    """As inputs of the run. One that it has already is not added again, where an answer was lost."""
    inputs = client.get_run(run_id).inputs
    has = {(known.dataset.name, known.dataset.digest) for known in (inputs.dataset_inputs if inputs else [])}
    new = [
        DatasetInput(
            Dataset(
                use.name,
                use.digest,
                source_type=use.source_type,
                source=use.source,
                schema=use.schema,
                profile=use.profile,
            ),
            [InputTag("mlflow.data.context", use.context)],
        )
        for use in given
        if (use.name, use.digest) not in has
    ]
    for left in reversed(range(RACES if new else 0)):
        try:
            client.log_inputs(run_id, datasets=new)
            return
        except MlflowException as error:
            if not (left and error.error_code == "BAD_REQUEST"):  # MLflow's code for a key that exists
                raise


def user() -> str:
    """Name of who runs this, for MLflow's column of users."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _row(at: Place, run_id: str) -> Launch | None:
    return next((row for row in read_launches(at.home, at.study) if row.run_id == run_id), None)

"""What of a run folder is shown to a tracking server, and what of it is still missing there.

Pure: reads the run folder and its cursor, talks to nobody. Names are chosen so that MLflow's own
compare, parallel-coordinates and scatter views work unaided (DESIGN, tracking schema).

The cursor (``mlflow.json`` in the run folder) says what has been delivered. For metrics it keeps the
highest step sent of each key, and a point at or below it is never sent again: a resumed run whose
``metrics.jsonl`` was cut back to its checkpoint leaves no point twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from workbench import config_file, files, formats, processes, records
from workbench.errors import RunError
from workbench.given_files import read_text
from workbench.tracking_datasets import DatasetUse, datasets
from workbench.tracking_home import from_stored, home_of, to_stored
from workbench.tracking_metrics import Point, points
from workbench.tracking_views import SHORT

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader in C, seven times faster, where libyaml is there."""
CURSOR = "mlflow.json"
SINGLE = "single"
"""Experiment of runs outside studies."""
MAX_TEXT = 5000
"""Characters of a tag or parameter; servers refuse or cut above 6,000."""
MAX_STEP = 2**63 - 1
"""Of a point, in databases."""
NAMES = 2
"""Number of the names in use; a run delivered under older ones gets what is new when it is delivered again."""
K_COLOURS = ("#440154", "#31688e", "#20a386", "#b5a100", "#d95f02")
"""Of K = 1, 2, 4, 8 and more in MLflow's charts; token baselines are INK. Those of the report."""
INK = "#111111"

KILLED = "killed"
"""Shown for a run whose record says ``running`` but whose process is gone."""
FINAL_STATUS: dict[str, str] = {
    "running": "RUNNING",
    "completed": "FINISHED",
    "pruned": "FINISHED",  # a regular end decided by the study; KILLED would look like a fault to be repaired
    "failed": "FAILED",
    **dict.fromkeys(records.BAD_NUMBERS, "FAILED"),
    "interrupted": "KILLED",  # can be resumed, which sets it RUNNING again
    KILLED: "KILLED",
}
"""Status of a run to the four of MLflow; the tag ``calm.status`` always has the precise one."""


class Cursor(BaseModel):
    """How far a run folder has been delivered to one tracking server."""

    model_config = ConfigDict(extra="ignore")

    tracking_uri: str
    """Without a password. The home's own database is a mark in the file (``tracking_home``)."""
    token: str
    """Tag of the MLflow run, to find it again if an answer got lost."""
    experiment_id: str = ""
    run_id: str = ""
    doubted: float = 0.0
    """When a run was found or made (seconds since 1970) after an attempt without an answer: what was asked for
    then may yet arrive, as a second run with the same token. 0 where that cannot be."""
    sending: bool = False
    """A batch of metrics was on its way when this was written: ask the server what has arrived."""
    steps: dict[str, int] = {}
    """Highest step sent of each metric."""
    names: int = 0
    """``NAMES`` of the last delivery."""
    params: bool = False
    dataset: bool = False
    tags: dict[str, str] = {}
    artifacts: dict[str, str] = {}
    """Path in the run folder to hash of the content sent."""
    status: str = "RUNNING"
    settled: str = ""
    """``settled_mark`` of the run when everything of it had arrived."""


@dataclass
class Missing:
    """What a server does not have yet."""

    params: dict[str, str] = field(default_factory=dict)
    datasets: list[DatasetUse] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    stale_tags: list[str] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)
    """Path in the run folder to hash."""
    status: str | None = None

    def __bool__(self) -> bool:
        parts = (self.params, self.datasets, self.tags, self.stale_tags, self.points, self.artifacts, self.status)
        return any(parts)


def read_cursor(run_dir: Path | str) -> Cursor | None:
    """None where nothing was delivered, or the file cannot be read (delivery then starts afresh)."""
    try:
        cursor = Cursor.model_validate(files.read_json(Path(run_dir) / CURSOR))
    except (OSError, ValueError, ValidationError):
        return None
    return cursor.model_copy(update={"tracking_uri": from_stored(cursor.tracking_uri, home_of(run_dir))})


def write_cursor(run_dir: Path | str, cursor: Cursor) -> None:
    stored = cursor.model_copy(update={"tracking_uri": to_stored(cursor.tracking_uri, home_of(run_dir))})
    files.write_atomic(Path(run_dir) / CURSOR, stored.model_dump_json(indent=1) + "\n")


def without_password(uri: str) -> str:
    """``http://me:secret@host`` to ``http://me:***@host``: what may be stored and printed."""
    try:
        password = urlsplit(uri).password
    except ValueError:
        return uri
    return uri.replace(f":{password}@", ":***@", 1) if password else uri


def find_missing(run_dir: Path, record: records.RunRecord, cursor: Cursor, *, final: bool = False) -> Missing:
    """Compare the run folder with the cursor. Sampled texts are due at once, other artifacts when the run has
    ended, or ``final``.

    Raises RunError where the folder cannot be read, or holds what no run leaves behind: a configuration of another
    shape, numbers that are not finite or that no server holds."""
    try:
        return _find_missing(run_dir, record, cursor, final=final)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        why = f"{type(error).__name__}: {error}"
        raise RunError(f"{run_dir} holds what cannot be shown ({why}); bring its files back from a copy") from None


def _find_missing(run_dir: Path, record: records.RunRecord, cursor: Cursor, *, final: bool) -> Missing:
    status = effective_status(run_dir, record)
    ended = final or status != "running"
    tree = read_config(run_dir)
    tags = run_tags(record, tree, status)
    due = artifact_hashes(run_dir, ended=ended)
    wanted = FINAL_STATUS[status]
    current = cursor.names == NAMES
    since = cursor.steps.get("train/loss", -1) if current else -1
    return Missing(
        params={} if cursor.params and current else run_params(tree),
        datasets=[] if (cursor.dataset and current) or not record.data_hash else datasets(run_dir, record, tree),
        tags={key: value for key, value in tags.items() if cursor.tags.get(key) != value},
        stale_tags=[key for key in cursor.tags if key not in tags],
        points=_new_points(points(run_dir, record, ended=ended, since=since), cursor),
        artifacts={path: digest for path, digest in due.items() if cursor.artifacts.get(path) != digest},
        status=wanted if wanted != cursor.status else None,
    )


def settled_mark(run_dir: Path, record: records.RunRecord) -> str:
    """Of a run that has ended: another one once it has been continued. Empty for a run that is at work."""
    status = effective_status(run_dir, record)
    if status == "running":
        return ""
    points = run_dir / records.METRICS
    return f"{status} at step {record.step}, {points.stat().st_size if points.exists() else 0} bytes of points"


def effective_status(run_dir: Path, record: records.RunRecord) -> str:
    """The record's status, or ``killed`` where it says ``running`` but its process is gone; one in another
    container of this machine, where nobody holds the run's folder any more."""
    if record.status != "running":
        return record.status
    process = record.environment.get("process")
    if isinstance(process, dict):
        return KILLED if processes.gone(process, run_dir / files.CLAIM) else "running"
    since = (run_dir / records.RECORD).stat().st_mtime
    gone = process_gone(record.environment.get("pid"), record.environment.get("host"), since)
    return KILLED if gone else "running"


def process_gone(pid: object, host: object, since: float) -> bool:
    """Whether process ``pid`` of this host, alive at ``since`` (seconds since 1970), is no more. For what earlier
    versions have written, which did not say more of it (``workbench.processes``).

    False where it cannot be known: no pid recorded, or another host."""
    if not isinstance(pid, int) or host != socket.gethostname():
        return False
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return bool(process.create_time() > since + 2)  # the number was given to a newer process
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def run_params(tree: dict[str, Any]) -> dict[str, str]:
    """Dotted names of the resolved configuration. A baseline has no autoencoder, so none is shown. And
    ``shared_params``."""
    flat = config_file.flatten(tree)
    skipped = "name" if tree["model"]["kind"] == "calm" else ("name", "autoencoder.")
    shown = {k: _text(value) for k, value in flat.items() if value is not None and not k.startswith(skipped)}
    return shown | shared_params(tree)


def shared_params(tree: dict[str, Any]) -> dict[str, str]:
    """The few that mean the same for CALM and for token baselines, and those with a long name that studies vary
    most. MLflow leaves a run without a parameter out of its charts, or draws it where it does not belong, and
    offers the first three parameters that differ: hence the capitals, which sort before the other names."""
    shown = {"Family": family(tree["model"])}
    width = (tree["model"].get("backbone") or {}).get("width")
    budget = (tree.get("train") or {}).get("train_flops")
    if width is not None:
        shown["Width"] = _text(width)
    if budget:
        shown["FLOPs log10"] = f"{math.log10(float(budget)):.2f}"
    flat = config_file.flatten(tree)
    for field_name, short in SHORT.items():
        value = flat.get(field_name)
        if value is not None and (tree["model"]["kind"] == "calm" or not field_name.startswith("autoencoder.")):
            shown[short] = _text(value)
    return shown


def family(model: dict[str, Any]) -> str:
    """``baseline``, ``K=4``, ``K=4 flow`` (the energy head is not named). No number even for baselines, which have
    no K: MLflow drops what is no number from an axis of numbers."""
    if model["kind"] != "calm":
        return "baseline"
    head = (model.get("head") or {}).get("kind", "energy")
    return f"K={model.get('chunk_size')}" + ("" if head == "energy" else f" {head}")


def colour(model: dict[str, Any]) -> str:
    """Of the run in MLflow's charts: the report's, by K."""
    if model["kind"] != "calm":
        return INK
    return K_COLOURS[min(int(math.log2(max(1, model.get("chunk_size", 1)))), len(K_COLOURS) - 1)]


def run_tags(record: records.RunRecord, tree: dict[str, Any], status: str) -> dict[str, str]:
    """Tags to filter and group by, the diagnostics among them."""
    environment = record.environment
    values: dict[str, Any] = {
        "calm.study": record.study,
        "calm.role": record.role,
        "calm.trial": record.trial,
        "calm.run_id": record.run_id,
        "calm.chunk_size": tree["model"].get("chunk_size", 1),
        "calm.head": record.head,
        "calm.kind": record.kind,
        "mlflow.runColor": colour(tree["model"]),
        "calm.seed": record.seed,
        "calm.config_hash": record.config_hash,
        "calm.data_hash": record.data_hash,
        "calm.eval_fingerprint": record.eval_fingerprint,
        "calm.status": status,
        "calm.reason": record.reason,
        "calm.final_phase": record.final.phase if record.final else None,
        "calm.git_diff_hash": environment.get("git_diff_hash"),
        "mlflow.source.git.commit": environment.get("git_commit"),
    }
    values |= {f"diagnostic.{item.code}": item.message or item.code for item in record.diagnostics}
    return {key: _text(value) for key, value in values.items() if value not in (None, "")}


def artifact_hashes(run_dir: Path, *, ended: bool = True) -> dict[str, str]:
    """Files shown as artifacts: the text sampled at each evaluation, and of an ended run its configuration,
    record, autoencoder report and everything in plots/."""
    shown = _visible(run_dir / records.SAMPLE_TEXTS)
    if ended:
        shown += _visible(run_dir / records.PLOTS)
        shown += [run_dir / name for name in (records.CONFIG, records.RECORD, records.AUTOENCODER)]
    return {str(path.relative_to(run_dir)): _digest(path) for path in sorted(shown) if path.is_file()}


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.name.startswith(".")]


def _new_points(given: Iterator[Point], cursor: Cursor) -> list[Point]:
    """Those after the last step sent, at most one for a key and step."""
    new = {(point.key, point.step): point for point in given if point.step > cursor.steps.get(point.key, -1)}
    if any(step > MAX_STEP for _, step in new):
        raise OverflowError(f"a step above {MAX_STEP}")
    return list(new.values())


def read_config(run_dir: Path) -> dict[str, Any]:
    """The configuration as a mapping. Raises RunError."""
    path = run_dir / records.CONFIG
    try:
        tree = formats.CONFIG.read(dict(yaml.load(read_text(path), Loader=_LOADER)), path)
        return {**tree, "data": dict(tree["data"]), "model": dict(tree["model"])}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.name == records.RECORD:  # the link to MLflow is put in after delivery and is no news to it
        content = json.dumps({**json.loads(content), "mlflow": None}, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."

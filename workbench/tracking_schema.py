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
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from workbench import config_file, files, records
from workbench.errors import RunError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader in C, seven times faster, where libyaml is there."""
CURSOR = "mlflow.json"
SINGLE = "single"
"""Experiment of runs outside studies."""
MAX_TEXT = 5000
"""Characters of a tag or parameter; servers refuse or cut above 6,000."""

KILLED = "killed"
"""Shown for a run whose record says ``running`` but whose process is gone."""
FINAL_STATUS = {
    "running": "RUNNING",
    "completed": "FINISHED",
    "pruned": "FINISHED",  # a regular end decided by the study; KILLED would look like a fault to be repaired
    "failed": "FAILED",
    "not_finite": "FAILED",
    "interrupted": "KILLED",  # can be resumed, which sets it RUNNING again
    KILLED: "KILLED",
}
"""Status of a run to the four of MLflow; the tag ``calm.status`` always has the precise one."""


class Cursor(BaseModel):
    """How far a run folder has been delivered to one tracking server."""

    model_config = ConfigDict(extra="ignore")

    tracking_uri: str
    """Without a password."""
    token: str
    """Tag of the MLflow run, to find it again if an answer got lost."""
    experiment_id: str = ""
    run_id: str = ""
    sending: bool = False
    """A batch of metrics was on its way when this was written: ask the server what has arrived."""
    steps: dict[str, int] = {}
    """Highest step sent of each metric."""
    params: bool = False
    dataset: bool = False
    tags: dict[str, str] = {}
    artifacts: dict[str, str] = {}
    """Path in the run folder to hash of the content sent."""
    status: str = "RUNNING"


@dataclass(frozen=True)
class Point:
    """One value of a metric."""

    key: str
    value: float
    step: int
    timestamp: int
    """Milliseconds since 1970."""


@dataclass
class Missing:
    """What a server does not have yet."""

    params: dict[str, str] = field(default_factory=dict)
    dataset: dict[str, str] | None = None
    """name, digest, source."""
    tags: dict[str, str] = field(default_factory=dict)
    stale_tags: list[str] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)
    """Path in the run folder to hash."""
    status: str | None = None

    def __bool__(self) -> bool:
        parts = (self.params, self.dataset, self.tags, self.stale_tags, self.points, self.artifacts, self.status)
        return any(parts)


def read_cursor(run_dir: Path | str) -> Cursor | None:
    """None where nothing was delivered, or the file cannot be read (delivery then starts afresh)."""
    try:
        return Cursor.model_validate(files.read_json(Path(run_dir) / CURSOR))
    except (OSError, ValueError, ValidationError):
        return None


def write_cursor(run_dir: Path | str, cursor: Cursor) -> None:
    files.write_atomic(Path(run_dir) / CURSOR, cursor.model_dump_json(indent=1) + "\n")


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

    Raises RunError where the folder cannot be read."""
    status = effective_status(run_dir, record)
    ended = final or status != "running"
    tree = _config(run_dir)
    tags = run_tags(record, tree, status)
    due = artifact_hashes(run_dir, ended=ended)
    wanted = FINAL_STATUS[status]
    return Missing(
        params={} if cursor.params else run_params(tree),
        dataset=None if cursor.dataset or not record.data_hash else dataset(record, tree),
        tags={key: value for key, value in tags.items() if cursor.tags.get(key) != value},
        stale_tags=[key for key in cursor.tags if key not in tags],
        points=_new_points(points(run_dir, record, ended=ended, since=cursor.steps.get("train/loss", -1)), cursor),
        artifacts={path: digest for path, digest in due.items() if cursor.artifacts.get(path) != digest},
        status=wanted if wanted != cursor.status else None,
    )


def effective_status(run_dir: Path, record: records.RunRecord) -> str:
    """The record's status, or ``killed`` where it says ``running`` but its process is gone."""
    if record.status != "running":
        return record.status
    since = (run_dir / records.RECORD).stat().st_mtime
    gone = process_gone(record.environment.get("pid"), record.environment.get("host"), since)
    return KILLED if gone else "running"


def process_gone(pid: object, host: object, since: float) -> bool:
    """Whether process ``pid`` of this host, alive at ``since`` (seconds since 1970), is no more.

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
    """Dotted names of the resolved configuration. A baseline has no autoencoder, so none is shown."""
    flat = config_file.flatten(tree)
    skipped = "name" if tree["model"]["kind"] == "calm" else ("name", "autoencoder.")
    return {key: _text(value) for key, value in flat.items() if value is not None and not key.startswith(skipped)}


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


def dataset(record: records.RunRecord, tree: dict[str, Any]) -> dict[str, str]:
    """The corpus as MLflow's dataset input: its name, hash, and how it was made."""
    return {
        "name": _text(tree["data"]["corpus"])[:500],
        "digest": record.data_hash[:36],
        "source": json.dumps({"tags": {k: _text(v) for k, v in config_file.flatten(tree["data"]).items()}}),
    }


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


def points(run_dir: Path, record: records.RunRecord, *, ended: bool, since: int = -1) -> Iterator[Point]:
    """The metrics that stand in the run folder, in order of step for each key; training points only
    after step ``since``, as there may be many."""
    start = milliseconds(record.created)
    try:
        evaluations = records.read_evaluations(run_dir)
        train = records.read_train_points(run_dir)
        report = records.read_autoencoder_report(run_dir)
    except (OSError, ValueError) as error:
        raise RunError(f"the metrics in {run_dir} cannot be read: {error}") from None
    yield from _static(report, record, start)
    clock = {point.step: start + round(1000 * point.seconds) for point in train}
    rows = [(p.step, clock[p.step], _train_metrics(p)) for p in train if p.step > since]
    for evaluation in evaluations:
        time = max((t for step, t in clock.items() if step <= evaluation.step), default=start)
        rows.append((evaluation.step, time, _evaluation_metrics(evaluation)))
    for step, time, metrics in sorted(rows, key=lambda row: row[0]):
        for key, value in metrics.items():
            if value is not None:
                yield Point(key, value, step, time)
    if ended:
        time = max(clock.values(), default=start)
        for key, value in record.compute.items():
            yield Point(f"compute/{key}", value, record.step, time)
        for call in record.call_curve:
            for key, value in _call_metrics(call).items():
                yield Point(key, value, call.network_calls, time)


def _new_points(given: Iterator[Point], cursor: Cursor) -> list[Point]:
    """Those after the last step sent, at most one for a key and step."""
    new = {(point.key, point.step): point for point in given if point.step > cursor.steps.get(point.key, -1)}
    return list(new.values())


def milliseconds(iso: str) -> int:
    """Since 1970, of an ISO date."""
    try:
        return round(1000 * datetime.fromisoformat(iso).timestamp())
    except ValueError:
        return 0


def _train_metrics(point: records.TrainPoint) -> dict[str, float | None]:
    return {
        "train/loss": point.loss,
        "train/grad_norm": point.grad_norm,
        "train/lr": point.lr,
        "speed/tokens_per_second": point.tokens_per_second,
        "compute/train_flops": point.train_flops,
        "compute/train_tokens": float(point.tokens),
    }


def _evaluation_metrics(evaluation: records.Evaluation) -> dict[str, float | None]:
    """Compute is repeated at the evaluation's step, so that a chart can have it as its axis."""
    brier = evaluation.brier
    metrics: dict[str, float | None] = {
        "eval/brierlm": brier.brierlm,
        "eval/brierlm_se": brier.brierlm_se,
        "eval/brierlm_low": brier.brierlm_low,
        "eval/brierlm_high": brier.brierlm_high,
        "eval/score": brier.score,
        "eval/num_positions": float(brier.num_positions),
        "eval/cross_entropy": evaluation.cross_entropy,
        "eval/cross_entropy_se": evaluation.cross_entropy_se,
        "eval/bits_per_byte": evaluation.bits_per_byte,
        "eval/byte_perplexity": evaluation.byte_perplexity,
        "eval/head_loss": evaluation.head_loss,
        "eval/head_loss_shuffled": evaluation.head_loss_shuffled,
        "eval/head_loss_gain_se": evaluation.head_loss_gain_se,
        "eval/seconds": evaluation.seconds,
        "compute/train_flops": evaluation.train_flops,
        "compute/train_tokens": float(evaluation.tokens),
    }
    for n, (value, error) in enumerate(zip(brier.brier, brier.brier_se, strict=True), start=1):
        metrics |= {f"eval/brier_{n}": value, f"eval/brier_{n}_se": error}
    return metrics


def _static(report: records.AutoencoderReport | None, record: records.RunRecord, start: int) -> Iterator[Point]:
    """What does not change during a run, at step 0."""
    values: dict[str, float | None] = {f"parameters/{k}": float(v) for k, v in record.parameters.items()}
    if report is not None:
        values |= {
            "ae/token_accuracy": report.token_accuracy,
            "ae/posterior_accuracy": report.posterior_accuracy,
            "ae/num_collapsed": float(report.num_collapsed),
            "ae/train_flops": report.train_flops,
            "ae/train_seconds": report.train_seconds,
        }
        values |= {f"ae/noise_accuracy_{point.noise:g}": point.accuracy for point in report.noise_accuracy}
    for name, floor in record.floors.items():
        values |= {f"floor/{name}_brierlm": floor.brierlm, f"floor/{name}_cross_entropy": floor.cross_entropy}
        values |= {f"floor/{name}_brier_{n}": value for n, value in enumerate(floor.brier, start=1)}
    if record.overlap is not None:
        values["data/seen_share"] = record.overlap.token_share
    if record.bottleneck is not None:
        values |= _bottleneck(record.bottleneck)
    for key, value in values.items():
        if value is not None:
            yield Point(key, value, 0, start)


def _bottleneck(panel: records.Bottleneck) -> dict[str, float | None]:
    """Where the quality is lost, of the last evaluation (known when the run has ended)."""
    values: dict[str, float | None] = {
        "bottleneck/head_noise": panel.head_noise,
        "bottleneck/effective_rank_posterior": panel.effective_rank_posterior,
        "bottleneck/effective_rank_samples": panel.effective_rank_samples,
    }
    names = ("brier", "autoencoder_brier", "noisy_brier", "mode_accuracy", "sample_accuracy", "shuffled_brier")
    for name in names:
        values |= {f"bottleneck/{name}_{n}": v for n, v in enumerate(getattr(panel, name), start=1)}
    return values


def _call_metrics(point: records.CallPoint) -> dict[str, float]:
    """By solver, logged at step = number of network calls, so that MLflow draws them against it."""
    return {
        f"calls/{point.solver}/brierlm": point.brier.brierlm,
        f"calls/{point.solver}/brierlm_se": point.brier.brierlm_se,
        f"calls/{point.solver}/infer_flops_per_token": point.infer_flops_per_token,
    }


def _config(run_dir: Path) -> dict[str, Any]:
    path = run_dir / records.CONFIG
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
        return {"data": dict(tree["data"]), "model": dict(tree["model"]), **tree}
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

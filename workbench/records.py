"""What a run leaves behind. A run folder is the truth; MLflow mirrors it; ``analysis`` reads it.

    config.yaml         the resolved RunConfig
    record.json         RunRecord, rewritten whole at every change of state
    metrics.jsonl       TrainPoint lines
    evaluations.jsonl   Evaluation lines
    autoencoder.json    AutoencoderReport of the autoencoder used (CALM runs)
    autoencoder.safetensors  its weights: the run does not depend on the cache
    checkpoint/         weights (safetensors), optimizer state, position in the data
    plots/              figures, mirrored to MLflow as artifacts

Imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from workbench import files
from workbench.errors import RunError

Status = Literal["running", "completed", "pruned", "failed", "not_finite", "interrupted"]
Phase = Literal["warmup", "constant", "decaying", "decayed"]
"""Where on its schedule the rate was at an evaluation. Frontier points are compared only within
``constant`` or within ``decayed`` (DESIGN rule 5)."""

RECORD, CONFIG, METRICS, EVALUATIONS = "record.json", "config.yaml", "metrics.jsonl", "evaluations.jsonl"
AUTOENCODER, CHECKPOINT, PLOTS = "autoencoder.json", "checkpoint", "plots"
AUTOENCODER_WEIGHTS = "autoencoder.safetensors"


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")


class TrainPoint(Record):
    """One logged training step. ``loss`` is the mean since the last point."""

    step: int
    tokens: int
    train_flops: float
    """Executed so far (workbench.flops)."""
    loss: float
    grad_norm: float
    lr: float
    tokens_per_second: float
    seconds: float
    """Training time so far, without evaluations."""


class Brier(Record):
    """Brier-1 ... Brier-4 in per cent and BrierLM, with standard errors (METHOD section 5)."""

    brier: list[float]
    brier_se: list[float]
    brierlm: float
    brierlm_se: float
    num_positions: int
    num_clusters: int
    score: float
    """BrierLM where every order lies above two of its errors; below, a smooth per-order score on the same scale
    (``brier.smooth_score``)."""


class Evaluation(Record):
    """One evaluation at a point of training."""

    step: int
    tokens: int
    train_flops: float
    phase: Phase
    fingerprint: str
    brier: Brier
    cross_entropy: float | None = None
    """Nats per token, token baselines only."""
    energy_loss: float | None = None
    """On held-out positions, CALM only (any head's loss)."""
    energy_loss_shuffled: float | None = None
    """The same with hidden states exchanged between positions."""
    energy_loss_gain_se: float | None = None
    """Standard error of (shuffled - true)."""
    seconds: float = 0.0


class NoisePoint(Record):
    noise: float
    accuracy: float


class AutoencoderReport(Record):
    """Evaluation of an autoencoder on held-out chunks (METHOD section 1)."""

    hash: str
    chunk_size: int
    latent_dim: int
    kl_floor: float
    token_accuracy: float
    posterior_accuracy: float
    """Under z ~ q(z|x)."""
    noise_accuracy: list[NoisePoint]
    """Token accuracy with N(0, s^2) added to the mean, s = 0, 0.1 ... 0.5."""
    kl_per_dim: list[float]
    """Nats, mean over held-out chunks."""
    std_per_dim: list[float]
    """Root mean square of sigma."""
    num_collapsed: int
    train_flops: float
    train_seconds: float
    num_chunks: int


class Floor(Record):
    """An n-gram table scored on the same positions; Brier-n in per cent, exact."""

    brier: list[float]
    brierlm: float
    cross_entropy: float | None = None


class Diagnostic(Record):
    code: str
    """Short and stable: collapse, reconstruction, brittle_decoder, not_finite, brierlm_zero,
    below_floor, ignores_context, identical_draws."""
    message: str


class MlflowLink(Record):
    tracking_uri: str
    experiment_id: str
    run_id: str


class RunRecord(Record):
    """State of a run, at the start, when it ends, and whenever it changes."""

    run_id: str
    name: str
    study: str | None = None
    """Name of the launched study."""
    role: Literal["run", "trial", "baseline", "check"] = "run"
    """Part in a study: searched trial, token baseline, sensitivity check."""
    trial: int | None = None
    """Number in its Optuna study."""
    seed: int = 0
    kind: Literal["calm", "baseline"]
    head: str | None = None
    status: Status = "running"
    reason: str = ""
    """Why it failed or was stopped."""
    config_hash: str
    data_hash: str = ""
    eval_fingerprint: str = ""
    created: str
    finished: str | None = None
    step: int = 0
    num_steps: int = 0
    tokens: int = 0
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    tokens_per_second: float = 0.0
    parameters: dict[str, int] = {}
    compute: dict[str, float] = {}
    """train_flops (executed, at the end), train_flops_published, infer_flops_per_token (executed),
    infer_flops_per_token_published, autoencoder_train_flops."""
    final: Evaluation | None = None
    floors: dict[str, Floor] = {}
    """unigram, bigram, trigram."""
    diagnostics: list[Diagnostic] = []
    environment: dict[str, Any] = {}
    """python, platform, cpu, cores, threads, versions {package: version}, git_commit, git_diff_hash."""
    mlflow: MlflowLink | None = None


def write_record(run_dir: Path, record: RunRecord) -> None:
    files.write_atomic(Path(run_dir) / RECORD, record.model_dump_json(indent=1) + "\n")


def read_record(run_dir: Path | str) -> RunRecord:
    """Raises RunError where the folder is not a run's."""
    path = Path(run_dir) / RECORD
    try:
        return RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{run_dir} is not a run folder: it has no {RECORD}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def read_evaluations(run_dir: Path | str) -> list[Evaluation]:
    return [Evaluation.model_validate(row) for row in files.read_json_lines(Path(run_dir) / EVALUATIONS)]


def read_train_points(run_dir: Path | str) -> list[TrainPoint]:
    return [TrainPoint.model_validate(row) for row in files.read_json_lines(Path(run_dir) / METRICS)]


def read_autoencoder_report(run_dir: Path | str) -> AutoencoderReport | None:
    path = Path(run_dir) / AUTOENCODER
    return AutoencoderReport.model_validate(files.read_json(path)) if path.exists() else None


def find_runs(root: Path | str) -> list[Path]:
    """All run folders under ``root``, oldest first. Copies of records among MLflow's artifacts, and what
    lies in hidden folders, are no runs."""
    root = Path(root)

    def is_run(path: Path) -> bool:
        parts = path.relative_to(root).parts
        return not any(part == "mlartifacts" or part.startswith(".") for part in parts)

    def age(run_dir: Path) -> float:
        config = run_dir / CONFIG
        return (config if config.exists() else run_dir / RECORD).stat().st_mtime

    return sorted((path.parent for path in root.rglob(RECORD) if is_run(path)), key=age)

"""What a run leaves behind. A run folder is the truth; MLflow mirrors it; ``analysis`` reads it.

    config.yaml         the resolved RunConfig
    record.json         RunRecord, rewritten whole at every change of state
    metrics.jsonl       TrainPoint lines
    positions.npz       Brier estimates of every position at the last evaluation (workbench.positions)
    floors.npz          the n-gram tables' scores of the same positions
    evaluations.jsonl   Evaluation lines
    samples.jsonl       SampleText lines: a text sampled at each evaluation
    samples/            the same as text files, mirrored to MLflow as artifacts
    autoencoder.json    AutoencoderReport of the autoencoder used (CALM runs)
    autoencoder.safetensors  its weights: the run does not depend on the cache
    checkpoint/         weights (safetensors), optimizer state, position in the data
    plots/              figures, mirrored to MLflow as artifacts
    data.json           texts trained and scored on (workbench.lineage)
    system.jsonl        what the training took of its machine (workbench.system_usage)
    code.diff           what was not committed of the workbench's code, if anything (workbench.code_state)
    rerun.json          of a rerun only: which run it repeats (workbench.rerun)

Imports no torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from workbench import files, formats, stored
from workbench.errors import RunError

Status = Literal["running", "completed", "pruned", "failed", "not_finite", "diverged", "collapsed", "interrupted"]
BAD_NUMBERS: tuple[Status, ...] = ("not_finite", "diverged", "collapsed")
"""Ended because training led nowhere: the loss is no number, it has exploded, the autoencoder carries nothing."""
FINISHED: tuple[Status, ...] = ("completed", "pruned", *BAD_NUMBERS)
"""Ended for good: such a run is never taken up again."""
Phase = Literal["warmup", "constant", "decaying", "decayed"]
"""Where on its schedule the rate was at an evaluation. Frontier points are compared only within
``constant`` or within ``decayed`` (DESIGN rule 5)."""

RECORD, CONFIG, METRICS, EVALUATIONS = "record.json", "config.yaml", "metrics.jsonl", "evaluations.jsonl"
SAMPLES, SAMPLE_TEXTS = "samples.jsonl", "samples"
AUTOENCODER, CHECKPOINT, PLOTS = "autoencoder.json", "checkpoint", "plots"
AUTOENCODER_WEIGHTS = "autoencoder.safetensors"
RERUN, IMPORTED = "rerun.json", "imported.json"
REMEDY = "bring it back from a copy, or delete the run's folder to start it from its beginning"
"""Where a part is damaged that a run cannot do without."""


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
    """Before clipping; of the last step before this point."""
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
    brierlm_low: float | None = None
    brierlm_high: float | None = None
    """95 % interval of BrierLM: delta method with t quantiles, or [0, upper bound] where ``weak_orders`` are
    named; None with fewer than two clusters."""
    weak_orders: list[int] = []
    """Orders (1 to 4) that lie within three of their errors of 0: the delta method does not hold there."""
    bootstrap_se: float | None = None
    """The same error from resampled clusters, as a cross-check."""
    num_positions: int
    num_clusters: int
    num_windows: int | None = None
    rounds: int = 1
    """How often S samples were drawn at every position; values are means over rounds."""
    score: float
    """BrierLM where every order lies above two of its errors; below, a smooth per-order score on the same scale
    (``uncertainty.smooth_score``)."""

    def words(self) -> str:
        """``3.23 ± 0.22``; ``[0, 1.31]`` where an order is too near 0 for a standard error; ``0.00`` where one is
        surely below."""
        if self.weak_orders and self.brierlm_high is not None:
            if self.brierlm_high < 0.005:
                return "0.00"
            return f"[0, {self.brierlm_high:.2f}]"
        return f"{self.brierlm:.2f} ± {self.brierlm_se:.2f}"


class Evaluation(Record):
    """One evaluation at a point of training."""

    step: int
    tokens: int
    train_flops: float
    phase: Phase
    fingerprint: str
    brier: Brier
    cross_entropy: float | None = None
    """Nats per token, token baselines only; over all tokens of the windows that have the least context."""
    cross_entropy_se: float | None = None
    bits_per_byte: float | None = None
    """The same per UTF-8 byte of the text, end tokens left out: comparable between tokenizers."""
    byte_perplexity: float | None = None
    """2 ** bits_per_byte; None where that is more than a float holds."""
    network_calls: int | None = None
    """Of the head, for one sample; CALM only."""
    solver: str | None = None
    """Of the head, where it has several network calls."""
    wanted_se: float | None = None
    """``eval.target_se`` where this evaluation drew more positions or samples to reach it."""
    stopped_by: Literal["target", "budget", "text"] | None = None
    """Why it drew no more: the error was reached, ``eval.max_positions`` was spent, or the split holds no more
    text and more samples would not help."""
    head_loss: float | None = None
    """On held-out positions, CALM only."""
    head_loss_shuffled: float | None = None
    """The same with hidden states exchanged between positions."""
    head_loss_gain_se: float | None = None
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


class Bottleneck(Record):
    """Where a CALM's quality is lost, on some of the windows that it is scored on. Lists run over the orders
    1 ... min(K, 4) that one chunk holds; scores and accuracies are in per cent."""

    num_positions: int
    num_samples: int
    """S drawn at each of the positions."""
    brier: list[float]
    """Brier-n of the model there."""
    autoencoder_brier: list[float]
    """Of encoding and decoding the truth (posterior mean): what the autoencoder alone leaves possible."""
    noisy_brier: list[float]
    """The same with the noise that the head makes added to the posterior mean."""
    head_noise: float
    """Root mean square, per latent dimension, of a sampled vector minus the posterior mean of the tokens it
    decodes to (understated where that is a wrong chunk)."""
    posterior_noise: float
    """Root mean square of the posterior's sigma, to compare with."""
    mode_accuracy: list[float]
    """Share of positions whose most frequent n-gram among the samples is the true one."""
    sample_accuracy: list[float]
    """Mean share of samples that are right."""
    shuffled_brier: list[float]
    """Brier-n with another window's hidden states."""
    effective_rank_posterior: float
    """exp(entropy of the covariance's eigenvalues) of the posterior means; at most L."""
    effective_rank_samples: float
    """The same of the head's samples; 0 where they do not vary."""
    latent_dim: int


class CallPoint(Record):
    """A finished CALM scored with some number of network calls per sample (``eval.network_calls``)."""

    network_calls: int
    """As made, which may be fewer than asked for."""
    solver: str
    """``energy`` for the energy head."""
    infer_flops_per_token: float
    """Executed, head and all."""
    brier: Brier
    seconds: float


class TradeoffPoint(Record):
    """How sharp and how right a sampler's draws are, at the first chunk after each scored position (per cent)."""

    sampler: Literal["exact", "batch", "noise", "softmax"]
    temperature: float | None = None
    """tau, but for ``noise``."""
    batch_size: int | None = None
    """N of ``batch``."""
    noise_scale: float | None = None
    num_tokens: int
    """Tokens that are compared: a chunk."""
    accuracy: float
    """Probability of the true chunk."""
    accuracy_se: float
    collision: float
    """Probability that two draws agree."""
    collision_se: float
    calls_per_chunk: float
    """Draws from the plain sampler for one chunk."""
    fallback_share: float = 0.0
    """Chunks of ``exact`` that its budget did not pay for, drawn by ``batch``."""
    seconds_per_token: float
    num_positions: int


class SampleText(Record):
    """Text sampled at an evaluation."""

    step: int
    tokens: int
    sampler: str
    temperature: float
    prompt: str
    text: str
    """Without the prompt."""


class Overlap(Record):
    """Evaluated text that also occurs in the training text."""

    span_bytes: int
    """Length of the spans that are looked for."""
    token_share: float
    """Share of the evaluated tokens that lie in a span that the training text has too."""
    window_share: float
    """Share of windows of which more than half lies in such spans."""
    longest: str = ""
    """Beginning of the longest such stretch."""
    longest_tokens: int = 0


class Floor(Record):
    """An n-gram table scored on the same positions; Brier-n in per cent, exact."""

    brier: list[float]
    brierlm: float
    cross_entropy: float | None = None


class Diagnostic(Record):
    code: str
    """Short and stable: collapse, reconstruction, brittle_decoder, not_finite, diverged, collapsed, brierlm_zero,
    below_floor, ignores_context, identical_draws, seen_text, alpha_below_one, gradient_norm, other_head_code."""
    message: str


class MlflowLink(Record):
    tracking_uri: str
    experiment_id: str
    run_id: str


class RunRecord(Record):
    """State of a run, at the start, when it ends, and whenever it changes."""

    format: int = formats.RUN
    """Of the folder (``workbench.formats``)."""
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
    infer_flops_per_token_published, autoencoder_train_flops. And train_flops by group where there is one:
    language_model_train_flops, head_..., loss_..., target_encoder_..., auxiliary_..., optimizer_train_flops
    (``workbench.compute_account.GROUPS``)."""
    final: Evaluation | None = None
    floors: dict[str, Floor] = {}
    """unigram, bigram, trigram."""
    overlap: Overlap | None = None
    bottleneck: Bottleneck | None = None
    """Of the last evaluation; CALM only."""
    call_curve: list[CallPoint] = []
    """BrierLM by network calls; CALM with ``eval.network_calls`` only."""
    tradeoff: list[TradeoffPoint] = []
    """Samplers compared; with ``eval.tradeoff`` only."""
    diagnostics: list[Diagnostic] = []
    environment: Annotated[dict[str, Any], AfterValidator(stored.checked_environment)] = {}
    """python, platform, cpu, cores, threads, versions {package: version}, and the state of the code
    (``workbench.code_state``): git_commit, git_diff_hash, code_hash, code_version. ``earlier``: the same of
    earlier sessions of an interrupted run that ran on something else."""
    mlflow: MlflowLink | None = None


def write_config(run_dir: Path, text: str) -> None:
    """What a session of a run writes first, once it has claimed the folder and the run is not finished: nobody
    else writes there but who shows it or scores it, and what a killed session has left half-written is removed."""
    files.remove_unfinished(Path(run_dir), shared=("mlflow.json", "evaluation-", "positions", "sampling-"))
    files.write_atomic(Path(run_dir) / CONFIG, text)


def write_record(run_dir: Path, record: RunRecord) -> None:
    files.write_atomic(Path(run_dir) / RECORD, record.model_dump_json(indent=1) + "\n")


def read_record(run_dir: Path | str) -> RunRecord:
    """Also of an older version. Raises RunError where the folder is not a run's, or a newer version's."""
    path = Path(run_dir) / RECORD
    try:
        return RunRecord.model_validate(formats.RECORD.read(files.read_json(path), path))
    except FileNotFoundError:
        raise RunError(f"{run_dir} is not a run folder: it has no {RECORD}") from None
    except (OSError, ValueError) as error:
        files.raise_unreadable(path, error)
        advice = "restore it from a copy, or delete the folder and train the run again"
        raise RunError(f"{path} cannot be read: {stored.reason(error)}; {advice}") from None


def read_evaluations(run_dir: Path | str) -> list[Evaluation]:
    """Like the two after it: raises RunError with file and line where one is damaged."""
    return stored.read_lines(Path(run_dir) / EVALUATIONS, Evaluation, formats.evaluation_line)


def read_train_points(run_dir: Path | str) -> list[TrainPoint]:
    return stored.read_lines(Path(run_dir) / METRICS, TrainPoint)


def read_samples(run_dir: Path | str) -> list[SampleText]:
    return stored.read_lines(Path(run_dir) / SAMPLES, SampleText)


def read_autoencoder_report(run_dir: Path | str) -> AutoencoderReport | None:
    """None where there is none. Raises RunError where it is damaged."""
    path = Path(run_dir) / AUTOENCODER
    return stored.read_object(path, AutoencoderReport, REMEDY) if path.exists() else None


def find_runs(root: Path | str) -> list[Path]:
    """All run folders under ``root``, oldest first. Copies of records among MLflow's artifacts, and what
    lies in hidden folders, are no runs; what lies in a run folder is not looked at."""
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name != "mlartifacts" and not name.startswith(".")]
        if RECORD in names:
            found.append(Path(folder))
            subfolders.clear()

    def age(run_dir: Path) -> float:
        config = run_dir / CONFIG
        return (config if config.exists() else run_dir / RECORD).stat().st_mtime

    return sorted(found, key=age)

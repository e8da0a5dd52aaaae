"""The table of runs: run folders in, pandas frames out.

A run folder that cannot be read is left out and named in ``RunTable.warnings``; a report about
nineteen good runs must not fail because of a twentieth. Scores are BrierLM (0 to 100), Brier-n in
per cent, cross-entropy in nats per token, compute in FLOPs as executed.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from workbench import files, records
from workbench.config_file import flatten
from workbench.errors import RunError, StudyError

ORDERS = (1, 2, 3, 4)
FLOORS = ("unigram", "bigram", "trigram")
SINGLE = "single"
"""Folder of runs outside studies; reported only when named."""

CONFIG_ALWAYS = (
    "model.kind",
    "model.chunk_size",
    "model.backbone.width",
    "model.backbone.num_layers",
    "autoencoder.latent_dim",
    "autoencoder.kl_floor",
    "optim.lr",
    "optim.batch_positions",
    "optim.warmup_fraction",
    "optim.decay_fraction",
    "train.train_flops",
    "train.train_tokens",
    "data.corpus",
    "data.tokenizer.kind",
    "eval.split",
    "eval.context_len",
    "eval.min_context",
    "eval.grid_stride",
    "eval.num_windows",
    "eval.num_samples",
)
"""Configuration columns kept even where all runs agree."""

CONFIG_IGNORED = ("name", "seed")
"""Part of the identity, not of the setting."""


@dataclass(frozen=True)
class StudyInfo:
    """What a study wrote about itself; empty where it wrote nothing."""

    name: str
    spec: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> list[str]:
        """Dotted names of what was searched, in the study's order."""
        return list(self.spec.get("parameters") or {})


@dataclass(frozen=True)
class RunTable:
    """Everything the report needs, in long and wide form."""

    runs: pd.DataFrame
    """One row a run: identity, status, ``config`` columns with dotted names, last scores, compute."""
    evaluations: pd.DataFrame
    """One row an evaluation, joined with its run's K, role and seed."""
    autoencoders: pd.DataFrame
    """One row per (autoencoder, noise level)."""
    kl_per_dim: pd.DataFrame
    """One row per (autoencoder, latent dimension): KL in nats, root mean square of sigma."""
    floors: pd.DataFrame
    """One row per (run, n-gram table)."""
    environments: dict[str, dict[str, Any]]
    """By run id."""
    studies: dict[str, StudyInfo]
    config_columns: list[str]
    warnings: list[str]


def known_studies(home: Path | str) -> list[str]:
    """Names of the folders under ``home`` that hold a study or runs."""
    home = Path(home)
    if not home.is_dir():
        return []
    return sorted(
        folder.name
        for folder in home.iterdir()
        if folder.is_dir()
        and not folder.name.startswith(".")
        and ((folder / "study.json").exists() or any(folder.glob(f"*/{records.RECORD}")))
    )


def choose_studies(home: Path | str, wanted: list[str] | None = None) -> list[str]:
    """The studies to report on: those named, otherwise all but the runs outside studies.

    Raises StudyError, listing what there is, for an unknown name or an empty home."""
    known = known_studies(home)
    for name in wanted or []:
        if name not in known:
            raise StudyError(
                f"no study {name!r} under {home}; known: {', '.join(known) or 'none'}; "
                "`calm study run NAME` makes one"
            )
    chosen = list(dict.fromkeys(wanted)) if wanted else [name for name in known if name != SINGLE]
    if not chosen:
        extra = f" (runs outside studies: `calm report {SINGLE}`)" if SINGLE in known else ""
        raise StudyError(f"no study under {home}{extra}; `calm study run NAME` makes one")
    return chosen


def load_runs(home: Path | str, studies: list[str] | None = None) -> RunTable:
    """Read all runs of ``studies`` (default: all studies under ``home``)."""
    home = Path(home)
    chosen = choose_studies(home, studies)
    warnings: list[str] = []
    infos = {name: _read_study(home / name, warnings) for name in chosen}
    loaded: list[_Loaded] = []
    for name in chosen:
        loaded += _load_folder(home / name, name, warnings)
    loaded.sort(key=lambda item: (item.record.created, item.record.run_id))
    searched = [parameter for info in infos.values() for parameter in info.parameters]
    columns = _config_columns([item.config for item in loaded], searched)
    runs = pd.DataFrame([_run_row(item, columns) for item in loaded], columns=[*_RUN_COLUMNS, *columns])
    return RunTable(
        runs=_typed(runs),
        evaluations=_typed(
            pd.DataFrame([row for item in loaded for row in _evaluation_rows(item)], columns=_EVALUATION_COLUMNS)
        ),
        autoencoders=pd.DataFrame(_autoencoder_rows(loaded), columns=_AUTOENCODER_COLUMNS),
        kl_per_dim=pd.DataFrame(_kl_rows(loaded), columns=_KL_COLUMNS),
        floors=pd.DataFrame([row for item in loaded for row in _floor_rows(item)], columns=_FLOOR_COLUMNS),
        environments={item.record.run_id: item.record.environment for item in loaded},
        studies=infos,
        config_columns=columns,
        warnings=warnings,
    )


# ---------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Loaded:
    study: str
    folder: str
    record: records.RunRecord
    config: dict[str, Any]
    evaluations: list[records.Evaluation]
    autoencoder: records.AutoencoderReport | None


def _read_study(folder: Path, warnings: list[str]) -> StudyInfo:
    content: dict[str, dict[str, Any]] = {}
    for part in ("study.json", "summary.json"):
        content[part] = {}
        if not (folder / part).exists():
            if folder.name != SINGLE:
                warnings.append(f"{folder.name} has no {part}")
            continue
        try:
            value = files.read_json(folder / part)
            content[part] = value if isinstance(value, dict) else {}
        except (OSError, ValueError) as error:
            warnings.append(f"{folder.name}/{part} cannot be read: {error}")
    return StudyInfo(folder.name, content["study.json"], content["summary.json"])


def _load_folder(root: Path, study: str, warnings: list[str]) -> list[_Loaded]:
    loaded = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if not (folder / records.RECORD).exists():
            if (folder / records.CONFIG).exists():
                warnings.append(f"{study}/{folder.name} was left out: it has no {records.RECORD}")
            continue
        try:
            loaded.append(_load_run(folder, study))
        except (RunError, OSError, ValueError, yaml.YAMLError) as error:
            warnings.append(f"{study}/{folder.name} was left out: {_one_line(error)}")
    return loaded


def _load_run(folder: Path, study: str) -> _Loaded:
    record = records.read_record(folder)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    tree = yaml.load((folder / records.CONFIG).read_text(encoding="utf-8"), Loader=loader)
    if not isinstance(tree, dict):
        raise ValueError(f"{records.CONFIG} is not a mapping")
    if record.kind == "baseline":
        tree.pop("autoencoder", None)
    config = {name: _scalar(value) for name, value in flatten(tree).items() if name not in CONFIG_IGNORED}
    return _Loaded(
        study=study,
        folder=folder.name,
        record=record,
        config=config,
        evaluations=records.read_evaluations(folder),
        autoencoder=records.read_autoencoder_report(folder),
    )


def _one_line(error: Exception) -> str:
    """The message without pydantic's pages and without the absolute path (reports are shared)."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."


def _scalar(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _config_columns(configs: list[dict[str, Any]], searched: list[str]) -> list[str]:
    """Columns that vary, are searched or always matter, in the order of the configuration."""
    order = dict.fromkeys(name for config in configs for name in config)
    columns = []
    for name in order:
        values = {repr(config[name]) for config in configs if name in config}
        if len(values) > 1 or name in CONFIG_ALWAYS or name in searched:
            columns.append(name)
    return columns


# ---------------------------------------------------------------------------- rows

_SCORE_COLUMNS = [
    "brierlm",
    "brierlm_se",
    *[f"brier_{n}" for n in ORDERS],
    *[f"brier_{n}_se" for n in ORDERS],
    "score",
    "cross_entropy",
    "energy_loss",
    "energy_loss_shuffled",
    "num_positions",
    "num_clusters",
]
_RUN_COLUMNS = [
    *["study", "run_id", "folder", "name", "role", "trial", "seed", "kind", "head", "status", "reason", "K"],
    *["config_hash", "data_hash", "fingerprint", "created", "finished", "step", "num_steps", "tokens"],
    *["train_seconds", "wall_seconds", "tokens_per_second", "at_budget", "phase"],
    *_SCORE_COLUMNS,
    *["train_flops", "train_flops_published", "autoencoder_train_flops", "train_flops_with_autoencoder"],
    *["infer_flops_per_token", "infer_flops_per_token_published", "num_parameters", "autoencoder_hash"],
    *["diagnostics", "diagnostic_messages", "mlflow_uri", "mlflow_experiment", "mlflow_run"],
]
_EVALUATION_COLUMNS = [
    *["run_id", "study", "role", "kind", "K", "seed", "status", "step", "tokens", "train_flops"],
    *["train_flops_with_autoencoder", "phase", "fingerprint", *_SCORE_COLUMNS],
]
_AUTOENCODER_COLUMNS = [
    *["hash", "K", "latent_dim", "kl_floor", "noise", "accuracy", "token_accuracy", "posterior_accuracy"],
    *["num_collapsed", "train_flops", "train_seconds", "num_chunks", "num_runs"],
]
_KL_COLUMNS = ["hash", "K", "latent_dim", "kl_floor", "dimension", "kl", "std"]
_FLOOR_COLUMNS = ["run_id", "fingerprint", "table", "brierlm", *[f"brier_{n}" for n in ORDERS], "cross_entropy"]


def _chunk_size(item: _Loaded) -> int | None:
    """K, or None for a token baseline."""
    if item.record.kind == "baseline":
        return None
    value = item.config.get("model.chunk_size")
    return int(value) if value is not None else (item.autoencoder.chunk_size if item.autoencoder else None)


def _autoencoder_flops(item: _Loaded) -> float:
    if item.record.kind == "baseline":
        return 0.0
    recorded = item.record.compute.get("autoencoder_train_flops")
    if recorded is None:
        return item.autoencoder.train_flops if item.autoencoder else math.nan
    return recorded


def _scores(evaluation: records.Evaluation | None) -> dict[str, Any]:
    if evaluation is None:
        return {}
    brier = evaluation.brier
    row: dict[str, Any] = {
        "brierlm": brier.brierlm,
        "brierlm_se": brier.brierlm_se,
        "score": brier.score,
        "cross_entropy": evaluation.cross_entropy,
        "energy_loss": evaluation.energy_loss,
        "energy_loss_shuffled": evaluation.energy_loss_shuffled,
        "num_positions": brier.num_positions,
        "num_clusters": brier.num_clusters,
    }
    for n, value, error in zip(ORDERS, brier.brier, brier.brier_se, strict=False):
        row[f"brier_{n}"], row[f"brier_{n}_se"] = value, error
    return row


def _run_row(item: _Loaded, columns: list[str]) -> dict[str, Any]:
    record, compute = item.record, item.record.compute
    last = record.final or (item.evaluations[-1] if item.evaluations else None)
    reached = compute.get("train_flops", last.train_flops if last else math.nan)
    link = record.mlflow
    direct = {name: getattr(record, name) for name in _RUN_COLUMNS if name in records.RunRecord.model_fields}
    return {
        **direct,
        **_scores(last),
        **{name: item.config.get(name) for name in columns},
        "study": item.study,
        "folder": item.folder,
        "K": _chunk_size(item),
        "fingerprint": (last.fingerprint if last else "") or record.eval_fingerprint,
        "at_budget": record.status == "completed" and last is not None,
        "phase": last.phase if last else "",
        "train_flops": reached,
        "train_flops_published": compute.get("train_flops_published", math.nan),
        "autoencoder_train_flops": _autoencoder_flops(item),
        "train_flops_with_autoencoder": reached + _autoencoder_flops(item),
        "infer_flops_per_token": compute.get("infer_flops_per_token", math.nan),
        "infer_flops_per_token_published": compute.get("infer_flops_per_token_published", math.nan),
        "num_parameters": record.parameters.get("total", sum(record.parameters.values())),
        "autoencoder_hash": item.autoencoder.hash if item.autoencoder else None,
        "diagnostics": ", ".join(diagnostic.code for diagnostic in record.diagnostics),
        "diagnostic_messages": "; ".join(diagnostic.message for diagnostic in record.diagnostics),
        "mlflow_uri": link.tracking_uri if link else None,
        "mlflow_experiment": link.experiment_id if link else None,
        "mlflow_run": link.run_id if link else None,
    }


def _evaluation_rows(item: _Loaded) -> list[dict[str, Any]]:
    record = item.record
    # a final that never reached the lines file (a crash between the two writes) still counts
    evaluations = {evaluation.step: evaluation for evaluation in item.evaluations}
    if record.final is not None:
        evaluations.setdefault(record.final.step, record.final)
    return [
        {
            "run_id": record.run_id,
            "study": item.study,
            "role": record.role,
            "kind": record.kind,
            "K": _chunk_size(item),
            "seed": record.seed,
            "status": record.status,
            "step": evaluation.step,
            "tokens": evaluation.tokens,
            "train_flops": evaluation.train_flops,
            "train_flops_with_autoencoder": evaluation.train_flops + _autoencoder_flops(item),
            "phase": evaluation.phase,
            "fingerprint": evaluation.fingerprint,
            **_scores(evaluation),
        }
        for _, evaluation in sorted(evaluations.items())
    ]


def _unique_autoencoders(loaded: list[_Loaded]) -> list[tuple[records.AutoencoderReport, int]]:
    """Each autoencoder once with the number of runs that use it, by K, latent dimension and floor."""
    reports = [item.autoencoder for item in loaded if item.autoencoder is not None]
    count = {report.hash: sum(other.hash == report.hash for other in reports) for report in reports}
    unique = {report.hash: report for report in reports}
    ordered = sorted(unique.values(), key=lambda r: (r.chunk_size, r.latent_dim, r.kl_floor, r.hash))
    return [(report, count[report.hash]) for report in ordered]


def _identity(report: records.AutoencoderReport) -> dict[str, Any]:
    return {
        "hash": report.hash,
        "K": report.chunk_size,
        "latent_dim": report.latent_dim,
        "kl_floor": report.kl_floor,
    }


def _autoencoder_rows(loaded: list[_Loaded]) -> list[dict[str, Any]]:
    same = ("token_accuracy", "posterior_accuracy", "num_collapsed", "train_flops", "train_seconds", "num_chunks")
    return [
        {
            **_identity(report),
            **{name: getattr(report, name) for name in same},
            "noise": point.noise,
            "accuracy": point.accuracy,
            "num_runs": num_runs,
        }
        for report, num_runs in _unique_autoencoders(loaded)
        for point in report.noise_accuracy
    ]


def _kl_rows(loaded: list[_Loaded]) -> list[dict[str, Any]]:
    return [
        {**_identity(report), "dimension": i, "kl": kl, "std": std}
        for report, _ in _unique_autoencoders(loaded)
        for i, (kl, std) in enumerate(zip(report.kl_per_dim, report.std_per_dim, strict=False))
    ]


def _floor_rows(item: _Loaded) -> list[dict[str, Any]]:
    final = item.record.final
    fingerprint = (final.fingerprint if final else "") or item.record.eval_fingerprint
    return [
        {
            "run_id": item.record.run_id,
            "fingerprint": fingerprint,
            "table": table,
            "brierlm": floor.brierlm,
            "cross_entropy": floor.cross_entropy,
            **{f"brier_{n}": value for n, value in zip(ORDERS, floor.brier, strict=False)},
        }
        for table, floor in sorted(item.record.floors.items())
    ]


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Whole numbers that may be missing as Int64, scores as floats (a column of None is not numeric)."""
    for name in ("K", "trial", "seed", "num_positions", "num_clusters"):
        if name in frame:
            frame[name] = pd.to_numeric(frame[name]).astype("Int64")
    for name in _SCORE_COLUMNS[:-2]:
        frame[name] = pd.to_numeric(frame[name]).astype("float64")
    return frame

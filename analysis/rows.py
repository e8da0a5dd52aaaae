"""One row a run, an evaluation, an autoencoder's noise level: how records become columns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from workbench import records
from workbench.uncertainty import weak_orders

ORDERS = (1, 2, 3, 4)
FLOORS = ("unigram", "bigram", "trigram")


@dataclass(frozen=True)
class Loaded:
    """A run folder as it was read."""

    study: str
    folder: str
    record: records.RunRecord
    config: dict[str, Any]
    evaluations: list[records.Evaluation]
    autoencoder: records.AutoencoderReport | None
    text: str = ""
    """Of ``text_names``."""
    samples: Sequence[records.SampleText] = ()


_NUMBERS = [
    *["brierlm", "brierlm_se", "brierlm_low", "brierlm_high", "bootstrap_se"],
    *[f"brier_{n}" for n in ORDERS],
    *[f"brier_{n}_se" for n in ORDERS],
    *["score", "cross_entropy", "cross_entropy_se", "bits_per_byte", "byte_perplexity"],
    *["head_loss", "head_loss_shuffled"],
]
_COUNTS = ["num_positions", "num_clusters", "num_windows", "rounds"]
SCORE_COLUMNS = [*_NUMBERS, *_COUNTS, "weak_orders"]
"""``weak_orders``: "3, 4" where these lie within three of their errors of 0, "" where none does."""
_OF_EVALUATION = [name for name in SCORE_COLUMNS if name in records.Evaluation.model_fields]
_OF_BRIER = [name for name in SCORE_COLUMNS if name in records.Brier.model_fields]
OVERLAP_COLUMNS = [f"overlap_{name}" for name in records.Overlap.model_fields]
RUN_COLUMNS = [
    *["study", "run_id", "folder", "name", "role", "trial", "seed", "kind", "head", "setting"],
    *["status", "reason", "K"],
    *["config_hash", "data_hash", "text", "fingerprint", "created", "finished", "step", "num_steps", "tokens"],
    *["train_seconds", "wall_seconds", "tokens_per_second", "at_budget", "phase"],
    *SCORE_COLUMNS,
    *["train_flops", "train_flops_published", "autoencoder_train_flops", "train_flops_with_autoencoder"],
    *["language_model_train_flops", "head_train_flops"],
    *["infer_flops_per_token", "infer_flops_per_token_published", "num_parameters", "model_parameters"],
    *["autoencoder_hash"],
    *OVERLAP_COLUMNS,
    *["diagnostics", "diagnostic_messages", "mlflow_uri", "mlflow_experiment", "mlflow_run"],
]
EVALUATION_COLUMNS = [
    *[
        "run_id",
        "study",
        "role",
        "kind",
        "K",
        "head",
        "setting",
        "seed",
        "status",
        "step",
        "tokens",
        "train_flops",
    ],
    *["train_flops_with_autoencoder", "train_flops_published", "infer_flops_per_token"],
    *[
        "infer_flops_per_token_published",
        "num_parameters",
        "model_parameters",
        "width",
        "num_layers",
        "latent_dim",
    ],
    *["phase", "text", "corpus", "tokenizer", "size", "fingerprint", "network_calls", "solver"],
    *SCORE_COLUMNS,
]
AUTOENCODER_COLUMNS = [
    *["hash", "K", "latent_dim", "kl_floor", "noise", "accuracy", "token_accuracy", "posterior_accuracy"],
    *["num_collapsed", "train_flops", "train_seconds", "num_chunks", "num_runs"],
]
KL_COLUMNS = ["hash", "K", "latent_dim", "kl_floor", "dimension", "kl", "std"]
BOTTLENECK_ORDER_COLUMNS = [
    *["autoencoder_brier", "noisy_brier", "mode_accuracy", "sample_accuracy", "brier", "shuffled_brier"],
]
BOTTLENECK_COLUMNS = ["run_id", "K", "order", *BOTTLENECK_ORDER_COLUMNS]
FLOOR_COLUMNS = ["run_id", "fingerprint", "table", "brierlm", *[f"brier_{n}" for n in ORDERS], "cross_entropy"]


def text_names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """``shakespeare, byte`` for each flattened configuration: corpus (of a path its last part) and tokenizer.
    Where configurations of that name differ in something else under ``data``, that is added
    (``shakespeare, bpe, vocab_size 2048``)."""
    configs = [placeless(config) for config in configs]
    short = [_short_text(config) for config in configs]
    varying: dict[str, list[str]] = {}
    for name in dict.fromkeys(short):
        same = [config for config, its in zip(configs, short, strict=True) if its == name]
        keys = dict.fromkeys(key for config in same for key in config if key.startswith("data."))
        varying[name] = [key for key in keys if len({repr(config.get(key)) for config in same}) > 1]
    return [
        ", ".join([name, *(f"{key.rsplit('.', 1)[-1]} {config.get(key)}" for key in varying[name])])
        for config, name in zip(configs, short, strict=True)
    ]


def placeless(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A flattened configuration without where its tokenizer lies, if the file's content is known: that is no part
    of an experiment, and imported weights keep a copy of their own (``workbench.released``)."""
    if not config.get("data.tokenizer.sha256"):
        return config
    return {name: value for name, value in config.items() if name not in PLACE}


PLACE = ("data.tokenizer.name", "data.tokenizer.revision")


def _short_text(config: Mapping[str, Any]) -> str:
    corpus = str(config.get("data.corpus") or "unknown text").rstrip("/")
    return f"{corpus.rsplit('/', 1)[-1]}, {config.get('data.tokenizer.kind') or 'unknown tokenizer'}"


def chunk_size(item: Loaded) -> int | None:
    """K, or None for a token baseline."""
    if item.record.kind == "baseline":
        return None
    value = item.config.get("model.chunk_size")
    return int(value) if value is not None else (item.autoencoder.chunk_size if item.autoencoder else None)


def fingerprint_of(record: records.RunRecord, last: records.Evaluation | None = None) -> str:
    """Of the last evaluation; ``last``: where the record holds none."""
    evaluation = record.final or last
    return (evaluation.fingerprint if evaluation else "") or record.eval_fingerprint


def _autoencoder_flops(item: Loaded) -> float:
    if item.record.kind == "baseline":
        return 0.0
    recorded = item.record.compute.get("autoencoder_train_flops")
    if recorded is None:
        return item.autoencoder.train_flops if item.autoencoder else math.nan
    return recorded


def _scores(evaluation: records.Evaluation | None) -> dict[str, Any]:
    if evaluation is None:
        return {}
    return {**brier_columns(evaluation.brier), **{name: getattr(evaluation, name) for name in _OF_EVALUATION}}


def brier_columns(brier: records.Brier) -> dict[str, Any]:
    """Those of ``SCORE_COLUMNS`` that a Brier score holds."""
    row: dict[str, Any] = {
        **{name: getattr(brier, name) for name in _OF_BRIER},
        "weak_orders": ", ".join(str(n) for n in _weak_orders(brier)),
    }
    for n, value, error in zip(ORDERS, brier.brier, brier.brier_se, strict=False):
        row[f"brier_{n}"], row[f"brier_{n}_se"] = value, error
    return row


def _weak_orders(brier: records.Brier) -> list[int]:
    """As recorded, or by the same rule from a record of before they were."""
    if brier.num_windows is not None or not brier.brier:
        return brier.weak_orders
    return weak_orders(np.asarray(brier.brier), np.asarray(brier.brier_se))


def run_row(item: Loaded, columns: list[str]) -> dict[str, Any]:
    record, compute = item.record, item.record.compute
    last = record.final or (item.evaluations[-1] if item.evaluations else None)
    reached = compute.get("train_flops", last.train_flops if last else math.nan)
    link = record.mlflow
    overlap = record.overlap.model_dump() if record.overlap else {}
    direct = {name: getattr(record, name) for name in RUN_COLUMNS if name in records.RunRecord.model_fields}
    return {
        **direct,
        **_scores(last),
        **{name: item.config.get(name) for name in columns},
        **{f"overlap_{name}": value for name, value in overlap.items()},
        "study": item.study,
        "folder": item.folder,
        "K": chunk_size(item),
        "text": item.text,
        "fingerprint": fingerprint_of(record, last),
        "at_budget": record.status == "completed" and last is not None,
        "phase": last.phase if last else "",
        "train_flops": reached,
        "train_flops_published": compute.get("train_flops_published", math.nan),
        "autoencoder_train_flops": _autoencoder_flops(item),
        "train_flops_with_autoencoder": reached + _autoencoder_flops(item),
        "language_model_train_flops": compute.get("language_model_train_flops", math.nan),
        "head_train_flops": compute.get("head_train_flops", math.nan),
        "infer_flops_per_token": compute.get("infer_flops_per_token", math.nan),
        "infer_flops_per_token_published": compute.get("infer_flops_per_token_published", math.nan),
        "num_parameters": record.parameters.get("total") or num_parameters(record),
        "model_parameters": num_parameters(record, embeddings=False),
        "autoencoder_hash": item.autoencoder.hash if item.autoencoder else None,
        "diagnostics": ", ".join(diagnostic.code for diagnostic in record.diagnostics),
        "diagnostic_messages": "; ".join(diagnostic.message for diagnostic in record.diagnostics),
        "mlflow_uri": link.tracking_uri if link else None,
        "mlflow_experiment": link.experiment_id if link else None,
        "mlflow_run": link.run_id if link else None,
    }


def evaluation_rows(item: Loaded) -> list[dict[str, Any]]:
    record = item.record
    # a final that never reached the lines file (a crash between the two writes) still counts
    evaluations = {evaluation.step: evaluation for evaluation in item.evaluations}
    if record.final is not None:
        evaluations.setdefault(record.final.step, record.final)
    sizes = {
        "num_parameters": num_parameters(record),
        "model_parameters": num_parameters(record, embeddings=False),
    }
    return [
        {
            "run_id": record.run_id,
            "study": item.study,
            "role": record.role,
            "kind": record.kind,
            "K": chunk_size(item),
            "head": record.head,
            "seed": record.seed,
            "status": record.status,
            "step": evaluation.step,
            "tokens": evaluation.tokens,
            "train_flops": evaluation.train_flops,
            "train_flops_with_autoencoder": evaluation.train_flops + _autoencoder_flops(item),
            **_costs(item, evaluation),
            **sizes,
            "phase": evaluation.phase,
            "text": item.text,
            "corpus": item.config.get("data.corpus"),
            "tokenizer": item.config.get("data.tokenizer.kind"),
            "size": f"d{item.config.get('model.backbone.width')}-l{item.config.get('model.backbone.num_layers')}",
            "fingerprint": evaluation.fingerprint,
            "network_calls": evaluation.network_calls,
            "solver": evaluation.solver,
            **_scores(evaluation),
        }
        for _, evaluation in sorted(evaluations.items())
    ]


def _costs(item: Loaded, evaluation: records.Evaluation) -> dict[str, Any]:
    """What the laws of ``analysis`` are fitted in, beside the executed training FLOPs. The published count of a
    checkpoint is its share of the whole run's: both counts grow in proportion to the steps."""
    compute, config = item.record.compute, item.config
    whole = compute.get("train_flops", math.nan)
    share = evaluation.train_flops / whole if whole else math.nan
    calm = item.record.kind == "calm"
    return {
        "train_flops_published": compute.get("train_flops_published", math.nan) * share,
        "infer_flops_per_token": compute.get("infer_flops_per_token", math.nan),
        "infer_flops_per_token_published": compute.get("infer_flops_per_token_published", math.nan),
        "width": config.get("model.backbone.width"),
        "num_layers": config.get("model.backbone.num_layers"),
        "latent_dim": config.get("autoencoder.latent_dim") if calm else None,
    }


def num_parameters(record: records.RunRecord, *, embeddings: bool = True) -> int:
    """Of the language model, the autoencoder's left out; without ``embeddings`` also without the look-up of the
    tokens, which costs no compute (the output layer stays)."""
    groups = {name: num for name, num in record.parameters.items() if name not in ("total", "autoencoder")}
    return sum(num for name, num in groups.items() if embeddings or name != "embedding")


def _unique_autoencoders(loaded: list[Loaded]) -> list[tuple[records.AutoencoderReport, int]]:
    """Each autoencoder once with the number of runs that use it, by K, latent dimension and floor."""
    reports = [item.autoencoder for item in loaded if item.autoencoder is not None]
    count = Counter(report.hash for report in reports)
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


def autoencoder_rows(loaded: list[Loaded]) -> list[dict[str, Any]]:
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


def kl_rows(loaded: list[Loaded]) -> list[dict[str, Any]]:
    return [
        {**_identity(report), "dimension": i, "kl": kl, "std": std}
        for report, _ in _unique_autoencoders(loaded)
        for i, (kl, std) in enumerate(zip(report.kl_per_dim, report.std_per_dim, strict=False))
    ]


def bottleneck_rows(item: Loaded) -> list[dict[str, Any]]:
    """One row an order; scores and accuracies in per cent."""
    panel = item.record.bottleneck
    if panel is None:
        return []
    return [
        {
            "run_id": item.record.run_id,
            "K": chunk_size(item),
            "order": i + 1,
            **{name: getattr(panel, name)[i] for name in BOTTLENECK_ORDER_COLUMNS},
        }
        for i in range(len(panel.brier))
    ]


def floor_rows(item: Loaded) -> list[dict[str, Any]]:
    return [
        {
            "run_id": item.record.run_id,
            "fingerprint": fingerprint_of(item.record),
            "table": table,
            "brierlm": floor.brierlm,
            "cross_entropy": floor.cross_entropy,
            **{f"brier_{n}": value for n, value in zip(ORDERS, floor.brier, strict=False)},
        }
        for table, floor in sorted(item.record.floors.items())
    ]


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Whole numbers that may be missing as Int64, scores as floats (a column of None is not numeric)."""
    for name in ("K", "trial", "seed", "network_calls", *_COUNTS, "overlap_span_bytes", "overlap_longest_tokens"):
        if name in frame:
            frame[name] = pd.to_numeric(frame[name]).astype("Int64")
    shares = [name for name in OVERLAP_COLUMNS if name.endswith("_share")]
    for name in [name for name in (*_NUMBERS, *shares) if name in frame]:
        frame[name] = pd.to_numeric(frame[name]).astype("float64")
    return frame

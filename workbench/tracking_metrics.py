"""The metrics of a run as a tracking server shows them: what stands in the run folder, point by point.

Pure: reads the run folder, talks to nobody. Names are chosen so that MLflow's own charts work unaided. The step of
a metric is the training step (of ``calls/``: the number of network calls), since a run is resumed and its rate is
scheduled by steps; runs of different K line up over compute, which is therefore repeated at every step, also as
its logarithm (MLflow draws a metric over any other that has the same steps, and has no logarithmic axis in its
parallel coordinates). The step of ``system/`` is the number of the sample, as in MLflow's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from workbench import records
from workbench.system_usage import read_system_points

LOGARITHMS = ("train_flops", "infer_flops_per_token")
"""Costs that are shown as log10 as well."""


@dataclass(frozen=True)
class Point:
    """One value of a metric."""

    key: str
    value: float
    step: int
    timestamp: int
    """Milliseconds since 1970."""


def points(run_dir: Path, record: records.RunRecord, *, ended: bool, since: int = -1) -> Iterator[Point]:
    """The metrics that stand in the run folder, in order of step for each key; training points only
    from step ``since`` on, as there may be many. Raises RunError where a file is damaged."""
    start = milliseconds(record.created)
    evaluations = records.read_evaluations(run_dir)
    train = records.read_train_points(run_dir)
    report = records.read_autoencoder_report(run_dir)
    system = read_system_points(run_dir)
    yield from _static(report, record, start)
    clock = {point.step: start + round(1000 * point.seconds) for point in train}
    rows = [(p.step, clock[p.step], _train_metrics(p)) for p in train if p.step >= since]
    for evaluation in evaluations:
        time = max((t for step, t in clock.items() if step <= evaluation.step), default=start)
        rows.append((evaluation.step, time, _evaluation_metrics(evaluation)))
    for step, time, metrics in sorted(rows, key=lambda row: row[0]):
        for key, value in metrics.items():
            if value is not None:
                yield Point(key, value, step, time)
    for sample in system:
        for key, value in sample.values.items():
            yield Point(f"system/{key}", value, sample.sample, round(1000 * sample.time))
    if ended:
        time = max(clock.values(), default=start)
        for key, value in (_final_metrics(record) | _costs(record.compute)).items():
            if value is not None:
                yield Point(key, value, record.step, time)
        for call in record.call_curve:
            for key, value in _call_metrics(call).items():
                yield Point(key, value, call.network_calls, time)


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
        "compute/train_tokens": float(point.tokens),
        **_costs({"train_flops": point.train_flops}),
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
        "compute/train_tokens": float(evaluation.tokens),
        **_costs({"train_flops": evaluation.train_flops}),
    }
    for n, (value, error) in enumerate(zip(brier.brier, brier.brier_se, strict=True), start=1):
        metrics |= {f"eval/brier_{n}": value, f"eval/brier_{n}_se": error}
    return metrics


def _final_metrics(record: records.RunRecord) -> dict[str, float | None]:
    """The evaluation at the end of a completed run: what runs are compared by. A run that was pruned or failed has
    an ``eval/brierlm`` at less than its budget, so it has no ``final/brierlm``."""
    if record.status != "completed" or record.final is None:
        return {}
    shown = ("brierlm", "brierlm_se", "brierlm_low", "brierlm_high", "score", "cross_entropy", "bits_per_byte")
    metrics = _evaluation_metrics(record.final)
    names = [*shown, *[f"brier_{n}" for n in range(1, len(record.final.brier.brier) + 1)]]
    return {f"final/{name}": metrics[f"eval/{name}"] for name in names}


def _costs(compute: dict[str, float]) -> dict[str, float | None]:
    """FLOPs, and log10 of them."""
    metrics: dict[str, float | None] = {f"compute/{key}": value for key, value in compute.items()}
    for key in LOGARITHMS:
        if compute.get(key, 0.0) > 0:
            metrics[f"compute/log10_{key}"] = math.log10(compute[key])
    return metrics


def _static(report: records.AutoencoderReport | None, record: records.RunRecord, start: int) -> Iterator[Point]:
    """What does not change during a run, at step 0."""
    values: dict[str, float | None] = {f"parameters/{k}": float(v) for k, v in record.parameters.items()}
    if record.parameters.get("total"):
        values["parameters/log10_total"] = math.log10(record.parameters["total"])
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

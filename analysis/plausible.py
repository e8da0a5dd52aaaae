"""Whether what a run folder says can be true: a damaged file may be of the right types and still make no sense.

A report leaves such a run out and names it, as it does with what cannot be read at all. Not finite numbers are no
damage: a run that diverged has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from workbench import records
from workbench.config import RunConfig
from workbench.config_file import flatten
from workbench.uncertainty import NUM_ORDERS

LARGEST_WHOLE = 2**53
"""Above it whole numbers are not exact as floats, which tables are made of."""
_AMOUNTS = ("step", "tokens", "train_flops", "num_positions", "num_clusters", "num_runs", "num_samples", "seconds")
"""Never below 0, wherever they stand."""
_TEXTS = ("data.corpus", "data.tokenizer.kind", "model.kind", "model.head.kind", "eval.split")
_NUMBERS = (
    "model.chunk_size",
    "model.backbone.width",
    "model.backbone.num_layers",
    "autoencoder.latent_dim",
    "train.block_len",
    "eval.context_len",
    "eval.grid_stride",
    "eval.num_samples",
    "optim.lr",
    "optim.batch_positions",
)
"""Above 0 where they are given."""


def implausible(
    record: records.RunRecord,
    evaluations: Iterable[records.Evaluation],
    autoencoder: records.AutoencoderReport | None,
    config: Mapping[str, Any],
) -> str | None:
    """What cannot be true of a run, ``config`` with dotted names; None where nothing contradicts."""
    found = list(evaluations)
    if record.final is not None:
        if not found:
            return f"{records.RECORD} tells of a last evaluation, {records.EVALUATIONS} of none"
        found.insert(0, record.final)
    return next(
        (
            words
            for words in (
                *_evaluations(found),
                *_record(record),
                *_autoencoder(autoencoder),
                *_configuration(config),
            )
        ),
        None,
    )


def _evaluations(found: Iterable[records.Evaluation]) -> Iterator[str]:
    for evaluation in found:
        yield from _brier(evaluation.brier, f"the evaluation at step {evaluation.step}")
        yield from _numbers(evaluation.model_dump(exclude={"brier"}), "an evaluation")


def _record(record: records.RunRecord) -> Iterator[str]:
    for point in record.call_curve:
        yield from _brier(point.brier, f"the call curve at {point.network_calls} calls")
        yield from _numbers(point.model_dump(exclude={"brier"}), "the call curve")
    for name, floor in record.floors.items():
        if len(floor.brier) != NUM_ORDERS:
            yield f"the {name} table has {len(floor.brier)} Brier scores, not {NUM_ORDERS}"
    if record.bottleneck is not None:
        panel = record.bottleneck
        orders = (panel.autoencoder_brier, panel.noisy_brier, panel.mode_accuracy, panel.sample_accuracy)
        lengths = {len(panel.brier), len(panel.shuffled_brier), *map(len, orders)}
        if len(lengths) > 1 or not max(lengths) <= NUM_ORDERS:
            yield f"the bottleneck panel has lists of {sorted(lengths)} orders"
    kept = record.model_dump(include={"parameters", "compute", "tradeoff", "bottleneck", "step", "num_steps"})
    yield from _numbers({**kept, "seed": record.seed, "tokens": record.tokens}, "the record")
    yield from (f"{name} is {value}" for name, value in record.compute.items() if value < 0)
    yield from (f"{value} parameters ({name})" for name, value in record.parameters.items() if value < 0)


def _brier(brier: records.Brier, where: str) -> Iterator[str]:
    if not len(brier.brier) == len(brier.brier_se) == NUM_ORDERS:
        yield f"{where} has {len(brier.brier)} Brier scores and {len(brier.brier_se)} errors, not {NUM_ORDERS}"
    elif not set(brier.weak_orders) <= set(range(1, NUM_ORDERS + 1)):
        yield f"{where} names the weak orders {brier.weak_orders}"
    elif any(error < 0 for error in (*brier.brier_se, brier.brierlm_se)):
        yield f"{where} has a standard error below 0"
    elif not (brier.brierlm != brier.brierlm or 0 <= brier.brierlm <= 100):
        yield f"{where} has BrierLM {brier.brierlm}, not within 0 and 100"
    yield from _numbers(brier.model_dump(), where)


def _autoencoder(report: records.AutoencoderReport | None) -> Iterator[str]:
    if report is None:
        return
    if not len(report.kl_per_dim) == len(report.std_per_dim) == report.latent_dim:
        yield f"the autoencoder's report has {len(report.kl_per_dim)} dimensions, not {report.latent_dim}"
    yield from _numbers(report.model_dump(), "the autoencoder's report")


def _configuration(config: Mapping[str, Any]) -> Iterator[str]:
    for name, value in config.items():
        no_text = name in _TEXTS and not isinstance(value, str | None)
        no_number = name in _known_numbers() and not _is_number(value)
        if no_text or no_number or (name in _NUMBERS and value is not None and not value > 0):
            yield f"{name} is {value!r} in {records.CONFIG}"
        elif isinstance(value, int) and abs(value) > LARGEST_WHOLE:
            yield f"{name} has {len(str(value))} digits in {records.CONFIG}"


@cache
def _known_numbers() -> frozenset[str]:
    """Fields that hold a number in the default configuration."""
    defaults = flatten(RunConfig().resolved().to_dict())
    return frozenset(name for name, value in defaults.items() if type(value) in (int, float)) | set(_NUMBERS)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _numbers(tree: Mapping[str, Any], where: str) -> Iterator[str]:
    for name, value in flatten(tree).items():
        for number in value if isinstance(value, list) else (value,):
            if isinstance(number, int) and abs(number) > LARGEST_WHOLE:
                yield f"{name} of {where} is beyond {LARGEST_WHOLE:.0e}"
            elif name in _AMOUNTS and isinstance(number, int | float) and number < 0:
                yield f"{name} of {where} is {number}"

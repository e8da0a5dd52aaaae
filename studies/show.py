"""The dry run of a study: search space, cells, what each kind of run costs, before anything trains."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from typing import Any

from studies import space
from studies.search_spec import Choices, Range
from studies.space import baseline_config, setting_config
from studies.spec import StudySpec, describe
from studies.staffing import Split
from workbench import flops
from workbench.config import RunConfig
from workbench.errors import RunError
from workbench.home import Home
from workbench.records import find_runs, read_record

ASSUMED_FLOPS_PER_SECOND = 1.5e10
"""Of one core, for models too large to try a step of."""
STRUCTURE = ("model.", "train.")
"""Parameters that change what a run costs; the others are shown at their first value."""


@dataclass(frozen=True)
class Row:
    """What one kind of run costs."""

    label: str
    cost: dict[str, Any]
    """``workbench.flops.describe``."""
    seconds: float
    """Training time on one worker, without evaluations and the autoencoder."""


@dataclass(frozen=True)
class DryRun:
    rows: tuple[Row, ...]
    num_autoencoders: int | None
    """At most so many are trained; None where the space is continuous, 0 without a search."""
    autoencoder_seconds: float
    """On one worker, for one autoencoder (the mean of those in ``rows``)."""
    total_seconds: float
    """On all workers, without evaluations."""
    speed_from: str


def dry_run(spec: StudySpec, home: Home, split: Split) -> DryRun:
    """Nothing is trained and nothing written but the machine's remembered probe. Raises ConfigError for a
    budget that gives no step."""
    speed, speed_from = measured_speed(home) or probed_speed(spec, home, split.threads)
    workers = split.workers
    rows = [
        *(_row(describe(setting), setting_config(spec, setting), speed) for setting in _structures(spec)),
        *(_row(name, baseline_config(spec, name), speed) for name in spec.baselines),
    ]
    cells = sum(r.seconds for r in rows if r.cost["kind"] == "baseline")
    if not spec.searches:
        return DryRun(tuple(rows), 0, 0.0, cells * spec.seeds / workers, speed_from)
    trials = [r for r in rows if r.cost["kind"] == "calm"]
    autoencoder = statistics.mean(r.cost["autoencoder_train_flops"] for r in trials) / speed
    trial_seconds = statistics.mean(r.seconds for r in trials)
    cells += len(spec.check_names) * trial_seconds
    num = _num_autoencoders(spec)
    trained = min(spec.trials, num) if num is not None else spec.trials
    total = (spec.trials * trial_seconds + cells) * spec.seeds + trained * autoencoder
    return DryRun(tuple(rows), num, autoencoder, total / workers, speed_from)


def _row(label: str, config: RunConfig, speed: float) -> Row:
    cost = flops.describe(config.resolved())
    work = cost["train_flops"] + cost.get("call_curve_flops", 0.0)
    return Row(label=label, cost=cost, seconds=work / speed)


def _structures(spec: StudySpec) -> list[dict[str, Any]]:
    """Settings of the searched parameters that change a run's cost, each combination once."""
    if not spec.searches:
        return []
    values: dict[str, list[Any]] = {}
    for name, dimension in spec.space.items():
        if name.startswith(STRUCTURE):
            values[name] = _ends(dimension)
    if not values:
        return [{name: _ends(d)[0] for name, d in spec.space.items()}]
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


def _ends(dimension: Choices | Range) -> list[Any]:
    return list(dimension.choices) if isinstance(dimension, Choices) else [dimension.low, dimension.high]


def _num_autoencoders(spec: StudySpec) -> int | None:
    """Distinct autoencoders of a categorical space: chunk size and the autoencoder's own parameters."""
    number = 1
    for name, dimension in spec.space.items():
        if name == "model.chunk_size" or name.startswith("autoencoder."):
            if isinstance(dimension, Range):
                return None
            number *= len(dimension.choices)
    return number


def measured_speed(home: Home) -> tuple[float, str] | None:
    """FLOPs a second of one worker, the median of the home's finished runs, and where the figure is from."""
    speeds = []
    for folder in find_runs(home.root):
        try:
            record = read_record(folder)
        except RunError:
            continue
        done = record.compute.get("train_flops", 0.0)
        if record.status == "completed" and record.train_seconds > 0 and done > 0:
            speeds.append(done / record.train_seconds)
    if not speeds:
        return None
    speed = statistics.median(speeds)
    return speed, f"{speed:.2g} FLOP/s a worker, median of {len(speeds)} finished runs in {home.root}"


def probed_speed(spec: StudySpec, home: Home, threads: int) -> tuple[float, str]:
    """The same from a few training steps of the first setting (without a search: of the first cell) with a
    worker's threads; an assumption for a model too large to try."""
    from workbench.machine import resolve
    from workbench.speed import training_flops_per_second

    first = (
        setting_config(spec, _structures(spec)[0])
        if spec.searches
        else baseline_config(spec, next(iter(spec.baselines)))
    )
    config = resolve(space.with_seed(first, 0, name="probe", threads=threads), home.cache)
    speed = training_flops_per_second(config, flops.vocab_size(config))
    if speed is not None:
        what = "setting" if spec.searches else "cell"
        return speed, f"{speed:.2g} FLOP/s a worker, from a few steps of the first {what} just now"
    speed = ASSUMED_FLOPS_PER_SECOND * threads
    return speed, f"{speed:.2g} FLOP/s a worker, assumed: the model is too large to try a step"

"""The dry run of a study: search space, cells, what each kind of run costs, before anything trains."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from studies import space
from studies.search_spec import Choices, Range
from studies.space import baseline_config, setting_config, settings
from studies.spec import StudySpec, describe
from studies.staffing import Split
from workbench import flops
from workbench.compute_account import Account, Counting, account
from workbench.config import RunConfig, content_hash
from workbench.device_plan import DevicePlan, Devices, device_plan, for_devices
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
    speed: float
    """Executed FLOPs a second of one worker."""


def dry_run(spec: StudySpec, home: Home, split: Split, devices: Devices | None = None) -> DryRun:
    """Nothing is trained and nothing written but the machine's remembered probe. ``devices``: a worker has one of
    these. Raises ConfigError for a budget that gives no step."""
    speed, speed_from = device_speed(devices) or measured_speed(home) or probed_speed(spec, home, split.threads)
    workers = split.workers
    rows = [
        *(_row(describe(setting), setting_config(spec, setting), speed) for setting in _structures(spec)),
        *(_row(name, baseline_config(spec, name), speed) for name in spec.baselines),
    ]
    longest = max(r.seconds for r in rows) * spec.seeds  # a worker makes all of a trial's or cell's runs
    cells = sum(r.seconds for r in rows if r.cost["kind"] == "baseline")
    if not spec.searches:
        total = max(cells * spec.seeds / workers, longest)
        return DryRun(tuple(rows), 0, 0.0, total, speed_from, speed)
    trials = [r for r in rows if r.cost["kind"] == "calm"]
    autoencoder = statistics.mean(r.cost["autoencoder_train_flops"] for r in trials) / speed
    trial_seconds = statistics.mean(r.seconds for r in trials)
    cells += len(spec.check_names) * trial_seconds
    num = _num_autoencoders(spec)
    trained = min(spec.trials, num) if num is not None else spec.trials
    total = (spec.trials * trial_seconds + cells) * spec.seeds + trained * autoencoder
    return DryRun(tuple(rows), num, autoencoder, max(total / workers, longest), speed_from, speed)


def _row(label: str, config: RunConfig, speed: float) -> Row:
    cost = flops.describe(config.resolved())
    return Row(label=label, cost=cost, seconds=_work(cost) / speed)


def _work(cost: dict[str, Any]) -> float:
    return float(cost["train_flops"] + cost.get("call_curve_flops", 0.0))


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
    """Distinct autoencoders of a categorical space: chunk size, the autoencoder's own parameters and the
    text."""
    number = 1
    for name, dimension in spec.space.items():
        if name == "model.chunk_size" or name.startswith(("autoencoder.", "data.")):
            if isinstance(dimension, Range):
                return None
            number *= len(dimension.choices)
    return number


@dataclass(frozen=True)
class Structure:
    """Runs of one study on one text that cost the same a token, so that only their budgets may differ."""

    label: str
    settings: tuple[Mapping[str, Any], ...]
    """Of the search; empty for cells."""
    cells: tuple[str, ...]
    accounts: tuple[Account, ...]
    """One a setting or cell."""
    work: tuple[float, ...]
    """Executed FLOPs of each run's training and comparison by network calls: what takes its time."""
    num_runs: int | None
    """With every seed; None where a search decides how many there are."""


def structures(
    spec: StudySpec, counting: Counting | None = None, *, shared: bool = False, every: bool = False
) -> tuple[Structure, ...]:
    """The compute account of everything that a study can train; of a continuous range its ends. ``shared``: each
    run is charged its part of the autoencoder, shared out evenly over the study's runs that use the same one (in
    a search, where that is not known: over as many as there are on average). ``every``: one structure for each
    setting and cell. Raises ConfigError for a budget that gives no step."""
    counting = counting or Counting()
    runs = list(_runs(spec))
    shares = _autoencoder_shares(spec, [config for _, _, config in runs]) if shared else {}
    groups: dict[str, list[_Run]] = {}
    for number, (setting, cell, config) in enumerate(runs):
        share = shares.get(_autoencoder_key(config)) if config.is_calm else None
        found = account(config, counting if share is None else replace(counting, autoencoder=share))
        key = str(number) if every else _per_token(found, config)
        groups.setdefault(key, []).append((setting, cell, found, _work(flops.describe(config))))
    return tuple(_structure(spec, rows) for rows in groups.values())


_Run = tuple[dict[str, Any], str, Account, float]


def _runs(spec: StudySpec) -> Iterator[tuple[dict[str, Any], str, RunConfig]]:
    """Setting, name of the cell and resolved configuration."""
    for setting in settings(spec):
        yield dict(setting), "", setting_config(spec, setting).resolved()
    for name in spec.baselines:
        yield {}, name, baseline_config(spec, name).resolved()


def _per_token(found: Account, config: RunConfig) -> str:
    """Equal for runs on the same text that cost the same, whatever their budget."""
    parts = {name: round(value / found.training.tokens, 6) for name, value in found.training.parts.items()}
    tree = found.to_dict()
    data = config.data.model_dump(mode="json")
    return content_hash([data, tree["kind"], tree["head"], tree["parameters"], tree["inference"], parts])


def _structure(spec: StudySpec, rows: list[_Run]) -> Structure:
    given = tuple(setting for setting, *_ in rows if setting)
    cells = tuple(cell for _, cell, *_ in rows if cell)
    known = bool(cells) or spec.sampler.kind == "grid"
    return Structure(
        label=_common_name(cells) if cells else _common_setting(spec, given),
        settings=given,
        cells=cells,
        accounts=tuple(found for _, _, found, _ in rows),
        work=tuple(work for _, _, _, work in rows),
        num_runs=len(rows) * spec.seeds if known else None,
    )


def _common_setting(spec: StudySpec, given: tuple[Mapping[str, Any], ...]) -> str:
    """What the settings have in common."""
    same = {
        name: given[0][name]
        for name in spec.space
        if all(name in setting and setting[name] == given[0].get(name) for setting in given)
    }
    return describe(same) or "every setting"


def _common_name(cells: tuple[str, ...]) -> str:
    """``baseline-d48`` of baseline-d48-3e11 and baseline-d48-9e11; else the first name and how many more."""
    parts = [part[0] for part in zip(*(cell.split("-") for cell in cells), strict=False) if len(set(part)) == 1]
    if len(cells) == 1 or len(parts) > 1:
        return "-".join(parts)
    return f"{cells[0]} and {len(cells) - 1} more"


def _autoencoder_key(config: RunConfig) -> str:
    """Equal for runs that can share one (``workbench.train_autoencoder.autoencoder_hash``)."""
    data, section = config.data.model_dump(mode="json"), config.autoencoder.model_dump(mode="json")
    return content_hash([section, config.chunk_size, data])


def _autoencoder_shares(spec: StudySpec, configs: list[RunConfig]) -> dict[str, float]:
    """By key, what part of an autoencoder's training each run is charged that uses it."""
    users = Counter(_autoencoder_key(config) for config in configs if config.is_calm)
    if not users:
        return {}
    if spec.sampler.kind == "grid":
        return {key: 1 / (num * spec.seeds) for key, num in users.items()}
    num = _num_autoencoders(spec)
    trained = spec.trials if num is None else min(spec.trials, num)
    return dict.fromkeys(users, trained / (spec.trials * spec.seeds))


def on_devices(
    spec: StudySpec, structures: Sequence[Structure], devices: Devices
) -> tuple[tuple[str, DevicePlan], ...]:
    """Label, memory, and time on all of them together, of the largest run of each structure."""
    found = []
    for one in structures:
        largest = max(range(len(one.work)), key=one.work.__getitem__)
        config = (
            baseline_config(spec, one.cells[largest])
            if one.cells
            else setting_config(spec, one.settings[largest] if one.settings else {})
        )
        config = for_devices(config).resolved()
        found.append((one.label, device_plan(config, flops.vocab_size(config), devices)))
    return tuple(found)


def device_speed(devices: Devices | None) -> tuple[float, str] | None:
    """FLOPs a second of one device, and the words; None where nothing is said of them."""
    if devices is None or devices.flops is None:
        return None
    speed = devices.flops * devices.utilisation
    part = f"{devices.utilisation:.0%} of a device's {devices.flops:.3g}"
    return speed, f"{speed:.3g} FLOP/s a worker: {part}"


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
    from workbench.speed import too_large, training_flops_per_second

    first = (
        setting_config(spec, _structures(spec)[0])
        if spec.searches
        else baseline_config(spec, next(iter(spec.baselines)))
    )
    vocab = flops.vocab_size(first)
    if too_large(first.resolved(), vocab):
        speed = ASSUMED_FLOPS_PER_SECOND * threads
        return speed, f"{speed:.2g} FLOP/s a worker, assumed: the model is too large to try a step"
    config = resolve(space.with_seed(first, 0, name="probe", threads=threads), home.cache)
    tried = training_flops_per_second(config, vocab)
    assert tried is not None, "it is not too large"
    what = "setting" if spec.searches else "cell"
    return tried, f"{tried:.2g} FLOP/s a worker, from a few steps of the first {what} just now"

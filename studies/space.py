"""The search space: pure functions from a trial's parameters to a run's configuration.

Nothing here reads a file, a clock or a random number: the same trial and specification give the same
configuration (tested with ``optuna.trial.FixedTrial``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

from studies.named_runs import with_run
from studies.run_presets import baseline_tree
from studies.search_spec import Choices, Range, Scalar
from studies.spec import StudySpec
from studies.texts import with_texts
from workbench.config import RunConfig, content_hash
from workbench.config_file import build_config, flatten

MAX_ENUMERATED = 512
"""Search spaces up to this many settings are gone through setting by setting before a launch."""


class Suggests(Protocol):
    """The part of ``optuna.Trial`` that is needed."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...


def suggest(trial: Suggests, spec: StudySpec) -> RunConfig:
    """The configuration of a trial, seed 0."""
    return setting_config(spec, {name: _suggest(trial, name, d) for name, d in spec.space.items()})


def _suggest(trial: Suggests, name: str, dimension: Choices | Range) -> Any:
    if isinstance(dimension, Choices):
        return trial.suggest_categorical(name, list(dimension.choices))
    if dimension.is_int:
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(name, float(dimension.low), float(dimension.high), log=dimension.log)


def setting_config(spec: StudySpec, setting: Mapping[str, Any]) -> RunConfig:
    """The base configuration with a setting of the search space (dotted names) and what follows from it."""
    return _frozen(spec, build_config(spec.base, {**followed(spec, setting), **setting}))


def _frozen(spec: StudySpec, config: RunConfig) -> RunConfig:
    """With what its names stood for when the study was launched."""
    return with_run(with_texts(config, spec.texts), spec.runs)


def followed(spec: StudySpec, setting: Mapping[str, Any]) -> dict[str, Scalar]:
    """Settings that the values of ``setting`` bring with them (``Preset.follows``)."""
    rows = (spec.follows.get(name, {}).get(str(value), {}) for name, value in setting.items())
    return {name: value for row in rows for name, value in row.items()}


def varied(spec: StudySpec) -> list[str]:
    """Dotted names of the values in which runs of one study can differ besides the seed."""
    names = {*spec.space, *(name for rows in spec.follows.values() for row in rows.values() for name in row)}
    names.update(name for settings in spec.baselines.values() for name in flatten(settings) if name != "seed")
    if spec.checks.lr_factors:
        names |= {"optim.lr", "optim.matrix_lr"}
    return sorted(names)


def settings(spec: StudySpec) -> Iterable[dict[str, Scalar]]:
    """All settings of the search space, or the ends of each range where there are too many; none without a
    search."""
    values = {
        name: list(d.choices) if isinstance(d, Choices) else [d.low, d.high] for name, d in spec.space.items()
    }
    if not values:
        return ()
    if spec.sampler.kind == "grid" or math.prod(len(v) for v in values.values()) <= MAX_ENUMERATED:
        return (dict(zip(values, row, strict=True)) for row in itertools.product(*values.values()))
    return ({name: value} for name, row in values.items() for value in row)


def distinct_inputs(
    spec: StudySpec, *, search: bool = True, cells: Collection[str] | None = None
) -> Iterator[tuple[str, RunConfig]]:
    """One run for each text, tokenizer, block length, evaluation and beginning that a study uses, and whose it is
    (empty for the search's): what has to be there before anything is launched. ``search``: with its settings;
    ``cells``: with these baselines only."""
    tried = (("", setting_config(spec, setting)) for setting in (settings(spec) if search else ()))
    baselines = [name for name in spec.baselines if cells is None or name in cells]
    seen = set()
    for whose, config in itertools.chain(tried, ((name, baseline_config(spec, name)) for name in baselines)):
        train = (config.train.block_len, config.train.init_from)
        key = content_hash([config.data.model_dump(), train, config.eval.model_dump()])
        if key not in seen:
            seen.add(key)
            yield whose, config


def baseline_config(spec: StudySpec, name: str) -> RunConfig:
    """A token baseline: the base's data, budget, evaluation and backbone, then the cell's own settings."""
    return _frozen(spec, build_config(baseline_tree(spec.base), spec.baselines[name]))


def check_config(spec: StudySpec, name: str, best: Mapping[str, Any]) -> RunConfig:
    """A sensitivity check: the setting ``best`` with its learning rates times the factor called ``name``.

    The rates that are multiplied are the resolved ones, also where the configuration leaves them to the rule."""
    factor = dict(zip(spec.check_names, spec.checks.lr_factors, strict=True))[name]
    optim = setting_config(spec, best).resolved().optim
    assert optim.lr is not None
    rates = {"optim.lr": optim.lr * factor}
    if optim.kind == "muon":
        assert optim.matrix_lr is not None
        rates["optim.matrix_lr"] = optim.matrix_lr * factor
    return _frozen(spec, build_config(spec.base, {**followed(spec, best), **best, **rates}))


def with_seed(config: RunConfig, seed: int, *, name: str, threads: int) -> RunConfig:
    """The configuration of one run of a cell or trial. ``threads`` fills what was left open."""
    runtime = config.runtime.model_copy(update={"threads": config.runtime.threads or threads})
    return config.model_copy(update={"seed": seed, "name": name, "runtime": runtime})


def cell_seeds(spec: StudySpec, name: str) -> list[int]:
    """Seeds of a baseline or check: the first ``spec.seeds``, or those after ``r`` times as many where a baseline
    says ``seed: r``, which repeats another one to measure the noise of the seed."""
    skipped = int(spec.baselines.get(name, {}).get("seed", 0)) * spec.seeds
    return list(range(skipped, skipped + spec.seeds))


def next_seeds(num_seeds: int, used: set[int]) -> list[int]:
    """Seeds of a trial whose setting was trained with the seeds ``used`` before: the next unused ones.

    A setting that is suggested again becomes a replicate, which measures the noise of the seed, instead
    of an identical run."""
    first = max(used, default=-1) + 1
    return list(range(first, first + num_seeds))

"""How long the rest of a launch will take: the work that is left, at the pace of what has ended.

Work is the FLOPs that a run executes, counted from its configuration: a baseline at a tenth of a trial's cost says
how long the trial will take, too. The pace holds everything that time was spent on, autoencoders, evaluations and
pruned trials included.
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from studies import space, storage
from studies.spec import StudySpec
from workbench import flops
from workbench.config import RunConfig
from workbench.errors import UserError

_MOST_SETTINGS = 50
"""That are counted for the mean trial."""


class Work:
    """FLOPs that each trial and cell of a specification executes; every configuration is counted once."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        self._known: dict[str, float] = {}

    def trial(self, params: Mapping[str, Any]) -> float:
        """Of the setting, or the mean one where none is drawn yet."""
        if not params:
            return self.mean_trial
        return self._of(repr(sorted(params.items())), lambda: space.setting_config(self._spec, params))

    @property
    def mean_trial(self) -> float:
        settings = list(space.settings(self._spec))
        settings = settings[:: max(1, len(settings) // _MOST_SETTINGS)]
        return statistics.mean([self.trial(setting) for setting in settings if setting] or [0.0])

    def cell(self, name: str, best: Mapping[str, Any]) -> float:
        """Of a baseline, or of a check of the setting ``best``."""
        if name not in self._spec.baselines:
            return self.trial(best)
        return self._of(f"cell {name}", lambda: space.baseline_config(self._spec, name))

    def _of(self, key: str, build: Callable[[], RunConfig]) -> float:
        if key not in self._known:
            try:
                cost = flops.describe(build().resolved())
                self._known[key] = float(cost["train_flops"] + cost.get("call_curve_flops", 0.0))
            except UserError:  # a setting that gives no step: it fails at once
                self._known[key] = 0.0
        return self._known[key]


@lru_cache(maxsize=8)
def _work(spec: str) -> Work:
    return Work(StudySpec.model_validate_json(spec))


def seconds(trial: FrozenTrial) -> float | None:
    """From its start to its end, or until now, and of what was interrupted before and is continued; None of one
    that waits."""
    if trial.datetime_start is None or trial.state == TrialState.WAITING:
        return None
    end = trial.datetime_complete or datetime.datetime.now()
    session = (end - trial.datetime_start).total_seconds() - trial.user_attrs.get("silence", 0.0)
    return float(max(0.0, session) + trial.user_attrs.get("spent", 0.0))


def seconds_left(
    spec: StudySpec,
    trials: list[FrozenTrial],
    cells: list[FrozenTrial],
    trials_left: int,
    cells_left: int,
    workers: int,
) -> float | None:
    """Until the last of ``trials_left`` and ``cells_left``, those that run included, has ended; None before the
    first has."""
    work = _work(spec.model_dump_json())
    params = {t.number: t.params for t in trials}
    sizes = [(t, work.trial(t.params)) for t in trials]
    sizes += [(t, work.cell(storage.cell_of(t), params.get(t.user_attrs.get("of_trial", -1), {}))) for t in cells]
    pace = _pace(sizes)
    if pace is None:
        return None
    running = [(t, size) for t, size in sizes if t.state == TrialState.RUNNING]
    left = sum(max(0.0, size * pace - (seconds(t) or 0.0)) for t, size in running)
    waiting_trials = max(0, trials_left - sum(t.state == TrialState.RUNNING for t in trials))
    left += waiting_trials * work.mean_trial * pace
    left += sum(_cells_to_come(spec, work, cells, cells_left)) * pace
    return left / max(1, workers)


def _pace(sizes: list[tuple[FrozenTrial, float]]) -> float | None:
    """Seconds a FLOP of what was completed; the time of pruned ones is spent, too."""
    done = sum(size for t, size in sizes if t.state == TrialState.COMPLETE)
    spent = sum(seconds(t) or 0.0 for t, _ in sizes if t.state in (TrialState.COMPLETE, TrialState.PRUNED))
    return spent / done if done else None


def _cells_to_come(spec: StudySpec, work: Work, cells: list[FrozenTrial], cells_left: int) -> list[float]:
    """Work of the cells that do not run yet: baselines by name, the others are checks of some setting."""
    begun = (TrialState.RUNNING, TrialState.COMPLETE)
    there = {storage.cell_of(t) for t in cells if t.state in begun}
    waiting = max(0, cells_left - sum(t.state == TrialState.RUNNING for t in cells))
    found = [work.cell(name, {}) for name in spec.baselines if name not in there][:waiting]
    return found + [work.mean_trial] * (waiting - len(found))

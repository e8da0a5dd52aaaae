"""What a worker does next: baselines, then the search, then the checks of the best setting.

A study without a search wants 0 trials: its search has ended before it began, and it is finished with its
baselines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from studies import recovery, retried, storage
from studies.spec import StudySpec

Step = Literal["cells", "search", "wait", "done"]


@dataclass(frozen=True)
class Counts:
    """Trials of one Optuna study. A failed trial that was queued again counts under its new number only; one that
    was lost, and will be queued again, as waiting."""

    complete: int
    pruned: int
    running: int
    waiting: int
    failed: int


def count(trials: list[FrozenTrial]) -> Counts:
    again = recovery.superseded(trials)
    shown = [t for t in trials if t.number not in again]
    states = Counter(TrialState.WAITING if recovery.was_lost(t) else t.state for t in shown)
    return Counts(
        complete=states[TrialState.COMPLETE],
        pruned=states[TrialState.PRUNED],
        running=states[TrialState.RUNNING],
        waiting=states[TrialState.WAITING],
        failed=states[TrialState.FAIL],
    )


def next_step(spec: StudySpec, search: optuna.Study, cells: optuna.Study, *, only_queued: bool = False) -> Step:
    """Decide, queueing the cells that are missing. Call it holding the claim.

    ``wait`` means that trials of other workers decide what comes next; ``only_queued``: only what was queued again
    is run."""
    if only_queued:
        return _next_queued(search, cells)
    cell_trials = cells.get_trials(deepcopy=False)
    queued = {storage.cell_of(t) for t in cell_trials}
    missing = [name for name in spec.baselines if name not in queued]
    for name in missing:
        cells.enqueue_trial({"cell": name})
    if missing or count(cell_trials).waiting:
        return "cells"
    trials = search.get_trials(deepcopy=False)
    counts = count(trials)
    if counts.waiting:
        return "search"
    if not search_ended(spec, counts):
        wants_more = spec.sampler.kind != "grid" and counts.complete + counts.running < spec.trials
        return "search" if wants_more else "wait"
    if counts.running:
        return "wait"
    if enqueue_checks(spec, search, cells):
        return "cells"
    return "wait" if count(cell_trials).running else "done"


def _next_queued(search: optuna.Study, cells: optuna.Study) -> Step:
    left, cells_left = retried.left(search), retried.left(cells)
    if any(trial.state == TrialState.WAITING for trial in cells_left):
        return "cells"
    if any(trial.state == TrialState.WAITING for trial in left):
        return "search"
    return "wait" if left or cells_left else "done"


def may_prune(spec: StudySpec, search: optuna.Study) -> bool:
    """Whether the allowance of pruned trials is not spent: then the rest run to their end, so that the
    wanted number completes in bounded time."""
    counts = count(search.get_trials(deepcopy=False))
    return counts.pruned + counts.failed + 1 < spec.max_extra


def search_ended(spec: StudySpec, counts: Counts) -> bool:
    """Enough trials have completed, or as many as are allowed were pruned or failed; of a grid, where nothing
    stands in for a setting that failed, all of it has ended."""
    if spec.sampler.kind == "grid":
        return counts.complete + counts.pruned + counts.failed >= spec.trials
    return counts.complete >= spec.trials or counts.pruned + counts.failed >= spec.max_extra


def enqueue_checks(spec: StudySpec, search: optuna.Study, cells: optuna.Study) -> int:
    """Queue the sensitivity checks of the best trial that are not there; how many were queued."""
    best = best_trial(search)
    if best is None:
        return 0
    missing = missing_checks(spec, best, search.get_trials(deepcopy=False), cells.get_trials(deepcopy=False))
    for name in missing:
        cells.enqueue_trial({"cell": name}, user_attrs={"of_trial": best.number})
    return len(missing)


def missing_checks(
    spec: StudySpec, best: FrozenTrial, trials: list[FrozenTrial], cell_trials: list[FrozenTrial]
) -> list[str]:
    """Where another trial of the same setting had been the best one, its checks are the same runs."""
    same = {trial.number for trial in trials if trial.params == best.params}
    there = {storage.cell_of(t) for t in cell_trials if t.user_attrs.get("of_trial") in same}
    return [name for name in spec.check_names if name not in there]


def best_trial(search: optuna.Study) -> FrozenTrial | None:
    """The complete trial with the highest score, the earliest where several have it."""
    complete = search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda t: (t.value, -t.number), default=None)


def is_finished(spec: StudySpec, search: optuna.Study, cells: optuna.Study) -> bool:
    """Whether nothing is left to do; changes nothing."""
    trials, cell_trials = search.get_trials(deepcopy=False), cells.get_trials(deepcopy=False)
    counts, cell_counts = count(trials), count(cell_trials)
    if counts.waiting or counts.running or cell_counts.waiting or cell_counts.running:
        return False
    queued = {storage.cell_of(t) for t in cell_trials}
    best = best_trial(search)
    return (
        search_ended(spec, counts)
        and queued >= set(spec.baselines)
        and (best is None or not missing_checks(spec, best, trials, cell_trials))
    )

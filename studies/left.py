"""Whether the texts are there of what a launch has left to run: each trial would fail for one that is not.

A path may be relative, and a launch be continued from another folder than the one it was launched from.
"""

from __future__ import annotations

import os
from collections.abc import Collection

import optuna
from optuna.trial import TrialState

from studies import plan, recovery, retried, space, storage
from studies.spec import StudySpec
from workbench.data import require_source
from workbench.errors import DataError


def require_texts_left(
    spec: StudySpec, search: optuna.Study, cells: optuna.Study, *, only_queued: bool = False
) -> None:
    """Raises DataError where a text of what is left to run is not there. What has ended needs none.

    ``only_queued``: what was queued again is all that is to be run."""
    if only_queued:
        names = {storage.cell_of(trial) for trial in retried.left(cells)}
        require_texts(spec, search=bool(retried.left(search)), cells=names)
    else:
        names = _cells_left(spec, cells)
        require_texts(spec, search=_search_left(spec, search, cells), cells=names)


def require_texts(spec: StudySpec, *, search: bool, cells: Collection[str]) -> None:
    """Raises DataError where a text of the search or of one of these cells is not there. None is read, and nobody
    on the hub is asked."""
    checks = any(name in spec.check_names for name in cells)  # of a setting of the search
    for cell, config in space.distinct_inputs(spec, search=search or checks, cells=cells):
        try:
            require_source(config.data)
        except DataError as error:
            hint = "" if _is_absolute(config.data.corpus) else f"; {_FROM_THERE}"
            raise DataError((f"cell {cell}: " if cell else "") + f"{error}{hint}") from None


_FROM_THERE = (
    "a study keeps the path it was launched with, so continue it from the folder that it was launched from"
)


def _is_absolute(corpus: str) -> bool:
    """Whether it does not depend on the current folder: a path from the root, or a name."""
    kind, colon, path = corpus.partition(":")
    return not colon or kind not in ("text", "json") or os.path.isabs(os.path.expanduser(path))


def _search_left(spec: StudySpec, search: optuna.Study, cells: optuna.Study) -> bool:
    """Whether settings of the search are to be trained, as trials or as checks of the best."""
    trials = search.get_trials(deepcopy=False)
    counts = plan.count(trials)
    if counts.waiting or counts.running or not plan.search_ended(spec, counts):
        return True
    best = plan.best_trial(search)
    return best is not None and bool(plan.missing_checks(spec, best, trials, cells.get_trials(deepcopy=False)))


def _cells_left(spec: StudySpec, cells: optuna.Study) -> set[str]:
    """Baselines that were never queued, and cells that wait, run or have lost their worker."""
    trials = cells.get_trials(deepcopy=False)
    again = recovery.superseded(trials)
    open_states = (TrialState.WAITING, TrialState.RUNNING)
    left = {
        storage.cell_of(trial)
        for trial in trials
        if trial.number not in again and (trial.state in open_states or recovery.was_lost(trial))
    }
    return left | (set(spec.baselines) - {storage.cell_of(trial) for trial in trials})

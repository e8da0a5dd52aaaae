"""How a launch stands: counts, best trial, failures, time left; and its summary.json at the end."""

from __future__ import annotations

import datetime
import warnings
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from studies import plan, recovery, storage, time_left
from studies.plan import Counts
from studies.spec import describe
from studies.storage import Launch
from workbench import files

SUMMARY = "summary.json"
IMPORTANCE_FROM = 20
"""Complete trials from which parameter importance is worth showing."""
IMPORTANCE_LEAST = 4
"""Fewer have no best quarter to compare with the rest; Optuna would return equal shares."""


@dataclass(frozen=True)
class TrialRow:
    """One trial or cell as it is shown."""

    label: str
    """``trial 7`` or the name of the cell."""
    state: str
    score: float | None
    params: str
    seconds: float | None
    run_id: str
    """The first seed's, of a trial under way the one that runs."""
    reason: str = ""
    worker: dict[str, Any] = field(default_factory=dict)
    """Of a trial under way."""
    number: int = -1
    """In its Optuna study, where every attempt has one; the label has the first."""
    is_cell: bool = False
    evaluations: int = 0
    """Done so far, over all its runs."""


@dataclass(frozen=True)
class Snapshot:
    """A launch at one moment. Trials that were queued again count once."""

    trials_wanted: int
    search: Counts
    cells_wanted: int
    cells: Counts
    rows: tuple[TrialRow, ...]
    best: TrialRow | None
    seconds_left: float | None
    finished: bool

    @property
    def searches(self) -> bool:
        """False for a study of cells only."""
        return self.trials_wanted > 0

    @property
    def in_vain(self) -> bool:
        """Whether it has ended without an answer: no trial of the search has completed, or of a study without one
        no cell."""
        return self.finished and not (self.search if self.searches else self.cells).complete

    def of_state(self, *states: str) -> list[TrialRow]:
        return [row for row in self.rows if row.state in states]


def snapshot(launch: Launch, workers: int | None = 1) -> Snapshot:
    """Read the storage once. ``workers`` divides the time left; None: those that run something now."""
    spec = launch.spec
    trials = launch.search.get_trials(deepcopy=False)
    cells = launch.cells.get_trials(deepcopy=False)
    best = plan.best_trial(launch.search)
    counts, cell_counts = plan.count(trials), plan.count(cells)
    rows = (*_rows(trials), *_rows(cells, of={t.number: recovery.number_of(t) for t in trials}))
    if workers is None:
        workers = len({str(row.worker) for row in rows if row.state == "running"})
    cells_wanted = max(len(spec.baselines) + len(spec.check_names), _num_cells(cells))
    remaining = max(0, spec.trials - counts.complete) if not plan.search_ended(spec, counts) else 0
    cells_left = cells_wanted - cell_counts.complete - cell_counts.failed
    return Snapshot(
        trials_wanted=spec.trials,
        search=counts,
        cells_wanted=cells_wanted,
        cells=cell_counts,
        rows=rows,
        best=_row(best) if best else None,
        seconds_left=time_left.seconds_left(spec, trials, cells, remaining, cells_left, workers),
        finished=plan.is_finished(spec, launch.search, launch.cells),
    )


def _num_cells(cells: list[FrozenTrial]) -> int:
    """Cells tried or queued; raising the trials can add checks of a new best setting."""
    return len({(storage.cell_of(t), t.user_attrs.get("of_trial")) for t in cells})


def _rows(trials: list[FrozenTrial], of: dict[int, int] | None = None) -> list[TrialRow]:
    again = recovery.superseded(trials)
    return [_row(t, of) for t in trials if t.number not in again]


def _row(trial: FrozenTrial, searched: dict[int, int] | None = None) -> TrialRow:
    """``searched``: of a cell, under which number each trial of the search is known."""
    is_cell = searched is not None
    runs = trial.user_attrs.get("runs") or [""]
    done = len(trial.user_attrs.get("scores", ())) if trial.state == TrialState.RUNNING else 0
    best = trial.user_attrs.get("of_trial")
    of = (searched or {}).get(best, best)
    cell = storage.cell_of(trial) if is_cell else ""
    reason = trial.user_attrs.get("reason", "")
    return TrialRow(
        label=cell or f"trial {recovery.number_of(trial)}",
        state="waiting" if recovery.was_lost(trial) else trial.state.name.lower(),
        score=trial.value if trial.state == TrialState.COMPLETE else None,
        params=(f"of trial {of}" if of is not None else "") if is_cell else _params_text(trial),
        seconds=time_left.seconds(trial),
        run_id=runs[min(done, len(runs) - 1)],
        reason=recovery.failure_reason(trial) if trial.state == TrialState.FAIL else reason,
        worker=trial.user_attrs.get("worker", {}) if trial.state == TrialState.RUNNING else {},
        number=trial.number,
        is_cell=is_cell,
        evaluations=sum(trial.user_attrs.get("evaluations", {}).values()),
    )


def _params_text(trial: FrozenTrial) -> str:
    seeds = trial.user_attrs.get("seeds") or [0]
    replicate = f" seed={seeds[0]}" if seeds[0] else ""
    return describe(trial.params) + replicate


def importance(launch: Launch) -> tuple[dict[str, float] | None, str]:
    """PED-ANOVA importance of each searched parameter, and a note on how far to trust it."""
    if not launch.spec.searches:
        return None, "nothing was searched"
    complete = len(launch.search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if complete < IMPORTANCE_LEAST:
        return None, f"not computable: {complete} complete trials, at least {IMPORTANCE_LEAST} are needed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = optuna.importance.get_param_importances(launch.search)
    except (ValueError, RuntimeError) as error:
        return None, f"not computable: {str(error).splitlines()[0]}"
    if complete < IMPORTANCE_FROM:
        return None, f"withheld: {complete} complete trials, at least {IMPORTANCE_FROM} are needed"
    return values, f"PED-ANOVA over {complete} complete trials"


def write_summary(launch: Launch) -> dict[str, Any]:
    """Write and return summary.json. A failed trial that was queued again is not counted as failed."""
    state = snapshot(launch)
    best = plan.best_trial(launch.search)
    values, note = importance(launch)
    summary = {
        "importance": values,
        "importance_note": note,
        "num_trials": len([r for r in state.rows if r.label.startswith("trial ")]),
        "num_complete": state.search.complete,
        "num_pruned": state.search.pruned,
        "num_failed": state.search.failed + state.cells.failed,
        "num_cells": state.cells.complete,
        "best": best and {"run_id": best.user_attrs["runs"][0], "params": best.params, "score": best.value},
        "in_vain": state.in_vain,
        "failures": [{"what": r.label, "reason": r.reason} for r in state.of_state("fail")],
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    files.write_json(launch.folder / SUMMARY, summary)
    return summary

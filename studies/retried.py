"""Failed trials that the user queued again: those alone are what ``calm study retry`` runs.

Other trials may be queued, too, and were never begun: settings of a grid, starting points, cells.
"""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

from studies import recovery, storage
from studies.storage import Launch


def left(study: optuna.Study) -> list[FrozenTrial]:
    """Those that run, are queued, or lost their worker and will be queued."""
    trials = study.get_trials(deepcopy=False)
    again = recovery.superseded(trials)
    return [
        trial
        for trial in trials
        if trial.user_attrs.get(recovery.RETRIED)
        and trial.number not in again
        and (not trial.state.is_finished() or recovery.was_lost(trial))
    ]


def queued(launch: Launch, *, running: bool = False) -> list[str]:
    """What was queued again and is not begun, or also what is: by a worker that lives or is yet to be missed."""
    return [
        storage.cell_of(trial) or f"trial {recovery.number_of(trial)}"
        for study in (launch.search, launch.cells)
        for trial in left(study)
        if running or trial.state == TrialState.WAITING
    ]


def alone(study: optuna.Study) -> optuna.Study:
    """The same Optuna study, from whose queue nothing else is taken."""
    return _RetriedAlone(study.study_name, study._storage, sampler=study.sampler, pruner=study.pruner)


class _RetriedAlone(optuna.Study):  # type: ignore[misc]
    """Optuna takes the first trial of its queue, and does not ask which."""

    def _pop_waiting_trial_id(self) -> int | None:
        """Raises UpdateFinishedTrialError where none is left: Optuna would draw a new trial."""
        for trial in left(self):
            if trial.state == TrialState.WAITING and self._storage.set_trial_state_values(
                trial._trial_id, state=TrialState.RUNNING
            ):
                return int(trial._trial_id)
        raise optuna.exceptions.UpdateFinishedTrialError(f"nothing of {self.study_name} is queued again")

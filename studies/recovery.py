"""Trials whose worker is gone are given out again; nothing that ended is.

Every ``recover`` looks at the whole of what is stored, so it does not matter where a worker, or a recovery, was
killed. A trial is queued again when

* it runs on a worker that is no more: a process of this machine that has ended, or one elsewhere whose heartbeats
  have been missing for the grace period by the database's clock. A process that is seen to live is never replaced;
* it runs on nobody: its worker was killed between taking it and signing for it;
* it failed without a reason: it was interrupted, or its recovery was cut short.

It keeps its parameters, seeds and run folders, so it goes on from its last checkpoint, and a run that had ended is
found finished. What kills its workers at the same point again and again is given up (``Strikes``).
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from studies import time_left
from studies.database import LONGEST_PAUSE, database_of
from studies.search_spec import HeartbeatSpec
from workbench import files, processes, records

OWN_FAULT, UNEXPLAINED = 1.0, 0.2
"""Strikes for a death: memory ran out, or nothing is known (a machine that was switched off, an administrator). Of
those in a row without progress, ``heartbeat.max_retries`` are forgiven."""
WATCH_SECONDS = LONGEST_PAUSE
"""Beyond an interval: after an outage a living worker tries again so late."""
FINISHED_RUN = 10**12
"""Progress of a run that has ended: more than the steps of any that has not."""
NOT_INHERITED = ("reason", "ended", "worker", "died", "silence", "given_up", "scores", "bad_numbers")

RETRIED = "retried"
"""Attribute of a trial that the user queued again, and of what continues it."""

log = logging.getLogger("studies.recovery")


def this_worker(index: int) -> dict[str, Any]:
    """Who runs a trial: a process of this machine, told from a later one with its number."""
    return {**processes.this_process(), "index": index}


def signature(worker: dict[str, Any]) -> dict[str, Any]:
    """Of a worker under a trial that it begins: who, and how often memory had run out before."""
    kills = processes.out_of_memory_kills()
    return worker if kills is None else {**worker, "memory_kills": kills}


def recover(study: optuna.Study, heartbeat: HeartbeatSpec, folder: Path) -> list[int]:
    """Queue again what lost its worker; returns the numbers that it had.

    ``folder`` is the launch's, whose checkpoints tell progress. Call it holding the claim: a trial that is just
    being taken up is signed for before the claim is let go."""
    _end_the_dead(study, heartbeat, folder)
    trials = study.get_trials(deepcopy=False)
    again = superseded(trials)
    lost = [trial.number for trial in trials if trial.number not in again and was_lost(trial)]
    for number in lost:
        requeue(study, number)
    return lost


def was_lost(trial: FrozenTrial) -> bool:
    """Whether a failed trial did not fail by itself."""
    attrs = trial.user_attrs
    if trial.state != TrialState.FAIL or attrs.get("given_up"):
        return False
    return "died" in attrs or "reason" not in attrs


def _end_the_dead(study: optuna.Study, heartbeat: HeartbeatSpec, folder: Path) -> None:
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if not running:
        return
    silent = _silent(study, heartbeat)
    for trial in running:
        cause = cause_of_death(trial, silent.get(trial.number), heartbeat)
        if cause is None:
            continue
        judged = "died" in trial.user_attrs  # by a recovery that was cut short
        try:
            verdict = {} if judged else _verdict(trial, cause, heartbeat, folder) | _silence(study, trial)
            for key, value in verdict.items():
                study._storage.set_trial_user_attr(trial._trial_id, key, value)
            study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            continue  # it ended by itself meanwhile
        log.warning("trial %d of %s: %s", number_of(trial), study.study_name, cause)


_seen: dict[tuple[int, int], tuple[str, float]] = {}
"""Heartbeats by study and trial, as this process has seen them: when it was, and since when (monotonic seconds) it
is the last one."""


def _silent(study: optuna.Study, heartbeat: HeartbeatSpec) -> dict[int, float]:
    """Seconds since the last heartbeat, of running trials. No more than the grace period unless this process has
    itself seen it be the last for long enough that a living worker would have been back: while the database was
    away, nobody could beat."""
    found = {}
    for number, (age, when) in database_of(study).heartbeats(study._study_id).items():
        key = (study._study_id, number)
        if _seen.get(key, ("", 0.0))[0] != when:
            _seen[key] = (when, time.monotonic())
        watched = time.monotonic() - _seen[key][1]
        found[number] = age if watched > heartbeat.interval + WATCH_SECONDS else min(age, float(heartbeat.grace))
    return found


def cause_of_death(trial: FrozenTrial, silent: float | None, heartbeat: HeartbeatSpec) -> str | None:
    """Why a running trial has no worker any more; None where it has one, or may have."""
    worker = trial.user_attrs.get("worker")
    if not worker:
        return "its worker was killed before it had begun"
    alive = processes.is_alive(worker)
    if alive:
        return None
    if alive is False:
        kills, before = processes.out_of_memory_kills(), worker.get("memory_kills")
        ran_out = kills is not None and before is not None and kills > before
        return OUT_OF_MEMORY if ran_out else "its worker was killed"
    if silent is None or silent <= heartbeat.grace:
        return None
    return f"its worker on {worker.get('host', 'another host')} has given no sign of life for {silent:.0f} s"


OUT_OF_MEMORY = "its worker was killed while memory ran out"


def _verdict(trial: FrozenTrial, cause: str, heartbeat: HeartbeatSpec, folder: Path) -> dict[str, Any]:
    """The attributes of a trial that died: whether it is given up, and the strikes so far."""
    attrs = trial.user_attrs
    made = progress(folder, attrs.get("runs", []))
    strikes = attrs.get("strikes", 0.0) if made <= attrs.get("progress", 0) else 0.0
    strikes += OWN_FAULT if cause == OUT_OF_MEMORY else UNEXPLAINED
    verdict: dict[str, Any] = {"died": cause, "strikes": round(strikes, 3), "progress": made}
    if strikes > heartbeat.max_retries + 1e-9:
        where = "before its first checkpoint" if made == 0 else "without getting any further"
        verdict |= {"reason": f"{cause}, again and again {where}; given up", "given_up": True}
    return verdict


def _silence(study: optuna.Study, trial: FrozenTrial) -> dict[str, float]:
    """Seconds from its last heartbeat to its end: nobody was at it."""
    age = database_of(study).heartbeats(study._study_id).get(trial.number, (0.0, ""))[0]
    return {"silence": round(max(0.0, age), 1)}


def progress(folder: Path, runs: list[str]) -> int:
    """Steps in the checkpoints of a trial's runs, as far as they lie on this machine."""
    return sum(_steps(folder / run_id) for run_id in runs)


def _steps(run_dir: Path) -> int:
    try:
        record = files.read_json(run_dir / records.RECORD)
        if record["status"] in records.FINISHED:
            return FINISHED_RUN
        return int(files.read_json(run_dir / records.CHECKPOINT / "state.json")["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def requeue(study: optuna.Study, number: int, *, forgive: bool = False) -> None:
    """Queue a failed trial again with its parameters, seeds and run folders; ``forgive`` its strikes, at the
    user's wish."""
    trial = find(study, number)
    dropped = (*NOT_INHERITED, "strikes", "progress") if forgive else NOT_INHERITED
    attrs = {k: v for k, v in trial.user_attrs.items() if k not in dropped}
    attrs |= {RETRIED: True} if forgive else {}
    attrs["continues"] = [*trial.user_attrs.get("continues", []), number]
    attrs["spent"] = round(time_left.seconds(trial) or 0.0, 1)
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=attrs,
            system_attrs=trial.system_attrs,
        )
    )


def give_back(study: optuna.Study, numbers: list[int]) -> None:
    """Queue interrupted trials again unless a recovery was faster. Call it holding the claim."""
    again = superseded(study.get_trials(deepcopy=False))
    for number in numbers:
        if number not in again:
            requeue(study, number)


def superseded(trials: list[FrozenTrial]) -> set[int]:
    """Numbers of failed trials that were queued again under another number, or that another has made up for."""
    numbers = _made_up_for(trials)
    for trial in trials:
        numbers.update(trial.user_attrs.get("continues", []))
        numbers.update(trial.system_attrs.get("retry_history", []))  # of launches by earlier versions
    return numbers


def _made_up_for(trials: list[FrozenTrial]) -> set[int]:
    """Numbers of failed trials with whose setting and seeds others run or ran: earlier versions gave a setting
    that was drawn again the seeds of the trial that had failed."""
    failures = [t for t in trials if t.state == TrialState.FAIL and t.user_attrs.get("seeds")]
    if not failures:
        return set()
    taken = {one for t in trials if t.state != TrialState.FAIL for one in _trained(t)}
    return {t.number for t in failures if taken.issuperset(_trained(t))}


def _trained(trial: FrozenTrial) -> list[tuple[Any, ...]]:
    setting = tuple(sorted(trial.params.items()))
    return [(setting, seed) for seed in trial.user_attrs.get("seeds", [])]


def number_of(trial: FrozenTrial | optuna.Trial) -> int:
    """Under which a trial is known: its first one, which its run folders are named by, however often it was queued
    again. Optuna counts every attempt."""
    continued = trial.user_attrs.get("continues") or [trial.number]
    return int(continued[0])


def failed(study: optuna.Study) -> list[FrozenTrial]:
    """Failed trials that nobody has taken up again."""
    trials = study.get_trials(deepcopy=False)
    again = superseded(trials)
    return [t for t in trials if t.state == TrialState.FAIL and t.number not in again]


def failure_reason(trial: FrozenTrial) -> str:
    return str(
        trial.user_attrs.get("reason") or trial.user_attrs.get("died") or "interrupted; it will be continued"
    )


def find(study: optuna.Study, number: int) -> FrozenTrial:
    return next(t for t in study.get_trials(deepcopy=False) if t.number == number)

"""What one Optuna trial does: one run per seed through ``workbench.runner``, a score, pruning.

Outcomes: COMPLETE with the mean score; PRUNED when the pruner stopped the first seed's run (searches
only) or its numbers were bad (``records.BAD_NUMBERS``; searches only, so that the sampler learns to avoid the
setting); FAIL with the reason in the trial's attribute ``reason``. A run interrupted by a signal leaves a folder
ready to be resumed.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from studies import plan, recovery, run_folders, space, storage
from studies.database import UNAVAILABLE, database_of
from studies.spec import describe
from studies.storage import Launch
from workbench import interruption, records
from workbench.config import RunConfig
from workbench.errors import OutputError, StudyError, UserError
from workbench.home import Home
from workbench.records import BAD_NUMBERS, Evaluation, RunRecord
from workbench.tracking import Tracker


class Execute(Protocol):
    """The signature of ``workbench.runner.execute``."""

    def __call__(
        self,
        config: RunConfig,
        run_dir: Path,
        *,
        home: Home,
        identity: Any,
        tracker: Tracker | None = None,
        parent: str | None = None,
        on_evaluation: Callable[[Evaluation], None] | None = None,
    ) -> RunRecord: ...


@dataclass(frozen=True)
class Runner:
    """What trials need of ``workbench.runner``."""

    execute: Execute
    resolve: Callable[[RunConfig, Home], RunConfig]
    identity: Callable[..., Any]
    stop_run: type[Exception]


DEFAULT_RUNNER = "workbench.runner:execute"


def load_runner(spec: str = DEFAULT_RUNNER) -> Runner:
    """``module:function`` with the signature of ``workbench.runner.execute``; the module also offers
    ``resolve``, ``Identity`` and ``StopRun`` as that one does."""
    module_name, _, function = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
        return Runner(getattr(module, function), module.resolve, module.Identity, module.StopRun)
    except (ImportError, AttributeError, ValueError) as error:
        if spec == DEFAULT_RUNNER:
            raise
        raise StudyError(
            f"--execute wants module:function (and resolve, Identity, StopRun there), {spec!r} given: {error}"
        ) from None


class Pruned(optuna.TrialPruned):  # type: ignore[misc]
    """The trial ends here; the message is the reason."""


class BadNumbers(RuntimeError):
    """Of a cell: the loss was not finite or has exploded, or the autoencoder has collapsed."""


class TakenOver(KeyboardInterrupt):
    """The trial was declared dead while it lived, and is another worker's now: this one leaves its run to it."""


class StorageAway(KeyboardInterrupt):
    """The database did not answer for longer than one waits: the run is interrupted, and can be continued."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class Worker:
    """What a worker process brings to every trial it runs, and what the trial tells it."""

    launch: Launch
    runner: Runner
    tracker: Tracker | None
    tracking_parent: str | None
    """The launch's own run on the tracking server."""
    threads: int
    identity: dict[str, Any]
    """host, pid, started, index: who runs the trial."""
    stopping: Callable[[], bool] = lambda: False
    """Asked at every evaluation; True interrupts the run."""
    only_queued: bool = False
    """Run what was queued again and nothing else (``calm study retry``)."""
    error: UserError | None = None
    """What ends the launch: no run can be written."""
    interrupted: list[int] = field(default_factory=list)


def search_objective(trial: optuna.Trial, worker: Worker, claimed: Callable[[], None]) -> float:
    """One trial of the search. ``claimed`` is called as soon as its parameters and seeds are stored."""
    with _bookkeeping(trial, worker):
        spec = worker.launch.spec
        config = space.suggest(trial, spec)
        if "seeds" not in trial.user_attrs:
            used = used_seeds(trial.study.get_trials(deepcopy=False), trial.number, trial.params)
            trial.set_user_attr("seeds", space.next_seeds(spec.seeds, used))
        seeds = trial.user_attrs["seeds"]
        prefix = f"t{recovery.number_of(trial):03d}"
        run_ids = _run_ids(trial, worker, config, prefix, seeds)
        claimed()
        label = f"{prefix} {describe(trial.params)}"
        return _mean_score(trial, worker, config, seeds, run_ids, role="trial", label=label)


def cell_objective(trial: optuna.Trial, worker: Worker, claimed: Callable[[], None]) -> float:
    """One fixed cell: a token baseline or a sensitivity check of the best setting."""
    with _bookkeeping(trial, worker):
        spec = worker.launch.spec
        names = [*spec.baselines, *spec.check_names]
        cell = trial.suggest_categorical("cell", names)
        is_check = cell in spec.check_names
        prefix = cell
        if is_check:
            best = trial.user_attrs["of_trial"]
            prefix = f"{cell}-t{best:03d}"
            config = space.check_config(spec, cell, worker.launch.search.get_trials(deepcopy=False)[best].params)
        else:
            config = space.baseline_config(spec, cell)
        seeds = space.cell_seeds(spec, cell)
        run_ids = _run_ids(trial, worker, config, prefix, seeds)
        claimed()
        role = "check" if is_check else "baseline"
        return _mean_score(trial, worker, config, seeds, run_ids, role=role, label=prefix)


def used_seeds(trials: list[FrozenTrial], number: int, params: dict[str, Any]) -> set[int]:
    """Seeds with which other trials train the setting ``params``, trained it, or will where they failed and are
    tried again."""
    return {
        seed
        for other in trials
        if other.number != number and other.params == params
        for seed in other.user_attrs.get("seeds", [])
    }


def _is_replicate(trial: optuna.Trial, seed: int) -> bool:
    """Whether the setting has an earlier seed than ``seed`` in a trial that has not failed."""
    return bool(seed) and any(
        other.state != TrialState.FAIL and other.params == trial.params and min(other.user_attrs["seeds"]) < seed
        for other in trial.study.get_trials(deepcopy=False)
        if other.number != trial.number and other.user_attrs.get("seeds")
    )


SAME_RUNS = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)


def _given_out_twice(trial: optuna.Trial, runs: list[str]) -> bool:
    """Whether an earlier trial has these runs: the answer to its queueing got lost, and it was queued again."""
    return any(
        other.number < trial.number and other.state in SAME_RUNS and other.user_attrs.get("runs") == runs
        for other in trial.study.get_trials(deepcopy=False)
    )


def _run_ids(trial: optuna.Trial, worker: Worker, config: RunConfig, prefix: str, seeds: list[int]) -> list[str]:
    """Names of the run folders, fixed at the first attempt and inherited by retries.

    Raises Pruned where another trial has them, and RunError for a folder that cannot be read."""
    if "runs" not in trial.user_attrs:
        launch = worker.launch
        named = ((f"{prefix}-s{seed}", config.model_copy(update={"seed": seed})) for seed in seeds)
        free = [run_folders.free_run_id(launch.folder, name, launch.spec, own) for name, own in named]
        trial.set_user_attr("runs", free)
    runs: list[str] = trial.user_attrs["runs"]
    if _given_out_twice(trial, runs):
        raise Pruned("another trial has the same runs")
    return runs


def _mean_score(
    trial: optuna.Trial,
    worker: Worker,
    config: RunConfig,
    seeds: list[int],
    run_ids: list[str],
    *,
    role: str,
    label: str,
) -> float:
    scores = []
    for seed, run_id in zip(seeds, run_ids, strict=True):
        name = f"{label} s{seed}"
        # a replicate measures the noise between seeds: pruned ones would flatter it
        prunable = role == "trial" and seed == seeds[0] and not _is_replicate(trial, seed)
        record = _run(trial, worker, config, seed, run_id, role=role, name=name, prunable=prunable)
        scores.append(_score(record, role))
        trial.set_user_attr("scores", scores)
    return sum(scores) / len(scores)


def _run(
    trial: optuna.Trial,
    worker: Worker,
    config: RunConfig,
    seed: int,
    run_id: str,
    *,
    role: str,
    name: str,
    prunable: bool,
) -> RunRecord:
    launch = worker.launch
    run_dir = launch.folder / run_id
    with storage.run_folder_lock(launch.folder, run_id):
        if (run_dir / records.CONFIG).exists():
            # As it was started: the number of threads is part of a run that is to be resumed exactly.
            config = run_folders.require_own(run_dir, launch.spec, config.model_copy(update={"seed": seed}))
        else:
            config = space.with_seed(config, seed, name=name, threads=worker.threads)
            config = worker.runner.resolve(config, launch.home)
        with interruption.released():
            return worker.runner.execute(
                config,
                run_dir,
                home=launch.home,
                identity=worker.runner.identity(
                    study=launch.name, role=role, trial=recovery.number_of(trial), name=name
                ),
                tracker=worker.tracker,
                parent=worker.tracking_parent,
                on_evaluation=_on_evaluation(trial, worker, run_dir, config, prunable),
            )


def _on_evaluation(
    trial: optuna.Trial, worker: Worker, run_dir: Path, config: RunConfig, prunable: bool
) -> Callable[[Evaluation], None]:
    """Reports scores by the index of the evaluation (equal compute for every setting) and prunes."""
    reported: set[int] = set()
    run_id = run_dir.name

    def report(evaluation: Evaluation) -> None:
        if worker.stopping():
            raise KeyboardInterrupt
        # A resumed run has evaluations from before; they are reported under this trial's number too.
        earlier = [e for e in records.read_evaluations(run_dir) if e.step < evaluation.step]
        try:
            trial.set_user_attr(
                "evaluations", {**trial.user_attrs.get("evaluations", {}), run_id: len(earlier) + 1}
            )
            if not prunable:
                return
            for index, item in enumerate([*earlier, evaluation]):
                if index not in reported:
                    trial.report(item.brier.score, step=index)
                    reported.add(index)
        except optuna.exceptions.UpdateFinishedTrialError:
            raise TakenOver from None
        except UNAVAILABLE as error:
            raise StorageAway(error) from error
        last = config.train.num_evaluations - 1
        if len(earlier) < last and plan.may_prune(worker.launch.spec, trial.study) and trial.should_prune():
            raise worker.runner.stop_run(
                f"score {evaluation.brier.score:.3g} at evaluation {len(earlier) + 1} of {last + 1}: the best so "
                f"far is not among the upper {worker.launch.spec.pruner.keep_percent:g} % of completed trials"
            )

    return report


def _score(record: RunRecord, role: str) -> float:
    if record.status == "pruned":
        raise Pruned(record.reason)
    if record.status == "interrupted":
        raise KeyboardInterrupt
    if record.status in BAD_NUMBERS:
        message = record.reason or f"the run ended as {record.status}"
        if role == "trial":
            raise Pruned(message)
        raise BadNumbers(message)
    if record.status != "completed" or record.final is None:
        raise RuntimeError(f"run {record.run_id} ended as {record.status}: {record.reason or 'no evaluation'}")
    return record.final.brier.score


@contextmanager
def _bookkeeping(trial: optuna.Trial, worker: Worker) -> Iterator[None]:
    """Who runs the trial, when it ended and why, in the trial's attributes.

    A trial with a worker has a heartbeat: it is recorded first, so that a worker is missed on whatever host it is
    killed. What was interrupted, or ends the launch, is left without a reason and is queued again."""
    database_of(trial.study).record_heartbeat(trial._trial_id)
    trial.set_user_attr("worker", recovery.signature(worker.identity))
    try:
        yield
    except (TakenOver, StorageAway):
        raise
    except UNAVAILABLE:  # not the trial's fault: without a reason it is queued again, by whoever finds it
        raise
    except SystemExit as error:  # some library's; the worker must not end for it
        reason = f"SystemExit: {error.code}"
        _note_end(trial, reason)
        raise RuntimeError(reason) from error
    except KeyboardInterrupt:
        worker.interrupted.append(trial.number)
        raise
    except ENDING as error:
        worker.error = error
        worker.interrupted.append(trial.number)
        raise
    except Exception as error:
        text = str(error).strip() or type(error).__name__
        if isinstance(error, BadNumbers):
            trial.set_user_attr("bad_numbers", True)
        known = isinstance(error, UserError | Pruned | BadNumbers)
        _note_end(trial, text if known else f"{type(error).__name__}: {text}")
        raise
    _note_end(trial, None)


ENDING = (OutputError, StudyError)
"""No room or no permission to write, or nothing that could be run: the next trial would meet the same. Any other
error, also a user's, ends the trial and not the study, unless too many with the same follow
(``worker.stop_if_hopeless``)."""


def _note_end(trial: optuna.Trial, reason: str | None) -> None:
    try:
        if reason is not None:
            trial.set_user_attr("reason", reason)
        trial.set_user_attr("ended", time.time())
    except optuna.exceptions.UpdateFinishedTrialError:
        pass  # another worker took the trial over

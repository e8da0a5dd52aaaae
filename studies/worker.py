"""One worker process of a study: takes trials from the storage until nothing is left.

    python -m studies.worker --home runs --launch joint-quick --worker 0 --threads 1

``calm study run`` starts these; the same command on another machine, with the same ``--storage``, joins in.
``--execute module:function`` replaces ``workbench.runner.execute`` (custom runners and tests). Exit codes:
0 nothing left, 1 likewise, but no trial completed (told by the launcher where there is one), 2 a mistake of the
user ended the launch, 130 interrupted (the trial is queued again).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import optuna
from optuna.trial import FrozenTrial, TrialState

from studies import database, plan, presence, progress, recovery, retried, storage
from studies.display import ending_text
from studies.objective import (
    DEFAULT_RUNNER,
    StorageAway,
    TakenOver,
    Worker,
    cell_objective,
    load_runner,
    search_objective,
)
from studies.search_spec import HeartbeatSpec
from studies.storage import Launch
from workbench import garbage, interruption
from workbench.errors import OutputError, StudyError, UserError
from workbench.home import open_home
from workbench.tracking import Followed, Tracker, open_tracker

EXIT_IN_VAIN, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130
POLL_SECONDS = 1.0
GIVE_BACK_SECONDS = 2.0
"""What an interrupted worker waits for the claim, to give its trial back."""
SAME_FAILURES, MORE_FAILURES = 3, 6
"""So many trials in a row with the same error end the launch: the second, where others have shown that it works,
or are yet to show it."""

log = logging.getLogger("studies.worker")


@dataclass
class Stop:
    """Signals and the parent's death, as one question."""

    parent: int | None = None

    def __call__(self) -> bool:
        return interruption.requested() or (self.parent is not None and os.getppid() != self.parent)

    def follow_parent(self) -> None:
        """Be asked to stop, as by SIGTERM, once the launcher is no more: a new one starts its own workers."""

        def watch() -> None:
            while os.getppid() == self.parent:
                time.sleep(POLL_SECONDS)
            os.kill(os.getpid(), signal.SIGTERM)

        if self.parent is not None:
            threading.Thread(target=watch, name="parent", daemon=True).start()


def work(worker: Worker, stop: Callable[[], bool]) -> None:
    """Run trials until nothing is left, ``stop`` says so, or the launch was ended for an error.

    A storage that does not answer was waited for already; then the worker ends, and whatever it leaves is taken up
    again later. Raises StudyError for that and where all trials fail alike, and what else ends a launch, whose
    ``abort`` then holds the message."""
    try:
        while not stop():
            launch = worker.launch = replace(worker.launch, spec=storage.stored_spec(worker.launch.search))
            if launch.search.user_attrs.get("abort"):
                return
            step = take(worker)
            if step == "done":
                return
            if step == "wait":
                with interruption.released():
                    time.sleep(POLL_SECONDS)
            stop_if_hopeless(worker)
    except database.UNAVAILABLE as error:
        again = f"continue with: calm study run {worker.launch.named}"
        raise database.unusable(worker.launch.url, error, again) from None
    except OutputError:  # this host's disk: others go on
        raise
    except UserError as error:
        abort(worker.launch, error)
        raise


def take(worker: Worker) -> plan.Step:
    """One step of the plan: run the trial it asks for, if any."""
    launch = worker.launch
    with launch.claim() as claimed:
        for study in (launch.search, launch.cells):
            for number in recovery.recover(study, launch.spec.heartbeat, launch.folder):
                log.warning("trial %d of %s had lost its worker; queued again", number, study.study_name)
        step = plan.next_step(launch.spec, launch.search, launch.cells, only_queued=worker.only_queued)
        if step in ("search", "cells"):
            run_trial(worker, step, claimed.release)
    return step


def run_trial(worker: Worker, step: plan.Step, claimed: Callable[[], None]) -> None:
    """Run one trial under ``optimize``, which keeps its heartbeat; give it back when it is interrupted.

    Raises what ends the launch."""
    launch = worker.launch
    study = launch.search if step == "search" else launch.cells
    objective = search_objective if step == "search" else cell_objective
    if step == "search":
        study.sampler = storage.make_sampler(launch.spec.sampler, len(study.get_trials(deepcopy=False)))
        study.pruner = storage.make_pruner(launch.spec.pruner)
    asked = retried.alone(study) if worker.only_queued else study
    try:
        asked.optimize(lambda trial: objective(trial, worker, claimed), n_trials=1, catch=(Exception,))
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError, TakenOver) as error:
        # A trial that was declared dead while this process was suspended cannot be told an end: its successor has
        # the run's folder, nothing is lost.
        if isinstance(error, ValueError) and "Cannot tell a" not in str(error):
            raise
        log.warning("a trial of this worker was taken over by another: %s", error)
    except StorageAway as away:
        raise away.error from away.error.__cause__
    except (AssertionError, UnboundLocalError) as error:
        said = error.__context__  # Optuna's own, where the storage did not take how the trial ended
        if isinstance(said, (*database.UNAVAILABLE, KeyboardInterrupt)):
            raise said from said.__cause__
        raise
    finally:
        claimed()  # where it was interrupted before it had signed
        with contextlib.suppress(*database.UNAVAILABLE), launch.claim().within(GIVE_BACK_SECONDS) as mine:
            if mine and worker.interrupted:  # what is not given back now is found later
                recovery.give_back(study, worker.interrupted)
        worker.interrupted.clear()
    if worker.error is not None:
        raise worker.error


def abort(launch: Launch, error: UserError) -> None:
    """End the launch: every worker stops, and the launcher shows the message; from this worker's log where it
    cannot be stored."""
    with contextlib.suppress(*database.UNAVAILABLE):
        launch.search.set_user_attr("abort", str(error))


def stop_if_hopeless(worker: Worker) -> None:
    """Raises StudyError when the last trials all failed with one and the same error."""
    launch = worker.launch
    old = launch.search.user_attrs.get("old_failures") or {}
    search, cells = (
        [trial for trial in study.get_trials(deepcopy=False) if trial.number not in old.get(name, ())]
        for name, study in (("search", launch.search), ("cells", launch.cells))
    )
    alike = repeated_failures(search, cells) if launch.spec.searches else repeated_failures(cells)
    if alike:
        raise StudyError(
            f"the last {len(alike)} trials of {launch.name} failed with the same error: {alike[-1]}\n"
            f"details: {launch.folder / 'logs'}; to go on without those that failed: calm study run "
            f"{launch.named}; when it is mended, with them: calm study retry {launch.named} --queue, then "
            f"calm study run {launch.named}"
        )


def repeated_failures(trials: list[FrozenTrial], cells: list[FrozenTrial] | None = None) -> list[str]:
    """The errors of the last trials that have ended, if that many failed with the same one that nothing else is to
    be hoped for: of a search with the cells beside it, or of a study's cells alone. Cells that fail say nothing
    about a search that has not failed."""
    beside = cells or []
    works = any(t.state in (TrialState.COMPLETE, TrialState.PRUNED) or _is_bad(t) for t in [*trials, *beside])
    failed = any(t.state == TrialState.FAIL and "reason" in t.user_attrs for t in beside)
    untried = not failed and any(not t.state.is_finished() for t in beside)
    alike = _last_alike(trials)
    if alike and not works and failed:
        others = _last_alike(beside)
        alike = [*(others if others and _gist(others[-1]) == _gist(alike[-1]) else []), *alike]
    return alike if len(alike) >= (MORE_FAILURES if works or untried else SAME_FAILURES) else []


def _last_alike(trials: list[FrozenTrial]) -> list[str]:
    """The errors of the last trials that have ended, as far back as they are the same. The last in the order in
    which the database made them: hosts may disagree about the time. Bad numbers are a result, and no error."""
    ended = [t for t in trials if t.state.is_finished() and "ended" in t.user_attrs and not _is_bad(t)]
    latest = sorted(ended, key=lambda t: t._trial_id, reverse=True)
    failures = itertools.takewhile(lambda t: t.state == TrialState.FAIL, latest)
    reasons = [_without_names(trial) for trial in failures]
    return [*itertools.takewhile(lambda reason: _gist(reason) == _gist(reasons[0]), reasons)][::-1]


def _is_bad(trial: FrozenTrial) -> bool:
    return "bad_numbers" in trial.user_attrs


def _gist(reason: str) -> str:
    """What to do may differ with the moment."""
    return reason.partition("; ")[0]


def _without_names(trial: FrozenTrial) -> str:
    """Why it failed, whatever its runs are called."""
    reason = recovery.failure_reason(trial)
    for run_id in trial.user_attrs.get("runs", []):
        reason = reason.replace(run_id, "RUN")
    return reason


def open_launch(home_dir: str, name: str, url: str | None, *, checked: bool = False) -> Launch:
    """``checked``: the launcher has just used the storage. Raises StudyError where the launch is not there."""
    home = open_home(home_dir)
    url = database.storage_url(url, home)
    loaded = storage.load(name, database.open_storage(url, home, HeartbeatSpec(), checked=checked))
    if loaded is None:
        raise StudyError(f"storage {database.masked(url)} has no launch {name}; start it with `calm study run`")
    spec = storage.stored_spec(loaded[0])
    if spec.heartbeat != HeartbeatSpec():
        loaded = storage.load(name, database.open_storage(url, home, spec.heartbeat, checked=True))
        assert loaded is not None
    return Launch(home=home, url=url, spec=spec, search=loaded[0], cells=loaded[1])


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a scheduler's word to the launcher, which passes it on
    stop = Stop(parent=args.parent)
    stop.follow_parent()
    try:
        with interruption.listening(), interruption.held():
            return _session(args, stop)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_USER
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _session(args: argparse.Namespace, stop: Stop) -> int:
    """The exit code. Raises UserError, also for a storage that does not answer, unless leaving was asked for."""
    try:
        launch = open_launch(args.home, args.launch, args.storage, checked=args.followed)
        tracker = _tracker(args, launch)
        worker = Worker(
            launch=launch,
            runner=load_runner(args.execute),
            tracker=tracker,
            tracking_parent=(launch.search.user_attrs.get("tracking") or {}).get("parent"),
            threads=args.threads,
            identity=recovery.this_worker(args.worker),
            stopping=stop,
            only_queued=args.only_queued,
        )
        log.info("worker %d of %s, %d thread(s)", args.worker, launch.name, args.threads)
        with contextlib.closing(tracker), presence.present(launch.folder, worker.identity):
            work(worker, stop)
            if stop():
                return EXIT_INTERRUPTED
            return 0 if args.parent is not None else _ending(launch)
    except database.StorageAwayError as error:
        if not stop():
            raise
        print(f"stopped: {error}", file=sys.stderr, flush=True)
        return EXIT_INTERRUPTED


def _ending(launch: Launch) -> int:
    """The exit code of a worker without a launcher, with a word where something failed."""
    try:
        state = progress.snapshot(launch)
    except database.UNAVAILABLE:
        return 0
    if said := ending_text(launch.name, state, launch.home):
        log.warning("%s", said)
    return EXIT_IN_VAIN if state.in_vain else 0


def _tracker(args: argparse.Namespace, launch: Launch) -> Tracker:
    """What runs are mirrored by: the launcher where it says so, otherwise this process."""
    if args.followed:
        return Followed()
    return open_tracker(args.tracking_uri, experiment=launch.name, home=launch.home, later=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.worker", description="One worker of a study.")
    parser.add_argument("--home", default="runs", help="folder of runs and caches")
    parser.add_argument("--launch", required=True, help="name of the launched study, for example joint-quick")
    parser.add_argument("--worker", type=int, default=0, help="number of this worker, for logs")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument(
        "--storage",
        default=os.environ.get("CALM_STORAGE") or None,
        help="database URL; default: CALM_STORAGE, else HOME/optuna.db",
    )
    parser.add_argument(
        "--tracking-uri",
        default=os.environ.get("CALM_TRACKING_URI") or None,
        help="MLflow server or 'none'; default: CALM_TRACKING_URI, else HOME/mlflow.db",
    )
    parser.add_argument(
        "--followed", action="store_true", help="the parent mirrors the runs to the tracking server"
    )
    parser.add_argument("--only-queued", action="store_true", help="run what was queued again and nothing else")
    parser.add_argument("--execute", default=DEFAULT_RUNNER, help="module:function that runs a configuration")
    parser.add_argument("--parent", type=int, default=None, help="stop when this process is no longer the parent")
    return parser


if __name__ == "__main__":
    garbage.start()
    sys.exit(main())

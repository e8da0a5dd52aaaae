"""One worker process of a study: takes trials from the storage until nothing is left.

    python -m studies.worker --home runs --launch joint-quick --worker 0 --threads 1

``calm study run`` starts these; the same command on another machine, with the same ``--storage``, joins in.
``--execute module:function`` replaces ``workbench.runner.execute`` (custom runners and tests). Exit codes:
0 nothing left, 2 a mistake of the user ended the launch, 130 interrupted (the trial is queued again).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from studies import plan, storage
from studies.objective import DEFAULT_RUNNER, Worker, cell_objective, load_runner, search_objective
from studies.search_spec import HeartbeatSpec
from studies.storage import Launch
from workbench.errors import StudyError, UserError
from workbench.home import open_home
from workbench.tracking import Followed, Tracker, open_tracker

EXIT_USER, EXIT_INTERRUPTED = 2, 130
POLL_SECONDS = 1.0
SAME_FAILURES = 3
"""So many trials in a row with the same error end the launch."""

log = logging.getLogger("studies.worker")


@dataclass
class Stop:
    """Signals and the parent's death, as one question."""

    parent: int | None = None
    requested: bool = False

    def __call__(self) -> bool:
        return self.requested or (self.parent is not None and os.getppid() != self.parent)


def work(worker: Worker, stop: Stop) -> None:
    """Run trials until nothing is left, ``stop`` says so, or the launch was ended for an error.

    Raises UserError where a trial met one, or all fail: the launch's ``abort`` then holds the message."""
    try:
        while not stop():
            launch = worker.launch = replace(worker.launch, spec=storage.stored_spec(worker.launch.search))
            if launch.search.user_attrs.get("abort"):
                return
            step = take(worker)
            if step == "done":
                return
            if step == "wait":
                time.sleep(POLL_SECONDS)
            stop_if_hopeless(worker)
    except UserError as error:
        abort(worker.launch, error)
        raise


def take(worker: Worker) -> plan.Step:
    """One step of the plan: run the trial it asks for, if any."""
    launch = worker.launch
    lock = launch.claim_lock()
    with lock.acquire():
        for study in (launch.search, launch.cells):
            for number in storage.recover(study, launch.spec.heartbeat):
                log.warning("trial %d of %s: its worker died; queued again", number, study.study_name)
        step = plan.next_step(launch.spec, launch.search, launch.cells)
        if step in ("search", "cells"):
            run_trial(worker, step, lambda: _claimed(worker, lock))
    return step


def _claimed(worker: Worker, lock: Any) -> None:
    lock.release(force=True)
    worker.interruptible = True


def run_trial(worker: Worker, step: plan.Step, claimed: Any) -> None:
    """Run one trial under ``optimize``, which keeps its heartbeat; give it back when it is interrupted."""
    launch = worker.launch
    study = launch.search if step == "search" else launch.cells
    objective = search_objective if step == "search" else cell_objective
    if step == "search":
        study.sampler = storage.make_sampler(launch.spec.sampler, len(study.get_trials(deepcopy=False)))
        study.pruner = storage.make_pruner(launch.spec.pruner)
    try:
        study.optimize(lambda trial: objective(trial, worker, claimed), n_trials=1, catch=(Exception,))
    except ValueError as error:
        # tell() refuses a trial that was declared dead while this process was suspended: its successor
        # has the run's record, nothing is lost.
        if "Cannot tell a" not in str(error):
            raise
        log.warning("a trial of this worker was taken over by another: %s", error)
    finally:
        if worker.error is not None:
            worker.interrupted.extend(_last_failed(study, worker))
        for number in worker.interrupted:
            storage.requeue(study, number)
        worker.interrupted.clear()
    if worker.error is not None:
        raise worker.error


def _last_failed(study: optuna.Study, worker: Worker) -> list[int]:
    """The trial that met the user's mistake: it is queued again for when that is mended."""
    mine = [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get("worker") == worker.identity]
    return [mine[-1].number] if mine and mine[-1].state == TrialState.FAIL else []


def abort(launch: Launch, error: UserError) -> None:
    """End the launch: every worker stops, and the launcher shows the message."""
    launch.search.set_user_attr("abort", str(error))


def stop_if_hopeless(worker: Worker) -> None:
    """Raises StudyError when the last trials all failed with one and the same error."""
    launch = worker.launch
    trials = [*launch.search.get_trials(deepcopy=False), *launch.cells.get_trials(deepcopy=False)]
    reason = repeated_failure(trials, launch.search.user_attrs.get("session", 0.0))
    if reason is not None:
        message = (
            f"the last {SAME_FAILURES} trials of {launch.name} failed with the same error: {reason}\n"
            f"details: {launch.folder / 'logs'}; when it is mended: calm study retry {launch.name}, then "
            f"calm study run {launch.name}"
        )
        raise StudyError(message)


def repeated_failure(trials: list[FrozenTrial], since: float) -> str | None:
    """The error with which the last trials ended in this session, if they all failed with the same."""
    ended = [t for t in trials if t.state.is_finished() and t.user_attrs.get("ended", -1.0) >= since]
    last = sorted(ended, key=lambda t: t.user_attrs["ended"])[-SAME_FAILURES:]
    reasons = {storage.failure_reason(t) for t in last if t.state == TrialState.FAIL}
    hopeless = len(last) == SAME_FAILURES and all(t.state == TrialState.FAIL for t in last) and len(reasons) == 1
    return reasons.pop() if hopeless else None


def open_launch(home_dir: str, name: str, url: str | None, *, checked: bool = False) -> Launch:
    """``checked``: the launcher has just used the storage. Raises StudyError where the launch is not there."""
    home = open_home(home_dir)
    url = storage.storage_url(url, home)
    loaded = storage.load(name, storage.open_storage(url, home, HeartbeatSpec(), checked=checked))
    if loaded is None:
        raise StudyError(f"storage {storage.masked(url)} has no launch {name}; start it with `calm study run`")
    spec = storage.stored_spec(loaded[0])
    if spec.heartbeat != HeartbeatSpec():
        loaded = storage.load(name, storage.open_storage(url, home, spec.heartbeat, checked=True))
        assert loaded is not None
    return Launch(home=home, url=url, spec=spec, search=loaded[0], cells=loaded[1])


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    stop = Stop(parent=args.parent)
    launch = None
    try:
        launch = open_launch(args.home, args.launch, args.storage, checked=args.followed)
        tracker = _tracker(args, launch)
        worker = Worker(
            launch=launch,
            runner=load_runner(args.execute),
            tracker=tracker,
            tracking_parent=(launch.search.user_attrs.get("tracking") or {}).get("parent"),
            threads=args.threads,
            identity=storage.this_worker(args.worker),
            stopping=stop,
        )
        _handle_signals(worker, stop)
        log.info("worker %d of %s, %d thread(s)", args.worker, launch.name, args.threads)
        try:
            work(worker, stop)
        finally:
            tracker.close()
    except UserError as error:
        if launch is not None:
            abort(launch, error)
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_USER
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_INTERRUPTED if stop() else 0


def _tracker(args: argparse.Namespace, launch: Launch) -> Tracker:
    """What runs are mirrored by: the launcher where it says so, otherwise this process."""
    if args.followed:
        return Followed()
    return open_tracker(args.tracking_uri, experiment=launch.name, home=launch.home)


def _handle_signals(worker: Worker, stop: Stop) -> None:
    """The first signal ends the run cleanly where one is under way; later ones do not disturb that."""

    def handle(number: int, frame: object) -> None:
        first, stop.requested = not stop.requested, True
        if first and worker.interruptible:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)


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
    parser.add_argument("--execute", default=DEFAULT_RUNNER, help="module:function that runs a configuration")
    parser.add_argument("--parent", type=int, default=None, help="stop when this process is no longer the parent")
    return parser


if __name__ == "__main__":
    sys.exit(main())

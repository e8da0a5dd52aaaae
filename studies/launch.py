"""Running a launch: worker processes, watching them, finishing. What ``calm study run`` does.

The launcher looks at the storage once a second; it trains nothing itself.
"""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass, replace
from typing import Literal

import optuna
from optuna.trial import TrialState

from studies import database, plan, presence, progress, retried, storage
from studies.address import address
from studies.crew import Crew
from studies.delivery import Delivery, deliver_left
from studies.display import Display
from studies.hanging import hurry
from studies.prepare import SPEC, Options, prepare, read_study_file, write_study_file
from studies.staffing import Staffing, choose_staffing, last_session
from studies.storage import Launch
from workbench import interruption, processes
from workbench.errors import StudyError
from workbench.home import Home
from workbench.tracking import Tracker, open_tracker

POLL_SECONDS = 1.0
INTERRUPTED_SECONDS = 3.0
"""What the last delivery to the tracking server gets after an interruption; the rest is for the next start."""
HURRIED_SECONDS = 0.5
"""The same, where the workers have taken LEAVE_SECONDS to save and leave."""
LEAVE_SECONDS = 8.5
"""After a signal; with the end of the process, ten seconds in all."""

Left = Literal["done", "interrupted", "now"]


@dataclass(frozen=True)
class Result:
    launch: Launch
    state: progress.Snapshot
    interrupted: bool = False
    already_finished: bool = False


def run(options: Options, home: Home, display: Display) -> Result:
    """Launch or resume, and stay until the study is finished or interrupted.

    Raises StudyError, ConfigError, TrackingError, OutputError; also where a trial met a mistake of the user."""
    try:
        with display.preparing():
            return _opened(options, home, display)
    except database.UNAVAILABLE as error:
        url = address(options.storage, home, read_study_file(home, options.name), options.name)
        raise database.unusable(url, error, "the same command continues") from None


def _opened(options: Options, home: Home, display: Display) -> Result:
    with contextlib.ExitStack() as stack:

        def connect(name: str, uri: str | None, *, later: bool = False) -> Tracker:
            tracker = open_tracker(uri, experiment=name, home=home, later=later)
            return stack.enter_context(contextlib.closing(tracker))

        opened: list[Tracker] = []  # a tracking server that does not answer must leave no launch behind
        launch, stored = prepare(options, home, lambda name: opened.append(connect(name, options.tracking_uri)))
        display.name, display.folder = launch.name, launch.folder
        if plan.is_finished(launch.spec, launch.search, launch.cells):
            if not (launch.folder / progress.SUMMARY).exists():
                progress.write_summary(launch)
            if stored is None:  # it was lost, or this is another host
                write_study_file(launch, options.tracking_uri)
            deliver_left(launch, options.tracking_uri or (stored or {}).get("tracking_uri"), display.note)
            return Result(launch, progress.snapshot(launch), already_finished=True)
        uri = options.tracking_uri or (stored or {}).get("tracking_uri")
        tracker = opened[0] if opened else connect(launch.name, uri, later=True)  # what was begun goes on
        staffing = choose_staffing(
            launch.spec,
            home,
            workers=options.workers,
            threads=options.threads,
            execute=options.execute,
            note=display.note,
            last=None if options.anew else last_session(stored),
        ).here()
        display.note(staffing.words())
        if others := presence.others(launch.folder):
            display.note(others)
        return _run(launch, replace(options, tracking_uri=uri), tracker, staffing, display)


def _run(launch: Launch, options: Options, tracker: Tracker, staffing: Staffing, display: Display) -> Result:
    write_study_file(launch, options.tracking_uri, staffing)
    launch.search.set_user_attr("staffing", staffing.to_dict())
    launch.search.set_user_attr("abort", "")
    launch.search.set_user_attr("old_failures", _failures(launch))
    crew = Crew(launch, options, staffing.split)
    here = {**processes.this_process(), "index": presence.LAUNCHER}
    with Delivery(launch, tracker) as delivery, display, presence.present(launch.folder, here):
        left, asked_at = watch(launch, crew, display)
        if left != "done":
            delivery.leave_within(0.0 if left == "now" else last_delivery(time.monotonic() - asked_at))
    try:
        return _result(launch, crew, options, delivery, left)
    except database.UNAVAILABLE as error:
        if left == "done" or display.state is None:
            raise
        display.note(
            f"storage {database.masked(launch.url)} does not answer ({database.first_line(error)}); trials that "
            "could not be given back are queued again when it does, by whoever goes on with the study"
        )
        return Result(launch, display.state, interrupted=True)


def last_delivery(waited: float) -> float:
    """Seconds that the tracking server gets, ``waited`` seconds after the signal."""
    return min(max(LEAVE_SECONDS - waited, HURRIED_SECONDS), INTERRUPTED_SECONDS)


def _result(launch: Launch, crew: Crew, options: Options, delivery: Delivery, left: Left) -> Result:
    """What has become of the study, now that the workers are gone; the tracking server is told."""
    launch = replace(launch, spec=storage.stored_spec(launch.search))
    message = launch.search.user_attrs.get("abort") or crew.last_error()
    if message:
        delivery.stop("FAILED")
        raise StudyError(message)
    state = progress.snapshot(launch)
    if left != "done":
        if not _others_work(launch, state):
            delivery.stop()
        return Result(launch, state, interrupted=True)
    if (
        not state.finished
        and options.only_queued
        and not (retried.left(launch.search) or retried.left(launch.cells))
    ):
        if not _others_work(launch, state):
            delivery.stop("FINISHED")
        return Result(launch, state)
    if not state.finished:
        delivery.stop("FAILED")
        raise StudyError(
            f"all workers of {launch.name} ended before it was finished; see {launch.folder / 'logs'}, then "
            f"continue with: calm study run {launch.named}"
        )
    summary = progress.write_summary(launch)
    delivery.finish(summary, [launch.folder / SPEC, launch.folder / progress.SUMMARY])
    return Result(launch, state)


def _others_work(launch: Launch, state: progress.Snapshot) -> bool:
    """Whether a trial runs on a worker that lives, or may live elsewhere; those of this launcher are gone."""
    workers = [row.worker for row in state.of_state("running") if row.worker]
    return any(presence.alive(launch.folder, worker) is not False for worker in workers)


def _failures(launch: Launch) -> dict[str, list[int]]:
    """What had failed before this session, by number: no sign that everything fails now. Not told by the time, as
    hosts may disagree about that."""

    def numbers(study: optuna.Study) -> list[int]:
        failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return [trial.number for trial in failed]

    return {"search": numbers(launch.search), "cells": numbers(launch.cells)}


def watch(launch: Launch, crew: Crew, display: Display) -> tuple[Left, float]:
    """Show the state once a second until the workers have ended; why, and when that was asked for (by
    ``time.monotonic``). ``interrupted``: the user asked them to; ``now``: twice, so they were killed, and nothing
    is lost but what they did since their last checkpoints."""
    asked = [number for number in interruption.heard() if signal.getsignal(number) == signal.SIG_DFL]
    for number in asked:  # a job of a scheduler has a handler of its own, Python one for Ctrl-C
        signal.signal(number, _interrupt)
    try:
        while True:
            crew.replace_crashed(display.note)
            alive = len(crew.alive())
            try:
                display.update(progress.snapshot(launch, workers=alive or 1))
                aborted = bool(launch.search.user_attrs.get("abort"))
            except database.UNAVAILABLE:
                aborted = False  # the workers decide what an unreachable storage means
            if aborted or crew.last_error() or not (alive or crew.restarting):
                return "done", time.monotonic()
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        asked_at = time.monotonic()
        if _stopped(crew, display):
            return "interrupted", asked_at
        hurry(now=True)
        return "now", asked_at
    finally:
        crew.stop()  # after an abort the others give their trials back
        for number in asked:
            signal.signal(number, signal.SIG_DFL)


def _stopped(crew: Crew, display: Display) -> bool:
    """False where it was asked for once more, if only before the workers knew of it: they are killed."""
    try:
        display.note("stopping: the workers finish their step and save; once more leaves at once …")
        hurry()
        stopped = crew.stop()
        for index in crew.unheard:
            display.note(
                f"worker {index} did not leave and was killed; its trial goes on from its last checkpoint"
            )
        return stopped
    except KeyboardInterrupt:
        crew.kill()
        return False


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt

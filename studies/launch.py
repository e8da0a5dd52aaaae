"""Running a launch: worker processes, watching them, finishing. What ``calm study run`` does.

The launcher looks at the storage once a second; it trains nothing itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from studies import plan, progress, storage
from studies.delivery import Delivery
from studies.display import Display
from studies.prepare import SPEC, Options, prepare, write_study_file
from studies.staffing import Split, Staffing, choose_staffing, worker_environment
from studies.storage import Launch
from studies.worker import EXIT_INTERRUPTED, EXIT_USER
from workbench import files
from workbench.errors import StudyError
from workbench.home import Home
from workbench.tracking import NullTracker, Tracker, open_tracker

POLL_SECONDS = 1.0
RESTARTS = 3
"""Crashed worker processes that are replaced, in all."""
STOP_SECONDS = 60.0
"""What an interrupted worker gets to write its checkpoint."""


@dataclass(frozen=True)
class Result:
    launch: Launch
    state: progress.Snapshot
    interrupted: bool = False
    already_finished: bool = False


def run(options: Options, home: Home, display: Display) -> Result:
    """Launch or resume, and stay until the study is finished or interrupted.

    Raises StudyError, ConfigError, TrackingError; also where a trial met a mistake of the user."""
    with contextlib.ExitStack() as stack:

        def connect(name: str, uri: str | None) -> Tracker:
            return stack.enter_context(contextlib.closing(open_tracker(uri, experiment=name, home=home)))

        opened: list[Tracker] = []  # a tracking server that does not answer must leave no launch behind
        launch, stored = prepare(options, home, lambda name: opened.append(connect(name, options.tracking_uri)))
        display.name = launch.name
        if plan.is_finished(launch.spec, launch.search, launch.cells):
            if not (launch.folder / progress.SUMMARY).exists():
                progress.write_summary(launch)
            return Result(launch, progress.snapshot(launch), already_finished=True)
        uri = options.tracking_uri or (stored or {}).get("tracking_uri")
        tracker = opened[0] if opened else connect(launch.name, uri)
        staffing = choose_staffing(
            launch.spec,
            home,
            workers=options.workers,
            threads=options.threads,
            execute=options.execute,
            note=display.note,
        )
        display.note(staffing.words())
        return _run(launch, replace(options, tracking_uri=uri), tracker, staffing, display)


def _run(launch: Launch, options: Options, tracker: Tracker, staffing: Staffing, display: Display) -> Result:
    write_study_file(launch, options.tracking_uri, staffing)
    launch.search.set_user_attr("staffing", staffing.to_dict())
    launch.search.set_user_attr("abort", "")
    launch.search.set_user_attr("session", time.time())
    parent = _tracking_parent(launch, tracker, options.tracking_uri)
    crew = Crew(launch, options, staffing.split)
    with Delivery(launch, tracker, parent), display:
        interrupted = watch(launch, crew, display)
    launch = replace(launch, spec=storage.stored_spec(launch.search))
    message = launch.search.user_attrs.get("abort")
    if message:
        raise StudyError(message)
    state = progress.snapshot(launch)
    if interrupted:
        return Result(launch, state, interrupted=True)
    if not state.finished:
        raise StudyError(
            f"all workers of {launch.name} ended before it was finished; see {launch.folder / 'logs'}, then "
            f"continue with: calm study run {launch.name}"
        )
    summary = progress.write_summary(launch)
    tracker.finish_study(parent, summary, [launch.folder / SPEC, launch.folder / progress.SUMMARY])
    return Result(launch, state)


def _tracking_parent(launch: Launch, tracker: Tracker, uri: str | None) -> str | None:
    """The launch's run on the tracking server: the one of the first session where the server is the same."""
    if isinstance(tracker, NullTracker):
        return None
    server = storage.masked(uri) if uri else launch.home.mlflow_uri
    known = launch.search.user_attrs.get("tracking") or {}
    if known.get("server") == server and known.get("parent"):
        return str(known["parent"])
    parent = tracker.start_study(launch.name, launch.spec.to_dict())
    launch.search.set_user_attr("tracking", {"server": server, "parent": parent})
    return parent


class Crew:
    """The worker processes of this launcher. They have a session of their own, so that Ctrl-C reaches
    them once, through ``stop``."""

    def __init__(self, launch: Launch, options: Options, split: Split) -> None:
        self.launch, self.options = launch, options
        self.threads = split.threads
        self.restarts = 0
        self.processes = {index: self._start(index) for index in range(split.workers)}

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "studies.worker", "--home", str(self.launch.home.root)]
        command += ["--launch", self.launch.name, "--worker", str(index), "--threads", str(self.threads)]
        command += ["--execute", self.options.execute, "--parent", str(os.getpid()), "--followed"]
        # Addresses can hold passwords, which a command line would show to every user of the machine.
        environment = {**worker_environment(self.threads), "CALM_STORAGE": self.launch.url}
        environment.pop("CALM_TRACKING_URI", None)
        with open(self.log(index), "ab") as log:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self, index: int) -> Path:
        folder = files.writable_folder(self.launch.folder / "logs")
        return folder / f"worker-{index}.log"

    def alive(self) -> list[int]:
        return [index for index, process in self.processes.items() if process.poll() is None]

    def replace_crashed(self, display: Display) -> None:
        """Start a new process for each that crashed, up to RESTARTS in all."""
        for index, process in self.processes.items():
            code = process.poll()
            if code in (None, 0, EXIT_USER, EXIT_INTERRUPTED) or self.restarts >= RESTARTS:
                continue
            self.restarts += 1
            why = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            display.note(f"worker {index} ended with {why} (see {self.log(index)}); started again")
            self.processes[index] = self._start(index)

    def stop(self) -> None:
        """Let every worker write its checkpoint and give its trial back; kill those that do not end."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self.processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def watch(launch: Launch, crew: Crew, display: Display) -> bool:
    """Show the state once a second until the workers have ended. True when the user interrupted."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        while True:
            crew.replace_crashed(display)
            alive = len(crew.alive())
            try:
                display.update(progress.snapshot(launch, workers=alive or 1))
                aborted = bool(launch.search.user_attrs.get("abort"))
            except storage.UNAVAILABLE:
                aborted = False  # the workers decide what an unreachable storage means
            if aborted or not alive:
                return False
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        display.note("stopping: the workers write their checkpoints …")
        crew.stop()
        return True
    finally:
        signal.signal(signal.SIGTERM, previous)
        crew.stop()  # after an abort the others give their trials back


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt

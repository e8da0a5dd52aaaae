"""The worker processes of one launcher: starting, replacing and stopping them."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from studies import presence
from studies.prepare import Options
from studies.staffing import Split, worker_environment
from studies.storage import Launch
from studies.worker import EXIT_INTERRUPTED, EXIT_USER
from workbench import files, processes

RESTARTS = 3
"""Errors in a row of one worker, each soon after its start, after which it is not replaced."""
SOON_SECONDS = 60.0
LONGEST_PAUSE = 30.0
QUIET_SECONDS = 7.5
"""What an interrupted worker gets to react: six seconds for the step under way, and the rest to leave."""
STOP_SECONDS = 20.0
"""The same while it saves, or gets too little of a busy core; who takes longer loses what came after its last
checkpoint."""
SAVED_SECONDS = 2.0
"""From the end of its save until it has given its trial back and left."""
STARVED = 0.25
"""Part of the time for which a worker waits for a core, beyond which it cannot have reacted."""
LOOK_SECONDS = 0.1
KILLED_SECONDS = 1.0
"""For killed processes to be gone; one that waits for a file server that is away cannot be waited for."""


@dataclass
class _Place:
    """A worker's place, whoever has it."""

    process: subprocess.Popen[bytes]
    began: float
    crashes: int = 0
    """In a row, each within SOON_SECONDS: by an error or a signal."""
    errors: int = 0
    """Of those, the ones by an error."""
    start_at: float | None = None
    """When the next one is due."""


class _Asked:
    """A worker that is asked to leave."""

    def __init__(self, index: int, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.index, self.process = index, process
        self._mark = presence.saving_mark(folder, process.pid)
        self._waited = processes.waited_for_a_core(process.pid)
        self._at, self._saved_at = time.monotonic(), -math.inf
        if process.poll() is None:
            process.send_signal(signal.SIGINT)

    def is_overdue(self) -> bool:
        """Whether it is not worth while to wait any longer. To be asked all the time."""
        now, pid = time.monotonic(), self.process.pid
        passed = now - self._at
        if self._mark.exists():
            self._saved_at = now
        if passed <= QUIET_SECONDS or passed > STOP_SECONDS:
            return passed > STOP_SECONDS
        starved = processes.waited_for_a_core(pid) - self._waited > STARVED * passed
        return processes.is_stopped(pid) or not (starved or now - self._saved_at < SAVED_SECONDS)


class Crew:
    """The worker processes of this launcher. They have a session of their own, so that Ctrl-C reaches
    them once, through ``stop``."""

    def __init__(self, launch: Launch, options: Options, split: Split) -> None:
        self.launch, self.options = launch, options
        self.threads = split.threads
        self.unheard: list[int] = []
        """Numbers of the workers that ``stop`` had to kill."""
        self._places: dict[int, _Place] = {}
        for index in range(options.first_worker, options.first_worker + split.workers):
            self._places[index] = _Place(self._start(index), time.monotonic())

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "studies.worker", "--home", str(self.launch.home.root)]
        command += ["--launch", self.launch.name, "--worker", str(index), "--threads", str(self.threads)]
        command += ["--execute", self.options.execute, "--parent", str(os.getpid()), "--followed"]
        command += ["--only-queued"] if self.options.only_queued else []
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
        return [index for index, place in self._places.items() if place.process.poll() is None]

    @property
    def restarting(self) -> bool:
        """Whether a place waits for its next worker."""
        return any(place.start_at is not None for place in self._places.values())

    @property
    def processes(self) -> dict[int, subprocess.Popen[bytes]]:
        return {index: place.process for index, place in self._places.items()}

    def replace_crashed(self, note: Callable[[str], None]) -> None:
        """Start a new process for each that ended by an error or a signal, after a pause that grows; not for one
        that has ended by errors RESTARTS times in a row, which trials do not cause. A trial that kills its workers
        (memory, a crash in compiled code) is given up by ``studies.recovery``, so signals need no bound here."""
        now = time.monotonic()
        for index, place in self._places.items():
            if place.start_at is not None:
                if now >= place.start_at:
                    place.process, place.began, place.start_at = self._start(index), now, None
                continue
            code = place.process.poll()
            if code in (None, 0, EXIT_USER, EXIT_INTERRUPTED):
                continue
            assert code is not None
            if now - place.began > SOON_SECONDS:
                place.crashes = place.errors = 0
            place.crashes += 1
            place.errors += code > 0
            if place.errors > RESTARTS:
                continue
            pause = min(LONGEST_PAUSE, 0.5 * 2.0 ** (place.crashes - 1)) if place.crashes > 1 else 0.0
            place.start_at = now + pause
            why = f"signal {-code}" if code < 0 else f"exit code {code}"
            later = f" in {pause:g} s" if pause else ""
            note(f"worker {index} ended with {why} (see {self.log(index)}); started again{later}")

    def stop(self) -> bool:
        """Let every worker finish its step, save and give its trial back; kill those that do not react, or do
        not end (``unheard``). Interrupted meanwhile, kill them now: False then."""
        for place in self._places.values():
            place.start_at = None
        asked = [_Asked(index, process, self.launch.folder) for index, process in self.processes.items()]
        try:
            while asked := [one for one in asked if one.process.poll() is None]:
                for one in asked.copy():
                    if one.is_overdue():
                        self.unheard.append(one.index)
                        one.process.kill()
                        asked.remove(one)
                with contextlib.suppress(subprocess.TimeoutExpired, IndexError):
                    asked[0].process.wait(LOOK_SECONDS)
        except KeyboardInterrupt:
            return False
        finally:
            self.kill()
        return True

    def kill(self) -> None:
        """At once; their trials go on from their last checkpoints."""
        running = [process for process in self.processes.values() if process.poll() is None]
        for process in running:
            process.kill()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILLED_SECONDS)

    def last_error(self) -> str | None:
        """What a worker that ended for an error wrote last, for where the storage could not take it."""
        for index, process in self.processes.items():
            if process.poll() == EXIT_USER:
                lines = self.log(index).read_text(encoding="utf-8", errors="replace").splitlines()
                said = [line for line in lines if line.startswith("error: ")]
                if said:
                    return said[-1].removeprefix("error: ")
        return None

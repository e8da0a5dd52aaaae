"""What a SLURM job of a study runs: ``calm study run`` with one worker, on the machine that it was given.

submitit stores the job in a pickle: a class of this module and a few plain values, no code and no password, in the
launch's own folder. It is a callable of ours and no ``CommandFunction``, as a command would not be told that its
time is over, nor be queued again.

Two signals end a job. Both interrupt the launcher, which lets its worker save and gives the trial back, within ten
seconds:

* SIGUSR2, a while before the time limit or at a preemption: the job is then queued again by submitit, and goes on
  where the study stands.
* SIGTERM, at a cancellation or a preemption: which of the two is not said, so the job then waits for SLURM to end
  it or queue it again. SIGUSR2 may follow.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from submitit import JobEnvironment
from submitit.helpers import Checkpointable

from studies import launch as launching
from studies.display import Display, ending_text
from studies.prepare import Options
from workbench.errors import StudyError, UserError
from workbench.home import Home, open_home

EXIT_IN_VAIN, EXIT_USER, EXIT_TERMINATED = 1, 2, 143
LINGER_SECONDS = 120.0
"""After SIGTERM: SLURM kills a cancelled job sooner (KillWait, 30 s), a preempted one after its grace time."""
WARNING = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
"""What submitit asks SLURM to send ahead of the time limit."""


@dataclass
class _Asked:
    """To stop, by the first signal; later ones only say more."""

    stopped: bool = False
    warned: bool = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.warned |= number == WARNING
        if not self.stopped:
            self.stopped = True
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle both signals so."""
        previous = {number: signal.signal(number, self.handle) for number in (signal.SIGTERM, WARNING)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@dataclass
class WorkerJob(Checkpointable):  # type: ignore[misc]
    """Called in the job. Queued again it is the same: what was done is in the study's database."""

    name: str
    home: str
    storage: str
    """Without its password; whole in the job's environment, CALM_STORAGE."""
    tracking_uri: str | None
    """Likewise, CALM_TRACKING_URI."""
    index: int
    """Of the worker, for its log."""
    threads: int
    execute: str
    only_queued: bool = False

    def __call__(self) -> str:
        """Work until nothing is left, and say how it ended. Ends the process where the job was told to stop."""
        again = signal.getsignal(WARNING)  # submitit's: queues the job again and leaves
        asked = _Asked()
        with asked.listening():
            try:
                result = self._work()
            except KeyboardInterrupt:
                result = None
            except UserError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
                raise SystemExit(EXIT_USER) from None
        if result is not None and not result.interrupted:
            return self._ended(result)
        print("stopped: the trial was given back", flush=True)
        if not asked.warned:
            time.sleep(LINGER_SECONDS)  # submitit's handler is in place again
            raise SystemExit(EXIT_TERMINATED)
        if callable(again):
            again(WARNING, None)
        return "stopped"

    def _ended(self, result: launching.Result) -> str:
        """Of a study in which nothing completed the job fails, as ``calm study run`` does."""
        ending = ending_text(self.name, result.state, Home(Path(self.home)))
        if result.state.in_vain:
            print(f"error: {ending}", file=sys.stderr, flush=True)
            raise SystemExit(EXIT_IN_VAIN)
        return ending or "nothing left to do"

    def _work(self) -> launching.Result:
        """Raises UserError."""
        from rich.console import Console

        options = Options(
            name=self.name,
            storage=self._whole("CALM_STORAGE", self.storage),
            tracking_uri=self._whole("CALM_TRACKING_URI", self.tracking_uri),
            workers=1,
            threads=self.threads,
            execute=self.execute,
            only_queued=self.only_queued,
            first_worker=self.index,
        )
        display = Display(Console(soft_wrap=True, force_terminal=False), self.name)
        return launching.run(options, open_home(self.home), display)

    def _whole(self, variable: str, shown: str | None) -> Any:
        """Raises StudyError where the password is missing."""
        found = os.environ.get(variable) or shown
        if found and "***" in found:
            raise StudyError(
                f"{variable} is not in the job's environment, and {found} lacks its password; let SLURM pass the "
                "environment on (no --export=NONE), or keep the password in ~/.pgpass and out of the address"
            )
        return found

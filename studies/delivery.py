"""The launcher's delivery of run folders to the tracking server, beside the workers.

Workers write run folders and nothing else: MLflow takes two seconds to import and a delivery as long as the
server likes, so one thread of the launcher, which trains nothing, does it for all of them.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from studies.storage import Launch
from workbench import records
from workbench.errors import RunError
from workbench.records import FINISHED
from workbench.tracking import NullTracker, Outcome, Tracker, link

DELIVER_SECONDS = 2.0
"""Between two looks at the run folders."""

log = logging.getLogger("studies.delivery")


class Delivery:
    """Mirrors the run folders of a launch while it runs; a context manager.

    A folder is due when its record has changed since it was last delivered. On leaving, everything that is still
    due goes out; what a server that is away does not take is left to ``calm sync``, and so is what comes after the
    run in hand when the user interrupts the leaving. A launcher that is killed (SIGKILL) leaves the server as it
    was: its runs, whose workers soon write that they were interrupted, are shown as RUNNING until the launch is
    resumed or synchronised."""

    def __init__(self, launch: Launch, tracker: Tracker, parent: str | None) -> None:
        self.launch, self.tracker, self.parent = launch, tracker, parent
        self._delivered: dict[str, int] = {}
        """Run to the time of the record that was delivered."""
        self._settled: set[str] = set()
        """Runs that have ended for good and were delivered: not looked at again."""
        self._stop, self._hurry, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="delivery", daemon=True)

    def __enter__(self) -> Self:
        if not isinstance(self.tracker, NullTracker):
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        interruption = None
        while self._thread.is_alive():
            try:
                self._stop.set()
                self._ended.wait()  # not join(): some versions of Python take an interrupted one for the end
            except KeyboardInterrupt as again:  # the thread still uses the tracker, which is closed next
                self._hurry.set()
                interruption = again
        if interruption is not None:
            raise interruption

    def _follow(self) -> None:
        try:
            while not self._stop.wait(DELIVER_SECONDS):
                self.deliver_due()
            self.deliver_due(last=True)
        finally:
            self._ended.set()

    def deliver_due(self, *, last: bool = False) -> int:
        """Deliver what has changed; how many runs. Stops at the first run that a server away does not take."""
        count = 0
        for name, changed in self._due():
            if self._hurry.is_set():
                break
            try:
                outcome = self._deliver(self.launch.folder / name, last=last)
            except Exception as error:  # the study goes on whatever becomes of its mirror
                log.warning("%s could not be delivered to the tracking server: %s", name, error)
                outcome = None
            if outcome is Outcome.AWAY:
                break
            if outcome is not Outcome.BUSY:  # what is refused was told once, and is left to calm sync
                self._delivered[name] = changed
                count += 1
        return count

    def _due(self) -> list[tuple[str, int]]:
        """Runs with a record that was not delivered, and the time of that record."""
        try:
            names = [e.name for e in os.scandir(self.launch.folder) if e.name not in self._settled and e.is_dir()]
        except OSError:
            return []
        due = []
        for name in sorted(names):
            try:
                changed = os.stat(self.launch.folder / name / records.RECORD).st_mtime_ns
            except OSError:
                continue  # no run, or not yet
            if self._delivered.get(name) != changed:
                due.append((name, changed))
        return due

    def _deliver(self, run_dir: Path, *, last: bool) -> Outcome:
        try:
            record = records.read_record(run_dir)
            ended = record.status != "running"
            outcome = self.tracker.mirror(run_dir, parent=self.parent, final=last and ended)
        except RunError:
            return Outcome.COMPLETE  # nothing that could be shown
        if record.status in FINISHED and outcome in (Outcome.DELIVERED, Outcome.COMPLETE):
            self._settled.add(run_dir.name)
            if record.mlflow is None:  # it was over before it could know where it is shown
                records.write_record(run_dir, record.model_copy(update={"mlflow": link(run_dir)}))
        return outcome

"""The launcher's delivery of run folders to the tracking server, beside the workers.

Workers write run folders and nothing else: MLflow takes two seconds to import and a delivery as long as the
server likes, so one thread of the launcher, which trains nothing, does it for all of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from studies.claim import claim
from studies.storage import Launch
from workbench import records
from workbench import tracking_sync as sync
from workbench.errors import RunError
from workbench.records import FINISHED
from workbench.tracking import LaunchRequest, NullTracker, Outcome, Tracker, link
from workbench.tracking_schema import KILLED, effective_status

DELIVER_SECONDS = 2.0
"""Between two looks at the run folders."""

BEGIN_SECONDS = 30.0
"""What another host gets to show the launch, until the next round."""

log = logging.getLogger("studies.delivery")


class Delivery:
    """Mirrors the run folders of a launch while it runs; a context manager.

    The first round also delivers what earlier sessions left, and shows as killed what was. After it a folder is
    due when its record has changed since it was last delivered, or its process is gone. On leaving, everything
    that is still due goes out; what a server that is away does not take is left to ``calm sync`` or the next
    session, and so is what comes after the run in hand when the user interrupts the leaving. A launcher that is
    killed with SIGKILL leaves the server as it was: its runs are shown as RUNNING until the launch is resumed or
    synchronised."""

    def __init__(self, launch: Launch, tracker: Tracker, parent: str | None = None) -> None:
        self.launch, self.tracker, self.parent = launch, tracker, parent
        """``parent``: the launch's run on the server, asked for in the first round where it is None."""
        self._delivered: dict[str, int] = {}
        """Run to the time of the record that was delivered."""
        self._running: set[str] = set()
        """Runs that were at work when they were delivered."""
        self._settled: set[str] = set()
        """Runs that have ended for good and were delivered: not looked at again."""
        self._stop, self._hurry, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._claim, self._claimed = contextlib.ExitStack(), False
        self._patience: float | None = None
        """Of leaving; None: as long as deliveries take."""
        self._thread = threading.Thread(target=self._follow, name="delivery", daemon=True)
        tracker.be_patient()

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
                # not join(): some versions of Python take an interrupted one for the end
                if not self._ended.wait(self._patience):
                    self._hurry.set()  # the process ends, whatever the server is about to say
                    break
            except KeyboardInterrupt as again:  # the thread still uses the tracker, which is closed next
                self._hurry.set()
                interruption = again
        if interruption is not None:
            raise interruption

    def leave_within(self, seconds: float) -> None:
        """Leave what takes longer to the next start, or ``calm sync``."""
        self._patience = seconds
        if not seconds:
            self._hurry.set()

    def _follow(self) -> None:
        try:
            while not self._stop.wait(DELIVER_SECONDS):
                self.deliver_due()
            self.deliver_due(last=True)
        finally:
            self._let_go()
            self._ended.set()

    def deliver_due(self, *, last: bool = False) -> int:
        """Deliver what has changed; how many runs. Stops at the first run that a server away does not take."""
        count = 0
        self.begin(final=last)
        if self.parent is None and not isinstance(self.tracker, NullTracker):
            return 0  # a server is away, or another host makes the launch: a run would make one more
        due = self._due()
        if last:  # what has ended goes out in any case, what is at work elsewhere if the server answers
            due.sort(key=lambda item: item[0] in self._running and not self._is_gone(item[0]))
        for name, changed in due:
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

    def begin(self, *, final: bool = False) -> None:
        """Begin or continue the launch on the server; again in the next round where that is away, or in the
        ``final`` one also before the pause after an outage is over.

        Hosts that begin together must not show a launch each, so one makes it at a time, and goes on doing so
        until the next round where the server takes longer than a round waits."""
        if self.parent is not None or isinstance(self.tracker, NullTracker):
            return
        try:
            if not self._claimed:
                claims = claim(self.launch.url, f"{self.launch.name} on the server")
                self._claimed = self._claim.enter_context(claims.within(BEGIN_SECONDS))
            if self._claimed:
                self._show_launch(final)
        except Exception as error:  # the study goes on whatever becomes of its mirror
            log.warning("the launch could not be shown on the tracking server: %s", error)
        finally:
            if self.parent is not None or not self.tracker.busy:
                self._let_go()

    def _let_go(self) -> None:
        self._claimed = False
        self._claim.close()

    def _show_launch(self, final: bool) -> None:
        known = self.launch.search.user_attrs.get("tracking") or {}
        if known.get("server") != self.tracker.uri:
            known = {}
        earlier, asked = known.get("parent"), "token" in known
        if not asked:  # noted before it is used: were the answer lost, the next host finds the run by it
            known = {"server": self.tracker.uri, "parent": earlier, "token": uuid.uuid4().hex}
            self.launch.search.set_user_attr("tracking", known)
        spec, request = self.launch.spec.to_dict(), LaunchRequest(known["token"], asked)
        self.parent = self.tracker.start_study(self.launch.name, spec, earlier, request=request, final=final)
        if self.parent is not None and self.parent != earlier:
            self.launch.search.set_user_attr("tracking", {**known, "parent": self.parent})

    def finish(self, summary: dict[str, Any], artifacts: list[Path]) -> None:
        """The study is finished; called after leaving."""
        self.begin()
        self._let_go()
        self.tracker.finish_study(self.parent, summary, artifacts)

    def stop(self, status: Literal["KILLED", "FAILED", "FINISHED"] = "KILLED") -> None:
        """The launch ends before its study is finished; called after leaving."""
        if not self._hurry.is_set():
            self.tracker.stop_study(self.parent, status)

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
            if self._delivered.get(name) != changed or (name in self._running and self._is_gone(name)):
                due.append((name, changed))
        return due

    def _is_gone(self, name: str) -> bool:
        run_dir = self.launch.folder / name
        try:
            return effective_status(run_dir, records.read_record(run_dir)) == KILLED
        except (OSError, RunError):
            return False

    def _deliver(self, run_dir: Path, *, last: bool) -> Outcome:
        try:
            record = records.read_record(run_dir)
            status = effective_status(run_dir, record)
            outcome = self.tracker.mirror(run_dir, parent=self.parent, final=last and status != "running")
        except RunError:
            return Outcome.COMPLETE  # nothing that could be shown
        if outcome in (Outcome.DELIVERED, Outcome.COMPLETE):
            (self._running.add if status == "running" else self._running.discard)(run_dir.name)
            if record.status in FINISHED:
                self._settled.add(run_dir.name)
                if record.mlflow is None:  # it was over before it could know where it is shown
                    records.write_record(run_dir, record.model_copy(update={"mlflow": link(run_dir)}))
        return outcome


def deliver_left(launch: Launch, uri: str | None, note: Callable[[str], None]) -> None:
    """What earlier sessions of a finished study left undelivered, with a word about it; never raises."""
    try:
        report = sync.deliver_left(launch.home, uri, launch.name)
    except Exception as error:  # the study is finished whatever becomes of its mirror
        note(f"not everything is on the tracking server: {error}")
        return
    if report is not None:
        note(f"left from earlier, to the tracking server: {report}")

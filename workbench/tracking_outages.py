"""What a tracking server's outage may cost: how long somebody waits, how often it is asked again, what is said.

A server can refuse, hang before or after it took something, or answer too late to matter, and MLflow's own
time-outs bound none of it as a whole. So everything that talks to a server runs in a thread of its own, and who
needs the result waits a stated time; what is then still under way ends in the background, one action at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from workbench.tracking_experiment import MlflowException  # isort: skip

import requests
import sqlalchemy

from workbench.aside import Begun
from workbench.errors import TrackingError
from workbench.tracking import Outcome
from workbench.tracking_database import ServerAway, first_line

logger = logging.getLogger("workbench.tracking")

OUTAGES = (
    MlflowException,
    requests.RequestException,
    sqlalchemy.exc.SQLAlchemyError,
    TrackingError,
    OSError,
)
REFUSALS = {
    "BAD_REQUEST",
    "ENDPOINT_NOT_FOUND",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
}
WAIT_SECONDS = 10.0
"""What one attempt costs a training at most, whatever the server does."""
PATIENT_SECONDS = 60.0
"""The same at the end of a run (unless an outage is known), and for who keeps nobody waiting; meanwhile a server
that is there is asked again."""
BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 30.0, 600.0
"""After an outage, do not try again for so long (the end of a run apart); doubled each time."""
PATIENT_BACKOFF_SECONDS, MAX_PATIENT_BACKOFF_SECONDS = 2.0, 15.0
"""The same for who keeps nobody waiting."""
FIRST_PAUSE_SECONDS = 0.5
"""Before a busy server is asked again; doubled each time."""
T = TypeVar("T")


class Helper:
    """Runs one action at a time in a thread of its own."""

    def __init__(self) -> None:
        self._free = threading.Lock()

    @property
    def busy(self) -> bool:
        return self._free.locked()

    def run(self, action: Callable[[], T], seconds: float) -> T:
        """What ``action`` returns or raises. Raises TimeoutError after ``seconds``; the action then goes on, and
        the next one waits for it."""
        deadline = time.monotonic() + seconds
        if not self._free.acquire(timeout=seconds):
            raise TimeoutError("timed out: what was sent before is still under way")

        def work() -> T:
            try:
                return action()
            finally:
                self._free.release()

        begun = Begun(work, name="tracking")
        if not begun.wait(max(0.0, deadline - time.monotonic())):
            raise TimeoutError("timed out")
        return begun.result()


class Line:
    """The connection to one server: whether it is worth trying, and what is said when it fails."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        """The server's address without a password."""
        self.patient = False
        self._helper = Helper()
        self._quiet_until = 0.0
        self._backoff: float | None = None
        self._warned = False
        self._refusals: set[str] = set()

    @property
    def quiet(self) -> bool:
        """After a failure, for a while."""
        return time.monotonic() < self._quiet_until

    @property
    def busy(self) -> bool:
        """Whether an action is under way, though nobody may wait for it any more."""
        return self._helper.busy

    def call(self, action: Callable[[], T], *, final: bool = False, seconds: float | None = None) -> T:
        """What ``action`` returns, within ``seconds`` (WAIT_SECONDS); ``final`` or patient, within
        PATIENT_SECONDS and asking a busy server again. Raises what it raises, and TimeoutError."""
        if not (final or self.patient):
            return self._helper.run(action, WAIT_SECONDS if seconds is None else seconds)
        known = self._warned and not self.patient  # of many runs, not each waits for a server that is away
        patience = WAIT_SECONDS if known else PATIENT_SECONDS
        deadline = time.monotonic() + patience
        return self._helper.run(lambda: insist(action, deadline), patience)

    def deliver(self, action: Callable[[], Outcome], *, final: bool = False) -> Outcome:
        """``call``; an outage is told once and becomes an outcome."""
        try:
            outcome = self.call(action, final=final)
        except OUTAGES as error:
            return self.report(error)
        self.answered()
        return outcome

    def attempt(self, action: Callable[[], T], *, final: bool = False) -> T | None:
        """``call``; None after an outage, which is told once."""
        try:
            result = self.call(action, final=final)
        except OUTAGES as error:
            self.report(error)
            return None
        self.answered()
        return result

    def answered(self) -> None:
        """An outage is over."""
        self._quiet_until, self._backoff, self._warned = 0.0, None, False

    def report(self, error: Exception) -> Outcome:
        """One line for the first failure in a row; then quiet for a while."""
        reason = error.reason if isinstance(error, ServerAway) else first_line(error)
        if is_refusal(error):
            if reason not in self._refusals:
                logger.warning("tracking: %s refuses a run: %s", self.shown, reason)
            self._refusals.add(reason)
            return Outcome.REFUSED
        first, most = BACKOFF_SECONDS, MAX_BACKOFF_SECONDS
        if self.patient:
            first, most = PATIENT_BACKOFF_SECONDS, MAX_PATIENT_BACKOFF_SECONDS
        pause = self._backoff or first
        self._quiet_until = time.monotonic() + pause
        self._backoff = min(2 * pause, most)
        if not self._warned:
            rest = "the run goes on, its folder has everything; deliver later with: calm sync"
            if self.patient:
                rest = "runs go on, their folders have everything; sent when it is back, or later with: calm sync"
            state = "cannot be used now" if self.shown.startswith("sqlite") else "does not answer"
            logger.warning("tracking: %s %s (%s); %s", self.shown, state, reason, rest)
        self._warned = True
        return Outcome.AWAY


def is_refusal(error: Exception) -> bool:
    """Whether the server answers, and asking again would change nothing."""
    if isinstance(error, MlflowException):
        return error.error_code in REFUSALS
    return isinstance(error, TrackingError) and not isinstance(error, ServerAway)


def is_unknown(error: Exception) -> bool:
    """Whether the server does not know what it was asked about: its database was lost or replaced."""
    return isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST"


def insist(action: Callable[[], T], deadline: float) -> T:
    """Again and again, ever more rarely, while a server is there but busy, slow or at fault."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return action()
        except OUTAGES as error:
            nobody = "refused" in first_line(error)
            if nobody or is_refusal(error) or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause *= 2


def chunks(items: list[Any], size: int) -> list[list[Any]]:
    """Of at most ``size`` items each."""
    return [items[start : start + size] for start in range(0, len(items), size)]

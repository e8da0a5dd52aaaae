"""Checks of the surroundings: what one found, and many run with a time limit each. Imports no torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["ok", "warning", "failed"]
_THREAD = "examination: "
AGAIN = "ask again when the machine is less busy"


@dataclass(frozen=True)
class Check:
    """One line of ``calm doctor``."""

    topic: str
    name: str
    outcome: Outcome
    found: str
    advice: str = ""
    """What to do; empty where nothing is to be done."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Examination:
    """Makes some checks. It may raise: that fails it, and not the others."""

    topic: str
    name: str
    make: Callable[[], Iterable[Check]]
    seconds: float = 4.0
    """What it may take."""
    late: Outcome = "failed"
    """What it means that it takes longer: that something hangs, or that the machine is busy."""


def run_all(examinations: Sequence[Examination], *, seconds: float) -> list[Check]:
    """One after the other, so that those that measure time do not disturb each other; ``seconds`` in all.

    One that exceeds its time is left behind in a thread that ends with the process."""
    until = time.monotonic() + seconds
    found: list[Check] = []
    for each in examinations:
        found += _run(each, until - time.monotonic())
    return found


def _run(examination: Examination, left: float) -> list[Check]:
    topic, name = examination.topic, examination.name
    if left <= 0:
        return [Check(topic, name, "warning", "not looked at: the checks before took all the time", AGAIN)]
    made: list[Check] = []
    errors: list[BaseException] = []

    def make() -> None:
        try:
            made.extend(examination.make())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=make, name=f"{_THREAD}{name}", daemon=True)
    thread.start()
    thread.join(min(left, examination.seconds))
    if thread.is_alive():
        if left < examination.seconds:
            return [*made, Check(topic, name, "warning", f"not done in the {left:.0f} s that were left", AGAIN)]
        found = f"no answer within {examination.seconds:.0f} s"
        advice = (
            "what it asks hangs or is very slow; see that it answers" if examination.late == "failed" else AGAIN
        )
        return [*made, Check(topic, name, examination.late, found, advice)]
    if errors:
        text = (str(errors[0]).splitlines() or [""])[0]
        return [*made, Check(topic, name, "failed", f"{type(errors[0]).__name__}: {text}")]
    return made


def left_behind() -> bool:
    """Whether an examination still runs. A process that ends meanwhile must do so by ``os._exit``: libraries abort
    when they are taken down under a thread that uses them."""
    return any(thread.name.startswith(_THREAD) for thread in threading.enumerate())


def graded(*, failed: bool, warned: bool) -> Outcome:
    return "failed" if failed else "warning" if warned else "ok"


def worst(checks: Sequence[Check]) -> Outcome:
    """Of all: failed before warning before ok."""
    outcomes = {check.outcome for check in checks}
    return "failed" if "failed" in outcomes else "warning" if "warning" in outcomes else "ok"

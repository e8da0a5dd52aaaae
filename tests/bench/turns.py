"""Several forms of some work, timed in turns: each in a process of its own, one running at a time.

A process prepares its form, repeats it for a turn's time, and waits until it is its turn again. So whatever else
the machine does hits all forms alike, and peak memory is a form's own.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

WARM_UP = 2
"""Repetitions before the first turn: memory taken, kernels chosen."""


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
"""Seconds by the clock, or of processor over all threads: what else a busy machine does is not in the latter."""


class Pace(Protocol):
    """To be called after every repetition; blocks between turns, and raises ``Finished`` at the end."""

    now: Callable[[], float]
    """The clock that repetitions are timed with."""

    def __call__(self, parts: Mapping[str, float] | None = None) -> None:
        """``parts``: seconds of this repetition by part, where the form measures them."""


class Finished(Exception):
    """No further turn is wanted."""


@dataclass(frozen=True)
class Form:
    """``work(pace, **arguments)`` prepares the form and then repeats it for ever, with ``pace()`` after each time.
    A module-level function; ``imports`` are the modules it needs: what they take is not charged to it."""

    name: str
    work: Callable[..., None]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    imports: tuple[str, ...] = ("torch",)


@dataclass
class Measured:
    """What was found about one form."""

    name: str
    turns: list[list[float]] = field(default_factory=list)
    """Seconds of every repetition, by turn."""
    processor: list[float] = field(default_factory=list)
    """Processor seconds of a repetition, over all threads, by turn: what else the machine does is not in it."""
    parts: list[Mapping[str, float]] = field(default_factory=list)
    """Of every repetition, where the form measures them."""
    imports_bytes: int = 0
    """Resident memory once everything is imported and before anything is prepared."""
    peak_bytes: int = 0

    @property
    def by_turn(self) -> list[float]:
        """Median seconds of a repetition in every turn."""
        return [statistics.median(turn) for turn in self.turns]

    @property
    def seconds(self) -> float:
        """Of one repetition: the median of the turns."""
        return statistics.median(self.by_turn)

    @property
    def growth_bytes(self) -> int:
        """Peak resident memory beyond what the imports take."""
        return self.peak_bytes - self.imports_bytes

    def part_seconds(self) -> dict[str, float]:
        """Median seconds of every part over all repetitions."""
        names = dict.fromkeys(name for parts in self.parts for name in parts)
        return {name: statistics.median(parts.get(name, 0.0) for parts in self.parts) for name in names}

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "seconds": self.seconds,
            "seconds_by_turn": self.by_turn,
            "processor_seconds_by_turn": self.processor,
            "num_repetitions": sum(map(len, self.turns)),
            "parts": self.part_seconds(),
            "imports_bytes": self.imports_bytes,
            "peak_bytes": self.peak_bytes,
        }


@dataclass(frozen=True)
class Ratio:
    """Median over turns of one form's seconds over another's, and its range."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"


def ratio(slow: Measured, fast: Measured) -> Ratio:
    """How many times longer ``slow`` takes, turn by turn."""
    return _ratio(slow.by_turn, fast.by_turn)


def processor_ratio(slow: Measured, fast: Measured) -> Ratio:
    """The same of processor seconds: sharper on a busy machine, and blind to how well threads are used."""
    return _ratio(slow.processor, fast.processor)


def _ratio(slow: list[float], fast: list[float]) -> Ratio:
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def spread(measured: Measured) -> str:
    """Range of the turns around their median, in per cent."""
    low, high = (100 * (f(measured.by_turn) / measured.seconds - 1) for f in (min, max))
    return f"{low:+.0f}..{high:+.0f} %"


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of log y against log x, by least squares; nan where y is not positive or there are fewer than two points."""
    if len(x) < 2 or min(y) <= 0:
        return math.nan
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def take_turns(
    forms: Sequence[Form], *, seconds: float, turns: int, threads: int, clock: str = "wall"
) -> list[Measured]:
    """All forms in ``turns`` rounds of about ``seconds`` each (at least one repetition), every second round
    backwards; repetitions are timed by one of ``CLOCKS``."""
    results = [Measured(form.name) for form in forms]
    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker(form, threads, clock)) for form in forms]
        for number in range(turns):
            pairs = list(zip(workers, results, strict=True))
            for worker, result in pairs if number % 2 == 0 else reversed(pairs):
                worker.turn(seconds, result)
            print(f"  turn {number + 1} of {turns}", file=sys.stderr, flush=True)
    return results


class _Worker:
    """A process that serves turns of one form."""

    def __init__(self, form: Form, threads: int, clock: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.form = form
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, form, threads, clock), daemon=True)
        self.process.start()
        other.close()
        self.imports_bytes = int(self._receive())
        self._receive()  # prepared and warm: forms do not disturb each other meanwhile

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.is_alive():
            self.pipe.send(None)
        self.process.join(20)
        self.process.kill()

    def turn(self, seconds: float, result: Measured) -> None:
        """Run one turn and add it to ``result``."""
        self.pipe.send(seconds)
        times, processor, parts, result.peak_bytes = self._receive()
        result.turns.append(times)
        result.processor.append(processor / len(times))
        result.parts += parts
        result.imports_bytes = self.imports_bytes

    def _receive(self) -> Any:
        try:
            answer = self.pipe.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"{self.form.name}: ended with exit code {self.process.exitcode}") from None
        if isinstance(answer, str):
            raise RuntimeError(f"{self.form.name}: {answer}")
        return answer


def _serve(pipe: Connection, form: Form, threads: int, clock: str) -> None:
    try:
        for name in form.imports:
            import_module(name)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        pipe.send(resident_bytes())
        form.work(_Turns(pipe, CLOCKS[clock]), **form.arguments)
        raise AssertionError("a form's work must not end by itself")
    except (Finished, EOFError):  # no further turn, or the parent is gone
        pass
    except Exception:
        pipe.send(traceback.format_exc())


class _Turns(Pace):
    """Times the repetitions of a turn."""

    def __init__(self, pipe: Connection, now: Callable[[], float]) -> None:
        self.pipe = pipe
        self.now = now
        self.warm_up = WARM_UP
        self.end = 0.0
        self.last = 0.0
        self.processor = 0.0
        self.times: list[float] = []
        self.parts: list[Mapping[str, float]] = []

    def __call__(self, parts: Mapping[str, float] | None = None) -> None:
        seconds = self.now() - self.last
        if self.warm_up > 0:
            self.warm_up -= 1
            if self.warm_up:
                return
            self.pipe.send(None)
            self._wait()
            return
        self.times.append(seconds)
        if parts is not None:
            self.parts.append(dict(parts))
        if time.perf_counter() >= self.end:
            self.pipe.send((self.times, time.process_time() - self.processor, self.parts, peak_bytes()))
            self._wait()
        else:
            self.last = self.now()

    def _wait(self) -> None:
        seconds = self.pipe.recv()
        if seconds is None:
            raise Finished
        self.times, self.parts = [], []
        self.processor = time.process_time()
        self.end = time.perf_counter() + seconds
        self.last = self.now()


def resident_bytes() -> int:
    """Resident memory of this process now; its peak where the system does not say."""
    return _status("VmRSS") or _peak_of_resources()


def peak_bytes() -> int:
    """Peak resident memory of this process; ru_maxrss may have inherited the parent's, VmHWM has not."""
    return _status("VmHWM") or _peak_of_resources()


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def _peak_of_resources() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

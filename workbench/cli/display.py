"""A run's progress: on a terminal a live bar with step, loss, tokens/s and time left; elsewhere, as in the log of
a scheduler, plain lines that are there at once."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from workbench.cli.output import LastingOutput

PLAIN_WIDTH = 160
"""Columns where the output is not a terminal: nothing is cut off or broken in a log."""
PLAIN_EVERY = 30.0
"""Seconds between lines without a terminal: days of training in a log that can be read."""
DRAWN_EVERY = 0.05
"""Seconds between changes of the bar: a step may take less than drawing it."""


def make_console(*, stderr: bool = False, lasting: bool = False) -> Console:
    """Without a terminal no control characters, whatever the environment asks for (FORCE_COLOR): a file keeps
    them. ``lasting``: of a command whose work goes on where nobody reads its output any more."""
    stream = sys.stderr if stderr else sys.stdout
    file = cast(IO[str], LastingOutput(stream)) if lasting else None
    if stream.isatty():
        return Console(file=file, stderr=stderr, highlight=False, emoji=False)
    return Console(file=file, stderr=stderr, highlight=False, emoji=False, width=PLAIN_WIDTH, force_terminal=False)


@dataclass
class _Stage:
    """One kind of work, which others may interrupt: an evaluation comes in the middle of training."""

    name: str
    total: int
    task: TaskID
    done: int = 0
    values: str = ""
    ended: bool = False
    """It has come to its end before."""
    _last: float | None = None
    """When the stage last showed a sign of life, if it has since it was entered."""
    _steps: int = 0
    _seconds: float = 0.0

    def enter(self, total: int) -> None:
        self.total, self._last = total, None

    def advance(self, done: int) -> None:
        """The time up to the first step is not counted: a resumed run does not begin at 0, a compiled one not at
        once."""
        now = time.monotonic()
        if self._last is not None and done > self.done:
            self._steps += done - self.done
            self._seconds += now - self._last
        self.done, self._last = done, now

    def words(self) -> str:
        """``training 120/303  loss 11.25  tokens/s 15,797  left 2 min``."""
        left = ""
        if self._steps and self.done < self.total:
            seconds = self._seconds * (self.total - self.done) / self._steps
            left = f"  left {seconds / 60:,.0f} min" if seconds >= 90 else f"  left {seconds:.0f} s"
        values = f"  {self.values}" if self.values else ""
        return f"{self.name} {self.done}/{self.total}{values}{left}"


class RunDisplay:
    """A ``workbench.progress.Display``; a context manager.

    Without a terminal a line comes at a stage's first step and its end, at checkpoints, and otherwise every
    ``PLAIN_EVERY`` seconds."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.plain = not console.is_terminal or console.is_dumb_terminal
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=self.plain,
        )
        self.stages: dict[str, _Stage] = {}
        self.current: _Stage | None = None
        self.shown = -math.inf
        """When the last line was printed, or the bar changed."""

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def stage(self, name: str, total: int) -> None:
        found = self.stages.get(name)
        if found is None:
            found = self.stages[name] = _Stage(name, total, self.bar.add_task(name, total=total, values=""))
            self.shown = -math.inf  # its first step is shown
        found.enter(total)
        self.current = found

    def advance(self, done: int, **values: float) -> None:
        now, stage = time.monotonic(), self.current
        if stage is None:
            return
        ends = done >= stage.total
        if done < stage.done:  # a stage that comes again, such as an evaluation
            self.bar.reset(stage.task, total=stage.total)
            self.shown = -math.inf if not self.plain else self.shown
        stage.advance(done)
        if values:
            stage.values = "  ".join(f"{_label(name)} {_number(value)}" for name, value in values.items())
        due = now - self.shown > (PLAIN_EVERY if self.plain else DRAWN_EVERY)
        if due or (ends and not (self.plain and stage.ended)):  # of many evaluations only one is said to end
            self._show(stage)
        stage.ended = stage.ended or ends

    def _show(self, stage: _Stage, more: str = "") -> None:
        self.shown = time.monotonic()
        self.bar.update(stage.task, total=stage.total, completed=stage.done, values=stage.values)
        if self.plain:
            self.console.print(stage.words() + more, markup=False, soft_wrap=True)

    def saved(self, done: int) -> None:
        if self.plain and self.current is not None:
            self.current.advance(done)
            self._show(self.current, more="  checkpoint")

    def note(self, text: str) -> None:
        self.console.print(f"  {text}", highlight=False, markup=False, soft_wrap=self.plain)


def _label(name: str) -> str:
    return "tokens/s" if name == "tokens_per_second" else name.replace("_", " ")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

"""A run's progress on a terminal: a live bar with step, loss, tokens/s and time left; plain lines where
the output is not a terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

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

PLAIN_WIDTH = 160
"""Columns where the output is not a terminal: nothing is cut off or broken in a log."""
PLAIN_EVERY = 10.0
"""Seconds between lines without a terminal."""


def make_console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


class RunDisplay:
    """A ``workbench.progress.Display``; a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None
        self.name, self.total = "", 0
        self.started = self.printed = 0.0
        self.first: int | None = None
        """Step at the stage's first sign of life: a resumed run does not begin at 0."""

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def stage(self, name: str, total: int) -> None:
        self.name, self.total = name, total
        self.started = self.printed = time.monotonic()
        self.first = None
        self.task = self.bar.add_task(name, total=total, values="")

    def advance(self, done: int, **values: float) -> None:
        shown = "  ".join(f"{_label(name)} {_number(value)}" for name, value in values.items())
        if self.task is not None:
            self.bar.update(self.task, completed=done, values=shown)
        if self.first is None:
            self.first, self.started = done, time.monotonic()
        due = time.monotonic() - self.printed > PLAIN_EVERY or done >= self.total
        if not self.console.is_terminal and due:
            self.printed = time.monotonic()
            self.console.print(f"{self.name} {done}/{self.total}  {shown}{self._left(done)}", highlight=False)

    def _left(self, done: int) -> str:
        if self.first is None or done <= self.first or done >= self.total:
            return ""
        seconds = (time.monotonic() - self.started) * (self.total - done) / (done - self.first)
        return f"  left {seconds / 60:.0f} min" if seconds >= 90 else f"  left {seconds:.0f} s"

    def note(self, text: str) -> None:
        self.console.print(f"  {text}", highlight=False, markup=False)


def _label(name: str) -> str:
    return "tokens/s" if name == "tokens_per_second" else name.replace("_", " ")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

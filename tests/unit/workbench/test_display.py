"""Progress in a log: lines that a reader of a scheduler's output expects, and nothing else."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import pytest
from rich.console import Console

from workbench.cli.display import RunDisplay, make_console


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Log(io.StringIO):
    """Knows what had been flushed after each write."""

    waiting = False

    def write(self, text: str) -> int:
        self.waiting = True
        return super().write(text)

    def flush(self) -> None:
        self.waiting = False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("workbench.cli.display.time.monotonic", clock)
    return clock


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """A file as standard output, where the environment asks for colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    return Log()


@contextmanager
def showing(log: Log) -> Iterator[RunDisplay]:
    with redirect_stdout(log), RunDisplay(make_console()) as display:
        yield display


def train(display: RunDisplay, clock: Clock, steps: range, seconds: float, total: int) -> None:
    for step in steps:
        clock.now += seconds
        display.advance(step, loss=10.0 - step / 100, tokens_per_second=14_800.0)


def test_lines_come_with_the_time_and_not_with_the_steps(log: Log, clock: Clock) -> None:
    with showing(log) as display:
        display.stage("training", 1000)
        train(display, clock, range(1, 301), 0.5, 1000)
    lines = log.getvalue().splitlines()
    assert lines[0] == "training 1/1000  loss 9.99  tokens/s 14,800"
    assert lines[1] == "training 62/1000  loss 9.38  tokens/s 14,800  left 8 min"
    assert len(lines) == 5
    assert not log.waiting


def test_nothing_but_text(log: Log, clock: Clock) -> None:
    with showing(log) as display:
        display.stage("training", 40)
        train(display, clock, range(1, 41), 1.0, 40)
        display.saved(40)
        display.note("step 40 (constant): [red]BrierLM[/red] " + "very long " * 30)
    text = log.getvalue()
    assert not {"\r", "\x1b", "\b"} & set(text)
    assert len(text.splitlines()) == 5  # the first step, half a minute later, the end, the checkpoint, the note


def test_checkpoints_and_the_end_have_their_lines(log: Log, clock: Clock) -> None:
    with showing(log) as display:
        display.stage("training", 8)
        train(display, clock, range(1, 6), 1.0, 8)
        display.saved(6)
        train(display, clock, range(7, 9), 1.0, 8)
    shown = [" ".join(line.split()[1:2] + line.split()[-1:]) for line in log.getvalue().splitlines()]
    assert shown == ["1/8 14,800", "6/8 checkpoint", "8/8 14,800"]


def test_what_evaluations_take_is_no_training(log: Log, clock: Clock) -> None:
    """An hour of evaluation between steps of a second; the last loss stays where none is given."""
    with showing(log) as display:
        display.stage("training", 100)
        train(display, clock, range(1, 41), 1.0, 100)
        for hour in range(2):
            display.stage("evaluating (windows)", 6)
            for done in range(1, 7):
                clock.now += 600
                display.advance(done)
            display.stage("training", 100)
            train(display, clock, range(41 + 2 * hour, 43 + 2 * hour), 1.0, 100)
        clock.now += 30
        display.advance(45)
    lines = log.getvalue().splitlines()
    assert lines[-1] == "training 45/100  loss 9.56  tokens/s 14,800  left 2 min"
    assert sum(line.startswith("evaluating (windows) 1/6") for line in lines) == 2


def test_many_short_evaluations_do_not_fill_the_log(log: Log, clock: Clock) -> None:
    with showing(log) as display:
        for _ in range(20):
            display.stage("evaluating (windows)", 16)
            train(display, clock, range(1, 17), 0.01, 16)
    assert len(log.getvalue().splitlines()) == 2


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_for_terminals(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, _environ={"TERM": "xterm"})
    with RunDisplay(console) as display:
        display.stage("training", 3)
        for _again in range(2):
            for done in (1, 2, 3):
                display.advance(done, loss=1.0)
            display.saved(3)
        display.stage("training", 5)
        display.advance(1)
    (bar,) = display.bar.tasks or (None,)  # type: ignore[assignment]
    assert ("\x1b" in console.file.getvalue()) == terminal  # type: ignore[attr-defined]
    if terminal:
        assert (bar.completed, bar.total) == (1, 5)

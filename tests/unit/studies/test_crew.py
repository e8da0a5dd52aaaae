"""Which ended workers are replaced, and when; with processes that only pretend."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from studies import crew, presence
from studies.crew import Crew
from studies.prepare import Options
from studies.staffing import Split
from tests.suites.study_launch import create, tiny_spec
from workbench import processes
from workbench.interruption import EXIT_INTERRUPTED


class Process:
    pid = 2**31 - 1  # nobody's

    def __init__(self) -> None:
        self.code: int | None = None
        self.signals: list[int] = []

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        self.code = EXIT_INTERRUPTED

    def wait(self, timeout: float | None = None) -> None:
        return None


class Place:
    """A crew of one, and a clock that is set by hand."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.started, self.said = 1000.0, [], []  # type: ignore[var-annotated]
        monkeypatch.setattr(crew.time, "monotonic", lambda: self.now)

        def start(this: Crew, index: int) -> Any:
            self.started.append(Process())
            return self.started[-1]

        monkeypatch.setattr(Crew, "_start", start)
        self.crew = Crew(create(folder, tiny_spec()), Options("tiny"), Split(1, 1))

    def ends(self, code: int, after: float = 1.0) -> bool:
        """The worker ends so; whether another is started within a minute."""
        count = len(self.started)
        self.now += after
        self.started[-1].code = code
        for _ in range(60):
            self.crew.replace_crashed(self.said.append)
            if len(self.started) > count:
                return True
            self.now += 1.0
        return False


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def test_one_that_was_killed_is_replaced_however_often(place: Place) -> None:
    for number in (signal.SIGKILL, signal.SIGSEGV) * 10:
        assert place.ends(-number)
    assert "signal 9" in place.said[0]
    assert "signal 11" in place.said[1]


def test_with_pauses_that_grow_up_to_a_bound(place: Place) -> None:
    for _ in range(10):
        place.ends(-9)
    pauses = [text.rpartition(" in ")[2] for text in place.said if "again in" in text]
    assert pauses == ["1 s", "2 s", "4 s", "8 s", "16 s", "30 s", "30 s", "30 s", "30 s"]


def test_errors_in_a_row_end_it(place: Place) -> None:
    assert [place.ends(1) for _ in range(4)] == [True, True, True, False]
    assert place.crew.alive() == []
    assert not place.crew.restarting


def test_after_a_while_an_error_is_the_first_again(place: Place) -> None:
    assert all(place.ends(1, after=crew.SOON_SECONDS + 1) for _ in range(10))


@pytest.mark.parametrize("code", [0, 2, EXIT_INTERRUPTED])
def test_one_that_ended_for_good_is_not_replaced(place: Place, code: int) -> None:
    assert not place.ends(code)


def test_stopping_stops_what_would_have_been_started(place: Place) -> None:
    place.ends(-9)
    place.started[-1].code = -9
    place.crew.replace_crashed(place.said.append)
    assert place.crew.restarting
    assert place.crew.stop()
    assert not place.crew.restarting


def test_the_error_of_a_worker_is_found_in_its_log(place: Place) -> None:
    place.crew.log(0).write_text("starting\nerror: no room left; free some\n")
    assert place.crew.last_error() is None
    place.started[-1].code = 2
    assert place.crew.last_error() == "no room left; free some"


LEAVING = """
import contextlib, os, pathlib, signal, sys, time
from studies import presence
from workbench.saving import saving, told_by
how, folder, seconds = sys.argv[1], pathlib.Path(sys.argv[2]), float(sys.argv[3])
asked = []
signal.signal(signal.SIGINT, lambda *_: asked.append(True))
with told_by(presence.saving_mark(folder, os.getpid())):
    print("here", flush=True)
    while not asked or how == "native":
        pass
    with saving() if how == "saving" else contextlib.nullcontext():
        end = time.monotonic() + (0.0 if how == "leaves" else seconds)
        while time.monotonic() < end:
            time.sleep(0.01)
sys.exit(130)
"""


@pytest.fixture
def leaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Crew, float]]]:
    """A crew whose workers take the signal as they are told, asked to leave; and the seconds that it took. Time
    goes faster: a second stands for ten or so."""
    started: list[subprocess.Popen[bytes]] = []
    launch = create(tmp_path, tiny_spec())
    (launch.folder / presence.WORKERS).mkdir(parents=True)
    monkeypatch.setattr(crew, "QUIET_SECONDS", 0.8)
    monkeypatch.setattr(crew, "STOP_SECONDS", 8.0)
    monkeypatch.setattr(processes, "waited_for_a_core", lambda pid: 0.0)  # whatever else this machine does

    def stop(*how: str, seconds: float = 0.0, stopped: bool = False) -> tuple[Crew, float]:
        def start(this: Crew, index: int) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", LEAVING, how[index], str(launch.folder), str(seconds)]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
            return started[-1]

        monkeypatch.setattr(Crew, "_start", start)
        workers = Crew(launch, Options("tiny"), Split(len(how), 1))
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        if stopped:
            os.kill(started[0].pid, signal.SIGSTOP)
        began = time.monotonic()
        assert workers.stop()
        return workers, time.monotonic() - began

    yield stop
    for process in started:
        process.kill()
        process.communicate()


def test_one_that_leaves_is_not_killed(leaving: Callable[..., tuple[Crew, float]]) -> None:
    workers, seconds = leaving("leaves", "leaves")
    assert {process.poll() for process in workers.processes.values()} == {EXIT_INTERRUPTED}
    assert workers.unheard == []
    assert seconds < 8.0


@pytest.mark.slow
@pytest.mark.parametrize(("how", "stopped"), [("leaves", True), ("saving", True), ("native", False)])
def test_one_that_does_not_react_is_killed_soon(
    leaving: Callable[..., tuple[Crew, float]], how: str, *, stopped: bool
) -> None:
    """Suspended, perhaps in its save; or in a long call of native code."""
    workers, seconds = leaving(how, "leaves", stopped=stopped)
    assert [process.poll() for process in workers.processes.values()] == [-signal.SIGKILL, EXIT_INTERRUPTED]
    assert workers.unheard == [0]
    assert 0.8 < seconds < 6.0


@pytest.mark.slow
def test_one_that_saves_has_the_time_and_leaves_by_itself(leaving: Callable[..., tuple[Crew, float]]) -> None:
    workers, seconds = leaving("saving", "leaves", seconds=2.5)
    assert {process.poll() for process in workers.processes.values()} == {EXIT_INTERRUPTED}
    assert workers.unheard == []
    assert seconds > 2.5


@pytest.mark.slow
def test_but_not_for_ever(leaving: Callable[..., tuple[Crew, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "STOP_SECONDS", 2.0)
    workers, seconds = leaving("saving", seconds=60.0)
    assert workers.unheard == [0]
    assert 2.0 < seconds < 30


@pytest.mark.slow
def test_one_on_a_busy_core_has_the_time_as_well(
    leaving: Callable[..., tuple[Crew, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    monkeypatch.setattr(processes, "waited_for_a_core", lambda pid: time.monotonic() - began)
    workers, _ = leaving("slow", seconds=2.5)
    assert workers.unheard == []

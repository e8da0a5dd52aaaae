"""Which ended workers are replaced, and when; with processes that only pretend."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from studies import crew
from studies.crew import Crew
from studies.prepare import Options
from studies.staffing import Split
from tests.suites.study_launch import create, tiny_spec
from workbench.interruption import EXIT_INTERRUPTED


class Process:
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

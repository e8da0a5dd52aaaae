"""What ``calm study status`` says of workers: a living one is never called dead."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from studies import presence, recovery
from studies.database import database_of
from studies.status import status, status_lines
from studies.storage import Launch
from tests.suites.study_launch import create, steps, tiny_spec
from workbench import processes

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # ask() stands for another worker


def running(launch: Launch, worker: dict[str, Any], *, silent: float | None = None) -> str:
    """What is said of a trial that ``worker`` has."""
    trial = launch.search.ask()
    if silent is not None:
        database_of(launch.search).record_heartbeat(trial._trial_id)
        with database_of(launch.search).engine.begin() as connection:
            back = f"UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-{silent} seconds')"
            connection.execute(sqlalchemy.text(back))
    trial.set_user_attr("worker", worker)
    trial.set_user_attr("evaluations", {"t000-s0": 3})
    (text,) = [text for text in status_lines(status(launch)) if text.startswith("running")]
    return text


def test_a_process_of_this_machine_that_lives(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    text = running(launch, recovery.this_worker(3), silent=100_000)
    assert "worker 3 on" in text
    assert "3 evaluation(s) done" in text
    assert text.endswith(": alive")
    assert "workers alive: 1" in status_lines(status(launch))


@pytest.mark.slow
def test_one_of_this_machine_that_has_ended(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    text = running(launch, {**recovery.this_worker(3), "ticks": 1}, silent=1)
    assert "its process has ended" in text
    assert "nobody works on it; continue with: calm study run tiny-quick" in status_lines(status(launch))


@pytest.mark.parametrize(
    ("silent", "words", "alive"),
    [
        (8, r"last sign of life ([89]|[1-5]\d) s ago", 1),  # 8 and what the test takes
        (1000, r"last sign of life 17 min ago; the trial is continued by the next worker", 0),
        (None, r"no sign of life yet", 0),
    ],
)
def test_one_elsewhere_is_known_by_its_heartbeat(
    tmp_path: Path, silent: float | None, words: str, alive: int
) -> None:
    launch = create(tmp_path, tiny_spec())
    elsewhere = {**recovery.this_worker(3), "host": "elsewhere", "boot": "another"}
    text = running(launch, elsewhere, silent=silent)
    assert "worker 3 on elsewhere" in text
    assert re.search(f": {words}$", text), text
    assert status(launch).num_alive == alive


def test_workers_that_wait_are_seen_and_those_that_were_killed_are_not(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    with presence.present(launch.folder, recovery.this_worker(1)):
        with presence.present(launch.folder, {**recovery.this_worker(2), "pid": 1, "ticks": -1}):
            lines = status_lines(status(launch))
        assert [line for line in lines if line.startswith("waiting: worker 1 on")]
        assert not [line for line in lines if "worker 2" in line]
        assert "workers alive: 1" in lines
    assert presence.workers(launch.folder) == []


def test_workers_of_before_the_machine_was_started_again_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_pid_space", lambda: processes.OUTSIDE_CONTAINERS)
    folder = create(tmp_path, tiny_spec()).folder
    before = {**recovery.this_worker(1), "boot": "another"}
    twin = {**before, "pid": 1, "machine": "another of the same name"}
    with presence.present(folder, before), presence.present(folder, twin):
        assert presence.workers(folder) == [{**twin, "alive": None}]


def test_while_a_launcher_starts_its_workers_nobody_is_told_to_start_another(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    here = {**processes.this_process(), "index": presence.LAUNCHER}
    with presence.present(launch.folder, here):
        lines = status_lines(status(launch))
    assert "workers alive: 0" in lines
    assert lines[-1] == "its launcher is there; workers are being started"
    assert "nobody works on it" in status_lines(status(launch))[-1]


@pytest.mark.slow
def test_for_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL", "small")
    launch = create(tmp_path, tiny_spec())
    steps(launch)
    told = json.loads(json.dumps(status(launch).to_dict()))
    assert told["finished"]
    assert told["workers_alive"] == 0
    assert told["failures"] == [{"what": "small", "reason": "RuntimeError: a failure for the test"}]
    assert told["search"]["complete"] == 5

"""What ``calm study status`` says of workers: a living one is never called dead."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.trial import TrialState

from studies import presence, recovery
from studies.database import database_of
from studies.status import status, status_lines
from studies.storage import Launch
from tests.suites.study_launch import create, steps, tiny_spec
from workbench import files, processes

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


def named(launch: Launch) -> str:
    return f"tiny-quick --home {launch.home.root}"


@pytest.mark.slow
@pytest.mark.parametrize("usual", ["the current folder", "CALM_HOME", ""])
def test_the_hints_find_the_launch_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usual: str
) -> None:
    home = tmp_path / "my home" / "runs"
    launch = create(home, tiny_spec())
    if usual:
        monkeypatch.chdir(home.parent)
    if usual == "CALM_HOME":
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("CALM_HOME", "my home/runs")
    where = "" if usual else f" --home '{launch.home.root}'"
    monkeypatch.setenv("FAKE_FAIL", "t0")
    steps(launch, most=3)
    assert status_lines(status(launch))[-2:] == [
        f"nobody works on it; continue with: calm study run tiny-quick{where}",
        f"failed ones again: calm study retry tiny-quick{where}",
    ]


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
    assert f"nobody works on it; continue with: calm study run {named(launch)}" in status_lines(status(launch))


@pytest.mark.parametrize(
    ("silent", "words", "alive"),
    [
        (8, r"last sign of life ([89]|[1-5]\d) s ago", 1),  # 8 and what the test takes
        (
            1000,
            r"cannot be seen from here \(last sign of life 17 min ago\); the trial is queued again, and "
            r"goes on from its last checkpoint",
            0,
        ),
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
    told = status(launch)
    assert (told.num_alive, told.num_unseen) == (alive, 1 - alive)
    last = status_lines(told)[-1]
    assert "nobody works on it" not in last
    assert last.startswith("whether anybody works on it cannot be seen from here; continue, or join in") != alive


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
    left_behind(folder, before)
    left_behind(folder, twin)
    assert [(one.worker, one.alive) for one in presence.workers(folder)] == [(twin, None)]


def test_while_a_launcher_starts_its_workers_nobody_is_told_to_start_another(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    here = {**processes.this_process(), "index": presence.LAUNCHER}
    with presence.present(launch.folder, here):
        lines = status_lines(status(launch))
    assert "workers alive: 0" in lines
    assert lines[-1] == "its launcher is there; workers are being started"
    assert "nobody works on it" in status_lines(status(launch))[-1]


@contextlib.contextmanager
def in_another_container(folder: Path, index: int | str) -> Iterator[tuple[dict[str, Any], Callable[[], None]]]:
    """A process of this machine whose number says nothing here: what it says of itself, and how to kill it."""
    code = (
        "import json, sys, time, pathlib; from studies import presence, recovery\n"
        "me = {**recovery.this_worker(json.loads(sys.argv[2])), 'pid_space': 'pid:[1]'}\n"
        "with presence.present(pathlib.Path(sys.argv[1]), me):\n"
        "    print(json.dumps(me), flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(folder), json.dumps(index)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None

        def kill() -> None:
            process.kill()
            process.wait()

        try:
            yield json.loads(process.stdout.readline()), kill
        finally:
            kill()


def left_behind(folder: Path, worker: dict[str, Any], *, silent: float = 0.0, **more: Any) -> None:
    """The file of a process that cannot be seen from here."""
    path = folder / presence.WORKERS / f"{worker['host']}-{worker['pid']}.json"
    files.write_json(path, {**worker, **more})
    os.utime(path, (time.time() - silent,) * 2)


def elsewhere(index: int | str) -> dict[str, Any]:
    return {**processes.this_process(), "index": index, "host": "elsewhere", "boot": "another"}


def quiet_for_long(folder: Path) -> None:
    for path in (folder / presence.WORKERS).iterdir():
        os.utime(path, (1.0, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("index", [4, presence.LAUNCHER])
def test_one_in_another_container_is_seen_however_quiet_it_is_and_gone_when_it_was_killed(
    tmp_path: Path, index: int | str
) -> None:
    launch = create(tmp_path, tiny_spec())
    with in_another_container(launch.folder, index) as (_, kill):
        quiet_for_long(launch.folder)
        lines = status_lines(status(launch))
        if index == presence.LAUNCHER:
            assert lines[-1] == "its launcher is there; workers are being started"
        else:
            assert "workers alive: 1" in lines
            assert [line for line in lines if line.startswith("waiting: worker 4 on") and "sign" not in line]
        kill()
        lines = status_lines(status(launch))
    assert lines[-1] == f"nobody works on it; continue with: calm study run {named(launch)}"
    assert not [line for line in lines if "process" in line]
    assert list((launch.folder / presence.WORKERS).iterdir()) == []


@pytest.mark.slow
def test_the_trial_of_one_in_another_container(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    with in_another_container(launch.folder, 4) as (worker, kill):
        quiet_for_long(launch.folder)
        assert running(launch, worker, silent=1000).endswith(": alive")
        assert status(launch).num_alive == 1
        assert presence.alive(launch.folder, worker)
        kill()
        for _ in range(2):  # who looks first takes nothing from who looks next
            told = status(launch)
            assert told.running[0].alive is False
            assert status_lines(told)[-1].startswith("nobody works on it")
            assert presence.alive(launch.folder, worker) is False
        assert "the trial is queued again, and goes on" in told.running[0].words()
        database_of(launch.search).record_heartbeat(launch.search.get_trials()[0]._trial_id)
        assert "queued again 2 min after its last heartbeat, and goes on" in status(launch).running[0].words()
        launch.search.tell(0, state=TrialState.FAIL)
        status(launch)
    assert list((launch.folder / presence.WORKERS).iterdir()) == []


def test_one_of_an_earlier_version_in_another_container_is_not_called_dead(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    left_behind(launch.folder, {**recovery.this_worker(4), "pid_space": "pid:[1]"}, silent=200)
    lines = status_lines(status(launch))
    assert "workers alive: 0, 1 cannot be seen from here" in lines
    (waiting,) = [line for line in lines if line.startswith("waiting: worker 4")]
    assert waiting.endswith("cannot be seen from here (last sign of life 3 min ago)")
    assert lines[-1].startswith("whether anybody works on it cannot be seen from here")


@pytest.mark.parametrize("index", [4, presence.LAUNCHER])
@pytest.mark.parametrize(("silent", "counts"), [(20, True), (1200, False)])
def test_one_on_another_host_is_known_by_its_last_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: int | str, silent: float, *, counts: bool
) -> None:
    launch = create(tmp_path, tiny_spec())
    left_behind(launch.folder, elsewhere(index), silent=silent, locked=True)
    monkeypatch.setattr("studies.presence.time.time", lambda: 0.0)  # the clock of the files counts
    told = status(launch)
    assert told.num_unseen == (not counts)
    assert told.num_alive == (counts and index == 4)
    lines = status_lines(told)
    assert "nobody works on it" not in lines[-1]
    assert ("cannot be seen from here (last sign of life 20 min ago)" in "".join(lines)) != counts
    assert told.launched == (counts and index == presence.LAUNCHER)
    assert len(list((launch.folder / presence.WORKERS).iterdir())) == 1


def test_once_a_study_is_finished_nobody_waits(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    left_behind(launch.folder, elsewhere(4), silent=7200, locked=True)
    told = replace(status(launch), state=replace(status(launch).state, finished=True))
    assert not [line for line in status_lines(told) if "worker" in line or "nobody" in line]


def test_one_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.02)
    with presence.present(tmp_path, recovery.this_worker(4)):
        (path,) = (tmp_path / presence.WORKERS).iterdir()
        os.utime(path, (1.0, 1.0))
        end = time.monotonic() + 30
        while path.stat().st_mtime < 2 and time.monotonic() < end:
            time.sleep(0.02)
        assert path.stat().st_mtime > 2
    assert list((tmp_path / presence.WORKERS).iterdir()) == []


def test_where_it_cannot_be_written_work_goes_on(tmp_path: Path) -> None:
    (tmp_path / presence.WORKERS).write_text("in the way")
    with presence.present(tmp_path, recovery.this_worker(4)):
        assert presence.workers(tmp_path) == []


@pytest.mark.slow
def test_for_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL", "small")
    launch = create(tmp_path, tiny_spec())
    steps(launch)
    told = json.loads(json.dumps(status(launch).to_dict()))
    assert told["finished"]
    assert told["workers_alive"] == told["workers_unseen"] == 0
    assert told["failures"] == [{"what": "small", "reason": "RuntimeError: a failure for the test"}]
    assert told["search"]["complete"] == 5


def test_a_launcher_that_joins_in_is_told_who_is_at_it(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    assert presence.others(launch.folder) == ""
    launcher = {**processes.this_process(), "index": presence.LAUNCHER}
    with presence.present(launch.folder, launcher), presence.present(launch.folder, recovery.this_worker(0)):
        assert presence.others(launch.folder) == (
            "joins in: 1 worker(s) of other launchers are at it already, 1 of them on this machine: their runs "
            "share its cores"
        )


@pytest.mark.parametrize("damaged", [{"host": ["x"]}, {"pid": 10**30, "started": 0.0}, [], "x"])
def test_a_damaged_sign_of_life_is_nobody_s(tmp_path: Path, damaged: object) -> None:
    launch = create(tmp_path, tiny_spec())
    folder = launch.folder / presence.WORKERS
    folder.mkdir(parents=True)
    content = {**processes.this_process(), **damaged} if isinstance(damaged, dict) else damaged
    if isinstance(content, dict) and content["pid"] == 10**30:  # of an earlier version
        content = {"host": content["host"], **damaged}
    (folder / "w.json").write_text(json.dumps(content))
    assert status(launch).num_alive == 0

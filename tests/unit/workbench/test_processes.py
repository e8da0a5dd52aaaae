"""Locks that tell of processes in other containers; what the processes' numbers tell is in ``test_recovery``."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench import files, processes

HOLD = (
    "import pathlib, sys, time; from workbench import processes; file = open(sys.argv[1], 'wb')\n"
    "print(processes.lock(file), flush=True); time.sleep(600)"
)
INSIDE = {**processes.this_process(), "pid_space": "pid:[1]"}


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "held")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "True"
        yield process
        process.kill()


def test_a_lock_tells_of_another_container(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    held = tmp_path / "held"
    assert processes.is_alive(INSIDE) is None
    assert processes.is_alive(INSIDE, held) is True
    assert not processes.gone(INSIDE, held)
    with held.open("wb") as file:
        assert not processes.lock(file)
    holder.kill()
    holder.wait()
    assert processes.is_alive(INSIDE, held) is False
    assert processes.gone(INSIDE, held)
    with held.open("wb") as file:
        assert processes.lock(file)


def test_of_another_boot_only_a_lock_that_is_held_tells(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    held, elsewhere = tmp_path / "held", {**INSIDE, "boot": "another"}
    assert processes.is_alive(elsewhere, held) is True
    holder.kill()
    holder.wait()
    assert processes.is_alive(elsewhere, held) is None
    assert not processes.gone(elsewhere, held)


def test_what_cannot_be_asked_tells_nothing(tmp_path: Path) -> None:
    assert processes.is_locked(tmp_path / "none") is None
    assert processes.is_alive(INSIDE, tmp_path / "none") is None
    (tmp_path / "held").touch()
    nothing = {**INSIDE, "boot": None}
    assert processes.is_alive(nothing, tmp_path / "held") is None


def test_of_processes_that_can_be_looked_for_the_lock_is_not_asked(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    own = processes.this_process()
    assert processes.is_alive({**own, "ticks": own["ticks"] - 1}, tmp_path / "held") is False
    (tmp_path / "free").touch()
    assert processes.is_alive(own, tmp_path / "free") is True


def test_who_asks_keeps_nobody_from_taking_the_folder(tmp_path: Path) -> None:
    (tmp_path / files.CLAIM).touch()
    with (tmp_path / files.CLAIM).open("wb") as asked:
        assert processes.lock(asked)
        answered = threading.Timer(0.05, asked.close)
        answered.start()
        began = time.monotonic()
        with files.claimed(tmp_path):
            assert time.monotonic() - began < 30
        answered.join()

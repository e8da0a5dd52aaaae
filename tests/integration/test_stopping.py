"""Ctrl-C, SIGTERM and SIGHUP to real commands: they leave within ten seconds with all saved; twice means now."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import TrialState

from studies import plan, prepare
from studies.storage import Launch
from tests.suites.fake_runner import ATTEMPTS
from tests.suites.study_launch import FAKE, create, tiny_spec
from tests.suites.tiny_runs import tree, write_text
from tests.suites.waiting import wait_for
from workbench import interruption, processes, records
from workbench.files import read_json

CALM = [sys.executable, "-m", "workbench.cli"]
SIGNALS = [signal.SIGINT, signal.SIGTERM]
pytestmark = pytest.mark.slow


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    known = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [*CALM, *arguments], env=known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def leave(process: subprocess.Popen[str], number: signal.Signals) -> tuple[float, str]:
    """Seconds until it has left after the signal, and what it said."""
    began = time.monotonic()
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == interruption.EXIT_INTERRUPTED, said
    return time.monotonic() - began, said


def training(tmp_path: Path, **sections: dict[str, Any]) -> list[str]:
    config = tree(write_text(tmp_path / "text.txt"))
    config["train"] = {**config["train"], "train_tokens": 128 * 100_000, "checkpoint_every_seconds": 1e6}
    for name, values in sections.items():
        config[name] = {**config[name], **values}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return ["train", str(tmp_path / "config.yaml"), "--home", str(tmp_path / "runs"), "--tracking-uri", "none"]


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGHUP])
def test_training_saves_the_step_under_way(tmp_path: Path, number: signal.Signals) -> None:
    command = training(tmp_path)
    process = start(*command)
    metrics = f"single/*/{records.METRICS}"
    wait_for(lambda: any(p.read_text().count("\n") > 1 for p in (tmp_path / "runs").glob(metrics)), process)
    seconds, said = leave(process, number)
    assert seconds < 10
    assert "the same command continues where it stopped" in said
    (run_dir,) = records.find_runs(tmp_path / "runs")
    assert records.read_record(run_dir).status == "interrupted"
    logged = records.read_train_points(run_dir)[-1].step
    assert read_json(run_dir / records.CHECKPOINT / "state.json")["step"] >= logged > 0


def test_training_of_an_autoencoder_is_continued(tmp_path: Path) -> None:
    command = training(tmp_path, autoencoder={"steps": 100_000})
    process = start(*command)
    wait_for(lambda: list((tmp_path / "runs").glob("single/*/record.json")), process)
    time.sleep(3)  # in it: the text is tiny
    seconds, _ = leave(process, signal.SIGTERM)
    assert seconds < 10
    (run_dir,) = records.find_runs(tmp_path / "runs")
    assert records.read_record(run_dir).status == "interrupted"
    assert not (run_dir / records.METRICS).exists()
    assert list((tmp_path / "runs" / ".cache" / "autoencoders").glob("**/*.safetensors"))


def launched(tmp_path: Path) -> tuple[Launch, list[str]]:
    launch = create(tmp_path, tiny_spec(baselines={}, checks={}, trials=2))
    prepare.write_study_file(launch, "none")
    command = ["study", "run", "tiny-quick", "--home", str(tmp_path), "--workers", "2"]
    return launch, [*command, "--tracking-uri", "none", "--execute", FAKE]


def attempts(launch: Launch) -> int:
    return len(list(launch.folder.glob(f"*/{ATTEMPTS}")))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_study_gives_its_trials_back(tmp_path: Path, number: signal.Signals) -> None:
    launch, command = launched(tmp_path)
    process = start(*command, FAKE_SECONDS="60")
    wait_for(lambda: attempts(launch) == 2, process)
    seconds, said = leave(process, number)
    assert seconds < 10
    assert "continue with: calm study run tiny-quick" in said
    counts = plan.count(launch.search.get_trials())
    assert (counts.waiting, counts.running, counts.failed) == (2, 0, 0)
    assert {records.read_record(p).status for p in records.find_runs(launch.folder)} == {"interrupted"}


def test_twice_kills_the_workers_and_nothing_is_lost(tmp_path: Path) -> None:
    launch, command = launched(tmp_path)
    process = start(*command, FAKE_STUBBORN="t0")
    wait_for(lambda: attempts(launch) == 2, process)
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None  # a step of a minute is under way
    seconds, said = leave(process, signal.SIGINT)
    assert seconds < 5
    assert "continue with: calm study run tiny-quick" in said
    trials = launch.search.get_trials()
    assert {t.state for t in trials} == {TrialState.RUNNING}
    process = start(*command)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 0, said
    assert plan.is_finished(launch.spec, launch.search, launch.cells)
    counts = plan.count(launch.search.get_trials())
    assert (counts.complete, counts.failed, len(launch.search.get_trials())) == (2, 0, 4)


def test_a_step_of_a_minute_is_torn_after_some_seconds(tmp_path: Path) -> None:
    launch, command = launched(tmp_path)
    process = start(*command, FAKE_STUBBORN="t0")
    wait_for(lambda: attempts(launch) == 2, process)
    seconds, _ = leave(process, signal.SIGTERM)
    assert interruption.PATIENCE_SECONDS - 1 < seconds < 10
    assert plan.count(launch.search.get_trials()).waiting == 2


def test_a_suspended_worker_keeps_nobody_waiting(tmp_path: Path) -> None:
    launch, command = launched(tmp_path)
    process = start(*command, FAKE_SECONDS="60")
    wait_for(lambda: attempts(launch) == 2, process)
    worker = launch.search.get_trials()[0].user_attrs["worker"]
    os.kill(worker["pid"], signal.SIGSTOP)
    seconds, said = leave(process, signal.SIGTERM)
    assert seconds < 10
    assert f"worker {worker['index']} did not leave and was killed" in said
    assert "continue with: calm study run tiny-quick" in said
    assert processes.is_alive(worker) is False
    counts = plan.count(launch.search.get_trials())
    assert (counts.waiting, counts.running) == (1, 1)
    said, _ = start(*command).communicate(timeout=90)
    counts = plan.count(launch.search.get_trials())
    assert (counts.complete, counts.failed) == (2, 0), said


def test_a_worker_that_saves_for_long_has_the_time(tmp_path: Path) -> None:
    launch, command = launched(tmp_path)
    process = start(*command, FAKE_SECONDS="60", FAKE_SAVES="10")
    wait_for(lambda: attempts(launch) == 2, process)
    seconds, said = leave(process, signal.SIGTERM)
    assert 10 < seconds < 20
    assert "killed" not in said
    assert plan.count(launch.search.get_trials()).waiting == 2
    assert {records.read_record(p).status for p in records.find_runs(launch.folder)} == {"interrupted"}


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_study_leaves_although_its_tracking_server_hangs(tmp_path: Path, silent_server: str) -> None:
    launch, command = launched(tmp_path)
    command[command.index("none")] = silent_server
    process = start(*command, FAKE_SECONDS="120")
    wait_for(lambda: attempts(launch) == 2, process)
    time.sleep(3)  # a delivery is under way
    seconds, said = leave(process, signal.SIGTERM)
    assert seconds < 10
    assert "continue with: calm study run tiny-quick" in said
    assert plan.count(launch.search.get_trials()).waiting == 2


def test_the_workers_of_a_killed_launcher_save_and_leave(tmp_path: Path) -> None:
    launch, command = launched(tmp_path)
    process = start(*command, FAKE_SECONDS="120")
    wait_for(lambda: attempts(launch) == 2, process)
    workers = [trial.user_attrs["worker"] for trial in launch.search.get_trials()]
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while any(processes.is_alive(worker) for worker in workers):
        assert time.monotonic() < end, "they go on without it"
        time.sleep(0.1)
    counts = plan.count(launch.search.get_trials())
    assert (counts.waiting, counts.running) == (2, 0)
    assert {records.read_record(p).status for p in records.find_runs(launch.folder)} == {"interrupted"}

"""Streams that end in the middle of a run: by a signal, a network that fails, a process that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.test_hub_run import streaming
from tests.suites.ranks import together
from tests.suites.tiny_runs import leftovers, traces
from workbench import checkpoint, files, records
from workbench.config import RunConfig
from workbench.followers import follow
from workbench.home import Home
from workbench.hub import HubUnreachableError
from workbench.hub_reading import SetShards
from workbench.ranks import ALONE, Ranks
from workbench.runner import execute
from workbench.train import Trainer

pytestmark = pytest.mark.slow

AT = 5
"""The step at which the sets fail; none is evaluated before it, and no checkpoint is due."""
LEFT_SECONDS = 5.0
NEVER = 3600.0


def broken(folder: Path, home: Path) -> tuple[RunConfig, Home]:
    """So that the sets are read all the time, and without patience."""
    return streaming(folder, home, every=NEVER, shuffle_buffer=8, attempts=1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    config, home = broken(folder, folder / "home")
    execute(config, home.root / "run", home=home)
    return folder


def from_then_on(patch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """``happens`` before every row that is read once step AT has begun."""
    begun = threading.Event()
    real_step, real_read = Trainer._step, SetShards.read

    def step(self: Trainer, tokens: Any, number: int) -> Any:
        if number == AT:
            begun.set()
        return real_step(self, tokens, number)

    def read(self: SetShards, shard: int, skip: int) -> Iterator[str]:
        for row in real_read(self, shard, skip):
            if begun.is_set():
                happens()
            yield row

    patch.setattr(Trainer, "_step", step)
    patch.setattr(SetShards, "read", read)


def dead() -> None:
    raise ConnectionError("the line is dead")


class Slow:
    """Rows that take a minute. A second after the first, this process is asked to end."""

    def __init__(self) -> None:
        self.asked_at = 0.0

    def __call__(self) -> None:
        if not self.asked_at:
            time.sleep(1)
            self.asked_at = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


def saved_step(run_dir: Path) -> int:
    """Of the checkpoint: everything that was logged, and more than the sets had failed after."""
    assert checkpoint.find(run_dir / records.CHECKPOINT) is not None
    step = int(files.read_json(run_dir / records.CHECKPOINT / "state.json")["step"])
    assert step == len(records.read_train_points(run_dir)) > AT
    return step


def interrupted(ranks: Ranks, config: RunConfig, run_dir: Path, home: Home, how: str) -> None:
    slow = Slow()
    with pytest.MonkeyPatch.context() as patch:
        from_then_on(patch, dead if how == "dead" else slow)
        with pytest.raises(HubUnreachableError if how == "dead" else KeyboardInterrupt):
            execute(config, run_dir, home=home, ranks=ranks)
    if how == "slow":
        assert time.monotonic() - slow.asked_at < LEFT_SECONDS
    record = records.read_record(run_dir)
    assert record.status == "interrupted"
    assert "the same command continues it" in record.reason
    assert saved_step(run_dir) < 20


@pytest.mark.parametrize("how", ["dead", "slow"])
def test_nothing_is_lost_and_nothing_waited_for(undisturbed: Path, tmp_path: Path, how: str) -> None:
    config, home = broken(undisturbed, tmp_path / "home")
    interrupted(ALONE, config, home.root / "run", home, how)
    assert execute(config, home.root / "run", home=home).status == "completed"
    assert traces(home.root / "run") == traces(undisturbed / "home" / "run")


def interrupted_each(ranks: Ranks, config: RunConfig, home: Home) -> None:
    torch.set_num_threads(1)
    if not ranks.leads:
        follow(ranks, home)
        return
    for how, strategy in (("dead", "ddp"), ("dead", "fsdp"), ("slow", "fsdp")):
        runtime = config.runtime.model_copy(update={"strategy": strategy})
        own = config.model_copy(update={"runtime": runtime})
        interrupted(ranks, own, home.root / f"{how}-{strategy}", home, how)


def test_nor_with_several_ranks(undisturbed: Path, tmp_path: Path) -> None:
    """Also where the weights have to be collected first."""
    config, home = broken(undisturbed, tmp_path / "home")
    together(interrupted_each, config, home)
    wanted = [point.loss for point in records.read_train_points(undisturbed / "home" / "run")]
    for name in ("dead-ddp", "dead-fsdp", "slow-fsdp"):
        assert execute(config, home.root / name, home=home).status == "completed"
        found = [point.loss for point in records.read_train_points(home.root / name)]
        assert found == pytest.approx(wanted, rel=1e-5)


def test_a_network_that_fails_while_the_autoencoder_is_trained(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, home = broken(undisturbed, tmp_path / "home")
    real = SetShards.read
    left = [30]

    def read(self: SetShards, shard: int, skip: int) -> Iterator[str]:
        for row in real(self, shard, skip):
            if threading.current_thread() is not threading.main_thread():
                left[0] -= 1
                if left[0] < 0:
                    dead()
            yield row

    with monkeypatch.context() as patch:
        patch.setattr(SetShards, "read", read)
        with pytest.raises(HubUnreachableError):
            execute(config, home.root / "run", home=home)
    (kept,) = (home.cache / "autoencoders").rglob("state.json")
    assert files.read_json(kept)["step"] > 0
    execute(config, home.root / "run", home=home)
    assert traces(home.root / "run") == traces(undisturbed / "home" / "run")


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from tests.integration.test_hub_interrupted import long
from workbench.runner import execute
config, home = long(Path({folder!r}), Path({home!r}))
execute(config, home.root / "run", home=home)
"""


def long(folder: Path, home: Path) -> tuple[RunConfig, Home]:
    config, place = streaming(folder, home, every=0.1, shuffle_buffer=8)
    train = config.train.model_copy(update={"train_tokens": 48 * 256})
    return config.model_copy(update={"train": train}), place


def test_a_killed_process_goes_on_with_the_same_text(tmp_path: Path) -> None:
    """SIGKILL at an arbitrary moment of a real process."""
    config, whole = long(tmp_path, tmp_path / "whole")
    execute(config, whole.root / "run", home=whole)
    config, home = long(tmp_path, tmp_path / "home")
    run_dir = home.root / "run"
    root = str(Path(__file__).resolve().parents[2])
    script = SCRIPT.format(root=root, folder=str(tmp_path), home=str(home.root))
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while len(records.read_train_points(run_dir)) < 20:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert records.read_record(run_dir).status == "running"
    assert files.read_json(run_dir / records.CHECKPOINT / "state.json")["stream"]
    assert execute(config, run_dir, home=home).status == "completed"
    assert leftovers(run_dir) == []
    assert traces(run_dir) == traces(whole.root / "run")

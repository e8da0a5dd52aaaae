"""``calm train --ranks`` and torchrun: real processes, signals to any rank, one message, the right exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from tests.suites.ranks import apart
from tests.suites.tiny_runs import tiny_config, tree, write_text
from tests.suites.waiting import wait_for
from workbench import records
from workbench.config import RunConfig
from workbench.errors import DataError, RunError
from workbench.files import read_json
from workbench.followers import follow
from workbench.home import Home
from workbench.ranks import PeerLostError, Ranks
from workbench.runner import execute

pytestmark = pytest.mark.slow

STEPS = 400
MODULE = ["-m", "workbench.cli"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *MODULE]


def start(*arguments: str) -> subprocess.Popen[str]:
    known = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(
        [sys.executable, *arguments], env=known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def write(folder: Path) -> list[str]:
    config = tree(write_text(folder / "text.txt"))
    config["train"] = {**config["train"], "train_tokens": STEPS * 128, "checkpoint_every_seconds": 1e6}
    config["train"] |= {"num_evaluations": 1}
    config["eval"] = {**config["eval"], "sample_tokens": 0, "num_windows": 4}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return ["train", str(folder / "config.yaml"), "--home", str(folder / "runs"), "--tracking-uri", "none"]


def rank(launcher: subprocess.Popen[str], number: int) -> psutil.Process:
    found = psutil.Process(launcher.pid).children(recursive=True)
    return next(p for p in found if p.environ().get("RANK") == str(number))


def listening(launcher: subprocess.Popen[str]) -> set[str]:
    """Addresses on which the launcher and what it has started wait for others, from /proc/PID/net/tcp and tcp6."""
    processes = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
    sockets = [one for process in processes for one in process.net_connections("tcp")]
    return {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}


def logged(folder: Path) -> int:
    return sum(p.read_text().count("\n") for p in (folder / "runs").glob(f"single/*/{records.METRICS}"))


def test_a_signal_to_any_rank_and_the_same_run_in_the_end(tmp_path: Path) -> None:
    """Rank 1 is asked to end, then the launcher of torchrun; a single process finishes."""
    command = write(tmp_path)
    done = 0
    for launcher, to_rank in ((MODULE, 1), (TORCHRUN, None)):
        more = ["--ranks", "2"] if launcher is MODULE else []
        process = start(*launcher, *command, *more)
        wait_for(lambda done=done: logged(tmp_path) > done + 10, process)  # type: ignore[misc]
        if launcher is MODULE:
            assert listening(process) == {"127.0.0.1"}
        began = time.monotonic()
        (process if to_rank is None else rank(process, to_rank)).send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
        assert time.monotonic() - began < 20, said
        assert said.count("the same command continues where it stopped") == 1
        if launcher is MODULE:
            assert process.returncode == 130, said
            assert "Traceback" not in said
        (run_dir,) = records.find_runs(tmp_path / "runs")
        assert records.read_record(run_dir).status == "interrupted"
        done = logged(tmp_path)
        step = read_json(run_dir / records.CHECKPOINT / "state.json")["step"]
        assert step >= records.read_train_points(run_dir)[-1].step > 0
    torch.set_num_threads(1)
    config = RunConfig.model_validate(yaml.safe_load((tmp_path / "config.yaml").read_text()))
    home = Home((tmp_path / "runs").resolve())
    resolved = config.resolved()
    for folder in (run_dir, home.root / "alone"):
        assert execute(resolved, folder, home=home).status == "completed"
    moved, alone = (records.read_train_points(folder) for folder in (run_dir, home.root / "alone"))
    assert [p.step for p in moved] == [p.step for p in alone]
    assert [p.loss for p in moved] == pytest.approx([p.loss for p in alone], rel=1e-5)


def test_ranks_that_cannot_share_a_batch_are_refused_before_any_starts(tmp_path: Path) -> None:
    done = start(*MODULE, *write(tmp_path), "--ranks", "3")
    said, _ = done.communicate(timeout=60)
    assert done.returncode == 2
    assert "a step has 4 sequences" in said
    assert "which 3 ranks cannot share equally; use 1 or 2 or 4 ranks" in said
    assert not (tmp_path / "runs").exists()


def differ(ranks: Ranks) -> None:
    ranks.require_same({"the code": "abc", "the configuration": f"of rank {ranks.place.rank}"})


def fail_on_rank_1(ranks: Ranks, config: RunConfig, home: Home) -> None:
    torch.set_num_threads(1)
    if ranks.leads:
        execute(config, home.root / "run", home=home, ranks=ranks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.followers.prepare", _no_text)
        follow(ranks, home)


def _no_text(*_: object) -> None:
    raise DataError("there is no text here")


def die_in_a_step(ranks: Ranks, config: RunConfig, home: Home) -> None:
    torch.set_num_threads(1)
    if ranks.leads:
        execute(config, home.root / "run", home=home, ranks=ranks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.train.rate_factor", lambda step, *_, **__: os._exit(9) if step == 5 else 1.0)
        follow(ranks, home)


class TestOneRankFails:
    def test_other_configurations_are_refused_on_all(self) -> None:
        for how, said in apart(differ):
            assert how == "raised"
            assert RunError.__name__ in said
            assert "the configuration of rank 1 on " in said
            assert "is of rank 1, of rank 0 of rank 0" in said
            assert "the code" not in said.split("configuration:", 1)[1].split("; update")[0]

    def test_an_error_of_another_rank_ends_the_run(self, tmp_path: Path) -> None:
        config, home = tiny_config(tmp_path, {"autoencoder.steps": 100_000})  # rank 0 is at it
        (first, said), (second, other) = apart(fail_on_rank_1, config, home)
        assert (first, second) == ("raised", "raised")
        assert PeerLostError.__name__ in said
        assert "DataError: there is no text here" in other or "there is no text here" in other
        assert "there is no text here" in said, "rank 0 knows why"
        assert records.read_record(home.root / "run").status == "interrupted"

    def test_a_rank_that_dies_in_a_step_ends_the_run_where_it_was(self, tmp_path: Path) -> None:
        config, home = tiny_config(tmp_path, {"eval.num_windows": 4, "autoencoder.steps": 10})
        (first, said), (second, _) = apart(die_in_a_step, config, home)
        assert (first, second) == ("raised", "died")
        assert PeerLostError.__name__ in said
        record = records.read_record(home.root / "run")
        assert record.status == "interrupted"
        assert "another rank ended without a word; the same command continues" in record.reason
        assert read_json(home.root / "run" / records.CHECKPOINT / "state.json")["step"] == 5
        torch.set_num_threads(1)
        assert execute(config, home.root / "run", home=home).status == "completed"

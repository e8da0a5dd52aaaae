"""Runs that no training can save end with a verdict that is recorded, shown and the same after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.suites.command_line import Command, write_config
from tests.suites.tiny_runs import BASELINE, leftovers, tiny_config, tree, write_text
from workbench import records, tracking_schema
from workbench.errors import OutputError
from workbench.records import Evaluation
from workbench.runner import execute

TOO_FAST: dict[str, Any] = {
    "optim.lr": 6.0,
    "optim.batch_positions": 128,
    "train.train_tokens": 120 * 128,
    "train.first_evaluation": 0.1,
}
BLIND: dict[str, Any] = {"autoencoder.kl_weight": 50.0, "autoencoder.kl_floor": 0.0, "autoencoder.seed": 3}


@pytest.mark.slow
def test_a_rate_that_is_far_too_high(tmp_path: Path) -> None:
    config, home = tiny_config(tmp_path, TOO_FAST, **BASELINE)
    record = execute(config, home.root / "lost", home=home)
    assert record.status == "diverged"
    assert "times what it was before training" in record.reason
    assert record.step < record.num_steps, "the rest was not spent"
    assert "diverged" in [d.code for d in record.diagnostics]
    assert records.read_record(home.root / "lost") == record
    assert leftovers(home.root / "lost") == []
    assert execute(config, home.root / "lost", home=home) == record, "it stays so"
    assert tracking_schema.FINAL_STATUS[record.status] == "FAILED"

    def stop(_: Evaluation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(config, home.root / "again", home=home, on_evaluation=stop)
    before = records.read_record(home.root / "again")
    assert 0 < before.step < record.step
    again = execute(config, home.root / "again", home=home)
    assert (again.status, again.reason, again.step) == (record.status, record.reason, record.step)


@pytest.mark.slow
def test_it_can_be_asked_to_go_on(tmp_path: Path) -> None:
    config, home = tiny_config(tmp_path, {**TOO_FAST, "train.stop_diverged": False}, **BASELINE)
    record = execute(config, home.root / "on", home=home)
    assert record.status == "completed"
    assert record.step == record.num_steps


@pytest.mark.slow
def test_a_collapsed_autoencoder_trains_no_language_model(tmp_path: Path) -> None:
    config, home = tiny_config(tmp_path, BLIND)
    record = execute(config, home.root / "blind", home=home)
    assert record.status == "collapsed"
    assert record.step == 0
    assert not (home.root / "blind" / records.METRICS).exists()
    assert {"collapse", "collapsed"} <= {d.code for d in record.diagnostics}
    assert tracking_schema.FINAL_STATUS[record.status] == "FAILED"
    off, _ = tiny_config(tmp_path, {**BLIND, "train.stop_diverged": False})
    assert execute(off, home.root / "off", home=home).status == "completed"


@pytest.mark.slow
def test_calm_train_says_so_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write_text(tmp_path / "text.txt")
    config = write_config(tmp_path / "lost.yaml", {**tree(text), **BASELINE})
    settings = [f"--set={name}={value}" for name, value in TOO_FAST.items()]
    done = Command(tmp_path, monkeypatch, capsys)("train", config, *settings, "--tracking-uri", "none")
    assert done.code == 1, done.err
    assert "diverged" in done.out
    assert "lower optim.lr" in done.words


def test_too_little_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench import room

    config, home = tiny_config(tmp_path)
    monkeypatch.setattr(room, "free_room", lambda folder: room.Free(bytes=1_000_000, files=None))
    with pytest.raises(OutputError, match=r"the run needs about \d.\d MB in .*full, 1.0 MB are free; free some"):
        execute(config, home.root / "full", home=home)
    assert not (home.root / "full").exists()
    assert not (home.cache / "corpora").exists()

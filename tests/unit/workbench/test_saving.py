"""Whoever waits for a process can see that it saves a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from studies import presence, recovery
from workbench import checkpoint, tensor_files
from workbench.saving import saving, told_by


def test_a_checkpoint_is_told_of_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = presence.saving_mark(tmp_path, os.getpid())
    seen: list[bool] = []
    written = tensor_files.write_tensors

    def write(*args: object, **options: object) -> str:
        seen.append(mark.exists())
        return written(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "write_tensors", write)
    network = torch.nn.Linear(2, 2)
    with presence.present(tmp_path, recovery.this_worker(0)):
        assert not mark.exists()
        checkpoint.save(tmp_path / "checkpoint", network, {"step": 1}, None)
        assert not mark.exists()
        checkpoint.save_weights(network, tmp_path / "weights.safetensors")
        assert not mark.exists()
        assert len(presence.workers(tmp_path)) == 1
    checkpoint.save(tmp_path / "checkpoint", network, {"step": 2}, None)
    assert seen == [True, True, False]
    assert list((tmp_path / presence.WORKERS).iterdir()) == []


def test_a_killed_process_of_that_number_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    with told_by(tmp_path / "mark"):
        assert not (tmp_path / "mark").exists()
        with saving():
            assert (tmp_path / "mark").exists()
        assert not (tmp_path / "mark").exists()


def test_what_cannot_be_told_is_saved_all_the_same(tmp_path: Path) -> None:
    with told_by(tmp_path / "missing" / "mark"):
        checkpoint.save(tmp_path / "checkpoint", torch.nn.Linear(2, 2), {"step": 1}, None)
    assert checkpoint.read_step(tmp_path / "checkpoint") == 1

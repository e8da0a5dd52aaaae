"""Checkpoints under a kill, a full disk and a cut of the power: the old one or the new one is whole."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.suites.checkpoints import load, save
from tests.suites.processes import apart, killed_at_random, small_disk
from workbench import checkpoint
from workbench.errors import OutputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "c", 7)


def test_everything_is_on_disk_before_the_old_one_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[tuple[str, str]] = []
    real_sync, real_replace, real_remove = os.fsync, os.replace, shutil.rmtree

    def sync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        happened.append((kind, Path(path).name.lstrip(".").split(".json")[0]))
        real_sync(descriptor)

    def replace(source: Path, target: Path) -> None:
        happened.append(("rename", Path(target).name))
        real_replace(source, target)

    def remove(path: Path, **options: Any) -> None:
        happened.append(("remove", Path(path).name))
        real_remove(path, **options)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(shutil, "rmtree", remove)
    save(folder, 8)
    renamed = happened.index(("rename", "c"))
    written = [name for kind, name in happened[:renamed] if kind == "file"]
    assert written == ["model.safetensors", "optimizer.safetensors", "state"]
    assert happened[renamed - 3][0] == "folder", "the new one's own folder, then the old one moves"
    assert happened[renamed + 1] == ("folder", folder.parent.name)
    assert happened[renamed + 2] == ("remove", "c.previous")


def test_killed_at_any_moment_the_last_one_or_a_later_one_is_whole(tmp_path: Path) -> None:
    rng = random.Random(1)
    torch.set_num_threads(1)
    for _ in range(5):
        acknowledged = killed_at_random(_save_forever, tmp_path / "c", rng=rng)
        found = checkpoint.find(tmp_path / "c")
        assert found is not None
        assert load(found) >= acknowledged
    save(tmp_path / "c", 10_000)
    assert os.listdir(tmp_path) == ["c"], "what was left is gone"


def _save_forever(folder: Path, acknowledge: Any) -> None:
    found = checkpoint.find(folder)
    step = load(found) if found is not None else 0
    while True:
        step += 1
        save(folder, step)
        acknowledge(step)


@pytest.mark.parametrize("room", [100, 300, 2000])
def test_a_disk_that_is_full_leaves_the_old_one(folder: Path, tmp_path: Path, room: int) -> None:
    assert (folder / "model.safetensors").stat().st_size < 300 < (folder / "optimizer.safetensors").stat().st_size
    with small_disk(room):
        said = apart(save, folder, 8)
    if room < 1000:
        assert "OutputError: cannot write" in said
        assert "raise the limit (ulimit -f), then the same command continues" in said
        assert load(folder) == 7
    else:
        assert said == ""
        assert load(folder) == 8
    assert os.listdir(tmp_path) == ["c"]


def test_the_librarys_own_error_for_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    from workbench import tensor_files

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(OutputError, match="no room left on its disk; free some, then the same command continues"):
        save(folder, 8)
    assert errno.ENOSPC == 28
    assert load(folder) == 7

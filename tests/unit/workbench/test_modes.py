"""Files and folders have the permissions of any new one, whatever made them."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from studies.database import open_storage
from studies.spec import HeartbeatSpec
from tests.suites.cache_entries import build
from workbench import cache, checkpoint, files, modes
from workbench.home import Home
from workbench.tensor_files import write_tensors
from workbench.tracking_database import prepare_sqlite


@pytest.fixture(params=[0o022, 0o077, 0o002, 0o027], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def require_modes(folder: Path, umask: int) -> None:
    """Of ``folder`` and all below."""
    for path in (folder, *folder.rglob("*")):
        usual = 0o777 if path.is_dir() else 0o666
        assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(usual & ~umask), path


@pytest.fixture
def place(tmp_path: Path, umask: int) -> Path:
    """Pytest's own folders are for their owner alone."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def test_files_that_are_written_or_added_to(place: Path, umask: int) -> None:
    files.write_atomic(place / "deeper" / "a.txt", "a")
    files.append_json_line(place / "b.jsonl", {})
    with files.locked(place / ".lock"):
        pass
    write_tensors(place / "c.safetensors", {"c": torch.zeros(2)}, alone=True)
    assert len(list(place.rglob("*"))) == 5
    require_modes(place, umask)


def test_a_checkpoint(place: Path, umask: int) -> None:
    for step in range(2):
        checkpoint.save(place / "checkpoint", nn.Linear(2, 2), {"step": step}, {"m": torch.zeros(1)})
    assert len(list((place / "checkpoint").iterdir())) == 3
    require_modes(place, umask)


def test_an_entry_of_the_cache(place: Path, umask: int) -> None:
    cache.build_once(place / "made", build)
    assert (place / "made" / cache.MANIFEST).exists()
    require_modes(place, umask)


@pytest.mark.slow
def test_databases(place: Path, umask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What SQLite puts beside them has their permissions."""

    def migrate(path: Path) -> None:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE alembic_version (version)")
        connection.close()

    home = Home(place)
    prepare_sqlite(home.mlflow_uri, migrate)
    for url in (home.optuna_url, f"sqlite:///{place / 'other.db'}"):
        storage = open_storage(url, home, HeartbeatSpec())
        storage.get_all_studies()
        require_modes(place, umask)
        storage.engine.dispose()
    assert {path.name for path in place.iterdir()} >= {"mlflow.db", "optuna.db", "other.db"}
    require_modes(place, umask)


def test_a_file_of_a_library_becomes_as_any_other(place: Path, umask: int) -> None:
    path = place / "file"
    path.touch(mode=0o600)
    path.chmod(0o600)
    modes.as_new(path)
    require_modes(place, umask)
    assert os.listdir(place) == ["file"]


def test_names_that_are_taken_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter(["a", "a", "a", "b", "c"])
    monkeypatch.setattr("secrets.token_hex", lambda _: next(given))
    file, first = modes.new_file(tmp_path, ".x.")
    file.close()
    file, second = modes.new_file(tmp_path, ".x.")
    file.close()
    assert [path.name for path in (first, second, modes.new_folder(tmp_path, ".x."))] == [
        ".x.a.new",
        ".x.b.new",
        ".x.c",
    ]

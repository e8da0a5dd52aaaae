"""What may not be read is not called damaged, not set aside, not made anew: it may be sound."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from studies import slurm
from tests.suites.cache_entries import build, refuse
from tests.suites.small import small_config
from workbench import build as building
from workbench import (
    cache,
    checkpoint,
    data,
    files,
    hub,
    lineage,
    positions,
    records,
    rerun,
    rescore,
    served_model,
    tensor_files,
)
from workbench.config import DataConfig, EvalConfig
from workbench.errors import RunError, UnreadableError
from workbench.released import export
from workbench.tokenizer import load_tokenizer
from workbench.train_autoencoder import build_autoencoder

Forbid = Callable[[Path], None]
UNASKED: Any = SimpleNamespace()
"""What is not come to."""
FOUND = {errno.EACCES: "Permission denied", errno.EIO: "Input/output error", errno.ESTALE: "Stale file handle"}


@pytest.fixture(params=FOUND, ids=errno.errorcode.get)
def number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def forbid(number: int, monkeypatch: pytest.MonkeyPatch) -> Forbid:
    """Makes the system refuse to open or list a path, for whichever user tests are run."""

    def forbid(forbidden: Path) -> None:
        def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(path: Any, *args: Any, **options: Any) -> Any:
                if not isinstance(path, int) and Path(path) == forbidden:
                    raise OSError(number, os.strerror(number), str(path))
                return real(path, *args, **options)

            return call

        monkeypatch.setattr(io, "open", guarded(io.open))
        monkeypatch.setattr(os, "listdir", guarded(os.listdir))
        monkeypatch.setattr(tensor_files, "safe_open", guarded(tensor_files.safe_open))

    return forbid


def require_refusal(ask: Callable[[], object], path: Path, number: int) -> None:
    with pytest.raises(UnreadableError) as caught:
        ask()
    beginning = f"{path} cannot be read ({FOUND[number]}); "
    assert str(caught.value).startswith(beginning)
    advice = str(caught.value).removeprefix(beginning)
    assert advice.endswith("use a copy" if number == errno.EACCES else "give the same command again")
    assert "damaged" not in advice
    assert "delete" not in advice


class TestCheckpoint:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        checkpoint.save(tmp_path / "c", nn.Linear(2, 2), {"step": 3}, {"m": torch.zeros(2)})
        return tmp_path / "c"

    @pytest.mark.parametrize("name", [checkpoint.STATE, checkpoint.WEIGHTS, checkpoint.OPTIMIZER])
    def test_is_not_called_damaged(self, folder: Path, name: str, number: int, forbid: Forbid) -> None:
        forbid(folder / name)
        require_refusal(lambda: checkpoint.find(folder), folder / name, number)
        require_refusal(lambda: checkpoint.load(folder, nn.Linear(2, 2)), folder / name, number)

    def test_the_one_before_is_not_taken_for_it(self, folder: Path, number: int, forbid: Forbid) -> None:
        checkpoint.save(folder.with_name("c.previous"), nn.Linear(2, 2), {"step": 2}, None)
        forbid(folder / checkpoint.STATE)
        require_refusal(lambda: checkpoint.find(folder), folder / checkpoint.STATE, number)
        require_refusal(
            lambda: checkpoint.save(folder, nn.Linear(2, 2), {"step": 4}, None), folder / checkpoint.STATE, number
        )
        assert len(list(folder.iterdir())) == 3
        assert sorted(path.name for path in folder.parent.iterdir()) == ["c", "c.previous"]

    def test_is_not_taken_for_none(self, folder: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(path: Any) -> Any:
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(os, "lstat", refused)
        require_refusal(lambda: checkpoint.find(folder), folder, number)

    def test_of_an_older_version(self, folder: Path, number: int, forbid: Forbid) -> None:
        (folder / checkpoint.STATE).write_text('{"step": 3}')
        forbid(folder / checkpoint.WEIGHTS)
        require_refusal(lambda: checkpoint.find(folder), folder / checkpoint.WEIGHTS, number)

    def test_something_else_in_its_place_is_damage(self, folder: Path) -> None:
        (folder / checkpoint.STATE).unlink()
        (folder / checkpoint.STATE).mkdir()
        with pytest.raises(
            RunError, match=r"state\.json is damaged.*Is a directory.*delete that folder"
        ) as caught:
            checkpoint.find(folder)
        assert not isinstance(caught.value, UnreadableError)


def test_a_fault_that_the_library_of_tensors_names_in_its_text_alone(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*_: Any, **__: Any) -> Any:
        raise SafetensorError(f"Error while deserializing: I/O error: words (os error {number})")

    monkeypatch.setattr(tensor_files, "safe_open", faulty)
    (tmp_path / "a").touch()
    require_refusal(lambda: tensor_files.read_tensors(tmp_path / "a"), tmp_path / "a", number)


class TestCache:
    @pytest.mark.parametrize("name", [cache.MANIFEST, "a.bin", "deeper"])
    def test_an_entry_stays(self, tmp_path: Path, name: str, number: int, forbid: Forbid) -> None:
        folder = cache.build_once(tmp_path / "made", build)
        forbid(folder / name)
        for ask in (
            lambda: cache.build_once(folder, refuse),
            lambda: cache.cached(folder, refuse, Path),
            lambda: cache.sound(folder),
        ):
            require_refusal(ask, folder / name, number)
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["made"]

    def test_an_entry_whose_content_is_refused_when_it_is_loaded_stays(self, tmp_path: Path, number: int) -> None:
        folder = cache.build_once(tmp_path / "made", build)

        def load(_: Path) -> None:
            raise OSError(number, os.strerror(number), str(folder / "a.bin"))

        def load_and_say(_: Path) -> None:
            files.raise_unreadable(folder, OSError(number, os.strerror(number), str(folder / "a.bin")))

        for each in (load, load_and_say):
            require_refusal(partial(cache.cached, folder, refuse, each), folder / "a.bin", number)
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["made"]


class TestCorpus:
    @pytest.fixture
    def config(self, tmp_path: Path) -> DataConfig:
        (tmp_path / "texts").mkdir()
        for i in range(9):
            (tmp_path / "texts" / f"{i}.txt").write_text(f"A text, the {i}th of nine. " * 20)
        config = DataConfig(corpus=f"text:{tmp_path / 'texts'}")
        data.prepare(config, tmp_path, least_tokens=1)
        return config

    def test_is_not_prepared_anew(
        self, config: DataConfig, tmp_path: Path, number: int, forbid: Forbid, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(data, "_make", refuse)
        (index,) = (tmp_path / "corpora" / "index").glob("*.json")
        forbid(index)
        require_refusal(lambda: data.prepare(config, tmp_path, least_tokens=1), index, number)

    @pytest.mark.parametrize("name", ["corpus.json", "tokenizer.json"])
    def test_its_files(self, config: DataConfig, tmp_path: Path, name: str, number: int, forbid: Forbid) -> None:
        (folder,) = (path.parent for path in (tmp_path / "corpora").glob(f"*/{name}"))
        forbid(folder / name)
        require_refusal(lambda: data._load(folder, config), folder / name, number)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "record": (records.RECORD, records.read_record),
    "evaluations": (records.EVALUATIONS, records.read_evaluations),
    "use of data": (lineage.DATA, lineage.read),
    "scores": ("positions.npz", lambda folder: positions.read_positions(folder / "positions.npz")),
    "tokenizer": ("tokenizer.json", load_tokenizer),
    "served model": (served_model.ABOUT, served_model.load),
    "what was imported": (records.IMPORTED, export._imported),
    "commits": (hub.KNOWN, lambda folder: hub.KnownCommits(folder)._read()),
    "jobs": (f"{slurm.FOLDER}/{slurm.JOBS}", slurm.submissions),
}


@pytest.mark.parametrize("of", READERS)
def test_other_files(of: str, tmp_path: Path, number: int, forbid: Forbid) -> None:
    name, read = READERS[of]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({}))
    forbid(path)
    require_refusal(lambda: read(tmp_path), path, number)


def test_a_launch_whose_jobs_may_not_be_read_is_shown(tmp_path: Path, forbid: Forbid) -> None:
    path = tmp_path / slurm.FOLDER / slurm.JOBS
    path.parent.mkdir()
    path.write_text("[]")
    forbid(path)
    assert slurm.queued_jobs(tmp_path) == []


def test_a_runs_own_autoencoder(tmp_path: Path, number: int, forbid: Forbid) -> None:
    config, text = small_config(), cast("Any", SimpleNamespace(vocab_size=40))
    path = tmp_path / records.AUTOENCODER_WEIGHTS
    checkpoint.save_weights(build_autoencoder(config, 40), path)
    forbid(path)
    require_refusal(lambda: building._kept_autoencoder(config, text, tmp_path), path, number)


@pytest.mark.parametrize("name", ["positions-stem.npz", "evaluation-stem.json"])
def test_scores_are_not_written_over(tmp_path: Path, name: str, number: int, forbid: Forbid) -> None:
    scores = positions.PositionScores("x", np.zeros((1, 2, 3)), np.zeros(1, int), np.zeros(1, int), 1, 1)
    positions.write_positions(tmp_path / "positions-stem.npz", scores)
    (tmp_path / "evaluation-stem.json").write_text("{}")
    forbid(tmp_path / name)
    require_refusal(
        lambda: rescore._known(tmp_path, "stem", UNASKED, UNASKED, EvalConfig()), tmp_path / name, number
    )


def test_the_mark_of_a_rerun(tmp_path: Path, number: int, forbid: Forbid) -> None:
    path = tmp_path / "rerun" / records.RERUN
    path.parent.mkdir()
    path.write_text("{}")
    forbid(path)
    require_refusal(lambda: rerun._require_own(path.parent, tmp_path / "run", UNASKED), path, number)

"""Trainings that start from imported weights: what they need of the import, and when it is gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.suites.command_line import Command, Done
from tests.suites.released_weights import Folders, settings, tokenizer_json, write_folders
from workbench.records import RunRecord, read_record

ANYWAY = ("--set", "train.stop_diverged=false")
"""Random weights are no use, and their autoencoder gets no token right."""


@pytest.fixture
def calm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


def bring(calm: Command, folders: Folders) -> Done:
    chosen = [part for name, value in settings(calm.folder).items() for part in ("--set", f"{name}={value}")]
    return calm("import", *folders.arguments(), "--name", "theirs", *chosen)


@pytest.mark.slow
def test_settings_that_are_not_ours_are_exported_again(calm: Command, tmp_path: Path) -> None:
    """Llama 3's end of text is not its begin of text, between documents stands the latter."""
    folders = write_folders(tmp_path, language_model={"eos_token_id": 298, "their_own": [1, 2]})
    assert bring(calm, folders).code == 0
    config = tmp_path / "runs" / "single" / "theirs" / "config.yaml"
    more = ("--tracking-uri", "none", "--set", "train.train_tokens=1024", *ANYWAY)
    first = calm("train", config, "--name", "tuned", "--set", "train.init_from=theirs", *more)
    assert first.code == 0, first.err
    second = calm("train", config, "--name", "further", "--set", "train.init_from=tuned", *more)
    assert second.code == 0, second.err
    for name in ("tuned", "further"):
        assert calm("export", name, tmp_path / name).code == 0
        for part, own in (("autoencoder", folders.autoencoder), ("language-model", folders.language_model)):
            given = json.loads((own / "config.json").read_text())
            back = json.loads((tmp_path / name / part / "config.json").read_text())
            moved = {"ae_path": "../autoencoder"} if "ae_path" in given else {}
            assert {key: back.get(key) for key in given} == given | moved


@pytest.mark.slow
def test_a_moved_home_and_a_deleted_beginning(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """What a run needs of other places lies in its own folder."""
    calm = Command(tmp_path / "first", monkeypatch, capsys)
    folders = write_folders(tmp_path / "first")
    assert bring(calm, folders).code == 0
    config = calm.folder / "runs" / "single" / "theirs" / "config.yaml"
    fine = ("--set", "train.init_from=theirs", "--set", "train.train_tokens=2048", *ANYWAY)
    train = ("train", config, "--name", "tuned", "--tracking-uri", "none", *fine)
    done = calm(*train)
    assert done.code == 0, done.err
    (tmp_path / "first" / "runs").rename(tmp_path / "runs")
    for path in tmp_path.rglob("first/*/tokenizer.json"):
        path.unlink()
    moved = Command(tmp_path, monkeypatch, capsys)
    config = tmp_path / "runs" / "single" / "theirs" / "config.yaml"
    for run in ("theirs", "tuned"):
        for command in (("sample", run, "--prompt", "a", "--tokens", "4"), ("evaluate", run)):
            done = moved(*command)
            assert done.code == 0, (command, done.err)
    done = moved("train", config, "--name", "again", "--tracking-uri", "none", *fine)
    assert done.code == 0, done.err
    shutil.rmtree(config.parent)
    for run in ("tuned", "again"):
        done = moved("sample", run, "--prompt", "a", "--tokens", "4")
        assert done.code == 0, done.err
        done = moved("export", run, tmp_path / f"{run} out")
        assert done.code == 0, done.err
        written = tmp_path / f"{run} out" / "language-model" / "tokenizer.json"
        assert written.read_bytes() == tokenizer_json().encode()
    done = moved("rerun", "tuned", "--compare-only", "--tracking-uri", "none")
    assert "tokenizer" not in done.err


@pytest.mark.slow
def test_a_beginning_by_its_name(calm: Command, tmp_path: Path) -> None:
    """Of several trainings, one after the other; the new run may have the name, too."""
    assert bring(calm, write_folders(tmp_path)).code == 0
    config = tmp_path / "runs" / "single" / "theirs" / "config.yaml"
    start, later = ["theirs", "tuned", "tuned"], ["tuned", "next", "next"]
    initial = []
    for number, (of, name) in enumerate(zip(start, later, strict=True)):
        done = calm(
            "train", config, "--name", name, "--tracking-uri", "none", "--json", "--set", f"seed={number // 2}",
            "--set", f"train.init_from={of}", "--set", "train.train_tokens=1024", *ANYWAY,
        )  # fmt: skip
        assert done.code == 0, done.err
        initial.append(RunRecord.model_validate_json(done.out).environment["initial"]["name"])
    assert initial == start
    again = calm(
        "train", config, "--name", "third", "--tracking-uri", "none", "--set", "train.init_from=next",
        *ANYWAY,
    )  # fmt: skip
    assert (again.code, "train.init_from: 'next' names 2 runs" in again.err) == (2, True)
    unknown = calm("train", config, "--name", "third", "--set", "train.init_from=nobody", *ANYWAY)
    assert (unknown.code, "train.init_from: no run 'nobody'" in unknown.err) == (2, True)
    bare = calm("train", config, "--name", "bare", "--tracking-uri", "none")
    assert (bare.code, "of whose training nothing is known" in bare.err) == (2, True)
    (tuned,) = (tmp_path / "runs" / "single").glob("tuned-*")
    stopped = calm("train", config, "--name", "x", "--tracking-uri", "none", "--set", f"train.init_from={tuned}")
    assert stopped.code == 1
    (run_dir,) = (tmp_path / "runs" / "single").glob("x-*")
    said = [
        diagnostic.message for diagnostic in read_record(run_dir).diagnostics if diagnostic.code == "collapsed"
    ]
    assert "is not trained further: take a text like" in said[0]

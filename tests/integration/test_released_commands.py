"""Commands on imported weights: there and back, and trainings that start from them, also when they are gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.suites.command_line import Command, Done
from tests.suites.released_weights import Folders, same_bits, settings, tokenizer_json, weights_of, write_folders
from workbench import records
from workbench.files import sha256
from workbench.records import RunRecord, read_record
from workbench.tensor_files import read_tensors

ANYWAY = ("--set", "train.stop_diverged=false")
"""Random weights are no use, and their autoencoder gets no token right."""


@pytest.fixture
def calm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


def bring(calm: Command, folders: Folders, *more: str) -> Done:
    chosen = [part for name, value in settings(calm.folder).items() for part in ("--set", f"{name}={value}")]
    return calm("import", *folders.arguments(), "--name", "theirs", *chosen, *more)


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


@pytest.mark.slow
def test_from_import_to_export(calm: Command, tmp_path: Path) -> None:
    folders = write_folders(tmp_path, layout="sharded bin", dtype=torch.bfloat16)
    done = bring(calm, folders)
    assert (done.code, "parameters: backbone" in done.out) == (0, True), done.err
    run_dir = tmp_path / "runs" / "single" / "theirs"
    assert records.read_record(run_dir).final is None
    scored = calm("evaluate", "theirs", "--json")
    assert scored.code == 0, scored.err
    final = records.read_record(run_dir).final
    assert final is not None
    assert json.loads(scored.out)["brier"]["brier"] == final.brier.brier
    assert records.read_evaluations(run_dir) == [final]
    assert calm("sample", "theirs", "--prompt", "the king and", "--tokens", "8").code == 0
    tuned = calm(
        "train", run_dir / "config.yaml", "--name", "tuned", "--tracking-uri", "none", "--json",
        "--set", "train.init_from=theirs", "--set", "train.train_tokens=2048",
        "--set", "train.stop_diverged=false",
    )  # fmt: skip
    assert tuned.code == 0, tuned.err
    record = RunRecord.model_validate_json(tuned.out)
    assert (record.status, record.step) == ("completed", 2)
    initial = record.environment["initial"]
    assert initial["run_id"] == "theirs"
    assert initial["weights_sha256"] == sha256(run_dir / "checkpoint" / "model.safetensors")
    tuned_dir = next((tmp_path / "runs" / "single").glob("tuned-*"))
    first, last = (read_tensors(d / "checkpoint" / "model.safetensors") for d in (run_dir, tuned_dir))
    moved = max(float((first[name] - last[name]).abs().max()) for name in first)
    assert 0 < moved < 0.05, "two steps from the imported weights"
    kept = [read_tensors(d / "autoencoder.safetensors") for d in (run_dir, tuned_dir)]
    same_bits(kept[1], kept[0])
    compared = calm("compare", "theirs", tuned_dir, "--no-seeds")
    assert compared.code == 0, compared.err
    out = calm("export", "theirs", tmp_path / "out", "--json")
    assert out.code == 0, out.err
    same_bits(weights_of(tmp_path / "out" / "language-model"), folders.language_model_weights)
    assert calm("export", tuned_dir, tmp_path / "tuned").code == 0
    assert {t.dtype for t in weights_of(tmp_path / "tuned" / "language-model").values()} == {torch.float32}


@pytest.mark.slow
def test_one_message_and_code_2(calm: Command, tmp_path: Path, whole: Path) -> None:
    folders = write_folders(tmp_path)
    assert bring(calm, folders).code == 0
    for done, message in (
        (bring(calm, folders), "already holds a run"),
        (bring(calm, folders, "--study", "nowhere"), "there is no study 'nowhere'"),
        (calm("export", "theirs", tmp_path / "out", "--dtype", "int8"), "one of float32, bfloat16, float16"),
        (bring(calm, folders, "--trained-tokens", "0"), "a number above 0, 0.0 given"),
        (calm("export", "theirs", tmp_path), "holds something already"),
        (calm("rerun", "theirs", "--tracking-uri", "none"), "holds imported weights, whose training"),
        (calm("export", "nobody", tmp_path / "out"), "no run 'nobody'"),
        (calm("import", tmp_path, tmp_path, "--name", "x"), "it has no config.json"),
    ):
        assert done.code == 2, done
        assert message in done.err
        assert "Traceback" not in done.err
    chosen = calm("import", *folders.arguments(), "--name", "y", "--set", "model.chunk_size=2")
    assert (chosen.code, "model is what the released weights say" in chosen.err) == (2, True)
    assert not (tmp_path / "out").exists()
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []

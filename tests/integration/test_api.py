"""The commands as functions find and do what the commands do."""

from __future__ import annotations

import importlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from safetensors.torch import load_file

from analysis import api as analysis
from studies import api as studies
from tests.suites.command_line import Command, write_config
from tests.suites.released_weights import write_folders
from tests.suites.run_folders import make_run_folder
from tests.suites.tiny_runs import tree, write_text
from tests.suites.tracker_suite import set_record
from workbench import api
from workbench.api import Trained
from workbench.cli import app
from workbench.config import RunConfig
from workbench.errors import ConfigError, DataError, OutputError, RunError, StudyError, TrackingError
from workbench.home import Home
from workbench.tracking import Outcome
from workbench.tracking_sync import SyncReport


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    write_text(folder / "text.txt")
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> dict[str, Any]:
    return tree(folder / "text.txt")


@pytest.fixture(scope="module")
def run(folder: Path, config: dict[str, Any]) -> Trained:
    return api.train(config, name="my run", home=folder / "runs")


@pytest.mark.slow
def test_training_is_what_the_command_does(
    folder: Path,
    config: dict[str, Any],
    run: Trained,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same folder, found again: nothing is trained twice."""
    assert run.record.status == "completed"
    before = (run.folder / "record.json").read_bytes()
    file = write_config(folder / "mine.yaml", config)
    done = Command(folder, monkeypatch, capsys)("train", file, "--name", "my run", "--tracking-uri", "none")
    assert done.code == 0, done.err
    assert (run.folder / "record.json").read_bytes() == before
    assert api.train(file, name="my run", home=folder / "runs").folder == run.folder


def test_names_that_look_the_same_as_folders_have_folders_of_their_own(tmp_path: Path) -> None:
    home = Home(tmp_path)
    resolved = RunConfig.model_validate({"seed": 3})
    first = api.run_folder("a b", resolved, home)
    assert api.run_folder("a=b", resolved, home) == first
    make_run_folder(first, name="a b")
    assert api.run_folder("a b", resolved, home) == first
    second = api.run_folder("a=b", resolved, home)
    assert second.name.startswith(f"{first.name}-")
    make_run_folder(second, name="a=b")
    assert api.run_folder("a=b", resolved, home) == second
    set_record(first, name="a b s3")  # of --seeds
    assert api.run_folder("a b", resolved, home) == first
    shutil.rmtree(first)
    assert [api.run_folder(name, resolved, home) for name in ("a b", "a=b")] == [first, second]


@pytest.mark.slow
def test_other_seeds_have_other_folders_and_are_compared(
    folder: Path, config: dict[str, Any], run: Trained
) -> None:
    other = api.train(config, overrides={"seed": 1}, name="my run", home=folder / "runs")
    assert other.folder != run.folder
    found = api.compare(run, str(other.folder), home=folder / "runs")
    assert len(found.pairs) == 1
    assert found.pairs[0].difference.low <= found.pairs[0].difference.value <= found.pairs[0].difference.high


def test_scoring_again_and_writing(folder: Path, run: Trained) -> None:
    assert run.record.final is not None
    again = api.evaluate(run, home=folder / "runs")
    assert again.evaluation.brier.brier == run.record.final.brier.brier
    assert api.evaluate(run, split="test", home=folder / "runs").config.split == "test"
    texts = [api.sample(run, ["the king", "a"], num_tokens=8, seed=seed, home=folder / "runs") for seed in (0, 0)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 2


def test_a_dry_run_writes_no_run(tmp_path: Path, config: dict[str, Any]) -> None:
    found = api.describe(config, home=tmp_path / "runs")
    assert found["parameters"]["total"] > 0
    assert found["train_flops"] > 0
    assert not (tmp_path / "runs" / "single").exists()


@pytest.mark.slow
def test_released_weights_are_brought_and_written(tmp_path: Path) -> None:
    """As ``calm import`` and ``calm export`` do."""
    theirs = write_folders(tmp_path)
    given, home = (theirs.autoencoder, str(theirs.language_model)), tmp_path / "runs"
    text = write_text(tmp_path / "text.txt", num_words=24_000)
    sets: dict[str, Any] = {"data.corpus": f"text:{text}", "eval.num_windows": 16, "eval.context_len": 32}
    sets |= {"eval.min_context": 16, "eval.num_samples": 4, "train.block_len": 32}
    made = api.import_weights(*given, name="theirs", overrides=sets, home=home)
    assert (made.folder, made.record.name) == (home / "single" / "theirs", "theirs")
    again = api.export(made, tmp_path / "out", home=home)
    assert load_file(again.language_model / "model.safetensors").keys() == theirs.language_model_weights.keys()
    with pytest.raises(RunError, match="already holds a run"):
        api.import_weights(*given, name="theirs", overrides=sets, home=home)
    with pytest.raises(StudyError, match="there is no study 'nowhere'"):
        api.import_weights(*given, name="other", study="nowhere", home=home)
    with pytest.raises(ConfigError, match="--name wants a run's name"):
        api.import_weights(*given, name="a/b", home=home)
    with pytest.raises(OutputError, match="holds something already"):
        api.export("theirs", tmp_path / "out", home=home)
    with pytest.raises(ConfigError, match="shard_gb is a number of gigabytes from"):
        api.export("theirs", tmp_path / "more", shard_gb=0, home=home)
    with pytest.raises(RunError, match="no run 'nothing'"):
        api.export("nothing", tmp_path / "more", home=home)


@pytest.mark.slow
def test_models_are_registered_and_runs_delivered(
    folder: Path, run: Trained, tracking_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "runs"
    assert api.models(home=home) == []
    assert not home.exists()
    shutil.copytree(folder / "runs" / "single", home / "single")
    shutil.copy(tracking_database, home / "mlflow.db")
    delivered = api.sync(home=home)
    assert (delivered.counts[Outcome.DELIVERED], delivered.failed) == (len(list(home.glob("single/*"))), 0)
    made = api.register(run.folder.name, name="mine", alias="champion", home=home)
    assert (made.name, made.aliases, made.new) == ("mine", ("champion",), True)
    assert not api.register(home / "single" / run.folder.name, name="mine", home=home).new
    assert [model.uri for model in api.models(home=home)] == [made.uri]
    with pytest.raises(RunError, match="no run 'nothing'"):
        api.register("nothing", home=home)
    with pytest.raises(TrackingError, match="connection refused"):
        api.sync(tracking_uri="http://127.0.0.1:9", home=home)
    stopped = SyncReport(counts=Counter({Outcome.AWAY: 1}))
    monkeypatch.setattr("workbench.tracking_sync.sync", lambda *_: stopped)
    with pytest.raises(TrackingError, match=r"stopped answering \(0 delivered.*1 failed\); sync again"):
        api.sync(home=home)


def test_the_page_names_every_function_and_every_command() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
    lines = page.splitlines()
    for module in (api, studies, analysis):
        (row,) = (line for line in lines if line.startswith(f"| `{module.__name__}` |"))
        named = set(re.findall(r"`(\w+)`", row))
        assert named == {name for name in module.__all__ if name.islower()}, module.__name__
    for place in re.findall(r"`((?:workbench|studies|analysis)\.\w+\.\w+)`", page):
        module_name, _, name = place.rpartition(".")
        assert callable(getattr(importlib.import_module(module_name), name)), place
    functions = {name for module in (api, studies, analysis) for name in module.__all__}
    commands = {*_commands(app)} - functions - {f"study {name}" for name in studies.__all__}
    assert {name for name in commands if f"`{name}`" not in page and f"`calm {name}`" not in page} == set()


def _commands(group: typer.Typer, before: str = "") -> Iterator[str]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield before + (command.name or command.callback.__name__)
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from _commands(inner.typer_instance, f"{inner.name} ")


def test_studies_and_their_presets_are_named() -> None:
    assert studies.names()["joint"] == ["cpu", "gpu", "quick"]


def test_what_is_wrong_is_said(folder: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"did you mean model.chunk_size\?"):
        api.train(config, overrides={"model.chunksize": 4}, home=folder / "runs")
    with pytest.raises(ConfigError, match=r"has no effect: model\.head\.kind is energy"):
        api.describe(config, overrides={"model.head.num_calls": 4}, home=folder / "runs")
    with pytest.raises(RunError, match="no run 'nothing'"):
        api.evaluate("nothing", home=folder / "runs")
    with pytest.raises(RunError, match="two or more different runs are wanted, 0 given"):
        api.compare(home=folder / "runs")
    with pytest.raises(StudyError, match="nothing"):
        analysis.table("nothing", home=folder / "runs")
    with pytest.raises(StudyError, match="nothing"):
        studies.run("nothing", home=folder / "runs")


def test_nothing_is_opened_for_a_text_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        api.train({"data": {"corpus": f"text:{tmp_path}/nowhere"}}, home=tmp_path / "home", tracking_uri=None)
    assert not (tmp_path / "home" / "mlflow.db").exists()

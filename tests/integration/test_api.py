"""The commands as functions find and do what the commands do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis import api as analysis
from studies import api as studies
from tests.suites.command_line import Command, write_config
from tests.suites.tiny_runs import tree, write_text
from workbench import api
from workbench.api import Trained
from workbench.errors import ConfigError, DataError, RunError, StudyError


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

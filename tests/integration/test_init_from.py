"""``train.init_from``: a training that starts from another run's weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.suites.tiny_runs import BASELINE, tiny_config, traces
from workbench import checkpoint, files, records
from workbench.build import build_model
from workbench.config import RunConfig
from workbench.data import prepare
from workbench.errors import ConfigError, RunError
from workbench.files import sha256
from workbench.home import Home, open_home
from workbench.records import Evaluation
from workbench.rerun import rerun
from workbench.runner import execute
from workbench.tensor_files import read_tensors


def going_on(whole: Path, name: str = "whole", **overrides: Any) -> tuple[RunConfig, Home]:
    return tiny_config(whole, {"train.init_from": name, "train.train_tokens": 256, **overrides})


@pytest.mark.slow
def test_begins_with_its_weights_and_keeps_its_autoencoder(whole: Path, tmp_path: Path) -> None:
    config, home = going_on(whole)
    source = home.root / "whole"
    model, report = build_model(config, prepare(config.data, home.cache), home, run_dir=tmp_path / "none")
    stored = read_tensors(source / "checkpoint" / checkpoint.WEIGHTS)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.network.state_dict().items())
    assert report == records.read_autoencoder_report(source)
    record = execute(config, tmp_path / "tuned", home=home)
    assert (record.status, record.step) == ("completed", 2)
    assert record.environment["initial"] == {
        "run_id": "whole",
        "name": "whole",
        "folder": str(source.resolve()),
        "weights_sha256": sha256(source / "checkpoint" / checkpoint.WEIGHTS),
        "autoencoder_sha256": sha256(source / "autoencoder.safetensors"),
    }
    kept = read_tensors(tmp_path / "tuned" / "autoencoder.safetensors")
    own = read_tensors(source / "autoencoder.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in own.items())
    fresh, _ = tiny_config(whole, {"train.train_tokens": 256})
    assert fresh.hash() != config.hash(), "it is another experiment than one from new weights"


@pytest.mark.slow
def test_goes_on_without_the_other_run(whole: Path, tmp_path: Path) -> None:
    """Once it has a checkpoint of its own it needs the other one no more, and still says where it began."""
    shutil.copytree(whole / "runs" / "whole", tmp_path / "source")
    config, home = going_on(whole, str(tmp_path / "source"), **{"train.train_tokens": 1024})
    undisturbed = execute(config, tmp_path / "undisturbed", home=home)

    def interrupt(_: Evaluation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(config, tmp_path / "tuned", home=home, on_evaluation=interrupt)
    broken_off = records.read_record(tmp_path / "tuned")
    assert (broken_off.status, broken_off.step < undisturbed.step) == ("interrupted", True)
    shutil.rmtree(tmp_path / "source")
    done = execute(config, tmp_path / "tuned", home=home)
    assert (done.status, done.step) == ("completed", undisturbed.step)
    assert done.environment["initial"] == undisturbed.environment["initial"]
    weights = [tmp_path / run / "checkpoint" / checkpoint.WEIGHTS for run in ("undisturbed", "tuned")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.backbone.width": 64}, r"model.backbone.width is 64 here and 32 there"),
        ({"model.head.num_blocks": 3}, r"model.head.num_blocks is 3 here and 2 there"),
        ({"autoencoder.norm_eps": 1e-5}, r"autoencoder.norm_eps is 1e-05 here and 1e-06 there"),
        ({"model.auxiliary_weight": 0.1}, r"auxiliary_weight above 0 is True here and False there"),
        ({"data.tokenizer.kind": "bpe"}, r"data.tokenizer.kind is 'bpe' here and 'byte' there"),
        ({"model.head.kind": "flow"}, r"model.head.kind is 'flow' here and 'energy' there"),
    ],
)
def test_another_architecture_is_refused(
    whole: Path, tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    config, home = going_on(whole, **overrides)
    with pytest.raises(ConfigError, match=f"cannot be the beginning: .*{message}"):
        execute(config, tmp_path / "tuned", home=home)
    assert not (tmp_path / "tuned" / records.RECORD).exists()


def test_another_kind_is_refused(whole: Path, tmp_path: Path) -> None:
    config, home = tiny_config(whole, {"train.init_from": "whole"}, **BASELINE)
    with pytest.raises(ConfigError, match=r"model.kind is 'baseline' here and 'calm' there"):
        execute(config, tmp_path / "tuned", home=home)


def test_no_such_run(whole: Path, tmp_path: Path) -> None:
    config, home = going_on(whole, "nobody")
    with pytest.raises(RunError, match=r"train.init_from: no run 'nobody'; latest: whole"):
        execute(config, tmp_path / "tuned", home=home)


def test_a_run_without_weights(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "runs" / "whole", tmp_path / "source")
    shutil.rmtree(tmp_path / "source" / "checkpoint")
    config, home = going_on(whole, str(tmp_path / "source"))
    with pytest.raises(RunError, match="has no weights yet"):
        execute(config, tmp_path / "tuned", home=home)


@pytest.mark.slow
def test_a_tokenizer_trained_on_other_text(whole: Path, tmp_path: Path) -> None:
    bpe = {"data.tokenizer.kind": "bpe", "data.tokenizer.vocab_size": 280, "autoencoder.eval_chunks": 64}
    small = {"train.train_tokens": 256, "train.num_evaluations": 1, "eval.sample_tokens": 0}
    config, home = tiny_config(whole, {**bpe, **small})
    execute(config, home.root / "bpe", home=home)
    (tmp_path / "other.txt").write_text((whole / "text.txt").read_text().replace("king", "emperor"))
    other = {"data.corpus": f"text:{tmp_path / 'other.txt'}", "train.init_from": "bpe"}
    tuned, _ = tiny_config(whole, {**bpe, **small, **other})
    with pytest.raises(ConfigError, match="has a tokenizer that was trained on other text"):
        execute(tuned, tmp_path / "tuned", home=home)


@pytest.fixture
def twice_named(whole: Path, tmp_path: Path) -> tuple[RunConfig, Home, Path]:
    """A run that began with one called ``whole``, when there was one."""
    home = open_home(tmp_path / "home")
    source = Path(shutil.copytree(whole / "runs" / "whole", home.single_runs() / "whole-1"))
    config, _ = going_on(whole)
    execute(config, home.single_runs() / "tuned", home=home)
    shutil.copytree(source, home.single_runs() / "whole-2")
    return config, home, source


def without_checkpoint(run_dir: Path) -> dict[str, str]:
    """As one that was interrupted before its first; what it had been."""
    undisturbed = traces(run_dir)
    shutil.rmtree(run_dir / "checkpoint")
    record = records.read_record(run_dir)
    records.write_record(run_dir, record.model_copy(update={"status": "interrupted"}))
    return undisturbed


def replaced(whole: Path, source: Path) -> None:
    """By a run of other weights under the same name."""
    config, home = tiny_config(whole, {"seed": 1, "train.train_tokens": 256})
    shutil.rmtree(source, ignore_errors=True)
    execute(config, source, home=home)


@pytest.mark.slow
def test_is_made_again_from_the_run_that_it_began_with(twice_named: tuple[RunConfig, Home, Path]) -> None:
    """By now two runs have the name; and of a fresh rerun the other run lies in the home, not in the rerun's."""
    config, home, source = twice_named
    with pytest.raises(RunError, match="'whole' names 2 runs"):
        execute(config, home.single_runs() / "another", home=home)
    for fresh in (False, True):
        made = rerun("tuned", home, out=home.single_runs() / f"again-{fresh}", fresh=fresh)
        assert made.results is not None
        assert made.results.identical
        assert records.read_record(made.folder).environment["initial"]["folder"] == str(source)


@pytest.mark.slow
def test_in_a_home_that_was_moved_it_is_that_homes(whole: Path, twice_named: tuple[RunConfig, Home, Path]) -> None:
    """Though a run of the name lies where it was."""
    config, home, source = twice_named
    moved = open_home(home.root.rename(home.root.parent / "moved"))
    replaced(whole, source)
    made = rerun("tuned", moved, out=moved.root / "x" / "again")
    assert made.results is not None
    assert made.results.identical
    undisturbed = without_checkpoint(moved.single_runs() / "tuned")
    execute(config, moved.single_runs() / "tuned", home=moved)
    assert traces(moved.single_runs() / "tuned") == undisturbed


@pytest.mark.slow
def test_other_weights_are_refused_whatever_their_name(
    whole: Path, twice_named: tuple[RunConfig, Home, Path]
) -> None:
    config, home, source = twice_named
    run_dir = home.single_runs() / "tuned"
    replaced(whole, source)
    undisturbed = without_checkpoint(run_dir)
    before = records.read_record(run_dir)
    shutil.rmtree(home.single_runs() / "whole-2")
    for again in (
        lambda: rerun("tuned", home, out=home.root / "x" / "again"),
        lambda: execute(config, run_dir, home=home),
    ):
        with pytest.raises(RunError, match=r"whole-1 has other weights than when the run in .*tuned began"):
            again()
    shutil.rmtree(source)
    with pytest.raises(RunError, match=r"whole-1 is not there any more, with which the run in .*tuned began"):
        execute(config, run_dir, home=home)
    assert not (home.root / "x").exists()
    assert records.read_record(run_dir) == before
    shutil.copytree(whole / "runs" / "whole", home.single_runs() / "whole-3")  # the same weights
    assert execute(config, run_dir, home=home).environment["initial"] == before.environment["initial"]
    assert traces(run_dir) == undisturbed


@pytest.mark.slow
def test_an_interrupted_rerun_with_a_checkpoint_needs_the_other_run_no_more(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = open_home(tmp_path / "home")
    source = Path(shutil.copytree(whole / "runs" / "whole", home.single_runs() / "whole"))
    config, _ = going_on(whole, **{"train.train_tokens": 1024})
    execute(config, home.single_runs() / "tuned", home=home)
    append = files.append_json_line

    def stop(path: Path, value: object) -> None:
        append(path, value)
        if path.name == records.EVALUATIONS:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("workbench.files.append_json_line", stop)
        with pytest.raises(KeyboardInterrupt):
            rerun("tuned", home)
    assert checkpoint.find(home.single_runs() / "tuned-rerun" / "checkpoint") is not None
    shutil.rmtree(source)
    made = rerun("tuned", home)
    assert made.results is not None
    assert made.results.identical


@pytest.mark.slow
def test_begins_with_the_same_one_after_an_interruption_before_any_checkpoint(
    twice_named: tuple[RunConfig, Home, Path],
) -> None:
    config, home, source = twice_named
    run_dir = home.single_runs() / "tuned"
    undisturbed = without_checkpoint(run_dir)
    done = execute(config, run_dir, home=home)
    assert (done.status, done.environment["initial"]["folder"]) == ("completed", str(source))
    assert traces(run_dir) == undisturbed

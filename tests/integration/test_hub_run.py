"""Runs on local data set repositories: streams that are interrupted, held-out text, the paper's sizes, small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.suites.hub_repository import documents, repository
from tests.suites.paper_sizes import PRESETS, small_copy, tokenizer_file
from tests.suites.tiny_runs import traces, write_text
from workbench.cli import app
from workbench.config import DataConfig, RunConfig
from workbench.config_file import build_config, stored_config
from workbench.data import prepare
from workbench.errors import DataError
from workbench.files import sha256
from workbench.home import Home, open_home
from workbench.hub_corpus import open_stream, split_of
from workbench.hub_reading import SetShards
from workbench.released.bring import Released, import_released
from workbench.released.export import export_released
from workbench.runner import execute, resolve
from workbench.tensor_files import read_tensors
from workbench.train import Trainer


def streaming(folder: Path, home: Path, *, every: float = 0.001, **hub: Any) -> tuple[RunConfig, Home]:
    """A CALM of a few steps on two folders that stream; a checkpoint ``every`` so many seconds. Of float32: what
    tests compare must not depend on which number type a machine's probe prefers."""
    place = open_home(home)
    for name, count in (("rivers", 300), ("hills", 120)):
        if not (folder / name).exists():
            repository(folder / name, {"train": documents(count, name)})
    given = {
        "streaming": True,
        "shuffle_buffer": 40,
        "mix": [{"name": str(folder / "hills"), "weight": 0.5}],
        **hub,
    }
    tree = {
        "data": {"corpus": f"hub:{folder / 'rivers'}", "hub": given, "validation_fraction": 0.2,
                 "test_fraction": 0.2},
        "autoencoder": {"latent_dim": 6, "width": 16, "steps": 20, "batch_chunks": 32, "warmup_steps": 2,
                        "eval_chunks": 64},
        "model": {"kind": "calm", "chunk_size": 4, "backbone": {"width": 16, "num_layers": 1, "num_heads": 2},
                  "head": {"kind": "energy", "num_samples": 2, "num_targets": 4}},
        "optim": {"batch_positions": 64},
        "train": {"train_tokens": 24 * 256, "block_len": 64, "num_evaluations": 2,
                  "checkpoint_every_seconds": every, "stop_diverged": False},
        "eval": {"context_len": 64, "min_context": 16, "num_windows": 8, "num_samples": 4, "sample_tokens": 0},
        "runtime": {"dtype": "float32", "autoencoder_dtype": "float32"},
    }  # fmt: skip
    return resolve(build_config(tree), place), place


@pytest.mark.slow
def test_an_interrupted_stream_goes_on_with_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, home = streaming(tmp_path, tmp_path / "whole")
    execute(config, home.root / "run", home=home)
    config, home = streaming(tmp_path, tmp_path / "broken", workers=3)
    original = Trainer._step
    stops = [2, 3, 11, 19]

    def step(self: Trainer, tokens: Any, number: int) -> Any:
        if stops and number == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt
        return original(self, tokens, number)

    monkeypatch.setattr(Trainer, "_step", step)
    for _ in range(len(stops)):
        with pytest.raises(KeyboardInterrupt):
            execute(config, home.root / "run", home=home)
    record = execute(config, home.root / "run", home=home)
    assert (record.status, stops) == ("completed", [])
    assert traces(home.root / "run") == traces(tmp_path / "whole" / "run")


def test_held_out_documents_are_never_trained_on(tmp_path: Path) -> None:
    config, home = streaming(tmp_path, tmp_path / "home")
    corpus = prepare(config.data, home.cache, least_tokens=1)
    held_out = {s: set(corpus.tokenizer.decode(corpus.tokens[s]).split("\n")[:-1]) for s in ("validation", "test")}
    assert min(map(len, held_out.values())) > 20
    stream = open_stream(
        config.data, corpus.tokenizer, corpus.held_out, purpose=0, seed=0, num_blocks=8, block_len=512
    )
    tokens = np.concatenate([stream.next_batch(step).ravel() for step in range(12)])
    stream.close()
    trained = set(corpus.tokenizer.decode(tokens).split("\n")[1:-1])
    assert len(trained) > 200
    assert {split_of(text, config.data) for text in trained} == {"train"}
    assert not trained & (held_out["validation"] | held_out["test"])


@pytest.mark.parametrize("streams", [False, True])
def test_splits_of_the_set_itself(tmp_path: Path, streams: bool) -> None:
    train, held = documents(90), documents(30, "held")
    name = repository(tmp_path / "set", {"train": [*train, *held[:10]], "dev": held[:20], "test": held[20:]})
    hub = {"name": str(name), "evaluation": {"validation": "dev"}, "streaming": streams}
    data = DataConfig.model_validate({"corpus": hub})
    corpus = prepare(data, tmp_path / "cache", least_tokens=1)
    texts = {s: corpus.tokenizer.decode(t).split("\n")[:-1] for s, t in corpus.tokens.items()}
    assert texts["validation"] == held[:20]
    assert texts["test"] == held[20:]
    assert sorted(texts["train"]) == sorted(train), "what equals a held-out document is left out"
    assert prepare(data, tmp_path / "cache", least_tokens=1).hash == corpus.hash


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(("split", "rows"), [("validation", []), ("test", ["", " \n"])])
def test_a_held_out_split_without_text_is_named_before_anything_else_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: bool, split: str, rows: list[str]
) -> None:
    held = {"dev": documents(20, "held"), "end": documents(20, "last")}
    held["dev" if split == "validation" else "end"] = rows
    name = repository(tmp_path / "set", {"train": documents(90), **held})
    hub = {"name": str(name), "evaluation": {"validation": "dev", "test": "end"}, "streaming": streams}
    read: list[str] = []
    shards = SetShards.read
    monkeypatch.setattr(SetShards, "read", lambda self, *of: read.append(self.of.split) or shards(self, *of))
    with pytest.raises(DataError) as found:
        prepare(DataConfig.model_validate({"corpus": hub}), tmp_path / "cache", least_tokens=1)
    said = f"split {'dev' if split == 'validation' else 'end'}, which is the {split} text, holds no document"
    assert said in str(found.value)
    assert f"data.hub.evaluation.{split}" in str(found.value)
    assert "train" not in read


def test_a_held_out_split_that_is_too_small_is_mended_where_it_was_named(tmp_path: Path) -> None:
    name = repository(tmp_path / "set", {"train": documents(90), "dev": ["short"], "test": documents(40, "held")})
    data = DataConfig.model_validate({"corpus": {"name": str(name), "evaluation": {"validation": "dev"}}})
    with pytest.raises(DataError, match=r"validation 6, .* or change data\.hub\.evaluation") as found:
        prepare(data, tmp_path / "cache", least_tokens=1000)
    assert "fraction" not in str(found.value)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_a_small_copy_of_each_of_the_papers_sizes_trains(tmp_path: Path, preset: str) -> None:
    home = open_home(tmp_path / "home")
    config = resolve(small_copy(preset, tmp_path / "hub"), home)
    record = execute(config, home.root / "run", home=home)
    assert (record.status, record.step) == ("completed", 6)
    assert record.final is not None
    tokenizer = stored_config(home.root / "run" / "config.yaml").data.tokenizer
    assert tokenizer.sha256 == sha256(tmp_path / "hub" / "tokenizer.json")
    if preset == "calm-m":
        there_and_back(home.root / "run", tmp_path, home)


def there_and_back(run_dir: Path, folder: Path, home: Home) -> None:
    """Exported in the ids of the tokenizer's file, with it; imported from there it is the same model."""
    done = export_released(run_dir, folder / "out")
    assert done.notes == []
    write_text(folder / "text.txt", 120_000)
    text = {"data.corpus": f"text:{folder / 'text.txt'}"}
    small = {"eval.context_len": 32, "eval.min_context": 16, "eval.num_windows": 4, "train.block_len": 64}
    again = folder / "again"
    import_released(Released(done.autoencoder, done.language_model), again, home=home, overrides=text | small)
    for name in ("autoencoder.safetensors", "checkpoint/model.safetensors"):
        first, second = (read_tensors(one / name, what="weights") for one in (run_dir, again))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_without_a_network_one_message_and_code_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = ["train", "transformer-s", "--home", str(tmp_path), "--tracking-uri", "none"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, DataError)
    assert "'meta-llama/Llama-3.1-8B' cannot be had from the hub (offline" in str(result.exception)
    assert "data.tokenizer.name=PATH" in str(result.exception)
    given = ["--set", f"data.tokenizer.name={tokenizer_file(tmp_path / 'tokenizer.json')}"]
    given += ["--set", "runtime.dtype=float32"]  # a probe at this width takes its time
    result = CliRunner().invoke(app, [*arguments, *given])
    assert isinstance(result.exception, DataError)
    assert "'monology/pile-uncopyrighted' cannot be had from the hub (offline" in str(result.exception)
    assert "hub:FOLDER" in str(result.exception)
    assert not list(tmp_path.glob("*/*/record.json"))

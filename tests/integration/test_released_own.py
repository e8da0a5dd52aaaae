"""``calm export`` of a run that was trained here, and its way back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.suites.released_weights import weights_of
from tests.suites.tiny_runs import tiny_config
from workbench.config_file import flatten
from workbench.released.bring import Released, import_released
from workbench.released.export import export_released
from workbench.saved_runs import load_run
from workbench.tensor_files import read_tensors


@pytest.mark.slow
def test_a_run_of_ours(whole: Path, tmp_path: Path) -> None:
    """Exported, its tensors are the network's; imported again, it is the same model with the same ids."""
    run_dir = whole / "runs" / "whole"
    done = export_released(run_dir, tmp_path / "out")
    assert done.notes == []
    assert json.loads((done.language_model / "config.json").read_text())["ae_path"] == "../autoencoder"
    assert "ae_path" not in json.loads((done.autoencoder / "config.json").read_text())
    ours, theirs = read_tensors(run_dir / "checkpoint" / "model.safetensors"), weights_of(done.language_model)
    assert torch.equal(theirs["transformer.embed_tokens.weight"], ours["embedding.weight"])
    qkv = [theirs[f"transformer.layers.1.self_attn.{x}_proj.weight"] for x in "qkv"]
    assert torch.equal(torch.cat(qkv), ours["backbone.layers.1.attention.qkv.weight"])
    assert torch.equal(theirs["generative_head.noise_embd.weight"], ours["head.embed_noise.weight"])
    own = read_tensors(run_dir / "autoencoder.safetensors")
    assert torch.equal(theirs["ae_model.decoder.lm_head_weight"], own["embedding.weight"])
    config, home = tiny_config(whole)
    chosen = {"data.corpus": config.data.corpus, **flatten({"eval": config.eval.model_dump()})}
    again = tmp_path / "again"
    import_released(Released(done.autoencoder, done.language_model), again, home=home, overrides=chosen)
    first, second = load_run(run_dir, home), load_run(again, home)
    for split in ("train", "test"):
        assert second.corpus.tokens[split].tolist() == first.corpus.tokens[split].tolist()
    text = "To be, or\tnot <|end|> é 漢 \x00"
    assert second.corpus.tokenizer.encode(text).tolist() == first.corpus.tokenizer.encode(text).tolist()
    assert second.corpus.tokenizer.decode(first.corpus.tokenizer.encode(text)) == text
    for mine, other in zip(
        first.model.network.state_dict().values(), second.model.network.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, other)

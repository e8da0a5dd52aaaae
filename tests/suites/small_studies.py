"""The studies' gpu presets, scaled down as the presets of the paper's sizes are: all else is as it is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studies import find_studies
from studies.search_spec import Choices
from studies.spec import Preset, StudySpec, freeze
from tests.suites.paper_sizes import FEW, VOCAB
from workbench.config_file import flatten, with_overrides

FIXED: dict[str, Any] = {
    "data.hub.shuffle_buffer": 64,
    "data.tokenizer.vocab_size": VOCAB,
    "autoencoder.width": 32,
    "autoencoder.mlp_width": 80,
    "autoencoder.steps": 12,
    "autoencoder.batch_chunks": 32,
    "autoencoder.warmup_steps": 2,
    "autoencoder.eval_chunks": 64,
    "model.backbone.num_heads": 4,
    "optim.batch_positions": 64,
    "train.num_evaluations": 2,
    "train.stop_diverged": False,  # twelve steps make no autoencoder
    **FEW,
    "eval.network_calls": [1, 2],
    "eval.tradeoff.batch_sizes": [4],
    "eval.tradeoff.exact_budget": 20,
    "eval.tradeoff.num_windows": 4,
}
DIVIDED = {
    "model.backbone.width": 32,
    "model.backbone.mlp_width": 32,
    "autoencoder.latent_dim": 8,
    "train.block_len": 64,
    "train.train_tokens": 10**9,
    "train.train_flops": 1e11,
}


@functools.cache
def gpu_spec(name: str) -> StudySpec:
    return freeze(find_studies()[name], "gpu")


def small_spec(name: str, folder: Path, **changes: Any) -> StudySpec:
    """The study's gpu preset in small, with ``changes`` of the preset; ``folder`` is in place of the hub."""
    spec = gpu_spec(name)
    tree = {key: value for key, value in spec.to_dict().items() if key in Preset.model_fields}
    tree["base"] = with_overrides({}, _settings(flatten(tree["base"]), folder))
    for key in ("space", "follows"):
        tree[key] = {}
    for of, dimension in spec.space.items():
        assert isinstance(dimension, Choices), "what is searched in these presets are choices"
        values = [small_value(of, value, folder) for value in dimension.choices]
        tree["space"][of] = {"choices": values}
        rows = spec.follows.get(of, {})
        if rows:
            pairs = zip(dimension.choices, values, strict=True)
            tree["follows"][of] = {str(new): _settings(rows[str(old)], folder) for old, new in pairs}
    tree["start"] = [_settings(setting, folder) for setting in tree["start"]]
    tree["baselines"] = {cell: _settings(given, folder) for cell, given in tree["baselines"].items()}
    study = find_studies()[name]
    return freeze(dataclasses.replace(study, presets={"gpu": {**tree, **changes}}), "gpu")


def _settings(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return {name: small_value(name, value, folder) for name, value in given.items()}


def small_value(name: str, value: Any, folder: Path) -> Any:
    """Of a dotted setting."""
    if value is None:
        return None
    if name == "data.corpus":
        return f"hub:{folder / value.rpartition('/')[2].replace('pile-uncopyrighted', 'pile')}"
    if name in ("data.hub.evaluation.name", "data.tokenizer.name"):
        return str(folder / ("wiki" if "evaluation" in name else "tokenizer.json"))
    if name == "model.backbone.num_layers":
        return max(2, value // 8)
    if name in DIVIDED:
        return type(value)(value // DIVIDED[name])
    return FIXED.get(name, value)

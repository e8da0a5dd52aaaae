from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.suites.released_weights import (
    AUTOENCODER,
    LANGUAGE_MODEL,
    VOCAB,
    autoencoder_weights,
    language_model_weights,
)
from tests.suites.small import small_config
from workbench import flops
from workbench.autoencoder import Autoencoder
from workbench.config import CalmConfig, RunConfig
from workbench.config_file import build_config, flatten
from workbench.errors import RunError
from workbench.language_model import count_parameters
from workbench.model import CalmNetwork
from workbench.released.names import COPY, HEAD, HEAD_AGAIN, TIED, autoencoder_parts, language_model_parts
from workbench.released.settings import read_settings, released_settings, require_expressible, sections

SHAPES = [
    ({}, {}),
    ({"num_encoder_layers": 4, "num_decoder_layers": 6}, {}),
    ({}, {"num_key_value_heads": 4, "num_hidden_layers": 3, "num_mlp_layers": 1}),
]


def configured(autoencoder: dict[str, Any], language_model: dict[str, Any]) -> RunConfig:
    tree = sections(AUTOENCODER | autoencoder, LANGUAGE_MODEL | language_model)
    return build_config({**tree, "train": {"train_tokens": 1}}).resolved()


@pytest.mark.parametrize(("autoencoder", "language_model"), SHAPES)
class TestEveryTensor:
    def test_of_ours_has_its_place(self, autoencoder: dict[str, Any], language_model: dict[str, Any]) -> None:
        config = configured(autoencoder, language_model)
        assert isinstance(config.model, CalmConfig)
        with torch.device("meta"):
            first = Autoencoder(config.autoencoder, chunk_size=config.chunk_size, vocab_size=VOCAB)
            second = CalmNetwork(config.model, vocab_size=VOCAB, latent_dim=6, seed=0)
        for network, parts in (
            (first, autoencoder_parts(config, VOCAB)),
            (second, language_model_parts(config, VOCAB)),
        ):
            ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
            assert {part.ours: (sum(part.rows), *part.tail) for part in parts} == ours

    def test_of_theirs_is_known(self, autoencoder: dict[str, Any], language_model: dict[str, Any]) -> None:
        config = configured(autoencoder, language_model)
        first = autoencoder_weights(AUTOENCODER | autoencoder)
        theirs = dict(shape for part in autoencoder_parts(config, VOCAB) for shape in part.shapes())
        assert theirs | {TIED: (VOCAB, 24)} == {name: tuple(tensor.shape) for name, tensor in first.items()}
        second = language_model_weights(first, LANGUAGE_MODEL | language_model)
        once = {
            name: tuple(tensor.shape) for name, tensor in second.items() if not name.startswith((COPY, HEAD_AGAIN))
        }
        assert dict(shape for part in language_model_parts(config, VOCAB) for shape in part.shapes()) == once
        assert any(name.startswith(HEAD) for name in once)


FIELDS: dict[str, dict[str, tuple[Any, tuple[str, ...]]]] = {
    "autoencoder": {
        "patch_size": (8, ("model.chunk_size",)),
        "latent_size": (5, ("autoencoder.latent_dim",)),
        "hidden_size": (20, ("autoencoder.width",)),
        "intermediate_size": (36, ("autoencoder.mlp_width",)),
        "num_encoder_layers": (4, ("autoencoder.encoder_layers",)),
        "num_decoder_layers": (10, ("autoencoder.decoder_layers",)),
        "ae_dropout": (0.1, ("autoencoder.token_dropout", "autoencoder.latent_dropout")),
        "kl_clamp": (0.25, ("autoencoder.kl_floor",)),
        "kl_weight": (0.01, ("autoencoder.kl_weight",)),
        "rms_norm_eps": (1e-3, ("autoencoder.norm_eps",)),
    },
    "language_model": {
        "patch_size": (8, ("model.chunk_size",)),
        "latent_size": (5, ("autoencoder.latent_dim",)),
        "hidden_size": (48, ("model.backbone.width",)),
        "intermediate_size": (52, ("model.backbone.mlp_width",)),
        "num_hidden_layers": (7, ("model.backbone.num_layers",)),
        "num_attention_heads": (6, ("model.backbone.num_heads",)),
        "num_key_value_heads": (2, ("model.backbone.num_kv_heads",)),
        "rope_theta": (5e5, ("model.backbone.rope_theta",)),
        "rms_norm_eps": (1e-4, ("model.backbone.norm_eps",)),
        "num_mlp_layers": (9, ("model.head.num_blocks",)),
        "noise_size": (11, ("model.head.noise_dim",)),
        "num_samples": (12, ("model.head.num_samples",)),
        "beta": (1.25, ("model.head.alpha",)),
    },
}
"""Every key of the released configurations that means a field of ours: a value that no other key has, and the
fields."""
DESCRIBED: dict[str, dict[str, Any]] = {
    "autoencoder": {
        "architectures": ["Autoencoder"],
        "model_type": "autoencoder",
        "hidden_act": "silu",
        "mlp_bias": False,
    },
    "language_model": {
        "architectures": ["EnergyTransformer"],
        "model_type": "energy",
        "attention_bias": False,
        "rope_scaling": None,
        "hidden_act": "silu",
        "mlp_bias": False,
    },
}
"""The keys that mean none."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "autoencoder": {
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "ae_dropout": 0.15,
        "kl_clamp": 0.5,
        "kl_weight": 1e-3,
        "rms_norm_eps": 1e-6,
    },
    "language_model": {
        "num_key_value_heads": 6,
        "rope_theta": 10_000.0,
        "rms_norm_eps": 1e-6,
        "noise_size": 64,
        "num_samples": 8,
        "beta": 1.0,
    },
}
"""Of keys that may be missing, in the released code."""


def released(which: str) -> dict[str, Any]:
    return {key: value for key, (value, _) in FIELDS[which].items()} | {"vocab_size": VOCAB}


class TestEveryKey:
    def test_the_values_differ(self) -> None:
        """So that two keys exchanged are seen."""
        own = {(which, key): value for which, keys in FIELDS.items() for key, (value, _) in keys.items()}
        own = {name: value for name, value in own.items() if name[1] not in ("patch_size", "latent_size")}
        assert len(set(own.values()) | {8, 5}) == len(own) + 2

    def test_is_read_into_its_field(self) -> None:
        tree = sections(released("autoencoder"), released("language_model"))
        found = flatten(build_config({**tree, "train": {"train_tokens": 1}}).to_dict())
        for keys in FIELDS.values():
            for key, (value, fields) in keys.items():
                assert {field: found[field] for field in fields} == dict.fromkeys(fields, value), key

    def test_is_written_from_its_field(self) -> None:
        """All of them and no others; what was imported says nothing about them any more."""
        overrides = {field: v for keys in FIELDS.values() for v, fields in keys.values() for field in fields}
        config = build_config({"model": {"kind": "calm"}, "train": {"train_tokens": 1}}, overrides).resolved()
        ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
        wanted = {which: released(which) | DESCRIBED[which] | ids for which in FIELDS}
        found = dict(zip(FIELDS, released_settings(config, VOCAB, {}), strict=True))
        assert found == wanted
        kept = {which: {**dict.fromkeys(released(which), 77), "more": which} for which in FIELDS}
        found = dict(zip(FIELDS, released_settings(config, VOCAB, kept), strict=True))
        assert found == {which: {**wanted[which], "more": which} for which in FIELDS}

    @pytest.mark.parametrize("which", FIELDS)
    def test_that_is_missing(self, tmp_path: Path, which: str) -> None:
        """Means what the released code takes then; without another default it must be there."""
        tree = {key: value for key, value in released(which).items() if key not in DEFAULTS[which]}
        (tmp_path / "config.json").write_text(json.dumps(tree))
        settings = {name: released(name) for name in FIELDS}
        settings[which] = read_settings(tmp_path, which.replace("_", " "))
        made = build_config(
            {**sections(settings["autoencoder"], settings["language_model"]), "train": {"train_tokens": 1}}
        )
        found = flatten(made.to_dict())
        for key, value in DEFAULTS[which].items():
            assert [found[field] for field in FIELDS[which][key][1]] == [value] * len(FIELDS[which][key][1]), key
        for key in tree:
            (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in tree.items() if k != key}))
            with pytest.raises(RunError, match=f"lacks {key}, which a released"):
                read_settings(tmp_path, which.replace("_", " "))


class TestSettings:
    def test_there_and_back(self) -> None:
        autoencoder = AUTOENCODER | {"ae_dropout": 0.1, "kl_clamp": 0.25, "kl_weight": 0.01, "rms_norm_eps": 1e-5}
        language_model = LANGUAGE_MODEL | {"beta": 1.5, "num_samples": 12, "rope_theta": 5e5, "rms_norm_eps": 1e-5}
        config = configured(autoencoder, language_model)
        kept = {"autoencoder": autoencoder, "language_model": language_model}
        first, second = released_settings(config, VOCAB, kept)
        assert {name: first[name] for name in autoencoder} == autoencoder
        assert {name: second[name] for name in language_model} == language_model

    def test_of_a_run_of_ours(self) -> None:
        config = small_config(chunk_size=2, head={"alpha": 1.25})
        require_expressible(config)
        first, second = released_settings(config, 23, {})
        again = build_config({**sections(first, second), "train": {"train_tokens": 1}}).resolved()
        assert isinstance(config.model, CalmConfig)
        assert isinstance(again.model, CalmConfig)
        assert again.model.backbone == config.model.backbone
        assert again.model.head.model_copy(update={"num_targets": 5}) == config.model.head
        assert again.chunk_size == 2
        same = ("latent_dim", "width", "mlp_width", "kl_floor", "kl_weight", "token_dropout")
        assert all(getattr(again.autoencoder, name) == getattr(config.autoencoder, name) for name in same)

    @pytest.mark.parametrize("key", ["patch_size", "latent_size", "vocab_size"])
    def test_folders_that_do_not_belong_together(self, key: str) -> None:
        with pytest.raises(RunError, match=f"{key} is 9 in the autoencoder's config.json and"):
            sections(AUTOENCODER | {key: 9}, LANGUAGE_MODEL)

    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            (small_config(baseline=True), "a token baseline cannot be exported"),
            (small_config(head={"kind": "diffusion"}), r"model.head.kind is diffusion"),
            (small_config(head={"kind": "flow"}), r"model.head.kind is flow"),
            (small_config(head={"distance": "quadric"}), r"model.head.distance is quadric"),
            (small_config(input_mode="latent"), r"model.input_mode is latent"),
            (small_config(input_mode="both"), r"model.input_mode is both"),
            (small_config(auxiliary_weight=0.5), r"model.auxiliary_weight has a layer"),
        ],
        ids=["baseline", "diffusion", "flow", "quadric", "latent", "both", "auxiliary"],
    )
    def test_what_the_layout_has_no_place_for(self, config: RunConfig, reason: str) -> None:
        with pytest.raises(RunError, match=reason):
            require_expressible(config)

    def test_dropouts_that_differ(self) -> None:
        config = small_config()
        ae = config.autoencoder.model_copy(update={"token_dropout": 0.3})
        with pytest.raises(RunError, match=r"token_dropout 0.3 and latent_dropout 0.15 differ"):
            require_expressible(config.model_copy(update={"autoencoder": ae}))


@pytest.mark.parametrize(("encoder", "decoder"), [(2, 2), (4, 2), (2, 6)])
def test_deeper_autoencoders_are_counted(encoder: int, decoder: int) -> None:
    config = configured({"num_encoder_layers": encoder, "num_decoder_layers": decoder}, {})
    network = Autoencoder(config.autoencoder, chunk_size=config.chunk_size, vocab_size=VOCAB)
    assert flops.parameters(config, VOCAB)["autoencoder"] == count_parameters(network)
    latents, chunks = torch.zeros(5, 6), torch.ones(5, 4, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        network.encode(chunks)
    assert counter.get_total_flops() == flops.encoder_cost(config, 5, trained=False).total
    with FlopCounterMode(display=False) as counter:
        network.logits(latents)
    assert counter.get_total_flops() == flops.decoder_cost(config, 5, VOCAB, trained=False).total
    first = network.states(latents)
    every = torch.cat([network.decode_token_at(i, first, torch.arange(5))[:, None] for i in range(4)], 1)
    assert torch.equal(every, network.decode(latents))


def rotary(folder: Path, **keys: Any) -> dict[str, Any]:
    """The language model's settings with these keys for its rotary positions, and no others."""
    tree = {key: value for key, value in LANGUAGE_MODEL.items() if key != "rope_theta"}
    (folder / "config.json").write_text(json.dumps(tree | keys))
    return read_settings(folder, "language model")


class TestRotaryPositions:
    @pytest.mark.parametrize(
        ("keys", "reason"),
        [
            (
                {"rope_theta": 10_000, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000}},
                "rope_theta is 10000 and rope_parameters.rope_theta is 500000; one value is wanted: keep the one",
            ),
            (
                {"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"rope_theta": 5e5}},
                "rope_parameters.rope_theta is 10000.0 and rope_scaling.rope_theta is 500000.0; one value",
            ),
            ({"rope_parameters": {"rope_theta": "1e4"}}, "rope_parameters.rope_theta is '1e4'; a number above 0"),
            ({"rope_parameters": {"rope_theta": None}}, "rope_parameters.rope_theta is None; a number above 0"),
            ({"rope_theta": None}, "rope_theta is None; a number above 0 is wanted"),
            ({"rope_parameters": {"type": "linear", "factor": 2}}, "rope_parameters has type 'linear'; only"),
            ({"rope_parameters": {"rope_type": "default", "type": "yarn"}}, "rope_parameters has type 'yarn'"),
            ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling has rope_type 'llama3'"),
            ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters has partial_rotary_factor 0.5"),
            ({"rope_scaling": {"type": "default", "factor": 2.0}}, "rope_scaling has factor 2.0; only plain"),
            ({"rope_parameters": {"full_attention": {}}}, "rope_parameters has full_attention {}; only plain"),
            ({"rope_parameters": {"low_freq_factor": 1}}, "rope_parameters has low_freq_factor 1; only plain"),
            ({"rope_parameters": {"factor": True}}, "rope_parameters has factor True; only plain"),
            ({"rope_parameters": "default"}, "rope_parameters is 'default'; an object or null is wanted"),
            ({"partial_rotary_factor": 0.25}, "partial_rotary_factor is 0.25; the architecture here has 1.0"),
        ],
    )
    def test_of_another_kind_or_contradicting_each_other(
        self, tmp_path: Path, keys: dict[str, Any], reason: str
    ) -> None:
        with pytest.raises(RunError) as refused:
            rotary(tmp_path, **keys)
        assert f"{tmp_path / 'config.json'}: {reason}" in str(refused.value)

    @pytest.mark.parametrize(
        ("keys", "theta"),
        [
            ({}, 10_000.0),
            ({"rope_theta": 5e5, "rope_scaling": None, "rope_parameters": None}, 5e5),
            ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5),
            ({"rope_scaling": {"type": "default", "rope_theta": 5e5}}, 5e5),
            ({"rope_theta": None, "rope_parameters": {"rope_theta": 5e5}}, 5e5),
            ({"rope_parameters": {"rope_type": "default"}}, 10_000.0),
            ({"rope_theta": 500_000, "rope_parameters": {"rope_type": None, "rope_theta": 5e5}}, 5e5),
            ({"partial_rotary_factor": 1, "rope_parameters": {"partial_rotary_factor": 1.0}}, 10_000.0),
            ({"rope_scaling": {"factor": 1, "attention_factor": 1.0, "beta_fast": None}}, 10_000.0),
        ],
    )
    def test_that_say_the_same_are_read_and_written(
        self, tmp_path: Path, keys: dict[str, Any], theta: float
    ) -> None:
        found = rotary(tmp_path, **keys)
        assert found["rope_theta"] == theta
        config = build_config({**sections(AUTOENCODER, found), "train": {"train_tokens": 1}})
        written = released_settings(config, VOCAB, {"language_model": found})[1]
        (tmp_path / "config.json").write_text(json.dumps(written))
        again = read_settings(tmp_path, "language model")
        assert sections(AUTOENCODER, again) == sections(AUTOENCODER, found)
        assert {written["rope_theta"], (written.get("rope_parameters") or written)["rope_theta"]} == {theta}

    def test_of_an_older_import_are_written_as_the_weights_are_used(self) -> None:
        """It passed over what it did not know: the run has plain positions with its own base."""
        kept = {
            "rope_theta": 10_000,
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5},
            "partial_rotary_factor": 0.5,
        }
        written = released_settings(configured({}, {"rope_theta": 2e4}), VOCAB, {"language_model": kept})[1]
        assert {key: written[key] for key in kept} == {
            "rope_theta": 2e4,
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 2e4},
            "partial_rotary_factor": 1.0,
        }

"""Released weights that cannot be imported: one message each, and nothing is written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch

from tests.suites.released_weights import VOCAB, Folders, settings, tokenizer_json, write_folders, write_weights
from workbench.errors import ConfigError, DataError, RunError
from workbench.home import Home, open_home
from workbench.released.bring import Released, import_released


class Refused(Protocol):
    def __call__(self, error: type[Exception] = RunError, **options: Any) -> str: ...


class Evil:
    """What unpickling it would run."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return write_folders(tmp_path_factory.mktemp("theirs"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return open_home(tmp_path_factory.mktemp("released") / "runs")


@pytest.fixture
def folders(theirs: Folders, tmp_path: Path) -> Folders:
    """A copy to spoil."""
    copies = [shutil.copytree(path, tmp_path / path.name) for path in (theirs.autoencoder, theirs.language_model)]
    weights = theirs.autoencoder_weights, theirs.language_model_weights
    return Folders(*copies, copies[1] / "tokenizer.json", *weights)


@pytest.fixture
def refused(folders: Folders, home: Home, tmp_path: Path) -> Refused:
    """Tries, and gives the message."""

    def attempt(error: type[Exception] = RunError, **options: Any) -> str:
        released = Released(folders.autoencoder, folders.language_model)
        overrides = settings(home.root.parent)
        with pytest.raises(error) as found:
            import_released(released, tmp_path / "run", home=home, overrides=overrides, **options)
        assert not (tmp_path / "run").exists(), "nothing is written"
        return str(found.value)

    return attempt


def change(folder: Path, **keys: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **keys}))


def test_a_copy_of_another_autoencoder(folders: Folders, refused: Refused) -> None:
    weights = dict(folders.language_model_weights)
    weights["ae_model.encoder.norm.weight"] = weights["ae_model.encoder.norm.weight"] + 0.5
    write_weights(folders.language_model, weights)
    message = refused()
    assert "the weights contradict each other: ae_model.encoder.norm.weight" in message
    assert "by up to 0.5" in message


@pytest.mark.parametrize(
    ("first", "second"), [(torch.bfloat16, torch.float16), (torch.float16, torch.bfloat16)], ids=str
)
def test_copies_of_types_that_hold_others_values(
    folders: Folders, refused: Refused, first: torch.dtype, second: torch.dtype
) -> None:
    """Rounded from the same values, they are not the same: neither is the other one, rounded."""
    write_weights(folders.autoencoder, {name: t.to(first) for name, t in folders.autoencoder_weights.items()})
    weights = {n: t.to(second) for n, t in folders.language_model_weights.items() if n.startswith("ae_model.")}
    write_weights(folders.language_model, {**folders.language_model_weights, **weights})
    message = refused()
    assert "the weights contradict each other: " in message
    names = [str(dtype).removeprefix("torch.") for dtype in (second, first)]
    assert f"({names[0]} beside {names[1]})" in message


def test_copies_that_differ_in_the_sign_of_zeros(folders: Folders, refused: Refused) -> None:
    name = "encoder.norm.weight"
    write_weights(folders.autoencoder, {**folders.autoencoder_weights, name: torch.zeros(24)})
    copy = {f"ae_model.{name}": -torch.zeros(24)}
    write_weights(folders.language_model, {**folders.language_model_weights, **copy})
    assert f"{name} in theirs-autoencoder in the sign of zeros" in refused()


def test_a_copy_that_holds_no_number(folders: Folders, refused: Refused) -> None:
    """Rounding made it infinite; ``export`` could not give it back."""
    name = "encoder.norm.weight"
    write_weights(folders.autoencoder, {**folders.autoencoder_weights, name: torch.full((24,), 1e6)})
    copy = {f"ae_model.{name}": torch.full((24,), 1e6).half()}
    write_weights(folders.language_model, {**folders.language_model_weights, **copy})
    message = refused()
    assert f"ae_model.{name} in " in message
    assert "no finite numbers" in message


def test_two_heads(folders: Folders, refused: Refused) -> None:
    weights = dict(folders.language_model_weights)
    weights["generative_head.norm_noise.bias"] = weights["generative_head.norm_noise.bias"] - 1
    write_weights(folders.language_model, weights)
    message = refused()
    assert "generative_head.norm_noise.bias in theirs-model differs from mlp_generator.norm_noise.bias" in message


def test_an_output_layer_of_its_own(folders: Folders, refused: Refused) -> None:
    weights = {**folders.autoencoder_weights, "decoder.lm_head_weight": torch.zeros(VOCAB, 24)}
    write_weights(folders.autoencoder, weights)
    assert "decoder.lm_head_weight in theirs-autoencoder differs" in refused()


def test_part_of_the_copy_alone(folders: Folders, refused: Refused) -> None:
    weights = {n: t for n, t in folders.language_model_weights.items() if n != "ae_model.encoder.norm.weight"}
    write_weights(folders.language_model, weights)
    assert "missing 1 (ae_model.encoder.norm.weight)" in refused()


def test_values_that_are_no_numbers(folders: Folders, refused: Refused) -> None:
    weights = {**folders.language_model_weights, "transformer.norm.weight": torch.full((32,), torch.nan)}
    write_weights(folders.language_model, weights)
    message = refused()
    assert "transformer.norm.weight in " in message
    assert "no finite numbers" in message


def test_values_that_a_type_cannot_hold(folders: Folders, refused: Refused) -> None:
    weights = {**folders.language_model_weights, "transformer.norm.weight": torch.full((32,), 1e6)}
    write_weights(folders.language_model, weights)
    assert "no finite numbers once it is rounded to float16" in refused(dtype="float16")


def test_an_unknown_type(refused: Refused) -> None:
    assert "the type is one of float32, bfloat16, float16" in refused(ConfigError, dtype="int8")


def test_folders_the_wrong_way_round(folders: Folders, home: Home, tmp_path: Path) -> None:
    released = Released(folders.language_model, folders.autoencoder)
    with pytest.raises(RunError, match=r"lacks num_hidden_layers.*the autoencoder comes first"):
        import_released(released, tmp_path / "run", home=home)


@pytest.mark.parametrize(("file", "message"), [("[]", "an object is wanted, found list"), ("{", "cannot be read")])
def test_a_damaged_configuration(folders: Folders, refused: Refused, file: str, message: str) -> None:
    (folders.autoencoder / "config.json").write_text(file)
    assert message in refused()


def test_a_pickle_that_would_run_something(folders: Folders, refused: Refused, tmp_path: Path) -> None:
    (folders.language_model / "model.safetensors").unlink()
    torch.save({"a": Evil(tmp_path / "was-run")}, folders.language_model / "pytorch_model.bin")
    assert "nothing was run" in refused()
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"model_type": "diffusion"}, "is of a CALM with the diffusion head"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling has type 'linear'; only plain rotary positions"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters has rope_type 'yarn'; only plain rotary"),
        ({"head_dim": 9}, "head_dim 9 times 4 heads is not hidden_size 32"),
        ({"head_dim": 8, "num_key_value_heads": 3}, "and that a multiple of num_key_value_heads 3"),
        ({"hidden_size": 36}, "hidden_size 36 must be a multiple of 2 x num_attention_heads 4"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1; the architecture here has 0.0 alone"),
        ({"num_key_value_heads": 0}, "config.json: num_key_value_heads is 0; a whole number above 0, or null is"),
        (
            {"num_mlp_layers": 3},
            "num_mlp_layers is 3; the weights beside it have 2 (mlp_generator.mlp_blocks.N)",
        ),
        (
            {"num_hidden_layers": 1},
            "num_hidden_layers is 1; the weights beside it have 2 (transformer.layers.N)",
        ),
        ({"num_hidden_layers": 900_000}, "num_hidden_layers is 900000; the weights beside it have 2"),
        ({"num_hidden_layers": 10**12}, "a whole number above 0 is wanted (at most 1,000,000)"),
        ({"beta": 2.5}, "theirs-model/config.json: beta is 2.5; a number above 0 and below 2 is wanted"),
        ({"num_samples": 1}, "num_samples is 1; a whole number of at least 2 is wanted"),
        ({"rope_theta": "1e4"}, "rope_theta is '1e4'; a number above 0 is wanted"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0; a number above 0 is wanted"),
        ({"vocab_size": "many"}, "vocab_size is 'many'; a whole number above 0 is wanted"),
        ({"hidden_size": 0}, "hidden_size is 0; a whole number above 0 is wanted"),
        ({"intermediate_size": 50}, "has shape"),
    ],
)
def test_settings(folders: Folders, refused: Refused, keys: dict[str, Any], reason: str) -> None:
    change(folders.language_model, **keys)
    assert reason in refused()


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"kl_clamp": "x"}, "kl_clamp is 'x'; a number of at least 0 is wanted"),
        ({"kl_weight": -1}, "kl_weight is -1; a number of at least 0 is wanted"),
        ({"kl_weight": True}, "kl_weight is True; a number of at least 0 is wanted"),
        ({"kl_clamp": float("nan")}, "kl_clamp is nan; a number of at least 0 is wanted"),
        ({"ae_dropout": 1}, "ae_dropout is 1; a number from 0 to below 1 is wanted"),
        ({"num_encoder_layers": 3}, "num_encoder_layers is 3; an even whole number above 0 is wanted"),
        ({"num_decoder_layers": 900_000}, "num_decoder_layers is 900000; the weights beside it have 2"),
    ],
)
def test_settings_of_the_autoencoder(
    folders: Folders, refused: Refused, keys: dict[str, Any], reason: str
) -> None:
    """Named as the file has them, not as the fields of ours that they become."""
    change(folders.autoencoder, **keys)
    assert f"theirs-autoencoder/config.json: {reason}" in refused()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "no tokenizer.json in"),
        (lambda path: path.write_text(tokenizer_json(vocab=VOCAB + 8)), "has 308 ids, the language model's"),
        (lambda path: path.write_text(tokenizer_json(num_special=1)), "has 1 special tokens; one is needed"),
        (lambda path: path.write_text('{"model": 3}'), "is no tokenizer.json"),
    ],
    ids=["none", "another", "no special tokens", "damaged"],
)
def test_tokenizers(folders: Folders, refused: Refused, spoil: Any, reason: str) -> None:
    spoil(folders.tokenizer)
    assert reason in refused(DataError)

"""Folders in the layout of the released weights, of tiny sizes, with random values.

The names are written out here as the released code has them, apart from ``workbench.released.names``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from tests.suites.tiny_runs import write_text

SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|pad|>")
VOCAB = 300
"""Bytes, merges, and the special tokens at the end, as Llama-3's."""
BEGIN, END, PAD = VOCAB - 3, VOCAB - 2, VOCAB - 1
K, L, D, WIDTH, HEADS, KV, LAYERS, BLOCKS, NOISE = 4, 6, 24, 32, 4, 2, 2, 2, 10

AUTOENCODER: dict[str, Any] = {
    "architectures": ["Autoencoder"],
    "model_type": "autoencoder",
    "patch_size": K,
    "latent_size": L,
    "hidden_size": D,
    "intermediate_size": 40,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "ae_dropout": 0.15,
    "kl_clamp": 0.5,
    "kl_weight": 0.001,
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCAB,
    "hidden_act": "silu",
    "mlp_bias": False,
}
LANGUAGE_MODEL: dict[str, Any] = {
    "architectures": ["EnergyTransformer"],
    "model_type": "energy",
    "patch_size": K,
    "latent_size": L,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "num_mlp_layers": BLOCKS,
    "noise_size": NOISE,
    "num_samples": 4,
    "beta": 1.0,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "vocab_size": VOCAB,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "pad_token_id": PAD,
    "ae_path": "/somewhere",
}


@dataclass(frozen=True)
class Folders:
    """Where they lie, and what was put in."""

    autoencoder: Path
    language_model: Path
    tokenizer: Path
    autoencoder_weights: dict[str, Tensor]
    language_model_weights: dict[str, Tensor]

    def arguments(self) -> tuple[str, str]:
        return str(self.autoencoder), str(self.language_model)


class _Random:
    """Random matrices scaled by fan-in, norms around 1, biases around 0."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.rng, self.dtype = torch.Generator().manual_seed(seed), dtype

    def values(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.rng)

    def linear(self, name: str, fan_out: int, fan_in: int, *, bias: bool = True) -> dict[str, Tensor]:
        made = {f"{name}.weight": self.values(fan_out, fan_in) / fan_in**0.5}
        made |= {f"{name}.bias": 0.1 * self.values(fan_out)} if bias else {}
        return {key: value.to(self.dtype) for key, value in made.items()}

    def norm(self, name: str, width: int, *, bias: bool = False) -> dict[str, Tensor]:
        made = {f"{name}.weight": 1 + 0.2 * self.values(width)}
        made |= {f"{name}.bias": 0.1 * self.values(width)} if bias else {}
        return {key: value.to(self.dtype) for key, value in made.items()}

    def mlp(self, name: str, width: int, inner: int) -> dict[str, Tensor]:
        made = self.linear(f"{name}.gate_proj", inner, width, bias=False)
        made |= self.linear(f"{name}.up_proj", inner, width, bias=False)
        return made | self.linear(f"{name}.down_proj", width, inner, bias=False)


def autoencoder_weights(
    config: Mapping[str, Any] = AUTOENCODER, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Both names of the tied matrix."""
    draw, d, k, latent = _Random(seed, dtype), config["hidden_size"], config["patch_size"], config["latent_size"]
    inner, vocab = config["intermediate_size"], config["vocab_size"]
    embedding = draw.values(vocab, d).to(dtype)
    made = {"encoder.embed_tokens.weight": embedding}
    for half in ("encoder", "decoder"):
        for i in range(config[f"num_{half}_layers"]):
            made |= draw.mlp(f"{half}.{half}_layers.{i}.mlp", d, inner)
            made |= draw.norm(f"{half}.{half}_layers.{i}.layernorm", d)
        made |= draw.norm(f"{half}.norm", d)
    made |= draw.linear("encoder.squeeze_layer", d, k * d)
    made |= draw.linear("encoder.hidden_to_latent", 2 * latent, d)
    made |= draw.linear("decoder.latent_to_hidden", d, latent)
    made |= draw.linear("decoder.expand_layer", k * d, d)
    return made | {"decoder.lm_head_weight": embedding.clone()}


def head_weights(config: Mapping[str, Any], draw: _Random) -> dict[str, Tensor]:
    """Without the prefix."""
    width = config["hidden_size"]
    made = draw.linear("noise_embd", width, config["noise_size"]) | draw.linear("hidden_embd", width, width)
    made |= draw.norm("norm_noise", width, bias=True) | draw.norm("norm_hidden", width, bias=True)
    for i in range(config["num_mlp_layers"]):
        made |= draw.norm(f"mlp_blocks.{i}.in_ln", width, bias=True)
        made |= draw.linear(f"mlp_blocks.{i}.linears.0", width, 2 * width)
        made |= draw.linear(f"mlp_blocks.{i}.linears.2", width, width)
        made |= draw.linear(f"mlp_blocks.{i}.linears.4", 2 * width, width)
        made |= draw.linear(f"mlp_blocks.{i}.down_proj", width, width)
    made |= draw.norm("final_layer.in_ln", width, bias=True) | draw.linear("final_layer.linears.0", width, width)
    return made | draw.linear("final_layer.linears.2", config["latent_size"], width)


def language_model_weights(
    autoencoder: Mapping[str, Tensor],
    config: Mapping[str, Any] = LANGUAGE_MODEL,
    *,
    seed: int = 1,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """With the copy of the autoencoder, and the head under both names."""
    draw, width = _Random(seed, dtype), config["hidden_size"]
    kv = config["num_key_value_heads"] * (width // config["num_attention_heads"])
    made = {f"ae_model.{name}": tensor.clone() for name, tensor in autoencoder.items()}
    made |= {"transformer.embed_tokens.weight": draw.values(config["vocab_size"], width).to(dtype)}
    for i in range(config["num_hidden_layers"]):
        layer = f"transformer.layers.{i}"
        for letter, rows in (("q", width), ("k", kv), ("v", kv), ("o", width)):
            made |= draw.linear(f"{layer}.self_attn.{letter}_proj", rows, width, bias=False)
        made |= draw.mlp(f"{layer}.mlp", width, config["intermediate_size"])
        made |= draw.norm(f"{layer}.input_layernorm", width)
        made |= draw.norm(f"{layer}.post_attention_layernorm", width)
    made |= draw.norm("transformer.norm", width)
    made |= draw.linear("embed_proj.0", 2 * width, config["patch_size"] * width)
    made |= draw.linear("embed_proj.2", width, 2 * width)
    made |= draw.norm("embed_proj.3", width, bias=True)
    head = head_weights(config, draw)
    made |= {f"mlp_generator.{name}": tensor for name, tensor in head.items()}
    return made | {f"generative_head.{name}": tensor.clone() for name, tensor in head.items()}


@cache
def tokenizer_json(num_special: int = len(SPECIAL), vocab: int = VOCAB) -> str:
    """Of a byte-level BPE with its special tokens at the end; the first of them is put before every text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab - num_special, initial_alphabet=letters, show_progress=False)
    made.train_from_iterator(
        ["the king and the queen of the night rides to a castle where no crown is kept"] * 9, trainer
    )
    missing = vocab - num_special - made.get_vocab_size()
    made.add_tokens([f"word{i}" for i in range(missing)])  # a text so short has few merges
    made.add_special_tokens(list(SPECIAL[:num_special]))
    if num_special:
        first = (SPECIAL[0], made.token_to_id(SPECIAL[0]))
        made.post_processor = processors.TemplateProcessing(single=f"{SPECIAL[0]} $A", special_tokens=[first])
    return str(made.to_str())


def write_weights(folder: Path, weights: Mapping[str, Tensor], layout: str = "safetensors") -> None:
    """``layout``: safetensors or bin, "sharded " before it for two files and an index."""
    kind = layout.removeprefix("sharded ")
    stem, ending = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    shards: dict[str, dict[str, Tensor]] = {f"{stem}.{ending}": dict(weights)}
    if layout.startswith("sharded"):
        names = list(weights)
        parts = names[: len(names) // 2], names[len(names) // 2 :]
        shards = {
            f"{stem}-{i + 1:05d}-of-00002.{ending}": {name: weights[name] for name in part}
            for i, part in enumerate(parts)
        }
        index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    for file, part in shards.items():
        if ending == "bin":
            torch.save(part, folder / file)
        else:
            save_file(
                {name: tensor.contiguous() for name, tensor in part.items()}, folder / file, {"format": "pt"}
            )


def write_folders(
    root: Path,
    *,
    layout: str = "safetensors",
    dtype: torch.dtype = torch.float32,
    autoencoder: Mapping[str, Any] | None = None,
    language_model: Mapping[str, Any] | None = None,
    drop: tuple[str, ...] = (),
) -> Folders:
    """``root / "theirs-autoencoder"`` and ``root / "theirs-model"``; ``autoencoder`` and ``language_model`` change
    keys of the configurations, ``drop``: prefixes of tensors that are left out of the language model."""
    ae, lm = AUTOENCODER | dict(autoencoder or {}), LANGUAGE_MODEL | dict(language_model or {})
    first = autoencoder_weights(ae, dtype=dtype)
    second = language_model_weights(first, lm, dtype=dtype)
    second = {name: tensor for name, tensor in second.items() if not name.startswith(drop)} if drop else second
    folders = root / "theirs-autoencoder", root / "theirs-model"
    for folder, config, weights in zip(folders, (ae, lm), (first, second), strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        write_weights(folder, weights, layout)
    tokenizer = folders[1] / "tokenizer.json"
    tokenizer.write_text(tokenizer_json(), encoding="utf-8")
    return Folders(*folders, tokenizer, first, second)


def settings(root: Path) -> dict[str, Any]:
    """``--set`` of an import on a text of one's own that takes a moment."""
    text = root / "text.txt"
    if not text.exists():
        write_text(text, 15_000)
    return {
        "data.corpus": f"text:{text}",
        "train.block_len": 32,
        "eval.context_len": 32,
        "eval.min_context": 16,
        "eval.num_windows": 8,
        "eval.num_samples": 4,
        "eval.sample_tokens": 8,
        "runtime.device": "cpu",
        "runtime.dtype": "float32",
        "runtime.autoencoder_dtype": "float32",
        "runtime.threads": 1,
    }


def same_bits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(bits(found[name]), bits(tensor)), name


def bits(tensor: Tensor) -> Tensor:
    """-0.0 is not 0.0."""
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32}[tensor.dtype.itemsize])


def weights_of(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found

"""Names and shapes of the released weights beside ours. Imports no torch.

Letters: V vocabulary, K chunk size, D width, d width of the autoencoder, L latent dimension, F inner width of an
MLP.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from workbench.config import CalmConfig, EnergyHeadConfig, RunConfig

COPY = "ae_model."
"""Prefix of the autoencoder's tensors in the language model's file."""
HEAD, HEAD_AGAIN = "mlp_generator.", "generative_head."
"""Prefixes of the energy head: one module under two names."""
EMBEDDING, TIED = "encoder.embed_tokens.weight", "decoder.lm_head_weight"
"""Of the autoencoder: one matrix under two names."""
NO_WEIGHT = ("rotary_emb.inv_freq", "position_ids")
"""Ends of names of what older libraries have stored beside the weights; it follows from the configuration."""


@dataclass(frozen=True)
class Part:
    """One tensor of ours, and the released ones that it is made of, one above the other."""

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...]
    """Rows of each."""
    tail: tuple[int, ...] = ()
    """The further axes, the same for all of them."""
    by_token: bool = False
    """Its rows are ids, which stand in another order in ours."""

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Of the released tensors."""
        for name, rows in zip(self.theirs, self.rows, strict=True):
            yield name, (rows, *self.tail)


def autoencoder_parts(config: RunConfig, vocab: int) -> list[Part]:
    """Of a resolved configuration."""
    ae, k, d = config.autoencoder, config.chunk_size, config.autoencoder.width
    assert ae.mlp_width is not None, "resolve the configuration first"
    parts = [Part("embedding.weight", (EMBEDDING,), (vocab,), (d,), by_token=True)]
    for half, layers, ours in (
        ("encoder", ae.encoder_layers // 2, ("encode_token", "encode_chunk")),
        ("decoder", ae.decoder_layers // 2, ("decode_chunk", "decode_token")),
    ):
        for i in range(2 * layers):
            name = ours[i // layers] if layers == 1 else f"{ours[i // layers]}.{i % layers}"
            theirs = f"{half}.{half}_layers.{i}"
            parts += _swiglu(f"{name}.mlp", f"{theirs}.mlp", d, ae.mlp_width)
            parts.append(Part(f"{name}.norm.weight", (f"{theirs}.layernorm.weight",), (d,)))
    parts += _linear("squeeze", "encoder.squeeze_layer", d, k * d)
    parts.append(Part("latent_norm.weight", ("encoder.norm.weight",), (d,)))
    parts += _linear("to_latent", "encoder.hidden_to_latent", 2 * ae.latent_dim, d)
    parts += _linear("from_latent", "decoder.latent_to_hidden", d, ae.latent_dim)
    parts += _linear("expand", "decoder.expand_layer", k * d, d)
    parts.append(Part("output_norm.weight", ("decoder.norm.weight",), (d,)))
    return parts


def language_model_parts(config: RunConfig, vocab: int) -> list[Part]:
    """Of a resolved configuration: embedding, compression, Transformer, energy head (once)."""
    model = config.model
    assert isinstance(model, CalmConfig)
    width, k = model.backbone.width, model.chunk_size
    parts = [Part("embedding.weight", ("transformer.embed_tokens.weight",), (vocab,), (width,), by_token=True)]
    parts += _linear("compression.widen", "embed_proj.0", 2 * width, k * width)
    parts += _linear("compression.narrow", "embed_proj.2", width, 2 * width)
    parts += _layer_norm("compression.norm", "embed_proj.3", width)
    return parts + _backbone(config) + _head(config)


def _backbone(config: RunConfig) -> list[Part]:
    backbone = config.model.backbone
    assert backbone.mlp_width is not None, "resolve the configuration first"
    width, own = backbone.width, "backbone.layers"
    kv = (backbone.num_kv_heads or backbone.num_heads) * (width // backbone.num_heads)
    parts = []
    for i in range(backbone.num_layers):
        theirs = f"transformer.layers.{i}"
        qkv = tuple(f"{theirs}.self_attn.{letter}_proj.weight" for letter in "qkv")
        parts.append(Part(f"{own}.{i}.attention.qkv.weight", qkv, (width, kv, kv), (width,)))
        parts.append(
            Part(f"{own}.{i}.attention.out.weight", (f"{theirs}.self_attn.o_proj.weight",), (width,), (width,))
        )
        parts += _swiglu(f"{own}.{i}.mlp", f"{theirs}.mlp", width, backbone.mlp_width)
        parts.append(Part(f"{own}.{i}.attention_norm.weight", (f"{theirs}.input_layernorm.weight",), (width,)))
        parts.append(Part(f"{own}.{i}.mlp_norm.weight", (f"{theirs}.post_attention_layernorm.weight",), (width,)))
    return [*parts, Part("backbone.norm.weight", ("transformer.norm.weight",), (width,))]


def _head(config: RunConfig) -> list[Part]:
    assert isinstance(config.model, CalmConfig)
    head, width = config.model.head, config.model.backbone.width
    assert isinstance(head, EnergyHeadConfig)
    assert head.num_blocks is not None, "resolve the configuration first"
    parts = _linear("head.embed_noise", f"{HEAD}noise_embd", width, head.noise_dim)
    parts += _linear("head.embed_hidden", f"{HEAD}hidden_embd", width, width)
    parts += _layer_norm("head.noise_norm", f"{HEAD}norm_noise", width)
    parts += _layer_norm("head.hidden_norm", f"{HEAD}norm_hidden", width)
    for i in range(head.num_blocks):
        ours, theirs = f"head.blocks.{i}", f"{HEAD}mlp_blocks.{i}"
        parts += _layer_norm(f"{ours}.norm", f"{theirs}.in_ln", width)
        parts += _linear(f"{ours}.join", f"{theirs}.linears.0", width, 2 * width)
        parts += _linear(f"{ours}.middle", f"{theirs}.linears.2", width, width)
        parts += _linear(f"{ours}.gate_up", f"{theirs}.linears.4", 2 * width, width)
        parts += _linear(f"{ours}.down", f"{theirs}.down_proj", width, width)
    parts += _layer_norm("head.output_norm", f"{HEAD}final_layer.in_ln", width)
    parts += _linear("head.output", f"{HEAD}final_layer.linears.0", width, width)
    return parts + _linear("head.to_latent", f"{HEAD}final_layer.linears.2", config.autoencoder.latent_dim, width)


def _linear(ours: str, theirs: str, fan_out: int, fan_in: int) -> list[Part]:
    return [
        Part(f"{ours}.weight", (f"{theirs}.weight",), (fan_out,), (fan_in,)),
        Part(f"{ours}.bias", (f"{theirs}.bias",), (fan_out,)),
    ]


def _layer_norm(ours: str, theirs: str, width: int) -> list[Part]:
    return [Part(f"{ours}.{name}", (f"{theirs}.{name}",), (width,)) for name in ("weight", "bias")]


def _swiglu(ours: str, theirs: str, width: int, inner: int) -> list[Part]:
    gate_up = (f"{theirs}.gate_proj.weight", f"{theirs}.up_proj.weight")
    return [
        Part(f"{ours}.gate_up.weight", gate_up, (inner, inner), (width,)),
        Part(f"{ours}.down.weight", (f"{theirs}.down_proj.weight",), (width,), (inner,)),
    ]

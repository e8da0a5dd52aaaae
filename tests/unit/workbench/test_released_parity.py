"""Imported weights compute what the released code computes: its Llama parts by transformers, the rest by
arithmetic that is written out here on the released tensors, in the released ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.suites.released_weights import (
    AUTOENCODER,
    BLOCKS,
    HEADS,
    LANGUAGE_MODEL,
    LAYERS,
    NOISE,
    VOCAB,
    WIDTH,
    D,
    Folders,
    K,
    L,
    settings,
    write_folders,
)
from workbench.autoencoder import Autoencoder
from workbench.heads.energy import EnergyHead
from workbench.home import open_home
from workbench.model import Calm
from workbench.pretrained_tokenizer import PretrainedTokenizer
from workbench.released.bring import Released, import_released
from workbench.saved_runs import load_run

CLOSE = {"rtol": 1e-5, "atol": 2e-6}
"""Rounding in float32 of values around 1."""
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "released": ({}, {}),
    "all heads": ({}, {"num_key_value_heads": HEADS}),
    "other": (
        {"num_encoder_layers": 4, "num_decoder_layers": 4, "rms_norm_eps": 1e-2},
        {"rope_theta": 500.0, "rms_norm_eps": 3e-2},
    ),
}


@dataclass(frozen=True)
class Imported:
    calm: Calm
    order: Tensor
    """(V,) the released id of each of ours."""
    folders: Folders
    autoencoder: dict[str, Any]
    language_model: dict[str, Any]

    @property
    def theirs(self) -> dict[str, Tensor]:
        return self.folders.language_model_weights

    def ours(self, ids: Tensor) -> Tensor:
        return self.order.argsort()[ids]


@pytest.fixture(scope="module", params=list(CASES))
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    root = tmp_path_factory.mktemp("released")
    autoencoder, language_model = CASES[request.param]
    folders = write_folders(root, autoencoder=autoencoder, language_model=language_model)
    home = open_home(root / "runs")
    run_dir = home.single_runs() / "theirs"
    import_released(
        Released(folders.autoencoder, folders.language_model), run_dir, home=home, overrides=settings(root)
    )
    saved = load_run(run_dir, home)
    assert isinstance(saved.model, Calm)
    assert isinstance(saved.corpus.tokenizer, PretrainedTokenizer)
    order = torch.from_numpy(saved.corpus.tokenizer.order)
    configs = AUTOENCODER | autoencoder, LANGUAGE_MODEL | language_model
    return Imported(saved.model, order, folders, *configs)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def chunks(num: int = 40) -> Tensor:
    """(num, K) released ids."""
    return torch.randint(0, VOCAB, (num, K), generator=torch.Generator().manual_seed(5))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def block(x: Tensor, weights: dict[str, Tensor], name: str, eps: float) -> Tensor:
    """x + W_down(SiLU(W_gate n) * W_up n), n = RMSNorm(x)."""
    n = rms_norm(x, weights[f"{name}.layernorm.weight"], eps)
    gate = n @ weights[f"{name}.mlp.gate_proj.weight"].T
    up = n @ weights[f"{name}.mlp.up_proj.weight"].T
    return x + (gate * torch.sigmoid(gate) * up) @ weights[f"{name}.mlp.down_proj.weight"].T


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class TestAutoencoder:
    @pytest.mark.slow
    def test_encoder(self, imported: Imported) -> None:
        weights, eps = imported.folders.autoencoder_weights, imported.autoencoder["rms_norm_eps"]
        half = imported.autoencoder["num_encoder_layers"] // 2
        ids = chunks()
        x = weights["encoder.embed_tokens.weight"][ids]  # (n, K, d)
        for i in range(half):
            x = block(x, weights, f"encoder.encoder_layers.{i}", eps)
        x = linear(x.reshape(len(ids), K * D), weights, "encoder.squeeze_layer")
        for i in range(half, 2 * half):
            x = block(x, weights, f"encoder.encoder_layers.{i}", eps)
        x = linear(rms_norm(x, weights["encoder.norm.weight"], eps), weights, "encoder.hidden_to_latent")
        posterior = imported.calm.autoencoder.encode(imported.ours(ids))
        torch.testing.assert_close(posterior.mean, x[:, :L], **CLOSE)
        torch.testing.assert_close(posterior.log_std, x[:, L:], **CLOSE)

    def test_decoder(self, imported: Imported) -> None:
        weights, eps = imported.folders.autoencoder_weights, imported.autoencoder["rms_norm_eps"]
        half = imported.autoencoder["num_decoder_layers"] // 2
        latents = torch.randn(30, L, generator=torch.Generator().manual_seed(6))
        x = linear(latents, weights, "decoder.latent_to_hidden")
        for i in range(half):
            x = block(x, weights, f"decoder.decoder_layers.{i}", eps)
        x = linear(x, weights, "decoder.expand_layer").reshape(30, K, D)
        for i in range(half, 2 * half):
            x = block(x, weights, f"decoder.decoder_layers.{i}", eps)
        logits = rms_norm(x, weights["decoder.norm.weight"], eps) @ weights["decoder.lm_head_weight"].T
        ours = imported.calm.autoencoder.logits(latents)[..., imported.order.argsort()]
        torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-5)
        decoded = imported.order[imported.calm.autoencoder.decode(latents)]
        pad = imported.language_model["pad_token_id"]
        logits[..., pad] = -torch.inf  # it stands for a dropped token and is never read out
        assert torch.equal(decoded, logits.argmax(-1))
        assert (decoded != pad).all()


class TestHead:
    def test_generator(self, imported: Imported) -> None:
        weights, rng = imported.theirs, torch.Generator().manual_seed(7)
        noise, hidden = torch.rand(3, 20, NOISE, generator=rng) - 0.5, torch.randn(20, WIDTH, generator=rng)
        name = "mlp_generator"
        e = layer_norm(linear(noise, weights, f"{name}.noise_embd"), weights, f"{name}.norm_noise")
        y = layer_norm(linear(hidden, weights, f"{name}.hidden_embd"), weights, f"{name}.norm_hidden")
        for i in range(BLOCKS):
            part = f"{name}.mlp_blocks.{i}"
            x = torch.cat([layer_norm(e, weights, f"{part}.in_ln"), y.expand(3, -1, -1)], dim=-1)
            x = silu(linear(x, weights, f"{part}.linears.0"))
            x = silu(linear(x, weights, f"{part}.linears.2"))
            gate, up = linear(x, weights, f"{part}.linears.4").chunk(2, dim=-1)
            e = e + linear(silu(gate) * up, weights, f"{part}.down_proj")
        x = linear(layer_norm(e, weights, f"{name}.final_layer.in_ln"), weights, f"{name}.final_layer.linears.0")
        expected = linear(silu(x), weights, f"{name}.final_layer.linears.2")
        head = imported.calm.network.head
        assert isinstance(head, EnergyHead)
        torch.testing.assert_close(head.map(noise, hidden), expected, **CLOSE)

    def test_noise_is_uniform_around_0(self, imported: Imported) -> None:
        head = imported.calm.network.head
        assert isinstance(head, EnergyHead)
        noise = head.noise(400, torch.zeros(5, WIDTH), torch.Generator().manual_seed(8))
        assert noise.shape == (400, 5, NOISE)
        assert -0.5 <= float(noise.min()) < -0.499
        assert 0.499 < float(noise.max()) < 0.5


def test_compression(imported: Imported) -> None:
    weights, ids = imported.theirs, chunks()[None]
    x = weights["transformer.embed_tokens.weight"][ids].reshape(1, -1, K * WIDTH)
    x = layer_norm(
        linear(silu(linear(x, weights, "embed_proj.0")), weights, "embed_proj.2"), weights, "embed_proj.3"
    )
    torch.testing.assert_close(imported.calm.network.embed(imported.ours(ids), None), x, **CLOSE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestAgainstTransformers:
    def test_hidden_states(self, imported: Imported) -> None:
        """Token ids to hidden states, the Transformer by transformers."""
        transformers = pytest.importorskip("transformers")
        config = imported.language_model
        reference = transformers.LlamaModel(
            transformers.LlamaConfig(
                vocab_size=VOCAB,
                hidden_size=WIDTH,
                intermediate_size=config["intermediate_size"],
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                num_key_value_heads=config["num_key_value_heads"],
                rms_norm_eps=config["rms_norm_eps"],
                rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
            )
        ).eval()
        prefix = "transformer."
        own = {k.removeprefix(prefix): v for k, v in imported.theirs.items() if k.startswith(prefix)}
        reference.load_state_dict(own)  # by the released names, all of them
        ids, network = chunks(60)[None], imported.calm.network
        embedded = network.embed(imported.ours(ids), None)
        expected = reference(inputs_embeds=embedded, use_cache=False).last_hidden_state
        found = network(imported.ours(ids), None)
        assert float((found - expected).abs().max()) < 5e-6
        assert float(expected.abs().max()) > 1

    def test_residual_blocks(self, imported: Imported) -> None:
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

        weights, eps = imported.folders.autoencoder_weights, imported.autoencoder["rms_norm_eps"]
        inner = imported.autoencoder["intermediate_size"]
        x = torch.randn(50, D, generator=torch.Generator().manual_seed(9))
        autoencoder: Autoencoder = imported.calm.autoencoder
        for half, count, blocks in (
            ("encoder", imported.autoencoder["num_encoder_layers"], ("encode_token", "encode_chunk")),
            ("decoder", imported.autoencoder["num_decoder_layers"], ("decode_chunk", "decode_token")),
        ):
            for side, name in enumerate(blocks):
                expected = x
                for i in range(side * count // 2, (side + 1) * count // 2):
                    prefix = f"{half}.{half}_layers.{i}."
                    llama = LlamaConfig(hidden_size=D, intermediate_size=inner, num_attention_heads=1)
                    mlp = LlamaMLP(llama)  # type: ignore[no-untyped-call]
                    norm = LlamaRMSNorm(D, eps=eps)
                    own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
                    mlp.load_state_dict({k.removeprefix("mlp."): v for k, v in own.items() if k[:4] == "mlp."})
                    norm.load_state_dict({"weight": own["layernorm.weight"]})
                    expected = expected + mlp(norm(expected))
                found = getattr(autoencoder, name)(x)
                assert float((found - expected).abs().max()) < 2e-6 * max(1.0, float(expected.abs().max()))


def test_the_cases_differ_where_they_should(imported: Imported) -> None:
    """Heads, eps and theta reach the model: a mapping that ignored them would agree with nothing above."""
    backbone = imported.calm.network.backbone.config
    assert backbone.num_kv_heads == imported.language_model["num_key_value_heads"]
    assert (backbone.norm_eps, backbone.rope_theta) == (
        imported.language_model["rms_norm_eps"],
        imported.language_model["rope_theta"],
    )

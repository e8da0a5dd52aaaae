"""The benchmark's plain form of training computes what ours computes: with the same weights, noise and targets.

Letters: B sequences, T tokens, N model samples, M target samples, L latent dimension.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.bench.direct_energy import direct_energy_loss
from tests.suites.small import VOCAB, build_calm, rng, small_config, tokens
from workbench.config import RunConfig
from workbench.optim import build_adamw


def plain_form() -> Any:
    """The benchmark's module. It imports transformers, which takes seconds: where these tests run, not where all
    tests are collected."""
    pytest.importorskip("transformers")
    from tests.bench import plain_training

    return plain_training


def both(num_kv_heads: int = 2) -> tuple[Any, Any, RunConfig]:
    """A CALM and the plain form with its weights (``Any``: torch does not say what a module's parts are)."""
    config = small_config(backbone={"num_kv_heads": num_kv_heads}, head={"distance": "power"})
    calm = build_calm(config)
    plain = plain_form().PlainCalm(config, VOCAB)
    copy_weights(calm, plain)
    return calm, plain, config


@torch.no_grad()
def copy_weights(calm: Any, plain: Any) -> None:
    """Ours into the plain form; every parameter of it must be written."""
    for parameter in plain.parameters():
        parameter.fill_(torch.nan)
    network, head = calm.network, calm.network.head
    plain.llama.embed_tokens.weight.copy_(network.embedding.weight)
    _copy(
        [network.compression.widen, network.compression.narrow, network.compression.norm],
        [plain.compression[0], plain.compression[2], plain.compression[3]],
    )
    for own, other in zip(network.backbone.layers, plain.llama.layers, strict=True):
        attention = other.self_attn
        parts = own.attention.qkv.weight.split([p.out_features for p in _projections(attention)])
        for projection, weight in zip(_projections(attention), parts, strict=True):
            projection.weight.copy_(weight)
        _copy(
            [own.attention.out, own.attention_norm, own.mlp_norm],
            [attention.o_proj, other.input_layernorm, other.post_attention_layernorm],
        )
        _copy_swiglu(own.mlp, other.mlp)
    _copy([network.backbone.norm], [plain.llama.norm])
    for name in ("embed_noise", "noise_norm", "embed_hidden", "hidden_norm", "output_norm"):
        _copy([getattr(head, name)], [getattr(plain.head, name)])
    _copy([head.output, head.to_latent], [plain.head.output[0], plain.head.output[2]])
    for block, simple in zip(head.blocks, plain.head.blocks, strict=True):
        _copy(
            [block.norm, block.join, block.middle, block.gate_up, block.down],
            [simple.norm, simple.mlp[0], simple.mlp[2], simple.mlp[4], simple.down],
        )
    _copy_encoder(calm, plain)
    assert all(parameter.isfinite().all() for parameter in plain.parameters())


def _copy_encoder(calm: Any, plain: Any) -> None:
    ae, encoder = calm.autoencoder, plain.encoder
    _copy(
        [ae.embedding, ae.squeeze, ae.latent_norm, ae.to_latent],
        [encoder.embedding, encoder.squeeze, encoder.norm, encoder.to_latent],
    )
    for own, other in ((ae.encode_token, encoder.token_block), (ae.encode_chunk, encoder.chunk_block)):
        _copy([own.norm], [other.norm])
        _copy_swiglu(own.mlp, other.mlp)


def _projections(attention: Any) -> list[nn.Linear]:
    return [attention.q_proj, attention.k_proj, attention.v_proj]


def _copy(ours: list[nn.Module], theirs: list[nn.Module]) -> None:
    for own, other in zip(ours, theirs, strict=True):
        other.load_state_dict(own.state_dict())


def _copy_swiglu(own: Any, other: Any) -> None:
    gate, up = own.gate_up.weight.chunk(2)
    other.gate_proj.weight.copy_(gate)
    other.up_proj.weight.copy_(up)
    other.down_proj.weight.copy_(own.down.weight)


def noise_of(calm: Any, batch: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """What our head draws from ``rng(seed)`` for a batch (B, T): noise (N, B, P - 1, Z), eps (M, 1, 1, L)."""
    head, generator = calm.network.head.config, rng(seed)
    shape = (len(batch), batch.shape[1] // calm.chunk_size - 1)
    noise = torch.rand((head.num_samples, shape[0] * shape[1], head.noise_dim), generator=generator) - 0.5
    eps = torch.randn((head.num_targets, calm.autoencoder.config.latent_dim), generator=generator)
    return noise.unflatten(1, shape), eps[:, None, None]


@pytest.mark.slow
@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_hidden_states_and_posterior_are_ours(num_kv_heads: int) -> None:
    calm, plain, _ = both(num_kv_heads)
    chunks = calm.chunks(tokens(3, 32))
    torch.testing.assert_close(plain.hidden(chunks), calm.network(chunks), rtol=1e-5, atol=1e-5)
    posterior = calm.autoencoder.encode(chunks)
    mean, log_std = plain.encoder(chunks)
    torch.testing.assert_close((mean, log_std), (posterior.mean, posterior.log_std), rtol=1e-5, atol=1e-5)


def test_head_maps_noise_to_the_same_latents() -> None:
    calm, plain, _ = both()
    noise, hidden = torch.rand((3, 7, 10), generator=rng(1)) - 0.5, torch.randn((7, 32), generator=rng(2))
    ours = calm.network.head.map(noise, hidden)
    assert ours.std(0).min() > 1e-4, "samples must differ"
    torch.testing.assert_close(plain.head(noise, hidden.expand(3, -1, -1)), ours, rtol=1e-5, atol=1e-5)


def test_loss_and_gradients_are_ours_with_the_same_noise() -> None:
    calm, plain, _ = both()
    batch = tokens(3, 32)
    ours = calm.training_loss(batch, rng=rng(5))
    simple = plain.loss(batch, *noise_of(calm, batch, 5))
    torch.testing.assert_close(simple.flatten(), ours, rtol=1e-4, atol=1e-4)
    ours.mean().backward()
    simple.mean().backward()
    network = calm.network
    pairs = [
        (network.embedding.weight, plain.llama.embed_tokens.weight),
        (network.compression.widen.weight, plain.compression[0].weight),
        (network.backbone.layers[0].mlp.down.weight, plain.llama.layers[0].mlp.down_proj.weight),
        (network.head.blocks[0].join.weight, plain.head.blocks[0].mlp[0].weight),
        (network.head.to_latent.weight, plain.head.output[2].weight),
    ]
    for own, other in pairs:
        assert own.grad is not None
        assert own.grad.abs().max() > 1e-4
        torch.testing.assert_close(other.grad, own.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_losses_have_the_same_distribution() -> None:
    """Noise of their own: the same mean at every position. Ours shares its target noise between positions, which
    must not change what it is at any of them."""
    calm, plain, _ = both()
    batch, num = tokens(1, 32), 200
    generator = rng(3)
    torch.manual_seed(4)
    with torch.no_grad():
        ours = torch.stack([calm.training_loss(batch, rng=generator) for _ in range(num)])  # (R, n)
        simple = torch.stack([plain.loss(batch).flatten() for _ in range(num)])
    error = ((ours.var(0) + simple.var(0)) / num).sqrt()
    deviation = (ours.mean(0) - simple.mean(0)) / error
    assert deviation.abs().max() < 4
    assert deviation.square().mean() < 3
    assert error.max() < 0.08 * ours.mean(0).min(), "the errors must be small enough to notice something"
    torch.testing.assert_close(simple.std(0).mean(), ours.std(0).mean(), rtol=0.15, atol=0.0)


def test_steps_change_the_weights_as_ours_do() -> None:
    """Clipping, both groups of weight decay, the frozen encoder left alone."""
    calm, plain, config = both()
    assert config.optim.lr is not None
    ours = build_adamw(
        calm.network, lr=config.optim.lr, betas=config.optim.betas, weight_decay=config.optim.weight_decay
    )
    other = plain_form().plain_optimizer(plain, config)
    frozen = [parameter.clone() for parameter in plain.encoder.parameters()]
    for seed in range(3):
        batch = tokens(3, 32, seed=seed)
        noise = noise_of(calm, batch, seed)
        calm.network.zero_grad()
        calm.training_loss(batch, rng=rng(seed)).mean().backward()
        nn.utils.clip_grad_norm_(calm.network.parameters(), config.optim.clip)
        ours.step()
        plain_form().plain_step(plain, other, batch, config, *noise)
    batch = tokens(3, 32, seed=9)
    chunks = calm.chunks(batch)
    torch.testing.assert_close(plain.hidden(chunks), calm.network(chunks), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(list(plain.encoder.parameters()), frozen, rtol=0, atol=0)


def test_direct_energy_loss_of_point_masses() -> None:
    """All samples at one point, all targets at another: twice the distance. Two clouds of samples: their mean
    distance is taken off."""
    samples, targets = torch.zeros(3, 1, 2), torch.tensor([3.0, 4.0]).expand(5, 1, 2)
    torch.testing.assert_close(direct_energy_loss(samples, targets), torch.tensor([10.0]))
    pair = torch.tensor([[[0.0, 0.0]], [[6.0, 8.0]]])
    torch.testing.assert_close(direct_energy_loss(pair, targets), torch.tensor([10.0 - 10.0]))

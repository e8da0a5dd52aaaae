"""The network of the diffusion and the flow head: its formula, its start, what is shared."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.suites.small import rng
from workbench.heads.adaln import AdaLNNetwork, sinusoids
from workbench.layers import Init, initialise
from workbench.muon import matrices_of
from workbench.testing.head_suite import random

D, L, OUT = 16, 3, 5


def network(scheme: Init = "fan_in") -> AdaLNNetwork:
    built = AdaLNNetwork(hidden_dim=D, latent_dim=L, num_outputs=OUT, num_blocks=2, time_dim=12)
    initialise(built, scheme, rng=rng(0))
    return built


def moved() -> AdaLNNetwork:
    """No weight at its initial value, biases included."""
    built = network()
    with torch.no_grad():
        for index, parameter in enumerate(built.parameters()):
            parameter += 0.2 * torch.randn(parameter.shape, generator=rng(index))
    return built


def test_the_network_is_its_formula() -> None:
    built, x, condition = moved(), random(4, 7, L), random(4, 7, D, seed=1)
    norm = lambda e: (e - e.mean(-1, keepdim=True)) / (e.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()  # noqa: E731
    e = built.embed_latent(x)
    for block in built.blocks:
        shift, scale, gate = block.modulation.linear(F.silu(condition)).chunk(3, -1)
        e = e + gate * block.down(F.silu(block.up(norm(e) * (1 + scale) + shift)))
    shift, scale = built.modulation.linear(F.silu(condition)).chunk(2, -1)
    torch.testing.assert_close(built(x, condition), built.to_latent(norm(e) * (1 + scale) + shift))


def test_a_condition_that_samples_share_is_the_same_as_a_copy_for_each() -> None:
    built, x, condition = moved(), random(4, 7, L), random(1, 7, D, seed=1)
    torch.testing.assert_close(built(x, condition), built(x, condition.expand(4, -1, -1)))


def test_samples_and_positions_do_not_influence_each_other() -> None:
    built, x, condition = moved(), random(4, 7, L), random(1, 7, D, seed=1)
    whole = built(x, condition)
    torch.testing.assert_close(built(x[1:2], condition)[0], whole[1])
    torch.testing.assert_close(built(x[:, 2:3], condition[:, 2:3])[:, 0], whole[:, 2])


@pytest.mark.parametrize("scheme", ["paper", "fan_in"])
def test_a_fresh_network_returns_0_and_its_blocks_are_the_identity(scheme: Init) -> None:
    built, e = network(scheme), random(4, 7, D)
    assert not built(random(4, 7, L), random(4, 7, D)).any()
    assert all(torch.equal(block(e, random(4, 7, D, seed=1)), e) for block in built.blocks)


@pytest.mark.parametrize("scheme", ["paper", "fan_in"])
def test_what_does_not_start_at_zero_starts_by_xavier(scheme: Init) -> None:
    built = AdaLNNetwork(hidden_dim=128, latent_dim=64, num_outputs=64, num_blocks=1, time_dim=256)
    initialise(built, scheme, rng=rng(0))
    for name, layer in built.named_modules():
        if isinstance(layer, nn.Linear):
            zero = name.endswith("modulation.linear") or name == "to_latent"
            std = 0.0 if zero else math.sqrt(2 / (layer.in_features + layer.out_features))
            assert layer.weight.std().item() == pytest.approx(std, rel=0.03), name
            assert not layer.bias.any(), name


def test_an_optimizer_for_inner_matrices_takes_the_square_ones_that_do_not_start_at_zero() -> None:
    built = network()
    names = {id(parameter): name for name, parameter in built.named_parameters()}
    inner = {names[id(weight)] for weight, _ in matrices_of(built)}
    blocks = {f"blocks.{i}.{layer}.weight" for i in range(2) for layer in ("up", "down")}
    assert inner == blocks | {"time_out.weight", "embed_hidden.weight"}


def test_sinusoids_by_hand() -> None:
    found = sinusoids(torch.tensor([0.0, 2.5]), 4)
    expected = [math.cos(2.5), math.cos(0.025), math.sin(2.5), math.sin(0.025)]
    assert found[0].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert found[1].tolist() == pytest.approx(expected, abs=1e-6)


def test_times_within_one_step_are_told_apart_and_distant_ones_are_not_confused() -> None:
    steps = torch.arange(0, 1000.01, 0.1)
    embedded = sinusoids(steps, 256)
    assert (embedded[1:] - embedded[:-1]).norm(dim=-1).min() > 0.1
    near = torch.cdist(embedded, embedded[::500])
    assert ((near < 0.5).sum(0) <= 7).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_mixed_precision(dtype: torch.dtype) -> None:
    """The arguments of the sinusoids stay float32, and so does what the network returns."""
    built, steps = moved(), torch.tensor([1000.0, 999.3])
    seen: list[Tensor] = []
    built.blocks[0].register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert torch.equal(sinusoids(steps, 12), sinusoids(steps.double().float(), 12))
        assert built(random(4, 7, L), random(4, 7, D)).dtype == torch.float32
    assert seen[0].dtype == dtype

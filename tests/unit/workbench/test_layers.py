"""Norms, the two initialisations as measured, and keyed generators."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.suites.small import rng
from workbench.layers import (
    Init,
    LayerNorm,
    ResidualMLP,
    RMSNorm,
    SwiGLU,
    generator,
    initialise,
    mark_residual_output,
    mark_tied_output,
    mark_zero,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=rng(seed))


def test_rms_norm_is_its_formula() -> None:
    norm = RMSNorm(8)
    norm.weight.data = random(8, seed=1)
    x = 3 * random(5, 8) + 1
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


def test_rms_norm_of_a_tiny_input_shows_its_eps() -> None:
    x = torch.full((1, 4), 1e-3)
    torch.testing.assert_close(RMSNorm(4)(x), x / math.sqrt(2e-6))


def test_layer_norm_is_its_formula_with_eps_1e6() -> None:
    norm = LayerNorm(8)
    norm.weight.data, norm.bias.data = random(8, seed=1), random(8, seed=2)
    x = 1e-3 * random(5, 8)  # small enough for eps to matter
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("norm", [RMSNorm(8), LayerNorm(8)])
def test_norms_keep_the_dtype_of_their_input(norm: nn.Module) -> None:
    assert norm(random(2, 8).bfloat16()).dtype == torch.bfloat16


def test_swiglu_and_the_residual_block_are_their_formulas() -> None:
    block = ResidualMLP(6, 10)
    initialise(block, "fan_in", rng=rng(0))
    x = random(3, 6)
    gate, up = block.mlp.gate_up.weight[:10], block.mlp.gate_up.weight[10:]
    normed = block.norm(x)
    inner = F.silu(normed @ gate.T) * (normed @ up.T)
    torch.testing.assert_close(block(x), x + inner @ block.mlp.down.weight.T)


def test_swiglu_has_no_biases() -> None:
    assert all(p.ndim == 2 for p in SwiGLU(6, 10).parameters())


class Kinds(nn.Module):
    """One layer of every kind the initialisations tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(400, 300)
        self.residual = nn.Linear(400, 300)
        mark_residual_output(self.residual, num_outputs=8)
        self.last = nn.Linear(400, 300)
        mark_zero(self.last)
        self.embedding = nn.Embedding(500, 256)
        self.tied = nn.Embedding(500, 256)
        mark_tied_output(self.tied)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("paper", {"linear": 0.02, "residual": 0.02, "last": 0.0, "embedding": 0.02, "tied": 0.02}),
        (
            "fan_in",
            {
                "linear": 1 / math.sqrt(400),
                "residual": 1 / math.sqrt(400 * 8),
                "last": 0.0,
                "embedding": 1.0,
                "tied": 1 / math.sqrt(256),
            },
        ),
    ],
)
def test_measured_deviation_of_every_kind_of_layer(scheme: Init, expected: dict[str, float]) -> None:
    module = Kinds()
    initialise(module, scheme, rng=rng(0))
    for name, std in expected.items():
        weight = getattr(module, name).weight
        assert weight.std().item() == pytest.approx(std, rel=0.02), name
        assert weight.mean().item() == pytest.approx(0.0, abs=0.02 * std + 1e-12), name
    for name in ("linear", "residual", "last"):
        assert not getattr(module, name).bias.any()


def test_initialisation_depends_on_the_generator_alone() -> None:
    first, second, third = Kinds(), Kinds(), Kinds()
    initialise(first, "fan_in", rng=rng(0))
    initialise(second, "fan_in", rng=rng(0))
    initialise(third, "fan_in", rng=rng(1))
    assert torch.equal(first.linear.weight, second.linear.weight)
    assert not torch.equal(first.linear.weight, third.linear.weight)


def test_generators_of_equal_keys_are_equal_and_of_different_keys_different() -> None:
    keys: list[tuple[int | str, ...]] = [(0, "train", 1), (0, "train", 2), (1, "train", 1), (0, "eval", 1)]
    keys += [(0, "train"), (0, "train", "1"), (0,), (1, 0), (10,)]
    drawn = [torch.rand(4, generator=generator(*key)) for key in keys]
    for key, values in zip(keys, drawn, strict=True):
        assert torch.equal(values, torch.rand(4, generator=generator(*key)))
    for first, second in itertools.combinations(drawn, 2):
        assert not torch.equal(first, second)

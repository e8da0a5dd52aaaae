"""Heads: the common contract, and what is the energy head's own."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.suites.small import rng
from workbench.config import BackboneConfig, CalmConfig, EnergyHeadConfig, RunConfig
from workbench.energy_score import PowerDistance, plain_energy_loss
from workbench.flops import parameters
from workbench.head_sections import HEAD_SECTIONS
from workbench.heads import HEADS, build_head
from workbench.heads.base import Head
from workbench.heads.energy import EnergyHead
from workbench.layers import initialise
from workbench.testing.head_suite import HIDDEN, LATENT, HeadSuite, perturbed, posterior, random
from workbench.testing.two_modes import (
    LARGEST_DISTANCE,
    check_mixture,
    distance_to_truth,
    energy_distance,
    two_modes,
)


def energy_head(**fields: float) -> EnergyHead:
    config = EnergyHeadConfig.model_validate({"num_blocks": 2, "num_targets": 50, **fields})
    head = build_head(config, hidden_dim=HIDDEN, latent_dim=LATENT)
    initialise(head, "fan_in", rng=rng(0))
    assert isinstance(head, EnergyHead)
    return head


class TestEnergyHead(HeadSuite):
    """With more of its own draws and fewer of the target than by default: the same law in fewer steps. Six of six
    seeds pass (600 steps, or a rate of 5e-3: not all)."""

    steps = 1000
    lr = 3e-3

    def build(self) -> Head:
        return energy_head(num_samples=16, num_targets=16)


def moved() -> EnergyHead:
    head = perturbed(energy_head())
    assert isinstance(head, EnergyHead)
    return head


def test_the_table_names_every_kind_of_configuration() -> None:
    names = {kind: head.__name__ for kind, head in HEADS.items()}
    assert names == {"energy": "EnergyHead", "diffusion": "DiffusionHead", "flow": "FlowHead"}
    assert set(HEADS) == set(HEAD_SECTIONS)


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_carries_its_configuration(kind: str) -> None:
    config = HEAD_SECTIONS[kind](num_blocks=2)
    head = build_head(config, hidden_dim=HIDDEN, latent_dim=LATENT)
    assert type(head) is HEADS[kind]
    assert head.config == config


class TestTheMixtureCheck:
    """The suite's check of trained heads passes the truth and refuses what is wrong."""

    @staticmethod
    def truth(c: float, seed: int = 0) -> Tensor:
        return two_modes(torch.full((4000,), c), rng(seed)).sample(rng=rng(seed + 100))

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("c", [1.0, -1.0])
    def test_the_truth_passes_with_room(self, c: float, seed: int) -> None:
        assert check_mixture(self.truth(c, seed), c) < LARGEST_DISTANCE / 5

    @staticmethod
    def wrong(kind: str, c: float) -> Tensor:
        """4,000 samples of another distribution."""
        samples = TestTheMixtureCheck.truth(c)
        upper = samples[:, 0] > c
        if kind == "equal weights":
            return torch.cat([mode[torch.arange(2000) % len(mode)] for mode in (samples[upper], samples[~upper])])
        if kind == "heavier mode only":
            return samples[upper if c > 0 else ~upper]
        if kind == "lighter mode only":
            return samples[~upper if c > 0 else upper]
        if kind == "wide":
            centre = torch.stack([torch.where(upper, c + 1, c - 1), torch.full_like(samples[:, 1], 2 * c)], -1)
            return centre + 2 * (samples - centre)
        if kind == "other condition":
            return TestTheMixtureCheck.truth(-c)
        return samples.mean(0) + samples.std(0) * torch.randn(samples.shape, generator=rng())

    @pytest.mark.parametrize("c", [1.0, -1.0])
    @pytest.mark.parametrize(
        "kind",
        ["equal weights", "heavier mode only", "lighter mode only", "wide", "other condition", "one normal mode"],
    )
    def test_wrong_distributions_are_refused_and_by_the_distance_alone(self, kind: str, c: float) -> None:
        samples = self.wrong(kind, c)
        assert distance_to_truth(samples, c) > 2 * LARGEST_DISTANCE
        with pytest.raises(AssertionError):
            check_mixture(samples, c)

    def test_the_distance_of_two_normal_distributions_is_its_closed_form(self) -> None:
        """One dimension, deviations 1, means 1 apart: 2 (E|N(1, 2)| - E|N(0, 2)|), folded normals."""
        x, y = torch.randn(2, 4000, 1, generator=rng())
        expected = 2 * (math.erf(0.5) + 2 / math.pi**0.5 * (math.exp(-0.25) - 1))
        assert energy_distance(x + 1, y) == pytest.approx(expected, abs=0.05)
        assert energy_distance(x, y) == pytest.approx(0.0, abs=0.003)


def test_a_head_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Head()


def test_the_map_is_deterministic_and_its_samples_do_not_influence_each_other() -> None:
    head, noise, hidden = moved(), random(3, 7, 64) / 4, random(7, HIDDEN, seed=1)
    mapped = head.map(noise, hidden)
    assert torch.equal(mapped, head.map(noise, hidden))
    torch.testing.assert_close(head.map(noise[1:2], hidden)[0], mapped[1])
    torch.testing.assert_close(head.map(noise[:, 2:3], hidden[2:3])[:, 0], mapped[:, 2])


def test_sampling_is_the_map_of_uniform_noise() -> None:
    head, hidden = moved(), random(7, HIDDEN)
    noise = torch.rand((3, 7, 64), generator=rng()) - 0.5
    assert torch.equal(head.sample(hidden, num_samples=3, rng=rng()), head.map(noise, hidden))
    drawn = head.noise(200, random(50, HIDDEN), rng())
    assert drawn.min().item() == pytest.approx(-0.5, abs=1e-3)
    assert drawn.max().item() == pytest.approx(0.5, abs=1e-3)
    assert drawn.var().item() == pytest.approx(1 / 12, rel=0.01)


def test_the_shared_work_is_exact() -> None:
    """The published formula, every sample with a copy of y of its own and the concatenation formed."""
    head, noise, hidden = moved(), random(3, 7, 64) / 4, random(7, HIDDEN, seed=1)
    norm = lambda layer, x: F.layer_norm(x, (HIDDEN,), layer.weight, layer.bias, 1e-6)  # noqa: E731
    e = norm(head.noise_norm, head.embed_noise(noise))
    y = norm(head.hidden_norm, head.embed_hidden(hidden)).expand(3, -1, -1)
    for block in head.blocks:
        joined = torch.cat([norm(block.norm, e), y], -1)
        gate, up = block.gate_up(F.silu(block.middle(F.silu(block.join(joined))))).chunk(2, -1)
        e = e + block.down(F.silu(gate) * up)
    expected = head.to_latent(F.silu(head.output(norm(head.output_norm, e))))
    torch.testing.assert_close(head.map(noise, hidden), expected)


@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.5])
def test_the_loss_is_the_energy_score_of_n_samples_and_m_targets(alpha: float) -> None:
    head = perturbed(energy_head(num_samples=3, num_targets=6, alpha=alpha))
    assert isinstance(head, EnergyHead)
    hidden, target, generator = random(7, HIDDEN), posterior(7), rng()
    samples = head.map(torch.rand((3, 7, 64), generator=generator) - 0.5, hidden)
    eps = torch.randn((6, LATENT), generator=generator)
    expected = plain_energy_loss(samples, target.mean + target.std * eps[:, None], distance=PowerDistance(alpha))
    torch.testing.assert_close(head.loss(hidden, target, rng=rng()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheme", ["paper", "fan_in"])
def test_a_fresh_head_is_constant_because_its_last_layer_is_zero(scheme: str) -> None:
    head = energy_head()
    initialise(head, scheme, rng=rng(0))  # type: ignore[arg-type]
    assert not head.sample(random(7, HIDDEN), num_samples=3, rng=rng()).any()


def test_mixed_precision_leaves_samples_and_loss_in_float32() -> None:
    head, hidden = moved(), random(7, HIDDEN)
    plain = head.loss(hidden, posterior(7), rng=rng())
    with torch.autocast("cpu", torch.bfloat16):
        loss = head.loss(hidden, posterior(7), rng=rng())
        assert head.sample(hidden, num_samples=2, rng=rng()).dtype == torch.float32
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain, rtol=0.05, atol=0.05)


def test_structure_of_a_block_and_biases_everywhere() -> None:
    block = energy_head().blocks[0]
    shapes = {name: tuple(p.shape) for name, p in block.named_parameters() if p.ndim == 2}
    d = HIDDEN
    assert shapes == {
        "join.weight": (d, 2 * d),
        "middle.weight": (d, d),
        "gate_up.weight": (2 * d, d),
        "down.weight": (d, d),
    }
    linear = [m for m in energy_head().modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == 2 + 2 * 4 + 2
    assert all(layer.bias is not None for layer in linear)


def test_at_the_papers_size_the_head_has_a_quarter_of_the_layers_and_about_a_tenth_of_the_parameters() -> None:
    backbone = BackboneConfig(width=1024, num_layers=16, num_heads=16, mlp_width=2752)
    config = RunConfig(model=CalmConfig(backbone=backbone)).resolved()
    assert isinstance(config.model, CalmConfig)
    assert config.model.head.num_blocks == 4
    counted = parameters(config, 128_256)
    without_embedding = counted["total"] - counted["embedding"]
    assert counted["head"] / without_embedding == pytest.approx(0.1, abs=0.03)

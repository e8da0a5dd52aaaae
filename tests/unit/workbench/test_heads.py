"""Heads: the common contract, and what is the energy head's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.suites.head_suite import HIDDEN, LATENT, HeadSuite, perturbed, posterior, random
from tests.suites.small import rng
from workbench.config import BackboneConfig, CalmConfig, EnergyHeadConfig, RunConfig
from workbench.energy_score import PowerDistance, plain_energy_loss
from workbench.flops import parameters
from workbench.heads import HEADS, build_head
from workbench.heads.base import Head
from workbench.heads.energy import EnergyHead
from workbench.layers import initialise


def energy_head(**fields: float) -> EnergyHead:
    config = EnergyHeadConfig.model_validate({"num_blocks": 2, "num_targets": 50, **fields})
    head = build_head(config, hidden_dim=HIDDEN, latent_dim=LATENT)
    initialise(head, "fan_in", rng=rng(0))
    assert isinstance(head, EnergyHead)
    return head


class TestEnergyHead(HeadSuite):
    def build(self) -> Head:
        return energy_head()


def moved() -> EnergyHead:
    head = perturbed(energy_head())
    assert isinstance(head, EnergyHead)
    return head


def test_the_table_names_every_kind_of_configuration() -> None:
    assert {kind: head.__name__ for kind, head in HEADS.items()} == {"energy": "EnergyHead"}


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

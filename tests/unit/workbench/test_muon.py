"""Muon: the iteration against a singular value decomposition, the update written out, state kept and restored."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.suites.small import VOCAB, build_baseline, build_calm, rng, small_config
from workbench import checkpoint, flops
from workbench.config import OptimConfig, RunConfig
from workbench.layers import mark_blocks
from workbench.muon import Muon, matrices_of, orthogonalise
from workbench.optim import build_adamw, build_optimizer, scale_rates
from workbench.optimizers import AdamW, Together

SHAPES = [(16, 16), (16, 40), (40, 16)]


def polar(matrix: Tensor) -> Tensor:
    u, _, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (u @ vt).to(matrix.dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_five_steps_bring_every_singular_value_near_one(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrices = torch.randn(6, *shape, generator=rng())
    found = orthogonalise(matrices, dtype=dtype)
    assert found.dtype == dtype
    singular, values = torch.linalg.svdvals(matrices), torch.linalg.svdvals(found.float())
    large = singular / singular.norm(dim=-1, keepdim=True) > 0.02
    assert values[large].min() > 0.85
    assert values.max() < 1.15


@pytest.mark.parametrize("shape", SHAPES)
def test_the_directions_are_those_of_the_polar_factor(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=rng())
    (found,) = orthogonalise(matrix[None], dtype=torch.float32)
    unit = polar(matrix)
    cosine = (found * unit).sum() / (found.norm() * unit.norm())
    assert cosine > 0.99


def test_a_batch_is_its_matrices_one_by_one() -> None:
    matrices = torch.randn(3, 8, 12, generator=rng())
    together = orthogonalise(matrices, dtype=torch.float32)
    alone = torch.cat([orthogonalise(m[None], dtype=torch.float32) for m in matrices])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


def test_a_zero_gradient_stays_zero() -> None:
    assert not orthogonalise(torch.zeros(2, 8, 8), dtype=torch.float32).any()


def test_the_update_is_the_one_of_the_docstring() -> None:
    layer = nn.Linear(6, 8, bias=False)
    mark_blocks(layer, rows=(4, 4), columns=(6,))
    before = layer.weight.detach().clone()
    muon = Muon(matrices_of(layer), lr=0.1, momentum=0.9, weight_decay=0.5, dtype=torch.float32)
    mean = torch.zeros_like(before)
    for step in range(3):
        layer.weight.grad = torch.randn(8, 6, generator=rng(step))
        muon.step()
        mean = 0.9 * mean + 0.1 * layer.weight.grad
        mixed = 0.1 * layer.weight.grad + 0.9 * mean
        units = [orthogonalise(part[None], dtype=torch.float32)[0] for part in mixed.chunk(2)]
        before = before * (1 - 0.1 * 0.5) - 0.1 * 0.2 * math.sqrt(6) * torch.cat(units)
    torch.testing.assert_close(layer.weight.detach(), before)


def test_an_update_every_third_step_is_three_times_as_long() -> None:
    layer = nn.Linear(6, 8, bias=False)
    start = layer.weight.detach().clone()
    muon = Muon(matrices_of(layer), lr=0.1, momentum=0.9, weight_decay=0.5, dtype=torch.float32, every=3)
    mean = torch.zeros_like(start)
    for step in range(3):
        assert torch.equal(layer.weight.detach(), start)
        layer.weight.grad = torch.randn(8, 6, generator=rng(step))
        muon.step()
        mean = 0.9 * mean + 0.1 * layer.weight.grad
    (unit,) = orthogonalise((0.1 * layer.weight.grad + 0.9 * mean)[None], dtype=torch.float32)
    expected = start * (1 - 3 * 0.1 * 0.5) - 3 * 0.1 * 0.2 * math.sqrt(8) * unit
    torch.testing.assert_close(layer.weight.detach(), expected)


def test_the_root_mean_square_of_an_update_is_a_fifth_of_the_rate() -> None:
    layer = nn.Linear(64, 64, bias=False)
    before = layer.weight.detach().clone()
    muon = Muon(matrices_of(layer), lr=1.0, momentum=0.95, weight_decay=0.0, dtype=torch.float32)
    layer.weight.grad = torch.randn(64, 64, generator=rng())
    muon.step()
    assert (layer.weight.detach() - before).square().mean().sqrt().item() == pytest.approx(0.2, rel=0.15)


def muon_config(**fields: object) -> OptimConfig:
    return OptimConfig.model_validate({"kind": "muon", "lr": 1e-3, "matrix_lr": 2e-3, **fields})


@pytest.mark.parametrize("mode", ["tokens", "latent", "both"])
def test_it_takes_the_inner_matrices_and_leaves_the_rest_to_adamw(mode: str) -> None:
    config = small_config(input_mode=mode)
    network = build_calm(config).network
    names = {id(p): name for name, p in network.named_parameters()}
    taken = [names[id(weight)] for weight, _ in matrices_of(network)]
    assert not [n for n in taken if "embed_noise" in n or "to_latent" in n or "embedding" in n or "bias" in n]
    assert "backbone.layers.0.attention.qkv.weight" in taken
    optimizer = build_optimizer(network, muon_config(), dtype="float32")
    assert isinstance(optimizer, Together)
    covered = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(covered) == sorted(names)
    shapes = [(r, c) for weight, (rows, columns) in matrices_of(network) for r in rows for c in columns]
    assert sorted(shapes) == sorted(flops.inner_matrices(config.model))


def test_rates_are_scaled_from_what_each_part_was_built_with() -> None:
    optimizer = build_optimizer(
        build_baseline(small_config(baseline=True)).network, muon_config(), dtype="float32"
    )
    for factor in (0.5, 0.25, 1.0):
        scale_rates(optimizer, factor)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == [2e-3 * factor, 1e-3 * factor, 1e-3 * factor]


def with_muon(config: RunConfig, every: int) -> RunConfig:
    update = {"kind": "muon", "lr": 1e-3, "matrix_every": every}
    return config.model_copy(update={"optim": config.optim.model_copy(update=update)})


@pytest.mark.parametrize(("baseline", "every"), [(True, 1), (False, 1), (False, 3)])
def test_its_matrix_products_are_counted(baseline: bool, every: int) -> None:
    config = with_muon(small_config(baseline=baseline), every).resolved()
    network = (build_baseline(config) if baseline else build_calm(config)).network
    optimizer = build_optimizer(network, config.optim, dtype="float32")
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=rng())
    with FlopCounterMode(display=False) as counter:
        for _ in range(every):
            optimizer.step()
    counted = flops.train_step_costs(config, VOCAB)["optimizer"].total
    assert every * counted == counter.get_total_flops() > 0


def test_a_step_after_loading_the_checkpoint_is_the_step_without_it(tmp_path: Path) -> None:
    network = build_baseline(small_config(baseline=True)).network

    def update(module: nn.Module, optimizer: Together, seed: int) -> None:
        for p in module.parameters():
            p.grad = torch.randn(p.shape, generator=rng(seed))
        scale_rates(optimizer, 0.5)
        optimizer.step()

    def fresh(module: nn.Module) -> Together:
        built = build_optimizer(module, muon_config(), dtype="float32")
        assert isinstance(built, Together)
        return built

    optimizer = fresh(network)
    update(network, optimizer, 1)
    checkpoint.save(tmp_path / "checkpoint", network, {"step": 1}, optimizer)
    other = copy.deepcopy(network)
    loaded = fresh(other)
    assert checkpoint.load(tmp_path / "checkpoint", other, loaded) == {"step": 1}
    update(network, optimizer, 2)
    update(other, loaded, 2)
    for name, p in network.named_parameters():
        assert torch.equal(p, other.get_parameter(name)), name


def test_adamw_alone_covers_everything() -> None:
    network = build_baseline(small_config(baseline=True)).network
    optimizer = build_optimizer(network, OptimConfig(lr=1e-3), dtype="float32")
    assert isinstance(optimizer, AdamW)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in network.parameters()}


def test_adamw_is_torchs() -> None:
    ours, theirs = (build_baseline(small_config(baseline=True)).network for _ in range(2))
    optimizer = build_adamw(ours, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-2,
        betas=(0.9, 0.95),
        fused=True,
    )
    for step in range(4):
        for module in (ours, theirs):
            for index, p in enumerate(module.parameters()):
                p.grad = torch.randn(p.shape, generator=rng(100 * step + index))
        optimizer.step()
        reference.step()
    for name, p in ours.named_parameters():
        assert torch.equal(p, theirs.get_parameter(name)), name


@pytest.mark.slow
def test_the_first_step_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch; from workbench.optim import build_adamw; layer = torch.nn.Linear(2, 2); "
        "o = build_adamw(layer, lr=1.0, betas=(0.9, 0.95), weight_decay=0.1); "
        "layer(torch.ones(1, 2)).sum().backward(); o.step(); layer.zero_grad(); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

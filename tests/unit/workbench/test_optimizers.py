"""The state of an optimizer as a checkpoint's tensors, and what is refused when it is read back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from workbench.muon import Muon, matrices_of
from workbench.optim import build_adamw
from workbench.optimizers import Optimizer, Together

Build = Callable[[nn.Module], Optimizer]


def adamw(network: nn.Module) -> Optimizer:
    return build_adamw(network, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)


def muon(network: nn.Module) -> Optimizer:
    return Muon(matrices_of(network), lr=1e-2, momentum=0.95, weight_decay=0.1, dtype=torch.float32, every=2)


def both(network: nn.Module) -> Optimizer:
    taken = {id(weight) for weight, _ in matrices_of(network)}
    rest = build_adamw(network, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, leave_out=taken)
    return Together([muon(network), rest])


BUILDS = pytest.mark.parametrize("build", [adamw, muon, both])


def layers(width: int = 6, *, num: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(num)])


def update(network: nn.Module, optimizer: Optimizer, *, seed: int = 0) -> None:
    rng = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=rng)
    optimizer.step()


@BUILDS
def test_before_the_first_update_there_is_nothing_to_keep(build: Build) -> None:
    network = layers()
    optimizer = build(network)
    assert optimizer.tensors() == {}
    optimizer.load({})
    update(network, optimizer)


@BUILDS
def test_every_parameter_has_its_number_in_the_order_of_the_groups(build: Build) -> None:
    network = layers()
    optimizer = build(network)
    update(network, optimizer)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = optimizer.tensors()
    assert {int(key.split(".")[0]) for key in tensors} == set(range(len(params)))
    for key, value in tensors.items():
        number, name = key.split(".")
        assert value.shape == (() if name == "step" else params[int(number)].shape), key


@BUILDS
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_what_was_loaded_goes_on_exactly(build: Build, steps: int) -> None:
    first, second = layers(), layers()
    one = build(first)
    for seed in range(steps):
        update(first, one, seed=seed)
    second.load_state_dict(first.state_dict())
    other = build(second)
    other.load({key: value.clone() for key, value in one.tensors().items()})
    for seed in (10, 11):
        update(first, one, seed=seed)
        update(second, other, seed=seed)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


@BUILDS
@pytest.mark.parametrize("num", [1, 3])
def test_a_state_of_more_or_fewer_parameters_is_refused(build: Build, num: int) -> None:
    other = layers(num=num)
    optimizer = build(other)
    update(other, optimizer)
    found = len(optimizer.state)
    wanted = build(layers())
    with pytest.raises(ValueError, match=f"state of {found} parameters found, of {len(wanted.state)} wanted"):
        wanted.load(optimizer.tensors())


@BUILDS
def test_a_state_of_other_shapes_is_refused(build: Build) -> None:
    other = layers(width=5)
    optimizer = build(other)
    update(other, optimizer)
    with pytest.raises(ValueError, match=r"of parameter 0 has shape \(5, 5\)"):
        build(layers()).load(optimizer.tensors())


def test_a_parameter_without_a_gradient_stays_and_is_kept_and_loaded() -> None:
    network = layers()
    unused = network[1].weight
    before = unused.detach().clone()
    optimizer = adamw(network)
    for seed in range(2):
        rng = torch.Generator().manual_seed(seed)
        for p in network.parameters():
            p.grad = None if p is unused else torch.randn(p.shape, generator=rng)
        optimizer.step()
    assert torch.equal(unused, before)
    loaded = adamw(layers())
    loaded.load(optimizer.tensors())
    assert [float(entry["step"]) for entry in loaded.state] == [2.0, 0.0, 2.0, 2.0]


def test_a_state_of_another_optimizer_is_refused() -> None:
    network = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    for build, other in ((adamw, muon), (muon, adamw)):
        optimizer = build(network)
        update(network, optimizer)
        with pytest.raises(ValueError, match=r"parameter 0 has .*, wanted are"):
            other(network).load(optimizer.tensors())

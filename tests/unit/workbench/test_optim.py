"""Decay groups and the learning-rate schedule."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.suites.small import build_calm, small_config
from workbench.optim import autocast, build_adamw, phase_after, rate_factor, scale_rates


def test_weight_decay_acts_on_matrices_and_not_on_biases_and_norms() -> None:
    network = build_calm(small_config()).network
    optimizer = build_adamw(network, lr=0.1, betas=(0.8, 0.9), weight_decay=0.3)
    decayed = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        expected = 0.3 if parameter.ndim == 2 else 0.0
        assert decayed.pop(id(parameter)) == expected, name
        assert (parameter.ndim == 2) == (name.endswith("weight") and "norm" not in name), name
    assert not decayed
    assert all(group["betas"] == (0.8, 0.9) for group in optimizer.param_groups)


def test_a_frozen_parameter_is_left_out() -> None:
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    optimizer = build_adamw(layer, lr=0.1, betas=(0.9, 0.95), weight_decay=0.0)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 0]


def test_a_step_is_adamws() -> None:
    """The first step of AdamW: decay by lr * weight_decay, then lr against the gradient's sign."""
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0]]))
        layer.bias.fill_(3.0)
    optimizer = build_adamw(layer, lr=1.0, betas=(0.9, 0.95), weight_decay=0.5)
    scale_rates(optimizer, 0.01)
    layer(torch.tensor([[1.0, -1.0]])).sum().backward()
    optimizer.step()
    torch.testing.assert_close(layer.weight, torch.tensor([[0.995 - 0.01, -1.99 + 0.01]]))
    torch.testing.assert_close(layer.bias, torch.tensor([2.99]))


def test_the_rate_rises_stays_and_falls() -> None:
    factors = [rate_factor(step, 20, warmup_steps=4, decay_steps=4) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:16] == [1.0] * 12
    assert factors[16:] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_without_warmup_and_decay_the_rate_is_constant() -> None:
    assert {rate_factor(step, 5, warmup_steps=0, decay_steps=0) for step in range(5)} == {1.0}


def test_the_rate_is_never_0_and_never_above_1() -> None:
    for warmup, decay in ((0, 10), (5, 5), (10, 0), (1, 9)):
        factors = [rate_factor(step, 10, warmup_steps=warmup, decay_steps=decay) for step in range(10)]
        assert 0 < min(factors) <= max(factors) <= 1


def test_the_phase_after_so_many_steps() -> None:
    phases = [phase_after(done, 20, warmup_steps=4, decay_steps=5) for done in range(1, 21)]
    assert phases == ["warmup"] * 3 + ["constant"] * 12 + ["decaying"] * 4 + ["decayed"]


def test_the_phase_is_constant_exactly_while_no_step_was_decayed() -> None:
    for done in range(4, 21):
        last = rate_factor(done - 1, 20, warmup_steps=4, decay_steps=5)
        phase = phase_after(done, 20, warmup_steps=4, decay_steps=5)
        assert (phase == "constant") == (last == 1.0)


def test_a_run_without_decay_ends_in_the_constant_phase() -> None:
    assert phase_after(20, 20, warmup_steps=4, decay_steps=0) == "constant"


@pytest.mark.parametrize(("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autocast_follows_the_dtype(dtype: str, expected: torch.dtype) -> None:
    with autocast("cpu", dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected

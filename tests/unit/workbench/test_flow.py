"""The flow head: closed forms of a Gaussian target, times, network calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.suites.small import rng
from workbench.config import FlowHeadConfig
from workbench.heads import build_head
from workbench.heads.base import Head
from workbench.heads.flow import FlowHead
from workbench.layers import initialise
from workbench.posterior import Posterior
from workbench.testing.head_suite import HIDDEN, LATENT, HeadSuite, perturbed, posterior, random

MEAN, STD = torch.tensor([1.5, -0.5]), torch.tensor([0.3, 2.0])
"""Of a Gaussian target whose velocity field is known."""


def flow_head(**fields: Any) -> FlowHead:
    head = build_head(FlowHeadConfig(num_blocks=2, **fields), hidden_dim=HIDDEN, latent_dim=LATENT)
    initialise(head, "fan_in", rng=rng(0))
    assert isinstance(head, FlowHead)
    return head


def moved(**fields: Any) -> FlowHead:
    head = perturbed(flow_head(**fields))
    assert isinstance(head, FlowHead)
    return head


class TestFlowHead(HeadSuite):
    steps, batch, lr = 400, 256, 1e-2

    def build(self) -> Head:
        return flow_head()


def exact_velocity(state: Tensor, times: Tensor, embedded: Tensor) -> Tensor:
    """E[z - x0 | x_t] for z ~ N(MEAN, STD^2): x_t ~ N(t MEAN, (1 - t)^2 + t^2 STD^2)."""
    t = times.unsqueeze(-1)
    variance = (1 - t) ** 2 + (t * STD) ** 2
    return MEAN + (t * STD**2 - (1 - t)) / variance * (state - t * MEAN)


def gaussian(num: int) -> Posterior:
    return Posterior(MEAN.expand(num, -1), STD.log().expand(num, -1))


def with_velocity(head: FlowHead, velocity: Callable[[Tensor, Tensor, Tensor], Tensor]) -> FlowHead:
    head.velocity = velocity  # type: ignore[method-assign]
    return head


@pytest.mark.parametrize("spacing", ["uniform", "dense_start", "dense_end"])
@pytest.mark.parametrize(
    ("solver", "num_calls"), [("euler", 800), ("midpoint", 100), ("adams", 100), ("rk4", 100)]
)
def test_the_exact_field_of_a_gaussian_carries_noise_to_its_quantile(
    solver: str, num_calls: int, spacing: str
) -> None:
    """Every dimension by itself: x0 goes to MEAN + STD x0."""
    head = with_velocity(flow_head(solver=solver, num_calls=num_calls, spacing=spacing), exact_velocity)
    samples = head.sample(random(3, HIDDEN), num_samples=500, rng=rng())
    noise = torch.randn(500, 3, LATENT, generator=rng())
    assert (samples - (MEAN + STD * noise)).abs().max() < 0.03
    assert samples.mean((0, 1)).tolist() == pytest.approx(MEAN.tolist(), abs=0.15)
    assert samples.std((0, 1)).tolist() == pytest.approx(STD.tolist(), rel=0.1)


def test_few_calls_miss_it_and_higher_orders_by_less() -> None:
    errors = {}
    for solver in ("euler", "midpoint", "rk4"):
        head = with_velocity(flow_head(solver=solver, num_calls=20), exact_velocity)
        samples = head.sample(random(3, HIDDEN), num_samples=500, rng=rng())
        errors[solver] = (samples - (MEAN + STD * torch.randn(500, 3, LATENT, generator=rng()))).abs().max().item()
    assert errors["euler"] > 0.1
    assert errors["euler"] > 3 * errors["midpoint"] > 3 * errors["rk4"]


def test_the_loss_of_the_exact_field_is_the_variance_that_it_cannot_explain() -> None:
    """Var(z - x0 | x_t) = 1 + s^2 - (t s^2 - (1 - t))^2 / ((1 - t)^2 + t^2 s^2), averaged."""
    head, num = with_velocity(flow_head(), exact_velocity), 100_000
    loss = head.loss(random(num, HIDDEN), gaussian(num), rng=rng())
    t = ((torch.arange(10_000) + 0.5) / 10_000).unsqueeze(1)
    unexplained = 1 + STD**2 - (t * STD**2 - (1 - t)) ** 2 / ((1 - t) ** 2 + (t * STD) ** 2)
    standard_error = (loss.std() / num**0.5).item()
    assert standard_error < 0.005
    assert loss.mean().item() == pytest.approx(unexplained.mean().item(), abs=4 * standard_error)


DIRECTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "constant": lambda x, t: torch.ones_like(x),
    "state": lambda x, t: x,
    "time": lambda x, t: (t - 0.5).expand_as(x),
    "late state": lambda x, t: t * x,
    "square": lambda x, t: x.square(),
    "wave": lambda x, t: (3 * x + 5 * t).sin(),
}


def slope(field: Callable[[Tensor, Tensor, Tensor], Tensor], direction: str) -> float:
    """Derivative of the mean loss as the field moves along a direction, in standard errors."""
    num = 50_000
    amount = torch.zeros(num, 1, requires_grad=True)

    def moving(x: Tensor, t: Tensor, e: Tensor) -> Tensor:
        return field(x, t, e) + amount * DIRECTIONS[direction](x, t.unsqueeze(-1))

    with_velocity(head := flow_head(), moving)
    head.loss(random(num, HIDDEN), gaussian(num), rng=rng()).sum().backward()
    assert amount.grad is not None
    return (amount.grad.mean() / amount.grad.std() * num**0.5).item()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_exact_field_is_where_the_loss_is_smallest(direction: str) -> None:
    assert abs(slope(exact_velocity, direction)) < 4


def test_a_wrong_field_is_seen() -> None:
    assert abs(slope(lambda x, t, e: exact_velocity(x, t, e) + 0.1 * x, "state")) > 10
    assert abs(slope(lambda x, t, e: exact_velocity(x, 0.9 * t, e), "late state")) > 10


def test_times_are_uniform_and_one_lies_in_every_part() -> None:
    head = flow_head(num_draws=4)
    times = head.times(20_000, rng())
    assert times.shape == (4, 20_000)
    assert ((times >= 0) & (times < 1)).all()
    assert torch.equal((times * 4).long().sort(0).values, torch.arange(4).unsqueeze(1).expand(-1, 20_000))
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    for draw in times:  # Kolmogorov-Smirnov; 1.95 / sqrt(n) is exceeded once in a thousand times
        assert (draw.sort().values - uniform).abs().max().item() < 1.95 / 20_000**0.5


def test_every_draw_has_a_latent_vector_and_noise_of_its_own() -> None:
    """With t = 1 known, x_t is the latent vector; with t = 0 the noise."""
    head = flow_head(num_draws=3)
    for t, mean, std in ((1.0, MEAN, STD), (0.0, torch.zeros(2), torch.ones(2))):
        seen: list[Tensor] = []
        with_velocity(head, lambda x, *_, seen=seen: seen.append(x) or x)
        head.times = lambda num, generator, t=t: torch.full((3, num), t)  # type: ignore[method-assign]
        head.loss(random(20_000, HIDDEN), gaussian(20_000), rng=rng())
        torch.testing.assert_close(seen[0].mean(1), mean.expand(3, -1), rtol=0.0, atol=0.05)
        torch.testing.assert_close(seen[0].std(1), std.expand(3, -1), rtol=0.02, atol=0.0)
        correlations = torch.corrcoef(seen[0][..., 0]) - torch.eye(3)
        assert correlations.abs().max() < 0.03


def test_the_time_is_embedded_in_thousandths_and_not_rounded() -> None:
    head, x, hidden = moved(), random(4, 7, LATENT), random(7, HIDDEN)
    embedded = head.network.embed_hidden(hidden)
    steps = head.network.embed_steps(torch.tensor([[500.37]]))
    found = head.velocity(x, torch.tensor([[0.50037]]), embedded)
    torch.testing.assert_close(found, head.network(x, steps + embedded), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found, head.velocity(x, torch.tensor([[0.5]]), embedded), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("num_calls", [1, 2, 5, 20])
@pytest.mark.parametrize("solver", ["euler", "midpoint", "adams", "rk4"])
def test_the_network_is_called_as_often_as_the_configuration_says(solver: str, num_calls: int) -> None:
    head, calls = moved(solver=solver, num_calls=num_calls), []
    head.network.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape))
    samples = head.sample(random(7, HIDDEN), num_samples=3, rng=rng())
    assert calls == [(3, 7, LATENT)] * head.config.network_calls
    assert 0 < len(calls) <= num_calls
    assert samples.isfinite().all()


def test_the_hidden_states_are_embedded_once() -> None:
    head, calls = moved(), []
    head.network.embed_hidden.register_forward_hook(lambda *_: calls.append(1))
    head.sample(random(7, HIDDEN), num_samples=3, rng=rng())
    head.loss(random(7, HIDDEN), posterior(7), rng=rng())
    assert len(calls) == 2


def test_a_trained_head_may_be_sampled_with_another_budget() -> None:
    head = moved(num_calls=20)
    many = head.sample(random(7, HIDDEN), num_samples=3, rng=rng())
    head.config = head.config.model_copy(update={"num_calls": 4, "solver": "euler"})
    assert not torch.allclose(head.sample(random(7, HIDDEN), num_samples=3, rng=rng()), many)


def test_the_state_stays_in_float32_under_mixed_precision() -> None:
    head, seen = moved(), []
    head.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        head.sample(random(7, HIDDEN), num_samples=3, rng=rng())
    assert set(seen) == {torch.float32}

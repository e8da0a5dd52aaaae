"""The diffusion head: its loss against quadrature in one dimension, steps, network calls."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.suites.small import rng
from workbench.config import DiffusionHeadConfig
from workbench.heads import build_head
from workbench.heads.base import Head
from workbench.heads.diffusion import DiffusionHead, spread_steps
from workbench.layers import initialise
from workbench.posterior import Posterior
from workbench.testing.head_suite import HIDDEN, LATENT, ContractSuite, HeadSuite, perturbed, posterior, random

SOLVERS = ["ddpm", "ddim", "dpm2m"]


def diffusion_head(latent_dim: int = LATENT, **fields: Any) -> DiffusionHead:
    head = build_head(DiffusionHeadConfig(num_blocks=2, **fields), hidden_dim=HIDDEN, latent_dim=latent_dim)
    initialise(head, "fan_in", rng=rng(0))
    assert isinstance(head, DiffusionHead)
    return head


def moved(latent_dim: int = LATENT, **fields: Any) -> DiffusionHead:
    head = perturbed(diffusion_head(latent_dim, **fields))
    assert isinstance(head, DiffusionHead)
    return head


class TestDiffusionHead(HeadSuite):
    steps, batch, lr = 400, 256, 1e-2

    def build(self) -> Head:
        return diffusion_head(num_calls=25)


class TestWithoutStepNoise(ContractSuite):
    """The deterministic sampler with few calls; the training is the same, and is not repeated."""

    def build(self) -> Head:
        return diffusion_head(solver="dpm2m", num_calls=8, noise_schedule="linear")


def at_step(head: DiffusionHead, t: int) -> DiffusionHead:
    """All draws take step t."""
    shape = head.config.num_draws
    head.steps = lambda num, generator: torch.full((shape, num), t)  # type: ignore[method-assign]
    return head


def by_quadrature(head: DiffusionHead, hidden: Tensor, mean: float, t: int) -> Tensor:
    """The loss of positions whose target is the point ``mean``, L = 1, in float64: the noise's squared error plus
    the divergence of q(x_(t-1) | x_t, z) from p(x_(t-1) | x_t) by summing over a grid, in bits."""
    schedule, shape = head.schedule, (head.config.num_draws, len(hidden), 1)
    generator = rng()
    torch.randn(shape, generator=generator)  # of the target, which has no spread
    noise = torch.randn(shape, generator=generator).double()
    beta, alpha_bar = schedule.betas[t], schedule.alpha_bars[t]
    noisy = alpha_bar.sqrt() * mean + (1 - alpha_bar).sqrt() * noise
    velocity, place = head.predict(noisy.float(), torch.full((1, 1), t), head.network.embed_hidden(hidden))
    found = (1 - alpha_bar).sqrt() * noisy + alpha_bar.sqrt() * velocity.double()
    predicted = (noisy - beta / (1 - alpha_bar).sqrt() * found) / (1 - beta).sqrt()  # Ho et al., eq. 11
    low, high = (bound[t] for bound in schedule.log_variance_range)
    deviation = (0.5 * (place.double() * high + (1 - place.double()) * low)).exp()
    p = torch.distributions.Normal(predicted, deviation)
    if t == 0:
        bits = -p.log_prob(torch.tensor(mean, dtype=torch.float64)) / math.log(2)
    else:
        true_mean = schedule.posterior_from_latent[t] * mean + schedule.posterior_from_noisy[t] * noisy
        q = torch.distributions.Normal(true_mean, schedule.posterior_variances[t].sqrt().expand_as(true_mean))
        grid = torch.linspace(-9, 9, 4001, dtype=torch.float64).view(-1, 1, 1, 1)
        x = q.mean + q.stddev * grid
        mass = q.log_prob(x).exp() * q.stddev * (grid[1] - grid[0])
        bits = (mass * (q.log_prob(x) - p.log_prob(x))).sum(0) / math.log(2)
    return ((found - noise).square() + bits).mean((0, 2))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("t", [0, 1, 10, 300, 700, 990, 998])
def test_the_loss_is_that_of_quadrature(t: int, schedule: str) -> None:
    head, hidden = at_step(moved(latent_dim=1, noise_schedule=schedule), t), random(7, HIDDEN)
    target = Posterior(torch.full((7, 1), 0.8), torch.full((7, 1), -30.0))
    loss = head.loss(hidden, target, rng=rng())
    torch.testing.assert_close(loss.double(), by_quadrature(head, hidden, 0.8, t), rtol=2e-3, atol=2e-3)


def test_a_wrong_range_of_variances_is_seen_by_that_check() -> None:
    head, hidden = at_step(moved(latent_dim=1), 300), random(7, HIDDEN)
    expected = by_quadrature(head, hidden, 0.8, 300)
    head.table[:, 2] += 0.5
    loss = head.loss(hidden, Posterior(torch.full((7, 1), 0.8), torch.full((7, 1), -30.0)), rng=rng())
    assert (loss.double() - expected).abs().max() > 0.01


@pytest.mark.parametrize("t", [0, 300, 999])
def test_the_bound_trains_the_variance_alone(t: int) -> None:
    """The mean's gradient is that of the squared error of the noise, the place's that of the bound."""
    head, shape = at_step(diffusion_head(num_draws=2), t), (2, 7, LATENT)
    velocity, place = random(*shape).requires_grad_(), random(*shape, seed=1).requires_grad_()
    seen: list[Tensor] = []
    head.predict = lambda noisy, *_: seen.append(noisy) or (velocity, place)  # type: ignore[method-assign]
    head.loss(random(7, HIDDEN), posterior(7), rng=rng()).sum().backward()
    generator = rng()
    torch.randn(shape, generator=generator)
    noise = torch.randn(shape, generator=generator)
    signal, sigma = head.schedule.alpha_bars[t].sqrt().float(), (1 - head.schedule.alpha_bars[t]).sqrt().float()
    expected = 2 * signal * (sigma * seen[0] + signal * velocity - noise) / (2 * LATENT)
    torch.testing.assert_close(velocity.grad, expected.detach(), rtol=1e-4, atol=1e-7)
    assert place.grad is not None
    assert place.grad.any()


GAUSSIAN = (0.7, 0.5)
"""Mean and deviation of a target whose denoiser is known."""


def slopes(head: DiffusionHead, *, pull: float = 1.0, shift: float = 0.0) -> dict[str, float]:
    """Derivatives of the mean loss, in standard errors, as the exact predictions for a Gaussian target move along
    some directions. ``pull``: wrong factor on what x_t says of z; ``shift``: of the place."""
    (mean, std), num, chain = GAUSSIAN, 20_000, head.schedule
    marginals = chain.alpha_bars * std**2 + 1 - chain.alpha_bars
    left = std**2 * (1 - chain.alpha_bars) / marginals  # Var(z | x_t)
    low, high = chain.log_variance_range
    variances = chain.posterior_variances + chain.posterior_from_latent**2 * left
    places = (variances.log() - low) / (high - low)
    columns = torch.stack([chain.alpha_bars.sqrt(), (1 - chain.alpha_bars).sqrt(), marginals, places], -1).float()
    amounts = {name: torch.zeros(num, 1, requires_grad=True) for name in ("constant", "state", "place")}

    def predict(noisy: Tensor, steps: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma, marginal, place = columns[steps].unsqueeze(-1).unbind(2)
        latent = mean + pull * signal * std**2 / marginal * (noisy - signal * mean)
        velocity = (signal * noisy - latent) / sigma + amounts["constant"] + amounts["state"] * noisy
        return velocity, place + shift + amounts["place"]

    head.predict = predict  # type: ignore[method-assign]
    target = Posterior(torch.full((num, 1), mean), torch.full((num, 1), math.log(std)))
    head.loss(random(num, HIDDEN), target, rng=rng()).sum().backward()
    grads = {name: amount.grad for name, amount in amounts.items() if amount.grad is not None}
    return {name: (grad.mean() / grad.std() * num**0.5).item() for name, grad in grads.items()}


def test_the_loss_of_a_gaussian_is_smallest_at_its_exact_denoiser() -> None:
    assert all(abs(slope) < 4 for slope in slopes(diffusion_head(latent_dim=1)).values())
    assert abs(slopes(diffusion_head(latent_dim=1), pull=0.7)["state"]) > 10
    assert abs(slopes(diffusion_head(latent_dim=1), shift=0.5)["place"]) > 10


@pytest.mark.parametrize(("num_draws", "num_steps"), [(4, 1000), (3, 10), (1, 7), (8, 5)])
def test_every_draw_takes_every_step_equally_often(num_draws: int, num_steps: int) -> None:
    """Over all values of the number that a position's steps are made from: exactly."""
    steps = spread_steps(torch.arange(num_draws * num_steps), num_draws=num_draws, num_steps=num_steps)
    assert steps.shape == (num_draws, num_draws * num_steps)
    for draw in steps:
        assert torch.equal(torch.bincount(draw, minlength=num_steps), torch.full((num_steps,), num_draws))


def test_drawn_steps_are_uniform_and_spread() -> None:
    head = diffusion_head(num_draws=4)
    steps = head.steps(50_000, rng())
    for draw in steps:
        assert stats.chisquare(torch.bincount(draw, minlength=1000).numpy()).pvalue > 1e-3
    assert torch.equal((steps // 250).sort(0).values, torch.arange(4).unsqueeze(1).expand(-1, 50_000))
    biased = torch.cat([steps[0], torch.arange(100).repeat(20)])
    assert stats.chisquare(torch.bincount(biased, minlength=1000).numpy()).pvalue < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("num_calls", [1, 2, 3, 20, 40, 5000])
def test_the_network_is_called_as_often_as_the_configuration_says(solver: str, num_calls: int) -> None:
    head, calls, told = moved(solver=solver, num_calls=num_calls, num_steps=40), [], []
    head.network.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape))
    head.network.embed_steps = lambda steps, embed=head.network.embed_steps: (
        told.append(steps.item()) or embed(steps)
    )
    samples = head.sample(random(7, HIDDEN), num_samples=3, rng=rng())
    assert calls == [(3, 7, LATENT)] * min(num_calls, 40)
    assert len(calls) == head.config.network_calls
    assert told == sorted(set(told), reverse=True)
    assert told[0] == 39 * 25  # the last of 40 steps, in a span of 1,000
    assert samples.isfinite().all()


def test_the_network_is_told_a_steps_number_in_the_whole_chain() -> None:
    head, told = moved(num_calls=4, solver="ddim"), []
    head.network.embed_steps = lambda steps, embed=head.network.embed_steps: (
        told.append(steps.item()) or embed(steps)
    )
    head.sample(random(7, HIDDEN), num_samples=3, rng=rng())
    assert told == [999, 749, 499, 249]


@pytest.mark.slow
@pytest.mark.parametrize("num_calls", [1, 4, 25])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_an_inaccurate_network_does_not_blow_up_the_samples(schedule: str, solver: str, num_calls: int) -> None:
    """Nothing divides by the signal of the last steps, which is next to nothing."""
    for head in (diffusion_head(noise_schedule=schedule), moved(noise_schedule=schedule)):
        head.config = head.config.model_copy(update={"solver": solver, "num_calls": num_calls})
        assert head.sample(random(7, HIDDEN), num_samples=100, rng=rng()).abs().max() < 20


def test_the_hidden_states_are_embedded_once() -> None:
    head, calls = moved(num_calls=5), []
    head.network.embed_hidden.register_forward_hook(lambda *_: calls.append(1))
    head.sample(random(7, HIDDEN), num_samples=3, rng=rng())
    head.loss(random(7, HIDDEN), posterior(7), rng=rng())
    assert len(calls) == 2


def test_only_weights_are_saved() -> None:
    head = diffusion_head()
    assert set(head.state_dict()) == {name for name, _ in head.named_parameters()}


def test_the_state_stays_in_float32_under_mixed_precision() -> None:
    head, seen = moved(num_calls=5), []
    head.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        head.sample(random(7, HIDDEN), num_samples=3, rng=rng())
        head.loss(random(7, HIDDEN), posterior(7), rng=rng())
    assert set(seen) == {torch.float32}

"""The energy score's loss: closed forms, the cheap form against the plain one, strict propriety."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.suites.small import rng
from workbench.energy_score import check_alpha, energy_loss, mean_pair_distance, plain_energy_loss
from workbench.posterior import Posterior

ALPHAS = [0.5, 1.0, 1.5]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=rng(seed))


def case(
    num_samples: int = 4, num: int = 7, num_targets: int = 9, dim: int = 5
) -> tuple[Tensor, Posterior, Tensor]:
    target = Posterior(random(num, dim, seed=1), 0.5 * random(num, dim, seed=2) - 1)
    return random(num_samples, num, dim), target, random(num_targets, dim, seed=3)


def explicit_targets(target: Posterior, eps: Tensor) -> Tensor:
    return target.mean + target.std * eps.unsqueeze(1)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_cheap_form_is_the_plain_form(alpha: float) -> None:
    samples, target, eps = case()
    wide = plain_energy_loss(samples.double(), explicit_targets(target, eps).double(), alpha=alpha)
    torch.testing.assert_close(energy_loss(samples, target, eps, alpha=alpha), wide.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_the_cheap_form_has_the_plain_forms_gradient(alpha: float) -> None:
    samples, target, eps = case()
    gradients = []
    for loss in (
        lambda x: energy_loss(x, target, eps, alpha=alpha),
        lambda x: plain_energy_loss(x, explicit_targets(target, eps), alpha=alpha),
    ):
        x = samples.clone().requires_grad_()
        loss(x).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_plain_form_is_the_formula_written_out(alpha: float) -> None:
    x, y = random(3, 1, 2), random(2, 1, 2, seed=1)
    to_target = sum(math.dist(x[i, 0], y[j, 0]) ** alpha for i in range(3) for j in range(2))
    between = sum(math.dist(x[i, 0], x[j, 0]) ** alpha for i in range(3) for j in range(3) if i != j)
    expected = 2 / (3 * 2) * to_target - between / (3 * 2)
    assert plain_energy_loss(x, y, alpha=alpha).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_two_point_masses_cost_twice_their_distance_to_the_power_alpha(alpha: float) -> None:
    samples = torch.tensor([3.0, 4.0]).expand(4, 6, 2)
    target = Posterior(torch.zeros(6, 2), torch.full((6, 2), -30.0))
    loss = energy_loss(samples, target, random(5, 2), alpha=alpha)
    torch.testing.assert_close(loss, torch.full((6,), 2 * 5.0**alpha), atol=2e-3, rtol=0)


def normal_distance(mean: float, variance: float) -> float:
    """E|X| of X ~ N(mean, variance): a folded normal distribution."""
    std = math.sqrt(variance)
    bulk = std * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * variance))
    return bulk + mean * math.erf(mean / (std * math.sqrt(2)))


@pytest.mark.parametrize("num_samples", [2, 5])
def test_the_estimate_is_unbiased_for_normal_distributions(num_samples: int) -> None:
    # samples N(1, 0.7^2), posterior N(0, 0.5^2): 2 E|x - y| - E|x - x'| in closed form. The noise matrix is
    # shared by all positions, so quantiles stand for its draws: their mean has next to no error
    num = 20_000
    samples = 1 + 0.7 * random(num_samples, num, 1)
    target = Posterior(torch.zeros(num, 1), torch.full((num, 1), math.log(0.5)))
    eps = torch.special.ndtri((torch.arange(100) + 0.5) / 100).unsqueeze(1)
    expected = 2 * normal_distance(1.0, 0.7**2 + 0.5**2) - normal_distance(0.0, 2 * 0.7**2)
    assert energy_loss(samples, target, eps).mean().item() == pytest.approx(expected, abs=0.02)
    between = mean_pair_distance(samples, alpha=1.0).mean().item()
    assert between == pytest.approx(normal_distance(0.0, 2 * 0.7**2), abs=0.015)


def test_every_position_is_its_own() -> None:
    samples, target, eps = case()
    alone = energy_loss(samples[:, 2:3], target[2:3], eps)
    torch.testing.assert_close(energy_loss(samples, target, eps)[2:3], alone)


def test_mixed_precision_does_not_touch_the_loss() -> None:
    samples, target, eps = case(dim=32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = energy_loss(samples, target, eps)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, energy_loss(samples, target, eps))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_coinciding_samples_and_targets_leave_the_gradient_finite(alpha: float) -> None:
    # as at the start of training, when the head's last layer is zero
    samples = torch.zeros(4, 3, 5, requires_grad=True)
    certain = Posterior(torch.zeros(3, 5), torch.full((3, 5), -40.0))
    for target in (case(num=3)[1], certain):
        loss = energy_loss(samples, target, random(6, 5), alpha=alpha)
        (gradient,) = torch.autograd.grad(loss.sum(), samples)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()
    assert not gradient.any()


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 2.0, 2.5, math.nan])
def test_an_alpha_outside_0_and_2_is_refused(alpha: float) -> None:
    samples, target, eps = case()
    with pytest.raises(ValueError, match=r"alpha must lie in \(0, 2\).*got"):
        check_alpha(alpha)
    with pytest.raises(ValueError, match="alpha"):
        energy_loss(samples, target, eps, alpha=alpha)
    with pytest.raises(ValueError, match="alpha"):
        plain_energy_loss(samples, explicit_targets(target, eps), alpha=alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_true_distribution_has_the_least_loss(alpha: float) -> None:
    num, dim = 4_000, 2
    target = Posterior(torch.zeros(num, dim), torch.zeros(num, dim))
    noise, eps = random(4, num, dim), random(200, dim, seed=5)

    def loss(shift: float, scale: float) -> float:
        return energy_loss(shift + scale * noise, target, eps, alpha=alpha).mean().item()

    true = loss(0.0, 1.0)
    assert true < loss(0.5, 1.0)
    assert true < loss(0.0, 0.6)
    assert true < loss(0.0, 1.5)

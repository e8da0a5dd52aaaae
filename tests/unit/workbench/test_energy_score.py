"""The energy score's loss: closed forms, the cheap form against the plain one, strict propriety."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.suites.small import rng
from workbench import energy_score
from workbench.energy_score import (
    Distance,
    PowerDistance,
    QuadricDistance,
    energy_loss,
    plain_energy_loss,
)
from workbench.posterior import Posterior

ALPHAS = [0.5, 1.0, 1.5]
DISTANCES = [
    *(PowerDistance(alpha) for alpha in ALPHAS),
    *(QuadricDistance(scale, gamma) for scale, gamma in ((2.0, 0.5), (0.7, 1.3), (1.2, 1.0))),
]
each_distance = pytest.mark.parametrize("distance", DISTANCES, ids=str)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=rng(seed))


def case(
    num_samples: int = 4, num: int = 7, num_targets: int = 9, dim: int = 5
) -> tuple[Tensor, Posterior, Tensor]:
    target = Posterior(random(num, dim, seed=1), 0.5 * random(num, dim, seed=2) - 1)
    return random(num_samples, num, dim), target, random(num_targets, dim, seed=3)


def explicit_targets(target: Posterior, eps: Tensor) -> Tensor:
    return target.mean + target.std * eps.unsqueeze(1)


@each_distance
def test_the_cheap_form_is_the_plain_form(distance: Distance) -> None:
    samples, target, eps = case()
    wide = plain_energy_loss(samples.double(), explicit_targets(target, eps).double(), distance=distance)
    torch.testing.assert_close(
        energy_loss(samples, target, eps, distance=distance), wide.float(), rtol=1e-5, atol=1e-5
    )


@each_distance
def test_the_cheap_form_has_the_plain_forms_gradient(distance: Distance) -> None:
    samples, target, eps = case()
    gradients = []
    for loss in (
        lambda x: energy_loss(x, target, eps, distance=distance),
        lambda x: plain_energy_loss(x, explicit_targets(target, eps), distance=distance),
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
    assert plain_energy_loss(x, y, distance=PowerDistance(alpha)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_two_point_masses_cost_twice_their_distance_to_the_power_alpha(alpha: float) -> None:
    samples = torch.tensor([3.0, 4.0]).expand(4, 6, 2)
    target = Posterior(torch.zeros(6, 2), torch.full((6, 2), -30.0))
    loss = energy_loss(samples, target, random(5, 2), distance=PowerDistance(alpha))
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
    assert energy_loss(samples, target, eps, distance=PowerDistance()).mean().item() == pytest.approx(
        expected, abs=0.02
    )
    between = energy_score._between(samples, PowerDistance(), torch.ones(num_samples, num), None).mean().item()
    assert between == pytest.approx(normal_distance(0.0, 2 * 0.7**2), abs=0.015)


def test_every_position_is_its_own() -> None:
    samples, target, eps = case()
    alone = energy_loss(samples[:, 2:3], target[2:3], eps, distance=PowerDistance())
    torch.testing.assert_close(energy_loss(samples, target, eps, distance=PowerDistance())[2:3], alone)


def test_mixed_precision_does_not_touch_the_loss() -> None:
    samples, target, eps = case(dim=32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = energy_loss(samples, target, eps, distance=PowerDistance())
    assert inside.dtype == torch.float32
    assert torch.equal(inside, energy_loss(samples, target, eps, distance=PowerDistance()))


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 2.0, 2.5, math.nan])
def test_an_alpha_outside_0_and_2_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha must lie in \(0, 2\).*got"):
        PowerDistance(alpha)


@pytest.mark.parametrize(("scale", "gamma"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, math.nan)])
def test_a_scale_or_gamma_that_is_not_positive_is_refused(scale: float, gamma: float) -> None:
    with pytest.raises(ValueError, match="scale and gamma must be positive"):
        QuadricDistance(scale, gamma)


@each_distance
def test_slopes_are_derivatives(distance: Distance) -> None:
    d = torch.tensor([0.01, 0.5, 1.0, 3.0, 40.0], dtype=torch.float64, requires_grad=True)
    rho, slope = distance(d.detach().square(), torch.tensor([1e-30], dtype=torch.float64))
    exact = torch.autograd.grad(distance(d.square())[0].sum(), d)[0]
    torch.testing.assert_close(slope * d.detach(), exact)
    torch.testing.assert_close(rho, distance(d.detach().square())[0])


def test_the_quadric_distance_is_the_formula() -> None:
    d = torch.tensor([0.0, 0.3, 2.0, 100.0])
    for gamma in (0.5, 0.75, 1.0):  # each in a form of its own
        rho, _ = QuadricDistance(2.0, gamma)(d.square())
        torch.testing.assert_close(rho, 1 - (1 + d**2 / 4) ** -gamma)


@each_distance
def test_every_distance_is_strictly_of_negative_type(distance: Distance) -> None:
    # sum_ij c_i c_j rho(|x_i - x_j|) < 0 for all c that add up to 0: what makes the score strictly proper
    for seed in range(5):
        x = random(12, 3, seed=seed).double()
        rho, _ = distance((x[:, None] - x[None]).square().sum(-1))
        centre = torch.eye(12, dtype=torch.float64) - 1 / 12
        values = torch.linalg.eigvalsh(centre @ (rho - rho.diagonal().mean()) @ centre)
        assert (values < 1e-9).all()
        assert (values < -1e-6).sum() == 11


@each_distance
def test_slices_do_not_change_the_loss_or_the_gradient(
    distance: Distance, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, target, eps = case(num=23)
    found = []
    for size in (1, 200, 2**20):
        monkeypatch.setitem(energy_score.SLICE_ELEMENTS, "cpu", size)
        x = samples.clone().requires_grad_()
        loss = energy_loss(x, target, eps, distance=distance)
        found.append((loss.detach(), *torch.autograd.grad((loss * torch.arange(23)).sum(), x)))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b)


def test_samples_in_bfloat16_lose_only_their_own_rounding() -> None:
    samples, target, eps = case(dim=32)
    low = samples.bfloat16().requires_grad_()
    loss = energy_loss(low, target, eps, distance=PowerDistance())
    assert loss.dtype == torch.float32
    wide = samples.bfloat16().float().requires_grad_()
    expected = energy_loss(wide, target, eps, distance=PowerDistance())
    assert torch.equal(loss, expected)
    (gradient,) = torch.autograd.grad(loss.sum(), low)
    assert torch.equal(gradient, torch.autograd.grad(expected.sum(), wide)[0].bfloat16())


def test_nothing_of_the_size_of_all_differences_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, target, eps = case(num_samples=6, num=512, num_targets=40, dim=24)
    monkeypatch.setitem(energy_score.SLICE_ELEMENTS, "cpu", 2**12)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.untyped_storage().nbytes() // 4)
            return out

    with Watch():
        energy_loss(samples.requires_grad_(), target, eps, distance=PowerDistance()).sum().backward()
    assert largest == samples.numel()


@each_distance
def test_the_true_distribution_has_the_least_loss(distance: Distance) -> None:
    num, dim = 4_000, 2
    target = Posterior(torch.zeros(num, dim), torch.zeros(num, dim))
    noise, eps = random(4, num, dim), random(200, dim, seed=5)

    def loss(shift: float, scale: float) -> float:
        return energy_loss(shift + scale * noise, target, eps, distance=distance).mean().item()

    true = loss(0.0, 1.0)
    assert true < loss(0.5, 1.0)
    assert true < loss(0.0, 0.6)
    assert true < loss(0.0, 1.5)

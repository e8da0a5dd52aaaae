"""The energy score's loss where floats are hard: coinciding points, exponents near and below 1, extreme scales.

The reference is the formula in float64, written out with every difference, from the same float32 numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.suites.small import rng
from workbench import energy_score
from workbench.config import EnergyHeadConfig
from workbench.energy_score import Distance, PowerDistance, QuadricDistance, energy_loss
from workbench.heads import build_head
from workbench.layers import initialise
from workbench.posterior import Posterior

ALPHAS = [0.3, 0.5, 0.9, 1.0, 1.0001, 1.5, 1.9]
POWERS = [PowerDistance(alpha) for alpha in ALPHAS]
QUADRICS = [QuadricDistance(2.0, gamma) for gamma in (0.5, 0.75, 1.0)]
DIMS = [1, 2, 8, 32, 128]
CAP = 2.0**-10
"""Part of a sample's root mean square distance to its targets below which a pair's slope is capped."""
each_distance = pytest.mark.parametrize("distance", [*POWERS, *QUADRICS], ids=str)
each_power = pytest.mark.parametrize("distance", POWERS, ids=str)


class Exact(NamedTuple):
    loss: Tensor
    """(n,)."""
    size: Tensor
    """(n,): of the two terms that the loss is the difference of."""
    gradient: Tensor
    """(N, n, L)."""
    pull: Tensor
    """(N, n): sum over the targets of the lengths of their parts of the gradient, to compare errors with."""


def rho(distance: Distance, d: Tensor) -> Tensor:
    if isinstance(distance, PowerDistance):
        return d**distance.alpha
    assert isinstance(distance, QuadricDistance)
    return -torch.expm1(-distance.gamma * torch.log1p((d / distance.scale) ** 2))


def slope(distance: Distance, d: Tensor) -> Tensor:
    """rho'(d) / d, and 0 at 0."""
    if isinstance(distance, PowerDistance):
        return torch.where(d > 0, distance.alpha * d.clamp_min(1e-300) ** (distance.alpha - 2), 0.0)
    assert isinstance(distance, QuadricDistance)
    steepest = 2 * distance.gamma / distance.scale**2
    return steepest * (1 + (d / distance.scale) ** 2) ** (-distance.gamma - 1)


def exact(samples: Tensor, target: Posterior, eps: Tensor, distance: Distance) -> Exact:
    x, mean, std = samples.double(), target.mean.double(), target.log_std.exp().double()
    num, num_targets = len(x), len(eps)
    to_target = x[:, None] - mean - std * eps.double()[:, None]  # (N, M, n, L)
    d = to_target.norm(dim=-1)
    near = 2 * rho(distance, d).mean((0, 1))
    factor = 2 / (num * num_targets)
    gradient = factor * (slope(distance, d)[..., None] * to_target).sum(1)
    pull = factor * (slope(distance, d) * d).sum(1)
    between = x[:, None] - x
    d = between.norm(dim=-1)
    apart = rho(distance, d).sum((0, 1)) / (num * (num - 1))
    gradient -= 2 / (num * (num - 1)) * (slope(distance, d)[..., None] * between).sum(1)
    return Exact(near - apart, near + apart, gradient, pull)


def ours(samples: Tensor, target: Posterior, eps: Tensor, distance: Distance) -> tuple[Tensor, Tensor]:
    x = samples.clone().requires_grad_()
    loss = energy_loss(x, target, eps, distance=distance)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    return loss.detach(), gradient


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=rng(seed))


def case(
    dim: int, *, std: float = 1.0, mean: float = 1.0, spread: float = 1.0, num: int = 60
) -> tuple[Tensor, Posterior, Tensor]:
    """Samples that lie ``spread`` deviations about the mean."""
    target = Posterior(mean * random(num, dim, seed=1), torch.full((num, dim), math.log(std)))
    samples = target.mean + spread * target.std * random(6, num, dim)
    return samples, target, random(40, dim, seed=2)


def errors(case: tuple[Tensor, Posterior, Tensor], distance: Distance) -> tuple[float, float]:
    """Largest errors of the loss and of the gradient, relative to what they are sums of."""
    want, (loss, gradient) = exact(*case, distance), ours(*case, distance)
    off = (gradient - want.gradient).norm(dim=-1) / want.pull
    return ((loss - want.loss).abs() / want.size).max().item(), off.max().item()


@each_distance
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_the_loss_is_right_at_every_scale(distance: Distance, scale: float) -> None:
    if isinstance(distance, QuadricDistance):
        distance = QuadricDistance(distance.scale * scale, distance.gamma)
    for dim in DIMS:
        loss, gradient = errors(case(dim, std=0.3 * scale, mean=scale), distance)
        assert loss < (1e-3 if dim <= 2 and distance.steep else 1e-6)  # sums of rounded d^alpha near 0
        assert gradient < 5e-6 or dim <= 2  # with few dimensions some pairs lie within the cap


@each_power
def test_how_far_the_posterior_is_from_zero_does_not_matter(distance: Distance) -> None:
    """The expansion of the square is about the mean: about 0 it would be lost at |mu| / sigma of 1e3."""
    for dim in DIMS:
        for mean in (1.0, 100.0):
            loss, gradient = errors(case(dim, std=1e-4, mean=mean, spread=1e3), distance)
            assert loss < 1e-4
            assert gradient < 1e-5 or dim <= 2


@each_distance
def test_equal_samples_get_the_same_gradient_which_is_that_of_the_targets_alone(distance: Distance) -> None:
    """As at the start of training, when the head's last layer is zero. The gradient of |x_i - x_j| at 0 is taken
    as 0: the mean of its limits from all sides."""
    for dim in DIMS:
        samples, target, eps = case(dim)
        samples = samples[:1].expand(6, -1, -1)
        loss, gradient = ours(samples, target, eps, distance)
        want = exact(samples, target, eps, distance)
        assert torch.equal(gradient[0], gradient[5])
        assert ((loss - want.loss).norm() / want.loss.norm()) < (1e-5 if dim > 2 else 1e-3)
        assert ((gradient - want.gradient).norm() / want.gradient.norm()) < 1e-5 or dim <= 2


@each_distance
def test_a_pair_of_equal_samples_among_others(distance: Distance) -> None:
    samples, target, eps = case(8)
    samples[3] = samples[0]
    loss, gradient = errors((samples, target, eps), distance)
    assert loss < 1e-6
    assert gradient < 5e-6
    _, gradients = ours(samples, target, eps, distance)
    torch.testing.assert_close(gradients[0], gradients[3])


@each_distance
@pytest.mark.parametrize("log_std", [-20.0, -40.0, -80.0])
def test_samples_on_a_certain_target(distance: Distance, log_std: float) -> None:
    """e^-20 is 2e-9, which has a square as a float32; that of e^-80 is 0."""
    for dim in DIMS:
        mean, eps = random(5, dim), random(40, dim, seed=2)
        case = (mean.expand(6, -1, -1), Posterior(mean, torch.full((5, dim), log_std)), eps)
        want, (loss, gradient) = exact(*case, distance), ours(*case, distance)
        assert (loss <= 1.0001 * want.loss).all()
        assert (gradient.norm(dim=-1) <= 1.0001 * want.pull).all()
        if log_std == -20.0:
            torch.testing.assert_close(loss, want.loss.float(), rtol=1e-5, atol=0)
            assert ((gradient - want.gradient).norm(dim=-1) / want.pull).max() < 1e-5


@each_distance
def test_samples_on_draws_of_the_target(distance: Distance) -> None:
    """Each sample is one of the 40 targets up to rounding: that pair's direction is arbitrary, and it pulls no
    harder than the cap lets it; all others are as exact as ever."""
    for dim in (8, 32, 128):
        target, eps = Posterior(random(60, dim, seed=1), torch.full((60, dim), -1.0)), random(40, dim, seed=2)
        samples = (target.mean + target.std * eps[:6, None]).contiguous()
        want, (loss, gradient) = exact(samples, target, eps, distance), ours(samples, target, eps, distance)
        assert ((loss - want.loss).abs() / want.size).max() < (5e-3 if distance.steep else 1e-5)
        targets = target.mean.double() + target.log_std.exp().double() * eps.double()[:, None]
        hits = (targets[:6] - samples.double()).norm(dim=-1)  # (N, n)
        assert hits.max() < 1e-5
        cap = CAP * reach(samples, target)
        taken = 2 / 240 * slope(distance, hits)[..., None] * (samples.double() - targets[:6])
        off = (gradient - (want.gradient - taken)).norm(dim=-1)
        assert (off <= 2 / 240 * slope(distance, cap) * cap + 1e-5 * want.pull).all()


def reach(samples: Tensor, target: Posterior) -> Tensor:
    """Root mean square distance of each sample to the targets, (N, n)."""
    variance = target.log_std.exp().square().sum(-1)
    return ((samples - target.mean).square().sum(-1) + variance).double().sqrt()


@pytest.mark.parametrize("alpha", [1.0, 1.0001, 1.5, 1.9])
def test_from_one_on_nearly_equal_samples_repel_each_other_in_full(alpha: float) -> None:
    """As in the first steps of training, when they lie far from their targets: nothing is capped between them."""
    for dim in DIMS:
        loss, gradient = errors(case(dim, spread=1e-5), PowerDistance(alpha))
        assert loss < 1e-6
        assert gradient < 2e-4 or dim == 1  # a part of 1e-5 of nearly equal numbers, to 2^-23 of those


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.9])
def test_below_one_no_pairs_gradient_is_longer_than_stated(alpha: float) -> None:
    """Exactly, those of samples that all but coincide grow as d^(alpha - 1)."""
    distance = PowerDistance(alpha)
    for dim in DIMS:
        target, eps = Posterior(random(60, dim, seed=1), torch.zeros(60, dim)), random(40, dim, seed=2)
        for apart in (1e-9, 1e-6, 1e-3, 1.0):
            samples = apart * random(6, 60, dim)
            _, gradient = ours(samples, target, eps, distance)
            own = reach(samples, target)
            of_all = own.square().mean(0).sqrt()
            longest = sum(alpha * (CAP * r) ** (alpha - 1) for r in (own, of_all))
            assert (gradient.norm(dim=-1) <= 2 / 6 * 1.001 * longest).all()
        if dim > 2 and alpha == 0.3:
            unbounded = exact(1e-9 * random(6, 60, dim), target, eps, distance).gradient.norm(dim=-1)
            assert (unbounded > 2 / 6 * 100 * longest).all()


@pytest.mark.parametrize("alpha", [0.3, 0.9, 1.0, 1.0001, 1.5])
def test_the_cap_shrinks_the_gradient_to_zero(alpha: float) -> None:
    d = torch.tensor([0.0, 1e-12, 1e-4, 1e-3, 2e-3, 1.0], dtype=torch.float64)
    floor = torch.tensor([1e-6], dtype=torch.float64)
    rho, steep = PowerDistance(alpha)(d.square(), floor)
    torch.testing.assert_close(rho, d**alpha)
    length = steep * d
    assert length[0] == 0
    torch.testing.assert_close(length[3:], alpha * d[3:] ** (alpha - 1))
    torch.testing.assert_close(length[1:3], alpha * 1e-3 ** (alpha - 2) * d[1:3])


@each_distance
def test_squares_that_rounding_made_negative_count_as_zero(distance: Distance) -> None:
    rho, steep = distance(torch.tensor([-1e-7, -0.0, 0.0]), torch.tensor([1e-6]))
    assert not rho.any()
    assert steep.isfinite().all()
    assert (steep > 0).all()


@each_power
def test_nearly_equal_samples_far_from_the_target(distance: PowerDistance) -> None:
    """From products of samples the difference would be lost: |x|^2 is 1e8 times its square."""
    direction = torch.nn.functional.normalize(random(1, 1, 16), dim=-1)
    base = 10 * torch.nn.functional.normalize(random(1, 1, 16, seed=4), dim=-1)
    x = torch.cat([base, base + 1e-3 * direction])
    d = (x[1] - x[0]).norm().item()
    gradient = torch.zeros_like(x)
    with torch.no_grad():
        energy_score._between(x, distance, torch.full((2, 1), 1e-6), gradient)
    length = distance.alpha * d ** (distance.alpha - 1)
    torch.testing.assert_close(gradient[0], length * direction[0], atol=2e-3 * length, rtol=0)


def test_alpha_at_one_and_next_to_it_agree() -> None:
    """They are computed in two ways, by the square root and through logarithms."""
    for dim in DIMS:
        one, beside = (ours(*case(dim), PowerDistance(alpha)) for alpha in (1.0, 1.000001))
        torch.testing.assert_close(one[0], beside[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one[1], beside[1], rtol=1e-3, atol=1e-4)


@each_distance
def test_samples_rounded_to_bfloat16(distance: Distance) -> None:
    """As the head's last layer makes them under autocast, in float32 numbers or as they are. Loss and gradient are
    those of the rounded samples, in float32 inside."""
    for dim in (1, 8, 64):
        samples, target, eps = case(dim, std=0.01)
        rounded = samples.bfloat16()
        assert (rounded[0] == rounded[1]).all(-1).any() == (dim == 1)  # rounding made some coincide
        with torch.autocast("cpu", torch.bfloat16):
            loss, gradient = ours(rounded.float(), target, eps, distance)
            low, low_gradient = ours(rounded, target, eps, distance)
        assert loss.dtype == low.dtype == gradient.dtype == torch.float32
        assert torch.equal(loss, low)
        assert torch.equal(gradient.bfloat16(), low_gradient)
        want = exact(rounded, target, eps, distance)
        assert ((loss - want.loss).abs() / want.size).max() < 1e-3
        assert ((gradient - want.gradient).norm(dim=-1) / want.pull).max() < 5e-6 or dim == 1


@pytest.mark.slow
@pytest.mark.parametrize("distance", [*POWERS[::3], QUADRICS[0]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_head_trains_from_equal_samples_to_different_ones(distance: Distance, dtype: torch.dtype) -> None:
    """Its last layer is zero, so that its first samples all coincide, and its second ones nearly."""
    head = build_head(EnergyHeadConfig(num_blocks=1, num_targets=20), hidden_dim=16, latent_dim=4)
    initialise(head, "fan_in", rng=rng(0))
    head.distance = distance  # type: ignore[assignment]
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    hidden, target = random(32, 16), Posterior(random(32, 4, seed=1), torch.full((32, 4), -1.0))
    losses = []
    for step in range(20):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = head.loss(hidden, target, rng=rng(step)).mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters()), step
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < losses[0]
    drawn = head.sample(hidden, num_samples=3, rng=rng(1))
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3

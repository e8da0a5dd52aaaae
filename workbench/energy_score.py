"""The energy score's loss and its relatives, cheap and plain (paper, section 3; METHOD section 3.1).

    2/(N M) sum_ij rho(|x_i - y_j|)  -  1/(N (N-1)) sum_{i != j} rho(|x_i - x_j|)

``PowerDistance``, rho(d) = d^alpha with 0 < alpha < 2, is the published score. The score is strictly proper for
every rho that is strictly of negative type, d^2 -> rho being a Bernstein function (Schoenberg 1938; Gneiting and
Raftery 2007, section 5.1); ``QuadricDistance`` is one that tells near from nearer (ours).

Letters: n positions, N model samples, M posterior samples, L latent dimension, c positions of a slice.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from workbench.posterior import Posterior

RESOLUTION = 2.0**-20
"""A squared distance between a sample and a target below this part of the sample's mean squared distance to its
targets is not told from rounding: ``energy_loss`` forms it as |a|^2 - 2 a.b + |b|^2, and where that cancels its
error was measured as at most 6 units of float32's epsilon, 2^-23, of that mean (L = 1 to 256); this is 8 units."""
LEAST_SQUARE = 1e-30
"""The same where no rounding is in the way. Its power alpha / 2 - 1 is still a finite float32 for every alpha."""


class Distance(abc.ABC):
    """rho, of squared distances."""

    @property
    def steep(self) -> bool:
        """Whether rho'(d) grows without bound as d -> 0: the gradient must be capped between samples as well."""
        return False

    @abc.abstractmethod
    def __call__(self, square: Tensor, floor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """rho(d) and, with a ``floor``, rho'(d) / d, of squared distances d^2, which may be overwritten: the
        gradient of rho(|x|) is the latter times x. Squared distances that rounding made negative are 0.

        Where d^2 is below ``floor`` (positive, of a shape that spreads to that of ``square``), a slope that grows
        without bound is that at the floor f^2: the gradient shrinks to 0 with x, as it must by symmetry, and is
        never longer than rho'(f). rho(d) itself is not floored."""


@dataclass(frozen=True)
class PowerDistance(Distance):
    """d^alpha. Raises ValueError for an alpha outside (0, 2), where the score is not strictly proper."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 2.0:
            raise ValueError(f"alpha must lie in (0, 2) for a strictly proper energy score, got {self.alpha}")

    @property
    def steep(self) -> bool:
        return self.alpha < 1.0

    def __call__(self, square: Tensor, floor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        square.clamp_min_(0.0)
        if self.alpha == 1.0:
            steep = square if floor is None else torch.maximum(square, floor).rsqrt_()
            power = square.sqrt_()
        else:  # through logarithms: half the time of pow
            log = square.log2_()
            steep = log
            if floor is not None:
                steep = torch.maximum(log, floor.log2()).mul_(self.alpha / 2 - 1).exp2_().mul_(self.alpha)
            power = log.mul_(self.alpha / 2).exp2_()
        return power, steep


@dataclass(frozen=True)
class QuadricDistance(Distance):
    """1 - (1 + d^2 / s^2)^(-gamma), one minus the inverse multiquadric kernel: d^2 within the scale s, level far
    beyond it. Bounded and smooth at 0, so it needs no floor; its slope falls as d^(-1-2 gamma), where that of d^1
    stays the same, so samples are drawn to what is near them rather than to the middle of everything. Raises
    ValueError for a scale or gamma that is not positive."""

    scale: float
    gamma: float = 0.5

    def __post_init__(self) -> None:
        if not (self.scale > 0.0 and self.gamma > 0.0):
            raise ValueError(f"scale and gamma must be positive, got {self.scale} and {self.gamma}")

    def __call__(self, square: Tensor, floor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        # none of the forms takes the difference of two numbers near 1, which a small d^2 would be lost in
        ratio = square.clamp_min_(0.0).div_(self.scale**2)
        steepest = 2 * self.gamma / self.scale**2
        if self.gamma == 1.0:
            inverse = (ratio + 1.0).reciprocal_()
            return ratio * inverse, inverse if floor is None else inverse.square_().mul_(steepest)
        if self.gamma == 0.5:
            inverse = (ratio + 1.0).reciprocal_()
            kernel = inverse.sqrt()
            distance = ratio * inverse / (kernel + 1.0)
            return distance, distance if floor is None else inverse.mul_(kernel).mul_(steepest)
        log = ratio.log1p()
        distance = -torch.expm1(log * -self.gamma)
        return distance, log if floor is None else log.mul_(-self.gamma - 1).exp_().mul_(steepest)


SLICE_ELEMENTS = {"cpu": 2**17, "cuda": 2**25}
"""Floats in the largest tensor of a slice: on a processor what its second-level cache holds."""


def energy_loss(
    samples: Float[Tensor, "N n l"], target: Posterior, eps: Float[Tensor, "M l"], *, distance: Distance
) -> Float[Tensor, " n"]:
    """Loss of each position with y_j = mean + std * eps_j, one noise matrix for all positions.

    With it |x - y_j|^2 = |x - mean|^2 - 2 ((x - mean) std) . eps_j + std^2 . eps_j^2: two matrix products
    and nothing of size N x M x n x L. Every position's estimate stays unbiased. Float32 throughout, whatever
    the samples are: the expansion cancels. Since it is taken about the mean, how far that lies from 0 does not
    matter; where x and y_j nearly coincide, RESOLUTION is the floor of their distance. On CUDA it wants torch's
    default precision of matrix products, not TF32.

    Coinciding samples get the gradient 0 of their distance, and an alpha < 1, whose gradients grow as
    d^(alpha - 1), has such a floor between samples too: no pair's gradient is longer than alpha f^(alpha - 1), f
    being 0.1 % of the root mean square distance to the targets, of the sample or of all of the position's.

    The loss of a position depends on its own samples alone, so its gradient is known up to one factor when the
    loss is: both are computed together, slice by slice, and what is kept for the backward pass is one
    gradient of the samples' size. Only the samples get a gradient."""
    with torch.autocast(samples.device.type, enabled=False):
        mean, std = target.mean.detach().float(), target.std.detach().float()
        loss: Tensor = _EnergyLoss.apply(samples, mean, std, eps.float(), distance)  # type: ignore[no-untyped-call]
        return loss


class _EnergyLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, samples: Tensor, mean: Tensor, std: Tensor, eps: Tensor, distance: Distance) -> Tensor:
        num, n, latent_dim = samples.shape
        loss = torch.empty(n, device=samples.device)
        gradient = torch.empty_like(samples, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        largest = num * max(eps.shape[0], (num - 1) * latent_dim // 2)
        for part in _slices(n, max(1, SLICE_ELEMENTS.get(samples.device.type, 2**25) // largest)):
            x = samples[:, part].float()
            into = None if gradient is None else gradient[:, part]
            loss[part], reach = _to_targets(x, mean[part], std[part], eps, distance, into)
            loss[part] -= _between(x, distance, reach, into)
        ctx.dtype = samples.dtype
        ctx.save_for_backward(*(() if gradient is None else (gradient,)))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream.unsqueeze(-1)).to(ctx.dtype), None, None, None, None


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]


def _floor(reach: Tensor) -> Tensor:
    return (reach * RESOLUTION).clamp_min_(LEAST_SQUARE)


def _to_targets(
    x: Tensor, mean: Tensor, std: Tensor, eps: Tensor, distance: Distance, gradient: Tensor | None
) -> tuple[Tensor, Tensor]:
    """2/(N M) sum_ij rho(|x_i - y_j|) of every position, (c,); its gradient by x (N, c, L) is written. And every
    sample's mean squared distance to the targets, (N, c)."""
    factor = 2 / (x.shape[0] * eps.shape[0])
    offset = x - mean  # (N, c, L)
    norm, variance = offset.square().sum(-1), std.square()
    reach = norm + variance.sum(-1)
    square = ((offset * std) @ eps.T).mul_(-2)  # (N, c, M)
    square.add_(norm.unsqueeze(-1)).add_(variance @ eps.square().T)
    rho, slope = distance(square, None if gradient is None else _floor(reach).unsqueeze(-1))
    if gradient is not None:
        torch.mul(offset, slope.sum(-1, keepdim=True), out=gradient)
        gradient.sub_((slope @ eps).mul_(std)).mul_(factor)
    return rho.sum((0, 2)).mul_(factor), reach


def _between(x: Tensor, distance: Distance, reach: Tensor, gradient: Tensor | None) -> Tensor:
    """1/(N (N-1)) sum_{i != j} rho(|x_i - x_j|) of every position, (c,); its gradient is taken away.

    From differences, not from products of samples: those would cancel where samples nearly coincide, as they do
    at the start of training. So only a steep rho needs a floor that ``reach`` gives the scale of."""
    num = x.shape[0]
    first, second = torch.triu_indices(num, num, offset=1, device=x.device)
    difference = x[first] - x[second]  # (N(N-1)/2, c, L)
    floor = _floor(reach.mean(0)) if distance.steep else x.new_full((), LEAST_SQUARE)
    rho, slope = distance(difference.square().sum(-1), None if gradient is None else floor)
    factor = 2 / (num * (num - 1))
    if gradient is not None:
        difference.mul_(slope.unsqueeze(-1))
        pairs = torch.arange(len(first), device=x.device)
        sides = x.new_zeros(num, len(first))  # d(x_first - x_second) / dx
        sides[first, pairs], sides[second, pairs] = 1.0, -1.0
        gradient.sub_((sides @ difference.flatten(1)).view_as(x), alpha=factor)
    return rho.sum(0).mul_(factor)


def plain_energy_loss(
    samples: Float[Tensor, "N n l"], targets: Float[Tensor, "M n l"], *, distance: Distance
) -> Float[Tensor, " n"]:
    """The same from explicit target samples, every difference formed: the oracle of the tests."""
    num = samples.shape[0]
    to_target = (samples[:, None] - targets[None]).square().sum(-1)
    between = (samples[:, None] - samples[None]).square().sum(-1)
    between = between[~torch.eye(num, dtype=torch.bool, device=samples.device)]
    loss: Tensor = 2 * distance(to_target)[0].mean((0, 1)) - distance(between)[0].mean(0)
    return loss

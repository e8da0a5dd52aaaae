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

LEAST_SQUARE = 1e-12
"""Squared distances below this count as this: the gradient of d^alpha at 0 is taken as 0."""


class Distance(abc.ABC):
    """rho, of squared distances."""

    @abc.abstractmethod
    def __call__(self, square: Tensor, *, slope: bool) -> tuple[Tensor, Tensor]:
        """rho(d) and, where asked for, rho'(d) / d, of squared distances d^2, which may be overwritten: the
        gradient of rho(|x|) is the latter times x."""


@dataclass(frozen=True)
class PowerDistance(Distance):
    """d^alpha. Raises ValueError for an alpha outside (0, 2), where the score is not strictly proper."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 2.0:
            raise ValueError(f"alpha must lie in (0, 2) for a strictly proper energy score, got {self.alpha}")

    def __call__(self, square: Tensor, *, slope: bool) -> tuple[Tensor, Tensor]:
        near = square < LEAST_SQUARE if slope else None
        square.clamp_min_(LEAST_SQUARE)
        power = square.sqrt_() if self.alpha == 1.0 else square.pow(self.alpha / 2)
        if near is None:
            return power, power
        steep = power.reciprocal() if self.alpha == 1.0 else power.div(square).mul_(self.alpha)
        return power, steep.masked_fill_(near, 0.0)


@dataclass(frozen=True)
class QuadricDistance(Distance):
    """1 - (1 + d^2 / s^2)^(-gamma), one minus the inverse multiquadric kernel: d^2 within the scale s, level far
    beyond it. Bounded and smooth at 0; its slope falls as d^(-1-2 gamma), where that of d^1 stays the same, so
    samples are drawn to what is near them rather than to the middle of everything. Raises ValueError for a scale
    or gamma that is not positive."""

    scale: float
    gamma: float = 0.5

    def __post_init__(self) -> None:
        if not (self.scale > 0.0 and self.gamma > 0.0):
            raise ValueError(f"scale and gamma must be positive, got {self.scale} and {self.gamma}")

    def __call__(self, square: Tensor, *, slope: bool) -> tuple[Tensor, Tensor]:
        inverse = square.div_(self.scale**2).add_(1.0).clamp_min_(1.0).reciprocal_()
        kernel = inverse.sqrt() if self.gamma == 0.5 else inverse.pow(self.gamma)
        distance = 1.0 - kernel
        if not slope:
            return distance, distance
        return distance, kernel.mul_(inverse).mul_(2 * self.gamma / self.scale**2)


SLICE_ELEMENTS = {"cpu": 2**17, "cuda": 2**25}
"""Floats in the largest tensor of a slice: on a processor what its second-level cache holds."""


def energy_loss(
    samples: Float[Tensor, "N n l"], target: Posterior, eps: Float[Tensor, "M l"], *, distance: Distance
) -> Float[Tensor, " n"]:
    """Loss of each position with y_j = mean + std * eps_j, one noise matrix for all positions.

    With it |x - y_j|^2 = |x - mean|^2 - 2 ((x - mean) std) . eps_j + std^2 . eps_j^2: two matrix products
    and nothing of size N x M x n x L. Every position's estimate stays unbiased. Float32 throughout, whatever
    the samples are: the expansion cancels.

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
            loss[part] = _to_targets(x, mean[part], std[part], eps, distance, into)
            loss[part] -= _between(x, distance, into)
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


def _to_targets(
    x: Tensor, mean: Tensor, std: Tensor, eps: Tensor, distance: Distance, gradient: Tensor | None
) -> Tensor:
    """2/(N M) sum_ij rho(|x_i - y_j|) of every position, (c,); its gradient by x (N, c, L) is written."""
    factor = 2 / (x.shape[0] * eps.shape[0])
    offset = x - mean  # (N, c, L)
    square = ((offset * std) @ eps.T).mul_(-2)  # (N, c, M)
    square.add_(offset.square().sum(-1, keepdim=True)).add_(std.square() @ eps.square().T)
    rho, slope = distance(square, slope=gradient is not None)
    if gradient is not None:
        torch.mul(offset, slope.sum(-1, keepdim=True), out=gradient)
        gradient.sub_((slope @ eps).mul_(std)).mul_(factor)
    return rho.sum((0, 2)).mul_(factor)


def _between(x: Tensor, distance: Distance, gradient: Tensor | None) -> Tensor:
    """1/(N (N-1)) sum_{i != j} rho(|x_i - x_j|) of every position, (c,); its gradient is taken away.

    From differences, not from products of samples: those would cancel where samples nearly coincide."""
    num = x.shape[0]
    first, second = torch.triu_indices(num, num, offset=1, device=x.device)
    difference = x[first] - x[second]  # (N(N-1)/2, c, L)
    rho, slope = distance(difference.square().sum(-1), slope=gradient is not None)
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
    loss: Tensor = 2 * distance(to_target, slope=False)[0].mean((0, 1)) - distance(between, slope=False)[0].mean(0)
    return loss

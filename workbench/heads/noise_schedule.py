"""The chain of a diffusion: how much noise is added at each step, and what follows in closed form (Ho et al. 2020;
Nichol & Dhariwal 2021).

Steps are counted from 0: q(x_t | x_(t-1)) = N(sqrt(1 - beta_t) x_(t-1), beta_t), and x_(-1) is the latent vector z
itself. All in float64 on the CPU; heads round once, at the end.

Letters: T steps of the chain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.heads.solvers import time_grid

COSINE_OFFSET = 0.008
LARGEST_BETA = 0.999


@dataclass(frozen=True)
class NoiseSchedule:
    """A chain given by its ``betas``, of shape (T,)."""

    betas: Float[Tensor, " t"]

    def __len__(self) -> int:
        return len(self.betas)

    @property
    def alpha_bars(self) -> Float[Tensor, " t"]:
        """q(x_t | z) = N(sqrt(alpha_bar_t) z, 1 - alpha_bar_t): the products of 1 - beta (Ho et al., eq. 4)."""
        return (1 - self.betas).cumprod(0)

    @property
    def alpha_bars_before(self) -> Float[Tensor, " t"]:
        """Of the step before; 1 before the first."""
        return torch.cat([self.betas.new_ones(1), self.alpha_bars[:-1]])

    @property
    def posterior_variances(self) -> Float[Tensor, " t"]:
        """Of q(x_(t-1) | x_t, z), beta-tilde (Ho et al., eq. 7); 0 at the first step."""
        return self.betas * (1 - self.alpha_bars_before) / (1 - self.alpha_bars)

    @property
    def posterior_from_latent(self) -> Float[Tensor, " t"]:
        """Coefficient of z in the mean of q(x_(t-1) | x_t, z) (Ho et al., eq. 7)."""
        return self.betas * self.alpha_bars_before.sqrt() / (1 - self.alpha_bars)

    @property
    def posterior_from_noisy(self) -> Float[Tensor, " t"]:
        """Coefficient of x_t there."""
        return (1 - self.alpha_bars_before) * (1 - self.betas).sqrt() / (1 - self.alpha_bars)

    @property
    def log_variance_range(self) -> tuple[Float[Tensor, " t"], Float[Tensor, " t"]]:
        """log beta-tilde and log beta, between which the variance is learned (Nichol & Dhariwal, eq. 15). The
        first step's beta-tilde is 0; it takes the second's, or its own beta where there is no second."""
        variances = self.posterior_variances[1:] if len(self) > 1 else self.betas
        return torch.cat([variances[:1], self.posterior_variances[1:]]).log(), self.betas.log()

    def respaced(self, steps: Sequence[int]) -> NoiseSchedule:
        """The chain over some of the steps, ascending, with the same q(x_t | z) at each (Nichol & Dhariwal,
        section 4)."""
        alpha_bars = self.alpha_bars[list(steps)]
        before = torch.cat([alpha_bars.new_ones(1), alpha_bars[:-1]])
        return NoiseSchedule(1 - alpha_bars / before)


def cosine_schedule(num_steps: int) -> NoiseSchedule:
    """alpha_bar falls as cos^2, with betas of 0.999 at most (Nichol & Dhariwal 2021, eq. 17)."""
    times = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    level = ((times + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2).cos().square()
    return NoiseSchedule((1 - level[1:] / level[:-1]).clamp_max(LARGEST_BETA))


def linear_schedule(num_steps: int) -> NoiseSchedule:
    """betas rise from 1e-4 to 0.02 for 1,000 steps (Ho et al. 2020, section 4); for other numbers they are scaled
    so that the noise at the end is about the same."""
    scale = 1000 / num_steps
    betas = torch.linspace(1e-4 * scale, 0.02 * scale, num_steps, dtype=torch.float64)
    return NoiseSchedule(betas.clamp_max(LARGEST_BETA))


SCHEDULES = {"cosine": cosine_schedule, "linear": linear_schedule}


def kept_steps(num_steps: int, num_calls: int, spacing: str) -> list[int]:
    """``num_calls`` different steps of a chain of ``num_steps``, ascending: the last steps of as many equal parts
    (``uniform``), or of parts that are smaller near the sample (``dense_end``) or the noise (``dense_start``)."""
    mirrored = {"dense_start": "dense_end", "dense_end": "dense_start"}.get(spacing, spacing)
    ends = time_grid(num_calls, mirrored)[1:]  # the sampler goes down the chain
    steps = [round(end * num_steps) - 1 for end in ends]
    for i in range(num_calls):
        steps[i] = max(steps[i], steps[i - 1] + 1 if i else 0)
    for i in range(num_calls):
        steps[i] = min(steps[i], num_steps - num_calls + i)
    return steps

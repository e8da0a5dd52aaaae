"""The diffusion head: predicts the noise in a latent vector and how uncertain a step back is, and samples by
undoing the noise step by step (METHOD section 3.2; Nichol & Dhariwal 2021; MAR, Li et al. 2024).

The network's output is v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) z (Salimans & Ho 2022, section 4), from
which noise and z follow; the loss is that of the noise. Were the output the noise itself, the z that follows would
carry its error times 1 / sqrt(alpha_bar), which is 20,000 at the last step of the cosine schedule: no network is
that accurate, and samples of small ones miss the latent vectors by hundreds.

Letters: n positions, D width, L latent dimension, S samples, N draws, T steps of the chain.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench import draws
from workbench.config import DiffusionHeadConfig
from workbench.heads.adaln import AdaLNNetwork
from workbench.heads.base import Head
from workbench.heads.diffusion_samplers import SAMPLERS
from workbench.heads.noise_schedule import SCHEDULES, NoiseSchedule, kept_steps
from workbench.posterior import Posterior

EMBEDDED_SPAN = 1000.0
"""Steps are embedded as if there were 1,000 of them."""


class DiffusionHead(Head):
    """``config`` must be resolved (num_blocks set)."""

    table: Tensor

    section = DiffusionHeadConfig

    def __init__(self, config: DiffusionHeadConfig, *, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        self.latent_dim = latent_dim
        self.network = AdaLNNetwork.of(
            config, hidden_dim=hidden_dim, latent_dim=latent_dim, num_outputs=2 * latent_dim
        )
        self.schedule = SCHEDULES[config.noise_schedule](config.num_steps)
        self.register_buffer("table", loss_table(self.schedule), persistent=False)

    def predict(
        self, noisy: Float[Tensor, "s n l"], steps: Int[Tensor, "#s #n"], embedded: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "s n l"], Float[Tensor, "s n l"]]:
        """v, and the place of the step's log variance in its range (0: that of the posterior, 1: log beta; not
        confined to it), float32. ``embedded``: the network's map of the hidden state."""
        times = steps * (EMBEDDED_SPAN / self.config.num_steps)
        velocity, place = self.network(noisy, self.network.embed_steps(times) + embedded).chunk(2, -1)
        return velocity, (place + 1) / 2

    def steps(self, num_positions: int, rng: torch.Generator) -> Int[Tensor, "s n"]:
        """N steps a position, each uniform on 0 ... T - 1 and together spread evenly: no draw's step is biased,
        and their mean loss varies less."""
        num, span = self.config.num_draws, self.config.num_steps
        first = draws.whole_numbers(num * span, (num_positions,), axis=0, rng=rng)
        return spread_steps(first, num_draws=num, num_steps=span)

    def loss(
        self, hidden: Float[Tensor, "n d"], target: Posterior, *, rng: torch.Generator
    ) -> Float[Tensor, " n"]:
        """Squared error of the noise per latent dimension plus the variational bound's term of the same step in
        bits per dimension, in which the predicted mean is held fixed; the mean of N draws. L_hybrid of Nichol &
        Dhariwal, eq. 16, whose weight of 0.001 for the sum over 1,000 steps is 1 for one step; here it is 1 for
        every length of the chain."""
        target = target.float()
        shape = (self.config.num_draws, *target.mean.shape)
        steps = self.steps(shape[1], rng)
        latent = target.mean + target.std * draws.normal(shape, axis=1, rng=rng)
        noise = draws.normal(shape, axis=1, rng=rng)
        signal, sigma, *variances = self.table[steps].unsqueeze(-1).unbind(2)
        noisy = signal * latent + sigma * noise
        velocity, place = self.predict(noisy, steps, self.network.embed_hidden(hidden))
        error = (sigma * noisy + signal * velocity - noise).square()
        return (error + variational_bits(error.detach(), place, *variances)).mean((0, 2))

    def sample(
        self, hidden: Float[Tensor, "n d"], *, num_samples: int, rng: torch.Generator, noise_scale: float = 1.0
    ) -> Float[Tensor, "s n l"]:
        """The configured solver on a chain of ``config.network_calls`` of the steps; the network is told their
        numbers in the whole chain."""
        shape = (num_samples, hidden.shape[0], self.latent_dim)
        kept = kept_steps(self.config.num_steps, self.config.network_calls, self.config.spacing)
        chain = self.schedule.respaced(kept)
        signals, sigmas = chain.alpha_bars.sqrt().tolist(), (1 - chain.alpha_bars).sqrt().tolist()
        embedded = self.network.embed_hidden(hidden)

        def denoise(state: Tensor, index: int) -> tuple[Tensor, Tensor]:
            steps = torch.full((1, 1), kept[index], device=hidden.device)
            velocity, place = self.predict(state, steps, embedded)
            return signals[index] * state - sigmas[index] * velocity, place

        def draw() -> Tensor:
            return noise_scale * torch.randn(shape, generator=rng, device=hidden.device)

        return SAMPLERS[self.config.solver](denoise, draw, chain)


def spread_steps(first: Int[Tensor, " n"], *, num_draws: int, num_steps: int) -> Int[Tensor, "s n"]:
    """From a whole number in [0, N T), one step of 0 ... T - 1 a draw, T / N apart around the circle. Over all
    such numbers every draw takes every step equally often."""
    shift = num_steps * torch.arange(num_draws, device=first.device).unsqueeze(1)
    return (first + shift).remainder(num_draws * num_steps) // num_draws


def loss_table(schedule: NoiseSchedule) -> Float[Tensor, "t 7"]:
    """What the loss needs of every step: sqrt(alpha_bar), sqrt(1 - alpha_bar), and the last five arguments of
    ``variational_bits``."""
    betas, alpha_bars, true = schedule.betas, schedule.alpha_bars, schedule.posterior_variances
    # at the first step the term is -log N(z; mean, variance): what stands for the true posterior, a point, makes
    # the formula of the divergence the formula of that
    log_true = torch.where(true > 0, true.log(), -1 - math.log(2 * math.pi))
    factor = betas.square() / ((1 - betas) * (1 - alpha_bars))
    columns = (alpha_bars.sqrt(), (1 - alpha_bars).sqrt(), *schedule.log_variance_range, factor, true, log_true)
    return torch.stack(columns, -1).float()


def variational_bits(
    error: Float[Tensor, "s n l"],
    place: Float[Tensor, "s n l"],
    low: Float[Tensor, "s n 1"],
    high: Float[Tensor, "s n 1"],
    factor: Float[Tensor, "s n 1"],
    true: Float[Tensor, "s n 1"],
    log_true: Float[Tensor, "s n 1"],
) -> Float[Tensor, "s n l"]:
    """KL(q(x_(t-1) | x_t, z) || p(x_(t-1) | x_t)) in bits, for every dimension; at the first step
    -log2 p(z | x_0), a density since z is continuous (it may exceed 1, and this be negative).

    ``error``: squared, of the noise; times ``factor`` that of the mean. The model's log variance lies at ``place``
    between ``low`` and ``high`` (Nichol & Dhariwal, eq. 15). ``true``: the posterior's variance."""
    log_variance = low + place * (high - low)
    nats = 0.5 * (log_variance - log_true - 1 + (true + factor * error) * (-log_variance).exp())
    return nats / math.log(2)

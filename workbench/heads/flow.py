"""The flow-matching head: a velocity field that carries noise to latent vectors along straight lines (METHOD
section 3.3; Lipman et al. 2023; Liu et al. 2023).

Letters: n positions, D width, L latent dimension, S samples, N draws.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from workbench import draws
from workbench.config import FlowHeadConfig
from workbench.heads.adaln import AdaLNNetwork
from workbench.heads.base import Head
from workbench.heads.solvers import SOLVERS, time_grid
from workbench.posterior import Posterior

STEPS_PER_TIME = 1000.0
"""t in [0, 1] is embedded as 1000 t, not rounded: the sinusoids would hardly tell apart what lies within 1."""


class FlowHead(Head):
    """``config`` must be resolved (num_blocks set)."""

    section = FlowHeadConfig

    def __init__(self, config: FlowHeadConfig, *, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        self.latent_dim = latent_dim
        self.network = AdaLNNetwork.of(
            config, hidden_dim=hidden_dim, latent_dim=latent_dim, num_outputs=latent_dim
        )

    def velocity(
        self, state: Float[Tensor, "s n l"], times: Float[Tensor, "#s #n"], embedded: Float[Tensor, "n d"]
    ) -> Float[Tensor, "s n l"]:
        """dz/dt at ``state`` and times in [0, 1], float32; ``embedded``: the network's map of the hidden state."""
        condition = self.network.embed_steps(STEPS_PER_TIME * times) + embedded
        out: Tensor = self.network(state, condition)
        return out

    def times(self, num_positions: int, rng: torch.Generator) -> Float[Tensor, "s n"]:
        """N times a position, each uniform on [0, 1) and together one in each N-th of it: no draw's time is
        biased, and their mean loss varies less."""
        first = draws.uniform((num_positions,), axis=0, rng=rng)
        num = self.config.num_draws
        shift = torch.arange(num, device=rng.device).unsqueeze(1) / num
        return torch.remainder(first + shift, 1.0)

    def loss(
        self, hidden: Float[Tensor, "n d"], target: Posterior, *, rng: torch.Generator
    ) -> Float[Tensor, " n"]:
        """Squared error of the velocity per latent dimension, averaged over N draws of time, noise and target."""
        target = target.float()
        shape = (self.config.num_draws, *target.mean.shape)
        times = self.times(shape[1], rng)
        latent = target.mean + target.std * draws.normal(shape, axis=1, rng=rng)
        noise = draws.normal(shape, axis=1, rng=rng)
        state = noise.lerp(latent, times.unsqueeze(-1))
        found = self.velocity(state, times, self.network.embed_hidden(hidden))
        return (found - (latent - noise)).square().mean((0, 2))

    def sample(
        self, hidden: Float[Tensor, "n d"], *, num_samples: int, rng: torch.Generator, noise_scale: float = 1.0
    ) -> Float[Tensor, "s n l"]:
        """Normal noise carried from t = 0 to 1 by the configured solver."""
        shape = (num_samples, hidden.shape[0], self.latent_dim)
        noise = torch.randn(shape, generator=rng, device=hidden.device)
        embedded = self.network.embed_hidden(hidden)

        def velocity(state: Tensor, time: float) -> Tensor:
            return self.velocity(state, torch.full((1, 1), time, device=hidden.device), embedded)

        grid = time_grid(self.config.num_solver_steps, self.config.spacing)
        return SOLVERS[self.config.solver_used](velocity, noise_scale * noise, grid)

"""The energy head: one network call maps (noise, hidden) to a latent vector (paper, section 3;
METHOD section 3.1).

Letters: n positions, D width, L latent dimension, Z noise dimension, S samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench import draws
from workbench.config import EnergyHeadConfig
from workbench.energy_score import Distance, PowerDistance, QuadricDistance, energy_loss
from workbench.heads.base import Head
from workbench.layers import LayerNorm, gated, mark_blocks, mark_outermost, mark_residual_output, mark_zero
from workbench.posterior import Posterior


class EnergyBlock(nn.Module):
    """e <- e + W_down(SiLU(g) * u) with [g, u] = MLP([LayerNorm(e), y]), MLP: 2D -> D -> D -> 2D."""

    def __init__(self, width: int, num_blocks: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width)
        self.join = nn.Linear(2 * width, width)
        self.middle = nn.Linear(width, width)
        self.gate_up = nn.Linear(width, 2 * width)
        mark_blocks(self.join, columns=(width, width))
        mark_blocks(self.gate_up, rows=(width, width))
        self.down = nn.Linear(width, width)
        mark_residual_output(self.down, num_outputs=num_blocks)

    def forward(self, e: Float[Tensor, "s n d"], y: Float[Tensor, "n d"]) -> Float[Tensor, "s n d"]:
        # [LayerNorm(e), y] W = LayerNorm(e) W_e + y W_y, and the second half is the same for all samples
        width = y.shape[-1]
        from_noise = F.linear(self.norm(e), self.join.weight[:, :width])
        from_hidden = F.linear(y, self.join.weight[:, width:], self.join.bias)
        x = F.silu(self.middle(F.silu(from_noise + from_hidden)))
        out: Tensor = e + self.down(gated(self.gate_up, x))
        return out


def distance_of(config: EnergyHeadConfig, latent_dim: int) -> Distance:
    """The distance whose score the head is trained by."""
    if config.distance == "power":
        return PowerDistance(config.alpha)
    return QuadricDistance(config.quadric_scale * latent_dim**0.5, config.quadric_gamma)


class EnergyHead(Head):
    """``config`` must be resolved (num_blocks set)."""

    section = EnergyHeadConfig

    def __init__(self, config: EnergyHeadConfig, *, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        assert config.num_blocks is not None, "resolve the configuration first"
        self.config = config
        self.distance = distance_of(config, latent_dim)
        width = hidden_dim
        self.embed_noise = nn.Linear(config.noise_dim, width)
        mark_outermost(self.embed_noise)
        self.noise_norm = LayerNorm(width)
        self.embed_hidden = nn.Linear(width, width)
        self.hidden_norm = LayerNorm(width)
        self.blocks = nn.ModuleList(EnergyBlock(width, config.num_blocks) for _ in range(config.num_blocks))
        self.output_norm = LayerNorm(width)
        self.output = nn.Linear(width, width)
        self.to_latent = nn.Linear(width, latent_dim)
        mark_zero(self.to_latent)
        mark_outermost(self.to_latent)

    def map(self, noise: Float[Tensor, "s n z"], hidden: Float[Tensor, "n d"]) -> Float[Tensor, "s n l"]:
        """The deterministic map from noise and hidden state to a latent vector, float32."""
        e = self.noise_norm(self.embed_noise(noise))
        y = self.hidden_norm(self.embed_hidden(hidden))
        for block in self.blocks:
            e = block(e, y)
        out: Tensor = self.to_latent(F.silu(self.output(self.output_norm(e))))
        return out.float()

    def noise(self, num_samples: int, hidden: Tensor, rng: torch.Generator) -> Float[Tensor, "s n z"]:
        """Uniform on (-1/2, 1/2), independent over samples and positions."""
        shape = (num_samples, hidden.shape[0], self.config.noise_dim)
        return draws.uniform(shape, axis=1, rng=rng) - 0.5

    def loss(
        self, hidden: Float[Tensor, "n d"], target: Posterior, *, rng: torch.Generator
    ) -> Float[Tensor, " n"]:
        """Negative energy score from N samples of the head and M of the posterior."""
        samples = self.map(self.noise(self.config.num_samples, hidden, rng), hidden)
        eps = torch.randn((self.config.num_targets, target.mean.shape[-1]), generator=rng, device=hidden.device)
        return energy_loss(samples, target.float(), eps, distance=self.distance)

    def sample(
        self, hidden: Float[Tensor, "n d"], *, num_samples: int, rng: torch.Generator, noise_scale: float = 1.0
    ) -> Float[Tensor, "s n l"]:
        return self.map(noise_scale * self.noise(num_samples, hidden, rng), hidden)

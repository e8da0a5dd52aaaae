"""The network of the diffusion and the flow head: an MLP that the time and the hidden state modulate through
adaptive layer norms (METHOD section 3.2; the denoiser of MAR, Li et al. 2024, after DiT, Peebles & Xie 2023).

Letters: n positions, D width, L latent dimension, S samples or draws, o outputs, f sinusoids.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.config import DiffusionHeadConfig, FlowHeadConfig
from workbench.layers import mark_blocks, mark_outermost, mark_xavier, mark_zero

EPS = 1e-6
"""Of the layer norms (METHOD section 2)."""

LONGEST_PERIOD = 10_000
"""Of the sinusoids, in units of 2 pi steps (Vaswani et al. 2017)."""


def sinusoids(steps: Float[Tensor, "*batch"], num: int) -> Float[Tensor, "*batch f"]:
    """cos and sin of ``steps`` at num / 2 frequencies from 1 down to nearly 1 / LONGEST_PERIOD, float32. ``steps``
    need not be whole; the network's span is 0 to about 1000."""
    half = num // 2
    exponents = torch.arange(half, dtype=torch.float32, device=steps.device) / half
    angles = steps.float().unsqueeze(-1) * torch.exp(-math.log(LONGEST_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], -1)


class Modulation(nn.Module):
    """``num`` vectors of width D from the condition's activation, zero at first."""

    def __init__(self, width: int, num: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num * width)
        self.num = num
        mark_zero(self.linear)
        mark_outermost(self.linear)
        mark_blocks(self.linear, rows=(width,) * num)

    def forward(self, active: Float[Tensor, "*s n d"]) -> list[Float[Tensor, "*s n d"]]:
        # one product each: parts of one product's rows lie apart in memory (``workbench.layers.gated``)
        weights, biases = self.linear.weight.chunk(self.num), self.linear.bias.chunk(self.num)
        return [F.linear(active, weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def modulated(
    x: Float[Tensor, "s n d"], shift: Float[Tensor, "#s n d"], scale: Float[Tensor, "#s n d"]
) -> Float[Tensor, "s n d"]:
    """LayerNorm(x) (1 + scale) + shift; the norm has no weights of its own."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=EPS), 1 + scale)


class AdaLNBlock(nn.Module):
    """e <- e + gate * MLP(LayerNorm(e) (1 + scale) + shift), MLP: D -> D -> D; the identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, 3)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        mark_xavier(self.up)
        mark_xavier(self.down)

    def forward(self, e: Float[Tensor, "s n d"], active: Float[Tensor, "#s n d"]) -> Float[Tensor, "s n d"]:
        shift, scale, gate = self.modulation(active)
        return torch.addcmul(e, gate, self.down(F.silu(self.up(modulated(e, shift, scale)))))


class AdaLNNetwork(nn.Module):
    """Maps noisy latent vectors to ``num_outputs`` numbers each. What a condition implies is computed once for all
    samples that share it; a fresh network returns 0."""

    def __init__(
        self, *, hidden_dim: int, latent_dim: int, num_outputs: int, num_blocks: int, time_dim: int
    ) -> None:
        super().__init__()
        width = hidden_dim
        self.time_dim = time_dim
        self.embed_latent = nn.Linear(latent_dim, width)
        self.time_in = nn.Linear(time_dim, width)
        self.time_out = nn.Linear(width, width)
        self.embed_hidden = nn.Linear(width, width)
        self.blocks = nn.ModuleList(AdaLNBlock(width) for _ in range(num_blocks))
        self.modulation = Modulation(width, 2)
        self.to_latent = nn.Linear(width, num_outputs)
        for layer in (self.embed_latent, self.time_in, self.time_out, self.embed_hidden):
            mark_xavier(layer)
        for layer in (self.embed_latent, self.time_in, self.to_latent):
            mark_outermost(layer)
        mark_zero(self.to_latent)

    @classmethod
    def of(
        cls, config: DiffusionHeadConfig | FlowHeadConfig, *, hidden_dim: int, latent_dim: int, num_outputs: int
    ) -> AdaLNNetwork:
        """The network of a head; ``config`` must be resolved."""
        assert config.num_blocks is not None, "resolve the configuration first"
        return cls(
            hidden_dim=hidden_dim,
            latent_dim=latent_dim,
            num_outputs=num_outputs,
            num_blocks=config.num_blocks,
            time_dim=config.time_dim,
        )

    def embed_steps(self, steps: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch d"]:
        """Embedding of the time in steps of 1/1000 of its span. The sinusoids are float32 even under autocast:
        their arguments reach 1000."""
        out: Tensor = self.time_out(F.silu(self.time_in(sinusoids(steps, self.time_dim))))
        return out

    def forward(self, x: Float[Tensor, "s n l"], condition: Float[Tensor, "#s n d"]) -> Float[Tensor, "s n o"]:
        """``condition``: embeddings of the time and of the hidden state, added; with a first axis of 1 it holds
        for all S. Returns float32."""
        active = F.silu(condition)
        e = self.embed_latent(x)
        for block in self.blocks:
            e = block(e, active)
        shift, scale = self.modulation(active)
        out: Tensor = self.to_latent(modulated(e, shift, scale))
        return out.float()

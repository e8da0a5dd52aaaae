"""A head outside the package: p(z | h) as a mixture of normal distributions with diagonal covariances (Bishop
1994), trained by the negative log-likelihood of samples of the target, sampled exactly in one network call.

    calm --heads examples/gaussian_mixture_head.py train tuned-calm --set model.head.kind=gaussian_mixture

Letters: n positions, D width, L latent dimension, C components, S samples.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from workbench.head_sections import OwnHeadConfig
from workbench.heads.base import Head
from workbench.layers import LayerNorm, mark_outermost


class GaussianMixtureConfig(OwnHeadConfig):
    """Fields are validated as everywhere: a value that is not valid is named with the remedy."""

    kind: Literal["gaussian_mixture"] = "gaussian_mixture"
    num_components: Annotated[int, Field(ge=1, le=1000)] = 16
    """C."""
    smallest_std: Annotated[float, Field(gt=0.0, le=1.0)] = 0.05
    """Of a component: without it the likelihood of a target without spread has no bound."""


class GaussianMixtureHead(Head):
    """A hidden layer, then weights, means and log standard deviations of C components."""

    section = GaussianMixtureConfig

    def __init__(self, config: GaussianMixtureConfig, *, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.config, self.latent_dim = config, latent_dim
        outputs = config.num_components * (1 + 2 * latent_dim)
        self.hidden_norm, self.middle = LayerNorm(hidden_dim), nn.Linear(hidden_dim, 2 * hidden_dim)
        self.to_mixture = nn.Linear(2 * hidden_dim, outputs)
        mark_outermost(self.to_mixture)

    def mixture(self, hidden):
        """Logits (n, C), means (n, C, L) and standard deviations (n, C, L), float32."""
        out = self.to_mixture(nn.functional.silu(self.middle(self.hidden_norm(hidden)))).float()
        out = out.view(len(hidden), self.config.num_components, 1 + 2 * self.latent_dim)
        logits, mean, raw = out.split([1, self.latent_dim, self.latent_dim], -1)
        return logits.squeeze(-1), mean, self.config.smallest_std + nn.functional.softplus(raw)

    def loss(self, hidden, target, *, rng):
        """-log p(z | h) / L of one z from the posterior of each position, nats."""
        logits, mean, std = self.mixture(hidden)
        z = target.float().sample(rng=rng).unsqueeze(1)  # (n, 1, L)
        each = -(((z - mean) / std).square() / 2 + std.log() + math.log(2 * math.pi) / 2).sum(-1)
        return -(logits.log_softmax(-1) + each).logsumexp(-1) / self.latent_dim

    def sample(self, hidden, *, num_samples, rng, noise_scale=1.0):
        """A component by its weight, then a normal draw. Without noise: the heaviest component's mean."""
        logits, mean, std = self.mixture(hidden)
        uniform = torch.rand((num_samples, *logits.shape), generator=rng, device=hidden.device)
        gumbel = -(-uniform.clamp_min(1e-30).log()).log()  # the largest logit + gumbel is drawn by its weight
        chosen = (logits + noise_scale * gumbel).argmax(-1)  # (S, n)
        at = torch.arange(len(hidden), device=hidden.device)
        noise = torch.randn((num_samples, *mean[:, 0].shape), generator=rng, device=hidden.device)
        return mean[at, chosen] + noise_scale * std[at, chosen] * noise


HEADS = {"gaussian_mixture": GaussianMixtureHead}

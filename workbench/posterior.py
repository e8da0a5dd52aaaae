"""The diagonal Gaussian posterior q(z | x) of a chunk. Letters: L latent dimension."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench import draws


@dataclass(frozen=True)
class Posterior:
    """N(mean, exp(log_std)^2), independent over the last axis; both tensors have shape (..., L)."""

    mean: Float[Tensor, "*batch l"]
    log_std: Float[Tensor, "*batch l"]

    @property
    def std(self) -> Float[Tensor, "*batch l"]:
        return self.log_std.exp()

    def sample(self, *, rng: torch.Generator) -> Float[Tensor, "*batch l"]:
        """One reparametrised draw a chunk: mean + std * eps."""
        eps = draws.normal(self.mean.shape, axis=0, rng=rng, dtype=self.mean.dtype)
        return self.mean + self.std * eps

    def kl_per_dim(self) -> Float[Tensor, "*batch l"]:
        """KL(q || N(0, 1)) of every dimension in nats: (mean^2 + std^2 - 1 - 2 log std) / 2."""
        return 0.5 * (self.mean.square() + (2 * self.log_std).exp() - 1 - 2 * self.log_std)

    def flatten(self) -> Posterior:
        """All leading axes as one: (n, L)."""
        return Posterior(self.mean.flatten(0, -2), self.log_std.flatten(0, -2))

    def __getitem__(self, index: object) -> Posterior:
        """Index the leading axes."""
        return Posterior(self.mean[index], self.log_std[index])  # type: ignore[index]

    def float(self) -> Posterior:
        return Posterior(self.mean.float(), self.log_std.float())


def clipped_kl(posterior: Posterior, floor: float) -> Float[Tensor, ""]:
    """Sum over dimensions of max(floor, KL_i), each chunk's KL_i clamped before the mean over chunks
    (KL clipping; METHOD section 1: the released code clamps first, and so do we)."""
    return posterior.kl_per_dim().clamp_min(floor).flatten(0, -2).mean(0).sum()

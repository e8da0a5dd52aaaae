"""The contract of a generative head: p(z | h). A head knows nothing of Transformers, tokens or K.

Letters: n positions, D width of the hidden state, L latent dimension, S samples.
"""

from __future__ import annotations

import abc

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.posterior import Posterior


class Head(nn.Module, abc.ABC):
    """A training loss from hidden states and the target posterior, and a sampler from hidden states.

    Neither depends on ``.train()`` / ``.eval()``; all randomness comes from ``rng``, which lives on the
    device of ``hidden``."""

    @abc.abstractmethod
    def loss(
        self, hidden: Float[Tensor, "n d"], target: Posterior, *, rng: torch.Generator
    ) -> Float[Tensor, " n"]:
        """Loss of each position in float32; ``target`` has shape (n, L)."""

    @abc.abstractmethod
    def sample(
        self, hidden: Float[Tensor, "n d"], *, num_samples: int, rng: torch.Generator
    ) -> Float[Tensor, "s n l"]:
        """Independent draws from p(z | h), float32."""

"""The contract of a generative head: p(z | h). A head knows nothing of Transformers, tokens or K.

Letters: n positions, D width of the hidden state, L latent dimension, S samples.
"""

from __future__ import annotations

import abc
import copy
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.head_flops import HeadCounts
from workbench.head_sections import HeadSection
from workbench.heads import contract
from workbench.heads.measured import MeasuredCounts
from workbench.posterior import Posterior


class Head(nn.Module, abc.ABC):
    """A training loss from hidden states and the target posterior, and a sampler from hidden states.

    Neither depends on ``.train()`` / ``.eval()``; all randomness comes from ``rng``, which lives on the
    device of ``hidden``. What only sampling needs is read from ``config`` when sampling (``with_sampling``)."""

    section: ClassVar[type[HeadSection]]
    """What ``config`` is an instance of; of a head from outside a subclass of ``OwnHeadConfig``."""
    config: Any
    """Its section of the configuration (``workbench.head_sections``). A head from outside that does not keep it is
    given it when it is built."""

    @classmethod
    def counts(cls, config: Any, width: int, latent_dim: int) -> HeadCounts:
        """Parameters and FLOPs of a head from outside: measured, unless a subclass counts them itself. Those of
        the workbench are in ``workbench.head_flops``."""
        return MeasuredCounts(cls, config, width, latent_dim)

    @classmethod
    def checked_counts(cls, config: Any, width: int, latent_dim: int) -> HeadCounts:
        """``counts`` of a head from outside. Raises HeadError where it does not do what a head must."""
        if cls.counts.__func__ is not Head.counts.__func__:  # type: ignore[attr-defined]
            contract.require(contract.built(cls, config, width, latent_dim), width, latent_dim)
        with contract.own_code(cls, "counts"):
            return cls.counts(config, width, latent_dim)

    @abc.abstractmethod
    def loss(
        self, hidden: Float[Tensor, "n d"], target: Posterior, *, rng: torch.Generator
    ) -> Float[Tensor, " n"]:
        """Loss of each position in float32; ``target`` has shape (n, L)."""

    @abc.abstractmethod
    def sample(
        self, hidden: Float[Tensor, "n d"], *, num_samples: int, rng: torch.Generator, noise_scale: float = 1.0
    ) -> Float[Tensor, "s n l"]:
        """Independent draws from p(z | h), float32.

        ``noise_scale`` multiplies all noise that goes into a draw (METHOD section 6, heuristics): below 1 draws
        are more alike, 0 makes them all the same; 1 is the head's own distribution."""

    def with_sampling(self, **fields: Any) -> Head:
        """The same trained head, weights shared, that samples by other settings (``config.sampling_fields``).

        Raises pydantic.ValidationError for values that are not valid."""
        foreign = sorted(set(fields) - set(self.config.sampling_fields))
        assert not foreign, f"{foreign} are not settings of sampling"
        clone = copy.copy(self)
        clone.config = type(self.config).model_validate({**self.config.model_dump(), **fields})
        return clone

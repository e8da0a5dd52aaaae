"""What training, evaluation and sampling ask of a language model, CALM or token baseline.

Letters: B sequences, T tokens, K chunk size, P = T / K chunks, D width, V vocabulary, S samples,
n scored positions of a sequence, R branches of a sequence, r places where chunks are sampled.
"""

from __future__ import annotations

import abc

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class LanguageModel(abc.ABC):
    """A trainable network together with everything frozen that it needs."""

    network: nn.Module
    """What is trained and saved."""
    chunk_size: int
    """K; 1 for a token model."""

    @abc.abstractmethod
    def training_loss(self, tokens: Int[Tensor, "b t"], *, rng: torch.Generator) -> Float[Tensor, " n"]:
        """Loss of every predicted position in float32; T is a multiple of K. The first chunk of a block
        is never predicted."""

    @abc.abstractmethod
    def parameter_groups(self) -> dict[str, int]:
        """Number of parameters by part, the autoencoder's apart."""

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device


class ChunkSamples(abc.ABC):
    """S independent chunks at each of r places, known token by token: a chunk that differs from all that it is
    compared with need not be decoded to its end."""

    num_samples: int
    """S."""
    num_places: int
    """r."""
    device: torch.device

    @abc.abstractmethod
    def tokens(self, t: int, which: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
        """Token t of the chunks ``which``: sample s at place i has the number s * r + i."""


class KnownChunks(ChunkSamples):
    """Chunks whose tokens are all there: what a plain sampler returns."""

    def __init__(self, chunks: Int[Tensor, "s r k"]) -> None:
        self.num_samples, self.num_places = chunks.shape[:2]
        self.device = chunks.device
        self._chunks = chunks.flatten(0, 1)

    def tokens(self, t: int, which: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
        return self._chunks[which, t]


class SampledBranches(abc.ABC):
    """Side branches of a sampled model, one chunk further each time: (B, R), R of every window."""

    @abc.abstractmethod
    def keep(self, branch: Int[Tensor, "b m"]) -> None:
        """Go on with these branches of every window alone, in this order."""

    @abc.abstractmethod
    def extend(self, chunks: Int[Tensor, "b r k"]) -> None:
        """Append a chunk to every branch."""

    @abc.abstractmethod
    def sample(
        self, window: Int[Tensor, " r"], branch: Int[Tensor, " r"], num_samples: int, *, rng: torch.Generator
    ) -> ChunkSamples:
        """Independent next chunks at r places: of branch ``branch[i]`` of window ``window[i]``."""


class SampledContext(abc.ABC):
    """A batch of windows read once, from which next chunks can be sampled at any position."""

    @abc.abstractmethod
    def sample(
        self, window: Int[Tensor, " r"], index: Int[Tensor, " r"], num_samples: int, *, rng: torch.Generator
    ) -> ChunkSamples:
        """Independent chunks at r places: those that follow chunk ``index[i]`` (0 is the first) of window
        ``window[i]``."""

    @abc.abstractmethod
    def branch(self, index: Int[Tensor, "b r"]) -> SampledBranches:
        """Branches that leave the text after chunk ``index``."""


class SampledModel(abc.ABC):
    """A model known by its samples alone: what BrierLM needs of a CALM."""

    chunk_size: int
    row_elements: int = 1
    """Floats that are kept for one sampled chunk: bounds how many positions are scored at a time."""

    @abc.abstractmethod
    def read(self, windows: Int[Tensor, "b t"]) -> SampledContext: ...


class DistributionBranches(abc.ABC):
    """Side branches of a token model."""

    @abc.abstractmethod
    def extend(self, tokens: Int[Tensor, "b r"]) -> None: ...

    @abc.abstractmethod
    def log_probs(self) -> Float[Tensor, "b r v"]: ...


class DistributionContext(abc.ABC):
    @abc.abstractmethod
    def log_probs(self, index: Int[Tensor, "b n"]) -> Float[Tensor, "b n v"]:
        """Log probabilities of the token after token ``index`` of the window."""

    @abc.abstractmethod
    def branch(self, index: Int[Tensor, "b r"]) -> DistributionBranches: ...


class DistributionModel(abc.ABC):
    """A token model with explicit probabilities: what BrierLM needs of the baseline."""

    row_elements: int = 1
    """Floats that are alive for one distribution."""

    @abc.abstractmethod
    def read(self, windows: Int[Tensor, "b t"]) -> DistributionContext: ...


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def gather_positions(x: Float[Tensor, "b p d"], index: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    """Rows of the middle axis."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))

"""Parameters and FLOPs of the generative heads, in pure Python (METHOD section 7). A new head has a row in
``COUNTS``; one from outside the package says its own, or is measured (``workbench.heads.measured``).

What is shared is counted once, as our code computes it: the energy head's map of the hidden state is the same for
all samples of a position; in the AdaLN network of diffusion and flow all samples of a position and network call
share one modulation, and all positions one time embedding.

Letters: D width, L latent dimension, N draws in training, M targets, S samples of a position.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

from workbench import own_heads
from workbench.head_sections import DiffusionHeadConfig, EnergyHeadConfig, FlowHeadConfig, HeadConfig


@dataclass(frozen=True)
class Cost:
    """FLOPs of one part, forward and backward."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        return self.forward + self.backward

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forward + other.forward, self.backward + other.backward)


def linear(rows: float, fan_in: int, fan_out: int, *, input_grad: bool = True, trained: bool = True) -> Cost:
    """A trained linear map: forward, then a product each for the weights' and the input's gradient."""
    forward = 2.0 * rows * fan_in * fan_out
    return Cost(forward, forward * (int(trained) + int(trained and input_grad)))


class HeadCounts(abc.ABC):
    """Of one head on a hidden state of width D. ``head`` must be resolved."""

    head: Any

    def __init__(self, head: HeadConfig, width: int, latent_dim: int) -> None:
        self.head, self.width, self.latent_dim = head, width, latent_dim

    @property
    def num_blocks(self) -> int:
        """Of the workbench's own heads."""
        assert self.head.num_blocks is not None, "resolve the configuration first"
        return int(self.head.num_blocks)

    @property
    @abc.abstractmethod
    def num_draws(self) -> int:
        """N: how often a training step runs what is not shared."""

    @property
    def shared_weights(self) -> int:
        """Of the maps that ``published`` counts once whatever N is: the embedding of h."""
        return self.width**2

    @property
    @abc.abstractmethod
    def num_matrix_weights(self) -> int:
        """Weights of all linear maps."""

    @property
    @abc.abstractmethod
    def num_vector_weights(self) -> int:
        """Biases and norms."""

    @property
    @abc.abstractmethod
    def inner_matrices(self) -> list[tuple[int, int]]:
        """Maps inside the head, which Muon orthogonalises: neither its ends nor what starts at zero."""

    @abc.abstractmethod
    def training(self, positions: float) -> dict[str, Cost]:
        """Of one step: ``head``, and ``loss`` where that has matrix products."""

    @abc.abstractmethod
    def sampling(self, positions: float, num_samples: int) -> float:
        """Of S samples at each position, with the head's network calls; one time embedding a call."""


class EnergyCounts(HeadCounts):
    head: EnergyHeadConfig

    @property
    def num_draws(self) -> int:
        return self.head.num_samples

    @property
    def _shared(self) -> int:
        """The embedding of h, and each block's half of it."""
        return (1 + self.num_blocks) * self.width**2

    @property
    def _from_noise(self) -> int:
        return self.head.noise_dim * self.width

    @property
    def _sampled(self) -> int:
        """What acts on every sample, but for the embedding of the noise."""
        d2 = self.width**2
        return self.num_blocks * 5 * d2 + d2 + self.width * self.latent_dim

    @property
    def num_matrix_weights(self) -> int:
        return self._shared + self._from_noise + self._sampled

    @property
    def num_vector_weights(self) -> int:
        block = 2 * self.width + 5 * self.width
        return 2 * 3 * self.width + self.num_blocks * block + 3 * self.width + self.latent_dim

    @property
    def inner_matrices(self) -> list[tuple[int, int]]:
        return (2 + 6 * self.num_blocks) * [(self.width, self.width)]

    def _map(self, positions: float, num_samples: int) -> Cost:
        noise = linear(positions * num_samples, self.head.noise_dim, self.width, input_grad=False)
        rest = 2.0 * positions * (self._shared + num_samples * self._sampled)
        return noise + Cost(rest, 2 * rest)

    def training(self, positions: float) -> dict[str, Cost]:
        """``loss``: the matrix products of the cheap energy loss. Only the samples get a gradient; it is computed
        beside the loss, but counts as backward."""
        n, m, latent = self.head.num_samples, self.head.num_targets, self.latent_dim
        cross = 2.0 * positions * n * latent * m
        spread = 2.0 * positions * latent * m
        between = 2.0 * positions * n * (n * (n - 1) // 2) * latent
        return {"head": self._map(positions, n), "loss": Cost(cross + spread, cross + between)}

    def sampling(self, positions: float, num_samples: int) -> float:
        return self._map(positions, num_samples).forward


class DenoisingCounts(HeadCounts):
    """Of the AdaLN network that diffusion and flow share."""

    head: DiffusionHeadConfig | FlowHeadConfig
    outputs_per_dim: int

    @property
    def num_draws(self) -> int:
        return self.head.num_draws

    @property
    def _out(self) -> int:
        return self.outputs_per_dim * self.latent_dim

    @property
    def _modulation(self) -> int:
        return (3 * self.num_blocks + 2) * self.width**2

    @property
    def _sampled(self) -> int:
        """What acts on every draw, but for the input map."""
        return 2 * self.num_blocks * self.width**2 + self.width * self._out

    @property
    def _time(self) -> int:
        return self.head.time_dim * self.width + self.width**2

    @property
    def num_matrix_weights(self) -> int:
        ends = self.latent_dim * self.width + self.width**2  # the noisy vector, the hidden state
        return ends + self._time + self._modulation + self._sampled

    @property
    def num_vector_weights(self) -> int:
        return (4 + 5 * self.num_blocks + 2) * self.width + self._out

    @property
    def inner_matrices(self) -> list[tuple[int, int]]:
        return (2 + 2 * self.num_blocks) * [(self.width, self.width)]

    def training(self, positions: float) -> dict[str, Cost]:
        rows, width = positions * self.head.num_draws, self.width
        ends = linear(rows, self.latent_dim, width, input_grad=False)
        ends += linear(rows, self.head.time_dim, width, input_grad=False)
        rest = 2.0 * (positions * width**2 + rows * (width**2 + self._modulation + self._sampled))
        return {"head": ends + Cost(rest, 2 * rest)}

    def sampling(self, positions: float, num_samples: int) -> float:
        calls = self.head.network_calls
        per_call = self._time + positions * self._modulation
        per_call += positions * num_samples * (self.latent_dim * self.width + self._sampled)
        return 2.0 * (positions * self.width**2 + calls * per_call)


class DiffusionCounts(DenoisingCounts):
    outputs_per_dim = 2  # noise and variance


class FlowCounts(DenoisingCounts):
    outputs_per_dim = 1


COUNTS: dict[str, type[HeadCounts]] = {
    "energy": EnergyCounts,
    "diffusion": DiffusionCounts,
    "flow": FlowCounts,
}


def head_counts(head: HeadConfig, width: int, latent_dim: int) -> HeadCounts:
    """The counts of the head that ``head.kind`` names; ``head`` must be resolved. Raises HeadError for a head from
    outside that cannot be counted, or does something else on a few positions than a head must."""
    if head.kind in COUNTS:
        return COUNTS[head.kind](head, width, latent_dim)
    counts: HeadCounts = own_heads.find(head.kind).head.checked_counts(head, width, latent_dim)
    return counts

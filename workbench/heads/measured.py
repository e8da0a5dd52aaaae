"""Parameters and FLOPs of a head from outside the package, measured: the head is built and run on one and two
positions and draws, and its matrix products are counted as they run.

What a head multiplies grows with the positions, or with positions x draws, so that four runs say everything; a
fifth one checks it. Element-wise work is out, as in ``workbench.flops``.

Letters: n positions, D width, L latent dimension, S draws.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from workbench.errors import HeadError
from workbench.head_flops import Cost, HeadCounts
from workbench.heads import contract
from workbench.muon import matrices_of
from workbench.posterior import Posterior


class MeasuredCounts(HeadCounts):
    """``head_class(config, hidden_dim=D, latent_dim=L)`` is built once for each configuration.

    Raises HeadError where it does not do what a head must, or its matrix products do not grow in proportion: the
    latter must count them itself."""

    def __init__(self, head_class: Any, head: Any, width: int, latent_dim: int) -> None:
        super().__init__(head, width, latent_dim)
        self.measured: _Measured = _measure(head_class, head.model_dump_json(), width, latent_dim)

    @property
    def num_draws(self) -> int:
        return self.measured.num_draws

    @property
    def shared_weights(self) -> int:
        return 0

    @property
    def num_matrix_weights(self) -> int:
        return self.measured.num_matrix_weights

    @property
    def num_vector_weights(self) -> int:
        return self.measured.num_vector_weights

    @property
    def inner_matrices(self) -> list[tuple[int, int]]:
        return list(self.measured.inner_matrices)

    def training(self, positions: int | float) -> dict[str, Cost]:
        forward, backward = self.measured.training
        return {"head": Cost(forward(positions, 1), backward(positions, 1))}

    def sampling(self, positions: int | float, num_samples: int) -> float:
        return self.measured.sampling(positions, num_samples)


Count = Callable[[int | float, int | float], float]
"""(positions, draws) to FLOPs."""


class _Measured:
    """Of one configuration of a head at one size."""

    def __init__(self, head: Any, width: int, latent_dim: int) -> None:
        self.name, self.head, self.width, self.latent_dim = type(head).__name__, head, width, latent_dim
        weights = [p for p in head.parameters() if p.requires_grad]
        self.num_matrix_weights: int = sum(p.numel() for p in weights if p.ndim >= 2)
        self.num_vector_weights: int = sum(p.numel() for p in weights if p.ndim < 2)
        self.inner_matrices = [
            (rows, columns) for _, (many, wide) in matrices_of(head) for rows in many for columns in wide
        ]
        self.sampling = self._fitted("sample", self._sample)
        forward = self._fitted("loss", lambda n, s: self._loss(n)[0])
        both = self._fitted("loss", lambda n, s: self._loss(n)[1])
        self.training: tuple[Count, Count] = (forward, lambda n, s: both(n, s) - forward(n, s))
        per_draw = 2 * max(self.num_matrix_weights, 1)
        self.num_draws: int = max(1, round(forward(1, 1) / per_draw))
        del self.head  # the counts are kept, its weights need not be

    def _loss(self, positions: int) -> tuple[float, float]:
        """FLOPs of the forward pass, and of both."""
        hidden = torch.zeros(positions, self.width, requires_grad=True)
        zero = torch.zeros(positions, self.latent_dim)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            with contract.own_code(type(self.head), "loss"):
                loss = self.head.loss(hidden, Posterior(zero, zero), rng=_generator())
                forward = float(counter.get_total_flops())
                loss.sum().backward()
            return forward, float(counter.get_total_flops())

    @torch.no_grad()
    def _sample(self, positions: int, draws: int) -> float:
        hidden = torch.zeros(positions, self.width)
        code = contract.own_code(type(self.head), "sample")
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, code:
            self.head.sample(hidden, num_samples=draws, rng=_generator())
        return float(counter.get_total_flops())

    def _fitted(self, what: str, run: Callable[[int, int], float]) -> Count:
        """a + b n + c S + d n S through four counts, held against a fifth."""
        counted = {(n, s): run(n, s) for n in (1, 2) for s in (1, 2)}
        per_both = counted[2, 2] - counted[2, 1] - counted[1, 2] + counted[1, 1]
        per_position = counted[2, 1] - counted[1, 1] - per_both
        per_draw = counted[1, 2] - counted[1, 1] - per_both
        constant = counted[1, 1] - per_position - per_draw - per_both

        def count(n: int | float, s: int | float) -> float:
            return constant + per_position * n + per_draw * s + per_both * n * s

        if (real := run(5, 3)) != count(5, 3):
            raise HeadError(
                f"{self.name}.{what}: its matrix products cannot be counted by a few runs ({real:,.0f} FLOPs for "
                f"5 positions and 3 draws, {count(5, 3):,.0f} expected from fewer); define the classmethod "
                f"{self.name}.counts (docs/own-head.md)"
            )
        return count


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@lru_cache(maxsize=256)
def _measure(head_class: Any, config: str, width: int, latent_dim: int) -> _Measured:
    """A few milliseconds at small sizes, seconds at the published ones."""
    section = head_class.section.model_validate_json(config)
    head = contract.built(head_class, section, width, latent_dim)
    contract.require(head, width, latent_dim)
    return _Measured(head, width, latent_dim)

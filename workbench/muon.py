"""Muon: momentum whose matrices are orthogonalised (Jordan et al. 2024), with AdamW beside it for the rest.

A matrix M = U S V^T of the momentum is replaced by U V^T, nearly, through a short Newton-Schulz iteration, and
scaled by 0.2 sqrt(max(rows, columns)), so that the update's root mean square is that of AdamW and rate and weight
decay carry over (Liu et al. 2025, arXiv 2502.16982). Fused weights (queries, keys and values; gates and values)
are orthogonalised map by map. Matrices of equal shape go through the iteration together.

Letters: G matrices of one shape, m rows, n columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.layers import blocks_of
from workbench.optimizers import Optimizer

COEFFICIENTS = (
    (8.287212018145630, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.947849916737911, 0.544843108292660),
    (3.948690853482295, -2.908902115962949, 0.551819139437014),
    (3.318419657370602, -2.488488024314874, 0.510048940123720),
    (2.300652019954817, -1.668903984574749, 0.418807311952567),
)
"""(a, b, c) of X <- a X + (b A + c A^2) X with A = X X^T, step by step: the minimax-optimal odd quintics of Amsel
et al. 2025 (arXiv 2505.16932), for singular values in [1e-3, 1]."""

SAFETY = 1.02
"""The polynomials are applied to X / SAFETY: rounding in bfloat16 must leave no singular value above 1, where they
grow without bound."""

Blocks = tuple[Sequence[int], Sequence[int]]
"""Row and column sizes of the maps in one weight."""


def orthogonalise(matrices: Float[Tensor, "g m n"], *, dtype: torch.dtype) -> Float[Tensor, "g m n"]:
    """U V^T of every U S V^T, nearly: singular values between 0.85 and 1.15, less where S lies below a thousandth
    of its norm. Computed and returned in ``dtype``."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-20)).to(dtype)
    for a, b, c in COEFFICIENTS:
        square = x @ x.mT
        poly = torch.baddbmm(square, square, square, beta=b / SAFETY**3, alpha=c / SAFETY**5)
        x = torch.baddbmm(x, poly, x, beta=a / SAFETY)
    return x.mT if tall else x


class Muon(Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay. ``matrices``: two-dimensional weights with
    the sizes of the maps that each holds. ``every``: steps from one update to the next, which is that many times
    as long; the momentum takes every gradient, and changes little in a few steps. Every matrix must have one."""

    names = ("step", "momentum")

    def __init__(
        self,
        matrices: Iterable[tuple[Tensor, Blocks]],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype,
        every: int = 1,
    ) -> None:
        held = list(matrices)
        params = [p for p, _ in held]
        self.param_groups = [{"params": params, "lr": lr, "momentum": momentum, "weight_decay": weight_decay}]
        self.dtype, self.every = dtype, every
        self._state: list[dict[str, Tensor]] = [{} for _ in params]
        self.shapes: dict[tuple[int, int], list[tuple[int, slice, slice]]] = {}
        for number, (_, (rows, columns)) in enumerate(held):
            for row in _ranges(rows):
                for column in _ranges(columns):
                    shape = (row.stop - row.start, column.stop - column.start)
                    self.shapes.setdefault(shape, []).append((number, row, column))

    def place(self, name: str, value: Tensor, parameter: Tensor) -> Tensor:
        return value if name == "step" else value.to(parameter.device)  # looked at in every step: stays at hand

    @property
    def state(self) -> list[dict[str, Tensor]]:
        return self._state

    @torch.no_grad()
    def step(self) -> None:
        (group,) = self.param_groups
        params = group["params"]
        for p, entry in zip(params, self._state, strict=True):
            if not entry:
                entry["step"], entry["momentum"] = torch.zeros(()), torch.zeros_like(p)
            entry["step"] += 1
            assert p.grad is not None, "every matrix takes part in every loss"
            entry["momentum"].lerp_(p.grad, 1 - group["momentum"])
        if int(self._state[0]["step"]) % self.every == 0:
            self._move(params, self.every * group["lr"], group)

    def _move(self, params: list[Tensor], lr: float, group: dict[str, Any]) -> None:
        """Along what the gradient and its running mean give when mixed once more (Nesterov)."""
        gradients = [p.grad for p in params if p.grad is not None]
        momenta = [entry["momentum"] for entry in self._state]
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
        for (rows, columns), places in self.shapes.items():
            gathered = torch.stack([updates[number][row, column] for number, row, column in places])
            unit = orthogonalise(gathered, dtype=self.dtype).float()
            weights = [params[number][row, column] for number, row, column in places]
            torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
            scale = 0.2 * math.sqrt(max(rows, columns))
            torch._foreach_add_(weights, list(unit.unbind()), alpha=-lr * scale)


def matrices_of(module: nn.Module) -> list[tuple[Tensor, Blocks]]:
    """The weights of the linear maps inside the network: not embeddings, output layers or what starts at zero."""
    return [
        (layer.weight, blocks_of(layer))
        for layer in module.modules()
        if isinstance(layer, nn.Linear) and not getattr(layer, "outermost", False) and layer.weight.requires_grad
    ]


def _ranges(sizes: Sequence[int]) -> list[slice]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]

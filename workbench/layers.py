"""Layers shared by autoencoder, backbone and heads, and the two initialisations.

Letters: D width, F inner width of an MLP.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.config import Init

PAPER_STD = 0.02


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        # one dtype for both: the fused kernel refuses a mixture and falls back to a slow path
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class SwiGLU(nn.Module):
    """W_down(SiLU(W_gate x) * W_up x), no biases; gate and up are one weight."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        mark_blocks(self.gate_up, rows=(inner, inner))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        out: Tensor = self.down(gated(self.gate_up, x))
        return out


def gated(gate_up: nn.Linear, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch f"]:
    """SiLU(gate) * up of a map that holds both. As two matrix products: the halves of one product's rows lie apart
    in memory, and reading them so takes four times as long as the second product costs."""
    gate, up = gate_up.weight.chunk(2)
    gate_bias, up_bias = gate_up.bias.chunk(2) if gate_up.bias is not None else (None, None)
    return F.silu(F.linear(x, gate, gate_bias)) * F.linear(x, up, up_bias)


class ResidualMLP(nn.Module):
    """x + SwiGLU(RMSNorm(x)): the autoencoder's residual block."""

    def __init__(self, width: int, inner: int, *, eps: float = 1e-6, num_outputs: int = 1) -> None:
        super().__init__()
        self.norm = RMSNorm(width, eps)
        self.mlp = SwiGLU(width, inner)
        mark_residual_output(self.mlp.down, num_outputs=num_outputs)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        out: Tensor = x + self.mlp(self.norm(x))
        return out


class LayerNorm(nn.LayerNorm):
    """LayerNorm with the eps of METHOD section 2, computed in the input's dtype."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, input: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return F.layer_norm(
            input, self.normalized_shape, self.weight.to(input.dtype), self.bias.to(input.dtype), self.eps
        )


def mark_residual_output(layer: nn.Linear, *, num_outputs: int) -> None:
    """Under ``fan_in`` the layer's weights are divided by sqrt(num_outputs), the number of branches
    that add into the same residual stream."""
    layer.residual_outputs = num_outputs  # type: ignore[assignment]


def mark_zero(layer: nn.Linear) -> None:
    """The layer starts at zero under either initialisation."""
    layer.zero_init = True  # type: ignore[assignment]


def mark_xavier(layer: nn.Linear) -> None:
    """The layer starts with std sqrt(2 / (fan-in + fan-out)) under either initialisation (Glorot & Bengio 2010,
    eq. 12, for a normal distribution)."""
    layer.xavier_init = True  # type: ignore[assignment]


def mark_outermost(layer: nn.Linear) -> None:
    """A map into or out of the network, whose weights an optimizer for inner matrices leaves to AdamW."""
    layer.outermost = True  # type: ignore[assignment]


def mark_blocks(layer: nn.Linear, *, rows: Sequence[int] = (), columns: Sequence[int] = ()) -> None:
    """Several maps in one weight matrix: their sizes along the output and the input axis."""
    layer.blocks = (rows or (layer.out_features,), columns or (layer.in_features,))  # type: ignore[assignment]


def blocks_of(layer: nn.Linear) -> tuple[Sequence[int], Sequence[int]]:
    """Row and column sizes of the maps in the layer's weight."""
    found: tuple[Sequence[int], Sequence[int]] = getattr(
        layer, "blocks", ((layer.out_features,), (layer.in_features,))
    )
    return found


def mark_tied_output(layer: nn.Embedding) -> None:
    """The embedding also serves as the output matrix; ``fan_in`` gives it std 1/sqrt(D), not 1."""
    layer.tied_output = True  # type: ignore[assignment]


def initialise(module: nn.Module, scheme: Init, *, rng: torch.Generator) -> None:
    """Fill all weights.

    ``paper``: N(0, 0.02), biases 0. ``fan_in``: linear maps with std 1/sqrt(fan-in), residual outputs
    divided by sqrt(number of residual branches), embeddings with std 1 (METHOD section 3.5). Layers
    marked zero or xavier start so under both."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            std = PAPER_STD
            if scheme == "fan_in":
                std = 1 / math.sqrt(layer.in_features * getattr(layer, "residual_outputs", 1))
            if getattr(layer, "xavier_init", False):
                std = math.sqrt(2 / (layer.in_features + layer.out_features))
            if getattr(layer, "zero_init", False):
                std = 0.0
            _normal(layer.weight, std, rng)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            std = PAPER_STD
            if scheme == "fan_in":
                std = 1 / math.sqrt(layer.embedding_dim) if getattr(layer, "tied_output", False) else 1.0
            _normal(layer.weight, std, rng)


def _normal(weight: Tensor, std: float, rng: torch.Generator) -> None:
    with torch.no_grad():
        if std == 0.0:
            weight.zero_()
        else:
            weight.normal_(0.0, std, generator=rng)


@contextmanager
def drawn_from(rng: torch.Generator) -> Iterator[None]:
    """What is drawn without a generator comes from ``rng``, on the CPU: torch's own is as before afterwards."""
    before = torch.get_rng_state()
    torch.set_rng_state(rng.get_state())
    try:
        yield
    finally:
        torch.set_rng_state(before)


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose state depends on ``key`` alone: (seed, purpose, step, ...).

    Nothing random is ever stored in a checkpoint: step s of a run uses generator(seed, "train", s)."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    rng = torch.Generator(device=device)
    rng.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return rng

"""Causal attention over whole sequences: the fused kernel of torch, or blocks of queries written out.

On a processor in bfloat16 the fused kernel's backward pass costs several times its forward pass; matrix products
on blocks of queries, each against the keys that it may see, take half the time or less. In float32 and on
a GPU the fused kernel is the better one. ``tests/bench/attention_time.py`` measures both.

Letters: B sequences, H heads, P positions, E width of a head, Q queries of a block.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128
"""Q: queries of a block."""
LONGEST = 4096
"""Positions above which the weights, which are kept for the backward pass, would take too much memory."""


def causal_attention(
    q: Float[Tensor, "b h p e"], k: Float[Tensor, "b g p e"], v: Float[Tensor, "b g p e"]
) -> Float[Tensor, "b h p e"]:
    """softmax(q k^T / sqrt(E)) v, each position attending to itself and what is before it. H is a multiple of the
    number of key/value heads."""
    grouped = k.shape[1] != q.shape[1]
    written_out = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] <= LONGEST and not grouped
    if written_out:
        out: Tensor = BlockAttention.apply(q, k, v)  # type: ignore[no-untyped-call]
        return out
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=grouped)


class BlockAttention(torch.autograd.Function):
    """Keeps the attention weights, in the dtype of q, a block of queries each."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            scale = q.shape[-1] ** -0.5
            out = torch.empty_like(q)
            kept = []
            for start, end in _blocks(q.shape[2]):
                weights = _weights(q[:, :, start:end], k[:, :, :end], start, scale)
                torch.matmul(weights, v[:, :, :end], out=out[:, :, start:end])
                kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *kept = ctx.saved_tensors
        with torch.autocast(q.device.type, enabled=False):
            dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
            for (start, end), weights in zip(_blocks(q.shape[2]), kept, strict=True):
                up = upstream[:, :, start:end]
                dv[:, :, :end] += weights.transpose(-1, -2) @ up
                by_weight = up @ v[:, :, :end].transpose(-1, -2)
                by_score = torch.ops.aten._softmax_backward_data(by_weight, weights, -1, weights.dtype)
                by_score *= q.shape[-1] ** -0.5
                dq[:, :, start:end] = by_score @ k[:, :, :end]
                dk[:, :, :end] += by_score.transpose(-1, -2) @ q[:, :, start:end]
        return dq, dk, dv


def _blocks(num: int) -> list[tuple[int, int]]:
    return [(start, min(num, start + BLOCK)) for start in range(0, num, BLOCK)]


def _weights(q: Tensor, k: Tensor, start: int, scale: float) -> Tensor:
    """Attention weights (B, H, Q, P') of queries from position ``start`` on."""
    scores = (q @ k.transpose(-1, -2)).mul_(scale)
    square = scores[..., start:]  # of the block against itself; all keys before it are visible
    later = torch.ones(square.shape[-2:], dtype=torch.bool, device=q.device).triu_(1)
    square.masked_fill_(later, float("-inf"))
    wide = scores.float() if scores.dtype == torch.bfloat16 else scores  # a fourth of the time in bfloat16
    return torch.softmax(wide, -1).to(q.dtype)

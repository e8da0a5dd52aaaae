"""Causal attention over whole sequences: the fused kernel of torch, or blocks of queries written out.

On a processor in bfloat16 the fused kernel's backward pass costs several times its forward pass; matrix products
on blocks of queries, each against the keys that it may see, take 1.3 to 2 times less in all. In float32 and on
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
MOST_WEIGHTS = 2**26
"""Attention weights (B x H x P x P) of a layer up to which they are kept for the backward pass: half of them, as
those of later positions are not formed, 64 MB. The fused kernel, whose memory is linear in P, takes over above."""


def causal_attention(
    q: Float[Tensor, "b h p e"], k: Float[Tensor, "b g p e"], v: Float[Tensor, "b g p e"]
) -> Float[Tensor, "b h p e"]:
    """softmax(q k^T / sqrt(E)) v, each position attending to itself and what is before it. H is a multiple of the
    number of key/value heads."""
    grouped = k.shape[1] != q.shape[1]
    few = q.shape[0] * q.shape[1] * q.shape[2] ** 2 <= MOST_WEIGHTS
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and few and not grouped:
        out: Tensor = BlockAttention.apply(q, k, v)  # type: ignore[no-untyped-call]
        return out
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=grouped)


class BlockAttention(torch.autograd.Function):
    """Keeps the attention weights, in the dtype of q, a block of queries each. Scores become weights in float32,
    and gradients of keys and values are summed over the blocks in float32. What is left of rounding in bfloat16
    is that of the scores themselves: 0.7 % of the result at inputs of std 1.5 (fused kernel: 0.2 %)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            out = torch.empty_like(q)
            kept = []
            for start, end in _blocks(q.shape[2]):
                weights = _weights(q[:, :, start:end], k[:, :, :end], start)
                torch.matmul(weights, v[:, :, :end], out=out[:, :, start:end])
                kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *kept = ctx.saved_tensors
        scale, blocks = q.shape[-1] ** -0.5, _blocks(q.shape[2])
        with torch.autocast(q.device.type, enabled=False):
            dq = torch.empty_like(q)
            dk, dv = (torch.zeros_like(x, dtype=_wide(x)) for x in (k, v))
            for (start, end), weights in zip(blocks, kept, strict=True):
                up = upstream[:, :, start:end]
                dv[:, :, :end] += weights.transpose(-1, -2) @ up
                by_weight = up @ v[:, :, :end].transpose(-1, -2)
                by_score = torch.ops.aten._softmax_backward_data(by_weight, weights, -1, weights.dtype)
                dq[:, :, start:end] = by_score @ k[:, :, :end]
                dk[:, :, :end] += by_score.transpose(-1, -2) @ q[:, :, start:end]
        return dq.mul_(scale), dk.mul_(scale).to(k.dtype), dv.to(v.dtype)


def _blocks(num: int) -> list[tuple[int, int]]:
    return [(start, min(num, start + BLOCK)) for start in range(0, num, BLOCK)]


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype == torch.bfloat16 else x.dtype


def _weights(q: Tensor, k: Tensor, start: int) -> Tensor:
    """Attention weights (B, H, Q, P') of queries from position ``start`` on."""
    scores = (q @ k.transpose(-1, -2)).to(_wide(q)).mul_(q.shape[-1] ** -0.5)
    square = scores[..., start:]  # of the block against itself; all keys before it are visible
    later = torch.ones(square.shape[-2:], dtype=torch.bool, device=q.device).triu_(1)
    square.masked_fill_(later, float("-inf"))
    return torch.softmax(scores, -1).to(q.dtype)  # in bfloat16 itself it takes four times as long

"""A Llama-style causal Transformer over vectors: RMSNorm, rotary positions, SwiGLU, no biases
(METHOD section 2), with a key/value cache and side branches that share the cache.

Letters: B sequences, P positions, D width, H heads, G key/value heads, E width of a head,
R branches of a sequence, Q depth of a branch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.config import BackboneConfig
from workbench.layers import RMSNorm, SwiGLU, mark_residual_output


class KVCache:
    """Keys and values of the positions seen so far, one (B, G, P, E) pair a layer.

    With ``capacity`` the memory is taken once; otherwise it grows with what is appended."""

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self.length = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add positions of one layer; returns all of that layer's keys and values."""
        end = self.length + keys.shape[2]
        if layer == len(self._keys):
            shape = (*keys.shape[:2], max(self.capacity, end), keys.shape[3])
            self._keys.append(keys.new_zeros(shape))
            self._values.append(values.new_zeros(shape))
        if end > self._keys[layer].shape[2]:
            more = max(end, 2 * self._keys[layer].shape[2]) - self._keys[layer].shape[2]
            self._keys[layer] = F.pad(self._keys[layer], (0, 0, 0, more))
            self._values[layer] = F.pad(self._values[layer], (0, 0, 0, more))
        self._keys[layer][:, :, self.length : end] = keys
        self._values[layer][:, :, self.length : end] = values
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        return self._keys[layer][:, :, : self.length], self._values[layer][:, :, : self.length]


class Branches:
    """Continuations that leave the main sequence after given positions (METHOD section 5).

    Branch r of sequence b starts after main position ``start[b, r]``: it attends to main keys up to and
    including that position and to its own earlier entries, never to the true ones; its rotary positions
    are start + 1, start + 2, ..."""

    def __init__(self, main: KVCache, start: Int[Tensor, "b r"]) -> None:
        self.main = main
        self.start = start
        self.depth = 0
        self._keys: list[Tensor] = []  # a layer: (B, G, R, Q, E)
        self._values: list[Tensor] = []

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add one position (B, G, R, E) to every branch; returns (B, G, R, Q, E) keys and values."""
        keys, values = keys.unsqueeze(3), values.unsqueeze(3)
        if layer == len(self._keys):
            self._keys.append(keys)
            self._values.append(values)
        else:
            self._keys[layer] = torch.cat([self._keys[layer], keys], dim=3)
            self._values[layer] = torch.cat([self._values[layer], values], dim=3)
        return self._keys[layer], self._values[layer]


def rotary(positions: Int[Tensor, "*p"], head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (..., E), of rotary positions in float32."""
    frequencies = theta ** (-torch.arange(0, head_width, 2, device=positions.device).float() / head_width)
    angles = positions.float().unsqueeze(-1) * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Float[Tensor, "*batch e"], cos: Tensor, sin: Tensor) -> Float[Tensor, "*batch e"]:
    """Rotate the pairs (x_j, x_{j+E/2})."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], dim=-1) * sin.to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config: BackboneConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads or config.num_heads
        self.head_width = config.width // config.num_heads
        self.qkv = nn.Linear(config.width, (self.num_heads + 2 * self.num_kv_heads) * self.head_width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        mark_residual_output(self.out, num_outputs=2 * config.num_layers)

    def _project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, P, D) to queries (B, H, P, E) and keys, values (B, G, P, E), rotated."""
        qkv = self.qkv(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
        q, k, v = qkv.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=1)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def forward(
        self, x: Float[Tensor, "b p d"], cos: Tensor, sin: Tensor, cache: KVCache | None
    ) -> Float[Tensor, "b p d"]:
        q, k, v = self._project(x, cos, sin)
        mask = None
        if cache is not None:
            past = cache.length
            k, v = cache.append(self.layer, k, v)
            if past and q.shape[2] > 1:
                mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(past)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None and q.shape[2] > 1,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )
        out: Tensor = self.out(y.transpose(1, 2).flatten(-2))
        return out

    def branch(
        self, x: Float[Tensor, "b r d"], cos: Tensor, sin: Tensor, branches: Branches
    ) -> Float[Tensor, "b r d"]:
        """One new position for every branch."""
        q, k, v = self._project(x, cos, sin)
        main_k, main_v = branches.main.layer(self.layer)
        own_k, own_v = branches.append(self.layer, k, v)
        group = self.num_heads // self.num_kv_heads
        q = q.unflatten(1, (self.num_kv_heads, group)) * self.head_width**-0.5  # (B, G, H/G, R, E)
        to_main = torch.einsum("bghre,bgpe->bghrp", q, main_k)
        to_own = torch.einsum("bghre,bgrqe->bghrq", q, own_k)
        position = torch.arange(main_k.shape[2], device=x.device)
        hidden = position > branches.start[:, None, None, :, None]  # (B, 1, 1, R, P)
        to_main = to_main.masked_fill(hidden, float("-inf"))
        weights = torch.cat([to_main, to_own], dim=-1).float().softmax(-1).to(v.dtype)
        from_main, from_own = weights.split([main_k.shape[2], own_k.shape[3]], dim=-1)
        y = torch.einsum("bghrp,bgpe->bghre", from_main, main_v)
        y = y + torch.einsum("bghrq,bgrqe->bghre", from_own, own_v)
        out: Tensor = self.out(y.flatten(1, 2).transpose(1, 2).flatten(-2))
        return out


class Layer(nn.Module):
    def __init__(self, config: BackboneConfig, layer: int) -> None:
        super().__init__()
        assert config.mlp_width is not None, "resolve the configuration first"
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config, layer)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp = SwiGLU(config.width, config.mlp_width)
        mark_residual_output(self.mlp.down, num_outputs=2 * config.num_layers)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, past: KVCache | Branches | None) -> Tensor:
        normed = self.attention_norm(x)
        if isinstance(past, Branches):
            x = x + self.attention.branch(normed, cos, sin, past)
        else:
            x = x + self.attention(normed, cos, sin, past)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Backbone(nn.Module):
    """``config`` must be resolved (mlp_width set)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.width)

    def forward(self, x: Float[Tensor, "b p d"], cache: KVCache | None = None) -> Float[Tensor, "b p d"]:
        """Hidden states, causally. With a cache, ``x`` continues what the cache holds and is added to it."""
        first = cache.length if cache is not None else 0
        positions = torch.arange(first, first + x.shape[1], device=x.device)
        hidden = self._run(x, positions, cache)
        if cache is not None:
            cache.length += x.shape[1]
        return hidden

    def branch(self, x: Float[Tensor, "b r d"], branches: Branches) -> Float[Tensor, "b r d"]:
        """Hidden states of one further position of every branch; added to ``branches``."""
        positions = (branches.start + 1 + branches.depth).unsqueeze(1)  # (B, 1, R): one axis for the heads
        hidden = self._run(x, positions, branches)
        branches.depth += 1
        return hidden

    def _run(self, x: Tensor, positions: Tensor, past: KVCache | Branches | None) -> Tensor:
        cos, sin = rotary(positions, self.config.width // self.config.num_heads, self.config.rope_theta)
        for layer in self.layers:
            x = layer(x, cos, sin, past)
        out: Tensor = self.norm(x)
        return out

"""A Llama-style causal Transformer over vectors: RMSNorm, rotary positions, SwiGLU, no biases
(METHOD section 2), with a key/value cache and side branches that share the cache.

Letters: B sequences, P positions, D width, H heads, G key/value heads, E width of a head,
R branches of a sequence, Q depth of a branch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from workbench.attention import causal_attention
from workbench.config import BackboneConfig
from workbench.layers import RMSNorm, SwiGLU, mark_blocks, mark_residual_output


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
            self._keys.append(keys.new_empty(shape))
            self._values.append(values.new_empty(shape))
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
        self._main_length = int(start.max()) + 1
        """Main keys that some branch may see."""
        self._keys: list[Tensor] = []  # a layer: (B, G, R, Q, E)
        self._values: list[Tensor] = []

    def keep(self, branch: Int[Tensor, "b m"]) -> None:
        """Go on with these branches of every sequence alone, in this order."""
        self.start = self.start.gather(1, branch)
        index = branch[:, None, :, None, None]
        for stored in (self._keys, self._values):
            stored[:] = [x.take_along_dim(index, dim=2) for x in stored]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add one position (B, G, R, E) to every branch; returns the layer's keys and values, those of the main
        sequence followed by those of all branches: (B, G, P + R*Q, E)."""
        keys, values = keys.unsqueeze(3), values.unsqueeze(3)
        if layer == len(self._keys):
            self._keys.append(keys)
            self._values.append(values)
        else:
            self._keys[layer] = torch.cat([self._keys[layer], keys], dim=3)
            self._values[layer] = torch.cat([self._values[layer], values], dim=3)
        main_keys, main_values = (x[:, :, : self._main_length] for x in self.main.layer(layer))
        return (
            torch.cat([main_keys, self._keys[layer].flatten(2, 3)], dim=2),
            torch.cat([main_values, self._values[layer].flatten(2, 3)], dim=2),
        )

    def mask(self) -> Bool[Tensor, "b 1 r keys"]:
        """Which of those keys each branch sees at the next position."""
        num_sequences, num_branches = self.start.shape
        position = torch.arange(self._main_length, device=self.start.device)
        main = position <= self.start.unsqueeze(-1)  # (B, R, P)
        own = torch.eye(num_branches, dtype=torch.bool, device=self.start.device)
        own = own.repeat_interleave(self.depth + 1, dim=1).expand(num_sequences, -1, -1)  # (B, R, R*Q)
        return torch.cat([main, own], dim=-1).unsqueeze(1)


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
        groups = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        self.qkv = nn.Linear(config.width, sum(groups) * self.head_width, bias=False)
        mark_blocks(self.qkv, rows=[num * self.head_width for num in groups])
        self.out = nn.Linear(config.width, config.width, bias=False)
        mark_residual_output(self.out, num_outputs=2 * config.num_layers)

    def _project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, P, D) to queries (B, H, P, E) and keys, values (B, G, P, E), rotated."""
        qkv = self.qkv(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
        qk, v = qkv.split([self.num_heads + self.num_kv_heads, self.num_kv_heads], dim=1)
        q, k = rotate(qk, cos, sin).split([self.num_heads, self.num_kv_heads], dim=1)
        return q, k, v

    def forward(
        self, x: Float[Tensor, "b p d"], cos: Tensor, sin: Tensor, cache: KVCache | None
    ) -> Float[Tensor, "b p d"]:
        q, k, v = self._project(x, cos, sin)
        y = causal_attention(q, k, v) if cache is None else self._attend_cached(q, k, v, cache)
        out: Tensor = self.out(y.transpose(1, 2).flatten(-2))
        return out

    def _attend_cached(self, q: Tensor, k: Tensor, v: Tensor, cache: KVCache) -> Tensor:
        """The new positions attend to what the cache holds and, causally, to themselves."""
        past = cache.length
        k, v = cache.append(self.layer, k, v)
        mask = None
        if past and q.shape[2] > 1:
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(past)
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None and q.shape[2] > 1,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )

    def branch(
        self, x: Float[Tensor, "b r d"], cos: Tensor, sin: Tensor, branches: Branches, mask: Tensor
    ) -> Float[Tensor, "b r d"]:
        """One new position for every branch, all branches of a sequence as queries of one call."""
        q, k, v = self._project(x, cos, sin)
        k, v = branches.append(self.layer, k, v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=self.num_kv_heads != self.num_heads)
        out: Tensor = self.out(y.transpose(1, 2).flatten(-2))
        return out


class Layer(nn.Module):
    def __init__(self, config: BackboneConfig, layer: int) -> None:
        super().__init__()
        assert config.mlp_width is not None, "resolve the configuration first"
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = SwiGLU(config.width, config.mlp_width)
        mark_residual_output(self.mlp.down, num_outputs=2 * config.num_layers)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, past: KVCache | Branches | None, mask: Tensor | None
    ) -> Tensor:
        """``mask``: what branches see."""
        normed = self.attention_norm(x)
        if isinstance(past, Branches):
            assert mask is not None
            x = x + self.attention.branch(normed, cos, sin, past, mask)
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
        self.norm = RMSNorm(config.width, config.norm_eps)

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
        mask = past.mask() if isinstance(past, Branches) else None
        for layer in self.layers:
            x = layer(x, cos, sin, past, mask)
        out: Tensor = self.norm(x)
        return out

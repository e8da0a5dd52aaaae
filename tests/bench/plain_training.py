"""CALM training as plainly as the method is usually written down: the form that ours is timed against.

The Llama modules of transformers carry backbone and autoencoder; the energy head runs in full for every sample,
on [LayerNorm(e), y] put together; the energy score is taken over explicit differences of N samples and M targets,
drawn anew for every position; AdamW as torch builds it by default. The function and its gradients are ours
(``tests/unit/workbench/test_plain_training.py`` copies the weights and compares).

Letters: B sequences, T tokens, P chunks, K chunk size, D width, d width of the autoencoder, L latent dimension,
N model samples, M target samples, Z noise dimension.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaModel, LlamaRMSNorm

from tests.bench.direct_energy import direct_energy_loss
from tests.bench.turns import Pace
from workbench.config import CalmConfig, RunConfig

CORPUS_TOKENS = 2**20


class PlainEncoderBlock(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.norm = LlamaRMSNorm(config.hidden_size, eps=1e-6)
        self.mlp = LlamaMLP(config)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.mlp(self.norm(x))
        return out


class PlainEncoder(nn.Module):
    """The autoencoder's encoder."""

    def __init__(self, config: RunConfig, vocab: int) -> None:
        super().__init__()
        ae, k = config.autoencoder, config.chunk_size
        assert ae.mlp_width is not None, "resolve the configuration first"
        llama = LlamaConfig(hidden_size=ae.width, intermediate_size=ae.mlp_width, num_attention_heads=1)
        self.embedding = nn.Embedding(vocab, ae.width)
        self.token_block = PlainEncoderBlock(llama)
        self.squeeze = nn.Linear(k * ae.width, ae.width)
        self.chunk_block = PlainEncoderBlock(llama)
        self.norm = LlamaRMSNorm(ae.width, eps=1e-6)
        self.to_latent = nn.Linear(ae.width, 2 * ae.latent_dim)

    def forward(self, chunks: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, (B, P, L), of chunks (B, P, K)."""
        x = self.token_block(self.embedding(chunks))
        x = self.chunk_block(self.squeeze(x.flatten(-2)))
        mean, log_std = self.to_latent(self.norm(x)).chunk(2, dim=-1)
        return mean, log_std


class PlainHeadBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(2 * width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2 * width),
        )
        self.down = nn.Linear(width, width)

    def forward(self, e: Tensor, y: Tensor) -> Tensor:
        gate, up = self.mlp(torch.cat([self.norm(e), y], dim=-1)).chunk(2, dim=-1)
        out: Tensor = e + self.down(F.silu(gate) * up)
        return out


class PlainHead(nn.Module):
    """The energy head, every layer on every sample."""

    def __init__(self, config: CalmConfig, latent_dim: int) -> None:
        super().__init__()
        width = config.backbone.width
        assert config.head.num_blocks is not None, "resolve the configuration first"
        self.noise_dim = config.head.noise_dim
        self.embed_noise = nn.Linear(self.noise_dim, width)
        self.noise_norm = nn.LayerNorm(width, eps=1e-6)
        self.embed_hidden = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width, eps=1e-6)
        self.blocks = nn.ModuleList(PlainHeadBlock(width) for _ in range(config.head.num_blocks))
        self.output_norm = nn.LayerNorm(width, eps=1e-6)
        self.output = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, latent_dim))

    def forward(self, noise: Tensor, hidden: Tensor) -> Tensor:
        """(N, B, P, L) from noise (N, B, P, Z) and as many copies of the hidden states (N, B, P, D)."""
        e = self.noise_norm(self.embed_noise(noise))
        y = self.hidden_norm(self.embed_hidden(hidden))
        for block in self.blocks:
            e = block(e, y)
        out: Tensor = self.output(self.output_norm(e))
        return out


class PlainCalm(nn.Module):
    """``config`` must be resolved."""

    def __init__(self, config: RunConfig, vocab: int) -> None:
        super().__init__()
        assert isinstance(config.model, CalmConfig), "the plain form is of a CALM"
        assert config.model.head.distance == "power", "the plain form has the published score"
        model, width = config.model, config.model.backbone.width
        assert model.backbone.mlp_width is not None, "resolve the configuration first"
        self.chunk_size, self.head_config = model.chunk_size, model.head
        self.llama = LlamaModel(
            LlamaConfig(
                vocab_size=vocab,
                hidden_size=width,
                intermediate_size=model.backbone.mlp_width,
                num_hidden_layers=model.backbone.num_layers,
                num_attention_heads=model.backbone.num_heads,
                num_key_value_heads=model.backbone.num_kv_heads,
                rms_norm_eps=1e-6,
                rope_parameters={"rope_type": "default", "rope_theta": model.backbone.rope_theta},
            )
        )
        self.compression = nn.Sequential(
            nn.Linear(model.chunk_size * width, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, width),
            nn.LayerNorm(width, eps=1e-6),
        )
        self.head = PlainHead(model, config.autoencoder.latent_dim)
        self.encoder = PlainEncoder(config, vocab).requires_grad_(False)

    def hidden(self, chunks: Tensor) -> Tensor:
        """(B, P, D) from chunks (B, P, K)."""
        embedded = self.compression(self.llama.embed_tokens(chunks).flatten(-2))
        return cast(Tensor, self.llama(inputs_embeds=embedded, use_cache=False).last_hidden_state)

    def loss(self, tokens: Tensor, noise: Tensor | None = None, eps: Tensor | None = None) -> Tensor:
        """(B, P - 1) of tokens (B, T). ``noise`` (N, B, P - 1, Z) and ``eps`` (M, B, P - 1, L), which broadcasts,
        are drawn unless given."""
        chunks = tokens.unflatten(-1, (-1, self.chunk_size))
        with torch.no_grad():
            mean, log_std = (x[:, 1:] for x in self.encoder(chunks))
            if eps is None:
                eps = torch.randn((self.head_config.num_targets, *mean.shape), dtype=mean.dtype)
            targets = mean + eps * log_std.exp()
        hidden = self.hidden(chunks[:, :-1]).unsqueeze(0).repeat(self.head_config.num_samples, 1, 1, 1)
        if noise is None:
            noise = torch.rand((*hidden.shape[:-1], self.head.noise_dim), dtype=hidden.dtype) - 0.5
        return direct_energy_loss(self.head(noise, hidden), targets, self.head_config.alpha)


def plain_optimizer(model: PlainCalm, config: RunConfig) -> torch.optim.AdamW:
    """What torch builds by default; weight decay on matrices only, as Hugging Face's trainer has it."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.optim.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    assert config.optim.lr is not None, "resolve the configuration first"
    return torch.optim.AdamW(groups, lr=config.optim.lr, betas=config.optim.betas)


def plain_step(
    model: PlainCalm,
    optimizer: torch.optim.Optimizer,
    tokens: Tensor,
    config: RunConfig,
    noise: Tensor | None = None,
    eps: Tensor | None = None,
) -> float:
    """One training step; returns the mean loss."""
    with torch.autocast("cpu", torch.bfloat16, enabled=config.runtime.dtype == "bfloat16"):
        loss = model.loss(tokens, noise, eps).float().mean()
    loss.backward()
    nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], config.optim.clip)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def training_work(pace: Pace, *, config: RunConfig, vocab: int) -> None:
    """One repetition is one plain training step, on blocks of a random text."""
    rng = np.random.default_rng(0)
    text = rng.integers(1, vocab, CORPUS_TOKENS)
    block_len = config.train.block_len
    model = PlainCalm(config, vocab)
    optimizer = plain_optimizer(model, config)
    while True:
        starts = rng.integers(0, len(text) - block_len + 1, config.batch_sequences)
        tokens = torch.from_numpy(text[starts[:, None] + np.arange(block_len)])
        plain_step(model, optimizer, tokens, config)
        pace()

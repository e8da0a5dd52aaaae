"""Stage 1: the context-free autoencoder of one chunk (paper, section 2; METHOD section 1).

Letters: K chunk size, V vocabulary size, d width of the autoencoder, L latent dimension, n chunks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench import draws
from workbench.config import AutoencoderConfig
from workbench.layers import ResidualMLP, RMSNorm, generator, initialise, mark_tied_output
from workbench.posterior import Posterior, clipped_kl
from workbench.slices import rows_at_once
from workbench.tokenizer import PAD_ID


class Autoencoder(nn.Module):
    """Encoder to a Gaussian posterior and decoder to K token distributions, tied embedding.

    ``config`` must be resolved (mlp_width and init set)."""

    def __init__(self, config: AutoencoderConfig, *, chunk_size: int, vocab_size: int) -> None:
        super().__init__()
        assert config.mlp_width is not None, "resolve the configuration first"
        assert config.init is not None, "resolve the configuration first"
        width, inner = config.width, config.mlp_width
        self.config, self.chunk_size, self.vocab_size = config, chunk_size, vocab_size
        self.embedding = nn.Embedding(vocab_size, width)
        mark_tied_output(self.embedding)
        encoder, decoder = config.encoder_layers // 2, config.decoder_layers // 2
        self.encode_token = _blocks(encoder, width, inner, config.norm_eps)
        self.squeeze = nn.Linear(chunk_size * width, width)
        self.encode_chunk = _blocks(encoder, width, inner, config.norm_eps)
        self.latent_norm = RMSNorm(width, config.norm_eps)
        self.to_latent = nn.Linear(width, 2 * config.latent_dim)
        self.from_latent = nn.Linear(config.latent_dim, width)
        self.decode_chunk = _blocks(decoder, width, inner, config.norm_eps)
        self.expand = nn.Linear(width, chunk_size * width)
        self.decode_token = _blocks(decoder, width, inner, config.norm_eps)
        self.output_norm = RMSNorm(width, config.norm_eps)
        initialise(self, config.init, rng=generator(config.seed, "autoencoder-init"))

    def encode(self, chunks: Int[Tensor, "*batch k"]) -> Posterior:
        """Posterior of each chunk, (..., L), in float32."""
        x = self.encode_token(self.embedding(chunks)).flatten(-2)  # (..., K*d)
        x = self.encode_chunk(self.squeeze(x))
        mean, log_std = self.to_latent(self.latent_norm(x)).float().chunk(2, dim=-1)
        return Posterior(mean, log_std)

    def logits(self, latents: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch k v"]:
        """Token logits of each of the K positions."""
        x = self.expand(self.states(latents))
        return self._output(x.unflatten(-1, (self.chunk_size, self.config.width)))

    def states(self, latents: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch d"]:
        """The first half of the decoder: what all K positions are expanded from."""
        out: Tensor = self.decode_chunk(self.from_latent(latents))
        return out

    def _output(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch v"]:
        x = self.output_norm(self.decode_token(x))
        return F.linear(x, self.embedding.weight.to(x.dtype))

    def decode(self, latents: Float[Tensor, "*batch l"]) -> Int[Tensor, "*batch k"]:
        """The most likely token at each position; never PAD_ID."""
        parts = latents.flatten(0, -2).split(max(1, self.rows_at_once() // self.chunk_size))
        tokens = torch.cat([_most_likely(self.logits(part)) for part in parts])
        return tokens.view(*latents.shape[:-1], self.chunk_size)

    def decode_token_at(
        self, position: int, states: Float[Tensor, "n d"], which: Int[Tensor, " m"]
    ) -> Int[Tensor, " m"]:
        """``decode`` at one of the K positions alone, from the rows ``which`` of ``states``."""
        rows = slice(position * self.config.width, (position + 1) * self.config.width)
        weight, bias = self.expand.weight[rows], self.expand.bias[rows]
        parts = which.split(self.rows_at_once())
        return torch.cat([_most_likely(self._output(F.linear(states[part], weight, bias))) for part in parts])

    def rows_at_once(self) -> int:
        """Positions decoded at a time."""
        inner = self.config.mlp_width
        assert inner is not None, "resolve the configuration first"
        return rows_at_once(max(2 * inner, self.vocab_size), self.embedding.weight.device)  # 2: SwiGLU

    def loss(self, chunks: Int[Tensor, "n k"], *, rng: torch.Generator) -> Float[Tensor, ""]:
        """K * cross-entropy per token + beta * sum_i max(lambda_KL, KL_i), with token dropout before the
        encoder and dropout on z (METHOD section 1); the mean over the chunks. The same under ``.train()`` and
        ``.eval()``. Of a part of a batch with the noise of that part: see ``workbench.draws``."""
        posterior = self.encode(drop_tokens(chunks, self.config.token_dropout, rng=rng))
        latents = drop_latents(posterior.sample(rng=rng), self.config.latent_dropout, rng=rng)
        logits = self.logits(latents).float()
        reconstruction = F.cross_entropy(logits.flatten(0, -2), chunks.flatten())
        return self.chunk_size * reconstruction + self.config.kl_weight * clipped_kl(
            posterior, self.config.kl_floor
        )


def _blocks(num: int, width: int, inner: int, eps: float) -> nn.Module:
    """One residual block by itself, several in a row."""
    if num == 1:
        return ResidualMLP(width, inner, eps=eps)
    return nn.Sequential(*(ResidualMLP(width, inner, eps=eps, num_outputs=num) for _ in range(num)))


def _most_likely(logits: Float[Tensor, "*batch v"]) -> Int[Tensor, "*batch"]:
    """But for PAD_ID, which is the first id."""
    return logits[..., 1:].argmax(-1) + 1


def drop_tokens(
    chunks: Int[Tensor, "*batch k"], probability: float, *, rng: torch.Generator
) -> Int[Tensor, "*batch k"]:
    """Each token replaced by PAD_ID with the given probability."""
    if probability == 0.0:
        return chunks
    keep = draws.uniform(chunks.shape, axis=0, rng=rng) >= probability
    return torch.where(keep, chunks, PAD_ID)


def drop_latents(
    latents: Float[Tensor, "*batch l"], probability: float, *, rng: torch.Generator
) -> Float[Tensor, "*batch l"]:
    """Inverted dropout: kept entries are divided by 1 - p."""
    if probability == 0.0:
        return latents
    keep = draws.uniform(latents.shape, axis=0, rng=rng) >= probability
    return latents * keep / (1 - probability)

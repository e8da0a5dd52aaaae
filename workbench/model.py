"""CALM: a Transformer over chunks with a generative head (paper, sections 2 and 3; METHOD sections 2, 3).

Letters: B sequences, T tokens, K chunk size, P chunks, D width, L latent dimension, V vocabulary,
S samples, n positions, R branches, r places where chunks are sampled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.autoencoder import Autoencoder
from workbench.backbone import Backbone, Branches, KVCache
from workbench.config import CalmConfig
from workbench.finite import require_finite
from workbench.heads import build_head
from workbench.language_model import (
    ChunkSamples,
    LanguageModel,
    SampledBranches,
    SampledContext,
    SampledModel,
    count_parameters,
    gather_positions,
)
from workbench.layers import LayerNorm, drawn_from, generator, initialise, mark_blocks, mark_outermost, mark_zero
from workbench.posterior import Posterior
from workbench.slices import rows_at_once


class ChunkCompression(nn.Module):
    """Embeddings of K tokens to one vector: Linear(K*D -> 2D), SiLU, Linear(2D -> D), LayerNorm."""

    def __init__(self, width: int, chunk_size: int) -> None:
        super().__init__()
        self.widen = nn.Linear(chunk_size * width, 2 * width)
        mark_blocks(self.widen, columns=[width] * chunk_size)
        self.narrow = nn.Linear(2 * width, width)
        self.norm = LayerNorm(width)

    def forward(self, embedded: Float[Tensor, "b p k d"]) -> Float[Tensor, "b p d"]:
        out: Tensor = self.norm(self.narrow(F.silu(self.widen(embedded.flatten(-2)))))
        return out


class CalmNetwork(nn.Module):
    """The trainable part: input, backbone, head. ``config`` must be resolved.

    Input modes: ``tokens`` compresses the chunk's token embeddings; ``latent`` maps a latent vector of the
    chunk linearly to D; ``both`` adds the two."""

    def __init__(self, config: CalmConfig, *, vocab_size: int, latent_dim: int, seed: int) -> None:
        super().__init__()
        assert config.init is not None, "resolve the configuration first"
        self.config = config
        width = config.backbone.width
        if config.input_mode != "latent":
            self.embedding = nn.Embedding(vocab_size, width)
            self.compression = ChunkCompression(width, config.chunk_size)
        if config.input_mode != "tokens":
            self.latent_input = nn.Linear(latent_dim, width)
            mark_outermost(self.latent_input)
        self.backbone = Backbone(config.backbone)
        with drawn_from(generator(seed, "head")):  # weights of an own head that ``initialise`` does not fill
            self.head = build_head(config.head, hidden_dim=width, latent_dim=latent_dim)
        if config.auxiliary_weight:
            self.auxiliary = nn.Linear(width, config.chunk_size * vocab_size)
            mark_zero(self.auxiliary)
            mark_outermost(self.auxiliary)
        initialise(self, config.init, rng=generator(seed, "init"))

    def embed(
        self, chunks: Int[Tensor, "b p k"], latents: Float[Tensor, "b p l"] | None
    ) -> Float[Tensor, "b p d"]:
        """One input vector a chunk. ``latents`` is needed unless the input mode is ``tokens``."""
        if self.config.input_mode == "tokens":
            out: Tensor = self.compression(self.embedding(chunks))
            return out
        assert latents is not None
        out = self.latent_input(latents)
        if self.config.input_mode == "both":
            out = out + self.compression(self.embedding(chunks))
        return out

    def forward(
        self,
        chunks: Int[Tensor, "b p k"],
        latents: Float[Tensor, "b p l"] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "b p d"]:
        """Hidden states; state i is for the prediction of chunk i + 1."""
        out: Tensor = self.backbone(self.embed(chunks, latents), cache)
        return out


class Calm(LanguageModel, SampledModel):
    """A ``CalmNetwork`` and the frozen autoencoder whose posterior it is trained on."""

    network: CalmNetwork

    def __init__(self, network: CalmNetwork, autoencoder: Autoencoder) -> None:
        assert autoencoder.chunk_size == network.config.chunk_size
        self.network = network
        self.autoencoder = autoencoder.requires_grad_(False)
        self.targets: Callable[[Tensor], Posterior] = autoencoder.encode
        """Posteriors of chunks (..., K) in training; a table of the training text's chunks may replace it."""
        self.chunk_size = network.config.chunk_size
        # latent vectors and decoder's states, once in slices and once joined
        self.row_elements = 2 * (autoencoder.config.latent_dim + autoencoder.config.width)

    @property
    def uses_latents(self) -> bool:
        return self.network.config.input_mode != "tokens"

    def with_sampling(self, **fields: Any) -> Calm:
        """The same trained model, weights shared, whose head samples by other settings."""
        network = copy.copy(self.network)
        network._modules = {**self.network._modules, "head": self.network.head.with_sampling(**fields)}
        clone = copy.copy(self)
        clone.network = network
        return clone

    def chunks(self, tokens: Int[Tensor, "b t"]) -> Int[Tensor, "b p k"]:
        out: Tensor = tokens.unflatten(-1, (-1, self.chunk_size))
        return out

    def training_loss(self, tokens: Int[Tensor, "b t"], *, rng: torch.Generator) -> Float[Tensor, " n"]:
        """n = B * (P - 1). With latent inputs, those are posterior samples, so that training sees the
        noise that generation will feed back."""
        chunks = self.chunks(tokens)
        with torch.no_grad():
            posterior = self.targets(chunks)
        latents = posterior[:, :-1].sample(rng=rng) if self.uses_latents else None
        hidden = self.network(chunks[:, :-1], latents).flatten(0, 1)
        loss = self.network.head.loss(hidden, posterior[:, 1:].flatten(), rng=rng)
        weight = self.network.config.auxiliary_weight
        return loss + weight * self._auxiliary_loss(hidden, chunks[:, 1:].flatten(0, 1)) if weight else loss

    def _auxiliary_loss(self, hidden: Float[Tensor, "n d"], chunks: Int[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """Cross-entropy of each chunk's tokens in nats, every token guessed by itself."""
        logits = self.network.auxiliary(hidden).float().unflatten(-1, (self.chunk_size, -1))
        return F.cross_entropy(logits.flatten(0, 1), chunks.flatten(), reduction="none").view(chunks.shape).sum(1)

    @torch.no_grad()
    def held_out_loss(
        self, windows: Int[Tensor, "b t"], *, rng: torch.Generator
    ) -> tuple[Float[Tensor, "b p"], Float[Tensor, "b p"]]:
        """The head's loss at every position but the first, with the true hidden states and with those of
        the neighbouring window (same position): equal losses mean that the head ignores its context.
        Needs at least two windows; P - 1 positions each."""
        assert windows.shape[0] >= 2
        chunks = self.chunks(windows)
        posterior = self.autoencoder.encode(chunks)
        latents = posterior[:, :-1].mean if self.uses_latents else None
        hidden = self.network(chunks[:, :-1], latents)
        target = posterior[:, 1:].flatten()
        state = rng.get_state()
        true = self.network.head.loss(hidden.flatten(0, 1), target, rng=rng)
        rng.set_state(state)  # the same noise in both, so that only the context differs
        other = self.network.head.loss(hidden.roll(1, 0).flatten(0, 1), target, rng=rng)
        shape = (windows.shape[0], chunks.shape[1] - 1)
        return true.view(shape), other.view(shape)

    def sample_chunks(
        self, hidden: Float[Tensor, "*batch d"], num_samples: int, *, rng: torch.Generator
    ) -> tuple[Int[Tensor, "s *batch k"], Float[Tensor, "s *batch l"]]:
        """Draws from the head and their decoded tokens."""
        latents = self.network.head.sample(hidden.flatten(0, -2), num_samples=num_samples, rng=rng)
        latents = latents.view(num_samples, *hidden.shape[:-1], -1)
        return self.autoencoder.decode(latents), latents

    def draw(self, hidden: Float[Tensor, "r d"], num_samples: int, *, rng: torch.Generator) -> ChunkSamples:
        """``sample_chunks`` with tokens decoded on demand, and in slices: each hidden state's samples depend on
        the slice only through their random numbers. Raises NotFiniteError: decoded, they would be tokens."""
        head, width = self.network.head, 4 * hidden.shape[-1]  # of the head's joined inputs and gates
        parts = hidden.split(max(1, rows_at_once(width, hidden.device) // num_samples))
        latents = [head.sample(part, num_samples=num_samples, rng=rng) for part in parts]
        return LatentChunks(self.autoencoder, require_finite("the head's samples", torch.cat(latents, dim=1)))

    def feedback(self, chunks: Int[Tensor, "*batch k"]) -> Float[Tensor, "*batch l"] | None:
        """The latent input of known tokens: their posterior mean; None in input mode ``tokens``."""
        return self.autoencoder.encode(chunks).mean if self.uses_latents else None

    @torch.no_grad()
    def read(self, windows: Int[Tensor, "b t"]) -> CalmContext:
        return CalmContext(self, windows)

    def parameter_groups(self) -> dict[str, int]:
        network = self.network
        groups = {"backbone": count_parameters(network.backbone), "head": count_parameters(network.head)}
        for name in ("embedding", "compression", "latent_input", "auxiliary"):
            if hasattr(network, name):
                groups[name] = count_parameters(getattr(network, name))
        groups["total"] = count_parameters(network)
        groups["autoencoder"] = count_parameters(self.autoencoder)
        return groups


class LatentChunks(ChunkSamples):
    """Chunks of drawn latent vectors (S, r, L), decoded as far as they are asked for."""

    def __init__(self, autoencoder: Autoencoder, latents: Float[Tensor, "s r l"]) -> None:
        self.num_samples, self.num_places = latents.shape[:2]
        self.device = latents.device
        self._autoencoder = autoencoder
        parts = latents.flatten(0, 1).split(autoencoder.rows_at_once())
        self._states = torch.cat([autoencoder.states(part) for part in parts])

    @torch.no_grad()
    def tokens(self, t: int, which: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
        return self._autoencoder.decode_token_at(t, self._states, which)


class CalmContext(SampledContext):
    """Windows read with a key/value cache. BrierLM is measured with re-encoded feedback whatever
    ``latent_feedback`` says: only then is the next chunk's distribution a function of the tokens."""

    def __init__(self, calm: Calm, windows: Tensor) -> None:
        self.calm = calm
        chunks = calm.chunks(windows)
        self.cache = KVCache(capacity=chunks.shape[1])
        hidden = calm.network(chunks, calm.feedback(chunks), self.cache)
        self.hidden = require_finite("the hidden states", hidden)

    @torch.no_grad()
    def sample(self, window: Tensor, index: Tensor, num_samples: int, *, rng: torch.Generator) -> ChunkSamples:
        return self.calm.draw(self.hidden[window, index], num_samples, rng=rng)

    def branch(self, index: Tensor) -> CalmBranches:
        return CalmBranches(self.calm, Branches(self.cache, index))


class CalmBranches(SampledBranches):
    def __init__(self, calm: Calm, branches: Branches) -> None:
        self.calm = calm
        self.branches = branches
        self.hidden: Tensor | None = None

    def keep(self, branch: Tensor) -> None:
        self.branches.keep(branch)
        if self.hidden is not None:
            self.hidden = gather_positions(self.hidden, branch)

    @torch.no_grad()
    def extend(self, chunks: Tensor) -> None:
        network = self.calm.network
        self.hidden = network.backbone.branch(network.embed(chunks, self.calm.feedback(chunks)), self.branches)

    @torch.no_grad()
    def sample(self, window: Tensor, branch: Tensor, num_samples: int, *, rng: torch.Generator) -> ChunkSamples:
        assert self.hidden is not None, "extend the branches first"
        return self.calm.draw(self.hidden[window, branch], num_samples, rng=rng)

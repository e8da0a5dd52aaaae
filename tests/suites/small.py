"""Configurations and models small enough for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workbench.autoencoder import Autoencoder
from workbench.baseline import BaselineNetwork, TokenBaseline
from workbench.config import BackboneConfig, BaselineConfig, CalmConfig, RunConfig
from workbench.language_model import ChunkSamples
from workbench.model import Calm, CalmNetwork

VOCAB = 23


def backbone_config(**fields: Any) -> BackboneConfig:
    """Width 32, 2 layers, 4 heads, resolved."""
    return BackboneConfig(**{"width": 32, "num_layers": 2, "num_heads": 4, "mlp_width": 48, **fields})


def small_config(
    *, chunk_size: int = 4, baseline: bool = False, cache_targets: bool = False, **model: Any
) -> RunConfig:
    """A resolved run: blocks of 32 tokens, latent dimension 6, sizes that are all different."""
    head = {"num_blocks": 2, "noise_dim": 10, "num_samples": 3, "num_targets": 5, **model.pop("head", {})}
    part = {"kind": "baseline"} if baseline else {"kind": "calm", "chunk_size": chunk_size, "head": head}
    backbone = backbone_config(**model.pop("backbone", {})).model_dump()
    return RunConfig.model_validate(
        {
            "model": {**part, "backbone": backbone, **model},
            "autoencoder": {"latent_dim": 6, "width": 24, "steps": 30, "batch_chunks": 32},
            "train": {"block_len": 32, "train_tokens": 10_000, "cache_targets": cache_targets},
            "optim": {"batch_positions": 32 if baseline else 32 // chunk_size * 3},
            "eval": {"context_len": 64, "min_context": 16, "num_windows": 8},
        }
    ).resolved()


def with_chunks_of(chunk_size: int, config: RunConfig) -> RunConfig:
    """Any K, also one that does not divide the blocks of ``small_config``: for models that are not trained."""
    return config.model_copy(update={"model": config.model.model_copy(update={"chunk_size": chunk_size})})


def build_autoencoder(config: RunConfig, vocab_size: int = VOCAB) -> Autoencoder:
    return Autoencoder(config.autoencoder, chunk_size=config.chunk_size, vocab_size=vocab_size)


def build_calm(config: RunConfig, *, vocab_size: int = VOCAB, seed: int = 0, spread: bool = True) -> Calm:
    """Untrained. ``spread``: the head's last layer does not start at zero, so that samples differ."""
    assert isinstance(config.model, CalmConfig)
    latent_dim = config.autoencoder.latent_dim
    network = CalmNetwork(config.model, vocab_size=vocab_size, latent_dim=latent_dim, seed=seed)
    if spread:
        last = dict(network.head.named_modules())
        layer = last.get("to_latent") or last["network.to_latent"]
        with torch.no_grad():
            layer.weight.normal_(generator=torch.Generator().manual_seed(seed))  # type: ignore[operator, union-attr]
    return Calm(network, build_autoencoder(config, vocab_size))


def build_baseline(config: RunConfig, *, vocab_size: int = VOCAB, seed: int = 0) -> TokenBaseline:
    assert isinstance(config.model, BaselineConfig)
    return TokenBaseline(BaselineNetwork(config.model, vocab_size=vocab_size, seed=seed))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tokens(*shape: int, vocab_size: int = VOCAB, seed: int = 0) -> Tensor:
    """Random ids, never 0."""
    return torch.randint(1, vocab_size, shape, generator=rng(seed))


def decoded(samples: ChunkSamples, chunk_size: int) -> Tensor:
    """All tokens of all samples, (S, r, K)."""
    everything = torch.arange(samples.num_samples * samples.num_places)
    columns = [samples.tokens(t, everything) for t in range(chunk_size)]
    return torch.stack(columns, -1).view(samples.num_samples, samples.num_places, chunk_size)

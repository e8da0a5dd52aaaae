"""How fast this machine trains a configuration: a few real steps on random tokens, nothing kept."""

from __future__ import annotations

import time

import torch

from workbench import flops
from workbench.autoencoder import Autoencoder
from workbench.baseline import BaselineNetwork, TokenBaseline
from workbench.config import CalmConfig, RunConfig
from workbench.language_model import LanguageModel
from workbench.layers import generator
from workbench.model import Calm, CalmNetwork
from workbench.optim import autocast, build_adamw

LARGEST = 50_000_000
"""Parameters of the largest model that is tried: the dry run of a large one must not fill the memory."""

PATIENCE = 3.0
"""Seconds after which no further step is tried."""


def training_flops_per_second(config: RunConfig, vocab: int, *, steps: int = 4) -> float | None:
    """Executed FLOPs a second of training, the fastest of up to ``steps`` steps after one to warm up; None for
    a model too large to try. ``config`` must be resolved."""
    if flops.parameters(config, vocab)["total"] > LARGEST:
        return None
    model = _untrained(config, vocab)
    optimizer = build_adamw(model.network, lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0)
    device = config.runtime.device
    rng = generator(0, "speed", device=device)
    shape = (config.batch_sequences, config.train.block_len)
    tokens = torch.randint(1, vocab, shape, generator=rng, device=device)
    best = float("inf")
    began = time.perf_counter()
    for step in range(steps + 1):
        start = time.perf_counter()
        with autocast(device, config.runtime.dtype):
            loss = model.training_loss(tokens, rng=rng).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        float(loss.detach())  # waits for the device
        if step:
            best = min(best, time.perf_counter() - start)
        if time.perf_counter() - began > PATIENCE and step:
            break
    return flops.train_step_flops(config, vocab) / best


def _untrained(config: RunConfig, vocab: int) -> LanguageModel:
    device = config.runtime.device
    if not isinstance(config.model, CalmConfig):
        return TokenBaseline(BaselineNetwork(config.model, vocab_size=vocab, seed=0).to(device))
    autoencoder = Autoencoder(config.autoencoder, chunk_size=config.chunk_size, vocab_size=vocab).to(device)
    latent_dim = config.autoencoder.latent_dim
    network = CalmNetwork(config.model, vocab_size=vocab, latent_dim=latent_dim, seed=0).to(device)
    return Calm(network, autoencoder)

"""How fast this machine trains a configuration: a few real steps on random tokens, nothing kept.

    python -m workbench.speed CONFIG.yaml --cache DIR --seconds 2

measures in a process of its own, for several at the same time: it says ``ready``, waits for a line, and answers
with its FLOPs a second and its memory (JSON).
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from workbench import flops, garbage
from workbench.autoencoder import Autoencoder
from workbench.baseline import BaselineNetwork, TokenBaseline
from workbench.config import CalmConfig, RunConfig
from workbench.config_file import load_config
from workbench.language_model import LanguageModel
from workbench.layers import generator
from workbench.machine import resolve
from workbench.model import Calm, CalmNetwork
from workbench.optim import autocast, build_optimizer
from workbench.posterior import Posterior

LARGEST = 50_000_000
"""Parameters of the largest model that is tried: the dry run of a large one must not fill the memory."""

WARM_UP_STEPS = 2
LONGEST_ROUND = 6
"""Steps of a round: where Muon's update comes more seldom it costs little."""
PATIENCE = 3.0
"""Seconds after which no further step is tried."""


def training_flops_per_second(config: RunConfig, vocab: int, *, steps: int = 4) -> float | None:
    """Executed FLOPs a second of training, the fastest of up to ``steps`` rounds after a step to warm up; a round
    is the steps from one update of all parameters to the next. None for a model too large to try. ``config`` must
    be resolved."""
    if too_large(config, vocab):
        return None
    turns = _steps(config, vocab)
    num = _round(config)
    next(turns)
    best, began = float("inf"), time.perf_counter()
    for _ in range(steps):
        best = min(best, sum(next(turns) for _ in range(num)) / num)
        if time.perf_counter() - began > PATIENCE:
            break
    return flops.train_step_flops(config, vocab) / best


def too_large(config: RunConfig, vocab: int) -> bool:
    return flops.parameters(config, vocab)["total"] > LARGEST


def _round(config: RunConfig) -> int:
    """Steps from one update of all parameters to the next."""
    return min(config.optim.matrix_every, LONGEST_ROUND) if config.optim.kind == "muon" else 1


def _steps(config: RunConfig, vocab: int) -> Iterator[float]:
    """Seconds of one training step after another."""
    model = _untrained(config, vocab)
    optimizer = build_optimizer(model.network, config.optim, dtype=config.runtime.dtype)
    device = config.runtime.device
    rng = generator(0, "speed", device=device)
    shape = (config.batch_sequences, config.train.block_len)
    tokens = torch.randint(1, vocab, shape, generator=rng, device=device)
    while True:
        start = time.perf_counter()
        with autocast(device, config.runtime.dtype):
            loss = model.training_loss(tokens, rng=rng).mean()
        model.network.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.network.parameters(), config.optim.clip)
        optimizer.step()
        float(loss.detach())  # waits for the device
        yield time.perf_counter() - start


def _untrained(config: RunConfig, vocab: int) -> LanguageModel:
    device = config.runtime.device
    if not isinstance(config.model, CalmConfig):
        return TokenBaseline(BaselineNetwork(config.model, vocab_size=vocab, seed=0).to(device))
    autoencoder = Autoencoder(config.autoencoder, chunk_size=config.chunk_size, vocab_size=vocab).to(device)
    latent_dim = config.autoencoder.latent_dim
    network = CalmNetwork(config.model, vocab_size=vocab, latent_dim=latent_dim, seed=0).to(device)
    model = Calm(network, autoencoder)
    if config.train.cache_targets:  # a look-up costs nothing beside the rest of a step
        model.targets = lambda chunks: Posterior(*torch.zeros(2, *chunks.shape[:-1], latent_dim, device=device))
    return model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m workbench.speed", description="Training speed, beside others."
    )
    parser.add_argument("config", help="a run's configuration (YAML); runtime.threads is used")
    parser.add_argument("--cache", required=True, help="folder of the machine's remembered probes")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to measure")
    given = parser.parse_args(arguments)
    config = resolve(load_config(Path(given.config)), Path(given.cache))
    vocab = flops.vocab_size(config)
    turns, num = _steps(config, vocab), _round(config)
    garbage.settle()
    for _ in range(WARM_UP_STEPS):
        next(turns)
    print("ready", flush=True)
    sys.stdin.readline()
    done, start = 0, time.perf_counter()
    while not done or time.perf_counter() - start < given.seconds:
        for _ in range(num):
            next(turns)
        done += num
    rate = done * flops.train_step_flops(config, vocab) / (time.perf_counter() - start)
    print(json.dumps({"flops_per_second": rate, "memory": _peak_memory()}), flush=True)


def _peak_memory() -> int:
    """Bytes that this process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)


if __name__ == "__main__":
    garbage.start()
    main()

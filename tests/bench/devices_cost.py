"""What the machinery of several ranks costs one process, and what recomputed activations save.

    OMP_NUM_THREADS=1 python -m tests.bench.devices_cost [--repeats 7]

Seconds of a training step through ``Strategy.gradients`` over those of the bare step (ratio 1: it costs nothing),
interleaved, the best of all turns; the share of a step that noise takes, which every rank draws for the whole
batch; and the bytes that the backward pass keeps with ``runtime.checkpoint_activations`` over those without, with
the time that it costs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from workbench import draws
from workbench.config import RunConfig
from workbench.config_file import build_config
from workbench.layers import generator
from workbench.optim import autocast
from workbench.ranks import ALONE
from workbench.speed import _untrained
from workbench.strategies import build_strategy

VOCAB = 258


def config_of(kind: str, *, recomputed: bool = False) -> RunConfig:
    """Width 128, 4 layers, 4 sequences of 256 tokens."""
    model = {"kind": kind, "backbone": {"width": 128, "num_layers": 4}}
    optim = {"batch_positions": 256 if kind == "calm" else 1024}
    runtime = {"device": "cpu", "dtype": "float32", "checkpoint_activations": recomputed}
    return build_config({"model": model, "optim": optim, "runtime": runtime}).resolved()


def steps(config: RunConfig) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The bare step and that of the strategy, of one network."""
    model = _untrained(config, VOCAB)
    strategy = build_strategy(model, config, ALONE)
    strategy.begin(0)
    shape = (config.batch_sequences, config.train.block_len)
    tokens = torch.randint(1, VOCAB, shape, generator=generator(0, "bench"))

    def bare() -> Tensor:
        with autocast("cpu", "float32"):
            loss = model.training_loss(tokens, rng=generator(0, "train", 0)).mean()
        model.network.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
        strategy.optimizer.step()
        return loss.detach()

    def ours() -> Tensor:
        loss = strategy.gradients(tokens, generator(0, "train", 0))
        strategy.clip(1.0)
        strategy.optimizer.step()
        ALONE.agree(float(loss), False, False)
        return loss

    return bare, ours


def best(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    found = [float("inf")] * len(functions)
    for turn in range(repeats + 1):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function()
            if turn:
                found[i] = min(found[i], time.perf_counter() - start)
    return found


def kept_bytes(config: RunConfig) -> int:
    """Held for the backward pass, parameters left out."""
    model = _untrained(config, VOCAB)
    strategy = build_strategy(model, config, ALONE)
    strategy.begin(0)
    own = {p.untyped_storage().data_ptr() for p in model.network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    tokens = torch.randint(1, VOCAB, (config.batch_sequences, config.train.block_len))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model.training_loss(tokens, rng=generator(0, "train", 0)).mean()
    return sum(x.untyped_storage().nbytes() for x in kept.values())


def draw_noise() -> Tensor:
    """The energy head's, of a step of ``config_of``."""
    return draws.uniform((8, 4 * 63, 64), axis=1, rng=generator(0, "noise"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    for kind in ("calm", "baseline"):
        config, lean = config_of(kind), config_of(kind, recomputed=True)
        bare, ours = steps(config)
        _, again = steps(lean)
        a, b, c = best([bare, ours, again], repeats)
        print(f"{kind}: bare {a * 1e3:.1f} ms, through the strategy {b * 1e3:.1f} ms, ratio {b / a:.3f}")
        before, after = kept_bytes(config), kept_bytes(lean)
        print(
            f"{kind}: recomputed activations keep {after / 2**20:.1f} of {before / 2**20:.1f} MB "
            f"({after / before:.2f}), time {c / b:.2f}"
        )
        if kind == "calm":
            (noise,) = best([draw_noise], repeats)
            print(
                f"{kind}: noise of the whole batch {noise * 1e3:.2f} ms, {noise / b:.2%} of a step of one process"
            )


if __name__ == "__main__":
    main()

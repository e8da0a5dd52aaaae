"""From a budget to steps: how many, where the rate changes, where evaluations lie. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workbench import flops
from workbench.config import RunConfig


@dataclass(frozen=True)
class Plan:
    """Of one run. An evaluation at step s comes after s steps are done."""

    num_steps: int
    tokens_per_step: int
    flops_per_step: float
    warmup_steps: int
    decay_steps: int
    evaluation_steps: tuple[int, ...]
    log_every: int


def plan(config: RunConfig, vocab: int) -> Plan:
    """``config`` must be resolved. The budget is rounded up to whole steps."""
    tokens = flops.tokens_per_step(config)
    per_step = flops.train_step_flops(config, vocab)
    if config.train.train_flops is not None:
        num_steps = math.ceil(config.train.train_flops / per_step)
    else:
        assert config.train.train_tokens is not None
        num_steps = math.ceil(config.train.train_tokens / tokens)
    decay_steps = round(config.optim.decay_fraction * num_steps)
    return Plan(
        num_steps=num_steps,
        tokens_per_step=tokens,
        flops_per_step=per_step,
        warmup_steps=round(config.optim.warmup_fraction * num_steps),
        decay_steps=decay_steps,
        evaluation_steps=evaluation_steps(config, num_steps, decay_steps),
        log_every=max(1, num_steps // 200),
    )


def evaluation_steps(config: RunConfig, num_steps: int, decay_steps: int) -> tuple[int, ...]:
    """Log-spaced while the rate is constant, and the end. With a decay, none lies inside it: only points
    at constant rate and points at the end of a decay may be compared (DESIGN rule 5)."""
    if decay_steps >= num_steps:
        return (num_steps,)
    last_constant = num_steps - decay_steps
    count = config.train.num_evaluations - (1 if decay_steps else 0)
    first = min(last_constant, max(1, round(config.train.first_evaluation * num_steps)))
    points = {num_steps}
    for i in range(count):
        part = i / (count - 1) if count > 1 else 1.0
        points.add(round(first * (last_constant / first) ** part))
    return tuple(sorted(points))

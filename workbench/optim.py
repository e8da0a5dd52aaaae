"""Building optimizers; the learning rate (warm-up, constant, optional linear decay to 0); mixed precision."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from workbench.config import OptimConfig
from workbench.muon import Muon, matrices_of
from workbench.optimizers import AdamW, Optimizer, Together
from workbench.records import Phase


def build_optimizer(module: nn.Module, config: OptimConfig, *, dtype: str) -> Optimizer:
    """AdamW for everything, or Muon for the maps inside the network and AdamW for the rest. ``config`` must be
    resolved; ``dtype``: of the autocast regions, in which Muon's iteration runs too."""
    assert config.lr is not None, "resolve the configuration first"
    matrices = matrices_of(module) if config.kind == "muon" else []
    rest = build_adamw(
        module,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        leave_out={id(weight) for weight, _ in matrices},
    )
    if not matrices:
        return rest
    assert config.matrix_lr is not None, "resolve the configuration first"
    muon = Muon(
        matrices,
        lr=config.matrix_lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        every=config.matrix_every,
        dtype=torch.bfloat16 if dtype == "bfloat16" else torch.float32,
    )
    return Together([muon, rest])


def build_adamw(
    module: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    leave_out: Collection[int] = (),
) -> AdamW:
    """Weight decay acts on matrices (embeddings included), not on biases and norms. ``leave_out``: ids of
    parameters of another optimizer."""
    trained = [p for p in module.parameters() if p.requires_grad and id(p) not in leave_out]
    matrices, vectors = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    groups = [
        {"params": matrices, "lr": lr, "betas": betas, "weight_decay": weight_decay},
        {"params": vectors, "lr": lr, "betas": betas, "weight_decay": 0.0},
    ]
    return AdamW(groups)


def scale_rates(optimizer: Optimizer, factor: float) -> None:
    """Every group's rate is that with which the optimizer was built, times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group.setdefault("full_lr", group["lr"])


def rate_factor(step: int, num_steps: int, *, warmup_steps: int, decay_steps: int) -> float:
    """Factor on the rate of step ``step`` (0-based): rises linearly over the warm-up to 1, stays, falls
    linearly over the last ``decay_steps``, ending just above 0 at the last step."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    left = num_steps - step
    return min(1.0, left / (decay_steps + 1)) if decay_steps else 1.0


def phase_after(steps_done: int, num_steps: int, *, warmup_steps: int, decay_steps: int) -> Phase:
    """Where on the schedule a model stands after so many steps."""
    if decay_steps and steps_done >= num_steps:
        return "decayed"
    if steps_done > num_steps - decay_steps:
        return "decaying"
    return "warmup" if steps_done < warmup_steps else "constant"


def autocast(device: str, dtype: str) -> torch.autocast:
    """The mixed-precision region of a training step, to be entered anew for every step (inside one region
    the cast weights are remembered). ``dtype``: float32 switches it off."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == "bfloat16")

"""AdamW, the learning-rate schedule (warm-up, constant, optional linear decay to 0), mixed precision."""

from __future__ import annotations

import torch
from torch import nn

from workbench.records import Phase


def build_adamw(
    module: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """Weight decay acts on matrices (embeddings included), not on biases and norms."""
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


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

"""Checkpoints of a tiny network in which every number is the step, so that what belongs together is seen."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from workbench import checkpoint
from workbench.optim import build_adamw
from workbench.optimizers import Optimizer

NAMES = ["model.safetensors", "optimizer.safetensors", "state.json"]


def of_step(step: int, width: int = 3) -> tuple[nn.Module, Optimizer]:
    """A network whose every weight, and optimizer whose every moment, is ``step``."""
    network = nn.Linear(width, 2)
    optimizer = build_adamw(network, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    network(torch.ones(1, width)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(step)
        for entry in optimizer.state:
            for value in entry.values():
                value.fill_(step)
    return network, optimizer


def save(folder: Path, step: int) -> Path:
    network, optimizer = of_step(step)
    checkpoint.save(folder, network, {"step": step, "loss_sum": 0.5}, optimizer)
    return folder


def load(folder: Path, into: tuple[nn.Module, Optimizer] | None = None) -> int:
    """The step, after a check that all belongs to it."""
    network, optimizer = into or of_step(0)
    step: int = checkpoint.load(folder, network, optimizer)["step"]
    assert all(bool((p == step).all()) for p in network.parameters())
    assert all(bool((value == step).all()) for entry in optimizer.state for value in entry.values())
    return step

"""Generative heads. ``HEADS`` is the table of alternatives; a new head is one file and one line here. A head may
also live outside the package (``workbench.own_heads``)."""

from __future__ import annotations

from typing import Any

from workbench import own_heads
from workbench.config import HeadConfig
from workbench.heads import contract
from workbench.heads.base import Head
from workbench.heads.diffusion import DiffusionHead
from workbench.heads.energy import EnergyHead
from workbench.heads.flow import FlowHead

HEADS: dict[str, type[Head]] = {"energy": EnergyHead, "diffusion": DiffusionHead, "flow": FlowHead}


def build_head(config: HeadConfig, *, hidden_dim: int, latent_dim: int) -> Head:
    """The head that ``config.kind`` names; ``config`` must be resolved. Raises ConfigError for one from outside
    that is not here, and HeadError for one whose weights cannot be trained and saved."""
    kind: Any = HEADS.get(config.kind) or own_heads.find(config.kind).head
    head: Head = kind(config, hidden_dim=hidden_dim, latent_dim=latent_dim)
    if config.kind not in HEADS:
        contract.complete(head, config)
    return head

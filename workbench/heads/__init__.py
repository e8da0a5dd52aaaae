"""Generative heads. ``HEADS`` is the table of alternatives; a new head is one file and one line here."""

from __future__ import annotations

from workbench.config import HeadConfig
from workbench.heads.base import Head
from workbench.heads.diffusion import DiffusionHead
from workbench.heads.energy import EnergyHead
from workbench.heads.flow import FlowHead

HEADS: dict[str, type[Head]] = {"energy": EnergyHead, "diffusion": DiffusionHead, "flow": FlowHead}


def build_head(config: HeadConfig, *, hidden_dim: int, latent_dim: int) -> Head:
    """The head that ``config.kind`` names; ``config`` must be resolved."""
    return HEADS[config.kind](config, hidden_dim=hidden_dim, latent_dim=latent_dim)

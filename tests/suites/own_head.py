"""The example of a head that lives outside the package, and small ones that are wrong in one respect."""

from __future__ import annotations

from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "gaussian_mixture_head.py"
KIND = "gaussian_mixture"

CONSTANT_HEAD = '''
from typing import Literal
import torch
from workbench.head_sections import OwnHeadConfig
from workbench.heads.base import Head

class Config(OwnHeadConfig):
    kind: Literal["constant"] = "constant"
    spread: float = 1.0

class ConstantHead(Head):
    """Draws one mean; its loss has no gradient for hidden as long as that is 0."""
    section = Config
    def __init__(self, config, *, hidden_dim, latent_dim):
        super().__init__()
        self.config, self.mean = config, torch.nn.Parameter(torch.zeros(latent_dim))
    def loss(self, hidden, target, *, rng):
        return (self.mean * hidden.mean(-1, True) - target.mean).square().sum(-1)
    def sample(self, hidden, *, num_samples, rng, noise_scale=1.0):
        return self.mean.expand(num_samples, len(hidden), -1)

HEADS = {"constant": ConstantHead}
'''
"""A head that is right as far as it can be told without training it."""


def write_head(path: Path, *changes: tuple[str, str]) -> Path:
    """``CONSTANT_HEAD`` with texts replaced."""
    source = CONSTANT_HEAD
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    path.write_text(source, encoding="utf-8")
    return path

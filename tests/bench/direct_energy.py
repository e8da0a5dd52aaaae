"""The energy loss as its formula reads (paper, section 3; METHOD section 3.1): every difference is formed.

Letters: N model samples, M target samples, L latent dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor


def direct_energy_loss(samples: Tensor, targets: Tensor, alpha: float = 1.0) -> Tensor:
    """Of every position (...), from samples (N, ..., L) and targets (M, ..., L)."""
    num = samples.shape[0]
    to_target = torch.linalg.norm(samples.unsqueeze(1) - targets.unsqueeze(0), dim=-1) ** alpha
    between = torch.linalg.norm(samples.unsqueeze(1) - samples.unsqueeze(0), dim=-1) ** alpha
    loss: Tensor = 2 * to_target.mean((0, 1)) - between.sum((0, 1)) / (num * (num - 1))
    return loss

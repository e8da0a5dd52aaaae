"""The energy score's loss, cheap and plain (paper, section 3; METHOD section 3.1).

    2/(N M) sum_ij |x_i - y_j|^alpha  -  1/(N (N-1)) sum_{i != j} |x_i - x_j|^alpha

Letters: n positions, N model samples, M posterior samples, L latent dimension.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.posterior import Posterior

LEAST_SQUARE = 1e-12
"""Squared distances below this count as this: the gradient of |.|^alpha at 0 is taken as 0."""


def energy_loss(
    samples: Float[Tensor, "N n l"], target: Posterior, eps: Float[Tensor, "M l"], *, alpha: float = 1.0
) -> Float[Tensor, " n"]:
    """Loss of each position with y_j = mean + std * eps_j, one noise matrix for all positions.

    With it |x - y_j|^2 = |x - mean|^2 - 2 ((x - mean) std) . eps_j + std^2 . eps_j^2: two matrix products
    and nothing of size N x M x n x L. Every position's estimate stays unbiased."""
    check_alpha(alpha)
    with torch.autocast(samples.device.type, enabled=False):  # the expansion cancels: float32 throughout
        samples, mean, std = samples.float(), target.mean.float(), target.std.float()
        offset = samples - mean  # (N, n, L)
        square = offset.square().sum(-1, keepdim=True)  # (N, n, 1)
        cross = (offset * std) @ eps.T  # (N, n, M)
        spread = std.square() @ eps.square().T  # (n, M)
        to_target = _power(square - 2 * cross + spread, alpha).mean((0, 2))
        return 2 * to_target - mean_pair_distance(samples, alpha=alpha)


def mean_pair_distance(samples: Float[Tensor, "N n l"], *, alpha: float) -> Float[Tensor, " n"]:
    """Mean of |x_i - x_j|^alpha over the pairs i != j."""
    num = samples.shape[0]
    first, second = torch.triu_indices(num, num, offset=1, device=samples.device)
    difference = samples[first] - samples[second]  # (N(N-1)/2, n, L)
    return _power(difference.square().sum(-1), alpha).mean(0)


def plain_energy_loss(
    samples: Float[Tensor, "N n l"], targets: Float[Tensor, "M n l"], *, alpha: float = 1.0
) -> Float[Tensor, " n"]:
    """The same from explicit target samples, every difference formed: the oracle of the tests."""
    check_alpha(alpha)
    to_target = torch.linalg.vector_norm(samples[:, None] - targets[None], dim=-1).pow(alpha).mean((0, 1))
    num = samples.shape[0]
    between = torch.linalg.vector_norm(samples[:, None] - samples[None], dim=-1).pow(alpha)
    loss: Tensor = 2 * to_target - between.sum((0, 1)) / (num * (num - 1))
    return loss


def check_alpha(alpha: float) -> None:
    """Raises ValueError outside (0, 2), where the score is not strictly proper."""
    if not 0.0 < alpha < 2.0:
        raise ValueError(f"alpha must lie in (0, 2) for a strictly proper energy score, got {alpha}")


def _power(square: Tensor, alpha: float) -> Tensor:
    square = square.clamp_min(LEAST_SQUARE)
    return square.sqrt() if alpha == 1.0 else square.pow(alpha / 2)

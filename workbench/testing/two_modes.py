"""A known conditional distribution to train a head on, and checks of the samples of one that was."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.posterior import Posterior

LARGEST_DISTANCE = 0.01
"""Energy distance to the truth that a short training must reach. 4,000 draws of the truth itself: 0.0005; heads
that pass: up to 0.005. Equal weights: 0.12; a mode missing: 0.23 and more; deviations doubled: 0.033 and 0.08."""
MEDIAN = 1.887
"""Of the first dimension for c = 1: 0.3 below it in the lower mode, and 0.2 of 0.7 in the upper one."""
NUM_ROWS = 200
"""Of a table of distances that is held at once: a whole one of 4,000 draws is 64 MB, and takes the time of asking
the system for them."""


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weight(condition: Tensor) -> Tensor:
    """Of the upper mode."""
    return torch.where(condition > 0, 0.7, 0.3)


def two_modes(condition: Tensor, generator: torch.Generator) -> Posterior:
    """The known conditional distribution: c = +-1 decides everything. First dimension: two modes at
    c +- 1, each with deviation 0.2, the upper one with weight 0.7 for c = 1 and 0.3 for c = -1. Second: one normal
    distribution with mean 2 c and deviation 0.6 for c = 1, 0.2 for c = -1."""
    upper = torch.rand(condition.shape, generator=generator) < weight(condition)
    mean = torch.stack([condition + torch.where(upper, 1.0, -1.0), 2 * condition], -1)
    second = torch.where(condition > 0, 0.6, 0.2)
    return Posterior(mean, torch.stack([torch.full_like(second, 0.2), second], -1).log())


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| without bias: 0 for equal distributions and for no others."""
    within = [_sum_of_distances(z, z) / (len(z) * (len(z) - 1)) for z in (x, y)]
    return 2 * _sum_of_distances(x, y) / (len(x) * len(y)) - sum(within)


def _sum_of_distances(x: Tensor, y: Tensor) -> float:
    return sum(torch.cdist(rows, y).sum().item() for rows in x.split(NUM_ROWS))


def distance_to_truth(samples: Tensor, c: float) -> float:
    """Energy distance of samples (S, 2) to as many draws of the distribution under condition c."""
    generator = rng(3)
    return energy_distance(samples, two_modes(torch.full((len(samples),), c), generator).sample(rng=generator))


def check_mixture(samples: Tensor, c: float) -> float:
    """Samples (S, 2) under condition c are those of ``two_modes``, as far as a short training gets. Gives their
    distance to it."""
    first, second = samples[:, 0] - c, samples[:, 1]
    upper, lower = first[first > 0], first[first < 0]
    _near(len(upper) / len(samples), weight(torch.tensor(c)).item(), 0.07, "weight of the upper mode", c)
    for name, mode, centre in (("upper", upper, 1.0), ("lower", lower, -1.0)):
        median = mode.median()
        _near(median.item(), centre, 0.1, f"place of the {name} mode", c)
        spread = (mode - median).abs().median().item()
        _near(spread, 0.135, 0.5 * 0.135, f"spread of the {name} mode", c)
    between = (first.abs() < 0.5).float().mean().item()
    assert between < 0.1, (
        f"for c = {c:g}, {between:.1%} of the samples lie between the two modes; below 10% wanted"
    )
    _near(second.mean().item(), 2 * c, 0.1, "mean of the second dimension", c)
    deviation = 0.6 if c > 0 else 0.2
    _near(second.std().item(), deviation, 0.3 * deviation, "deviation of the second dimension", c)
    distance = distance_to_truth(samples, c)
    assert distance < LARGEST_DISTANCE, (
        f"for c = {c:g}, the energy distance to the truth is {distance:.3g}; below {LARGEST_DISTANCE} wanted"
    )
    return distance


def check_means(samples: Tensor, c: float) -> None:
    """Means of samples (S, 2) under condition c are those of ``two_modes``, as far as a short training gets."""
    first, second = samples.mean(0).tolist()
    assert abs(first - MEDIAN * c) > 0.1, (
        f"for c = {c:g}, the mean of the first dimension is {first:.3g}: that is the median ({MEDIAN * c:.3g}), "
        f"and the mean is wanted ({1.4 * c:.3g}); this asks for a head whose loss is least at the mean, as a "
        "squared error, and is not right for one that finds medians, as an absolute error or a Laplace likelihood"
    )
    _near(first, 1.4 * c, 0.1, "mean of the first dimension", c)  # c + 2 weight(c) - 1
    _near(second, 2 * c, 0.1, "mean of the second dimension", c)


def _near(found: float, expected: float, tolerance: float, what: str, c: float) -> None:
    assert abs(found - expected) <= tolerance, (
        f"for c = {c:g}, the {what} is {found:.3g}; {expected:.3g} wanted, within {tolerance:.2g}"
    )

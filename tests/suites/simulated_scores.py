"""Simulated evaluations whose true scores are known: what errors, intervals and comparisons are proved on.

A position has chances q_1 ... q_4 that a sample goes on matching the truth, and a window shares part of them;
S samples give hits, S (S - 1) / 2 pairs give collisions, as in ``workbench.brier``: rare, skewed and nested,
unlike Gaussian noise.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SAMPLES = 8
POSITION_SD, WINDOW_SD = 1.8, 0.3
STEPS = np.array([-1.2, -0.6, -0.6, -0.6])
WINDOW_SHARES = np.array([1.0, 0.7, 0.7, 0.7])
"""How much of what a window has in common each step feels."""


def _steps(rng: np.random.Generator, strength: float, shape: tuple[int, int, int]) -> Floats:
    """(evaluations, W, n, 4) chances of each further match."""
    window = rng.normal(0, WINDOW_SD, (*shape[:2], 1, 1)) * WINDOW_SHARES
    own = rng.normal(0, POSITION_SD, (*shape, 4))
    return 1 / (1 + np.exp(-(strength + STEPS + window + own)))


def _collisions(steps: Floats) -> Floats:
    """Chance that two samples agree on the first n tokens: on the truth, or on something else."""
    return np.cumprod(steps, -1) ** 2 + 0.03 * np.cumprod(0.2 * (1 - steps), -1)


@cache
def true_scores(strength: float) -> tuple[float, float, float, float]:
    """Brier-1 ... 4, fractions. Given its window a position's steps are independent: the mean of their product is
    the product of their means, and both integrals are sums over the nodes of Gauss and Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    window = WINDOW_SD * nodes[:, None, None] * WINDOW_SHARES[:, None]  # (window, step, 1)
    steps = 1 / (1 + np.exp(-(strength + STEPS[:, None] + window + POSITION_SD * nodes)))
    right, both, elsewhere = ((values @ weights).cumprod(-1) for values in (steps, steps**2, 0.2 * (1 - steps)))
    one, two, three, four = (weights @ (2 * right - (both + 0.03 * elsewhere))).tolist()
    return one, two, three, four


def true_brierlm(strength: float) -> float:
    scores = np.array(true_scores(strength))
    return 100 * float(np.prod(scores) ** 0.25) if (scores > 0).all() else 0.0


def evaluations(
    rng: np.random.Generator, strength: float, num: int, num_windows: int, num_positions: int = 24
) -> Floats:
    """``num`` evaluations of one model: estimates (num, W, n, 4)."""
    steps = _steps(rng, strength, (num, num_windows, num_positions))
    pairs = SAMPLES * (SAMPLES - 1) // 2
    collisions = _collisions(steps)
    hits = _nested(rng, SAMPLES, steps) / SAMPLES
    ratios = collisions / np.concatenate([np.ones_like(collisions[..., :1]), collisions[..., :-1]], -1)
    return 2 * hits - _nested(rng, pairs, np.minimum(ratios, 1)) / pairs


def _nested(rng: np.random.Generator, num: int, chances: Floats) -> Floats:
    """How many of ``num`` survive each further step."""
    left, kept = np.full(chances.shape[:-1], num), []
    for i in range(chances.shape[-1]):
        left = rng.binomial(left, chances[..., i])
        kept.append(left)
    return np.stack(kept, -1).astype(float)

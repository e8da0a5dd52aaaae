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


def _steps(rng: np.random.Generator, strength: float, shape: tuple[int, int, int]) -> Floats:
    """(evaluations, W, n, 4) chances of each further match."""
    window = rng.normal(0, WINDOW_SD, (*shape[:2], 1, 1)) * np.array([1.0, 0.7, 0.7, 0.7])
    own = rng.normal(0, POSITION_SD, (*shape, 4))
    return 1 / (1 + np.exp(-(strength + np.array([-1.2, -0.6, -0.6, -0.6]) + window + own)))


def _collisions(steps: Floats) -> Floats:
    """Chance that two samples agree on the first n tokens: on the truth, or on something else."""
    return np.cumprod(steps, -1) ** 2 + 0.03 * np.cumprod(0.2 * (1 - steps), -1)


@cache
def true_scores(strength: float) -> tuple[float, float, float, float]:
    """Brier-1 ... 4, fractions, by averaging over 4 million positions."""
    rng, total = np.random.default_rng(99), np.zeros(4)
    for _ in range(20):
        steps = _steps(rng, strength, (1, 20_000, 10))
        total += (2 * np.cumprod(steps, -1) - _collisions(steps)).mean((0, 1, 2))
    one, two, three, four = (total / 20).tolist()
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

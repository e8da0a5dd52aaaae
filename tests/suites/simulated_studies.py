"""Studies whose true scores are known: the runs of a study on disk with simulated scores in place of their own.

Letters: W windows, n positions of a window, O = 4 orders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from analysis.table import RunTable
from workbench.positions import PositionScores
from workbench.uncertainty import (
    brierlm_influence,
    cluster_residuals,
    cluster_se,
    geometric_mean,
    smooth_score,
)

MEANS = np.array([0.30, 0.12, 0.06, 0.04])
SCALE = 100 * float(np.prod(MEANS) ** 0.25)
"""BrierLM of MEANS: a relative change x of all orders changes it by SCALE * x."""
NUM_WINDOWS, NUM_POSITIONS = 40, 3
TEXT = 0.2
"""Relative standard deviation of what a window says about all runs alike."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """Relative standard deviations."""

    training: float = 0.03
    """Of a seed's true score."""
    evaluation: float = 0.1
    """Of what a window says about one run."""
    positions: float = 0.0
    """Of what a window says about one setting."""


def simulate(
    rng: np.random.Generator,
    settings: Mapping[str, list[str]],
    noise: Noise,
    gains: Mapping[str, float] | None = None,
) -> dict[str, Floats]:
    """(W, n, O) by run id. ``settings``: name to its runs, which differ in the seed only; ``gains``: of a setting
    over the others, relative."""
    text = rng.normal(0, TEXT, (NUM_WINDOWS, 1, 1))
    values = {}
    for name, runs in settings.items():
        liking = rng.normal(0, noise.positions, (NUM_WINDOWS, 1, 1))
        for run in runs:
            level = 1 + (gains or {}).get(name, 0.0) + rng.normal(0, noise.training)
            own = rng.normal(0, noise.evaluation, (NUM_WINDOWS, 1, 1))
            position = rng.normal(0, 1e-3, (NUM_WINDOWS, NUM_POSITIONS, 4))
            values[run] = MEANS * (level + text + liking + own) + position
    return values


def with_scores(table: RunTable, values: Mapping[str, Floats], *, keep: bool = True) -> RunTable:
    """The table with these scores in place of its own; without ``keep`` no run kept them by position. N-gram
    tables are not known by position either."""
    runs, positions = table.runs.copy(), {}
    clusters = np.arange(NUM_WINDOWS)
    for index, run in runs.iterrows():
        scores = values[run["run_id"]]
        mean = scores.mean((0, 1))
        residual = cluster_residuals((scores - mean).mean(1), clusters)
        se = cluster_se(residual)
        runs.loc[index, "brierlm"] = geometric_mean(mean)
        runs.loc[index, "brierlm_se"] = float(cluster_se(brierlm_influence(mean, se, residual)))
        runs.loc[index, "score"] = smooth_score(mean, se)
        runs.loc[index, "num_clusters"] = NUM_WINDOWS
        positions[run["run_id"]] = PositionScores(
            fingerprint=run["fingerprint"],
            values=scores.astype(np.float32),
            clusters=clusters.astype(np.int64),
            starts=clusters.astype(np.int64) * 256,
        )
    return replace(table, runs=runs, positions=positions if keep else {}, floor_scores={})

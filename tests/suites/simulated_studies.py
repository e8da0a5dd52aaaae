"""Studies whose true scores are known: the runs of a study on disk with simulated scores in place of their own.

Letters: W windows, n positions of a window, O = 4 orders.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from analysis.comparison import Comparison, Setting, noise_of
from analysis.paired import pair_up
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

ASKED = (
    "run_id", "name", "role", "seed", "kind", "head", "setting", "status", "reason", "K", "text", "fingerprint",
    "at_budget", "phase", "tokens", "brierlm", "brierlm_se", "brierlm_high", "score", "weak_orders",
    "num_clusters", "infer_flops_per_token", *(f"brier_{n}{end}" for n in (1, 2, 3, 4) for end in ("", "_se")),
)  # fmt: skip

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
    found: dict[str, list[float]] = {"brierlm": [], "brierlm_se": [], "score": []}
    positions, clusters = {}, np.arange(NUM_WINDOWS)
    for run, fingerprint in zip(table.runs["run_id"], table.runs["fingerprint"], strict=True):
        scores = values[run]
        mean = scores.mean((0, 1))
        residual = cluster_residuals((scores - mean).mean(1), clusters)
        se = cluster_se(residual)
        found["brierlm"].append(geometric_mean(mean))
        found["brierlm_se"].append(float(cluster_se(brierlm_influence(mean, se, residual))))
        found["score"].append(smooth_score(mean, se))
        positions[run] = PositionScores(
            fingerprint=fingerprint,
            values=scores.astype(np.float32),
            clusters=clusters.astype(np.int64),
            starts=clusters.astype(np.int64) * 256,
        )
    runs = table.runs.assign(**found, num_clusters=NUM_WINDOWS)
    return replace(table, runs=runs, positions=positions if keep else {}, floor_scores={})


def narrowed(table: RunTable) -> RunTable:
    """The table with those columns only in which its settings differ or which comparisons ask for: of a hundred
    columns every part of a frame is a hundred parts."""
    varied = [name for name in table.config_columns if table.runs[name].map(repr).nunique() > 1]
    return replace(table, runs=table.runs[[*ASKED, *varied]], config_columns=varied)


def compared_again(comparison: Comparison, table: RunTable) -> Comparison:
    """``compare(table)``, given that of the same runs with other scores: which runs are compared, what they differ
    in and what they are called depends on no score, and takes ten times as long as the rest."""
    finals = table.runs.loc[comparison.finals.index]
    ordered = finals.loc[[index for setting in comparison.settings for index in setting.runs.index]]
    ends = itertools.accumulate((setting.num_seeds for setting in comparison.settings), initial=0)
    settings = [Setting(ordered.iloc[begin:end]) for begin, end in itertools.pairwise(ends)]
    paired, unpaired = pair_up(table.positions, finals["run_id"])
    noise, is_split = noise_of(settings, paired)
    return replace(
        comparison,
        finals=finals,
        settings=settings,
        paired=paired,
        unpaired=unpaired,
        noise=noise,
        noise_is_split=is_split,
        positions=table.positions,
        floor_scores=table.floor_scores,
    )

"""Dominance where scores are known position by position: ends of runs that were scored at the same positions.

What makes a position easy or hard for both of two runs cancels in their difference, so its interval is mostly much
narrower than that of two scores with independent errors.

Letters: R runs, W windows, n positions of a window, O = 4 orders, C clusters.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.frontier import SAME_COST, Paired, common_quantile
from analysis.paired import PairedScores, pair_up
from workbench.positions import PositionScores
from workbench.seeds import SeedNoise
from workbench.uncertainty import Linearised, t_quantile


def paired_gaps(positions: Mapping[str, PositionScores], noise: SeedNoise | None, *, cost: str) -> Paired:
    """For ``analysis.frontier.with_status``: by how much points are beaten in pairs.

    Of a run only the last evaluation has positions. Its difference to another run has the interval of
    ``workbench.seeds.setting_difference`` with one seed each, corrected for all other points of the group. Seeds
    that were put together (``analysis.frontier.by_seed``) are compared without pairs."""

    def gaps(points: pd.DataFrame, open_: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        result = np.full((len(points), 3), np.nan)
        ids = points["run_id"].astype(str).to_numpy()
        steps = points["step"].to_numpy() if "step" in points else np.full(len(points), -1)
        single = points["num_seeds"].to_numpy() == 1 if "num_seeds" in points else np.ones(len(points), dtype=bool)
        top = np.maximum.accumulate(points["brierlm"].to_numpy(dtype=float))
        leading = points["brierlm"].to_numpy(dtype=float) >= top
        there = [  # those in question and those that may beat them, to keep the pairs few
            int(i)
            for i in np.flatnonzero((open_ | leading) & single)
            if ids[i] in positions and positions[ids[i]].step == steps[i]
        ]
        if len(there) < 2:
            return result
        paired, _ = pair_up(positions, ids[there])
        if paired is not None:
            found = _gaps(points.iloc[there], paired, noise, cost, max(1, len(points) - 1))
            result[there] = np.where(open_[there, None], found, np.nan)
        return result

    return gaps


def _gaps(
    points: pd.DataFrame, paired: PairedScores, noise: SeedNoise | None, cost: str, num: int
) -> npt.NDArray[np.float64]:
    """(R, 3) of the points' runs: behind the one that beats each most surely."""
    runs = [Linearised.of(paired.values[str(run_id)], paired.clusters) for run_id in points["run_id"]]
    clear = np.asarray([not run.weak and run.brierlm > 0 for run in runs])
    score = np.asarray([run.brierlm for run in runs])
    ahead = score[None, :] - score[:, None]  # (R, R): of the second to the first
    half = difference_reach(runs, noise, num)
    spent = points[cost].to_numpy(dtype=float)
    possible = (spent[None, :] <= spent[:, None] * (1 + SAME_COST)) & clear[None, :] & clear[:, None]
    beyond = np.where(possible, ahead - half, -np.inf)
    best = beyond.argmax(axis=1)
    rows = np.arange(len(runs))
    gap, reach = ahead[rows, best], half[rows, best]
    return np.where(beyond[rows, best][:, None] > 0, np.stack([gap, gap - reach, gap + reach], axis=1), np.nan)


def difference_reach(runs: list[Linearised], noise: SeedNoise | None, num: int) -> npt.NDArray[np.float64]:
    """(R, R) half-widths of the 95 % intervals of all differences, corrected for ``num``."""
    influence = np.stack([run.influence for run in runs])  # (R, C)
    clusters = influence.shape[1]
    inner = influence @ influence.T
    squares = np.diag(inner)[:, None] + np.diag(inner)[None, :] - 2 * inner
    variance = np.maximum(squares, 0.0) / (clusters * max(clusters - 1, 1))  # of cluster_se
    if noise is not None:
        variance = np.maximum(variance - 2 * noise.sd_evaluation**2, 0.0)
    half = t_quantile(runs[0].dof, comparisons=num) * np.sqrt(variance)
    if noise is not None:
        half = np.hypot(half, common_quantile(noise.dof, num) * noise.sd * np.sqrt(2.0))
    return np.asarray(half)

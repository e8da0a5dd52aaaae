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

from analysis.frontier import InPairs, Paired, common_quantile
from analysis.paired import PairedScores, pair_up
from workbench.positions import PositionScores
from workbench.seeds import SeedNoise
from workbench.uncertainty import Linearised, t_quantile


def paired_gaps(positions: Mapping[str, PositionScores], noise: SeedNoise | None) -> Paired:
    """For ``analysis.frontier.with_status``: how far points are apart in pairs.

    Of a run only the last evaluation has positions. Its difference to another run has the interval of
    ``workbench.seeds.setting_difference`` with one seed each, corrected for all other points of the group. Seeds
    that were put together (``analysis.frontier.by_seed``) are compared without pairs."""

    def gaps(points: pd.DataFrame) -> InPairs | None:
        ids = points["run_id"].astype(str).to_numpy()
        steps = points["step"].to_numpy() if "step" in points else np.full(len(points), -1)
        single = points["num_seeds"].to_numpy() == 1 if "num_seeds" in points else np.ones(len(points), dtype=bool)
        has = [i in positions and positions[i].step == step for i, step in zip(ids, steps, strict=True)]
        there = np.flatnonzero(single & np.asarray(has, dtype=bool))
        if len(there) < 2:
            return None
        paired, _ = pair_up(positions, ids[there])
        if paired is None:
            return None
        return _in_pairs(there, ids[there].tolist(), paired, noise, max(1, len(points) - 1))

    return gaps


def _in_pairs(
    places: npt.NDArray[np.intp], ids: list[str], paired: PairedScores, noise: SeedNoise | None, num: int
) -> InPairs:
    runs = [Linearised.of(paired.values[run_id], paired.clusters) for run_id in ids]
    clear = np.asarray([not run.weak and run.brierlm > 0 for run in runs])
    score = np.asarray([run.brierlm for run in runs])
    half = np.where(clear[None, :] & clear[:, None], difference_reach(runs, noise, num), np.nan)
    return InPairs(places, score[None, :] - score[:, None], half)


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

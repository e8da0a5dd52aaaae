"""Figures of more points than an eye can tell apart or a page should hold, in fewer marks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes

from analysis.dimension import Dimension

MANY_POINTS = 2000
"""Checkpoints; with more the figure shows what most runs of a group do, and the ends of decays one by one."""
MANY_BOUNDS = 25
"""Upper bounds in one group; more are drawn as lines with a mark, fewer with an arrow each."""
BINS = 24
"""Of equal width in the logarithm of compute."""
SHARE = (0.1, 0.5, 0.9)

Floats = npt.NDArray[np.float64]


def bands_text(num: int) -> str:
    """What the caption says of the thinned form."""
    return (
        f"The {num:,} checkpoints are too many to draw. At constant rate: the middle run of each group (line) "
        f"and where the middle {SHARE[2] - SHARE[0]:.0%} of its runs lie (band), in {BINS} equal steps of log "
        "compute; frontier points and ends of decays one by one, without errors. All are in data/evaluations.csv;"
    )


def draw_bands(axes: Axes, points: pd.DataFrame, dimension: Dimension) -> None:
    """In place of a curve a run."""
    for key, rows in dimension.groups(points):
        colour = dimension.colour(key)
        constant = rows[rows["phase"] == "constant"]
        x, low, middle, high = quantiles(constant["train_flops"], constant["brierlm"])
        axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0)
        axes.plot(x, middle, color=colour, lw=1.4, marker=dimension.marker(key), ms=4, mec="white", mew=0.4)
        ends = rows[rows["phase"] == "decayed"]
        axes.plot(ends["train_flops"], ends["brierlm"], ls="", marker="*", ms=5, color=colour, mew=0, alpha=0.6)


def quantiles(cost: Any, score: Any) -> tuple[Floats, Floats, Floats, Floats]:
    """Geometric mean cost and the three quantiles of the scores in every bin that holds points."""
    costs, scores = np.asarray(cost, dtype=float), np.asarray(score, dtype=float)
    there = (costs > 0) & np.isfinite(scores)
    costs, scores = np.log(costs[there]), scores[there]
    if not len(costs):
        empty = np.empty(0)
        return empty, empty, empty, empty
    width = max((costs.max() - costs.min()) / BINS, 1e-12)
    bins = np.minimum(((costs - costs.min()) / width).astype(int), BINS - 1)
    rows = [
        [float(np.exp(costs[bins == b].mean())), *np.quantile(scores[bins == b], SHARE)] for b in np.unique(bins)
    ]
    x, low, middle, high = np.asarray(rows).T
    return x, low, middle, high


def draw_bounds(axes: Axes, x: Floats, rows: pd.DataFrame, *, colour: str, width: float, alpha: float) -> None:
    """Bounds as lines down to 0 and a mark at either end."""
    high = rows["brierlm_high"].to_numpy(dtype=float)
    axes.vlines(x, 0.0, high, color=colour, lw=width, alpha=alpha)
    axes.plot(x, high, ls="", marker="_", ms=5, mew=0.8, color=colour, alpha=alpha)
    axes.plot(x, np.zeros(len(x)), ls="", marker="v", ms=3, mew=0, color=colour, alpha=alpha)

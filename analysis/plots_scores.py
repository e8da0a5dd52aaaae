"""Scores with their errors on an axis: the same in every figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.plots_many import MANY_BOUNDS, draw_bounds
from analysis.scores import bounds


def draw_scores(
    axes: Axes,
    x: Any,
    rows: pd.DataFrame,
    *,
    marker: str,
    size: float,
    colour: str,
    edge: str = "white",
    edge_width: float = 0.5,
    line_width: float = 0.8,
    alpha: float = 1.0,
) -> None:
    """Points with one standard error; where only a bound is known, a hollow point and an arrow from the bound
    down to 0. ``x``: one place a row."""
    places, only_bound = np.asarray(x, dtype=float), bounds(rows)
    known = rows[~only_bound]
    if len(known):
        axes.errorbar(
            places[~only_bound],
            known["brierlm"],
            yerr=known["brierlm_se"],
            fmt=marker,
            ms=size,
            color=colour,
            mec=edge,
            mew=edge_width,
            elinewidth=line_width,
            alpha=alpha,
        )
    if only_bound.sum() > MANY_BOUNDS:
        draw_bounds(axes, places[only_bound], rows[only_bound], colour=colour, width=line_width, alpha=alpha)
        return
    for place, (_, row) in zip(places[only_bound], rows[only_bound].iterrows(), strict=True):
        high = float(row["brierlm_high"])
        axes.annotate(
            "",
            xy=(place, 0.0),
            xytext=(place, high),
            arrowprops={"arrowstyle": "-|>,head_width=0.18,head_length=0.35", "color": colour, "lw": line_width,
                        "shrinkA": 0, "shrinkB": 0, "alpha": alpha},
        )  # fmt: skip
        axes.plot([place], [high], ls="", marker="_", ms=7, mew=1.1, color=colour, alpha=alpha)
        hollow = marker if marker not in "xX+" else "o"
        axes.plot(
            [place], [row["brierlm"]], ls="", marker=hollow, ms=size, mfc="white", mec=colour, mew=0.9, alpha=alpha
        )

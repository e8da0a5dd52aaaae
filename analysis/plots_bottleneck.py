"""The figure "where is the quality lost": one panel a chunk size, or whatever the study is about."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from analysis import style
from analysis.plots_correlation import panels as panel_grid
from analysis.style import GREY, INK, Picture
from workbench.records import Bottleneck

STAGES = {
    "autoencoder_brier": ("autoencoder alone", "^", "#0b3c5d"),
    "noisy_brier": ("with the head's noise", "s", "#2b7bba"),
    "mode_accuracy": ("most frequent sample is right (accuracy)", "o", "#e0a458"),
    "brier": ("the model", "D", INK),
    "shuffled_brier": ("with another window's context", "v", GREY),
}
"""Field of the record: label, marker, colour."""


def bottleneck_figure(panels: dict[str, Bottleneck], noun: str = "K") -> Picture | None:
    """Brier-n of every stage against the order n. ``panels``: by the name of the group whose best run it is of;
    ``noun``: what the groups are."""
    if not panels:
        return None
    positive = [v for panel in panels.values() for name in STAGES for v in getattr(panel, name) if v > 0]
    bottom = min(positive, default=1.0) / 2
    figure, axes = panel_grid(len(panels), 2.9)
    for i, (one, (name, panel)) in enumerate(zip(axes, panels.items(), strict=True)):
        _stages(one, panel, bottom)
        one.set_title(name, loc="left", fontsize=9.5)
        if i % 2 == 0:
            one.set_ylabel("per cent (log scale)")
    handles = [
        Line2D([], [], marker=marker, ms=6, color=colour, lw=1.1, ls=_dashes(name), label=label)
        for name, (label, marker, colour) in STAGES.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=1 if len(panels) == 1 else 2,
        handlelength=2.0,
        fontsize=8.5,
    )
    return style.render(
        figure,
        "bottleneck",
        "From the autoencoder to the model",
        f"Best run of each {noun} at the budget: Brier-n of the first n tokens of a chunk. From the autoencoder "
        "to the noise to the model, the drop from line to line is what that part costs; the model lies as far "
        "above another window's context as the head uses its own. Orange: an accuracy, not a Brier score. At the "
        "bottom, hollow: values of 0 or less.",
    )


def _dashes(name: str) -> Any:
    """Dashed: what is no stage on the way from the autoencoder to the model."""
    return (0, (3, 2)) if name in ("mode_accuracy", "shuffled_brier") else "-"


def _stages(axes: Axes, panel: Bottleneck, bottom: float) -> None:
    num = len(panel.brier)
    for i, (name, (_, marker, colour)) in enumerate(STAGES.items()):
        values = np.asarray(getattr(panel, name), dtype=float)
        x = np.arange(1, num + 1) + (i - (len(STAGES) - 1) / 2) * 0.03
        shown = np.where(values > 0, values, bottom)
        axes.plot(x, shown, color=colour, lw=1.1, ls=_dashes(name), marker=marker, ms=5.5)
        axes.plot(
            x[values <= 0], shown[values <= 0], ls="", marker=marker, ms=5.5, mfc="white", mec=colour, zorder=3
        )
    axes.set_yscale("log")
    axes.set_ylim(bottom * 0.8, 130)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.set_xticks(range(1, num + 1), [f"n = {n}" for n in range(1, num + 1)])
    axes.set_xlim(0.6, num + 0.4)
    axes.grid(axis="x", visible=False)

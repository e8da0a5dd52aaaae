"""Frontiers with their bands, and the results of others beside ours. None where a figure would be empty."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import style
from analysis.families import Family, families
from analysis.frontier import AXES, SAME_COST, is_known
from analysis.frontier_bands import Band
from analysis.frontier_view import View, view
from analysis.style import ACCENT, GREY, Label, Picture
from analysis.words import PHASES
from workbench.seeds import SeedNoise

BRIERLM = "BrierLM (0 to 100)"
MAX_NAMED = 12
"""Results of others that are named in the figure; more would lie on each other."""


def frontier_figure(
    evaluations: pd.DataFrame, *, cost: str = "train_flops", noise: SeedNoise | None = None
) -> Picture | None:
    """Of any evaluations of one fingerprint (``analysis.rows``, ``analysis.external``), in the house style."""
    found = view(evaluations, cost=cost, noise=noise)
    if found is None:
        return None
    with style.house_style():
        return view_figure(found)


def view_figure(found: View) -> Picture:
    """Points, the best of each family up to each cost as steps, its band, and rings about the overall frontier."""
    figure, axes = style.new_figure(style.WIDE)
    points, cost = found.points, found.cost
    bands = {band.family: band for band in found.bands}
    ends = float(points[cost].max()) * 1.15
    labels = []
    for family, part in families(points):
        axes.plot(
            part[cost], part["brierlm"], ls="", marker=family.marker, ms=3.5, color=family.colour, alpha=0.35
        )
        _steps(axes, family, part, cost, bands.get(family.name), ends)
        labels.append(Label(float(part["brierlm"].max()), family.name, family.colour))
    on = found.members
    axes.plot(on[cost], on["brierlm"], ls="", marker="o", ms=9, mfc="none", mec=ACCENT, mew=1.3)
    style.log_x(axes)
    axes.set_xlim(right=ends)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(AXES[cost])
    axes.set_ylabel(BRIERLM)
    handles = [
        Line2D([], [], color=GREY, lw=1.6, label="best of a family up to a cost"),
        Patch(color=GREY, alpha=0.25, lw=0, label="95 % band of the true best"),
        Line2D([], [], ls="", marker="o", ms=9, mfc="none", mec=ACCENT, mew=1.3, label="frontier of all models"),
    ]
    axes.figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.4, handlelength=1.8)
    style.label_right(axes, labels)
    name = f"frontier-{cost.replace('_', '-')}"
    return style.render(figure, name, f"Frontier in {AXES[cost].split(' (')[0]}", figure_text(found))


def _cloud(axes: Axes, family: Family, part: pd.DataFrame, cost: str) -> None:
    colour = family.colour
    axes.plot(part[cost], part["brierlm"], ls="", marker=family.marker, ms=3.5, color=colour, alpha=0.35)


def _steps(axes: Axes, family: Family, part: pd.DataFrame, cost: str, band: Band | None, ends: float) -> None:
    if band is None:  # no error is known: the steps alone
        ordered = part.sort_values(cost, kind="stable")
        x, y = ordered[cost].to_numpy(dtype=float), np.maximum.accumulate(ordered["brierlm"].to_numpy(dtype=float))
    else:
        x, y = band.costs, band.best
        edges = np.append(x, ends)
        low, high = (np.append(side, side[-1]) for side in (band.low, band.high))
        axes.fill_between(edges, low, high, step="post", color=family.colour, alpha=0.14, lw=0)
    axes.step(np.append(x, ends), np.append(y, y[-1]), where="post", color=family.colour, lw=1.5, ls=family.dashes)


def figure_text(found: View) -> str:
    """What the figure shows and what its band covers."""
    of_each = "The last point of each run," if found.cost.startswith("infer") else "Points"
    text = f"{of_each} {PHASES[found.kind]}; steps: the best score of each family for at most that cost; band: "
    text += "where the highest true score among the settings that were run lies, at 95 % for each cost by itself"
    if found.noise is None:
        text += " and with evaluation noise only (no setting was repeated, so training noise is not in it)"
    else:
        text += f", training noise (standard deviation {found.noise.sd:.2f} between seeds) included"
    text += ". Settings that were not run may do better. "
    if found.seeds_together:
        text += "Seeds of one setting are one point. "
    return text + "Ringed: on the frontier of all models, as measured."


def external_figure(
    theirs: pd.DataFrame, ours: pd.DataFrame | None, *, cost: str = "train_flops_published"
) -> Picture | None:
    """BrierLM of others over a cost, beside ours (points of one kind, ``analysis.frontier.select``). The two are
    never joined: they were scored on different texts."""
    theirs = theirs[(theirs[cost] > 0) & is_known(theirs)]
    if theirs.empty:
        return None
    figure, axes = style.new_figure(style.WIDE)
    shown: dict[str, Family] = {}
    for family, part in families(ours) if ours is not None and len(ours) else []:
        shown[family.name] = family
        axes.plot(
            part[cost], part["brierlm"], ls="", marker=family.marker, ms=3.5, color=family.colour, alpha=0.35
        )
        best = part.sort_values(cost, kind="stable")
        top = np.maximum.accumulate(best["brierlm"].to_numpy(dtype=float))
        axes.step(best[cost], top, where="post", color=family.colour, lw=1.3)
    for family, part in families(theirs):
        shown.setdefault(family.name, family)
        axes.errorbar(
            part[cost], part["brierlm"], yerr=part["brierlm_se"].fillna(0.0), fmt=family.marker, ms=8, mfc="white",
            mec=family.colour, mew=1.5, color=family.colour, elinewidth=1.0,
        )  # fmt: skip
    style.log_x(axes)
    low, high = axes.get_xlim()
    axes.set_xlim(low / (1 + SAME_COST), high * (high / low) ** 0.12)
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.08)
    _name_points(axes, theirs, cost)
    axes.set_xlabel(AXES[cost])
    axes.set_ylabel(f"{BRIERLM}, each on its own text")
    handles = [
        Line2D([], [], ls="", marker=family.marker, ms=6, color=family.colour, label=family.name)
        for family in shown.values()
    ]
    hollow: dict[str, Any] = {"mfc": "white", "mec": GREY, "mew": 1.5}
    handles.append(Line2D([], [], ls="", marker="o", ms=8, label="others (hollow)", **hollow))
    axes.figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.2, handletextpad=0.4)
    text = "Hollow: results of others with one standard error where it is known. "
    if ours is not None and len(ours):
        text += "Small: ours, with the best of each family up to each cost. "
    text += "Scores on different texts are different quantities: only slopes and ratios within one source say "
    return style.render(
        figure, f"external-{cost.replace('_', '-')}", f"Results of others over {AXES[cost]}", text + "anything."
    )


def _name_points(axes: Axes, rows: pd.DataFrame, cost: str) -> None:
    """Above and below in turn, so that neighbours do not touch."""
    if len(rows) > MAX_NAMED:
        return
    for i, (_, row) in enumerate(rows.sort_values(cost, ascending=False, kind="stable").iterrows()):
        axes.annotate(
            str(row["model"]), (float(row[cost]), float(row["brierlm"])), xytext=(0, -16 if i % 2 else 8),
            fontsize=8.5, ha="center", textcoords="offset points", color=style.INK,
        )  # fmt: skip

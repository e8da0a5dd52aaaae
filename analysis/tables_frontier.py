"""Tables of frontiers and of the results of others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.families import OVERALL, families
from analysis.frontier import CLOSE, ON, STATUSES, is_known
from analysis.frontier_view import View
from analysis.scores import score_words
from analysis.words import MISSING, Cell, Table, flops, interval, missing, number, plain, plus_minus
from workbench.uncertainty import t_quantile

Array = npt.NDArray[np.float64]
MAX_CLOSE = 20
"""Points within error of the frontier that are listed; of the rest only the number is said."""
LEVELS = 4
"""Costs that the table of bands shows for each family."""
MIN_FIT = 3
"""Points at different costs that a line needs."""


def _name(found: View) -> str:
    return found.cost.replace("_", "-")


def _cost_words(found: View) -> str:
    words = {"train_flops": "training FLOPs", "infer_flops_per_token": "inference FLOPs per token"}
    return words.get(found.cost, found.cost.replace("_", " "))


def members_table(
    found: View, names: Mapping[str, str], other: Mapping[tuple[str, int], str] | None = None
) -> Table:
    """Points on a frontier, of all models or of their family, and those not told from it. ``names``: of runs;
    ``other``: status with the autoencoder charged, by run and step."""
    points = found.points
    on = points[(points["status"] == ON) | (points["family_status"] == ON)]
    close = points[(points["status"] == CLOSE) & (points["family_status"] != ON)]
    listed = pd.concat([on, close.nsmallest(MAX_CLOSE, "gap", keep="first")]).sort_index()
    rows: list[list[Cell]] = []
    for _, point in listed.iterrows():
        key = (str(point["run_id"]), int(point["step"]))
        rows.append(
            [
                flops(point[found.cost]),
                str(point["family"]),
                _run_words(found, point, names),
                score_words(point),
                *([str(point["num_seeds"])] if found.seeds_together else []),
                str(point["status"]),
                MISSING if point["status"] == ON else gap_words(point),
                str(point["family_status"]),
                *([other.get(key, MISSING)] if other else []),
            ]
        )
    left = len(close) - max(0, len(listed) - len(on))
    seeds = ["seeds"] if found.seeds_together else []
    columns = ["FLOPs", "family", "run", "BrierLM ± s.e.", *seeds, "among all models"]
    columns += ["below a better one [95 %]", "in its family"]
    columns += ["among all, autoencoder charged"] if other else []
    caption = f"Frontier in {_cost_words(found)}. {status_words(found)}"
    caption += f" {left} more points not told from it are not listed." if left else ""
    return Table(f"members-{_name(found)}", caption, columns, rows, frozenset({0, 3}))


def _run_words(found: View, point: pd.Series, names: Mapping[str, str]) -> str:
    run_id, setting = str(point["run_id"]), point.get("setting")
    if found.seeds_together and not missing(setting) and setting:
        return str(setting)
    return names.get(run_id) or run_id


def status_words(found: View) -> str:
    """What the statuses mean."""
    others = max(1, len(found.points) - 1)
    noise = "training noise between seeds included" if found.noise is not None else "evaluation noise only"
    return (
        "A point is dominated only where another one that costs no more (up to 1 %) is better beyond the 95 % "
        f"interval of their difference, corrected for the {others} other points ({noise}; ends of runs that kept "
        "their scores are also compared position by position); within it, it is not told from the frontier. Below "
        "a better one: the one that dominates it most surely, else the best that costs no more."
    )


def gap_words(point: pd.Series) -> str:
    """``0.42 [0.10, 0.74]``; without an interval where no error is known."""
    known = not (missing(point["gap_low"]) or missing(point["gap_high"]))
    bounds = f" {interval(float(point['gap_low']), float(point['gap_high']))}" if known else " (no interval)"
    return number(point["gap"]) + bounds


def counts_table(views: Sequence[View]) -> Table:
    """How many points of each family have which status, for each cost and kind of point."""
    rows: list[list[Cell]] = []
    for found in views:
        groups = [(family.name, part, "family_status") for family, part in families(found.points)]
        if len(groups) > 1:
            groups.append((OVERALL, found.points, "status"))
        for name, part, column in groups:
            counts = part[column].value_counts()
            row = [_cost_words(found), "constant rate" if found.kind == "constant" else "end of decay", name]
            row += [str(len(part)), str(part["run_id"].nunique())]
            rows.append([*row, *[str(int(counts.get(status, 0))) for status in STATUSES]])
    columns = ["cost", "kind of point", "family", "points", "runs", *STATUSES]
    caption = "Points by status, each within its own group. Points at constant rate and ends of decays are never "
    caption += "mixed; the kind that more runs have is shown in figures and in the other tables."
    return Table("frontier_counts", caption, columns, rows, frozenset(range(3, len(columns))))


def bands_table(found: View) -> Table:
    """Best score attainable at some costs of each family."""
    rows: list[list[Cell]] = []
    for band in found.bands:
        places = np.unique(np.linspace(0, len(band.costs) - 1, min(LEVELS, len(band.costs))).round().astype(int))
        for i in places:
            rows.append(
                [
                    band.family,
                    flops(band.costs[i]),
                    str(band.num_points[i]),
                    number(band.best[i]),
                    number(band.corrected[i]),
                    interval(float(band.low[i]), float(band.high[i])),
                    number(band.low_redrawn[i]),
                ]
            )
    caption = f"Best BrierLM for at most so many {_cost_words(found)}. The highest of noisy scores is too high; "
    caption += (
        "corrected: less its mean excess when errors are drawn again, which takes away a part of that only. "
    )
    caption += (
        "Interval: 95 % for the highest true score among the settings that were run, for each cost by itself"
    )
    caption += "" if found.noise is not None else ", evaluation noise only"
    caption += ". Runs drawn again: 2.5 % quantile when whole runs are drawn with replacement within a budget."
    columns = ["family", "FLOPs up to", "points", "best", "corrected", "95 % band", "runs drawn again"]
    return Table(f"bands-{_name(found)}", caption, columns, rows, frozenset(range(1, 7)))


# ---- results of others ------------------------------------------------------------------------------


def external_table(rows: pd.DataFrame) -> Table:
    """Results of others with where they are from."""
    cells: list[list[Cell]] = []
    for family, part in families(rows):
        for _, row in part.iterrows():
            cells.append(
                [
                    str(row["model"]),
                    family.name,
                    MISSING if missing(row["num_parameters"]) else f"{float(row['num_parameters']):.3g}",
                    flops(row["train_flops_published"]),
                    flops(row["train_flops"]),
                    flops(_first(row, "infer_flops_per_token_published", "infer_flops_per_token")),
                    score_words(row),
                    plus_minus(row["cross_entropy"], row["cross_entropy_se"], 3),
                    plain(row["dataset"]),
                    plain(row["source"] if not missing(row["source"]) else row["study"]),
                    plain(row["note"]),
                ]
            )
    columns = ["model", "family", "parameters", "training FLOPs, published count", "executed"]
    columns += ["inference FLOPs/token", "BrierLM", "cross-entropy (nats)", "text", "source", "note"]
    kept = [i for i in range(len(columns)) if i < 2 or any(row[i] != MISSING for row in cells)]
    return Table(
        "external",
        "Results of others, as they were given. Scores on other texts are other quantities than ours and are in "
        "no comparison and on no frontier with them.",
        [columns[i] for i in kept],
        [[row[i] for i in kept] for row in cells],
        frozenset(place for place, i in enumerate(kept) if 2 <= i <= 7),
    )


def _first(row: pd.Series, *names: str) -> object:
    return next((row[name] for name in names if not missing(row[name])), None)


def slopes_table(groups: Sequence[tuple[str, pd.DataFrame]], cost: str) -> Table:
    """BrierLM per tenfold compute, by least squares, for each (source, its points) and family."""
    rows: list[list[Cell]] = []
    for source, points in groups:
        points = points[(points[cost] > 0) & is_known(points)]
        for family, part in families(points):
            fit = slope(part[cost].to_numpy(dtype=float), part["brierlm"].to_numpy(dtype=float))
            if fit is None:
                continue
            value, low, high = fit
            span = f"{flops(part[cost].min())} to {flops(part[cost].max())}"
            rows.append([source, family.name, str(len(part)), span, number(value), interval(low, high)])
    caption = "BrierLM points per tenfold compute: a straight line over the logarithm of "
    caption += (
        f"{cost.replace('_', ' ')}, least squares, for each source by itself, 95 % interval from the scatter "
    )
    caption += f"about the line as if points were independent. Needs {MIN_FIT} points at different costs."
    columns = ["source", "family", "points", "range", "points per tenfold compute", "95 % interval"]
    return Table(f"slopes-{cost.replace('_', '-')}", caption, columns, rows, frozenset({2, 4, 5}))


def slope(cost: Array, score: Array) -> tuple[float, float | None, float | None] | None:
    """Points per tenfold ``cost`` with a t interval; None with fewer than three different costs."""
    x = np.log10(cost)
    if len(np.unique(cost)) < MIN_FIT:
        return None
    dx = x - x.mean()
    value = float((dx * score).sum() / (dx**2).sum())
    rest = score - score.mean() - value * dx
    dof = len(x) - 2
    half = t_quantile(dof) * math.sqrt(float((rest**2).sum()) / dof / float((dx**2).sum()))
    return value, value - half, value + half

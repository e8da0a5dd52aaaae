"""Sentences and tables of BrierLM over compute and of the ratios of compute. No digits for what is not known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.compute_ratio import Ratios, is_determined
from analysis.frontier import AXES
from analysis.power_law import FamilyCurve, PowerLaws
from analysis.words import MISSING, Cell, Table, flops, interval, number

NOT_IDENTIFIED = "not identified"
RATIO_LEVELS = 4
"""Scores that the table of ratios shows of each family."""


def axis_words(cost: str) -> str:
    """``training FLOPs (without autoencoder)``."""
    return AXES.get(cost, cost)


def curve_sentence(curve: FamilyCurve) -> str:
    """What a family's points say about its growth with compute."""
    fit = curve.fit
    if not curve.there:
        return f"{curve.family}: no curve, since {fit.reason}."
    low, high = curve.range
    data = f"{fit.num_points} point{'s' if fit.num_points > 1 else ''} of {fit.num_runs} run"
    data += f"{'s' if fit.num_runs > 1 else ''}, {flops(low)} to {flops(high)} FLOPs"
    if not fit.has_interval:
        return f"{curve.family} ({data}): a curve without an interval. {_capital(fit.notes[-1:])}"
    exponent = curve.exponent()
    if exponent is None:
        return (
            f"{curve.family} ({data}): the growth exponent is not identified; more runs over a wider range of "
            "compute would tell."
        )
    value, least, most = exponent
    words = f"BrierLM grows as C^{number(value, 3)} {interval(least, most, 3)}"
    if least <= 0:
        words = f"these runs do not say whether BrierLM grows with compute (exponent {interval(least, most, 3)})"
        return f"{curve.family} ({data}): {words}."
    if not curve.saturates:
        return f"{curve.family} ({data}): no saturation seen; {words}."
    level = curve.level()
    bend = "it bends, but where it levels off is not identified"
    if level is not None:
        bend = f"it levels off at BrierLM {number(level[0], 1)} {interval(level[1], level[2], 1)}"
    return f"{curve.family} ({data}): at small scores {words}; {bend}."


def _capital(notes: Sequence[str]) -> str:
    return "".join(f"{note[0].upper()}{note[1:]}." for note in notes)


def law_sentences(laws: PowerLaws) -> list[str]:
    """One of each family, then what was left out and how runs scatter."""
    said = [curve_sentence(curve) for curve in laws.curves]
    if math.isfinite(laws.scatter) and laws.curves:
        said.append(
            f"Single runs scatter about the curves by {laws.scatter:.1%} of their BrierLM beyond the errors of "
            "evaluation (pooled over families)."
        )
    return said + laws.notes


def power_law_table(laws: PowerLaws) -> Table | None:
    """Form, exponent, level, score at a common cost, scatter of each family."""
    if not laws.curves:
        return None
    at = _common_cost(laws)
    rows: list[list[Cell]] = []
    for curve in laws.curves:
        rows.append([curve.family, *_cells(curve, at)])
    columns = ["family", "points", "runs", "form", "exponent γ", "levels off at", f"BrierLM at {flops(at)}"]
    caption = (
        f"BrierLM as a function of {axis_words(laws.cost)} C, fitted to the frontier of each family, with 95 % "
        "intervals by bootstrap over runs. Power: a C^γ; saturating: b_∞ / (1 + (C_½ / C)^γ), kept only where "
        "Akaike's criterion asks for it."
    )
    name = f"power_law_{laws.cost}"
    return Table(name, caption, columns, rows, frozenset({1, 2, 4, 5, 6}))


def _common_cost(laws: PowerLaws) -> float:
    """In the middle of the range that all fitted families share, or of the whole range."""
    ranges = [curve.range for curve in laws.fitted] or [(1.0, 1.0)]
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    if low > high:
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    return float(np.sqrt(low) * np.sqrt(high))


def _cells(curve: FamilyCurve, at: float) -> list[Cell]:
    fit = curve.fit
    counts: list[Cell] = [str(fit.num_points), str(fit.num_runs)]
    if not curve.there:
        return [*counts, f"none: {fit.reason}", MISSING, MISSING, MISSING]
    exponent, level, seen = curve.exponent(), curve.level(), curve.at([at])
    growth = NOT_IDENTIFIED
    if exponent is not None:
        growth = f"{number(exponent[0], 3)} {interval(exponent[1], exponent[2], 3)}"
    top = "no saturation seen"
    if curve.saturates:
        top = NOT_IDENTIFIED if level is None else f"{number(level[0], 1)} {interval(level[1], level[2], 1)}"
    score = number(seen.value[0])
    score += f" {interval(float(seen.low[0]), float(seen.high[0]))}" if fit.has_interval else " (no interval)"
    beyond = curve.decades_beyond(at)
    if beyond > 0:
        score += f" ({number(beyond, 1)} decades beyond)"
    return [*counts, curve.law.name, growth, top, score]


def ratio_table(found: Sequence[Ratios]) -> Table | None:
    """Ratios of each family and cost at a few scores within the data of both curves."""
    rows: list[list[Cell]] = []
    for ratios in found:
        for family in ratios.families:
            inside = ratios.inside(family)
            if inside.empty:
                continue
            places = np.unique(np.linspace(0, len(inside) - 1, RATIO_LEVELS).round().astype(int))
            rows += [[family, ratios.cost, *_ratio_cells(inside.iloc[int(i)])] for i in places]
    if not rows:
        return None
    caption = (
        "Compute that CALM needs for the token baseline's BrierLM, as a multiple of the baseline's, read off the "
        "fitted curves within the data of both, with 95 % intervals by bootstrap over runs. Below 1 CALM needs "
        "less."
    )
    columns = ["family", "compute", "at BrierLM", "ratio", "95 %", "saved"]
    return Table("compute_ratio", caption, columns, rows, frozenset({2, 3, 4, 5}))


def _ratio_cells(row: pd.Series) -> list[Cell]:
    ratio, low, high = (float(row[name]) for name in ("ratio", "low", "high"))
    level = number(row["quality"])
    if math.isnan(low):
        return [level, number(ratio), "no interval", MISSING]
    if not is_determined(low, high):
        return [level, NOT_IDENTIFIED, interval(low, high), MISSING]
    saved = MISSING if high >= 1 else f"{number(100 * (1 - ratio), 0)} %"
    return [level, number(ratio), interval(low, high), saved]


def published_table(rows: pd.DataFrame) -> Table | None:
    """Of ``analysis.compute_ratio.published_ratios``."""
    if rows.empty:
        return None
    cells: list[list[Cell]] = [
        [
            str(row["model"]),
            str(row["baseline"]),
            axis_words(str(row["cost"])),
            number(row["ratio"]),
            f"{number(100 * float(row['fewer']), 0)} %",
            f"{number(row['brierlm'])} and {number(row['brierlm_baseline'])}",
        ]
        for _, row in rows.iterrows()
    ]
    caption = (
        "Published results, model against model. Their scores are close, not equal, so these are no ratios at "
        "equal BrierLM; with one model each there is no curve to read such a ratio off."
    )
    columns = ["CALM", "token model", "compute", "ratio", "saved", "BrierLM of the two"]
    return Table("published_ratio", caption, columns, cells, frozenset({3, 4, 5}))

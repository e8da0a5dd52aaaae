"""The tables of network calls and samplers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.calls import CallLine, Ranked, calls_words, mean_words
from analysis.rows import ORDERS
from analysis.samplers import SOFTMAX, Compared, Curve, Panel, level_words
from analysis.words import MISSING, Cell, Table, difference_words, flops, missing, number, plus_minus

MAX_LINES = 12
"""Lines whose points are listed one by one; all are in data/calls.csv."""


def calls_table(lines: Sequence[CallLine], found: Sequence[Ranked], baseline_flops: float | None) -> Table:
    """Each line's best point and its cheapest within one error of that."""
    gaps = {id(one.line): one.difference for one in found}
    lead = {id(one.line) for one in found}
    rows: list[list[Cell]] = []
    for line in lines:
        best, enough, gap = line.best, line.enough, gaps.get(id(line))
        price = float(enough["infer_flops_per_token"])
        share = number(price / baseline_flops) if baseline_flops and price > 0 else MISSING
        rows.append(
            [
                line.name,
                str(int(line.points["num_seeds"].max())),
                calls_words(best["network_calls"]),
                mean_words(best),
                "the best" if id(line) in lead and gap is None else difference_words(gap) if gap else MISSING,
                gap.verdict if gap else MISSING,
                calls_words(enough["network_calls"]),
                mean_words(enough),
                flops(price) if price > 0 else MISSING,
                share,
            ]
        )
    columns = ["setting", "seeds", "best with", "BrierLM there", "to the best setting [95 %]", "verdict"]
    columns += ["within one error with", "BrierLM there", "FLOPs/token there", "of the best baseline's"]
    caption = "Where each setting scores highest, and the fewest calls that come within one error of that. "
    caption += "± as in the figures. "
    comparisons = next((one.difference.comparisons for one in found if one.difference), None)
    if comparisons is not None:
        caption += "Differences are between each setting's best points, corrected for "
        caption += f"{comparisons} comparison{'' if comparisons == 1 else 's'}, the choice of the points included."
    kept = list(range(len(columns)))
    if baseline_flops is None:
        kept.remove(9)
    if len(found) < 2:
        kept = [i for i in kept if i not in (4, 5)]
    return Table(
        "network_calls",
        caption,
        [columns[i] for i in kept],
        [[row[i] for i in kept] for row in rows],
        frozenset(place for place, i in enumerate(kept) if i not in (0, 5)),
    )


def call_points_table(lines: Sequence[CallLine]) -> Table:
    """Every point of the lines that are shown, with its orders."""
    rows: list[list[Cell]] = []
    for line in lines[:MAX_LINES]:
        for i, (_, point) in enumerate(line.points.iterrows()):
            price = float(point["infer_flops_per_token"])
            rows.append(
                [
                    line.name if i == 0 else "",
                    str(int(point["network_calls"])),
                    flops(price) if price > 0 else MISSING,
                    mean_words(point),
                    *[plus_minus(point[f"brier_{n}"], point[f"brier_{n}_se"], 3) for n in ORDERS],
                    str(int(point["num_seeds"])),
                    number(point["seconds"], 1),
                ]
            )
    columns = ["setting", "calls", "FLOPs/token", "BrierLM", *[f"Brier-{n} (%)" for n in ORDERS], "seeds"]
    caption = "Scores by network calls, means over seeds with errors as in the figures."
    if len(lines) > MAX_LINES:
        caption += f" The best {MAX_LINES} of {len(lines)} lines; all are in data/calls.csv."
    return Table(
        "call_points", caption, [*columns, "seconds to evaluate"], rows, frozenset(range(1, len(columns) + 1))
    )


def equal_collision_table(compared: Sequence[Compared]) -> Table:
    """Each sampler's accuracy at its panel's common collision rate."""
    rows: list[list[Cell]] = []
    for one in compared:
        if one.level is None:
            continue
        for i, row in enumerate(one.rows):
            reading = row.reading
            rows.append(
                [
                    one.panel.name if i == 0 else "",
                    number(one.level, 1) if i == 0 else "",
                    row.curve.name,
                    MISSING if reading is None else plus_minus(reading.accuracy, reading.error, 1),
                    *[
                        cell
                        for gap in (row.to_exact, row.to_softmax)
                        for cell in ([difference_words(gap), gap.verdict] if gap else [MISSING, MISSING])
                    ],
                    MISSING if reading is None else number(reading.calls, 1),
                ]
            )
    columns = [
        "setting",
        "collision (%)",
        "sampler",
        "accuracy (%)",
        "to exact [95 %]",
        "verdict",
        "to softmax [95 %]",
        "verdict",
    ]
    caption = (
        "At equal collision: accuracy of each sampler where most of them can be read, linearly between measured "
    )
    caption += "points; a dash where a curve does not reach."
    num = next((one.comparisons for one in compared), 1)
    caption += f" Differences in percentage points, corrected for {num} comparison{'' if num == 1 else 's'}."
    return Table("equal_collision", caption, [*columns, "draws per chunk"], rows, frozenset({1, 3, 4, 6, 8}))


def sampler_cost_table(panels: Sequence[Panel]) -> Table:
    """What a chunk and a token cost by each sampler, from its cheapest to its dearest setting."""
    rows: list[list[Cell]] = []
    seen: set[tuple[int, str, int]] = set()
    for panel in panels:
        first = True
        for curve in panel.curves:
            key = (id(curve.setting), curve.name, panel.num_tokens)
            if key in seen:
                continue
            seen.add(key)
            own = curve.sampler != SOFTMAX or panel.setting is curve.setting
            rows.append(
                [
                    panel.name if first and own else "",
                    curve.name,
                    _span(curve, "calls_per_chunk", 1.0, 1),
                    _span(curve, "seconds_per_token", 1000.0, 3),
                    _fallback(curve),
                ]
            )
            first = False
    columns = ["setting", "sampler", "draws per chunk", "ms per token", "undecided within the budget"]
    caption = (
        "Cost of each sampler, from its cheapest to its dearest temperature or scale. Undecided: share of chunks "
    )
    caption += "for which the exact sampler spent its budget, and which batch drew."
    return Table("sampler_cost", caption, columns, rows, frozenset({2, 3, 4}))


def _span(curve: Curve, column: str, factor: float, digits: int) -> str:
    points = curve.measured
    values = points[column].astype(float) * factor
    low, high = int(values.argmin()), int(values.argmax())
    if missing(values.iloc[low]) or number(values.iloc[low], digits) == number(values.iloc[high], digits):
        return number(values.iloc[low], digits)
    at = [level_words(curve, float(points["level"].iloc[i])) for i in (low, high)]
    return " to ".join(
        f"{number(values.iloc[i], digits)} ({words})" for i, words in zip((low, high), at, strict=True)
    )


def _fallback(curve: Curve) -> str:
    if curve.sampler != "exact":
        return MISSING
    shares: pd.Series = 100 * curve.points["fallback_share"].astype(float)
    worst = int(shares.argmax())
    at = level_words(curve, float(curve.points["level"].iloc[worst]))
    return "0 %" if shares.iloc[worst] == 0 else f"up to {number(shares.iloc[worst], 1)} % ({at})"

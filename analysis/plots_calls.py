"""The figures about network calls: BrierLM against what a sample and a token cost. None where there is nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from analysis import style
from analysis.calls import CallLine
from analysis.comparison import Comparison, Setting
from analysis.plots import BRIERLM, from_zero
from analysis.plots_scores import draw_scores
from analysis.scores import bound_text, bounds
from analysis.stats import mean_over_seeds
from analysis.style import INK, LIGHT, Picture

MAX_LINES = 9
_DASHES: list[Any] = ["-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5))]
_HEIGHT = 4.6
"""Inches: the legend takes more room than in other figures."""


def shown_lines(lines: Sequence[CallLine]) -> list[CallLine]:
    """The best line of every setting first, as many as can be told apart; in the order of the heads."""
    first: dict[int, CallLine] = {}
    for line in lines:
        first.setdefault(id(line.setting), line)
    chosen = [*first.values(), *[line for line in lines if line not in first.values()]][:MAX_LINES]
    return sorted(chosen, key=lambda line: (style.head_place(line.head), lines.index(line)))


def looks(lines: Sequence[CallLine]) -> list[tuple[str, str, Any]]:
    """(colour, marker, dashes) of each line: a colour and markers for each head, shades and dashes within one."""
    if len({line.head for line in lines}) == 1 and len(lines) > 1:
        return [
            (style.ordinal(i, len(lines)), style.marker(i), _DASHES[i % len(_DASHES)]) for i in range(len(lines))
        ]
    found, seen = [], dict[str, int]()
    for line in lines:
        i = seen[line.head] = seen.get(line.head, -1) + 1
        found.append((style.head_colour(line.head, i), style.head_marker(line.head, i), _DASHES[i % len(_DASHES)]))
    return found


def calls_figure(lines: Sequence[CallLine]) -> Picture | None:
    """BrierLM against network calls for a sample."""
    if not lines:
        return None
    shown = shown_lines(lines)
    figure, axes = style.new_figure((style.WIDE[0], _HEIGHT))
    places = sorted({int(num) for line in shown for num in line.points["network_calls"]})
    for line, look in zip(shown, looks(shown), strict=True):
        _draw(axes, line, "network_calls", look)
        if len(line.points) == 1 and len(places) > 1 and not bounds(line.points).any():
            axes.axhline(float(line.points["brierlm"].iloc[0]), color=look[0], lw=0.8, ls=(0, (1, 2)), zorder=1)
    axes.set_xscale("log")
    axes.set_xlim(places[0] / 1.35, places[-1] * 1.35)
    axes.xaxis.set_major_locator(FixedLocator(_apart(places)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("network calls for a sample")
    _finish(axes, shown)
    text = f"{_which(shown, lines)} {_error_words(shown)}"
    if len(places) > 1 and any(len(line.points) == 1 for line in shown):
        text += " A head with one number of calls is drawn on as a dotted line."
    if any(line.head == "flow" for line in shown):
        text += " With fewer calls than one step of its solver takes, a flow head makes Euler steps."
    return style.render(
        figure, "network-calls", "BrierLM against network calls", text + bound_text(_all_points(shown))
    )


def call_flops_figure(lines: Sequence[CallLine], comparison: Comparison) -> Picture | None:
    """BrierLM against executed FLOPs for a token, the token baselines beside them."""
    priced = [line for line in shown_lines(lines) if (line.points["infer_flops_per_token"] > 0).any()]
    if not priced:
        return None
    figure, axes = style.new_figure((style.WIDE[0], _HEIGHT))
    for line, look in zip(priced, looks(priced), strict=True):
        _draw(axes, line, "infer_flops_per_token", look)
    baselines = baseline_points(comparison)
    if len(baselines):
        draw_scores(
            axes, baselines["infer_flops_per_token"], baselines, marker="P", size=7.5, colour=INK, line_width=0.9
        )
        best = baselines.iloc[int(baselines["brierlm"].to_numpy(dtype=float).argmax())]
        low, high = (best["brierlm"] + sign * best["brierlm_se"] for sign in (-1, 1))
        if not bounds(baselines).any():
            axes.axhspan(low, high, color=LIGHT, alpha=0.45, lw=0, zorder=0)
    style.log_x(axes)
    axes.xaxis.set_major_locator(LogLocator(subs=_steps(*axes.get_xlim()), numticks=8))
    axes.set_xlabel("inference FLOPs per token")
    _finish(axes, priced, baselines=bool(len(baselines)))
    text = f"{_which(priced, lines)} FLOPs as executed, backbone, head and decoder; more calls to the right. "
    text += _error_words(priced)
    if len(baselines):
        text += " Black: token baselines, one point a setting; grey: the best of them with its error."
    everything = pd.concat([_all_points(priced), baselines]) if len(baselines) else _all_points(priced)
    title = "BrierLM against inference compute by network calls"
    return style.render(figure, "network-calls-flops", title, text + bound_text(everything))


def _steps(low: float, high: float) -> tuple[float, ...]:
    """Of a decade, so that a few ticks are labelled."""
    ratio = high / low
    steps: dict[int, tuple[float, ...]] = {300: (1.0,), 8: (1.0, 3.0), 4: (1.0, 2.0, 3.0, 5.0)}
    return next((found for least, found in steps.items() if ratio > least), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))


def baseline_points(comparison: Comparison) -> pd.DataFrame:
    """One row a setting of the token baselines: means over seeds, as of call lines."""
    rows = [_baseline(setting) for setting in comparison.settings if setting.kind == "baseline"]
    return pd.DataFrame([row for row in rows if row["infer_flops_per_token"] > 0])


def _baseline(setting: Setting) -> dict[str, Any]:
    runs = setting.runs
    value, error = mean_over_seeds(runs["brierlm"].tolist(), runs["brierlm_se"].tolist())
    return {
        "infer_flops_per_token": float(runs["infer_flops_per_token"].mean()),
        "brierlm": value,
        "brierlm_se": error,
        "brierlm_high": float(runs["brierlm_high"].max()),
        "weak_orders": str(runs["weak_orders"].iloc[0]) if bounds(runs).all() else "",
    }


def _all_points(lines: Sequence[CallLine]) -> pd.DataFrame:
    return pd.concat([line.points for line in lines], ignore_index=True)


def _draw(axes: Axes, line: CallLine, column: str, look: tuple[str, str, Any]) -> None:
    colour, marker, dashes = look
    points = line.points[line.points[column] > 0]
    axes.plot(points[column], points["brierlm"], color=colour, ls=dashes, lw=1.3, alpha=0.85)
    draw_scores(axes, points[column], points, marker=marker, size=6.5, colour=colour, line_width=1.0)


def _apart(places: Sequence[int]) -> list[int]:
    """Those that are far enough from the one before to be labelled."""
    found = [places[0]]
    for place in places[1:]:
        if place / found[-1] > 1.25:
            found.append(place)
    return found


def _finish(axes: Axes, lines: Sequence[CallLine], *, baselines: bool = False) -> None:
    from_zero(axes)
    axes.set_ylabel(BRIERLM)
    handles = [
        Line2D([], [], color=colour, marker=marker, ms=6, ls=dashes, lw=1.3, label=line.name)
        for line, (colour, marker, dashes) in zip(lines, looks(lines), strict=True)
    ]
    if baselines:
        handles.append(Line2D([], [], color=INK, marker="P", ms=7, ls="", label="token baseline"))
    longest = max(len(line.name) for line in lines)
    columns = 3 if longest <= 12 else 2 if longest <= 26 else 1
    axes.figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=columns,
        handlelength=2.6,
        columnspacing=1.2,
        fontsize=8.5,
    )


def _which(shown: Sequence[CallLine], lines: Sequence[CallLine]) -> str:
    words = "One line a setting" + (" and solver" if any(line.solver in line.name for line in shown) else "")
    return f"{words}, the best {len(shown)} of {len(lines)}." if len(shown) < len(lines) else f"{words}."


def _error_words(lines: Sequence[CallLine]) -> str:
    seeds = {int(num) for line in lines for num in line.points["num_seeds"]}
    several = (
        "means over seeds with their t interval at 68 %, which holds the noise of training and of evaluation "
    )
    several += "but for what the shared positions do to all alike"
    if seeds == {1}:
        return "Bars: one standard error of the evaluation; of a single seed, so without the noise of training."
    if 1 in seeds:
        return f"Points: {several}; of a single seed, one standard error of its evaluation."
    return f"Points: {several}."

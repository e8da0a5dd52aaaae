"""The figures about samplers: accuracy against collision, and what a token costs. None where there is nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from analysis import style
from analysis.plots_correlation import panels as panel_grid
from analysis.samplers import FALLBACK, SOFTMAX, Curve, Panel
from analysis.style import GREY, INK, Picture
from analysis.words import plain

MAX_PANELS = 4
_BATCH_COLOURS = ["#5a9fd4", "#2171b5", "#08306b"]
_BATCH_MARKERS = ["v", "s", "D"]
_LABEL_SIZE = 7.0
_OFFSETS = [(0, 7), (0, -7), (9, 4), (-9, 4), (9, -5), (-9, -5), (12, 0), (-12, 0), (0, 12), (0, -12)]
"""Points from a marker to the middle of its label, by preference."""


def _look(curve: Curve, curves: Sequence[Curve]) -> tuple[str, str, Any]:
    """(colour, marker, dashes)."""
    if curve.sampler == "batch":
        sizes = sorted({c.batch_size or 0 for c in curves if c.sampler == "batch"})
        place = round(sizes.index(curve.batch_size or 0) * 2 / max(1, len(sizes) - 1)) if len(sizes) > 1 else 1
        return _BATCH_COLOURS[place], _BATCH_MARKERS[place], (0, (4, 1.5))
    looks: dict[str, tuple[str, str, Any]] = {
        "exact": ("#8a3f8f", "o", "-"),
        "noise": ("#d55e00", "^", (0, (1.5, 1.5))),
        SOFTMAX: (INK, "P", "-"),
    }
    return looks[curve.sampler]


def tradeoff_figure(panels: Sequence[Panel]) -> Picture | None:
    """Accuracy against collision: one panel a CALM setting and number of tokens, one line a sampler."""
    shown = shown_panels(panels)
    if not shown:
        return None
    figure, axes = panel_grid(len(shown), 3.6)
    every = [curve for panel in shown for curve in panel.curves]
    for i, (one, panel) in enumerate(zip(axes, shown, strict=True)):
        for curve in panel.curves:
            _draw(one, curve, _look(curve, every))
        one.set_title(panel.name if len(shown) > 1 else "", loc="left", fontsize=9.5)
        one.set_xlabel("two draws agree: collision (%)")
        if i % 2 == 0:
            one.set_ylabel("a draw is right: accuracy (%)")
    _equal_limits(axes, shown)
    hollow = any((curve.points["fallback_share"] > FALLBACK).any() for curve in every)
    figure.legend(
        handles=_handles(every, hollow=hollow),
        loc="outside upper center",
        ncols=2 if len(shown) == 1 else 3,
        handlelength=2.4,
        columnspacing=1.2,
        fontsize=8.5,
    )
    figure.draw_without_rendering()  # labels are placed by where the layout puts the axes
    for one, panel in zip(axes, shown, strict=True):
        _label_points(figure, one, panel.curves)
    tokens = sorted({panel.num_tokens for panel in shown})
    what = f"{tokens[0]} tokens drawn are" if len(tokens) == 1 and tokens[0] > 1 else "chunk drawn is"
    text = (
        f"{_which(shown, panels)}Probability that the next {what} right, against the probability that two draws "
        "agree: the higher at the same collision rate, the better. Labels: temperature τ; of the dotted line the "
        "scale of the head's noise. " + _error_words(every)
    )
    if hollow:
        text += (
            f" Hollow: more than {100 * FALLBACK:.0f} % of the chunks were not decided within the exact sampler's "
            "budget of draws and are drawn by batch."
        )
    return style.render(figure, "samplers", "Accuracy against collision rate", text)


def _equal_limits(axes: Sequence[Axes], panels: Sequence[Panel]) -> None:
    """Panels of one number of tokens are compared by eye. From below 0, so that points at 0 are seen whole."""
    for num_tokens in {panel.num_tokens for panel in panels}:
        same = [one for one, panel in zip(axes, panels, strict=True) if panel.num_tokens == num_tokens]
        top, right = max(one.get_ylim()[1] for one in same), max(one.get_xlim()[1] for one in same)
        for one in same:
            one.set_ylim(-0.04 * top, top * 1.06)
            one.set_xlim(-0.04 * right, right * 1.04)


def shown_panels(panels: Sequence[Panel]) -> list[Panel]:
    """As many as are shown, in the order of their tokens."""
    return sorted(panels[:MAX_PANELS], key=lambda panel: panel.num_tokens)


def _which(shown: Sequence[Panel], panels: Sequence[Panel]) -> str:
    if len(panels) > len(shown):
        return f"The best {len(shown)} of {len(panels)} settings, each beside the best token baseline. "
    return "One panel a setting, each beside the best token baseline. " if len(shown) > 1 else ""


def _error_words(curves: Sequence[Curve]) -> str:
    seeds = {int(num) for curve in curves for num in curve.points["num_seeds"]}
    if seeds == {1}:
        return "Bars in both directions: one standard error of the evaluation (single seeds)."
    return (
        "Bars in both directions: t interval of the mean over seeds at 68 %, of a single seed one standard error "
        "of the evaluation."
    )


def _draw(axes: Axes, curve: Curve, look: tuple[str, str, Any]) -> None:
    colour, marker, dashes = look
    points = curve.points
    axes.plot(points["collision"], points["accuracy"], color=colour, ls=dashes, lw=1.2, alpha=0.85, zorder=2)
    for hollow in (False, True):
        part = points[(points["fallback_share"] > FALLBACK) == hollow]
        if part.empty:
            continue
        axes.errorbar(
            part["collision"],
            part["accuracy"],
            xerr=part["collision_se"],
            yerr=part["accuracy_se"],
            fmt=marker,
            ms=6 if marker != "P" else 7,
            color=colour,
            mfc="white" if hollow else colour,
            mec=colour if hollow else "white",
            mew=1.1 if hollow else 0.5,
            elinewidth=0.8,
            zorder=3,
        )


def _handles(curves: Sequence[Curve], *, hollow: bool) -> list[Line2D]:
    """Each sampler once."""
    found: dict[str, Line2D] = {}
    for curve in curves:
        colour, marker, dashes = _look(curve, curves)
        found.setdefault(
            curve.name, Line2D([], [], color=colour, marker=marker, ms=6, ls=dashes, lw=1.2, label=curve.name)
        )
    if hollow:
        found["hollow"] = Line2D(
            [], [], color=GREY, marker="o", mfc="white", ms=6, ls="", label=f"> {100 * FALLBACK:.0f} % undecided"
        )
    return list(found.values())


def _label_points(figure: Figure, axes: Axes, curves: Sequence[Curve]) -> None:
    """Levels beside the points, where they hide neither a point nor another label; those of ``exact``, the noise
    and the baseline before those of ``batch``, where curves lie close."""
    scale = figure.dpi / 72
    taken: list[Bbox] = []
    lines: list[Bbox] = []
    wanted: list[tuple[bool, int, Curve, float, float, str]] = []
    for curve in curves:
        places = axes.transData.transform(curve.points[["collision", "accuracy"]].to_numpy(dtype=float))
        lines += _along(places, 4 * scale)
        for (x, y), level in zip(places, curve.points["level"], strict=True):
            taken.append(_box(x, y, 5 * scale, 5 * scale))
            wanted.append((curve.sampler == "batch", len(wanted), curve, float(x), float(y), plain(level)))
    frame = axes.get_window_extent()
    done = set()
    for _, _, curve, x, y, text in sorted(wanted, key=lambda item: item[:2]):
        if (round(x), round(y), text) in done:  # the same point begins several curves
            continue
        done.add((round(x), round(y), text))
        width, height = 0.62 * _LABEL_SIZE * len(text) * scale, 0.95 * _LABEL_SIZE * scale
        boxes = [(dx, dy, _box(x + dx * scale, y + dy * scale, width, height)) for dx, dy in _OFFSETS]
        free = [
            (dx, dy, box)
            for dx, dy, box in boxes
            if frame.x0 <= box.x0 and box.x1 <= frame.x1 + 4 * scale and frame.y0 <= box.y0
            if not any(box.overlaps(other) for other in taken)
        ]
        clear = [place for place in free if not any(place[2].overlaps(other) for other in lines)]
        for dx, dy, box in (clear or free)[:1]:
            taken.append(box)
            colour = _look(curve, curves)[0]
            at = axes.transData.inverted().transform((x, y))
            axes.annotate(
                text,
                xy=(float(at[0]), float(at[1])),
                xytext=(dx, dy),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=_LABEL_SIZE,
                color=colour,
                zorder=4,
            ).set_in_layout(False)


def _along(places: np.ndarray[Any, np.dtype[np.float64]], step: float) -> list[Bbox]:
    """Small boxes on the lines between points."""
    found = []
    for (x0, y0), (x1, y1) in itertools.pairwise(places):
        num = max(2, int(math.hypot(x1 - x0, y1 - y0) / step))
        found += [_box(x0 + (x1 - x0) * i / num, y0 + (y1 - y0) * i / num, 2, 2) for i in range(1, num)]
    return found


def _box(x: float, y: float, width: float, height: float) -> Bbox:
    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)


def sampler_time_figure(panels: Sequence[Panel]) -> Picture | None:
    """Seconds a token of each sampler, one dot a temperature or scale."""
    rows = [
        (panel, curve)
        for panel in shown_panels(panels)
        for curve in panel.curves
        if (curve.measured["seconds_per_token"] > 0).any()
    ]
    rows = list(
        {(id(curve.setting), curve.name, panel.num_tokens): (panel, curve) for panel, curve in rows}.values()
    )
    if not rows:
        return None
    every = [curve for _, curve in rows]
    several = len({panel.name for panel, _ in rows}) > 1
    figure, axes = style.new_figure((style.WIDE[0] + 0.6, 1.0 + 0.21 * len(rows)))
    names = []
    for place, (panel, curve) in enumerate(rows[::-1]):
        colour, marker, _ = _look(curve, every)
        points = curve.measured[curve.measured["seconds_per_token"] > 0]
        times = 1000 * points["seconds_per_token"].to_numpy(dtype=float)
        axes.plot([times.min(), times.max()], [place, place], color=colour, lw=1.0, alpha=0.6)
        hollow = (points["fallback_share"] > FALLBACK).to_numpy()
        for mask, face in ((~hollow, colour), (hollow, "white")):
            axes.plot(
                times[mask], np.full(int(mask.sum()), place), ls="", marker=marker, ms=5, mfc=face, mec=colour
            )
        last = points.iloc[int(times.argmax())]
        axes.annotate(
            f"{curve.symbol} {plain(last['level'])}" if times.max() > 1.3 * times.min() else "",
            (times.max(), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=_LABEL_SIZE,
            color=colour,
        )
        own = several and curve.sampler != SOFTMAX
        names.append(f"{panel.name}: {curve.name}" if own else curve.name)
    axes.set_yticks(range(len(rows)), names, fontsize=7.5)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    style.log_x(axes)
    axes.margins(x=0.08)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("time per token (ms)")
    return style.render(
        figure,
        "sampler-time",
        "Time per token by sampler",
        "One dot a temperature (or noise scale), the dearest named. From given hidden states: the Transformer's "
        "own time is the same for all samplers of a model and is not in it. Measured beside whatever else the "
        "machine did.",
    )

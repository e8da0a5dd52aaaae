"""The figures about BrierLM and cross-entropy. Each returns None where it would be empty."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.clustered import Coefficient, fit
from analysis.correlation import PUBLISHED, Correlation
from analysis.plots import BRIERLM
from analysis.style import INK, LIGHT, Picture
from analysis.words import interval, number

_MARKERS = ["o", "s", "^", "D", "v", "P", "<", ">"]
_SERIES = ["#31688e", "#d95f02", "#20a386", "#440154"]
_TICKS = (0.9, 0.99, 0.999, 0.0, 0.5, 0.8, 0.95, 0.98, 0.995, 0.998)
"""Correlations to label, by preference."""
_MOST = 0.9995
"""Correlations are drawn on Fisher's scale up to here."""


def panels(num: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of ``num`` panels, two a row; one panel has the size of a figure of its own row."""
    if num == 1:
        figure, axes = style.new_figure(style.WIDE)
        return figure, [axes]
    rows = math.ceil(num / 2)
    figure, axes = style.new_figure((6.6, height * rows))
    axes.remove()
    grid = figure.subplots(rows, 2, squeeze=False)
    for spare in grid.flat[num:]:
        spare.remove()
    return figure, list(grid.flat[:num])


def sizes_of(results: list[Correlation]) -> list[str]:
    """``d64-l2`` before ``d128-l2`` before ``d128-l4``."""
    names = {str(size) for result in results for size in result.points["size"]}
    return sorted(names, key=lambda name: ([int(part) for part in re.findall(r"\d+", name)], name))


def correlation_figure(results: list[Correlation]) -> Picture | None:
    """BrierLM against cross-entropy: one panel a text, one line a run, colour and marker the size."""
    shown = [result for result in results if result.num_points >= 2]
    if not shown:
        return None
    sizes = sizes_of(shown)
    figure, axes = panels(len(shown), 3.3)
    for i, (one, result) in enumerate(zip(axes, shown, strict=True)):
        _panel(one, result, sizes)
        if len(shown) > 1:
            one.set_title(result.text, loc="left", fontsize=9.5)
        if i + 2 >= len(shown):
            one.set_xlabel("cross-entropy (nats per token)")
        if i % 2 == 0:
            one.set_ylabel(BRIERLM)
    handles = [
        Line2D([], [], ls="", marker=_marker(i), ms=6, color=style.ordinal(i, len(sizes)), label=size)
        for i, size in enumerate(sizes)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, columnspacing=1.2, handletextpad=0.1)
    title = "BrierLM against cross-entropy (token baselines)"
    text = (
        f"{'One panel a text. ' if len(shown) > 1 else ''}One point a checkpoint with one standard error, joined "
        "along its run; colour and marker: width d and layers l. Red: least squares. Intervals at 95 % over runs; "
        "published values: over other models and another text."
    )
    return style.render(figure, "correlation", title, text)


def _marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def _panel(axes: Axes, result: Correlation, sizes: list[str]) -> None:
    points = result.points
    axes.errorbar(
        points["cross_entropy"],
        points["brierlm"],
        yerr=points["brierlm_se"],
        fmt="none",
        ecolor=LIGHT,
        elinewidth=1,
        zorder=1,
    )
    for _, run in points.groupby("run_id", sort=False):
        i = sizes.index(str(run["size"].iloc[0]))
        axes.plot(
            run["cross_entropy"],
            run["brierlm"],
            color=style.ordinal(i, len(sizes)),
            lw=0.7,
            marker=_marker(i),
            ms=5,
            mec="white",
            mew=0.4,
            zorder=3,
        )
    shown = [float(v) for v in points["brierlm"]]
    if result.fit is not None:
        a, b = result.fit.intercept.value, result.fit.slope.value
        x = np.asarray([points["cross_entropy"].min(), points["cross_entropy"].max()], dtype=float)
        axes.plot(x, a + b * x, color=style.ACCENT, lw=1.2, zorder=2)
        shown += [float(v) for v in a + b * x]
    low, high = min(shown), max(shown)
    # the words stand in the upper right corner, which a falling line leaves empty; the room above is for them
    axes.set_ylim(low - 0.08 * (high - low) - 1e-9, high + 0.40 * (high - low) + 1e-9)
    if result.fit is None:
        return
    a, b = result.fit.intercept.value, result.fit.slope.value
    lines = [
        _coefficient_line("Pearson", result.fit.pearson),
        _coefficient_line("Spearman", result.fit.spearman),
    ]
    axes.text(0.99, 0.99, "\n".join(lines), transform=axes.transAxes, ha="right", va="top", fontsize=8, color=INK)
    sign = "−" if b < 0 else "+"
    axes.text(
        0.99,
        0.99 - 0.30,
        f"{number(a, 1)} {sign} {number(abs(b), 2)} · nats",
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=8,
        color=style.ACCENT,
    )


def _coefficient_line(name: str, value: Coefficient) -> str:
    bounds = f" {interval(value.low, value.high, 3)}" if value.low is not None else ""
    return f"{name} {number(value.value, 3)}{bounds}\npublished {number(PUBLISHED[name], 3)}"


def coefficients_figure(results: list[Correlation]) -> Picture | None:
    """Pearson and Spearman of every text with their intervals, the published values as lines."""
    shown = [(result.text, result.fit) for result in results if result.fit is not None]
    if not shown:
        return None
    figure, axes = style.new_figure((style.SMALL[0], 1.5 + 0.55 * len(shown)))
    looks = {"Pearson": (INK, "o", 0.14), "Spearman": (_SERIES[0], "s", -0.14)}
    reach = [_fisher(PUBLISHED["Pearson"])]
    handles = []
    for name, (colour, marker, shift) in looks.items():
        axes.axvline(_fisher(PUBLISHED[name]), color=colour, lw=1.1, ls=(0, (4, 2)), zorder=1)
        for i, (_, found) in enumerate(shown[::-1]):
            value = found.pearson if name == "Pearson" else found.spearman
            axes.plot([_fisher(value.value)], [i + shift], ls="", marker=marker, ms=5.5, color=colour, zorder=3)
            ends = [_fisher(v) for v in (value.low, value.high) if v is not None]
            axes.plot(ends, [i + shift] * len(ends), color=colour, lw=1.3, zorder=2)
            reach += [_fisher(value.value), *ends]
        handles += [
            Line2D([], [], marker=marker, ms=5.5, color=colour, lw=1.3, label=name),
            Line2D([], [], color=colour, lw=1.1, ls=(0, (4, 2)), label=f"published {number(PUBLISHED[name], 3)}"),
        ]
    low, high = min(reach), max(reach)
    margin = 0.06 * (high - low) + 0.1
    axes.set_xlim(low - margin, high + margin)
    _fisher_ticks(axes)
    axes.set_yticks(range(len(shown)), [text.replace(", ", ",\n", 1) for text, _ in shown[::-1]])
    axes.set_ylim(-0.5, len(shown) - 0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("correlation (Fisher's scale)")
    figure.legend(
        handles=handles, loc="outside upper center", ncols=2, handlelength=1.8, columnspacing=1.0, fontsize=8.5
    )
    return style.render(
        figure,
        "correlation-coefficients",
        "Our correlations beside the published ones",
        "Points: this study, one text a row, with 95 % intervals over runs where there are three or more. Dashed "
        "lines: published, over models and checkpoints on another text; no interval was published.",
    )


def _fisher(value: float) -> float:
    return math.atanh(max(-_MOST, min(_MOST, value)))


def _fisher_ticks(axes: Axes) -> None:
    """Labels at round correlations, as many as have room."""
    low, high = axes.get_xlim()
    places: list[float] = []
    for value in dict.fromkeys(sign * tick + 0.0 for tick in _TICKS for sign in (-1.0, 1.0)):
        at = math.atanh(value)
        if low <= at <= high and all(abs(at - math.atanh(other)) > (high - low) * 0.18 for other in places):
            places.append(value)
    axes.set_xticks([math.atanh(v) for v in sorted(places)], [_plain(v) for v in sorted(places)])


def _plain(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def bits_figure(results: list[Correlation]) -> Picture | None:
    """Texts of one corpus on the axis that their tokenizers share, bits per byte: one series a tokenizer."""
    groups: dict[str, list[Correlation]] = {}
    for result in results:
        if result.points["bits_per_byte"].notna().sum() >= 2:
            groups.setdefault(result.corpus, []).append(result)
    groups = {corpus: group for corpus, group in groups.items() if len({r.tokenizer for r in group}) > 1}
    if not groups:
        return None
    names = list(dict.fromkeys(_series_name(result) for group in groups.values() for result in group))
    figure, axes = panels(len(groups), 3.2)
    for i, (one, (corpus, group)) in enumerate(zip(axes, groups.items(), strict=True)):
        for result in group:
            _series(one, result.points.dropna(subset=["bits_per_byte"]), names.index(_series_name(result)))
        one.set_title(corpus.rsplit("/", 1)[-1], loc="left", fontsize=9.5)
        one.set_xlabel("cross-entropy (bits per byte)")
        if i % 2 == 0:
            one.set_ylabel(BRIERLM)
    handles = [
        Line2D([], [], ls="", marker=_marker(i), ms=6, color=_SERIES[i % len(_SERIES)], label=f"{name} tokens")
        for i, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(names), handletextpad=0.1)
    return style.render(
        figure,
        "correlation-bits",
        "The same in bits per byte",
        "Bits per byte are comparable between tokenizers, BrierLM is not: it scores n-grams of the tokenizer's "
        "own tokens, and four BPE tokens hold more text than four bytes. Each tokenizer is therefore a series "
        "with a line of its own; nothing is fitted or correlated across them.",
    )


def _series_name(result: Correlation) -> str:
    """The text's name without its corpus."""
    return result.text.split(", ", 1)[-1]


def _series(axes: Axes, points: pd.DataFrame, index: int) -> None:
    x = points["bits_per_byte"].to_numpy(dtype=float)
    y = points["brierlm"].to_numpy(dtype=float)
    colour = _SERIES[index % len(_SERIES)]
    axes.errorbar(x, y, yerr=points["brierlm_se"], fmt="none", ecolor=LIGHT, elinewidth=1, zorder=1)
    axes.plot(x, y, ls="", marker=_marker(index), ms=5, color=colour, mec="white", mew=0.4, zorder=3)
    line = fit(x, y, points["run_id"].astype(str).tolist())
    if line is not None:
        ends = np.asarray([x.min(), x.max()])
        axes.plot(ends, line.intercept.value + line.slope.value * ends, color=colour, lw=1.1, zorder=2)

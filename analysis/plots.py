"""The figures about compute, orders and importance. Each returns None where it would be empty."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import style
from analysis.comparison import Comparison
from analysis.dimension import Dimension, Key
from analysis.frontier import frontiers
from analysis.plots_many import MANY_POINTS, bands_text, draw_bands
from analysis.plots_scores import draw_scores
from analysis.rows import FLOORS, ORDERS
from analysis.scores import bound_text
from analysis.style import GREY, Label, Picture

BRIERLM = "BrierLM (0 to 100)"
_RING = {"all": style.ACCENT, "CALM": "#e08214"}


def main_figure(comparison: Comparison, floors: pd.DataFrame) -> Picture | None:
    """BrierLM against training FLOPs: all checkpoints, errors, frontiers, floors."""
    points = comparison.evaluations
    if points.empty:
        return None
    figure, axes = style.new_figure(style.WIDE)
    dimension = comparison.dimension
    many = len(points) > MANY_POINTS
    if many:
        draw_bands(axes, points, dimension)
    for _, run in points.groupby("run_id", sort=False) if not many else ():
        key = dimension.key(run.iloc[0])
        _curve(axes, run, dimension.colour(key), dimension.marker(key))
    best = frontiers(points)
    for (models, kind), part in best.groupby(["models", "kind_of_point"], sort=False):
        colour, size = _RING[str(models)], 11 if models == "all" else 8.5
        dashes: Any = "-" if kind == "constant" else (0, (5, 2))
        axes.plot(part["train_flops"], part["brierlm"], lw=1.6, alpha=0.75, color=colour, ls=dashes)
        axes.plot(
            part["train_flops"], part["brierlm"], ls="", marker="o", ms=size, mfc="none", mec=colour, mew=1.3
        )
    style.log_x(axes)
    labels = _floor_lines(axes, floors)
    for key, ends in dimension.groups(points):
        best_end = ends.sort_values("train_flops").groupby("run_id").tail(1)["brierlm"].max()
        labels.append(Label(float(best_end), dimension.name(key), dimension.colour(key)))
    from_zero(axes)
    axes.set_xlabel("training FLOPs (without autoencoder)")
    axes.set_ylabel(BRIERLM)
    _main_legend(axes, set(points["phase"]), list(dict.fromkeys(best["models"])) if len(best) else [])
    style.label_right(axes, labels)
    shown = "Every checkpoint of every trial and baseline with one standard error"
    return style.render(
        figure,
        "frontier",
        "BrierLM against training compute",
        f"{bands_text(len(points)) if many else f'{shown};'} FLOPs as executed. Frontier "
        "points are ringed: at constant rate joined by a line, ends of decays by dashes. Dashed grey lines: "
        "n-gram tables on the same positions." + ("" if many else bound_text(points)),
    )


def group_handle(dimension: Dimension, key: Key) -> Line2D:
    """Legend entry of a group."""
    colour, symbol = dimension.colour(key), dimension.marker(key)
    return Line2D([], [], ls="", marker=symbol, color=colour, label=dimension.name(key))


def from_zero(axes: Axes) -> None:
    """Score axis from a little below 0, so that points at 0 are seen whole."""
    top = axes.get_ylim()[1]
    axes.set_ylim(-0.03 * top, top)


def _curve(axes: Axes, run: pd.DataFrame, colour: str, symbol: str) -> None:
    """One run: line and points at constant rate, a star at the end of a decay, crosses during warm-up."""
    axes.plot(run["train_flops"], run["brierlm"], color=colour, lw=0.8, alpha=0.45)
    shapes = {"constant": (symbol, 6.5 if symbol == "P" else 4.5), "decayed": ("*", 10.0)}
    for phase, part in run.groupby("phase", sort=False):
        marker, size = shapes.get(str(phase), ("x", 4.0))
        draw_scores(
            axes,
            part["train_flops"],
            part,
            marker=marker,
            size=size,
            colour=colour,
            edge="white" if marker != "x" else colour,
            edge_width=0.5 if marker != "x" else 1.0,
            alpha=0.9,
        )


def _main_legend(axes: Axes, phases: set[str], models: list[str]) -> None:
    """Explains only what occurs; groups, baseline and floors are named beside their values."""
    entries: list[Line2D] = []
    for phase, label, marker in (("constant", "constant rate", "o"), ("decayed", "end of decay", "*")):
        if phase in phases:
            entries.append(
                Line2D([], [], label=label, color=GREY, marker=marker, ls="", ms=5 if marker == "o" else 10)
            )
    if phases - {"constant", "decayed"}:
        entries.append(Line2D([], [], label="warm-up or mid-decay", color=GREY, marker="x", ls="", ms=5))
    for model in models:
        label = "frontier" if len(models) == 1 else f"frontier, {'all models' if model == 'all' else 'CALM only'}"
        entries.append(Line2D([], [], label=label, color=_RING[model], marker="o", mfc="none", ms=9))
    axes.figure.legend(handles=entries, loc="outside upper center", ncols=2, handlelength=1.8, columnspacing=1.8)


def _floor_lines(axes: Axes, floors: pd.DataFrame) -> list[Label]:
    labels = []
    for table in FLOORS:
        rows = floors[floors["table"] == table]
        if len(rows):
            value = float(rows["brierlm"].iloc[0])
            axes.axhline(value, color=GREY, lw=1.0, ls=style.FLOOR_STYLES[table], zorder=1)
            labels.append(Label(value, f"{table} {value:.2g}", GREY))
    return labels


def inference_figure(comparison: Comparison) -> Picture | None:
    """Quality against the cost of using the model."""
    return _scatter(
        comparison,
        "infer_flops_per_token",
        "inference FLOPs per token",
        "inference",
        "BrierLM against inference compute",
        log=True,
    )


def time_figure(comparison: Comparison) -> Picture | None:
    """Quality against training seconds: FLOPs do not say how well hardware is used."""
    return _scatter(
        comparison,
        "train_seconds",
        "training time (s)",
        "seconds",
        "BrierLM against training time",
        log=False,
    )


def _scatter(
    comparison: Comparison, column: str, xlabel: str, name: str, title: str, *, log: bool
) -> Picture | None:
    runs = comparison.finals[comparison.finals[column] > 0]
    if runs.empty:
        return None
    figure, axes = style.new_figure(style.SMALL)
    labels, dimension = [], comparison.dimension
    for key, part in dimension.groups(runs):
        colour = dimension.colour(key)
        draw_scores(axes, part[column], part, marker=dimension.marker(key), size=6, colour=colour, line_width=0.9)
        labels.append(Label(float(part["brierlm"].max()), dimension.name(key), colour))
    if log:
        style.log_x(axes, few=True)
    else:
        axes.set_xlim(left=0)
    from_zero(axes)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(BRIERLM)
    style.label_right(axes, labels)
    text = f"Runs at the budget: {BRIERLM} over {xlabel}, one standard error."
    return style.render(figure, name, title, text + bound_text(runs))


def orders_figure(comparison: Comparison, floors: pd.DataFrame) -> Picture | None:
    """Brier-1 ... Brier-4 of the best run of each K (or head, ...), with the n-gram tables' values."""
    if comparison.finals.empty:
        return None
    figure, axes = style.new_figure(style.WIDE)
    dimension = comparison.dimension
    best = [(key, comparison.best(part)) for key, part in dimension.groups(comparison.finals)]
    columns = [f"brier_{n}" for n in ORDERS]
    positive = [v for _, run in best if run is not None for v in run[columns].astype(float) if v > 0]
    tables = [(t, floors[floors["table"] == t].iloc[0]) for t in FLOORS if (floors["table"] == t).any()]
    bottom = min(positive, default=0.01) / 3
    x = np.asarray(ORDERS, dtype=float)
    handles: list[Line2D] = []
    for i, (key, run) in enumerate(best):
        assert run is not None
        offset = (i - (len(best) - 1) / 2) * 0.12
        values = run[columns].to_numpy(dtype=float)
        errors = run[[f"brier_{n}_se" for n in ORDERS]].to_numpy(dtype=float)
        shown = values > 0
        low = np.minimum(errors, np.maximum(values, bottom) - bottom * 0.8)
        axes.errorbar(
            x[shown] + offset,
            values[shown],
            yerr=np.stack([low[shown], errors[shown]]),
            fmt=dimension.marker(key),
            ms=7,
            color=dimension.colour(key),
            mec="white",
            mew=0.5,
            elinewidth=1.0,
        )
        axes.plot(
            x[~shown] + offset,
            np.full(int((~shown).sum()), bottom),
            ls="",
            marker="v",
            ms=7,
            mfc="none",
            color=dimension.colour(key),
        )
        handles.append(group_handle(dimension, key))
    for table, row in tables:
        values = row[columns].to_numpy(dtype=float)
        for n, value in zip(ORDERS, values, strict=True):
            if value > bottom:
                axes.plot([n - 0.36, n + 0.36], [value, value], color=GREY, lw=1.4, ls=style.FLOOR_STYLES[table])
        handles.append(Line2D([], [], color=GREY, lw=1.4, ls=style.FLOOR_STYLES[table], label=f"{table} table"))
    axes.set_yscale("log")
    axes.set_ylim(bottom=bottom * 0.8)
    style.label_log_y(axes, lambda value: f"{value:g}")
    axes.set_xticks(list(ORDERS), [f"Brier-{n}" for n in ORDERS])
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("Brier-n (%, log scale)")
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.2, handlelength=1.8)
    return style.render(
        figure,
        "orders",
        f"Brier-1 to Brier-4 of the best run of each {dimension.noun}",
        f"Best run of each {dimension.noun} at the budget, one standard error; a hollow triangle at the bottom is "
        "a value of 0 or less, which makes BrierLM 0.",
    )


def importance_figure(importance: dict[str, float], names: dict[str, str]) -> Picture | None:
    """Shares of the score's variance as the study computed them."""
    if not importance:
        return None
    ordered = sorted(importance.items(), key=lambda item: (item[1], item[0]))
    figure, axes = style.new_figure((style.WIDE[0], 0.9 + 0.42 * len(ordered)))
    texts = [names.get(name, name) for name, _ in ordered]
    values = [value for _, value in ordered]
    axes.barh(texts, values, color=style.GREY, height=0.6)
    for i, value in enumerate(values):
        axes.annotate(
            f"{value:.2f}", (value, i), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_xlim(0, max(max(values) * 1.12, 1e-9))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("importance (share of variation)")
    return style.render(figure, "importance", "Parameter importance", "As computed by the study over its trials.")


def cost_figure(comparison: Comparison) -> Picture | None:
    """Where the FLOPs went: language model and autoencoder, mean over the runs of each group."""
    runs = comparison.finals.dropna(subset=["train_flops"])
    if runs.empty:
        return None
    dimension = comparison.dimension
    groups = dimension.groups(runs)[::-1]
    colours = [dimension.colour(key) for key, _ in groups]
    figure, axes = style.new_figure((style.SMALL[0], 1.5 + 0.45 * len(groups)))
    names = [dimension.name(key).replace("token ", "") for key, _ in groups]
    model = [float(part["train_flops"].mean()) for _, part in groups]
    extra = [float(part["autoencoder_train_flops"].fillna(0.0).mean()) for _, part in groups]
    scale = 10.0 ** np.floor(np.log10(max(m + e for m, e in zip(model, extra, strict=True))))
    axes.barh(names, np.asarray(model) / scale, color=colours, height=0.55)
    axes.barh(
        names,
        np.asarray(extra) / scale,
        left=np.asarray(model) / scale,
        color="white",
        edgecolor=colours,
        hatch="////",
        height=0.55,
    )
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"training compute ({style.power_of_ten(scale)} FLOPs)")
    handles = [
        Line2D([], [], ls="", marker="s", ms=8, color=GREY, label="language model"),
        Line2D([], [], ls="", marker="s", ms=8, mfc="white", mec=GREY, label="autoencoder"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.0, handletextpad=0.2)
    return style.render(
        figure,
        "cost",
        "Where the training compute went",
        "Mean over the runs at the budget; the autoencoder (hatched) is charged in full to every run.",
    )


def speed_figure(comparison: Comparison) -> Picture | None:
    """Tokens per second in training."""
    runs = comparison.finals[comparison.finals["tokens_per_second"] > 0]
    if runs.empty:
        return None
    dimension = comparison.dimension
    groups = dimension.groups(runs)[::-1]
    figure, axes = style.new_figure((style.SMALL[0], 1.5 + 0.45 * len(groups)))
    for i, (key, part) in enumerate(groups):
        speeds = part["tokens_per_second"].to_numpy(dtype=float) / 1000
        places = jitter(len(speeds), i, 0.3)
        axes.plot(speeds, places, ls="", marker=dimension.marker(key), ms=5, color=dimension.colour(key))
    axes.set_yticks(range(len(groups)), [dimension.name(key).replace("token ", "") for key, _ in groups])
    axes.set_ylim(-0.6, len(groups) - 0.4)
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("training speed (1,000 tokens/s)")
    return style.render(figure, "speed", "Training speed", "One point a run at the budget.")


def jitter(num: int, centre: float, width: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Evenly spread positions around ``centre`` (no randomness: the figure must not change)."""
    if num == 1:
        return np.asarray([centre], dtype=float)
    order = np.argsort((np.arange(num) * 0.6180339887) % 1.0)
    places = np.empty(num)
    places[order] = np.linspace(-width / 2, width / 2, num)
    return centre + places

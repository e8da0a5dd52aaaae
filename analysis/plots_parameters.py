"""The figures about parameters and autoencoders. Each returns None where it would be empty."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import style
from analysis.ablation import categories
from analysis.comparison import Comparison
from analysis.naming import values_of
from analysis.plots import BRIERLM, from_zero, group_handle, jitter
from analysis.plots_scores import draw_scores
from analysis.scores import bound_text
from analysis.stats import mean_of
from analysis.style import GREY, INK, Picture


def parameter_figure(comparison: Comparison, name: str, title: str) -> Picture | None:
    """BrierLM of the runs at the budget against one parameter, of those that have it; colour is the group, black
    the mean over all."""
    runs, dimension = comparison.calm, comparison.dimension
    if runs.empty or name not in runs or (found := values_of(runs, name).dropna()).empty:
        return None
    runs = runs.loc[found.index]
    labels = categories(found)
    values = list(labels.cat.categories)
    figure, axes = style.new_figure(style.SMALL)
    groups = dimension.groups(runs)
    is_lead = name == dimension.column
    for x, value in enumerate(values):
        here = runs[labels == value]
        for i, (key, part) in enumerate(groups):
            scores = part[part.index.isin(here.index)]
            if scores.empty:
                continue
            centre = float(x) - 0.1 if is_lead else x + (i - (len(groups) - 1) / 2) * 0.5 / len(groups) - 0.1
            draw_scores(
                axes,
                jitter(len(scores), centre, 0.24 if is_lead else 0.36 / len(groups)),
                scores,
                marker=dimension.marker(key),
                size=4.5,
                colour=dimension.colour(key),
                edge_width=0.4,
                line_width=0.7,
                alpha=0.85,
            )
        _mean_mark(axes, x + 0.3, here["brierlm"].tolist())
    axes.set_xticks(range(len(values)), values)
    axes.set_xlim(-0.55, len(values) - 0.35)
    from_zero(axes)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel(title)
    axes.set_ylabel(BRIERLM)
    handles = [group_handle(dimension, key) for key, _ in groups]
    handles.append(Line2D([], [], ls="", marker="_", ms=9, mew=2, color=INK, label="mean"))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=4, handletextpad=0.1, columnspacing=0.7, fontsize=8.5
    )
    return style.render(
        figure,
        "by-" + "".join(c if c.isalnum() else "-" for c in name),
        f"BrierLM against {title}",
        "One point a run at the budget with one standard error; black: mean of all runs with this value and its "
        "95 % t interval (none for a single run). Not adjusted for the other parameters: see the table."
        + bound_text(runs),
    )


def _mean_mark(axes: Axes, x: float, values: list[float]) -> None:
    mean = mean_of(values)
    axes.plot([x - 0.09, x + 0.09], [mean.value, mean.value], color=INK, lw=2)
    if mean.low is not None and mean.high is not None:
        axes.plot([x, x], [mean.low, mean.high], color=INK, lw=1)


_LINES: list[Any] = ["-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5))]


def _dashes(kl_floors: list[float], value: float) -> Any:
    """One dash pattern a KL floor; all solid where there are too many to tell apart."""
    return _LINES[kl_floors.index(value)] if len(kl_floors) <= len(_LINES) else "-"


def _dash_words(kl_floors: list[float]) -> str:
    if len(kl_floors) <= len(_LINES):
        return "dashes KL floor λ"
    return f"the {len(kl_floors)} KL floors are not told apart (see the table)"


def _floor_entries(kl_floors: list[float], shown: list[float]) -> list[Line2D]:
    """Legend entries of the dash patterns."""
    if len(kl_floors) > len(_LINES):
        return []
    return [Line2D([], [], color=GREY, ls=_dashes(kl_floors, v), lw=1.4, label=f"λ = {v:g}") for v in shown]


def noise_figures(autoencoders: pd.DataFrame) -> list[Picture]:
    """One figure per K: reconstruction under latent noise, colour = latent dimension, dashes = KL floor."""
    latents = sorted(autoencoders["latent_dim"].unique())
    kl_floors = sorted(autoencoders["kl_floor"].unique())
    return [
        _noise_figure(k, autoencoders[autoencoders["K"] == k], latents, kl_floors)
        for k in sorted(int(k) for k in autoencoders["K"].unique())
    ]


def _noise_figure(k: int, rows: pd.DataFrame, latents: list[int], kl_floors: list[float]) -> Picture:
    figure, axes = style.new_figure((style.SMALL[0], 3.7))
    # an accuracy of 1 is "no error among the tokens looked at": draw it at half an error
    resolution = 0.5 / (float(rows["num_chunks"].max()) * k)
    for _, line in rows.groupby("hash", sort=False):
        first = line.iloc[0]
        axes.plot(
            line["noise"],
            np.maximum(1.0 - line["accuracy"].to_numpy(dtype=float), resolution),
            color=style.ordinal(latents.index(first["latent_dim"]), len(latents)),
            ls=_dashes(kl_floors, first["kl_floor"]),
            marker=style.k_marker(k),
            ms=4,
            lw=1.4,
        )
    axes.set_yscale("log")
    axes.invert_yaxis()
    style.label_log_y(axes, lambda value: f"{100 * (1 - value):.10g}")
    axes.set_xlabel("standard deviation of the noise added to μ")
    axes.set_ylabel("tokens reconstructed (%)")
    here = [v for v in latents if (rows["latent_dim"] == v).any()]
    shown = here if len(here) <= 6 else [here[0], here[len(here) // 2], here[-1]]
    handles = [
        Line2D([], [], color=style.ordinal(latents.index(v), len(latents)), lw=2, label=f"L = {v}") for v in shown
    ]
    handles += _floor_entries(kl_floors, [v for v in kl_floors if (rows["kl_floor"] == v).any()])
    figure.legend(
        handles=handles, loc="outside upper center", ncols=3, columnspacing=0.8, handlelength=2.2, fontsize=8.5
    )
    return style.render(
        figure,
        f"noise-k{k}",
        f"Autoencoder under noise, K = {k}",
        "Held-out tokens reconstructed when Gaussian noise is added to the latent mean; the axis spreads the last "
        f"per cent (log of the error). L latent dimension; {_dash_words(kl_floors)}.",
    )


def kl_figure(kl_per_dim: pd.DataFrame) -> Picture | None:
    """KL per latent dimension, sorted: what carries information and what collapsed."""
    return _sorted_figure(kl_per_dim, "kl", "KL (nats)", "kl", "KL per latent dimension", descending=True)


def std_figure(kl_per_dim: pd.DataFrame) -> Picture | None:
    """σ per latent dimension, sorted."""
    return _sorted_figure(
        kl_per_dim, "std", "σ (root mean square)", "sigma", "σ per latent dimension", descending=False
    )


def _sorted_figure(
    rows: pd.DataFrame, column: str, ylabel: str, name: str, title: str, *, descending: bool
) -> Picture | None:
    if rows.empty:
        return None
    figure, axes = style.new_figure(style.SMALL)
    kl_floors = sorted(rows["kl_floor"].unique())
    for _, part in rows.groupby("hash", sort=False):
        first = part.iloc[0]
        values = np.sort(part[column].to_numpy(dtype=float))
        axes.plot(
            np.arange(1, len(values) + 1),
            values[::-1] if descending else values,
            color=style.k_colour(int(first["K"])),
            ls=_dashes(kl_floors, first["kl_floor"]),
            lw=1.3,
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("latent dimension, sorted by " + ("KL" if column == "kl" else "σ"))
    axes.set_ylabel(ylabel)
    handles = [
        Line2D([], [], color=style.k_colour(int(k)), lw=2, label=style.k_name(int(k)))
        for k in sorted(rows["K"].unique())
    ]
    handles += _floor_entries(kl_floors, kl_floors)
    figure.legend(
        handles=handles, loc="outside upper center", ncols=3, columnspacing=0.8, handlelength=2.2, fontsize=8.5
    )
    text = f"One line an autoencoder, its length the latent dimension; colour K, {_dash_words(kl_floors)}."
    return style.render(figure, name, title, text)

"""Figures of the laws in size, data and K. Each returns None where it would be empty."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis import style
from analysis.allocation import Limits, tokens_for
from analysis.budget_plan import BudgetPlan
from analysis.joint_law import JointLaw, held_out_predictions
from analysis.plots import BRIERLM
from analysis.scaling_law import LossLaw
from analysis.scaling_points import BASELINE, SAME_COST, SAME_SIZE, budgets_of, groups
from analysis.style import GREY, Picture
from analysis.tables_scaling import flops_short

Array = npt.NDArray[np.float64]
MAX_PANELS = 4
PARAMETERS = "parameters N (no look-up embeddings)"


def _colour(family: int) -> str:
    return style.k_colour(family or None)


def _handle(family: int, marker: str | None = None) -> Line2D:
    symbol = marker or style.k_marker(family or None)
    return Line2D([], [], ls="", marker=symbol, color=_colour(family), label=style.k_name(family or None))


def isoflop_figure(law: JointLaw) -> Picture | None:
    """BrierLM against size at each budget, with the fitted law: a panel a budget, the largest last."""
    if law.chosen is None:
        return None
    budgets = [c for c in budgets_of(law.points) if _at(law, c).sum() > 1][-MAX_PANELS:]
    if not budgets:
        return None
    rows, columns = math.ceil(len(budgets) / 2), min(2, len(budgets))
    size = style.WIDE if columns == 1 else (6.4, 0.9 + 2.3 * rows)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
    families = [BASELINE, *law.chunk_sizes] if law.baseline is not None else law.chunk_sizes
    for panel, budget in zip(panels.flat, budgets, strict=False):
        for family in families:
            _isoflop(panel, law, family, float(budget))
        panel.set_title(f"{style.power_of_ten(float(f'{budget:.1e}'))} FLOPs")
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=_steps(panel.get_xlim())))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: flops_short(value)))
        panel.xaxis.set_minor_formatter(NullFormatter())
    for panel in list(panels.flat)[len(budgets) :]:
        panel.set_visible(False)
    figure.supxlabel(PARAMETERS, fontsize=10)
    figure.supylabel(BRIERLM, fontsize=10)
    figure.legend(handles=[_handle(k) for k in families], loc="outside upper center", ncols=5, handletextpad=0.1)
    text = "One panel a budget: every run's score against its size, and the fitted law (line, band: 95 %)."
    return style.render(figure, "isoflop", "BrierLM against model size at equal compute", text)


def _steps(limits: tuple[float, float]) -> tuple[float, ...]:
    """Of a logarithmic axis: what is labelled of each decade."""
    low, high = limits
    return (1.0, 2.0, 5.0) if high / max(low, 1e-300) < 300 else (1.0,)


def _at(law: JointLaw, budget: float) -> npt.NDArray[np.bool_]:
    return np.asarray(np.abs(np.log(law.points.flops / budget)) < SAME_COST, dtype=bool)


def _isoflop(axes: Axes, law: JointLaw, family: int, budget: float) -> None:
    own = law.points.take(_at(law, budget) & (law.points.family == family))
    fit = law.of_family(family)
    if fit is None or family not in law.costs:
        return
    everywhere = law.points.num_parameters[law.points.family == family]
    sizes = np.geomspace(everywhere.min() / 1.6, everywhere.max() * 1.6, 60)
    tokens = tokens_for(law.costs[family], sizes, budget, Limits())
    design = fit.law.design(sizes, tokens, np.full(len(sizes), max(family, 1)))
    curves = np.exp(fit.law.log_score(fit.draws, design))
    low, high = np.percentile(curves, (2.5, 97.5), axis=0)
    colour = _colour(family)
    axes.fill_between(sizes, low, high, color=colour, alpha=0.12, lw=0)
    axes.plot(sizes, np.exp(fit.law.log_score(fit.theta, design)), color=colour, lw=1.3)
    marker = style.k_marker(family or None)
    axes.plot(own.num_parameters, own.score, ls="", marker=marker, ms=5, color=colour, mec="white", mew=0.5)


def odds_figure(plans: Sequence[BudgetPlan], law: JointLaw) -> Picture | None:
    """Probability of each K by budget, as stacked bars."""
    shown = [plan for plan in plans if plan.recommended is not None and plan.alternatives]
    if not shown:
        return None
    figure, axes = style.new_figure(style.SMALL if len(shown) <= 4 else style.WIDE)
    top = float(law.points.flops.max()) * (1 + SAME_COST)
    for x, plan in enumerate(shown):
        assert plan.recommended is not None
        odds = {c.family: c.probability or 0.0 for c in (plan.recommended, *plan.alternatives)}
        bottom, beyond = 0.0, plan.flops > top
        for family in sorted(odds):
            share = odds[family]
            hatch = "//" if beyond else None
            axes.bar(x, share, 0.7, bottom, color=_colour(family), edgecolor="white", lw=0.8, hatch=hatch)
            if share >= 0.08:
                words = f"K = {family}\n{share:.0%}" if share >= 0.2 else f"{share:.0%}"
                box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85}
                axes.text(x, bottom + share / 2, words, ha="center", va="center", fontsize=8, bbox=box)
            bottom += share
    axes.set_xticks(range(len(shown)), [style.power_of_ten(float(f"{plan.flops:.1e}")) for plan in shown])
    axes.set_xlabel("budget (executed training FLOPs)")
    axes.set_ylabel("share of resamples in which K is best")
    axes.set_ylim(0, 1)
    axes.grid(axis="x", visible=False)
    handles = [Patch(color=_colour(k), label=style.k_name(k)) for k in law.chunk_sizes]
    handles.append(Patch(fc="white", ec=GREY, hatch="//", label="beyond the data"))
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    text = (
        "Share of bootstrap resamples in which each K scores highest, at its best size; hatched: larger budgets "
    )
    text += "than any trained. It holds the noise of the runs, not a wrong form of the law."
    return style.render(figure, "best-k-by-budget", "Which K is best at which budget, by the law", text)


def prediction_figure(law: JointLaw) -> Picture | None:
    """Predicted against observed BrierLM; held-out points by the fit that did not see them."""
    if law.chosen is None or law.chosen.fit is None:
        return None
    fit, points = law.chosen.fit, law.points.calm
    held = law.held_out[~law.points.is_baseline]
    design = fit.law.design(points.num_parameters, points.tokens, points.family.astype(float))
    predicted = np.exp(fit.law.log_score(fit.theta, design))
    unseen = held_out_predictions(law)
    figure, axes = style.new_figure(style.SMALL)
    for family in law.chunk_sizes:
        own = (points.family == family) & ~(held & np.isfinite(unseen))
        marker, colour = style.k_marker(family), _colour(family)
        axes.plot(
            predicted[own], points.score[own], ls="", marker=marker, ms=4.5, color=colour, mec="white", mew=0.4
        )
        out = (points.family == family) & held & np.isfinite(unseen)
        axes.plot(unseen[out], points.score[out], ls="", marker=marker, ms=6, mfc="none", mec=colour, mew=1.3)
    both = np.concatenate([predicted, points.score, unseen[np.isfinite(unseen)]])
    ends = np.array([both.min() / 1.1, both.max() * 1.1])
    axes.plot(ends, ends, color=GREY, lw=0.9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=_steps((float(ends[0]), float(ends[1])))))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("BrierLM by the law")
    axes.set_ylabel("BrierLM of the run")
    handles = [_handle(k) for k in law.chunk_sizes]
    if np.isfinite(unseen).any():
        handles.append(Line2D([], [], ls="", marker="o", mfc="none", mec=GREY, label="held out"))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, handletextpad=0.1)
    text = (
        "One point a run; on the line the law is right. Hollow: the largest size of each K, predicted by a fit to "
    )
    text += "the smaller sizes only."
    return style.render(figure, "law-predictions", "The law against the runs", text)


def loss_figure(law: LossLaw) -> Picture | None:
    """Cross-entropy of the baselines against tokens, with the fitted law for each size."""
    if law.fit is None:
        return None
    figure, axes = style.new_figure(style.SMALL)
    points = law.points
    sizes = groups(points.num_parameters, SAME_SIZE)
    for i, mask in enumerate(sizes):
        own, colour = points.take(mask), style.ordinal(i, len(sizes))
        n = float(np.median(own.num_parameters))
        tokens = np.geomspace(own.tokens.min() / 1.5, own.tokens.max() * 1.5, 50)
        marker = style.marker(i)
        axes.plot(own.tokens, own.score, ls="", marker=marker, ms=4.5, color=colour, label=f"N = {flops_short(n)}")
        axes.plot(tokens, law.loss(np.full(50, n), tokens), color=colour, lw=1.2)
    style.log_x(axes)
    axes.set_xlabel("tokens trained on")
    axes.set_ylabel("cross-entropy (nats a token)")
    figure.legend(loc="outside upper center", ncols=3, handletextpad=0.1)
    text = "Cross-entropy of the token baselines against data, one colour a size; lines: E + A/N^a + B/D^b."
    return style.render(figure, "loss-law", "The loss of token baselines in size and data", text)

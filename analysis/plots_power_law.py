"""Figures of BrierLM over compute with fitted curves, and of ratios of compute. None where one would be empty."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis import style
from analysis.compute_ratio import BASELINE, Ratios
from analysis.families import families
from analysis.frontier import AXES
from analysis.power_law import FamilyCurve, PowerLaws
from analysis.style import GREY, INK, Label, Picture

BEYOND = 0.3
"""Decades that a curve is drawn beyond its points, dashed."""
_LEAST_SPAN = 1.5
"""Of an axis, as a factor."""


def _colours(laws: PowerLaws) -> dict[str, tuple[str, str]]:
    """Colour and marker by family, those of its K; a family named by a column of its own has the next category."""
    found: dict[str, tuple[str, str]] = {}
    for i, curve in enumerate(laws.curves):
        own = families(curve.points)
        known = own and own[0][0].name.split(",")[0] == curve.family.split(",")[0]
        if known:
            one = own[0][0]
            found[curve.family] = (one.colour, style.head_marker(one.head) if one.head else one.marker)
        else:
            found[curve.family] = (style.category(i), style.marker(i))
    return found


def curves_figure(laws: PowerLaws) -> Picture | None:
    """Points of each family with its fitted curve and 95 % band, both axes logarithmic."""
    shown = [curve for curve in laws.curves if len(curve.points)]
    if not any(curve.there for curve in shown):
        return None
    figure, axes = style.new_figure(style.WIDE)
    looks = _colours(laws)
    labels = []
    for curve in shown:
        colour, marker = looks[curve.family]
        _points(axes, curve, colour, marker)
        if curve.there:
            _curve(axes, curve, colour)
        labels.append(Label(float(curve.points["brierlm"].iloc[-1]), curve.family, colour))
    style.log_x(axes)
    axes.set_yscale("log")
    _plain_log(axes)
    axes.set_xlabel(AXES.get(laws.cost, laws.cost))
    axes.set_ylabel("BrierLM (0 to 100)")
    handles = [
        Line2D([], [], color=GREY, lw=1.4, label="fitted curve"),
        Patch(color=GREY, alpha=0.25, lw=0, label="its 95 % band"),
        Line2D([], [], color=GREY, lw=1.2, ls=(0, (4, 2)), label="beyond the data"),
        Line2D([], [], ls="", marker="o", ms=4, mfc="none", mec=GREY, label="not on its frontier"),
    ]
    axes.figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.4, handlelength=1.8)
    style.label_right(axes, labels)
    without = [curve.family for curve in shown if not curve.fit.has_interval]
    text = "Each family's frontier with the curve fitted to it. The band holds the curve at 95 %, not single runs."
    if without:
        text += f" No band: {', '.join(without)} (too few runs to tell how far they scatter)."
    name = f"power-law-{laws.cost.replace('_', '-')}"
    return style.render(figure, name, f"BrierLM over {AXES.get(laws.cost, laws.cost)}, fitted", text)


def _points(axes: Axes, curve: FamilyCurve, colour: str, marker: str) -> None:
    off, on = curve.others, curve.points
    axes.plot(off[curve.cost], off["brierlm"], ls="", marker=marker, ms=3.5, mfc="none", mec=colour, alpha=0.45)
    costs, scores = on[curve.cost].to_numpy(dtype=float), on["brierlm"].to_numpy(dtype=float)
    errors = pd.to_numeric(on["brierlm_se"], errors="coerce").fillna(0.0).to_numpy(dtype=float)
    axes.errorbar(
        costs, scores, yerr=np.minimum(errors, 0.9 * scores), fmt=marker, ms=5, color=colour, mec="white", mew=0.5,
        elinewidth=0.8,
    )  # fmt: skip


def _curve(axes: Axes, curve: FamilyCurve, colour: str) -> None:
    low, high = curve.range
    inside = np.geomspace(low, high, 60)
    seen = curve.at(inside)
    axes.plot(inside, seen.value, color=colour, lw=1.4)
    wide = np.geomspace(low / 10**BEYOND, high * 10**BEYOND, 80)
    beyond = curve.at(wide)
    for part in (wide <= low, wide >= high):
        axes.plot(wide[part], beyond.value[part], color=colour, lw=1.1, ls=(0, (4, 2)))
    if curve.fit.has_interval:
        axes.fill_between(inside, seen.low, seen.high, color=colour, alpha=0.16, lw=0)


def _plain_log(axes: Axes) -> None:
    """1, 2, 5 along the logarithmic y axis."""
    low, high = axes.get_ylim()
    if high / low < _LEAST_SPAN:
        middle = float(np.sqrt(low * high))
        axes.set_ylim(middle / _LEAST_SPAN, middle * _LEAST_SPAN)
    low, high = axes.get_ylim()
    near = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axes.yaxis.set_major_locator(LogLocator(subs=near if high / low < 8 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def ratio_figure(found: Ratios, laws: PowerLaws, *, baseline: str = BASELINE) -> Picture | None:
    """Compute over that of the baseline against BrierLM, with bands; dashed where a curve is extrapolated."""
    if found.frame.empty:
        return None
    figure, axes = style.new_figure(style.WIDE)
    looks = _colours(laws)
    labels = []
    for family in found.families:
        rows = found.frame[found.frame["family"] == family]
        colour = looks[family][0]
        _ratio_lines(axes, rows, colour)
        labels.append(Label(float(rows["ratio"].iloc[-1]), family, colour))
    axes.axhline(1.0, color=INK, lw=0.9)
    axes.set_yscale("log")
    _ratio_limits(axes, found.frame)
    _plain_log(axes)
    axes.set_xlabel("BrierLM that both reach")
    axes.set_ylabel(f"compute, times the {baseline}'s")
    handles = [
        Line2D([], [], color=GREY, lw=1.4, label="within the data of both"),
        Line2D([], [], color=GREY, lw=1.2, ls=(0, (4, 2)), label="extrapolated"),
        Patch(color=GREY, alpha=0.25, lw=0, label="95 % band"),
        Line2D([], [], color=INK, lw=0.9, label=f"as much as the {baseline}"),
    ]
    axes.figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.4, handlelength=1.8)
    style.label_right(axes, labels)
    text = (
        f"Below the line a family needs less compute ({found.cost}) than the {baseline} for the same BrierLM. "
        "Read off the fitted curves; bands: 95 %, by bootstrap over the runs of both."
    )
    title = f"Compute that CALM needs against the {baseline}: {found.cost}"
    return style.render(figure, f"compute-ratio-{found.cost.replace(' ', '-')}", title, text)


def _ratio_lines(axes: Axes, rows: pd.DataFrame, colour: str) -> None:
    quality, ratio, low, high, beyond = (
        rows[name].to_numpy(dtype=float) for name in ("quality", "ratio", "low", "high", "extrapolated")
    )
    inside = beyond == 0
    axes.plot(quality, ratio, color=colour, lw=1.1, ls=(0, (4, 2)))
    if inside.any():
        axes.plot(quality[inside], ratio[inside], color=colour, lw=1.6)
    known = np.isfinite(low)
    if known.any():
        axes.fill_between(
            quality[known],
            np.maximum(low[known], 1e-6),
            np.minimum(high[known], 1e6),
            color=colour,
            alpha=0.14,
            lw=0,
        )


def _ratio_limits(axes: Axes, frame: pd.DataFrame) -> None:
    """About the curves, so that bands without end do not flatten them."""
    ratios = np.append(frame["ratio"].to_numpy(dtype=float), 1.0)
    low, high = frame["low"].to_numpy(dtype=float), frame["high"].to_numpy(dtype=float)
    ends = [ratios.min() / 4, ratios.max() * 4]
    seen = np.concatenate([low[np.isfinite(low)], high[np.isfinite(high)], ratios])
    axes.set_ylim(max(ends[0], seen.min() / 1.2), min(ends[1], seen.max() * 1.2))

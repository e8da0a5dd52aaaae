"""The figure about noise between seeds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from analysis import style
from analysis.comparison import Comparison, Setting, noise_of
from analysis.paired import PairedScores
from analysis.plots import jitter
from analysis.style import INK, LIGHT, Picture
from analysis.words import number
from workbench.uncertainty import geometric_mean

MAX_SETTINGS = 24
"""Shown; the best ones where there are more."""


def seeds_figure(comparison: Comparison) -> Picture | None:
    """Scores of the repeated settings, seed by seed, as deviations from their setting's mean; None where nothing
    was repeated."""
    repeated = [setting for setting in comparison.settings if setting.num_seeds > 1 and not setting.weak]
    if not repeated or comparison.noise is None:
        return None
    shown = sorted(repeated, key=lambda setting: -setting.score)[:MAX_SETTINGS][::-1]
    figure, axes = style.new_figure((style.WIDE[0], 1.3 + 0.36 * len(shown)))
    sd = comparison.noise.sd
    axes.axvspan(-sd, sd, color=LIGHT, alpha=0.45, lw=0)
    axes.axvline(0.0, color=INK, lw=0.8)
    for place, setting in enumerate(shown):
        _strip(axes, place, setting, comparison)
    names = [_name(setting, comparison) for setting in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    reach = 1.05 * max(abs(end) for end in axes.get_xlim())
    axes.set_xlim(-reach, reach)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("BrierLM minus the mean of its setting", loc="right")  # long names leave the axis little room
    which = f"The best {len(shown)} of {len(repeated)} settings" if len(shown) < len(repeated) else "Settings"
    return style.render(
        figure,
        "seeds",
        "Seeds of the same setting",
        f"{which} that were trained with several seeds, their mean BrierLM beside them: one point a seed with the "
        "error of its evaluation, as far as the seeds do not share it. Points further apart than that were set "
        "apart by training. Grey: one standard deviation between seeds, pooled over all settings.",
    )


def _name(setting: Setting, comparison: Comparison) -> str:
    words = comparison.name(setting, whole=True)
    return f"{'baseline, ' if setting.kind == 'baseline' else ''}{words}: {number(setting.score)}"


def _strip(axes: Axes, place: int, setting: Setting, comparison: Comparison) -> None:
    scores, errors = _scores(setting, comparison.paired)
    key = comparison.key(setting)
    axes.errorbar(
        scores - scores.mean(),
        jitter(len(scores), place, 0.44),
        xerr=errors,
        fmt=comparison.dimension.marker(key),
        ms=5.5,
        color=comparison.dimension.colour(key),
        mec="white",
        mew=0.4,
        elinewidth=0.9,
    )


def _scores(
    setting: Setting, paired: PairedScores | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(seeds,), (seeds,): BrierLM and its error; of what the seeds do not share where they can be paired."""
    if paired is None or not paired.holds(setting.run_ids):
        columns = setting.runs[["brierlm", "brierlm_se"]].astype(float)
        return columns["brierlm"].to_numpy(), columns["brierlm_se"].to_numpy()
    noise, _ = noise_of([setting], paired)
    assert noise is not None
    values = paired.of(setting.run_ids)
    scores = np.asarray([geometric_mean(v.astype(np.float64).mean((0, 1))) for v in values])
    return scores, np.full(len(scores), noise.sd_evaluation)

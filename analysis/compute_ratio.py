"""The headline: what share of the baseline's compute a family needs for the same BrierLM, by the level of BrierLM.

R(q) = C_family(q) / C_baseline(q), both read off the fitted curves (``analysis.power_law``). The published figures
are 44 % less training and 34 % less inference compute for CALM-M, K = 4, against Transformer-S (arXiv 2510.27688,
Table 1), at scores that are close (5.72 and 6.05), not equal; here it is a function of the score, with an interval
from the bootstrap of both curves. Where q lies outside the data of one of them, the ratio is extrapolated; beyond
``MAX_BEYOND`` decades of compute none is given.

The autoencoder's training is a cost of the family that does not grow with its budget: it is added to C_family(q).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.fitting import LEVELS, decades_beyond
from analysis.power_law import FamilyCurve, PowerLaws
from analysis.solving import Array
from analysis.style import k_name
from analysis.words import number

BASELINE = k_name(None)
TRAINING, CHARGED, INFERENCE = "training", "training with autoencoder", "inference"
COST_NAMES = {
    "train_flops": TRAINING,
    "train_flops_with_autoencoder": CHARGED,
    "train_flops_published": "training (published count)",
    "infer_flops_per_token": INFERENCE,
    "infer_flops_per_token_published": "inference (published count)",
}
"""What the column ``cost`` of a frame of ratios says."""
_COMPUTE = {CHARGED: "training compute (autoencoder included)"}
"""In a sentence, where it is not just "... compute"."""
_WIDEST = 30.0
"""An interval of a ratio wider than this factor says nothing."""
MAX_BEYOND = 0.5
"""Decades of compute outside the data of either curve, from where on no ratio is given."""
NUM_LEVELS = 33
COLUMNS = ["family", "cost", "quality", "ratio", "low", "high", "extrapolated"]


@dataclass(frozen=True)
class Ratios:
    """Of all families over one cost."""

    cost: str
    """As in ``COST_NAMES``."""
    frame: pd.DataFrame
    """``COLUMNS``: ``quality`` in BrierLM, ``ratio`` with its 95 % interval (an end may be infinite: the curve may
    never reach that score; not-a-number: no interval), ``extrapolated`` in decades, 0 within both curves' data."""
    reasons: dict[str, str] = field(default_factory=dict)
    """By family: why it has no ratio."""

    def inside(self, family: str) -> pd.DataFrame:
        """Rows of a family within the data of both curves."""
        rows = self.frame[self.frame["family"] == family]
        return rows[rows["extrapolated"] == 0]

    @property
    def families(self) -> list[str]:
        return list(dict.fromkeys(self.frame["family"]))


def compute_ratios(laws: PowerLaws, *, baseline: str = BASELINE, with_autoencoder: bool = False) -> Ratios:
    """R(q) of every family against ``baseline``. ``with_autoencoder``: adds the median training cost of the
    family's autoencoders; only over training costs without it."""
    name = CHARGED if with_autoencoder else COST_NAMES.get(laws.cost, laws.cost)
    base = laws.of(baseline)
    frames, reasons = [], {}
    for curve in laws.curves:
        if curve.family == baseline:
            continue
        extra = _autoencoder_flops(curve) if with_autoencoder else 0.0
        reason = _lacking(curve, base, baseline) or (
            "" if math.isfinite(extra) else "no autoencoder cost recorded"
        )
        if not reason:
            assert base is not None
            levels = _levels(curve, base)
            reason = "" if len(levels) else _apart(curve, base)
            frames.append(_frame(curve, base, levels, extra, name))
        if reason:
            reasons[curve.family] = reason
    filled = [frame for frame in frames if len(frame)]
    return Ratios(name, pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=COLUMNS), reasons)


def _lacking(curve: FamilyCurve, base: FamilyCurve | None, baseline: str) -> str:
    if base is None:
        return f"there is no {baseline} to compare with"
    for one in (curve, base):
        if not one.there:
            return f"no curve of {one.family}: {one.fit.reason}"
        if not one.fit.theta[1] > 0:
            return f"the score of {one.family} does not rise with compute"
        if one.fit.has_interval and not one.grows:
            return f"the data do not say whether the score of {one.family} rises with compute"
    return ""


def _scores_of(curve: FamilyCurve, beyond: float = 0.0) -> tuple[float, float]:
    """Scores at the ends of the data, moved ``beyond`` decades outwards."""
    low, high = curve.range
    seen = curve.at([low / 10**beyond, high * 10**beyond]).value
    return float(seen[0]), float(seen[1])


def _levels(curve: FamilyCurve, base: FamilyCurve) -> Array:
    """Scores at which a ratio is given, with the ends of the common range among them."""
    ends = [_scores_of(one, MAX_BEYOND) for one in (curve, base)]
    low, high = max(e[0] for e in ends), min(e[1] for e in ends)
    if not low < high:
        return np.zeros(0)
    inner = [_scores_of(one) for one in (curve, base)]
    marks = [max(e[0] for e in inner), min(e[1] for e in inner)]
    grid = np.geomspace(low, high, NUM_LEVELS)
    return np.unique([*grid, *(mark for mark in marks if marks[0] <= marks[1] and low <= mark <= high)])


def _apart(curve: FamilyCurve, base: FamilyCurve) -> str:
    own, its = _scores_of(curve), _scores_of(base)
    return (
        f"scores do not overlap: {curve.family} has {number(own[0])} to {number(own[1])}, {base.family} "
        f"{number(its[0])} to {number(its[1])}, even {MAX_BEYOND:g} decades beyond the data"
    )


def _frame(curve: FamilyCurve, base: FamilyCurve, levels: Array, extra: float, cost: str) -> pd.DataFrame:
    rows: list[list[object]] = []
    for level in levels:
        ratio, low, high = ratio_at(curve, base, float(level), extra)
        beyond = max(_beyond(one, float(level)) for one in (curve, base))
        if math.isfinite(ratio) and beyond <= MAX_BEYOND * (1 + 1e-6):
            rows.append([curve.family, cost, float(level), ratio, low, high, beyond])
    return pd.DataFrame(rows, columns=COLUMNS)


def _beyond(curve: FamilyCurve, level: float) -> float:
    cost = float(np.exp(curve.law.log_cost(curve.fit.theta[None], level)[0]))
    beyond = decades_beyond(cost, *curve.range) if math.isfinite(cost) else math.inf
    return beyond if beyond > 1e-9 else 0.0


def ratio_at(
    curve: FamilyCurve, base: FamilyCurve, level: float, extra: float = 0.0
) -> tuple[float, float, float]:
    """R at a BrierLM with its 95 % interval; ``extra``: FLOPs added to the family's. Raises ValueError where one
    of the two has no fit. Replicates of the two curves are independent, as their runs are."""
    for one in (curve, base):
        if not one.there:
            raise ValueError(f"there is no curve of {one.family}: {one.fit.reason}")
    value = _log_ratio(curve, base, curve.fit.theta[None], base.fit.theta[None], level, extra)[0]
    if not (curve.fit.has_interval and base.fit.has_interval):
        return float(np.exp(value)), math.nan, math.nan
    draws = _log_ratio(curve, base, curve.fit.draws, base.fit.draws, level, extra)
    low, high = np.percentile(draws, LEVELS, method="nearest")
    return float(np.exp(value)), float(np.exp(low)), float(np.exp(high))


def _log_ratio(
    curve: FamilyCurve, base: FamilyCurve, theta: Array, base_theta: Array, level: float, extra: float
) -> Array:
    """Infinite where the family never reaches the score, minus infinite where the baseline does not; where
    neither does, or one falls with compute, either may be right: half of them each way."""
    own = curve.law.log_cost(theta, level)
    if extra > 0:
        own = np.logaddexp(own, math.log(extra))
    its = base.law.log_cost(base_theta, level)
    neither = ~np.isfinite(own) & ~np.isfinite(its)
    sides = np.where(np.arange(len(own)) % 2, np.inf, -np.inf)
    safe = np.where(neither, 0.0, its)
    return np.where(neither, sides, own - safe)


def _autoencoder_flops(curve: FamilyCurve) -> float:
    if "train_flops_with_autoencoder" not in curve.points or curve.cost != "train_flops":
        return math.nan
    both = pd.to_numeric(curve.points["train_flops_with_autoencoder"], errors="coerce").astype(float)
    extra = (both - curve.points["train_flops"].astype(float)).dropna()
    return float(extra.median()) if len(extra) else math.nan


def ratio_sentences(found: Ratios, *, baseline: str = BASELINE) -> list[str]:
    """For each family the ratio at the highest score within the data of both curves, and how it moves below."""
    said = []
    for family in found.families:
        inside = found.inside(family)
        if inside.empty:
            rows = found.frame[found.frame["family"] == family]
            row = rows.iloc[int(rows["extrapolated"].to_numpy(dtype=float).argmin())]
            text = _sentence(row, family, found.cost, baseline)
            said.append(f"{text} That is extrapolated: the two were not trained to common scores.")
            continue
        text = _sentence(inside.iloc[-1], family, found.cost, baseline)
        said.append(f"{text}{_movement(inside)}")
    for family, reason in found.reasons.items():
        said.append(f"{family}: no ratio of {_words(found.cost)}, since {reason}.")
    return said


def _sentence(row: pd.Series, family: str, cost: str, baseline: str) -> str:
    ratio, low, high = (float(row[name]) for name in ("ratio", "low", "high"))
    compute = _words(cost)
    if math.isnan(low):
        return (
            f"{family} needs about {ratio:.2g} times the {compute} of the {baseline} at BrierLM "
            f"{row['quality']:.2g}; there are too few runs for an interval."
        )
    ends = f"[{_short(low)}, {_short(high)}]"
    if not is_determined(low, high):
        return (
            f"What {family} needs of the {baseline}'s {compute} at BrierLM {row['quality']:.2g} is not "
            f"determined by these runs (95 % interval {ends} times)."
        )
    share = f" ({100 * abs(1 - ratio):.0f} % {'less' if ratio < 1 else 'more'})" if ratio < 2 else ""
    if low <= 1 <= high:
        share = " (less or more is not told by these runs)"
    return (
        f"{family} needs {_short(ratio)} times {ends} the {compute} of the {baseline} at BrierLM "
        f"{row['quality']:.2g}{share}."
    )


def _words(cost: str) -> str:
    return _COMPUTE.get(cost, f"{cost} compute")


def is_determined(low: float, high: float) -> bool:
    """Whether an interval of a ratio says something."""
    return low > 0 and high <= _WIDEST * low


def _short(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}" if value < 10 else f"{value:.3g}"


def _movement(inside: pd.DataFrame) -> str:
    """How the ratio moves from the lowest to the highest common score."""
    first, last = inside.iloc[0], inside.iloc[-1]
    if float(first["quality"]) >= 0.8 * float(last["quality"]):
        return ""
    ends = f"[{_short(float(first['low']))}, {_short(float(first['high']))}]"
    known = not math.isnan(float(first["low"]))
    return (
        f" At BrierLM {first['quality']:.2g} it is {_short(float(first['ratio']))}{f' {ends}' if known else ''}."
    )


def published_ratios(rows: pd.DataFrame, costs: Sequence[str]) -> pd.DataFrame:
    """CALM rows against token models of the same table, point against point, not at equal score: columns model,
    baseline, cost, ratio, fewer (share saved), brierlm, brierlm_baseline. ``rows``: ``analysis.external``."""
    calm, base = rows[rows["kind"] == "calm"], rows[rows["kind"] == "baseline"]
    found = []
    for _, one in calm.iterrows():
        for _, other in base.iterrows():
            for cost in costs:
                ratio = float(one[cost]) / float(other[cost])
                if math.isfinite(ratio):
                    scores = [float(one["brierlm"]), float(other["brierlm"])]
                    found.append([one["model"], other["model"], cost, ratio, 1 - ratio, *scores])
    columns = ["model", "baseline", "cost", "ratio", "fewer", "brierlm", "brierlm_baseline"]
    return pd.DataFrame(found, columns=columns)

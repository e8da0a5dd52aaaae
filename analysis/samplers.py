"""Accuracy against collision: which sampler is right more often when it repeats itself equally often.

A *curve* is one sampler of one trained setting over its temperatures (or noise scales). Two curves are compared at
one collision rate, interpolated linearly between their points; the error holds those of the points, in both
directions, as if independent (they are scored at the same positions, so the interval is rather too wide), and the
scatter of the interpolated values between seeds where there are several, in squares of half-widths as in
``workbench.seeds.setting_difference``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.comparison import Comparison, Setting, best_setting
from analysis.stats import Difference, mean_over_seeds
from analysis.words import MISSING, missing, plain
from workbench.sections import TradeoffConfig
from workbench.uncertainty import t_quantile

SOFTMAX = "softmax"
FALLBACK = 0.05
"""A point of ``exact`` with a larger share of chunks drawn by ``batch`` instead is marked, and not compared."""
_LEVELS = {"exact": "temperature", "batch": "temperature", "noise": "noise_scale", SOFTMAX: "temperature"}
"""What each sampler's curve runs over."""
_POINT = ["accuracy", "accuracy_se", "collision", "collision_se"]


@dataclass(frozen=True, eq=False)
class Curve:
    """One sampler of one setting."""

    setting: Setting
    sampler: str
    batch_size: int | None
    points: pd.DataFrame
    """By ``level`` (tau or noise scale), plainest first: means over seeds, ``_se`` as they are drawn (68 %),
    ``_own`` the evaluation's error alone, calls, shares, seconds, ``num_seeds``."""
    runs: list[pd.DataFrame]
    """The same of every seed."""

    @property
    def name(self) -> str:
        """``exact``, ``batch N = 8``, ``noise scale``, ``softmax of the token baseline``."""
        if self.sampler == SOFTMAX:
            return "softmax of the token baseline"
        if self.sampler == "batch":
            return f"batch N = {self.batch_size}"
        return "noise scale" if self.sampler == "noise" else self.sampler

    @property
    def symbol(self) -> str:
        return "s" if self.sampler == "noise" else "τ"

    @property
    def measured(self) -> pd.DataFrame:
        """Without the point of ``exact`` that begins curves of ``batch``."""
        return self.points[self.points["sampler"] == self.sampler]

    @property
    def reach(self) -> tuple[float, float]:
        """Collision rates between which it can be read."""
        found = _usable(self.points)["collision"]
        return (float(found.min()), float(found.max())) if len(found) > 1 else (math.nan, math.nan)

    def covers(self, level: float) -> bool:
        low, high = self.reach
        return low <= level <= high


@dataclass(frozen=True, eq=False)
class Panel:
    """The samplers of one CALM setting, and the baseline's softmax at the same number of tokens."""

    setting: Setting
    name: str
    num_tokens: int
    curves: list[Curve]


def panels(comparison: Comparison, tradeoffs: pd.DataFrame) -> list[Panel]:
    """One a CALM setting at the budget that was compared, the best of each number of tokens first; without any the
    baseline's softmax alone, one a number of tokens."""
    usable = tradeoffs[tradeoffs[["accuracy", "collision"]].notna().all(axis=1)]
    compared = [s for s in comparison.settings if usable["run_id"].isin(s.run_ids).any()]
    calm = [s for s in compared if s.kind == "calm"]
    baselines = [s for s in compared if s.kind == "baseline"]
    best = best_setting(baselines) if baselines else None
    found = []
    for setting in sorted(calm, key=lambda s: (-s.score, s.run_ids[0])):
        own = usable[usable["run_id"].isin(setting.run_ids)]
        for num_tokens, part in own.groupby("num_tokens", sort=True):
            curves = _curves(setting, part)
            if best is not None:
                curves += _curves(best, _softmax(usable, best, int(str(num_tokens))))
            found.append(Panel(setting, _name(comparison, setting), int(str(num_tokens)), curves))
    if not calm and best is not None:
        for num_tokens in sorted(set(usable.loc[usable["run_id"].isin(best.run_ids), "num_tokens"])):
            curves = _curves(best, _softmax(usable, best, int(num_tokens)))
            found.append(Panel(best, "token baseline", int(num_tokens), curves))
    if len({panel.num_tokens for panel in found}) > 1:
        found = [panel if "K " in panel.name else replace(panel, name=_with_tokens(panel)) for panel in found]
    seen: dict[int, int] = {}
    rank = []
    for panel in found:
        seen[panel.num_tokens] = seen.get(panel.num_tokens, -1) + 1
        rank.append(seen[panel.num_tokens])
    return [panel for _, panel in sorted(zip(rank, found, strict=True), key=lambda item: item[0])]


def _with_tokens(panel: Panel) -> str:
    return f"{panel.name}, {panel.num_tokens} token{'' if panel.num_tokens == 1 else 's'}"


def _softmax(tradeoffs: pd.DataFrame, setting: Setting, num_tokens: int) -> pd.DataFrame:
    mask = tradeoffs["run_id"].isin(setting.run_ids) & (tradeoffs["num_tokens"] == num_tokens)
    return tradeoffs[mask & (tradeoffs["sampler"] == SOFTMAX)]


def _name(comparison: Comparison, setting: Setting) -> str:
    words = comparison.name(setting, whole=True)
    return comparison.dimension.name(comparison.key(setting)) if words == MISSING else words


def _curves(setting: Setting, rows: pd.DataFrame) -> list[Curve]:
    """exact, batch by size, noise, softmax. At temperature 1 ``batch`` draws what ``exact`` does, so that point
    begins its curves too where it was not measured."""
    rows = rows.assign(level=[row[_LEVELS[str(row["sampler"])]] for _, row in rows.iterrows()])
    rows = rows[rows["level"].notna()]
    plainest = rows[(rows["sampler"] == "exact") & (rows["level"] == 1.0)]
    found = []
    for sampler in _LEVELS:
        own = rows[rows["sampler"] == sampler]
        sizes = sorted(int(n) for n in own["batch_size"].dropna().unique()) if sampler == "batch" else [None]
        for size in sizes:
            part = own if size is None else own[(own["batch_size"] == size).fillna(False)]
            if size is not None and not (part["level"] == 1.0).any():
                part = pd.concat([plainest, part])
            if len(part):
                found.append(_curve(setting, sampler, size, part))
    return found


def _curve(setting: Setting, sampler: str, batch_size: int | None, rows: pd.DataFrame) -> Curve:
    points = [_mean_point(part) for _, part in rows.groupby("level", sort=True)][::-1]
    runs = [part.sort_values("level", ascending=False) for _, part in rows.groupby("run_id", sort=False)]
    return Curve(setting, sampler, batch_size, pd.DataFrame(points), runs)


def _mean_point(rows: pd.DataFrame) -> dict[str, Any]:
    first = rows.iloc[0]
    found = {"level": float(first["level"]), "sampler": str(first["sampler"]), "num_seeds": len(rows)}
    for name in ("accuracy", "collision"):
        errors = rows[f"{name}_se"].astype(float)
        found[name], found[f"{name}_se"] = mean_over_seeds(rows[name].tolist(), errors.tolist())
        found[f"{name}_own"] = float((errors**2).mean()) ** 0.5
    for name in ("calls_per_chunk", "fallback_share", "seconds_per_token"):
        found[name] = float(rows[name].mean())
    return found


def _usable(points: pd.DataFrame) -> pd.DataFrame:
    return points[points["fallback_share"] <= FALLBACK]


# ---- at equal collision ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """A curve at a collision rate, linearly between its two neighbours there."""

    accuracy: float
    error: float
    """As it is drawn: of the neighbours' errors in both directions."""
    own: float
    """The evaluation's part alone."""
    calls: float


def read(points: pd.DataFrame, level: float, *, error: str = "_se", own: str = "_own") -> Reading | None:
    """None where the curve does not reach. Errors along the collision axis count with the slope."""
    ordered = _usable(points).sort_values("collision", kind="stable")
    x, y = (ordered[name].to_numpy(dtype=float) for name in ("collision", "accuracy"))
    if len(x) < 2 or not x[0] <= level <= x[-1]:
        return None
    right = max(1, int(np.searchsorted(x, level)))
    left, width = right - 1, x[right] - x[right - 1]
    share = (level - x[left]) / width if width > 0 else 0.5
    slope = (y[right] - y[left]) / width if width > 0 else 0.0

    def combined(kind: str) -> float:
        squares = 0.0
        for place, weight in ((left, 1 - share), (right, share)):
            up, along = (float(ordered[f"{name}{kind}"].iloc[place]) for name in ("accuracy", "collision"))
            squares += weight**2 * (up**2 + (slope * along) ** 2)
        return math.sqrt(squares)

    calls = ordered["calls_per_chunk"].to_numpy(dtype=float)
    between = calls[left] ** (1 - share) * calls[right] ** share if (calls > 0).all() else math.nan
    value = y[left] + share * (y[right] - y[left])
    return Reading(float(value), combined(error), combined(own), float(between))


def common_level(curves: Sequence[Curve]) -> float | None:
    """The collision rate at which most curves can be read, ``exact`` and ``softmax`` before others: the middle of
    the widest such stretch. None where no two can."""
    ends = sorted({end for curve in curves for end in curve.reach if math.isfinite(end)})
    best: tuple[float, float] | None = None
    level = None
    for low, high in itertools.pairwise(ends):
        there = [curve for curve in curves if curve.covers((low + high) / 2)]
        telling = sum(curve.sampler in ("exact", SOFTMAX) for curve in there)
        worth = (len(there) + 0.5 * telling, high - low)
        if len(there) > 1 and (best is None or worth > best):
            best, level = worth, (low + high) / 2
    return level


@dataclass(frozen=True, eq=False)
class Row:
    """One curve of a panel at its common collision rate."""

    curve: Curve
    reading: Reading | None
    to_exact: Difference | None = None
    """Accuracy minus that of ``exact``, in percentage points."""
    to_softmax: Difference | None = None


@dataclass(frozen=True, eq=False)
class Compared:
    """A panel at equal collision."""

    panel: Panel
    level: float | None
    rows: list[Row]
    comparisons: int
    num_seeds: int
    """Of the setting; more than one where the intervals hold the noise between seeds."""


def compare_samplers(found: Sequence[Panel]) -> list[Compared]:
    """Every curve against ``exact`` and against the baseline's softmax, corrected for all that are compared."""
    levels = [common_level(panel.curves) for panel in found]
    readings = [
        [read(curve.points, level) if level is not None else None for curve in panel.curves]
        for panel, level in zip(found, levels, strict=True)
    ]
    wanted = [
        (p, i, j)
        for p, panel in enumerate(found)
        for i, curve in enumerate(panel.curves)
        for j, other in enumerate(panel.curves)
        if i != j and other.sampler in ("exact", SOFTMAX) and curve.sampler != SOFTMAX
        if readings[p][i] is not None and readings[p][j] is not None
    ]
    noise = _seed_scatter(found, levels)
    gaps = {}
    for p, i, j in wanted:
        ours, theirs = readings[p][i], readings[p][j]
        assert ours is not None
        assert theirs is not None
        pair = (found[p].curves[i], found[p].curves[j])
        gaps[p, i, pair[1].sampler] = _gap(ours, theirs, pair, noise, len(wanted))
    return [
        Compared(
            panel,
            levels[p],
            [
                Row(curve, readings[p][i], gaps.get((p, i, "exact")), gaps.get((p, i, SOFTMAX)))
                for i, curve in enumerate(panel.curves)
            ],
            max(1, len(wanted)),
            panel.setting.num_seeds,
        )
        for p, panel in enumerate(found)
    ]


@dataclass(frozen=True)
class _Scatter:
    """Between seeds, pooled over curves: standard deviation and degrees of freedom (of seeds, not of curves, which
    share them)."""

    sd: float
    dof: int


def _seed_scatter(found: Sequence[Panel], levels: Sequence[float | None]) -> dict[bool, _Scatter | None]:
    """Of the difference of two samplers of one setting (True), of one curve (False)."""
    result: dict[bool, _Scatter | None] = {}
    for paired in (True, False):
        squares, settings = [], dict[int, int]()
        for panel, level in zip(found, levels, strict=True):
            exact = next((curve for curve in panel.curves if curve.sampler == "exact"), None)
            for curve in panel.curves:
                if level is None or (paired and (exact is None or curve is exact or curve.sampler == SOFTMAX)):
                    continue
                values = _by_seed(curve, level)
                if paired and exact is not None:
                    base = _by_seed(exact, level)
                    values = {run: value - base[run] for run, value in values.items() if run in base}
                if len(values) > 1:
                    squares.append(float(np.var(list(values.values()), ddof=1)))
                    settings[id(curve.setting)] = len(values) - 1
        pooled = math.sqrt(float(np.mean(squares))) if squares else 0.0
        result[paired] = _Scatter(pooled, sum(settings.values())) if squares else None
    return result


def _by_seed(curve: Curve, level: float) -> dict[str, float]:
    """Accuracy at the level of each run that reaches it."""
    found = {}
    for rows in curve.runs:
        reading = read(rows, level, own="_se")
        if reading is not None:
            found[str(rows["run_id"].iloc[0])] = reading.accuracy
    return found


def _gap(
    ours: Reading,
    theirs: Reading,
    curves: tuple[Curve, Curve],
    noise: dict[bool, _Scatter | None],
    comparisons: int,
) -> Difference:
    """First minus second, in percentage points."""
    value, error = ours.accuracy - theirs.accuracy, math.hypot(ours.own, theirs.own)
    if not (math.isfinite(error) and error > 0):
        return Difference(value, comparisons=comparisons)
    windows = min(num_windows(curve) for curve in curves)
    half = t_quantile(max(windows - 1, 1), comparisons=comparisons) * error
    same = curves[0].setting is curves[1].setting
    scatter = noise[same]
    if scatter is not None:
        seeds = [len(curve.runs) for curve in curves]
        share = 1 / min(seeds) if same else 1 / seeds[0] + 1 / seeds[1]
        half = math.hypot(half, t_quantile(scatter.dof, comparisons=comparisons) * scatter.sd * math.sqrt(share))
    return Difference(value, value - half, value + half, comparisons)


def num_windows(curve: Curve) -> int:
    """What the points' errors rest on."""
    known = [int(n) for rows in curve.runs for n in rows["num_windows"] if not missing(n)]
    return max(2, min(known, default=TradeoffConfig().num_windows))


def level_words(curve: Curve, level: float) -> str:
    return f"{curve.symbol} = {plain(level)}"

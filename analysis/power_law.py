"""BrierLM of each family as a function of compute: what is fitted, in which form, and what the data do not say.

A family's curve is meant for its best size at each budget, so it goes through the points of its frontier: of the
settings that share a budget the best (by the mean over its seeds), and no point that a cheaper one of another
setting beats beyond the error of both. The best as measured is a lucky one: where three settings are nearly alike,
the band about the curve holds the truth in 77 % of tables only, exponents and ratios in 95 % as they should
(tests/bench/fit_coverage.py). Points are of one kind and one fingerprint (METHOD section 7). Two forms are tried
(``analysis.power_forms``); the saturating one is kept only where Akaike's criterion is lower by ``WORTH``.

Where a family has few runs, what single runs scatter by is pooled over families.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.families import family_names
from analysis.fitting import NUM_DRAWS, Fit, Predicted, Scatter, decades_beyond, fit
from analysis.frontier import last_points, select
from analysis.power_forms import HIGHEST, Power, Saturating, ScoreLaw
from analysis.solving import Array

SAME_BUDGET = 0.05
"""Costs this close (relative) are one budget: runs round theirs up to whole steps."""
SAME_SIZE = 0.02
"""Parameter counts this close (relative) are one size."""
BEYOND_ERROR = 1.96
"""Errors of a difference, beyond which a cheaper point beats a dearer one."""
WORTH = 2.0
"""What the criterion must fall by for a parameter more."""
OWN_SCATTER = 8.0
"""Degrees of freedom from which a family tells its own scatter."""
_LEVEL_FACTOR = 3.0
"""An interval of the level wider than this factor says nothing."""
_PLACES = 5
"""Different costs that a saturating curve needs."""


@dataclass(frozen=True)
class FamilyCurve:
    """BrierLM over cost of one family; ``fit.reason`` says why there is none."""

    family: str
    fit: Fit
    points: pd.DataFrame
    """That the curve goes through, cheapest first."""
    others: pd.DataFrame
    """Of the family, off its frontier."""
    cost: str
    aicc: dict[str, float] = field(default_factory=dict)
    """By form."""
    num_settings: int = 1
    """Largest number of settings at one budget, of which the best was taken."""

    @property
    def there(self) -> bool:
        return self.fit.there

    @property
    def law(self) -> ScoreLaw:
        assert isinstance(self.fit.law, ScoreLaw)
        return self.fit.law

    @property
    def range(self) -> tuple[float, float]:
        """Cheapest and dearest cost that the curve was fitted to."""
        costs = self.points[self.cost].astype(float)
        return float(costs.min()), float(costs.max())

    def at(self, cost: Array | Sequence[float]) -> Predicted:
        """BrierLM at a cost, at most 100. Raises ValueError where there is no curve."""
        seen = self.fit.predict(np.atleast_1d(self.law.u(np.asarray(cost, dtype=float))))
        return Predicted(*(np.minimum(part, HIGHEST) for part in (seen.value, seen.low, seen.high)))

    def decades_beyond(self, cost: float) -> float:
        """How many factors of ten a cost lies outside the data."""
        return decades_beyond(cost, *self.range)

    def exponent(self) -> tuple[float, float, float] | None:
        """Growth exponent at small scores with its 95 % interval; None where the data do not say."""
        if not self.there or not self.fit.identified(1):
            return None
        return (float(self.fit.theta[1]), *self.fit.interval(1))

    def level(self) -> tuple[float, float, float] | None:
        """BrierLM that the curve levels off at, with its interval; None where no saturation was seen or the data
        do not say at what."""
        if not self.saturates:
            return None
        low, high = self.fit.interval(self.law.level)
        value = float(self.law.level(self.fit.theta[None])[0])
        if not math.isfinite(low) or high > 0.95 * HIGHEST or high > _LEVEL_FACTOR * low or self.fit.singular:
            return None
        return value, low, high

    @property
    def saturates(self) -> bool:
        return self.there and isinstance(self.law, Saturating)

    @property
    def grows(self) -> bool:
        """Whether the data say that the score rises with compute."""
        return self.there and self.fit.has_interval and self.fit.interval(1)[0] > 0


@dataclass(frozen=True)
class PowerLaws:
    """The curves of all families over one cost."""

    cost: str
    kind: str
    """constant or decayed; empty without points."""
    curves: list[FamilyCurve]
    notes: list[str]
    """What was left out and what follows from it, in sentences."""
    scatter: float = math.nan
    """Of ln BrierLM between runs, pooled; not-a-number where nothing tells."""

    def of(self, family: str) -> FamilyCurve | None:
        """The curve of a family, None where there is no such family."""
        return next((curve for curve in self.curves if curve.family == family), None)

    @property
    def fitted(self) -> list[FamilyCurve]:
        return [curve for curve in self.curves if curve.there]


def fit_power_laws(
    evaluations: pd.DataFrame,
    *,
    cost: str = "train_flops",
    kind: str | None = None,
    family: str | None = None,
    num_draws: int = NUM_DRAWS,
) -> PowerLaws:
    """Fit every family of a table of evaluations (``analysis.rows.EVALUATION_COLUMNS``).

    ``cost``: one of ``analysis.frontier.AXES``; of inference costs each run has one, so its last point is taken.
    ``kind``: constant or decayed, None chooses (``analysis.frontier.choose_kind``). ``family``: column that names
    the family, by default ``analysis.families.family_names``. Raises ValueError for an unknown kind or cost; never
    for awkward data."""
    rows, notes = _one_fingerprint(evaluations)
    chosen = select(rows, cost=cost, kind=kind)
    points = last_points(chosen.points) if cost.startswith("infer") else chosen.points
    notes += [f"{note[0].upper()}{note[1:]}." for note in chosen.notes]
    if any("BrierLM is 0" in note for note in chosen.notes):
        notes.append(
            "Where scores near 0 are left out, those that remain are the lucky ones: curves lie too high at their "
            "cheap end and exponents come out too low."
        )
    if points.empty:
        if len(evaluations) and not notes:
            num = len(evaluations)
            notes.append(f"All {num} points are left out: none has a BrierLM that is more than a bound.")
        return PowerLaws(cost, chosen.kind, [], notes)
    names = family_names(points) if family is None else points[family].astype(str)
    first = [
        _first(str(name), points[names == name].reset_index(drop=True), cost) for name in dict.fromkeys(names)
    ]
    first.sort(key=lambda curve: _place(curve.family))
    pool = Scatter.pooled([c.fit.scatter for c in first if c.fit.scatter is not None and _single(c)])
    curves = [_final(curve, pool, num_draws) for curve in first]
    return PowerLaws(cost, chosen.kind, curves, notes + _curse(curves), pool.sd() if pool.dof >= 1 else math.nan)


def _one_fingerprint(evaluations: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Rows of the fingerprint that most runs have."""
    if evaluations["fingerprint"].nunique() < 2:
        return evaluations, []
    counts = evaluations.groupby("fingerprint")["run_id"].nunique()
    best = max(counts.index, key=lambda value: (counts[value], str(value)))
    kept = evaluations[evaluations["fingerprint"] == best]
    return kept, [
        f"{len(evaluations) - len(kept)} points were scored on other text or positions and are left out."
    ]


def _place(family: str) -> tuple[bool, int, str]:
    """By K, the token baseline last."""
    digits = "".join(c for c in family.split(",")[0] if c.isdigit())
    return (not digits, int(digits or 0), family)


RECIPE = "recipe"
"""Column of a caller that knows what runs differ in: equal where they differ in budget and seed alone."""


def envelope(points: pd.DataFrame, cost: str) -> tuple[npt.NDArray[np.bool_], int]:
    """(n,) mask of the points of a family that its curve goes through, and the largest number of settings at one
    budget. ``points``: scores above 0 of one kind.

    Of the settings within ``SAME_BUDGET`` of one cost the best by the mean of ln BrierLM over its runs; then no
    point that a cheaper one of another setting beats by more than ``BEYOND_ERROR`` errors of their difference (of
    the same setting it was luck, and to drop the unlucky ones would lift the curve)."""
    costs, scores = points[cost].to_numpy(dtype=float), np.log(points["brierlm"].to_numpy(dtype=float))
    se = pd.to_numeric(points["brierlm_se"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    variance = np.nan_to_num(se, nan=0.0) ** 2 / np.exp(2 * scores)
    settings, kept, most = _settings(points, cost), np.zeros(len(points), dtype=bool), 1
    for group in _budgets(costs):
        own = settings[group]
        means = {s: scores[group][own == s].mean() for s in np.unique(own)}
        kept[group[own == max(means, key=lambda s: (means[s], -s))]] = True
        most = max(most, len(means))
    cheaper = (costs[None, :] < costs[:, None] / (1 + SAME_BUDGET)) & (settings[None, :] != settings[:, None])
    ahead = scores[None, :] - scores[:, None] > BEYOND_ERROR * np.sqrt(variance[None, :] + variance[:, None])
    known = variance > 0  # without errors nothing is beaten beyond them
    lost = cheaper & ahead & known[None, :] & known[:, None] & kept[None, :]
    return kept & ~lost.any(axis=1), most


def _budgets(costs: Array) -> list[npt.NDArray[np.intp]]:
    """Indices of the points of each budget: within ``SAME_BUDGET`` of its cheapest."""
    order = np.argsort(costs, kind="stable")
    found: list[list[int]] = []
    for i in order:
        if not found or costs[i] > costs[found[-1][0]] * (1 + SAME_BUDGET):
            found.append([])
        found[-1].append(int(i))
    return [np.array(group) for group in found]


def _settings(points: pd.DataFrame, cost: str) -> npt.NDArray[np.int64]:
    """(n,) number of the setting: where ``RECIPE`` says it, that; else its size, over inference costs its tokens;
    where that is not known a run is its own."""
    if RECIPE in points and points[RECIPE].notna().all() and not cost.startswith("infer"):
        return np.asarray(pd.factorize(points[RECIPE])[0], dtype=np.int64)
    column = "tokens" if cost.startswith("infer") else "model_parameters"
    if column not in points or points[column].isna().any():
        return np.asarray(pd.factorize(points["run_id"].astype(str))[0], dtype=np.int64)
    values = np.log(points[column].to_numpy(dtype=float))
    order = np.argsort(values, kind="stable")
    number = np.concatenate([[0], np.cumsum(np.diff(values[order]) > SAME_SIZE)])
    result = np.empty(len(points), dtype=np.int64)
    result[order] = number
    return result


def _single(curve: FamilyCurve) -> bool:
    return curve.fit.num_points == curve.fit.num_runs


def _fit(curve: FamilyCurve, law: ScoreLaw, **options: object) -> Fit:
    points = curve.points
    se = pd.to_numeric(points["brierlm_se"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    seed = zlib.crc32(f"{curve.family} {curve.cost}".encode())  # families err independently
    runs = points["run_id"].astype(str).to_numpy()
    x, scores = law.u(points[curve.cost].to_numpy(dtype=float)), points["brierlm"].to_numpy(dtype=float)
    return fit(law, x, scores, se=se, runs=runs, seed=seed, **options)  # type: ignore[arg-type]


def _first(family: str, points: pd.DataFrame, cost: str) -> FamilyCurve:
    """Points, form by the criterion, no intervals yet."""
    mask, most = envelope(points, cost)
    on = points[mask].sort_values([cost, "run_id"], kind="stable").reset_index(drop=True)
    costs, scores = on[cost].to_numpy(dtype=float), on["brierlm"].to_numpy(dtype=float)
    middle, height = float(np.exp(np.log(costs).mean())), float(np.exp(np.log(scores).mean()))
    power = Power(middle, height)
    curve = FamilyCurve(family, Fit(power), on, points[~mask], cost, num_settings=most)
    curve = replace(curve, fit=_fit(curve, power, num_draws=0))
    if not curve.there or len(_budgets(costs)) < _PLACES:
        return curve
    bent = _fit(curve, Saturating(middle, height), num_draws=0)
    if not bent.there:
        return curve
    same = [_fit(curve, law, tau=bent.tau, num_draws=0) for law in (curve.law, bent.law)]  # type: ignore[arg-type]
    aicc = {one.law.name: one.aicc for one in same}
    better = aicc["saturating"] < aicc["power"] - WORTH
    return replace(curve, fit=bent if better else curve.fit, aicc=aicc)


def _final(curve: FamilyCurve, pool: Scatter, num_draws: int) -> FamilyCurve:
    own = curve.fit.scatter
    if not curve.there or own is None:
        return curve
    lent = pool if own.dof < OWN_SCATTER and _single(curve) and pool.dof >= 1 else None
    return replace(curve, fit=_fit(curve, curve.law, scatter=lent, num_draws=num_draws))


def _curse(curves: Sequence[FamilyCurve]) -> list[str]:
    most = max((curve.num_settings for curve in curves), default=1)
    if most < 2:
        return []
    return [
        f"At each budget the best of up to {most} settings is taken as measured, which favours lucky ones: "
        "where settings are nearly alike, curves lie too high, by more than their bands say. Exponents and ratios "
        "hardly change by it."
    ]

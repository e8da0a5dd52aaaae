"""The Pareto frontier: most BrierLM for least compute, exactly and never across schedules.

Points along a run are comparable only while its rate is constant; an end point after a decay is
comparable only with other such end points. The two kinds get a frontier each.

``pareto``, ``frontier`` and ``frontiers`` take the scores as they stand. ``with_status`` respects their errors: a
point is dominated only where another one that costs no more is better beyond the interval of their difference.
Bands about a frontier: ``analysis.frontier_bands``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize, special  # type: ignore[import-untyped]

from workbench.seeds import SeedNoise
from workbench.uncertainty import LEVEL

KINDS = ("constant", "decayed")
"""Phases whose points may be compared with one another; warm-up and mid-decay points never are."""

COSTS = {
    "train_flops": "without the autoencoder",
    "train_flops_with_autoencoder": "with the autoencoder's training in full",
}
AXES = {
    "train_flops": "training FLOPs (without autoencoder)",
    "train_flops_with_autoencoder": "training FLOPs (with autoencoder)",
    "train_flops_published": "training FLOPs (published count)",
    "infer_flops_per_token": "inference FLOPs per token",
    "infer_flops_per_token_published": "inference FLOPs per token (published count)",
}
"""Costs that a frontier can be drawn over, as an axis names them."""


SAME_COST = 0.01
"""Costs this close (relative) are one budget: runs round it up to whole steps of their own, and a setting
must not reach the frontier by a smaller rounding error."""


def pareto(cost: Sequence[float], score: Sequence[float], *, same_cost: float = 0.0) -> npt.NDArray[np.bool_]:
    """(n,) mask of the points that no other point dominates.

    One dominates another if it costs no more, scores no less, and is strictly better in one of the two;
    equal points do not dominate each other, so ties stay. Not-a-number is never on the frontier. With
    ``same_cost`` a point is also dominated by one that scores more and costs up to that share more."""
    costs, scores = np.asarray(cost, dtype=float), np.asarray(score, dtype=float)
    if costs.shape != scores.shape or costs.ndim != 1:
        raise ValueError(f"one score per cost is wanted, got shapes {costs.shape} and {scores.shape}")
    mask = np.zeros(len(costs), dtype=bool)
    best, best_cost = -np.inf, np.nan
    for i in np.lexsort((-scores, costs)):  # by cost, the best first among equals
        if np.isnan(costs[i]) or np.isnan(scores[i]):
            continue
        if scores[i] > best or (scores[i] == best and costs[i] == best_cost):
            mask[i] = True
            best, best_cost = scores[i], costs[i]
    for i in np.flatnonzero(mask) if same_cost else ():
        mask[i] = not (scores[costs <= costs[i] * (1 + same_cost)] > scores[i]).any()
    return mask


def frontier(evaluations: pd.DataFrame, *, cost: str = "train_flops", kind: str = "constant") -> pd.DataFrame:
    """Frontier points of one kind, cheapest first. Points with a BrierLM of 0 are left out: the score is
    cut off there, and the cheapest such point would be on every frontier. So are points of which only an upper
    bound is known (an order within three of its errors of 0), and those without a known cost (of imported weights,
    0), which would be cheaper than any other.

    Raises ValueError where fingerprints are mixed: scores on other positions are another quantity."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if evaluations["fingerprint"].nunique() > 1:
        raise ValueError("evaluations of several fingerprints cannot share a frontier")
    known = (evaluations["brierlm"] > 0) & (evaluations["weak_orders"].fillna("") == "")
    points = evaluations[(evaluations["phase"] == kind) & known & (evaluations[cost] > 0)]
    points = points[pareto(points[cost].tolist(), points["brierlm"].tolist(), same_cost=SAME_COST)]
    return points.sort_values([cost, "run_id"], kind="stable").reset_index(drop=True)


def frontiers(evaluations: pd.DataFrame, *, cost: str = "train_flops") -> pd.DataFrame:
    """The frontiers of each kind of point in one table, over all models and, where there are baselines,
    over CALM alone (columns ``kind_of_point`` and ``models``)."""
    calm = evaluations[evaluations["kind"] == "calm"]
    groups = {"all": evaluations}
    if 0 < len(calm) < len(evaluations):
        groups["CALM"] = calm
    parts = [
        frontier(points, cost=cost, kind=kind).assign(kind_of_point=kind, models=models)
        for models, points in groups.items()
        for kind in KINDS
    ]
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else parts[0]


ON, CLOSE, DOMINATED, UNKNOWN = "on the frontier", "not told from the frontier", "dominated", "below it, no error"
STATUSES = (ON, CLOSE, UNKNOWN, DOMINATED)
_BLOCK = 1 << 22
"""Pairs of points that are looked at in one go."""


@dataclass(frozen=True)
class InPairs:
    """What m of the points are to one another at the positions they share."""

    places: npt.NDArray[np.intp]
    """(m,) of these points. Must not depend on their scores: these pairs are tested in no other way."""
    ahead: npt.NDArray[np.float64]
    """(m, m) BrierLM by which the second leads the first."""
    half: npt.NDArray[np.float64]
    """(m, m) half-widths of the corrected intervals; not-a-number where a score is only a bound there."""


Paired = Callable[[pd.DataFrame], InPairs | None]
"""None where no two points share positions."""


@dataclass(frozen=True)
class Selected:
    """Points that may share a frontier: one fingerprint, one kind of point, scores that are no bounds."""

    points: pd.DataFrame
    kind: str
    """constant or decayed; empty where there is no point."""
    notes: list[str] = field(default_factory=list)
    """What was left out and why, in sentences."""


def is_known(evaluations: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """(n,) whether the score is a value: above 0, and of no order only a bound is known."""
    scores = pd.to_numeric(evaluations["brierlm"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    known = np.isfinite(scores) & (scores > 0)
    if "weak_orders" in evaluations:
        known &= (evaluations["weak_orders"].fillna("") == "").to_numpy(dtype=bool)
    return np.asarray(known, dtype=bool)


def choose_kind(evaluations: pd.DataFrame) -> str:
    """Which kind of point is shown where there are both: the one that more runs have a known score of, with
    equal numbers the ends of decays (what a model trained for that budget scores). Empty where there is none."""
    runs = evaluations[is_known(evaluations)].groupby("phase")["run_id"].nunique()
    counts = {kind: int(runs.get(kind, 0)) for kind in KINDS}
    best = max(KINDS, key=lambda kind: (counts[kind], kind == "decayed"))
    return best if counts[best] else ""


def select(evaluations: pd.DataFrame, *, cost: str = "train_flops", kind: str | None = None) -> Selected:
    """Points of one kind with a known score and a cost above 0; ``kind``: None chooses by ``choose_kind``.

    Raises ValueError where fingerprints are mixed, for an unknown kind and a cost that is no column."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if cost not in evaluations:
        raise ValueError(f"cost must be a column of the evaluations, got {cost!r}")
    if evaluations["fingerprint"].nunique() > 1:
        raise ValueError("evaluations of several fingerprints cannot share a frontier")
    chosen = choose_kind(evaluations) if kind is None else kind
    spent = pd.to_numeric(evaluations[cost], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    of_kind = (evaluations["phase"] == chosen).to_numpy(dtype=bool)
    known, costed = is_known(evaluations), np.isfinite(spent) & (spent > 0)
    notes = []
    if lost := int((of_kind & ~known).sum()):
        notes.append(f"{lost} of the points left out: their BrierLM is 0 or only a bound")
    if lost := int((of_kind & known & ~costed).sum()):
        notes.append(f"{lost} of the points left out: their cost was not recorded")
    if other := int((known & ~of_kind & evaluations["phase"].isin(KINDS).to_numpy(dtype=bool)).sum()):
        notes.append(f"{other} points of the other kind, which has a frontier of its own")
    return Selected(evaluations[of_kind & known & costed].reset_index(drop=True), chosen, notes)


def last_points(points: pd.DataFrame) -> pd.DataFrame:
    """The last point of each run: what a run costs to use does not depend on how long it was trained."""
    return points.sort_values("step", kind="stable").groupby("run_id", sort=False).tail(1).reset_index(drop=True)


@lru_cache(maxsize=1024)
def common_quantile(dof: float, num: int, *, level: float = LEVEL) -> float:
    """k so that the largest of ``num`` normal errors, divided by one estimate of their standard deviation that
    they share (``dof`` degrees of freedom), stays below k with a chance of 1 - (1 - level) / 2.

    Errors that are independent, or go together, stay below it at least that often (Slepian's inequality). For
    num = 1 it is Student's t; corrections for many t quantiles one by one would be several times larger where
    ``dof`` is small, since the one estimate is wrong for all of them or for none."""
    if not dof >= 1:
        return math.inf
    tail = (1 - level) / 2
    high = float(special.stdtrit(dof, 1 - tail / num))
    if num == 1 or not math.isfinite(high):
        return high
    # chi-square by its quantiles, finer towards 0, where the estimate is too small and errors look large
    shares = (np.arange(2000) + 0.5) / 2000
    share = shares**3
    weights = 3 * shares**2 / 2000
    scale = np.sqrt(special.chdtri(dof, 1 - share) / dof)

    def beyond(k: float) -> float:
        return float((weights * -np.expm1(num * special.log_ndtr(k * scale))).sum()) - tail

    return float(optimize.brentq(beyond, 0.0, high * 1.01))


def reaches(points: pd.DataFrame, noise: SeedNoise | None = None, *, num: int = 1) -> npt.NDArray[np.float64]:
    """(n,) how far above or below its score the true one may lie: half-width of a 95 % interval, corrected for
    ``num`` points that are looked at together. Not-a-number where no error is known.

    Evaluation noise: ``brierlm_se`` with Student's t at ``num_clusters`` - 1 (normal where that is not recorded).
    Training noise, where ``noise`` is given: its standard deviation over the root of ``num_seeds`` (1 where there
    is no such column). The two are added in squares of half-widths, each with its own degrees of freedom
    (``workbench.seeds.setting_difference``)."""
    errors = pd.to_numeric(points["brierlm_se"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    errors = np.where(errors > 0, errors, np.nan)
    half = evaluation_quantile(degrees(points), num) * errors
    if noise is not None:
        seeds = points["num_seeds"].to_numpy(dtype=float) if "num_seeds" in points else np.ones(len(points))
        half = np.hypot(half, common_quantile(noise.dof, num) * noise.sd / np.sqrt(seeds))
    return np.asarray(half)


def degrees(points: pd.DataFrame) -> npt.NDArray[np.float64]:
    """(n,) of freedom of the scores' errors, ``num_clusters`` - 1; not-a-number where that is not recorded."""
    if "num_clusters" not in points:
        return np.full(len(points), np.nan)
    counts = pd.to_numeric(points["num_clusters"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    return np.asarray(np.maximum(counts - 1, 1))  # a not-a-number stays one


def evaluation_quantile(dof: npt.NDArray[np.float64], num: int = 1) -> npt.NDArray[np.float64]:
    """(n,) of Student's t, of the normal distribution where ``dof`` is not known, corrected for ``num``."""
    distinct, place = np.unique(dof, return_inverse=True)
    tail = (1 - LEVEL) / (2 * num)
    normal = -float(special.ndtri(tail))
    return np.asarray(np.where(np.isnan(distinct), normal, special.stdtrit(distinct, 1 - tail))[place])


def beaten_by(
    cost: npt.ArrayLike, score: npt.ArrayLike, reach: npt.ArrayLike, able: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.intp]:
    """(n,) index of the point that beats each one most surely, -1 where none does: one that costs no more (up to
    ``SAME_COST``) and scores more beyond the interval of the difference, by more than the root of the two
    reaches' squares. One without a reach neither beats nor is beaten; ``able``: (n,) points that may beat.

    Only points that no cheaper one excels both in score and in score minus reach can be the one that beats another
    most surely (for every r, sqrt(R^2 + r^2) grows by at most as much as R), so few are looked at in full."""
    costs, scores, reaches_ = (np.asarray(values, dtype=float) for values in (cost, score, reach))
    result = np.full(len(costs), -1, dtype=np.intp)
    usable = np.flatnonzero(np.isfinite(costs) & np.isfinite(scores) & np.isfinite(reaches_))
    if not len(usable):
        return result
    order = usable[np.argsort(costs[usable], kind="stable")]
    c, s, r = costs[order], scores[order], reaches_[order]
    places = np.arange(len(c)) if able is None else np.flatnonzero(able[order])
    if not len(places):
        return result
    best_ones = places[_able(s[places], (s - r)[places])]
    ends = np.searchsorted(c, c * (1 + SAME_COST), side="right")  # points from here on cost more
    allowed = np.searchsorted(best_ones, ends)  # how many of the best ones do not
    step = max(1, _BLOCK // max(len(best_ones), 1))
    for start in range(0, len(c), step):
        rows = slice(start, start + step)
        beyond = s[best_ones][None, :] - s[rows, None]
        beyond -= np.hypot(r[best_ones][None, :], r[rows, None])
        beyond[np.arange(len(best_ones))[None, :] >= allowed[rows, None]] = -np.inf
        best = beyond.argmax(axis=1)
        sure = beyond[np.arange(len(best)), best] > 0
        result[order[rows]] = np.where(sure, order[best_ones[best]], -1)
    return result


def _able(score: npt.NDArray[np.float64], low: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Indices, in order of cost, of the points that may beat others: those that neither the best score nor the
    best lower end among the cheaper ones excels in both."""
    keep = np.ones(len(score), dtype=bool)
    places = np.arange(len(score))
    for values in (score, low):
        top = np.maximum.accumulate(values)
        new = np.concatenate([[True], top[1:] > top[:-1]])
        holder = np.maximum.accumulate(np.where(new, places, 0))  # first point with the highest value so far
        before = np.concatenate([[0], holder[:-1]])
        excelled = (score[before] >= score) & (low[before] >= low) & (before < places)
        keep &= ~excelled
    return np.flatnonzero(keep)


def with_status(
    points: pd.DataFrame,
    *,
    cost: str = "train_flops",
    noise: SeedNoise | None = None,
    paired: Paired | None = None,
) -> pd.DataFrame:
    """``points`` (``select``), cheapest first, with the columns ``status``, ``reach`` (``reaches``), and ``gap``,
    ``gap_low``, ``gap_high``: BrierLM below the point that dominates it most surely, else below the best that
    costs no more (0 for that itself), with its corrected 95 % interval.

    * *on the frontier*: no other point that costs no more scores more.
    * *not told from the frontier*: some do, but none beyond the interval of the difference.
    * *dominated*: one does beyond it.

    The interval is corrected for all other points of the group, so that a point which truly is the best of those
    that cost no more is kept with a chance of at least 95 % (subset selection, Gupta 1965). It holds for each
    point by itself, not for all at once. ``paired``: compares at the same positions
    (``analysis.frontier_pairs``). Each pair of points has one test, so that the 95 % hold: the paired one
    where both have shared positions, whatever it says, else that of independent errors."""
    points = points.sort_values([cost, "run_id"], kind="stable").reset_index(drop=True)
    costs, scores = points[cost].to_numpy(dtype=float), points["brierlm"].to_numpy(dtype=float)
    reach = reaches(points, noise, num=max(1, len(points) - 1))
    on = pareto(costs.tolist(), scores.tolist(), same_cost=SAME_COST)
    together = paired(points) if paired is not None and len(points) else None
    better = beaten_by(costs, scores, reach)
    if together is not None:
        others = ~np.isin(np.arange(len(points)), together.places)
        better = np.where(others, better, beaten_by(costs, scores, reach, others))
    lost = better >= 0
    better = np.where(lost, better, _best_before(costs, scores))
    gap = scores[better] - scores
    half = np.where(gap > 0, np.hypot(reach, reach[better]), 0.0)
    if together is not None:
        lost = lost | _settle_in_pairs(together, costs, better, gap, half, lost)
        gap[on], half[on] = 0.0, 0.0  # at the positions of all, which the score is of, nothing is above them
    gaps = np.stack([gap, gap - half, gap + half], axis=1)
    status = np.where(on, ON, np.where(lost, DOMINATED, np.where(np.isnan(reach), UNKNOWN, CLOSE)))
    columns = dict(zip(("gap", "gap_low", "gap_high"), gaps.T, strict=True))
    return points.assign(status=status, reach=reach, **columns)


def _settle_in_pairs(
    pairs: InPairs,
    costs: npt.NDArray[np.float64],
    better: npt.NDArray[np.intp],
    gap: npt.NDArray[np.float64],
    half: npt.NDArray[np.float64],
    lost: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """(n,) whether beaten in pairs; ``gap`` and ``half`` become those of the pair where it decides."""
    places = pairs.places
    spent, rows = costs[places], np.arange(len(places))
    possible = (spent[None, :] <= spent[:, None] * (1 + SAME_COST)) & np.isfinite(pairs.half)
    beyond = np.where(possible, pairs.ahead - pairs.half, -np.inf)
    beater = beyond.argmax(axis=1)
    beaten = beyond[rows, beater] > 0
    index = np.full(len(costs), -1)
    index[places] = rows
    shown = np.where(beaten, beater, index[better[places]])  # else the best that costs no more
    surer = beyond[rows, beater] > (gap - half)[places]
    change = (beaten & (surer | ~lost[places])) | (~beaten & ~lost[places] & (shown >= 0) & (gap[places] > 0))
    gap[places[change]] = pairs.ahead[rows, shown][change]
    half[places[change]] = pairs.half[rows, shown][change]
    result = np.zeros(len(costs), dtype=bool)
    result[places[beaten]] = True
    return result


def _best_before(costs: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Index of the best that costs no more, by ascending cost."""
    if not len(costs):
        return np.zeros(0, dtype=np.intp)
    ends = np.searchsorted(costs, costs * (1 + SAME_COST), side="right")
    top = np.maximum.accumulate(scores)
    new = np.concatenate([[True], top[1:] > top[:-1]])
    return np.asarray(np.maximum.accumulate(np.where(new, np.arange(len(scores)), 0))[ends - 1])


def by_seed(evaluations: pd.DataFrame, settings: Mapping[str, Hashable]) -> pd.DataFrame:
    """The checkpoints of runs that differ in their seed only, put together: one row a setting and checkpoint.

    ``settings``: by run id; a run that is not named is a setting of its own. ``brierlm`` is the mean over seeds,
    ``brierlm_se`` the root mean square (the seeds are scored at the same positions, so it is not divided by their
    number), costs and tokens the mean, ``num_seeds`` their number, ``run_id`` the first's. Where any seed's
    score is a bound the row has none (not-a-number): the mean with it would be a bound, that of the others
    too high. ``select`` leaves such rows out and counts them."""
    rows = evaluations
    keys = [settings.get(str(run_id), str(run_id)) for run_id in rows["run_id"]]
    groups = rows.assign(_setting=pd.factorize(pd.Series(keys, dtype=object))[0]).groupby(
        ["_setting", "fingerprint", "phase", "step"], sort=False, dropna=False
    )
    merged = groups.head(1).set_index(["_setting", "fingerprint", "phase", "step"])
    means = [name for name in ("brierlm", *AXES, "tokens", "cross_entropy") if name in rows]
    numbers = rows[means].apply(pd.to_numeric, errors="coerce").astype(float)
    unknown = ~is_known(rows)
    keyed = numbers.assign(
        _unknown=unknown, _square=pd.to_numeric(rows["brierlm_se"], errors="coerce").astype(float) ** 2
    )
    for name in ("_setting", "fingerprint", "phase", "step"):
        keyed[name] = groups.obj[name]
    summed = keyed.groupby(["_setting", "fingerprint", "phase", "step"], sort=False, dropna=False)
    average = summed.mean()
    for name in means:
        merged[name] = average[name]
    merged["brierlm"] = average["brierlm"].where(average["_unknown"] == 0)
    merged["brierlm_se"] = np.sqrt(average["_square"])
    merged["num_seeds"] = groups["run_id"].nunique()
    return merged.reset_index().drop(columns="_setting")[[*evaluations.columns, "num_seeds"]]

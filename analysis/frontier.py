"""The Pareto frontier: most BrierLM for least compute, exactly and never across schedules.

Points along a run are comparable only while its rate is constant; an end point after a decay is
comparable only with other such end points. The two kinds get a frontier each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

KINDS = ("constant", "decayed")
"""Phases whose points may be compared with one another; warm-up and mid-decay points never are."""

COSTS = {
    "train_flops": "without the autoencoder",
    "train_flops_with_autoencoder": "with the autoencoder's training in full",
}


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
    bound is known (an order within three of its errors of 0).

    Raises ValueError where fingerprints are mixed: scores on other positions are another quantity."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if evaluations["fingerprint"].nunique() > 1:
        raise ValueError("evaluations of several fingerprints cannot share a frontier")
    known = (evaluations["brierlm"] > 0) & (evaluations["weak_orders"].fillna("") == "")
    points = evaluations[(evaluations["phase"] == kind) & known]
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

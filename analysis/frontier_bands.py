"""Bands about a frontier: the best score attainable for a cost, with what errors and single runs leave open.

The highest of noisy scores is too high (winner's curse), and the more so the more points are nearly best. Drawing
the scores again (parametric bootstrap) shows how much, but its percentiles are no interval: the drawn maximum
carries the noise twice. So the two are kept apart:

* ``low`` and ``high`` bound T(c), *the highest true score among the settings that were run and cost at most c*, at
  95 % for each cost by itself. The true score is the mean over endlessly many positions and samples and, where
  training noise is given, over seeds. With reach r_i(m), the half-width of a point's interval corrected for m
  points, high = max (score_i + r_i(1)): whichever point is truly best lies below its own upper end, so nothing
  need be corrected. low = max (score_i - r_i(n)) over the n points that cost at most c: all of them lie above
  their corrected lower ends at once. This holds however the errors of different points go together (all are
  scored on the same positions). Measured (tests/bench/frontier_coverage.py, 1,000 tables each): 98 to 100 % held,
  at the worst cost 96 to 99.8 %, where from one to all points are best; percentiles of the bootstrap held 4 to
  95 %. Where training noise of three standard errors was there and not told, the band held 63 %.
* ``corrected`` is the best score less its mean excess in draws: every score drawn again with its standard error
  and, where training noise is given, one further draw for each run, which its checkpoints share. It takes away
  a part of the winner's curse only (with points that are truly equal less than half).
* ``low_redrawn`` is the 2.5 % quantile of the best score when errors *and runs* are drawn again: whole runs with
  replacement, among those that end at the same budget. It says how much hangs on single runs. A budget
  with one run is not varied by it.

What no band here covers: settings that were not run, other texts, and training noise where no setting was
repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.families import OVERALL, families
from analysis.frontier import SAME_COST, common_quantile, degrees, evaluation_quantile
from workbench.seeds import SeedNoise
from workbench.uncertainty import LEVEL

Array = npt.NDArray[np.float64]
DRAWS = 400
MAX_GRID = 200
SAME_BUDGET = 0.05
"""Runs that end at costs this close (relative) have one budget, among whose runs is drawn."""
_FAR = 4.0
"""A point that lies behind another by this many errors of both is the highest in no draw (chance 1e-8 in each)."""
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Band:
    """Arrays of equal length G, by ascending cost; steps: each value holds up to the next cost."""

    family: str
    costs: Array
    best: Array
    """Highest score among the points up to this cost, as it was measured."""
    corrected: Array
    low: Array
    high: Array
    low_redrawn: Array
    num_points: npt.NDArray[np.int64]
    """Points up to this cost, for which ``low`` is corrected."""

    @property
    def bias(self) -> Array:
        """Estimated winner's curse in ``best``, BrierLM points; 0 or more but for the draws' own noise."""
        return np.asarray(self.best - self.corrected)

    def at(self, cost: float) -> int | None:
        """Index of the step that holds at ``cost``; None below the cheapest point."""
        place = int(np.searchsorted(self.costs, cost * (1 + SAME_COST), side="right")) - 1
        return place if place >= 0 else None

    def frame(self) -> pd.DataFrame:
        """One row a step."""
        names = ("costs", "best", "corrected", "low", "high", "low_redrawn", "num_points")
        return pd.DataFrame({"family": self.family, **{name: getattr(self, name) for name in names}})


def bands(
    points: pd.DataFrame,
    *,
    cost: str = "train_flops",
    noise: SeedNoise | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Band]:
    """Of each family and, where there are several, of all models together; of points of one kind and one
    fingerprint (``analysis.frontier.select``). Families without a point whose error is known are left out."""
    parts = [(family.name, part) for family, part in families(points)]
    if len(parts) > 1:
        parts.append((OVERALL, points))
    found = [band(part, family=name, cost=cost, noise=noise, draws=draws, seed=seed) for name, part in parts]
    return [one for one in found if one is not None]


def band(
    points: pd.DataFrame,
    *,
    family: str = OVERALL,
    cost: str = "train_flops",
    noise: SeedNoise | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Band | None:
    """Of the points as one group; None where none has a known error."""
    errors = pd.to_numeric(points["brierlm_se"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    points = points[errors > 0].sort_values([cost, "run_id"], kind="stable")
    if points.empty:
        return None
    costs, scores = points[cost].to_numpy(dtype=float), points["brierlm"].to_numpy(dtype=float)
    grid = _grid(costs)
    ends = np.searchsorted(costs, grid * (1 + SAME_COST), side="right")
    errors = points["brierlm_se"].to_numpy(dtype=float)
    seeds = points["num_seeds"].to_numpy(dtype=float) if "num_seeds" in points else np.ones(len(points))
    training = (noise.sd if noise is not None else 0.0) / np.sqrt(seeds)
    low, high = _bounds(degrees(points), scores, errors, training, noise, ends)
    lasting = (noise.sd_training if noise is not None else 0.0) / np.sqrt(seeds)
    runs = pd.factorize(points["run_id"].astype(str))[0]
    near = _near(scores, np.hypot(errors, lasting))
    drawn = _Drawn(
        scores[near],
        errors[near],
        lasting[near],
        runs[near],
        _budgets(costs, runs),
        np.concatenate([[0], np.cumsum(near)])[ends],
    )
    best = np.maximum.accumulate(scores)[ends - 1]
    bias, low_redrawn = drawn.summaries(draws, np.random.default_rng(seed), best)
    return Band(family, grid, best, best - bias, low, high, low_redrawn, ends.astype(np.int64))


def _grid(costs: Array) -> Array:
    """Ascending costs: those of the points, nearly equal ones once; evenly in the logarithm where there are too
    many."""
    kept = [float(costs[0])]
    distinct = np.unique(costs)
    if len(distinct) > MAX_GRID:
        even = np.geomspace(distinct[0], distinct[-1], MAX_GRID)
        return np.asarray(np.unique(distinct[np.searchsorted(distinct, even, side="right") - 1]))
    for value in distinct:
        if value > kept[-1] * (1 + SAME_COST):
            kept.append(float(value))
    return np.asarray(kept)


def _near(scores: Array, errors: Array) -> npt.NDArray[np.bool_]:
    """(n,) the points that may be the highest of those up to their cost, by ascending cost."""
    return np.asarray(scores + _FAR * errors >= np.maximum.accumulate(scores - _FAR * errors))


def _bounds(
    dof: Array,
    scores: Array,
    errors: Array,
    training: Array,
    noise: SeedNoise | None,
    ends: npt.NDArray[np.intp],
) -> tuple[Array, Array]:
    """(G,), (G,) ``low`` and ``high``; ``ends``: points up to each cost."""

    def reach(count: int, chosen: npt.NDArray[np.bool_]) -> Array:
        half = evaluation_quantile(dof[chosen], count) * errors[chosen]
        if noise is None:
            return half
        return np.asarray(np.hypot(half, common_quantile(noise.dof, count) * training[chosen]))

    everything = np.ones(len(scores), dtype=bool)
    high = np.maximum.accumulate(scores + reach(1, everything))[ends - 1]
    # corrections grow with the logarithm of the count: rounding it up to the next of these loses little
    counts = np.unique(np.ceil(np.geomspace(1, len(scores), 40)))
    rounded = counts[np.searchsorted(counts, ends)]
    # a point below another's lowest end is below all of its ends
    able = scores >= np.maximum.accumulate(scores - reach(int(counts[-1]), everything))
    before = np.concatenate([[0], np.cumsum(able)])[ends]
    low = np.empty(len(ends))
    for count in np.unique(rounded):
        which = rounded == count
        lower = np.maximum.accumulate(scores[able] - reach(int(count), able))
        low[which] = lower[before[which] - 1]
    return np.maximum(low, 0.0), high


def _budgets(costs: Array, runs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(R,) number of the budget that each run ends at."""
    last = np.zeros(int(runs.max()) + 1)
    np.maximum.at(last, runs, costs)
    order = np.argsort(last)
    steps = np.diff(np.log(last[order])) > SAME_BUDGET
    number = np.empty(len(last), dtype=np.int64)
    number[order] = np.concatenate([[0], np.cumsum(steps)])
    return number


@dataclass(frozen=True)
class _Drawn:
    """Scores that can be drawn again; n points by ascending cost, R runs, G costs."""

    scores: Array
    errors: Array
    lasting: Array
    """(n,) training noise that all checkpoints of a run share."""
    runs: npt.NDArray[np.int64]
    budgets: npt.NDArray[np.int64]
    """(R,)."""
    ends: npt.NDArray[np.intp]
    """(G,) points up to each cost."""

    def summaries(self, draws: int, rng: np.random.Generator, best: Array) -> tuple[Array, Array]:
        """(G,), (G,): mean excess of the drawn best over ``best``, and the low quantile with runs drawn too."""
        step = max(1, _CHUNK // len(self.scores))
        kept, redrawn = [], []
        for start in range(0, draws, step):
            num = min(step, draws - start)
            values = rng.standard_normal((num, len(self.scores)), dtype=np.float32)
            values *= self.errors.astype(np.float32)
            values += self.scores.astype(np.float32)
            if self.lasting.any():
                own = rng.standard_normal((num, len(self.budgets)), dtype=np.float32)
                values += self.lasting.astype(np.float32) * own[:, self.runs]
            kept.append(np.maximum.accumulate(values, axis=1)[:, self.ends - 1])
            values[~self._picked(num, rng)[:, self.runs]] = 0.0  # below every score that is known
            redrawn.append(np.maximum.accumulate(values, axis=1)[:, self.ends - 1])
        bias = np.concatenate(kept).mean(axis=0, dtype=float) - best
        low = np.quantile(np.concatenate(redrawn), (1 - LEVEL) / 2, axis=0, method="inverted_cdf")
        return bias, np.asarray(np.maximum(low - bias, 0.0))

    def _picked(self, num: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        """(num, R) whether each run is among those drawn, with replacement within its budget."""
        order = np.argsort(self.budgets, kind="stable")
        sizes = np.bincount(self.budgets)
        first = (np.cumsum(sizes) - sizes)[self.budgets]
        chosen = first + np.floor(rng.random((num, len(order))) * sizes[self.budgets]).astype(np.int64)
        picked = np.zeros((num, len(order)), dtype=bool)
        picked[np.arange(num)[:, None], order[chosen]] = True
        return picked

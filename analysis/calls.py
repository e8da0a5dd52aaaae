"""BrierLM by network calls: one line a setting and solver, and what may be said of their differences.

A head that samples in several steps is scored with several numbers of calls after one training, on the windows of
its last evaluation. Call points kept no scores position by position. What the choice of positions adds to a
difference of two settings (``workbench.seeds``: tau) is therefore taken from their last evaluations, which did, as
is the noise between seeds. Where that is not known, or a point cannot be told from 0, the two are compared without
pairs (``analysis.stats.unpaired_difference``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analysis.claims import clusters_of, common_error, picked_gap, setting_gap
from analysis.comparison import Comparison, Setting
from analysis.rows import ORDERS
from analysis.scores import bounds
from analysis.stats import Difference, Scored, mean_over_seeds, unpaired_difference
from analysis.words import MISSING, missing, number, plain, plus_minus
from workbench.head_sections import SOLVERS
from workbench.seeds import SeedNoise
from workbench.uncertainty import t_quantile

SOLVER = "model.head.solver"
ONE_STEP = "euler"
"""What a flow head falls back on with fewer calls than one step of its solver takes."""


@dataclass(frozen=True, eq=False)
class CallLine:
    """One trained setting, sampled by one solver."""

    setting: Setting
    name: str
    """``energy, quadric``; the solver is added where the setting has several: ``flow, midpoint``."""
    head: str
    solver: str
    points: pd.DataFrame
    """One row a number of calls, fewest first: means over seeds (``brierlm``, ``brierlm_se`` that holds 68 %,
    ``brierlm_high``, ``weak_orders`` where it can be told from 0 in no run), ``num_seeds``."""
    runs: list[pd.DataFrame]
    """For each of them its rows, one a seed."""

    @property
    def best_place(self) -> int:
        return int(self.points["brierlm"].to_numpy(dtype=float).argmax())

    @property
    def best(self) -> pd.Series:
        """The point with the highest score, of equal ones that with the fewest calls."""
        return self.points.iloc[self.best_place]

    @property
    def enough(self) -> pd.Series:
        """The cheapest point that lies within one error of the best."""
        best = self.best
        error = float(best["brierlm_se"])
        reach = float(best["brierlm"]) - (error if math.isfinite(error) else 0.0)
        return self.points[self.points["brierlm"] >= reach].iloc[0]


def call_lines(comparison: Comparison, calls: pd.DataFrame) -> list[CallLine]:
    """Lines of the settings at the budget, the best first; ``calls``: points of the runs' call curves."""
    found = []
    usable = calls[calls["brierlm"].notna() & (calls["network_calls"] > 0)]
    for setting in comparison.settings:
        own = usable[usable["run_id"].isin(setting.run_ids)]
        if setting.kind != "calm" or own.empty:
            continue
        name = comparison.name(setting, whole=True)
        name = comparison.dimension.name(comparison.key(setting)) if name == MISSING else name
        parts = _by_solver(own, plain(setting.best.get(SOLVER)))
        for solver, rows in parts.items():
            groups = [part for _, part in rows.groupby("network_calls", sort=True)]
            points = pd.DataFrame([_mean_point(part) for part in groups])
            words = f"{name}, {solver}" if len(parts) > 1 and solver not in name else name
            head = str(setting.runs["head"].iloc[0])
            found.append(CallLine(setting, words, head, solver, points, groups))
    return sorted(found, key=lambda line: (-float(line.best["brierlm"]), line.name))


def _by_solver(rows: pd.DataFrame, configured: str) -> dict[str, pd.DataFrame]:
    """A single Euler step, taken because the solver's own is too dear, begins the line of that solver."""
    solvers = list(dict.fromkeys(rows["solver"].astype(str)))
    alone = rows[rows["solver"] == ONE_STEP]
    if len(solvers) > 1 and alone["network_calls"].nunique() == 1 and configured != ONE_STEP:
        others = [solver for solver in solvers if solver != ONE_STEP]
        taker = configured if configured in others else others[0]
        rows = rows.assign(solver=rows["solver"].mask(rows["solver"] == ONE_STEP, taker))
        solvers = others
    order = [solver for known in SOLVERS.values() for solver in known]
    ordered = sorted(solvers, key=lambda s: (s != configured, order.index(s) if s in order else len(order), s))
    return {solver: rows[rows["solver"] == solver] for solver in ordered}


def _mean_point(rows: pd.DataFrame) -> dict[str, object]:
    """Over the seeds of one setting, at one number of calls."""
    only_bound = bounds(rows)
    value, error = mean_over_seeds(rows["brierlm"].tolist(), rows["brierlm_se"].tolist())
    orders: dict[str, object] = {}
    for n in ORDERS:
        pair = (rows[f"brier_{n}"].tolist(), rows[f"brier_{n}_se"].tolist())
        orders[f"brier_{n}"], orders[f"brier_{n}_se"] = mean_over_seeds(*pair)
    return {
        "network_calls": int(rows["network_calls"].iloc[0]),
        "infer_flops_per_token": float(rows["infer_flops_per_token"].mean()),
        "brierlm": value,
        "brierlm_se": error,
        "brierlm_high": float(rows["brierlm_high"].max()) if only_bound.all() else math.nan,
        "weak_orders": str(rows["weak_orders"].iloc[0]) if only_bound.all() else "",
        "num_seeds": len(rows),
        "seconds": float(rows["seconds"].mean()),
        **orders,
    }


# ---- what may be said -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranked:
    """The best line of one setting, and how far it is from the best of all."""

    line: CallLine
    difference: Difference | None
    """Its best point minus that of the best setting; None of that one."""


def ranked(lines: Sequence[CallLine], comparison: Comparison) -> list[Ranked]:
    """One line a setting, the best first, each against the first.

    Every point of a setting could have been its best one, and every setting the best of all: the intervals are
    corrected for that as those of groups are (``analysis.claims.num_group_claims``)."""
    best: dict[int, CallLine] = {}
    for line in lines:
        best.setdefault(id(line.setting), line)
    order = sorted(best.values(), key=lambda line: -float(line.best["brierlm"]))
    if not order:
        return []
    points = {key: [rows for line in lines if id(line.setting) == key for rows in line.runs] for key in best}
    num = max(1, math.ceil((len(order) - 1) * sum(len(rows) for rows in points.values()) / 2))
    first = order[0]
    return [Ranked(line, None if line is first else _gap(line, first, points, comparison, num)) for line in order]


def _gap(
    ours: CallLine, theirs: CallLine, points: dict[int, list[pd.DataFrame]], comparison: Comparison, num: int
) -> Difference:
    at_end = setting_gap(ours.setting, theirs.setting, comparison)
    tau = None if at_end.unpaired else at_end.position_sd

    def gap(one: pd.DataFrame, other: pd.DataFrame) -> Difference:
        first, second, clusters = _scored(one), _scored(other), clusters_of(one.iloc[0])
        if tau is None or bounds(one).any() or bounds(other).any():
            return unpaired_difference(first, second, clusters=clusters, noise=comparison.noise, comparisons=num)
        return _as_paired(first, second, tau, clusters, comparison.noise, num)

    mine, best = ours.runs[ours.best_place], theirs.runs[theirs.best_place]
    value = gap(mine, best)
    # a point of which only a bound is known was not in the running, and has no difference to anything
    ahead = [gap(mine, rows) for rows in points[id(theirs.setting)] if rows is best or not bounds(rows).any()]
    behind = [gap(rows, best) for rows in points[id(ours.setting)] if rows is mine or not bounds(rows).any()]
    return replace(picked_gap(value, ahead, behind), unpaired=value.unpaired)


def _as_paired(
    first: Scored, second: Scored, tau: float, clusters: int, noise: SeedNoise | None, num: int
) -> Difference:
    """As ``workbench.seeds.setting_difference``, with a tau that was measured elsewhere."""
    value = first.value - second.value
    half = t_quantile(max(clusters - 1, 1), comparisons=num) * tau
    if noise is not None:
        between = noise.sd * math.sqrt(1 / first.num_seeds + 1 / second.num_seeds)
        half = math.hypot(half, t_quantile(noise.dof, comparisons=num) * between)
    return Difference(value, value - half, value + half, num, position_sd=tau)


def _scored(rows: pd.DataFrame) -> Scored:
    return Scored(float(rows["brierlm"].mean()), common_error(rows), len(rows))


def point_words(point: pd.Series) -> str:
    """``3.41 ± 0.08 with 20 calls``."""
    return f"{mean_words(point)} with {calls_words(point['network_calls'])}"


def mean_words(point: pd.Series) -> str:
    if not missing(point["brierlm_high"]):
        return f"[0, {number(point['brierlm_high'])}]"
    return plus_minus(point["brierlm"], point["brierlm_se"])


def calls_words(num: object) -> str:
    return "1 call" if int(str(num)) == 1 else f"{int(str(num))} calls"

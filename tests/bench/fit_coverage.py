"""Do the 95 % intervals of ``analysis.fitting`` hold the truth, and do the ratios of compute?

Scores are made by known curves (tests/suites/synthetic_laws.py) with few and many runs, several checkpoints a run,
small and large noise, outliers, and compute from 1e9 to 1e22 FLOPs; each table is fitted as a report fits it.
Printed per scenario: share of the intervals that hold the exponent, the curve in the middle and at its upper end,
the compute at a score, the ratio of two families there, and for saturating curves the level; each in per cent of
the tables in which the interval was given, with one binomial standard error, and in brackets how many of those
there were. Last, whole tables as a report fits them (the best of three sizes at each budget, scatter pooled over
families, form chosen): the same, and how often the saturating form is chosen.

    python tests/bench/fit_coverage.py [--tables 400] [--only WORD]
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from analysis.compute_ratio import ratio_at
from analysis.fitting import Fit, fit
from analysis.power_forms import Power, Saturating, ScoreLaw
from analysis.power_law import fit_power_laws
from tests.suites.synthetic_laws import Array, Curve, Design, evaluations

POWER = Curve()
SATURATING = Curve(gamma=0.5, score=8.0, level=30.0)
LAWS: dict[str, Callable[[float, float], ScoreLaw]] = {"power": Power, "saturating": Saturating}

SCENARIOS: dict[str, tuple[str, Curve, Design]] = {
    "3 runs": ("power", POWER, Design(3)),
    "4 runs": ("power", POWER, Design(4)),
    "6 runs": ("power", POWER, Design(6)),
    "6 runs, noise 0.1": ("power", POWER, Design(6, between=0.1)),
    "6 runs, evaluation noise only": ("power", POWER, Design(6, between=0.0, se=0.05)),
    "6 runs, both alike": ("power", POWER, Design(6, between=0.03, se=0.03)),
    "9 runs, 1e9 FLOPs": ("power", replace(POWER, middle=1e9, score=0.7), Design(9)),
    "9 runs, 1e22 FLOPs": ("power", replace(POWER, middle=1e22, gamma=0.15), Design(9)),
    "14 runs, 1e9 to 1e22": ("power", replace(POWER, middle=3e15, gamma=0.1), Design(14, decades=13)),
    "12 runs, Student's t": ("power", POWER, Design(12, heavy=True)),
    "12 runs, 8 % outliers": ("power", POWER, Design(12, outliers=0.08)),
    "24 runs": ("power", POWER, Design(24)),
    "4 runs x 6 points": ("power", POWER, Design(4, points_a_run=6, within=0.01)),
    "6 runs x 6 points, tilted": ("power", POWER, Design(6, points_a_run=6, within=0.01, slope=0.02)),
    "12 runs x 5 points": ("power", POWER, Design(12, points_a_run=5, within=0.01)),
    "24 runs x 5 points, tilted": ("power", POWER, Design(24, points_a_run=5, slope=0.02)),
    "8 runs, saturating": ("saturating", SATURATING, Design(8, decades=5)),
    "12 runs, saturating": ("saturating", SATURATING, Design(12, decades=5)),
    "24 runs, saturating": ("saturating", SATURATING, Design(24, decades=5)),
    "12 runs x 4 points, saturating": ("saturating", SATURATING, Design(12, decades=5, points_a_run=4)),
}


FAMILIES = {
    "token baseline": Curve(0.30, score=4.0),
    "K = 1": Curve(0.25, score=2.5),
    "K = 2": Curve(0.30, score=3.7),
    "K = 4": Curve(0.35, score=4.5),
    "K = 8": Curve(0.38, score=3.5),
}
TABLES = {
    "report, 3 sizes x 3 budgets": (FAMILIES, Design(3, decades=1), (0.0, 0.05, 0.1)),
    "report, 3 sizes x 5 budgets": (FAMILIES, Design(5, decades=2), (0.0, 0.05, 0.1)),
    "report, sizes nearly alike": (FAMILIES, Design(4, decades=2), (0.0, 0.01, 0.02)),
    "report, 10 budgets": (FAMILIES, Design(10), (0.0,)),
    "report, 14 budgets, saturating": (
        {name: replace(SATURATING, score=curve.score) for name, curve in FAMILIES.items()},
        Design(14, decades=5),
        (0.0,),
    ),
}


class Tally:
    """How often, by name, among how many."""

    def __init__(self) -> None:
        self.held: dict[str, list[bool]] = {}

    def add(self, name: str, interval: tuple[float, float], truth: float) -> None:
        known = math.isfinite(interval[0]) or math.isfinite(interval[1])
        self.held.setdefault(name, []).extend([interval[0] <= truth <= interval[1]] if known else [])

    def words(self) -> str:
        parts = []
        for name, values in self.held.items():
            if not values:
                parts.append(f"{name} –")
                continue
            p, num = float(np.mean(values)), len(values)
            parts.append(
                f"{name} {100 * p:.1f} ± {100 * math.sqrt(max(p * (1 - p), 1 / num / 4) / num):.1f} [{num}]"
            )
        return ", ".join(parts)


def fitted(law: ScoreLaw, curve: Curve, design: Design, seed: int) -> Fit:
    costs, scores, errors, run = design.draw(curve, np.random.default_rng(seed))
    return fit(law, law.u(costs), scores, se=errors, runs=run, seed=seed)


def law_for(form: str, curve: Curve) -> ScoreLaw:
    return LAWS[form](curve.middle, curve.score)


def add_fit(tally: Tally, found: Fit, curve: Curve, top: float) -> None:
    """Coverage of what a single curve says."""
    law = found.law
    assert isinstance(law, ScoreLaw)
    tally.add("exponent", found.interval(1), curve.gamma)
    for name, cost in (("middle", curve.middle), ("upper end", top)):
        seen = found.predict(np.atleast_1d(law.u(cost)))
        tally.add(name, (float(seen.low[0]), float(seen.high[0])), float(curve.at(cost)))
    score = float(curve.at(curve.middle))
    tally.add("compute", found.interval(lambda theta: law.log_cost(theta, score)), math.log(curve.middle))
    if math.isfinite(curve.level):
        tally.add("level", found.interval(law.level), curve.level)


def study(name: str, num_tables: int) -> str:
    """One line of coverage."""
    form, curve, design = SCENARIOS[name]
    other = replace(curve, middle=curve.middle * 2)
    tally = Tally()
    law = law_for(form, curve)
    top = curve.middle * 10 ** (design.decades / 2)
    score = float(other.at(curve.middle))
    for seed in range(num_tables):
        one = fitted(law, curve, design, 2 * seed)
        if not one.there:
            continue
        add_fit(tally, one, curve, top)
        two = fitted(law, other, design, 2 * seed + 1)
        if one.has_interval and two.has_interval:
            tally.add("ratio", ratio_interval(one, two, score), math.log(2.0))
    return f"{name:32} {tally.words()}"


def ratio_interval(first: Fit, second: Fit, score: float) -> tuple[float, float]:
    """Of ln compute of the second over the first."""
    costs: list[Array] = []
    for one in (first, second):
        assert isinstance(one.law, ScoreLaw)
        costs.append(one.law.log_cost(one.draws, score))
    never = np.isinf(costs[0]) & np.isinf(costs[1])  # neither reaches the score: either may need more
    difference = costs[1] - np.where(never, 0.0, costs[0])
    low, high = np.percentile(difference, (2.5, 97.5), method="nearest")
    return float(low), float(high)


def report(name: str, num_tables: int) -> str:
    """One line of coverage of whole tables."""
    curves, design, sizes = TABLES[name]
    tally, bent, total = Tally(), 0, 0
    for seed in range(num_tables):
        laws = fit_power_laws(evaluations(curves, design, sizes=sizes, seed=seed))
        base = laws.of("token baseline")
        assert base is not None
        for curve in laws.curves:
            truth = curves[curve.family]
            bent, total = bent + curve.saturates, total + 1
            tally.add("exponent", curve.fit.interval(1), truth.gamma)
            seen = curve.at([truth.middle])
            tally.add("middle", (float(seen.low[0]), float(seen.high[0])), float(truth.at(truth.middle)))
            if curve is not base:
                score = math.sqrt(truth.score * curves["token baseline"].score)
                wanted = truth.cost_of(score) / curves["token baseline"].cost_of(score)
                tally.add("ratio", ratio_at(curve, base, score)[1:], wanted)
    return f"{name:32} {tally.words()}, saturating form in {100 * bent / total:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=400)
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    arguments = parser.parse_args()
    for name in SCENARIOS:
        if arguments.only in name:
            print(study(name, arguments.tables), flush=True)
    for name in TABLES:
        if arguments.only in name:
            print(report(name, arguments.tables), flush=True)


if __name__ == "__main__":
    main()

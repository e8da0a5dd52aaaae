"""Do the 95 % intervals of ``analysis.fitting`` hold the truth, and do the ratios of compute?

Scores are made by known curves (tests/suites/synthetic_laws.py) with few and many runs, several checkpoints a run,
small and large noise, outliers, and compute from 1e9 to 1e22 FLOPs; each table is fitted as a report fits it.
Printed per scenario: share of the intervals that hold the exponent, the curve in the middle and at its upper end,
the compute at a score, the ratio of two families there, and for saturating curves the level; each in per cent of
the tables in which the interval was given, with one binomial standard error, and in brackets how many of those
there were. Last: how often each form is chosen.

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

from analysis.fitting import Fit, Scatter, fit
from analysis.power_forms import Power, Saturating, ScoreLaw
from tests.suites.synthetic_laws import Array, Curve, Design

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


def fitted(law: ScoreLaw, curve: Curve, design: Design, seed: int, scatter: Scatter | None = None) -> Fit:
    costs, scores, errors, run = design.draw(curve, np.random.default_rng(seed))
    return fit(law, law.u(costs), scores, se=errors, runs=run, scatter=scatter, seed=seed)


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
    low, high = np.percentile(costs[1] - costs[0], (2.5, 97.5), method="nearest")
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=400)
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    arguments = parser.parse_args()
    for name in SCENARIOS:
        if arguments.only in name:
            print(study(name, arguments.tables), flush=True)


if __name__ == "__main__":
    main()

"""Do the intervals of the joint law and of the loss law hold what they claim, and are the odds of K honest?

Many tables are made by a known law, with noise between runs, and fitted as ``calm plan`` fits them. Printed: how
often the 95 % intervals hold the true parameter, exponent of allocation and score at the best size; how often the
recommended K is the true one; and, over all tables and budgets, how often a K that was given a probability of so
much is the best one. About two seconds a table.

    python tests/bench/scaling_coverage.py [--tables 100] [--noise 0.03] [--num-budgets 3]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from analysis.allocation import exponent_of
from analysis.joint_law import JointLaw, fit_joint
from analysis.scaling_law import fit_loss
from tests.suites.synthetic_scaling import BUDGETS as TRAINED
from tests.suites.synthetic_scaling import CHUNKS, LOSS, Plan, Truth, cost_per_token, evaluations, losses

BUDGETS = (3e11, 3e12, 9e12, 3e13, 1e14)
PROBABILITIES = (0.0, 0.05, 0.3, 0.7, 0.95, 1.0000001)


def true_parameters(truth: Truth, law: JointLaw) -> dict[str, float]:
    """Those of the form ``additive``, relative to the middle of the data."""
    assert law.chosen is not None
    assert law.chosen.fit is not None
    middle = law.chosen.fit.law.middle
    (e, e_k), (s, s_k, s_kk, a), (t, t_k, b) = truth.floor, truth.size, truth.data
    constants = {"E": e, "A": s - a * middle.log_n, "B": t - b * middle.log_d}
    return {**constants, "E_K": e_k, "A_K": s_k, "A_KK": s_kk, "a": a, "B_K": t_k, "b": b}


def holds(draws: np.ndarray, truth: float) -> bool:
    low, high = np.percentile(draws, (2.5, 97.5))
    return bool(low <= truth <= high)


class Tally:
    """How often, by name."""

    def __init__(self) -> None:
        self.counts: dict[str, list[bool]] = {}

    def add(self, name: str, value: bool) -> None:
        self.counts.setdefault(name, []).append(value)

    def show(self) -> None:
        for name, values in self.counts.items():
            print(f"  {name:42} {np.mean(values):6.1%} of {len(values)}")


def joint(num_tables: int, plan: Plan) -> None:
    truth, covered, chosen = Truth(), Tally(), Tally()
    claimed: list[float] = []
    was_best: list[bool] = []
    forms: dict[str, int] = {}
    true_size = {k: _true_exponent(truth, k) for k in CHUNKS}
    for seed in range(num_tables):
        law = fit_joint(evaluations(truth, plan, seed=seed))
        if law.chosen is None or law.chosen.fit is None:
            forms["none"] = forms.get("none", 0) + 1
            continue
        name = law.chosen.form.name
        forms[name] = forms.get(name, 0) + 1
        if name == "additive":
            fit = law.chosen.fit
            for parameter, value in true_parameters(truth, law).items():
                covered.add(f"parameter {parameter}", holds(fit.draws[:, fit.law.names.index(parameter)], value))
        sizes: dict[int, list[np.ndarray]] = {k: [] for k in CHUNKS}
        for budget in BUDGETS:
            best_k, _, _, scores = truth.best(budget, [0, *CHUNKS] if plan.baseline else CHUNKS)
            best_k = max(CHUNKS, key=lambda k: scores[k])
            found = {k: law.best(k, budget) for k in CHUNKS}
            values = np.stack([o.score for o in found.values() if o is not None])
            winners = np.array(CHUNKS)[values.argmax(axis=0)]
            chosen.add(f"recommended K is the true one, {budget:.0e}", bool(winners[0] == best_k))
            loss = 1 - scores[int(winners[0])] / scores[best_k]
            chosen.add(f"true score within 1 % of the best K's, {budget:.0e}", loss <= 0.01)
            for k, optimum in found.items():
                assert optimum is not None
                covered.add(f"score at the best size, {budget:.0e}", holds(optimum.score[1:], scores[k]))
                sizes[k].append(optimum.num_parameters)
                claimed.append(float(np.mean(winners[1:] == k)))
                was_best.append(k == best_k)
            base = law.best(0, budget)
            if base is not None:
                covered.add(f"baseline's best score, {budget:.0e}", holds(base.score[1:], scores[0]))
        for k in CHUNKS:
            slopes = exponent_of(np.array(BUDGETS), np.stack(sizes[k], axis=1))
            covered.add("exponent of the best size in compute", holds(slopes[1:], true_size[k]))
    print(f"forms chosen: {forms}")
    print("95 % intervals hold the truth:")
    covered.show()
    print("recommendations:")
    chosen.show()
    _calibration(claimed, was_best)


def _true_exponent(truth: Truth, k: int) -> float:
    sizes = []
    n = np.geomspace(1e3, 1e10, 20000)
    for budget in BUDGETS:
        sizes.append(n[truth.score(n, budget / cost_per_token(n, k), k).argmax()])
    return float(exponent_of(np.array(BUDGETS), np.array([sizes]))[0])


def _calibration(claimed: Sequence[float], was_best: Sequence[bool]) -> None:
    print("probability given to a K, and how often it was the best:")
    p, best = np.array(claimed), np.array(was_best)
    for low, high in pairwise(PROBABILITIES):
        part = (p >= low) & (p < high)
        if part.any():
            found = f"mean {p[part].mean():6.1%}, best {best[part].mean():6.1%} of {part.sum()}"
            print(f"  {low:4.0%} to {min(high, 1):4.0%}: {found}")


def loss_law(num_tables: int) -> None:
    covered = Tally()
    e, big_a, big_b, a, b = LOSS
    for seed in range(num_tables):
        law = fit_loss(losses(seed=seed))
        for name, value in {"E": e, "A": big_a, "B": big_b, "a": a, "b": b}.items():
            low, high = law.intervals[name]
            covered.add(f"loss law {name}", low <= value <= high)
        exponent = law.size_exponent
        assert exponent is not None
        covered.add("loss law: exponent b/(a+b)", exponent[1] <= b / (a + b) <= exponent[2])
    covered.show()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.03, help="standard deviation of ln BrierLM between runs")
    parser.add_argument("--num-budgets", type=int, default=4, help="of each size and K, the largest of the four")
    arguments = parser.parse_args()
    joint(arguments.tables, Plan(noise=arguments.noise, budgets=TRAINED[-arguments.num_budgets :]))
    loss_law(arguments.tables)


if __name__ == "__main__":
    main()

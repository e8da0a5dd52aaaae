"""Coverage of BrierLM's 95 % intervals in simulated evaluations with rare, nested, skewed hits.

    python tests/bench/brier_coverage.py [--evaluations 1000]

The tests assert what this prints (tests/unit/workbench/test_uncertainty.py, test_growth.py).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.suites.simulated_scores import evaluations, true_brierlm, true_scores
from workbench.uncertainty import summarise, t_quantile, upper_bound

DELTA = [(0.5, 20), (0.0, 20), (0.0, 64), (-0.5, 64), (-1.0, 64)]
BOUND = [(-1.0, 20), (-1.5, 20), (-1.5, 64), (-2.0, 64), (-2.5, 64), (-3.0, 20), (-3.0, 64)]
BOTH = [(-1.0, 40), (-1.25, 40), (-1.5, 40), (-1.75, 40), (-2.0, 40)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=int, default=1000)
    num = parser.parse_args().evaluations
    print(f"{num} evaluations of each model, S = 8, 24 positions a window; Brier-1 ... 4 of the model in per cent")
    print("\nintervals where every order is above three of its errors (delta method, t quantiles)")
    for strength, windows in DELTA:
        print(f"  {_model(strength, windows)}  covered {_intervals(1, strength, windows, num):.1%}")
    print("\nupper bounds of models near 0, all evaluations; in brackets the plain delta interval")
    for strength, windows in BOUND:
        covered, median, plain = _bounds(strength, windows, num)
        print(f"  {_model(strength, windows)}  covered {covered:.1%} [{plain:.1%}], median bound {median:.2f}")
    print("\nwhichever of the two is reported, for models where both occur")
    for strength, windows in BOTH:
        print(f"  {_model(strength, windows)}  covered {_intervals(3, strength, windows, num):.1%}")


def _model(strength: float, windows: int) -> str:
    orders = " ".join(f"{100 * b:6.3f}" for b in true_scores(strength))
    return f"{windows} windows, {orders}, BrierLM {true_brierlm(strength):5.2f}"


def _intervals(seed: int, strength: float, windows: int, num: int) -> float:
    truth, clusters, covered = true_brierlm(strength), np.arange(windows), 0
    for values in evaluations(np.random.default_rng(seed), strength, num, windows):
        found = summarise(values, clusters, resamples=0)
        assert found.brierlm_low is not None
        assert found.brierlm_high is not None
        covered += found.brierlm_low <= truth <= found.brierlm_high
    return covered / num


def _bounds(strength: float, windows: int, num: int) -> tuple[float, float, float]:
    truth, clusters, bounds, plain = true_brierlm(strength), np.arange(windows), [], 0
    for values in evaluations(np.random.default_rng(2), strength, num, windows):
        bounds.append(upper_bound(values, clusters))
        found = summarise(values, clusters, resamples=0)
        plain += abs(found.brierlm - truth) <= t_quantile(windows - 1) * found.brierlm_se
    return float(np.mean(np.array(bounds) >= truth)), float(np.median(bounds)), plain / num


if __name__ == "__main__":
    main()

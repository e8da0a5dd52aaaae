"""How often the bands about a frontier hold the true one, beside the usual bootstraps.

    python tests/bench/frontier_coverage.py [REPETITIONS]

For each scenario of tests/suites/synthetic_frontier.py: coverage in per cent averaged over the costs, at the
cost where it is worst, mean width in standard errors; and the winner's curse of the best score in standard
errors, as it stands and corrected. Then how often a point that is truly best of those that cost no more is called
dominated, and how often one is that is truly three errors behind.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from analysis.frontier import DOMINATED, with_status
from analysis.frontier_bands import band
from tests.suites.synthetic_frontier import SE, Array, Scenario, scenarios

DRAWS = 200


def percentiles(
    scenario: Scenario, scores: Array, sd: float, grid: Array, rng: np.random.Generator
) -> list[Array]:
    """(2, G) intervals: percentiles of drawn errors; the same shifted by the bias; of drawn errors and runs."""
    order = np.argsort(scenario.cost, kind="stable")
    run, num_runs = scenario.run[order], int(scenario.run.max()) + 1
    values = scores[order] + SE * rng.standard_normal((DRAWS, len(scores)))
    values += sd * rng.standard_normal((DRAWS, num_runs))[:, run]
    ends = np.searchsorted(scenario.cost[order], grid * 1.01, side="right") - 1
    drawn = np.maximum.accumulate(values, axis=1)[:, ends]
    best = np.maximum.accumulate(scores[order])[ends]
    plain = np.quantile(drawn, [0.025, 0.975], axis=0)
    picked = np.zeros((DRAWS, num_runs), dtype=bool)
    picked[np.arange(DRAWS)[:, None], rng.integers(num_runs, size=(DRAWS, num_runs))] = True
    values[~picked[:, run]] = 0.0
    again = np.quantile(np.maximum.accumulate(values, axis=1)[:, ends], [0.025, 0.975], axis=0)
    return [plain, plain - (drawn.mean(axis=0) - best), again]


def study(scenario: Scenario, repetitions: int) -> None:
    rng = np.random.default_rng(1)
    names = ["band", "percentile bootstrap", "same, shifted by bias", "errors and runs drawn"]
    inside: list[list[Array]] = [[] for _ in names]
    widths: list[list[float]] = [[] for _ in names]
    excess, left, wrong, right = [], [], [], []
    ordered = np.argsort(scenario.cost, kind="stable")
    behind = scenario.frontier(scenario.cost[ordered]) - scenario.true[ordered]
    for repetition in range(repetitions):
        points, noise = scenario.draw(rng)
        found = band(points, noise=noise, draws=DRAWS, seed=repetition)
        assert found is not None
        truth = scenario.frontier(found.costs)
        sd = noise.sd if noise is not None else 0.0
        others = percentiles(scenario, points["brierlm"].to_numpy(), sd, found.costs, rng)
        for i, (low, high) in enumerate([(found.low, found.high), *others]):
            inside[i].append((low <= truth) & (truth <= high))
            widths[i].append(float((high - low).mean()) / SE)
        excess.append((found.best - truth).mean() / SE)
        left.append((found.corrected - truth).mean() / SE)
        lost = (with_status(points, noise=noise).sort_values("step")["status"] == DOMINATED).to_numpy()[ordered]
        wrong.append(lost[behind <= 0].mean())
        right.append(lost[behind >= 3 * SE].mean() if (behind >= 3 * SE).any() else np.nan)
    print(f"\n{scenario.name}")
    for name, hits, width in zip(names, inside, widths, strict=True):
        share = 100 * np.mean(hits, axis=0)
        print(
            f"  {name:24s} {share.mean():6.1f} % (worst {share.min():5.1f} %), {np.mean(width):5.1f} errors wide"
        )
    print(f"  winner's curse {np.mean(excess):+.2f} errors, corrected {np.mean(left):+.2f}")
    behind_words = "none there" if np.isnan(right).all() else f"{100 * np.mean(right):.1f} %"
    print(f"  called dominated: truly best {100 * np.mean(wrong):.2f} %, 3 errors and more behind {behind_words}")


if __name__ == "__main__":
    for one in scenarios():
        study(one, int(sys.argv[1]) if len(sys.argv) > 1 else 1000)

"""Points whose true frontier is known, drawn again and again. The same seed makes the same points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from workbench.seeds import SeedNoise

Array = npt.NDArray[np.float64]
COSTS = np.geomspace(1e11, 1e13, 9)
SE = 0.1


@dataclass(frozen=True)
class Scenario:
    """``true``: score of each point, by ``cost``; ``run``: number of its run."""

    name: str
    cost: Array
    true: Array
    run: npt.NDArray[np.int64]
    shared: float = 0.0
    """Correlation of the evaluation errors of all points: they are scored on the same positions."""
    training_sd: float = 0.0
    """Between seeds; the checkpoints of a run share it."""
    noise_dof: int = 0
    """Degrees of freedom with which the band is told ``training_sd``; 0: it is not told."""

    def frontier(self, costs: Array) -> Array:
        """Highest true score of the points that cost at most ``costs``, ascending."""
        order = np.argsort(self.cost, kind="stable")
        top = np.maximum.accumulate(self.true[order])
        return np.asarray(top[np.searchsorted(self.cost[order], costs * 1.01, side="right") - 1])

    def draw(self, rng: np.random.Generator) -> tuple[pd.DataFrame, SeedNoise | None]:
        """Measured once: points as ``analysis.frontier.select`` gives them, and the noise as it was measured."""
        num = len(self.true)
        common, own = rng.standard_normal(), rng.standard_normal(num)
        error = SE * (np.sqrt(self.shared) * common + np.sqrt(1 - self.shared) * own)
        training = self.training_sd * rng.standard_normal(int(self.run.max()) + 1)[self.run]
        points = frame(self.cost, self.true + error + training, self.run)
        if not self.noise_dof:
            return points, None
        sd = self.training_sd * float(np.sqrt(rng.chisquare(self.noise_dof) / self.noise_dof))
        return points, SeedNoise(sd, 0.5 * sd, 2 * sd, sd, 0.0, self.noise_dof, self.noise_dof)


def frame(cost: Array, score: Array, run: npt.NDArray[np.int64], se: float = SE) -> pd.DataFrame:
    """Ends of decays of one fingerprint."""
    return pd.DataFrame(
        {
            "run_id": [f"r{number:03d}" for number in run],
            "kind": "calm",
            "K": 4,
            "head": "energy",
            "step": np.arange(len(cost)),
            "phase": "decayed",
            "fingerprint": "made",
            "train_flops": cost,
            "brierlm": score,
            "brierlm_se": se,
            "weak_orders": "",
            "num_clusters": 400,
        }
    )


def scenarios() -> list[Scenario]:
    """From none to all points nearly best; 5 points at each of 9 costs, or 10 runs of 20 checkpoints."""
    cost, each = np.repeat(COSTS, 5), np.arange(45)
    rise = 4 + np.log10(cost / cost[0])
    spread = np.tile([0.0, -0.5, -1.0, -1.5, -2.0], 9)
    run, step = np.repeat(np.arange(10), 20), np.tile(np.geomspace(1e11, 1e13, 20), 10)
    curves = 3 + np.log10(step / 1e11) + 0.05 * run
    return [
        Scenario("one clearly ahead at each cost", cost, rise + spread, each),
        Scenario("five equal ones at each cost", cost, rise, each),
        Scenario("neighbours one error apart", cost, rise + 0.2 * spread, each),
        Scenario("all 45 equal", cost, np.full(45, 5.0), each),
        Scenario("all equal, errors shared (0.8)", cost, np.full(45, 5.0), each, shared=0.8),
        Scenario("checkpoints of 10 runs", step, curves, run),
        Scenario("training noise, 6 degrees of freedom", cost, rise + 0.2 * spread, each, 0.0, 0.3, 6),
        Scenario("checkpoints, training noise, 6 d.o.f.", step, curves, run, 0.0, 0.3, 6),
        Scenario("training noise not told", cost, rise + 0.2 * spread, each, 0.0, 0.3, 0),
    ]

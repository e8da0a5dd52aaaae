"""Scores over compute that follow a known curve: what fits of BrierLM(C) and ratios of compute must find again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.rows import EVALUATION_COLUMNS, typed

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """b = a C^gamma, or with ``level`` b_inf / (1 + (C_half / C)^gamma); ``score`` is b at ``middle`` FLOPs."""

    gamma: float = 0.3
    middle: float = 1e13
    score: float = 4.0
    level: float = math.inf

    def at(self, cost: Array | float) -> Array:
        """BrierLM at a cost."""
        ratio = (np.asarray(cost, dtype=float) / self.middle) ** self.gamma
        if not math.isfinite(self.level):
            return np.asarray(self.score * ratio)
        return np.asarray(self.level / (1 + (self.level / self.score - 1) / ratio))

    def cost_of(self, score: float) -> float:
        """FLOPs at which the curve reaches ``score``."""
        ratio = score / self.score
        if math.isfinite(self.level):
            ratio = (self.level / self.score - 1) / (self.level / score - 1)
        return float(self.middle * ratio ** (1 / self.gamma))


@dataclass(frozen=True)
class Design:
    """Which runs there are and how they err; deviations are of ln BrierLM."""

    num_runs: int = 8
    decades: float = 3.0
    points_a_run: int = 1
    """Checkpoints, the last at the run's end, each twice the compute of the one before."""
    between: float = 0.03
    """Standard deviation between runs, common to a run's points."""
    slope: float = 0.0
    """Standard deviation between runs of the slope of ln BrierLM in ln C."""
    within: float = 0.0
    """Standard deviation of single points."""
    se: float = 0.01
    """Relative standard error of an evaluation, known to the fit."""
    outliers: float = 0.0
    """Share of the runs that are off by eight times ``between``, up or down."""
    heavy: bool = False
    """Student's t with 3 degrees of freedom (of the same spread) in the place of normal errors between runs."""

    def draw(self, curve: Curve, rng: np.random.Generator) -> tuple[Array, Array, Array, npt.NDArray[np.int64]]:
        """Costs, scores, standard errors, number of the run of each point."""
        ends = curve.middle * 10 ** (self.decades * (np.linspace(0, 1, self.num_runs) - 0.5))
        steps = 2.0 ** (np.arange(self.points_a_run) - self.points_a_run + 1)
        costs = (ends[:, None] * steps).ravel()
        run = np.repeat(np.arange(self.num_runs), self.points_a_run)
        errors = rng.standard_normal(self.num_runs)
        if self.heavy:
            errors = rng.standard_t(3, self.num_runs) / math.sqrt(3)
        away = rng.random(self.num_runs) < self.outliers
        errors = np.where(away, 8 * rng.choice([-1.0, 1.0], self.num_runs), errors)
        tilt = self.slope * rng.standard_normal(self.num_runs)[run] * np.log(costs / ends[run])
        single = rng.standard_normal((2, len(costs)))
        log_score = np.log(curve.at(costs)) + self.between * errors[run] + tilt
        score = np.exp(log_score + self.within * single[0] + self.se * single[1])
        return costs, score, self.se * score, run


FAMILIES: Mapping[str, tuple[str, int | None]] = {
    "token baseline": ("baseline", None),
    "K = 1": ("calm", 1),
    "K = 2": ("calm", 2),
    "K = 4": ("calm", 4),
    "K = 8": ("calm", 8),
}


def evaluations(
    curves: Mapping[str, Curve],
    design: Design,
    *,
    seed: int = 0,
    sizes: Sequence[float] = (0.0,),
    infer: float = 1e-7,
    autoencoder: float = 0.0,
) -> pd.DataFrame:
    """One row a checkpoint, as ``analysis.table.load_runs`` makes them, of the families of ``FAMILIES``.

    ``sizes``: ln BrierLM that each model size lies below the curve of its family. ``infer``: inference FLOPs per
    token as a share of training FLOPs. ``autoencoder``: its training FLOPs, of CALM only."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for family, curve in curves.items():
        kind, k = FAMILIES[family]
        for place, below in enumerate(sizes):
            costs, scores, errors, run = design.draw(curve, rng)
            for cost, score, error, number in zip(costs, scores, errors, run, strict=True):
                value = float(score) * math.exp(-below)
                rows.append(
                    {
                        "run_id": f"{family}-{place}-{number}",
                        "study": "made",
                        "role": "baseline" if k is None else "trial",
                        "kind": kind,
                        "K": k,
                        "head": None if k is None else "energy",
                        "seed": 0,
                        "status": "completed",
                        "step": round(float(np.log2(cost)) * 1000),
                        "tokens": float(cost) / (1e5 * (place + 1)),
                        "train_flops": float(cost),
                        "train_flops_with_autoencoder": float(cost) + (0.0 if k is None else autoencoder),
                        "infer_flops_per_token": float(cost) * infer,
                        "num_parameters": 1e5 * (place + 1),
                        "model_parameters": 1e5 * (place + 1),
                        "phase": "decayed",
                        "fingerprint": "made",
                        "brierlm": value,
                        "brierlm_se": float(error) * math.exp(-below),
                        "weak_orders": "",
                    }
                )
    return typed(pd.DataFrame(rows, columns=EVALUATION_COLUMNS))

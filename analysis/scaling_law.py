"""loss(N, D) = E + A / N^a + B / D^b on the cross-entropy of token baselines, and compute-optimal training.

Approach 3 of Hoffmann et al. 2022 (arXiv 2203.15556), with what its replication asks for (Besiroglu et al. 2024,
arXiv 2404.10102): the optimiser runs until it has converged, intervals come from a bootstrap over runs, and no
parameter is printed as known that the data do not determine. The best allocation uses the executed FLOPs of the
runs; the closed form holds only under C = 6 N D, and is given beside it.

Cross-entropies are in nats a token, as the runs record them; N leaves look-up embeddings out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.allocation import Optimum, best_allocation, closed_form, exponent_of, size_grid
from analysis.joint_forms import FORMS, Middle, make_law
from analysis.law_fit import NUM_DRAWS, Fit, first_fit, fit_law
from analysis.scaling_points import BASELINE, Costs, Points, budgets_of, choose_points, costs_of, lacking
from analysis.solving import BEND

Array = npt.NDArray[np.float64]
Interval = tuple[float, float]
NEEDED_RUNS = 8
PARAMETERS = ("E", "A", "a", "B", "b")


@dataclass(frozen=True)
class LossLaw:
    """The fitted law, or why there is none (``reason``)."""

    points: Points
    phase: str
    notes: list[str]
    reason: str = ""
    fit: Fit | None = None
    values: dict[str, float] = field(default_factory=dict)
    """E (nats a token), A, a, B, b as in the formula."""
    intervals: dict[str, Interval] = field(default_factory=dict)
    """95 %, bootstrap over runs."""
    unidentified: list[str] = field(default_factory=list)
    """Of ``PARAMETERS``: what the data do not determine."""
    costs: Costs | None = None
    size_exponent: tuple[float, float, float] | None = None
    """b / (a + b) with its interval: N_opt grows as C to this power where C = k N D."""
    executed_exponent: tuple[float, float, float] | None = None
    """The same of the best sizes under the executed FLOPs, over the budgets of the data."""

    def loss(self, num_parameters: Array, tokens: Array) -> Array:
        """Nats a token. Raises ValueError where there is no law."""
        if self.fit is None:
            raise ValueError(f"there is no law of the loss: {self.reason}")
        return self.fit.law.score(self.fit.theta, num_parameters, tokens, 1.0)

    def optimum(self, flops: float) -> Optimum | None:
        """Best size and tokens at a budget of executed FLOPs; entry 0 by the fit, then its bootstrap. ``score`` is
        the loss. None where there is no law."""
        if self.fit is None or self.costs is None:
            return None
        theta = np.vstack([self.fit.theta[None], self.fit.draws])
        sizes = size_grid(self.fit.law, self.points, flops)
        return best_allocation(self.fit.law, theta, self.costs, 1, flops, sizes)

    def closed_form(self, flops: float, per_parameter: float = 6.0) -> tuple[float, float] | None:
        """(N, D) under C = ``per_parameter`` N D; None where there is no law."""
        if self.fit is None:
            return None
        v = self.values
        return closed_form((v["A"], v["a"]), (v["B"], v["b"]), flops, per_parameter)


def fit_loss(evaluations: pd.DataFrame, *, num_draws: int = NUM_DRAWS) -> LossLaw:
    """Fit the law to the comparable baselines of a table of evaluations."""
    chosen = choose_points(evaluations, "cross_entropy")
    points = chosen.points
    form = FORMS["additive"]
    reason = lacking(points, what="the law of the loss")
    if not reason and points.num_runs < NEEDED_RUNS:
        reason = f"the law of the loss has 5 parameters and needs {NEEDED_RUNS} runs, there are {points.num_runs}"
    if reason:
        return LossLaw(points, chosen.phase, chosen.notes, reason)
    law = make_law(form, [], Middle.of(points), of_loss=True)
    start, scale = first_fit(law, points)
    fit = fit_law(law, points, BEND * scale, start=start, num_draws=num_draws)
    values, draws = _in_the_formula(fit, fit.theta[None]), _in_the_formula(fit, fit.draws)
    ends = {name: np.percentile(draws[name], (2.5, 97.5)) for name in PARAMETERS}
    share = draws["b"] / (draws["a"] + draws["b"])
    point = float((values["b"] / (values["a"] + values["b"]))[0])
    low, high = np.percentile(share, (2.5, 97.5))
    found = LossLaw(
        points,
        chosen.phase,
        chosen.notes,
        fit=fit,
        values={name: float(values[name][0]) for name in PARAMETERS},
        intervals={name: (float(a), float(b)) for name, (a, b) in ends.items()},
        unidentified=fit.unidentified,
        costs=costs_of(points)[BASELINE],
        size_exponent=(point, float(low), float(high)),
    )
    return _with_executed(found)


def _in_the_formula(fit: Fit, theta: Array) -> dict[str, Array]:
    """E, A, a, B, b: constants as they stand in the formula, not relative to the middle of the data."""
    middle = fit.law.middle
    own = {name: theta[:, fit.law.names.index(name)] for name in PARAMETERS}
    return {
        "E": np.exp(own["E"]),
        "A": np.exp(own["A"] + own["a"] * middle.log_n),
        "a": own["a"],
        "B": np.exp(own["B"] + own["b"] * middle.log_d),
        "b": own["b"],
    }


def _with_executed(law: LossLaw) -> LossLaw:
    budgets = budgets_of(law.points)
    optima = [law.optimum(float(c)) for c in budgets]
    sizes = [o.num_parameters for o in optima if o is not None]
    if len(sizes) < 2 or len(sizes) < len(budgets) or any(o is None or o.at_edge[0] for o in optima):
        return law
    slopes = exponent_of(budgets, np.stack(sizes, axis=1))
    low, high = np.percentile(slopes[1:], (2.5, 97.5))
    return replace(law, executed_exponent=(float(slopes[0]), float(low), float(high)))


def loss_sentences(law: LossLaw) -> list[str]:
    """What the law says, and what it does not."""
    if law.fit is None:
        return [f"No law of the loss: {law.reason}."] if len(law.points) else []
    known = [name for name in PARAMETERS if name not in law.unidentified]
    words = [f"{n} = {law.values[n]:.3g} [{law.intervals[n][0]:.3g}, {law.intervals[n][1]:.3g}]" for n in known]
    text = f"loss(N, D) = E + A/N^a + B/D^b on {law.points.num_runs} token baselines (nats a token)"
    found = [f"{text}: {', '.join(words)}." if words else f"{text}: no parameter is identified."]
    if law.unidentified:
        found.append(
            f"Not identified by these data: {', '.join(law.unidentified)} (the 95 % interval reaches a bound or "
            "is too wide to say anything); sizes and amounts of data over a wider range would tell."
        )
    share = law.size_exponent
    if share is not None and not {"a", "b"} & set(law.unidentified):
        found.append(
            f"Compute-optimal size grows as C^{share[0]:.2f} [{share[1]:.2f}, {share[2]:.2f}] where C = 6ND"
            + (
                f", and as C^{law.executed_exponent[0]:.2f} [{law.executed_exponent[1]:.2f}, "
                f"{law.executed_exponent[2]:.2f}] by the executed FLOPs over the budgets here."
                if law.executed_exponent is not None and math.isfinite(law.executed_exponent[0])
                else "."
            )
        )
    return found

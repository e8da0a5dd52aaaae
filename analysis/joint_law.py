"""The joint law of BrierLM in size, data and K: candidates fitted directly to all points, compared, one chosen.

Fitted directly, and not through the minima of parabolas at equal compute, which are biased where the law is not a
parabola or the sizes lie to one side of the optimum. The rule by which one form is chosen is stated before any is
fitted (``RULE``). The token baseline is a family of its own: it has the chosen form without K, with parameters of
its own or with the exponents of CALM, whichever AICc prefers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.allocation import Limits, Optimum, best_allocation, size_grid
from analysis.joint_forms import FORMS, Form, Law, Middle, chunk_size_of, make_law
from analysis.law_fit import LEAST_SCALE, NUM_DRAWS, Fit, first_fit, fit_law
from analysis.scaling_points import (
    BASELINE,
    SAME_SIZE,
    Chosen,
    Costs,
    Points,
    choose_points,
    costs_of,
    groups,
    lacking,
)
from analysis.solving import BEND, Array, small_sample_aic

CLOSE = 1.1
"""Held-out errors within this factor are level, and AICc decides."""
RULE = (
    "Stated beforehand: the form with the smallest error on the held-out largest size of each family, to which "
    "it was not fitted; of forms within 10 % of that error the one with the lowest AICc. Where nothing can be "
    "held out (fewer than three sizes), the lowest AICc."
)
SIZES_TO_HOLD_OUT = 3


@dataclass(frozen=True)
class Candidate:
    """A form on the CALM points."""

    form: Form
    fit: Fit | None
    reason: str = ""
    """Why it was not fitted."""
    held_out: float = math.nan
    """Root mean square error of ln BrierLM on the largest sizes by a fit to the others."""

    @property
    def aicc(self) -> float:
        return self.fit.aicc if self.fit is not None else math.inf


@dataclass(frozen=True)
class JointLaw:
    """What the points say; ``chosen`` is None where they cannot carry a law, and ``reason`` says why."""

    points: Points
    phase: str
    head: str
    notes: list[str]
    candidates: list[Candidate] = field(default_factory=list)
    chosen: Candidate | None = None
    reason: str = ""
    baseline: Fit | None = None
    baseline_reason: str = ""
    shared_exponents: bool | None = None
    """Whether AICc prefers the baseline with CALM's exponents; None where they were not compared."""
    costs: dict[int, Costs] = field(default_factory=dict)
    held_out: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """(n,) of ``points``."""

    @property
    def chunk_sizes(self) -> list[int]:
        return self.points.chunk_sizes

    def of_family(self, family: int) -> Fit | None:
        """The fit that predicts a K, or the token baseline."""
        if family == BASELINE:
            return self.baseline
        return self.chosen.fit if self.chosen is not None else None

    def best(
        self, family: int, flops: float, limits: Limits | None = None, fit: Fit | None = None
    ) -> Optimum | None:
        """Best allocation of a family at a budget: entry 0 by the fit, the others by its bootstrap."""
        fit = fit or self.of_family(family)
        if fit is None or family not in self.costs:
            return None
        own = self.points.take(self.points.family == family)
        sizes = size_grid(fit.law, own, flops)
        theta = np.vstack([fit.theta[None], fit.draws])
        return best_allocation(fit.law, theta, self.costs[family], max(family, 1), flops, sizes, limits)


def fit_joint(evaluations: pd.DataFrame, *, num_draws: int = NUM_DRAWS, forms: tuple[str, ...] = ()) -> JointLaw:
    """Fit the candidates (``forms``: some of ``FORMS``) to the comparable points of a table of evaluations."""
    return fit_points(choose_points(evaluations), num_draws=num_draws, forms=forms)


def fit_points(chosen: Chosen, *, num_draws: int = NUM_DRAWS, forms: tuple[str, ...] = ()) -> JointLaw:
    """The same for points that were chosen already."""
    points = chosen.points
    held = largest_sizes(points)
    law = JointLaw(points, chosen.phase, chosen.head, list(chosen.notes), costs=costs_of(points), held_out=held)
    calm = points.calm
    reason = lacking(calm, what="the joint law")
    if reason:
        law = replace(law, reason=reason)
    else:
        candidates = _candidates(calm, held[~points.is_baseline], num_draws, forms)
        best = choose(candidates)
        why = "" if best else "the joint law needs more points: " + "; ".join(c.reason for c in candidates[-1:])
        law = replace(law, candidates=candidates, chosen=best, reason=why)
    return _with_baseline(law, num_draws)


def largest_sizes(points: Points) -> npt.NDArray[np.bool_]:
    """(n,) points of each family's largest size; none where a family has fewer than three sizes, so that two
    remain to fit."""
    held = np.zeros(len(points), dtype=bool)
    for family in sorted({int(k) for k in points.family}):
        own = np.flatnonzero(points.family == family)
        sizes = groups(points.num_parameters[own], SAME_SIZE)
        if len(sizes) >= SIZES_TO_HOLD_OUT:
            held[own[sizes[-1]]] = True
    return held


def _candidates(
    calm: Points, held: npt.NDArray[np.bool_], num_draws: int, forms: tuple[str, ...]
) -> list[Candidate]:
    middle = Middle.of(calm)
    laws = [make_law(FORMS[name], calm.chunk_sizes, middle) for name in (forms or FORMS)]
    few = {law.form.name: _too_few(law, calm) for law in laws}
    firsts = {law.form.name: first_fit(law, calm) for law in laws if not few[law.form.name]}
    # one bend for all, from the residuals of the best: else a form that fits badly would be judged mildly
    bend = BEND * min((scale for _, scale in firsts.values()), default=math.nan)
    found = []
    for law in laws:
        name = law.form.name
        if few[name]:
            found.append(Candidate(law.form, None, few[name]))
            continue
        fit = fit_law(law, calm, bend, start=firsts[name][0], num_draws=num_draws)
        found.append(Candidate(law.form, fit, held_out=held_out_error(law, calm, held)))
    return found


def _too_few(law: Law, points: Points) -> str:
    wanted, there = len(law.names) + 3, points.num_runs
    if there >= wanted:
        return ""
    return f"the form {law.form.name!r} has {len(law.names)} parameters and needs {wanted} runs, there are {there}"


def held_out_error(law: Law, points: Points, held: npt.NDArray[np.bool_]) -> float:
    """Root mean square of ln BrierLM's error at the points of ``held`` by a fit to the others; not-a-number where
    nothing is held out or too little remains."""
    rest = points.take(~held)
    if not held.any() or _too_few(law, rest) or lacking(rest):
        return math.nan
    test = points.take(held)
    error = np.log(_predicted(law, rest, test)) - np.log(test.score)
    return float(np.sqrt(np.mean(error**2)))


def _predicted(law: Law, rest: Points, test: Points) -> Array:
    """(n,) scores of ``test`` by a fit to ``rest``, which nothing else goes into: the bend is of its residuals."""
    start, scale = first_fit(law, rest)
    fit = fit_law(law, rest, BEND * scale, start=start, num_draws=0)
    return law.score(fit.theta, test.num_parameters, test.tokens, chunk_size_of(test))


def held_out_predictions(law: JointLaw) -> Array:
    """(n,) of the CALM points: BrierLM of those held out, by the chosen form fitted to the others; not-a-number
    for the others, and for all where nothing could be held out."""
    points = law.points.calm
    held = law.held_out[~law.points.is_baseline]
    found = np.full(len(points), np.nan)
    if law.chosen is None or law.chosen.fit is None or not math.isfinite(law.chosen.held_out):
        return found
    found[held] = _predicted(law.chosen.fit.law, points.take(~held), points.take(held))
    return found


def choose(candidates: list[Candidate]) -> Candidate | None:
    """By ``RULE``."""
    fitted = [c for c in candidates if c.fit is not None]
    errors = [c.held_out for c in fitted if math.isfinite(c.held_out)]
    if errors:
        fitted = [c for c in fitted if c.held_out <= CLOSE * min(errors)]
    fitted = [c for c in fitted if math.isfinite(c.aicc)] or fitted
    return min(fitted, key=lambda c: c.aicc, default=None)


# ---- the token baseline -------------------------------------------------------------------------------


def _with_baseline(law: JointLaw, num_draws: int) -> JointLaw:
    points = law.points.baseline
    reason = lacking(points, what="the baseline's law") if len(points) else "there are no token baselines"
    form = law.chosen.form if law.chosen is not None else FORMS["additive"]
    own = make_law(form, [], Middle.of(points)) if not reason else None
    if own is not None:
        reason = _too_few(own, points)
    if reason or own is None:
        return replace(law, baseline_reason=reason)
    start, scale = first_fit(own, points)
    calm = law.chosen.fit if law.chosen is not None else None
    bend = calm.bend if calm is not None else BEND * scale
    fit = fit_law(own, points, bend, start=start, num_draws=num_draws, seed=1)
    if calm is None:
        return replace(law, baseline=fit)
    shared = _shared(calm, own, points, bend, num_draws)
    both = points.num_runs + calm.num_runs
    aicc = {}
    for name, other in (("own", fit), ("shared", shared)):
        loss = calm.loss * calm.num_runs + other.loss * points.num_runs
        aicc[name] = small_sample_aic(both, calm.num_free + other.num_free - 1, loss / both, LEAST_SCALE)
    better = aicc["shared"] < aicc["own"]
    return replace(law, baseline=shared if better else fit, shared_exponents=better)


def _shared(calm: Fit, own: Law, points: Points, bend: float, num_draws: int) -> Fit:
    """The baseline with CALM's exponents, which the many CALM points determine nearly alone; constants its own."""
    names: list[str] = [name for name in ("a", "b") if name in own.names and name in calm.law.names]
    ties: dict[str, Array] = {name: _values(calm, name) for name in names}
    return fit_law(own, points, bend, num_draws=num_draws, seed=1, ties=ties)


def _values(fit: Fit, name: str) -> Array:
    """Its value and those of its draws."""
    index = fit.law.names.index(name)
    return np.concatenate([fit.theta[[index]], fit.draws[:, index]])

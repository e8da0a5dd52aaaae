"""The parts of a report about laws in size, data and K: pictures, tables and sentences, ready to be placed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import plots_scaling
from analysis.budget_plan import BudgetPlan, plan_by
from analysis.joint_law import JointLaw, fit_joint
from analysis.law_fit import NUM_DRAWS
from analysis.parts import Parts
from analysis.planning_words import FAR, SURE, extrapolation, lack_of_fit, measured_words
from analysis.scaling_law import LossLaw, fit_loss, loss_sentences
from analysis.scaling_points import budgets_of
from analysis.style import Picture, house_style, k_name
from analysis.table import RunTable
from analysis.tables_scaling import forms_table, loss_table, parameters_table, recommendation_table
from analysis.words import flops, interval, listed, number

BEYOND = (10.0, 100.0)
"""Times the largest trained budget at which the law is asked as well."""
MAX_BUDGETS = 5


@dataclass(frozen=True)
class ScalingParts(Parts):
    """``summary``: what to train, and how sure; ``sentences``: the law, its limits, what would settle it."""

    law: JointLaw
    loss: LossLaw
    plans: list[BudgetPlan]
    """At the trained budgets and beyond, smallest first."""


def scaling_parts(
    runs: RunTable | pd.DataFrame, *, with_pictures: bool = True, num_draws: int = NUM_DRAWS
) -> ScalingParts:
    """Fit both laws to a table of runs (or its evaluations) and make everything a report shows of them.

    ``num_draws``: of the bootstrap."""
    evaluations = runs.evaluations if isinstance(runs, RunTable) else runs
    law, loss = fit_joint(evaluations, num_draws=num_draws), fit_loss(evaluations, num_draws=num_draws)
    plans: list[BudgetPlan] = []
    if law.chosen is not None:
        trained = budgets_of(law.points)[-MAX_BUDGETS:]
        asked = [*trained, *(factor * float(law.points.flops.max()) for factor in BEYOND)]
        plans = [plan_by(law, float(c), with_shapes=False) for c in asked]
    inside = [plan for plan in plans if plan.flops <= law.points.flops.max() * 1.05]
    tables = [
        recommendation_table(plans, law),
        forms_table(law, inside[-1:] + plans[-1:] if plans else ()),
        parameters_table(law),
        loss_table(loss),
    ]
    pictures: list[Picture | None] = []
    if with_pictures:
        with house_style():
            pictures = [
                plots_scaling.isoflop_figure(law),
                plots_scaling.odds_figure(plans, law),
                plots_scaling.prediction_figure(law),
                plots_scaling.loss_figure(loss),
            ]
    return ScalingParts(
        law,
        loss,
        plans,
        pictures=[picture for picture in pictures if picture is not None],
        tables=[table for table in tables if table is not None],
        summary=summary_sentences(law, plans),
        sentences=law_sentences(law, inside[-1] if inside else None) + loss_sentences(loss),
    )


def summary_sentences(law: JointLaw, plans: list[BudgetPlan]) -> list[str]:
    """Best K at the largest trained budget and at the largest asked, with odds, score and the baseline's; or why
    nothing can be said. Nothing where there is no CALM at all."""
    if law.chosen is None:
        return [f"No law in size, data and K: {law.reason}."] if len(law.points.calm) else []
    top = law.points.flops.max() * 1.05
    inside, outside = [p for p in plans if p.flops <= top], [p for p in plans if p.flops > top]
    found = [*[_recommendation(plan) for plan in inside[-1:]], *lack_of_fit(law), measured_words(law)]
    moves = _moves(inside)
    if moves:
        found.append(moves)
    if outside:
        plan = outside[-1]
        best = plan.recommended
        if best is not None:
            far = extrapolation(best, plan.flops, law)["compute"]
            guess = "a guess by the form of the law" if far >= FAR else "an extrapolation"
            found.append(f"{_recommendation(plan)} That is {guess}: {far:.1f} decades beyond the data.")
    return found


def _recommendation(plan: BudgetPlan) -> str:
    best = plan.recommended
    if best is None:
        return f"At {flops(plan.flops)} FLOPs nothing can be recommended: {plan.reason}."
    odds = [c for c in (best, *plan.alternatives) if (c.probability or 0) >= 0.005]
    said = listed([f"{c.name} in {c.probability:.0%}" for c in odds])
    shares = f", best in this share of bootstrap resamples: {said}" if plan.alternatives else ""
    score = f"{number(best.score.value)} {interval(best.score.low, best.score.high)}"
    base = ""
    if plan.baseline is not None:
        other = plan.baseline.score
        base = f" (token baseline: {number(other.value)} {interval(other.low, other.high)})"
    return (
        f"With {flops(plan.flops)} training FLOPs the law recommends {best.name}{shares}; BrierLM at its best "
        f"size: {score}{base}."
    )


def _moves(plans: list[BudgetPlan]) -> str:
    """How the best K moves with the budget, within the data."""
    best = [(plan.flops, plan.recommended) for plan in plans if plan.recommended is not None]
    if len(best) < 2:
        return ""
    families = [choice.family for _, choice in best]
    first, last = families[0], families[-1]
    if set(families) == {first}:
        return f"By the law {k_name(first)} is best at all trained budgets."
    steady = families in (sorted(families), sorted(families, reverse=True))
    if not steady or any((choice.probability or 0.0) < SURE for _, choice in (best[0], best[-1])):
        return ""  # point estimates that move to and fro, or whose odds are open, are no trend
    way = "grows" if last > first else "falls"
    return (
        f"By the law the best K {way} with the budget: {k_name(first)} at {flops(best[0][0])} FLOPs, "
        f"{k_name(last)} at {flops(best[-1][0])}."
    )


def law_sentences(law: JointLaw, plan: BudgetPlan | None) -> list[str]:
    """About the law itself, its baseline and its limits; ``plan``: at the largest trained budget."""
    found = list(law.notes)
    if law.chosen is None or law.chosen.fit is None:
        return found
    fit, error = law.chosen.fit, law.chosen.held_out
    held = ""
    if np.isfinite(error):
        held = f" It predicts the largest sizes, which were held out, to {error:.1%}"
        held += f" (single runs scatter by {fit.scale:.1%})."
    found.append(
        f"Of {len(law.candidates)} forms {law.chosen.form.name!r} was chosen: ln(100/BrierLM) = "
        f"{law.chosen.form.formula}.{held}"
    )
    if law.shared_exponents is not None:
        same = "the exponents of CALM" if law.shared_exponents else "exponents of its own"
        found.append(f"The token baseline is described better (AICc) with {same}.")
    elif law.baseline_reason:
        found.append(f"No law of the token baseline: {law.baseline_reason}.")
    if plan is not None:
        found += [*plan.warnings, *plan.advice]
    return found

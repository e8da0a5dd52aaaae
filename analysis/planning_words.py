"""What a plan for a budget has to say beside its numbers: how far it extrapolates, what it rests on, and which
runs would settle it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from analysis.law_fit import FAR_OFF, relative_errors
from analysis.scaling_points import BASELINE, SAME_COST, SAME_SIZE, Points, groups
from analysis.style import k_name
from analysis.words import flops as flops_words
from analysis.words import listed, plus_minus

if TYPE_CHECKING:
    from analysis.budget_plan import BudgetPlan, Choice
    from analysis.joint_law import JointLaw

SURE = 0.9
"""Probability of a K from which nothing more is asked for."""
FAR = 1.0
"""Decades beyond the data from which a number is a guess by the form of the law."""
WORTH_A_RUN = 0.3
"""Decades above the largest budget from which one in between is asked for."""
LITTLE = math.log10(1.05)
"""Decades within which a budget or size counts as inside the data."""
LACKS_FIT = 2.0
"""Times what errors explain, from where on scatter about the law is the form's fault."""
COST_DIFFERS = 0.2
"""Relative difference between the runs' cost at a size and the exact one of the shape."""
MANY_SEEDS = 32
NEGLIGIBLE = 0.01
"""Relative difference in BrierLM that is not worth settling."""


def beyond(value: float, low: float, high: float) -> float:
    """Decades outside [low, high]: above it positive, below it negative, inside 0."""
    if value > high:
        return math.log10(value / high)
    return min(0.0, math.log10(value / low))


def latent_of(points: Points, family: int) -> tuple[int | None, str]:
    """Latent dimension for a K by the runs, and what that rests on."""
    if family == BASELINE:
        return None, ""
    own = points.latent_dim[points.family == family]
    own = own[np.isfinite(own)]
    if not len(own):
        return None, "not recorded"
    latent = round(float(np.median(own)))
    ratios = {
        round(float(np.median(points.latent_dim[points.family == k])) / k, 6)
        for k in points.chunk_sizes
        if np.isfinite(points.latent_dim[points.family == k]).all()
    }
    if len(points.chunk_sizes) > 1 and len(ratios) == 1:
        return latent, f"the rule of the runs: {ratios.pop():g} for each of the K tokens"
    return latent, "that of the runs"


def extrapolation(choice: Choice, flops: float, law: JointLaw) -> dict[str, float]:
    """Decades beyond the trained compute, sizes and tokens of the family; 0 inside."""
    own = law.points.take(law.points.family == choice.family)
    return {
        "compute": beyond(flops, float(own.flops.min()), float(own.flops.max())),
        "size": beyond(
            choice.num_parameters.value, float(own.num_parameters.min()), float(own.num_parameters.max())
        ),
        "tokens": beyond(choice.tokens.value, float(own.tokens.min()), float(own.tokens.max())),
    }


def warnings_of(plan: BudgetPlan, law: JointLaw) -> list[str]:
    """In the order of their weight."""
    best = plan.recommended
    assert best is not None
    found = [*_extrapolation_warnings(best, plan.flops, law), *lack_of_fit(law)]
    if len(law.chunk_sizes) == 1:
        only = k_name(law.chunk_sizes[0])
        found.append(f"Only {only} was run: nothing is said about other K; size and tokens are for {only}.")
    found += _form_warnings(plan, law)
    if best.at_edge:
        found.append(
            f"No best size was found within the sizes looked at: {best.num_parameters.value:.2g} parameters is "
            "their end, and the law would go on."
        )
    if best.capped:
        found.append("The limit on inference holds the size down: without it a larger model would score higher.")
    unknown = law.chosen.fit.unidentified if law.chosen is not None and law.chosen.fit is not None else []
    if unknown:
        found.append(
            f"Parameters of the law that the data do not determine: {', '.join(unknown)}; beyond the trained "
            "range the intervals lean on the bounds set for them."
        )
    free = uncharged(law) if plan.limits.with_autoencoder else []
    if free:
        found.append(f"The autoencoder's training is not charged to {listed(free)}: no run recorded it.")
    found += _shape_warnings(best)
    return found


def uncharged(law: JointLaw) -> list[str]:
    """Families whose autoencoder's cost no run recorded: it counts as nothing, which must be said."""
    known = [k for k in law.chunk_sizes if k in law.costs]
    return [k_name(k) for k in known if not math.isfinite(law.costs[k].autoencoder_flops)]


def lack_of_fit(law: JointLaw) -> list[str]:
    """A warning where runs scatter about the law by more than the errors of evaluation and of seeds explain."""
    fit = law.chosen.fit if law.chosen is not None else None
    if fit is None:
        return []
    explained = float(np.median(relative_errors(law.points.calm)))
    if fit.scale <= LACKS_FIT * explained:
        return []
    return [
        f"The law misses the runs by {fit.scale:.1%}, where errors of evaluation and of seeds explain "
        f"{explained:.1%}: the form does not bend as the data do."
    ]


def measured_words(law: JointLaw) -> str:
    """The best run of each family at the largest trained budget beside what the law says of a run like it."""
    points, parts = law.points, []
    budget = float(points.flops.max()) if len(points) else 1.0
    for family in (*law.chunk_sizes, BASELINE):
        fit = law.of_family(family)
        own = np.flatnonzero((points.family == family) & (np.abs(np.log(points.flops / budget)) < SAME_COST))
        if fit is None or not len(own):
            continue
        best = points.take(own[[int(points.score[own].argmax())]])
        design = fit.law.design(best.num_parameters, best.tokens, np.maximum(best.family, 1).astype(float))
        value, *draws = np.exp(fit.law.log_score(np.vstack([fit.theta[None], fit.draws]), design))[:, 0]
        low, high = np.percentile(draws, (2.5, 97.5))
        shown = plus_minus(best.score[0], best.score_se[0])
        parts.append(f"{k_name(family or None)} {shown} (law {value:.2f} [{low:.2f}, {high:.2f}])")
    if not parts:
        return ""
    return f"Best runs at {flops_words(budget)} FLOPs, measured and by the law at their size: {', '.join(parts)}."


def _extrapolation_warnings(best: Choice, flops: float, law: JointLaw) -> list[str]:
    what = {"compute": "trained budgets", "size": "trained sizes", "tokens": "amounts of tokens trained on"}
    decades = {k: v for k, v in extrapolation(best, flops, law).items() if abs(v) > LITTLE}
    if not decades:
        return []
    parts = [f"{_distance(v)} the {what[k]}" for k, v in decades.items()]
    far = max(abs(v) for v in decades.values()) >= FAR
    text = "the numbers are the form's guess, not a measurement" if far else "they hold if the form does"
    odds = "Odds and intervals hold the noise of the runs only"
    return [f"Extrapolation: {listed(parts)} of {best.name}. {odds}; {text}."]


def _distance(decades: float) -> str:
    """``2.1 decades above``, ``a factor of 1.8 above``."""
    way = "above" if decades > 0 else "below"
    size = abs(decades)
    return f"{size:.1f} decades {way}" if size >= 0.5 else f"a factor of {10**size:.2g} {way}"


def _form_warnings(plan: BudgetPlan, law: JointLaw) -> list[str]:
    best = plan.recommended
    found: list[str] = []
    assert best is not None
    assert law.chosen is not None
    others = {name: k for name, k in plan.by_form.items() if k != best.family and name != plan.form}
    if others:
        said = [f"{k_name(k)} by {name!r}" for name, k in others.items()]
        found.append(f"The forms disagree on K here: {listed(said)}; chosen was {plan.form!r} by the stated rule.")
    error, noise = law.chosen.held_out, plan.run_noise
    if math.isfinite(error) and error > 3 * noise:
        found.append(
            f"The chosen form misses the largest sizes, to which it was not fitted, by {error:.0%}: more than "
            f"three times what single runs scatter by ({noise:.1%})."
        )
    fit = law.chosen.fit
    if fit is not None and fit.num_off:
        num = f"{fit.num_off} of {fit.num_points} points lie"
        found.append(
            f"{num} more than {FAR_OFF:g} times the scatter off the law: look at these runs before trusting it."
        )
    if not math.isfinite(error):
        found.append("No size could be held out (fewer than three): the form was chosen by AICc alone.")
    if not law.chosen.form.has_best_size:
        found.append(
            "The chosen form is straight in logarithms and has no best size at a budget: the size is an end "
            "of the trained range, not an optimum."
        )
    return found


def _shape_warnings(best: Choice) -> list[str]:
    shape = best.shape
    found: list[str] = []
    if shape is None:
        return found
    ratio = shape.flops_per_token / best.flops_per_token
    if abs(ratio - 1) > COST_DIFFERS:
        source = f"the preset {shape.reference}" if shape.reference else "the study's configuration"
        found.append(
            f"The shape costs {ratio:.2g} times per token what the runs say of this size (it is made from {source}"
            "): the law's tokens and the shape's differ by that."
        )
    off = shape.num_parameters / best.num_parameters.value
    if abs(math.log(off)) > math.log(1.15):
        found.append(
            f"The nearest shape has {shape.num_parameters:,} parameters, {off:.2g} times what the law asks for."
        )
    return found


def advice_of(plan: BudgetPlan, law: JointLaw) -> list[str]:
    """Runs that would make the answer surer, most useful first; none where it is sure already."""
    best = plan.recommended
    assert best is not None
    found = []
    distance = extrapolation(best, plan.flops, law)
    top = float(law.points.flops.max())
    if distance["compute"] > WORTH_A_RUN:
        between = math.sqrt(top * plan.flops)
        rivals = [best, *[c for c in plan.alternatives if (c.probability or 0) >= 1 - SURE][:1]]
        found.append(
            f"Train {listed([c.name for c in rivals])} at {flops_words(between)} FLOPs, half-way (in logarithms) "
            "between the largest budget and this one, at two sizes about the best one, and ask again."
        )
    if distance["size"] > LITTLE or best.at_edge:
        found.append(_size_words(best, law))
    if (best.probability or 0) < SURE and plan.alternatives:
        found.append(_seeds_words(best, plan.alternatives[0], plan.run_noise))
    own = law.points.take(law.points.family == best.family)
    if len(groups(own.num_parameters, SAME_SIZE)) < 3:
        found.append("Add a third size: with two, the curvature in size is not seen and no size can be held out.")
    if len(law.chunk_sizes) == 1:
        found.append("Run at least one other K at the same sizes and budgets.")
    return found


def _size_words(best: Choice, law: JointLaw) -> str:
    """In which direction the trained sizes end too early."""
    own = law.points.num_parameters[law.points.family == best.family]
    low, high, size = float(own.min()), float(own.max()), best.num_parameters.value
    if abs(math.log(size / low)) < abs(math.log(size / high)):
        where = f"smaller than {low:,.0f}"
    else:
        where = f"larger than {high:,.0f}"
    return f"Add a size of {best.name} {where} parameters: the best one is not inside the sizes trained."


def _seeds_words(best: Choice, rival: Choice, noise: float) -> str:
    gap = abs(math.log(best.score.value / rival.score.value))
    pair = f"{best.name} and {rival.name}"
    if gap < NEGLIGIBLE:
        return (
            f"By the law {pair} differ by less than 1 % of BrierLM here: practically the same. Take the one that "
            "is cheaper to sample from."
        )
    seeds = max(2, math.ceil(2 * (1.96 * noise / gap) ** 2))
    if seeds > MANY_SEEDS:
        return (
            f"{pair} differ by {gap:.1%} by the law; more than {MANY_SEEDS} seeds of each would be needed to tell."
        )
    return (
        f"Train {pair} at this budget, {seeds} seeds each: by the law they differ by {gap:.1%}, single runs "
        f"scatter by {noise:.1%}."
    )

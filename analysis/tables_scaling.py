"""Tables of the laws in size, data and K: fitted parameters, forms compared, what to train for which budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.budget_plan import BudgetPlan, Estimate
from analysis.joint_law import RULE, JointLaw
from analysis.law_fit import Fit
from analysis.planning_words import LITTLE, extrapolation
from analysis.scaling_law import PARAMETERS, LossLaw
from analysis.style import k_name
from analysis.words import MISSING, Cell, Table, flops, interval, number

NOT_IDENTIFIED = "not identified"
_LOSS_MEANINGS = {
    "E": "floor (nats a token)",
    "A": "size: factor",
    "a": "size: exponent",
    "B": "data: factor",
    "b": "data: exponent",
}


def parameters_table(law: JointLaw) -> Table | None:
    """Of the chosen form, for CALM and for the token baseline."""
    if law.chosen is None or law.chosen.fit is None:
        return None
    fits: list[tuple[str, Fit]] = [("CALM", law.chosen.fit)]
    if law.baseline is not None:
        fits.append(("token baseline", law.baseline))
    rows: list[list[Cell]] = []
    for whose, fit in fits:
        for i, parameter in enumerate(fit.law.parameters):
            tied = parameter.name in fit.tied
            known = tied or fit.identified(i)
            value = number(fit.theta[i], 3) if known else NOT_IDENTIFIED
            ends = "that of CALM" if tied else interval(*fit.interval(i), digits=3)
            rows.append([whose, parameter.name, parameter.meaning, value, ends])
    caption = (
        f"Parameters of the chosen form, ln(100/BrierLM) = {law.chosen.form.formula}, with 95 % intervals "
        "by bootstrap over runs. Constants are logarithms of a term's size in the middle of the data. Not "
        "identified: the interval reaches a bound of the search or is too wide to say anything."
    )
    return Table("law_parameters", caption, ["", "parameter", "meaning", "value", "95 %"], rows, frozenset({3, 4}))


def forms_table(law: JointLaw, at: Sequence[BudgetPlan] = ()) -> Table | None:
    """The candidates side by side; ``at``: budgets at which their best K is shown."""
    fitted = [c for c in law.candidates if c.fit is not None]
    if not fitted:
        return None
    least = min(c.aicc for c in fitted)
    rows: list[list[Cell]] = []
    for candidate in law.candidates:
        chosen = law.chosen is not None and candidate.form.name == law.chosen.form.name
        name = candidate.form.name + (" (chosen)" if chosen else "")
        if candidate.fit is None:
            rows.append([name, candidate.form.formula, MISSING, candidate.reason, MISSING, *[MISSING for _ in at]])
            continue
        error = f"{candidate.held_out:.1%}" if math.isfinite(candidate.held_out) else MISSING
        aicc = number(candidate.aicc - least, 1) if math.isfinite(least) else MISSING
        best = [k_name(k) if (k := plan.by_form.get(candidate.form.name)) else MISSING for plan in at]
        rows.append([name, candidate.form.formula, str(len(candidate.fit.theta)), error, aicc, *best])
    columns = ["form", "ln(100/BrierLM) =", "parameters", "held-out error", "AICc above the lowest"]
    columns += [f"best K at {flops(plan.flops)}" for plan in at]
    caption = (
        f"Candidate forms of the joint law, fitted directly to all {len(law.points.calm)} CALM points. Held-out "
        f"error: root mean square of the relative error at the largest size of each K by a fit to the "
        f"others. {RULE}"
    )
    return Table("law_forms", caption, columns, rows, frozenset({2, 3, 4}))


def recommendation_table(plans: Sequence[BudgetPlan], law: JointLaw) -> Table | None:
    """One row a budget."""
    rows: list[list[Cell]] = []
    for plan in plans:
        best = plan.recommended
        if best is None:
            continue
        odds = f" ({best.probability:.0%})" if plan.alternatives else ""
        rival = plan.alternatives[0] if plan.alternatives else None
        second = f"{rival.name} ({rival.probability:.0%})" if rival is not None else MISSING
        far = max(abs(v) for v in extrapolation(best, plan.flops, law).values())
        rows.append(
            [
                flops(plan.flops),
                best.name + odds,
                _estimate(best.score),
                _short(best.num_parameters),
                _short(best.tokens),
                str(best.latent_dim or MISSING),
                second,
                _estimate(plan.baseline.score) if plan.baseline is not None else MISSING,
                f"{far:.1f} decades" if far > LITTLE else "none",
            ]
        )
    if not rows:
        return None
    columns = ["budget (FLOPs)", "K", "BrierLM", "parameters", "tokens", "latent", "second", "token baseline"]
    caption = (
        "What to train for a budget by the law, with size and tokens at their best under the executed FLOPs, and "
        "95 % intervals. In brackets: share of bootstrap resamples in which this K scores highest; it holds the "
        "noise of the runs, not a wrong form of the law. The token baseline is shown at its own best size. Beyond "
        "the data: the farthest of budget, size and tokens."
    )
    return Table(
        "plan_by_budget", caption, [*columns, "beyond the data"], rows, frozenset(range(2, 6)) | frozenset({7})
    )


def loss_table(law: LossLaw) -> Table | None:
    """Parameters of loss(N, D)."""
    if law.fit is None:
        return None
    rows: list[list[Cell]] = []
    for name in PARAMETERS:
        known = name not in law.unidentified
        value = f"{law.values[name]:.3g}" if known else NOT_IDENTIFIED
        low, high = law.intervals[name]
        rows.append([name, _LOSS_MEANINGS[name], value, f"[{low:.3g}, {high:.3g}]"])
    for label, found in (("C = 6ND", law.size_exponent), ("executed FLOPs", law.executed_exponent)):
        known = found is not None and not {"a", "b"} & set(law.unidentified)
        value = number(found[0]) if known and found is not None else NOT_IDENTIFIED
        ends = interval(found[1], found[2]) if found is not None else MISSING
        rows.append(["", f"exponent of the best size in compute, {label}", value, ends])
    caption = (
        f"loss(N, D) = E + A/N^a + B/D^b, fitted to the cross-entropy of {law.points.num_runs} token baselines (N "
        "without look-up embeddings), with 95 % intervals by bootstrap over runs."
    )
    return Table("loss_law", caption, ["parameter", "meaning", "value", "95 %"], rows, frozenset({2, 3}))


def _estimate(estimate: Estimate) -> str:
    return f"{number(estimate.value)} {interval(estimate.low, estimate.high)}"


def _short(estimate: Estimate) -> str:
    return f"{flops_short(estimate.value)} [{flops_short(estimate.low)}, {flops_short(estimate.high)}]"


def flops_short(value: float) -> str:
    """``350k``, ``1.2M``, ``3.4G``: a count that a reader compares at a glance."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            amount = value / size
            return f"{amount:.0f}{unit}" if amount >= 100 else f"{amount:.2g}{unit}"
    return f"{value:.0f}"

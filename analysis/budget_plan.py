"""For a budget of compute: which K, size, tokens and latent to train, and how sure is that.

The joint law (``analysis.joint_law``) gives the best size and score of each K at the budget, by the fit and by
every replicate of its bootstrap; the share of replicates in which a K scores highest is its probability. That
holds the noise of the runs and not a wrong form: how the other forms answer is said beside it. Nothing is said of
values of K that were not run, and everything beyond the trained budgets, sizes and tokens carries a warning.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.allocation import Limits, Optimum, charged
from analysis.joint_law import JointLaw, fit_joint
from analysis.law_fit import NUM_DRAWS
from analysis.planning_words import advice_of, latent_of, measured_words, warnings_of
from analysis.scaling_points import BASELINE
from analysis.shapes import Shape, find_shape
from analysis.style import k_name
from analysis.table import RunTable
from workbench.errors import ConfigError

LARGEST = 1e40
"""FLOPs: beyond any budget, and below what steps can be counted for."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """By the fit, with the bootstrap's 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Array) -> Estimate:
        """``values``: the fit's, then those of the replicates."""
        low, high = np.percentile(values[1:], (2.5, 97.5))
        return cls(float(values[0]), float(low), float(high))


@dataclass(frozen=True)
class Choice:
    """The best model of one family at the budget."""

    family: int
    """K, or 0 for the token baseline."""
    probability: float | None
    """That this K is the best of those compared; None for the baseline."""
    score: Estimate
    """BrierLM of the law: a single run scatters by ``BudgetPlan.run_noise`` about it."""
    num_parameters: Estimate
    """N, without look-up embeddings and autoencoder."""
    tokens: Estimate
    latent_dim: int | None
    latent_words: str
    at_edge: bool
    """Whether the best size is an end of the sizes looked at: no optimum was found."""
    capped: bool
    """Whether the limit on inference holds the size down."""
    flops_per_token: float
    """Executed, training, by the runs' costs at this size."""
    infer_flops_per_token: float | None
    shape: Shape | None

    @property
    def name(self) -> str:
        return k_name(self.family or None)


@dataclass(frozen=True)
class BudgetPlan:
    """The answer; ``recommended`` is None where the data cannot give one, and ``reason`` says why."""

    flops: float
    limits: Limits
    recommended: Choice | None = None
    alternatives: list[Choice] = field(default_factory=list)
    """The other values of K, likeliest first."""
    baseline: Choice | None = None
    reason: str = ""
    form: str = ""
    by_form: dict[str, int | None] = field(default_factory=dict)
    """Best K by the fit of every form; of the chosen one the recommended K."""
    run_noise: float = math.nan
    """Relative standard deviation of a single run about the law."""
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """About the points: what was left out, and what the baseline cannot say."""
    advice: list[str] = field(default_factory=list)
    """What would settle it."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON: not-a-number becomes None."""
        tree = dataclasses.asdict(self)
        found = _jsonable(tree)
        assert isinstance(found, dict)
        return found


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def plan_budget(
    runs: RunTable | pd.DataFrame,
    *,
    flops: float,
    infer_flops_per_token: float | None = None,
    with_autoencoder: bool = False,
    configs: Mapping[int, Mapping[str, Any]] | None = None,
    num_draws: int = NUM_DRAWS,
) -> BudgetPlan:
    """What to train with ``flops`` executed training FLOPs, from a table of runs or of evaluations.

    ``infer_flops_per_token``: a limit. ``with_autoencoder``: its training is charged to the budget. ``configs``:
    a configuration of reference (as a mapping) by family, from which shapes are made. ``num_draws``: of the
    bootstrap.

    Raises ConfigError for a budget or limit that is not above 0."""
    for name, value in (("--flops", flops), ("--inference-flops-per-token", infer_flops_per_token)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{name} wants a number of FLOPs above 0, {value:g} given; for example {name} 1e18")
        if value is not None and value > LARGEST:
            raise ConfigError(f"{name} wants at most {LARGEST:g} FLOPs, {value:g} given; for example {name} 1e18")
    evaluations = runs.evaluations if isinstance(runs, RunTable) else runs
    law = fit_joint(evaluations, num_draws=num_draws)
    return plan_by(law, flops, Limits(infer_flops_per_token, with_autoencoder), configs=configs)


def plan_by(
    law: JointLaw,
    flops: float,
    limits: Limits | None = None,
    *,
    configs: Mapping[int, Mapping[str, Any]] | None = None,
    with_shapes: bool = True,
) -> BudgetPlan:
    """The same by a law that was fitted already."""
    limits = limits or Limits()
    shapes = (configs or {}) if with_shapes else None
    base = law.best(BASELINE, flops, limits)
    baseline = _choice(law, BASELINE, base, None, flops, limits, shapes) if base is not None else None
    notes = [*law.notes, *filter(None, [measured_words(law)])]
    if law.baseline_reason:
        notes.append(f"No baseline to compare with: {law.baseline_reason}.")
    plan = BudgetPlan(flops, limits, baseline=baseline, notes=notes)
    if law.chosen is None or law.chosen.fit is None:
        return dataclasses.replace(plan, reason=law.reason)
    optima = {k: law.best(k, flops, limits) for k in law.chunk_sizes}
    fitting = {k: o for k, o in optima.items() if o is not None}
    if not fitting:
        return dataclasses.replace(plan, reason=_nothing_fits(limits))
    odds = probabilities(fitting)
    order = sorted(fitting, key=lambda k: (-odds[k], -fitting[k].score[0]))
    choices = [_choice(law, k, fitting[k], odds[k], flops, limits, shapes) for k in order]
    plan = dataclasses.replace(
        plan,
        recommended=choices[0],
        alternatives=choices[1:],
        form=law.chosen.form.name,
        by_form={**best_by_form(law, flops, limits), law.chosen.form.name: order[0]},
        run_noise=law.chosen.fit.scale,
    )
    plan = dataclasses.replace(plan, warnings=warnings_of(plan, law))
    return dataclasses.replace(plan, advice=advice_of(plan, law))


def probabilities(optima: Mapping[int, Optimum]) -> dict[int, float]:
    """Share of the bootstrap's replicates in which each K scores highest; they are the same for all K."""
    scores = np.stack([o.score[1:] for o in optima.values()])
    winners = scores.argmax(axis=0)
    return {k: float(np.mean(winners == i)) for i, k in enumerate(optima)}


def best_by_form(law: JointLaw, flops: float, limits: Limits) -> dict[str, int | None]:
    """Best K by the fit of each form."""
    found: dict[str, int | None] = {}
    for candidate in law.candidates:
        if candidate.fit is None:
            continue
        only = dataclasses.replace(candidate.fit, draws=candidate.fit.theta[None])
        optima = {k: law.best(k, flops, limits, only) for k in law.chunk_sizes}
        scores = {k: float(o.score[0]) for k, o in optima.items() if o is not None}
        found[candidate.form.name] = max(scores, key=lambda k: scores[k]) if scores else None
    return found


def _nothing_fits(limits: Limits) -> str:
    if limits.infer_flops_per_token is not None:
        return f"no size of any K keeps to {limits.infer_flops_per_token:.3g} inference FLOPs a token"
    return "the budget does not pay a single token (with the autoencoder charged: not even its training)"


def _choice(
    law: JointLaw,
    family: int,
    optimum: Optimum,
    probability: float | None,
    flops: float,
    limits: Limits,
    configs: Mapping[int, Mapping[str, Any]] | None,
) -> Choice:
    costs, size = law.costs[family], float(optimum.num_parameters[0])
    latent, words = latent_of(law.points, family)
    left = flops - charged(costs, limits)
    shape = None
    if configs is not None:
        limit = limits.infer_flops_per_token
        layers = law.points.num_layers[law.points.family == family]
        shape = find_shape(
            family,
            size,
            left,
            latent_dim=latent,
            num_layers=int(layers[0]) if np.isfinite(layers).all() and np.ptp(layers) == 0 else None,
            tree=configs.get(family),
            infer_limit=limit,
        )
    return Choice(
        family=family,
        probability=probability,
        score=Estimate.of(optimum.score),
        num_parameters=Estimate.of(optimum.num_parameters),
        tokens=Estimate.of(optimum.tokens),
        latent_dim=latent,
        latent_words=words,
        at_edge=bool(optimum.at_edge[0]) and not optimum.capped,
        capped=optimum.capped,
        flops_per_token=float(costs.training(size)),
        infer_flops_per_token=float(costs.inference(size)) if costs.inference is not None else None,
        shape=shape,
    )

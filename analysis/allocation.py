"""How to spend a budget of compute by a fitted law: which size, how many tokens, what score.

The best size at a budget C is found on a fine grid of sizes, each with the tokens that the *executed* cost of the
family leaves it, D = C / cost(N). Where cost = k N exactly there is a closed form (Hoffmann et al. 2022,
equation 4), which the tests hold against the search.

Letters: N parameters, D tokens, C FLOPs, K chunk size, R vectors of parameters (the fit, then its bootstrap).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.joint_forms import Law
from analysis.scaling_points import Costs, Points

Array = npt.NDArray[np.float64]
NUM_SIZES = 240
"""Of the grid; the best is refined between its neighbours by a parabola."""
BEYOND = math.log(30.0)
"""How far beyond the trained sizes (ln N) the search goes, on top of the extrapolation in compute."""


@dataclass(frozen=True)
class Limits:
    """What a model may cost."""

    infer_flops_per_token: float | None = None
    with_autoencoder: bool = False
    """Charge the autoencoder's own training to the budget."""


@dataclass(frozen=True)
class Optimum:
    """Best allocation of one family, one entry a vector of parameters."""

    num_parameters: Array
    tokens: Array
    score: Array
    """BrierLM; of a law of the loss nats a token."""
    at_edge: npt.NDArray[np.bool_]
    """Whether the best size is an end of the sizes looked at: then it is no optimum."""
    capped: bool = False
    """Whether the limit on inference is what holds the size down."""


def charged(costs: Costs, limits: Limits) -> float:
    """What the autoencoder takes from the budget; 0 where it is not to be charged or was not recorded."""
    known = limits.with_autoencoder and math.isfinite(costs.autoencoder_flops)
    return costs.autoencoder_flops if known else 0.0


def tokens_for(costs: Costs, num_parameters: Array, flops: float, limits: Limits) -> Array:
    """D that the budget leaves at each size; 0 where the autoencoder alone spends it."""
    left = flops - charged(costs, limits)
    return np.asarray(max(left, 0.0) / costs.training(num_parameters))


def size_grid(law: Law, points: Points, flops: float) -> Array:
    """Sizes to look at: the trained ones and beyond; of a law without a best size the trained range alone."""
    low, high = float(points.num_parameters.min()), float(points.num_parameters.max())
    if not law.form.has_best_size:
        return np.geomspace(low, high, NUM_SIZES)
    up = max(0.0, math.log(flops / points.flops.max()))
    down = max(0.0, math.log(points.flops.min() / flops))
    return np.exp(np.linspace(math.log(low) - down - BEYOND, math.log(high) + up + BEYOND, NUM_SIZES))


def best_allocation(
    law: Law,
    theta: Array,
    costs: Costs,
    chunk_size: float,
    flops: float,
    sizes: Array,
    limits: Limits | None = None,
) -> Optimum | None:
    """Size, tokens and BrierLM at a budget for each row of ``theta`` (R, p).

    None where no size fits the limits."""
    limits = limits or Limits()
    tokens = tokens_for(costs, sizes, flops, limits)
    allowed = tokens >= 1.0
    within = len(allowed)
    if limits.infer_flops_per_token is not None:
        if costs.inference is None:
            return None
        cheap = costs.inference(sizes) <= limits.infer_flops_per_token
        within = int(cheap.sum())
        allowed &= cheap
    sizes, tokens = sizes[allowed], tokens[allowed]
    if len(sizes) < 3:
        return None
    log_n = np.log(sizes)
    design = law.design(sizes, tokens, np.full(len(sizes), chunk_size))
    value = law.log_deficit(theta, design)  # (R, G)
    best = value.argmin(axis=1)
    inner = np.clip(best, 1, len(sizes) - 2)
    rows = np.arange(len(theta))
    left, middle, right = (value[rows, inner + i] for i in (-1, 0, 1))
    curvature = left - 2 * middle + right
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(curvature > 0, 0.5 * (left - right) / curvature, 0.0)
    shift = np.where(best == inner, np.clip(shift, -1.0, 1.0), best - inner)
    chosen = np.exp(np.interp(inner + shift, np.arange(len(sizes)), log_n))
    at_end = (best == 0) | (best == len(sizes) - 1)
    capped = bool(within < len(allowed) and best[0] == len(sizes) - 1)
    lowest = value[rows, best]
    score = np.exp(lowest) if law.of_loss else 100 * np.exp(-np.exp(np.minimum(lowest, 50.0)))
    return Optimum(chosen, tokens_for(costs, chosen, flops, limits), score, at_end, capped)


def closed_form(
    size: tuple[float, float], data: tuple[float, float], flops: float, per_parameter: float = 6.0
) -> tuple[float, float]:
    """Compute-optimal (N, D) of E + A / N^a + B / D^b under C = k N D (Hoffmann et al. 2022, equation 4).

    ``size``: (A, a), ``data``: (B, b), ``per_parameter``: k, FLOPs for a token and parameter."""
    (big_a, a), (big_b, b) = size, data
    product = flops / per_parameter
    ratio = (a * big_a / (b * big_b)) ** (1 / (a + b))
    return ratio * product ** (b / (a + b)), product ** (a / (a + b)) / ratio


def exponent_of(budgets: Array, values: Array) -> Array:
    """(R,) slope of ln ``values`` (R, budgets) in ln C: the exponent of N_opt(C) or D_opt(C)."""
    x = np.log(budgets) - np.log(budgets).mean()
    return np.asarray(np.log(values) @ x / (x @ x))

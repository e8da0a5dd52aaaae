"""How sure a BrierLM is: standard errors, intervals, bounds, bootstrap (METHOD section 5). Imports no torch.

Positions of one window, and windows of one document, are not independent: *clusters* are. Every error
here comes from the scatter of cluster sums, and its quantiles are t with (clusters - 1) degrees of freedom,
clusters of unequal size counted by how many of equal size they are worth (``cluster_dof``).

Two regimes. Where every order lies above three of its errors, BrierLM = 100 (prod b_n)^(1/4) is smooth
enough for the delta method through the logarithms. Elsewhere (*weak* orders) that method fails, since the
logarithm is not linear over the error: the interval is [0, upper bound] then, with the bound from
``upper_bound``.

Letters: W windows, n positions of a window, O = 4 orders, C clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, special  # type: ignore[import-untyped]

from workbench.records import Brier

NUM_ORDERS = 4
LEVEL = 0.95
WEAK = 3.0
"""Orders within so many of their errors of 0 are weak."""
RESAMPLES = 2000

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]


def t_quantile(dof: float, *, level: float = LEVEL, comparisons: int = 1) -> float:
    """Two-sided quantile of Student's t, Bonferroni-corrected for ``comparisons``; infinite below one degree."""
    if not dof >= 1:
        return math.inf
    return float(special.stdtrit(dof, 1.0 - (1.0 - level) / (2.0 * comparisons)))


def cluster_dof(clusters: Ints) -> float:
    """Degrees of freedom of a scatter between clusters: (sum n_c)^2 / sum n_c^2 - 1.

    C - 1 for equal sizes. Where one document holds much of the text, few of the C clusters decide the mean, and
    C - 1 would make intervals far too narrow (30 documents, one with 70 % of the windows: coverage 31 to 50 %)."""
    counts = np.unique(clusters, return_counts=True)[1].astype(np.float64)
    return float(counts.sum() ** 2 / (counts**2).sum() - 1.0)


def summarise(
    values: npt.NDArray[np.floating], clusters: Ints, *, rounds: int = 1, resamples: int = RESAMPLES
) -> Brier:
    """Brier-n in per cent, BrierLM, standard errors and the 95 % interval.

    ``values`` (W, n, O): estimates of every position. ``clusters`` (W,): windows with the same number are
    one cluster. The geometric mean is taken once, here. Where an order is not above its own error, that error
    stands in for it in the delta method, so that a BrierLM of 0 still has a scale. ``rounds``: how often each
    position was sampled. ``resamples``: of the bootstrap; 0 leaves it out."""
    assert values.ndim == 3, f"values must be (W, n, O), got {values.shape}"
    exact = values.astype(np.float64)
    mean = exact.mean((0, 1))  # (O,)
    residual = cluster_residuals((exact - mean).mean(1), clusters)
    se = cluster_se(residual)
    influence = brierlm_influence(mean, se, residual)
    brierlm, brierlm_se = geometric_mean(mean), float(cluster_se(influence))
    weak = weak_orders(mean, se)
    low, high = _interval(exact, clusters, brierlm, brierlm_se, weak)
    return Brier(
        brier=[100 * float(m) for m in mean],
        brier_se=[100 * float(s) for s in se],
        brierlm=brierlm,
        brierlm_se=brierlm_se,
        brierlm_low=low,
        brierlm_high=high,
        weak_orders=weak,
        bootstrap_se=bootstrap(values, clusters, resamples=resamples)[0] if resamples else None,
        num_positions=values.shape[0] * values.shape[1],
        num_clusters=len(residual),
        num_windows=values.shape[0],
        rounds=rounds,
        score=smooth_score(mean, se),
    )


@dataclass(frozen=True)
class Linearised:
    """One run's score and what each cluster adds to it: the ground of paired differences."""

    mean: Floats
    """(O,)."""
    residual: Floats
    """(C, O)."""
    weak: list[int]
    brierlm: float
    influence: Floats
    """(C,), BrierLM points."""
    dof: float

    @classmethod
    def of(cls, values: npt.NDArray[np.floating], clusters: Ints) -> Linearised:
        """``values`` (W, n, O)."""
        mean = values.astype(np.float64).mean((0, 1))
        residual = cluster_residuals((values - mean).mean(1), clusters)
        se = cluster_se(residual)
        influence = brierlm_influence(mean, se, residual)
        return cls(mean, residual, weak_orders(mean, se), geometric_mean(mean), influence, cluster_dof(clusters))


def interval_of(values: npt.NDArray[np.floating], clusters: Ints, level: float) -> tuple[float, float]:
    """Two-sided interval of BrierLM where every order is clear of 0, [0, upper bound] elsewhere."""
    run = Linearised.of(values, clusters)
    if run.weak:
        return 0.0, upper_bound(values, clusters, level=level)
    half = t_quantile(run.dof, level=level) * float(cluster_se(run.influence))
    return max(0.0, run.brierlm - half), run.brierlm + half


def geometric_mean(mean: Floats) -> float:
    """100 * (prod_n b_n)^(1/4) over the last axis' four orders; 0 where one of them is not positive."""
    return 100 * float(np.exp(np.log(mean).mean())) if (mean > 0).all() else 0.0


def weak_orders(mean: Floats, se: Floats) -> list[int]:
    """Orders (1 to 4) within ``WEAK`` errors of 0, or below it."""
    return [n + 1 for n in range(NUM_ORDERS) if mean[n] <= WEAK * se[n]]


def brierlm_influence(mean: Floats, se: Floats, residual: Floats) -> Floats:
    """(C,) what each cluster adds to BrierLM: 25 prod(b)^(1/4) * sum_n residual_n / b_n."""
    scale = np.maximum(mean, np.maximum(se, 1e-12))
    at = 100 * float(np.exp(np.log(scale).mean()))
    return np.asarray(at * (residual / (NUM_ORDERS * scale)).sum(-1))


def cluster_residuals(deviations: npt.NDArray[np.floating], clusters: Ints) -> Floats:
    """Deviations (W, ...) of windows from the mean to residuals (C, ...): each cluster's sum in units
    of a cluster of mean size, so that equal sizes give cluster mean - mean."""
    labels, member = np.unique(clusters, return_inverse=True)
    residual = np.zeros((len(labels), *deviations.shape[1:]))
    np.add.at(residual, member, deviations)
    return residual * (len(labels) / len(deviations))


def cluster_se(residual: Floats) -> Floats:
    """Standard error of the mean from cluster residuals, over the first axis."""
    num = len(residual)
    return np.asarray(np.sqrt((residual**2).sum(0) / (num * max(num - 1, 1))))


def _interval(
    values: Floats, clusters: Ints, brierlm: float, brierlm_se: float, weak: list[int]
) -> tuple[float | None, float | None]:
    if len(np.unique(clusters)) < 2:
        return None, None
    if weak:
        return 0.0, upper_bound(values, clusters)
    half = t_quantile(cluster_dof(clusters)) * brierlm_se
    return max(0.0, brierlm - half), brierlm + half


# ---- the bound of a BrierLM that cannot be told from 0 -----------------------------------------------


def upper_bound(values: npt.NDArray[np.floating], clusters: Ints, *, level: float = LEVEL) -> float:
    """One-sided upper bound of BrierLM that holds with probability ``level`` also where orders are near 0.

    The largest geometric mean among all vectors of true means that the measured ones do not contradict: those
    within a Mahalanobis distance c of the measured means. With w weak orders the set of vectors whose
    geometric mean is as large as the truth's is, near the truth, a corner of w faces rather than a half-space,
    so c^2 is the quantile of a mixture of Hotelling's T^2 with 0 ... w dimensions and binomial weights
    (chi-bar-square; exact for a corner of right angles; positively correlated orders make it wider and the bound
    conservative). Hits of high orders are rare: none may have been seen although they exist. Every order's mean
    is therefore raised by (z^2 + 2) / 3 events of the usual size (the term for the skewness of a Poisson count in
    the Cornish-Fisher expansion, z the normal quantile of ``level``) and its variance by one: at 95 % and a count
    k that is k + 1.57 + 1.645 sqrt(k + 1), close to the exact Poisson limit for every k."""
    exact = values.astype(np.float64)
    mean = exact.mean((0, 1))
    residual = cluster_residuals((exact - mean).mean(1), clusters)
    num = len(residual)
    if num < 2:
        return 100.0
    event = _event_size(exact) / (values.shape[0] * values.shape[1])
    covariance = residual.T @ residual / (num * (num - 1)) + np.diag(event**2)
    shifted = mean + (float(special.ndtri(level)) ** 2 + 2) / 3 * event
    num_weak = max(1, len(weak_orders(mean, cluster_se(residual))))
    limit = _corner_quantile(num_weak, cluster_dof(clusters), level)
    return min(100.0, 100 * _largest_geometric_mean(shifted, covariance, limit))


def _event_size(values: Floats) -> Floats:
    """(O,) size of the events an order's mean is made of, sum v^2 / sum v over its positive estimates (the
    ratio of variance to mean of a compound Poisson sum). For an order without any that of the next lower one is
    assumed."""
    sizes, size = [], 2.0
    for n in range(values.shape[-1]):
        positive = values[..., n][values[..., n] > 0.0]
        size = float((positive**2).sum() / positive.sum()) if len(positive) else size
        sizes.append(size)
    return np.asarray(sizes)


@lru_cache(maxsize=1024)
def _corner_quantile(num_faces: int, dof: float, level: float) -> float:
    """c^2 with sum_j C(w, j) / 2^w P(T^2_j > c^2) = 1 - level, T^2_j Hotelling with j dimensions."""
    weights = [math.comb(num_faces, j) / 2**num_faces for j in range(num_faces + 1)]

    def beyond(square: float) -> float:
        total = 0.0
        for j in range(1, num_faces + 1):
            rest = max(dof - j + 1, 1.0)
            total += weights[j] * float(special.fdtrc(j, rest, square * rest / (dof * j)))
        return total

    high = 10.0
    while beyond(high) > 1 - level:
        high *= 4
    return float(optimize.brentq(lambda s: beyond(s) - (1 - level), 0.0, high))


def _largest_geometric_mean(centre: Floats, covariance: Floats, limit: float) -> float:
    """Maximum of (prod m)^(1/4) over m > 0 with (m - centre)' covariance^-1 (m - centre) <= limit; 0 if none.

    The maximum lies on the path of minimisers of distance^2 / 2 - weight * sum log m, along which the distance
    grows with the weight."""
    spread = np.sqrt(np.diag(covariance))
    scaled = covariance / np.outer(spread, spread) + 1e-9 * np.eye(len(spread))
    inverse, centre = np.linalg.inv(scaled), centre / spread

    @cache  # the ends of the bracket and the root are asked for again
    def at(log_weight: float) -> tuple[float, Floats]:
        point = _barrier_minimum(centre, inverse, math.exp(log_weight))
        return float((point - centre) @ inverse @ (point - centre)), point

    low, high = -18.0, 2.0
    if at(low)[0] >= limit:
        return 0.0
    while at(high)[0] < limit:
        high += 4.0
    best = at(float(optimize.brentq(lambda w: at(w)[0] - limit, low, high, xtol=1e-6)))[1]
    return float(np.exp(np.log(best * spread).mean()))


def _barrier_minimum(centre: Floats, inverse: Floats, weight: float) -> Floats:
    """Minimiser over m > 0 of (m - centre)' inverse (m - centre) / 2 - weight * sum log m (Newton)."""

    def value(m: Floats) -> float:
        return float((m - centre) @ inverse @ (m - centre) / 2 - weight * np.log(m).sum())

    point = np.maximum(centre, 1.0)
    here = value(point)
    for _ in range(200):
        gradient = inverse @ (point - centre) - weight / point
        curvature = inverse.copy()
        curvature.ravel()[:: len(point) + 1] += weight / point**2  # the diagonal
        step = np.linalg.solve(curvature, gradient)
        decrement = float(gradient @ step)
        if decrement < 1e-12:
            break
        size, ahead = 1.0, point - step
        while (ahead <= 0).any() or (there := value(ahead)) > here - decrement * size / 4:
            size /= 2
            if size < 1e-12:
                return point
            ahead = point - size * step
        point, here = ahead, there
    return point


# ---- the bootstrap, as a cross-check -------------------------------------------------------------------


def bootstrap(
    values: npt.NDArray[np.floating], clusters: Ints, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float | None, float | None, float | None]:
    """Standard error and 95 % percentile interval of BrierLM, whole clusters drawn with replacement.

    Nothing is linearised: a check of the delta method, not its replacement (with few clusters percentile
    intervals are too narrow). None with fewer than two clusters."""
    labels, member = np.unique(clusters, return_inverse=True)
    num = len(labels)
    if num < 2:
        return None, None, None
    sums = np.zeros((num, values.shape[-1]))
    np.add.at(sums, member, values.astype(np.float64).mean(1))
    sizes = np.bincount(member).astype(np.float64)
    counts = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), size=resamples)
    means = (counts @ sums) / (counts @ sizes)[:, None]
    scores = geometric_means(means)
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(scores.std(ddof=1)), float(low), float(high)


def geometric_means(means: Floats) -> Floats:
    """``geometric_mean`` over the last axis of many vectors."""
    positive = (means > 0).all(-1)
    logs = np.log(np.where(means > 0, means, 1.0)).mean(-1)
    return np.where(positive, 100 * np.exp(logs), 0.0)


# ---- how much more would be needed -----------------------------------------------------------------------


def window_influence(values: npt.NDArray[np.floating], clusters: Ints) -> Floats:
    """(W,) BrierLM linearised: each window's deviation from the mean in BrierLM points; they add up to 0."""
    values = values.astype(np.float64)
    mean = values.mean((0, 1))
    deviation = (values - mean).mean(1)
    return brierlm_influence(mean, cluster_se(cluster_residuals(deviation, clusters)), deviation)


def windows_needed(values: npt.NDArray[np.floating], clusters: Ints, target_se: float) -> int | None:
    """Windows of the same kind and documents at which BrierLM's standard error would be ``target_se``.

    The variance is split into what windows of one cluster share (documents in common, which more windows do not
    average out) and the rest, which falls as 1 / W. None where the shared part alone is too large."""
    influence = window_influence(values, clusters)
    num = len(influence)
    shared, own = split_variance(influence, clusters)
    if target_se**2 <= shared:
        return None
    return max(2, math.ceil(float(num * own / (target_se**2 - shared))))


def split_variance(influence: Floats, clusters: Ints) -> tuple[float, float]:
    """The variance of a mean of W windows, from each window's part (W,): what windows of one cluster share, which
    more windows of the same documents do not average out, and the rest, which falls as 1 / W."""
    total = float(cluster_se(cluster_residuals(influence, clusters))) ** 2
    own = _within_cluster_variance(influence, clusters) / len(influence)
    shared = max(0.0, total - own) if len(np.unique(clusters)) < len(influence) else 0.0
    return shared, total - shared


def _within_cluster_variance(influence: Floats, clusters: Ints) -> float:
    labels, member = np.unique(clusters, return_inverse=True)
    dof = len(influence) - len(labels)
    if dof < 1:
        return float(np.var(influence, ddof=1))
    centre = np.bincount(member, influence) / np.bincount(member)
    return float(((influence - centre[member]) ** 2).sum() / dof)


def rounds_needed(rounds: npt.NDArray[np.floating], clusters: Ints, target_se: float) -> int | None:
    """Rounds of S samples at the same positions for ``target_se``, from the scatter between rounds.

    ``rounds`` (R, W, n, O) with R >= 2. None where the text alone (the scatter between positions, which only more
    text averages out) leaves a larger error."""
    assert len(rounds) >= 2, "the noise of sampling shows only between rounds"
    mean = rounds.mean(0)
    total = float(cluster_se(cluster_residuals(window_influence(mean, clusters), clusters))) ** 2
    centre = mean.mean((0, 1)).astype(np.float64)
    deviation = (rounds.astype(np.float64) - mean).mean(2)  # (R, W, O)
    se = cluster_se(cluster_residuals((mean - centre).mean(1), clusters))
    between = brierlm_influence(centre, se, deviation)  # (R, W)
    sampling = float((between**2).sum() / ((len(rounds) - 1) * between.shape[1] ** 2))  # of one round's mean
    text = max(0.0, float(total - sampling / len(rounds)))
    if target_se**2 <= text:
        return None
    needed: float = sampling / (target_se**2 - text)
    return max(2, math.ceil(needed))


def smooth_score(mean: Floats, se: Floats) -> float:
    """A study's objective: 100 * (prod_n s_n f(b_n / s_n))^(1/4) with s_n the error of order n, and
    f(x) = x from 2 on, 2 exp(x/2 - 1) below.

    It is BrierLM wherever every order lies above two of its errors. Where BrierLM cannot be told from 0 (or is
    0 because one order is negative) it stays positive, smooth and increasing in every order, so that such
    settings can still be told apart; there is no jump between the two."""
    se = np.maximum(se, 1e-6)
    ratio = mean / se
    log_f = np.where(ratio >= 2.0, np.log(np.maximum(ratio, 2.0)), np.log(2.0) + ratio / 2 - 1.0)
    return 100 * float(np.exp((np.log(se) + log_f).mean()))

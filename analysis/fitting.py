"""Robust fits of a law to scores, with intervals by bootstrap over runs: the core under ``analysis.power_law``.

What is minimised is Huber's loss of standardised residuals of ln score, z_i = (y_i - f(x_i)) / sigma_i, as
``scipy.optimize.least_squares(loss="huber")`` does, from several starts; bends at 1.345, so 5 % of precision is
paid for the safety from outliers. sigma_i^2 = tau^2 + se_i^2: the evaluation error of a point, where it is known,
and the scatter tau between trainings, for which residuals tell (Huber's proposal 2: a scale that outliers cannot
inflate).

Intervals. Points of one run go up and down together, so runs are the unit.

* One point a run: each replicate draws the runs' errors anew, from a tau that is itself drawn (the Q profile of
  Viechtbauer 2007: tau such that the sum of squares over tau^2 + se^2 equals a draw of chi-square). That gives
  Student's t where a law is linear, with as few as one degree of freedom, and it can lend scatter between
  families (``Scatter.pooled``).
* Several points a run: the wild bootstrap over runs. The residuals of a whole run against the curve of all other
  runs, with their pattern, are multiplied by one random number (that is the jackknife over runs, known to hold
  with few clusters: MacKinnon, Nielsen and Webb 2023), with Student's t for runs less parameters. Weighing runs at
  random, the smooth form of drawing them with replacement, covered 89 to 91 %.

Ends are percentiles of the replicates; measured coverage: tests/bench/fit_coverage.py.

Letters: n points, p parameters, R replicates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy import optimize, special  # type: ignore[import-untyped]

from analysis.solving import (
    BEND,
    Array,
    Law,
    bounds_of,
    huber,
    is_identified,
    minimise,
    small_sample_aic,
)

LEAST_SCALE = 1e-6
"""Of residuals of ln score: data without any noise must not divide by 0."""
NUM_DRAWS = 400
LEVELS = (2.5, 97.5)
SAME_COST = 0.01
"""Points whose x (logarithms) differ by less are at one place: a slope between them would be their noise."""
_START_SCALE = 0.05
"""Scatter that the first pass assumes."""
_EFFICIENCY = 0.95
"""Of Huber's estimate against least squares, by which replicates of runs with several points are fitted."""
_SINGULAR = 1e-7
"""Smallest against largest singular value of the scaled Jacobian, below which parameters cannot be told apart."""


@dataclass(frozen=True)
class Scatter:
    """What single trainings differ by, beyond the errors of their evaluation: residuals of one or several fits."""

    residuals: Array
    """(n,) of ln score."""
    se: Array
    """(n,) of ln score; 0 where not known."""
    dof: float

    @staticmethod
    def pooled(parts: Sequence[Scatter]) -> Scatter:
        """Of several families, whose scatter is taken to be the same."""
        used = [part for part in parts if part.dof > 0]
        if not used:
            return Scatter(np.zeros(0), np.zeros(0), 0.0)
        residuals, se = (np.concatenate([getattr(p, name) for p in used]) for name in ("residuals", "se"))
        return Scatter(residuals, se, sum(part.dof for part in used))

    def sd(self) -> float:
        """tau of Huber's proposal 2; 0 where the errors of evaluation explain the residuals."""
        return float(self._solve(np.array([self.dof]))[0])

    def draws(self, rng: np.random.Generator, num: int) -> Array:
        """(num,) tau that the residuals allow."""
        return self._solve(rng.chisquare(self.dof, size=num))

    def _solve(self, wanted: Array) -> Array:
        """tau at which the sum of cut-off squares, over what it expects of a square, is ``wanted``."""
        num = max(len(self.residuals), 1)
        per_square = _mean_square(min(self.dof / num, 1.0))
        top = float(np.abs(self.residuals).max(initial=0.0)) * math.sqrt(num / per_square)
        top = max(top / math.sqrt(max(float(wanted.min()), 1e-9)), 10 * LEAST_SCALE)
        grid = np.concatenate([[0.0], np.geomspace(LEAST_SCALE, top, 600)])
        sigma = np.sqrt(grid[:, None] ** 2 + self.se**2 + LEAST_SCALE**2)
        squares = np.minimum((self.residuals / sigma) ** 2, BEND**2).sum(axis=1) / per_square
        return np.asarray(np.interp(-wanted, -squares, grid))


def _mean_square(variance: float) -> float:
    """What is left of the mean square of a normal variable that is cut off at ``BEND``; residuals have a
    variance of dof / n where errors have 1."""
    if variance <= 0:
        return 1.0
    cut = BEND / math.sqrt(variance)
    tail = float(special.ndtr(-cut))
    density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    return 1 - 2 * tail - 2 * cut * density + 2 * cut**2 * tail


@dataclass(frozen=True)
class Predicted:
    """Scores of the fitted curve with 95 % intervals; the ends are not-a-number where there are none."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Fit:
    """A fitted law, or in ``reason`` why there is none."""

    law: Law
    reason: str = ""
    theta: Array = field(default_factory=lambda: np.zeros(0))
    """(p,); empty where there is no fit."""
    draws: Array = field(default_factory=lambda: np.zeros((0, 0)))
    """(R, p) replicates; empty where no interval can be given."""
    scatter: Scatter | None = None
    tau: float = math.nan
    """Scatter of ln score between trainings."""
    loss: float = math.nan
    """Mean Huber loss of standardised residuals."""
    num_points: int = 0
    num_runs: int = 0
    singular: bool = False
    """The Jacobian says that parameters cannot be told apart."""
    notes: tuple[str, ...] = ()
    """In sentences: what the data do not support."""

    @property
    def there(self) -> bool:
        return len(self.theta) > 0

    @property
    def has_interval(self) -> bool:
        return len(self.draws) > 0

    @property
    def aicc(self) -> float:
        """Akaike's criterion, comparable only between laws fitted with the same sigma to the same points. Runs are
        what counts as observations: checkpoints of one run are not independent."""
        if not self.there:
            return math.inf
        return small_sample_aic(self.num_runs, len(self.theta) + 1, self.loss, LEAST_SCALE)

    def interval(self, of: int | Callable[[Array], Array]) -> tuple[float, float]:
        """95 % interval of a parameter, or of a function of parameters (R, p) -> (R,)."""
        if not self.has_interval:
            return math.nan, math.nan
        values = of(self.draws) if callable(of) else self.draws[:, of]
        low, high = np.percentile(values, LEVELS, method="nearest")
        return float(low), float(high)

    def identified(self, index: int) -> bool:
        """Whether the data say where a parameter lies: there is an interval, which keeps off the bounds of the
        search and is not too wide to say anything."""
        if not self.has_interval or self.singular:
            return False
        return is_identified(self.law.parameters[index], *self.interval(index))

    @property
    def unidentified(self) -> list[str]:
        return [name for i, name in enumerate(self.law.names) if not self.identified(i)]

    def predict(self, x: Array) -> Predicted:
        """Score of the curve (not of a single training) at any x. Raises ValueError where there is no fit."""
        if not self.there:
            raise ValueError(f"there is no fit: {self.reason}")
        value = np.exp(self.law.log_score(self.theta[None], x)[0])
        if not self.has_interval:
            return Predicted(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
        low, high = np.percentile(self.law.log_score(self.draws, x), LEVELS, axis=0)
        return Predicted(value, np.exp(low), np.exp(high))


@dataclass(frozen=True)
class _Data:
    x: Array
    y: Array
    se: Array
    run: npt.NDArray[np.int64]

    @property
    def num_runs(self) -> int:
        return len(np.unique(self.run))

    @property
    def one_point_a_run(self) -> bool:
        return self.num_runs == len(self.y)


def fit(
    law: Law,
    x: npt.ArrayLike,
    score: npt.ArrayLike,
    *,
    se: npt.ArrayLike | None = None,
    runs: Sequence[object] | npt.NDArray[np.generic] | None = None,
    scatter: Scatter | None = None,
    tau: float | None = None,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> Fit:
    """Fit ``law`` to scores above 0 at x.

    ``se``: standard errors of the scores, not-a-number or 0 where not known. ``runs``: which run each point is of;
    without it each is a run of its own. ``scatter``: what trainings differ by, known better than from these points
    (``Scatter.pooled``); used where each run has one point. ``tau``: scatter held at that, so that laws can be
    compared (``Fit.aicc``). Never raises for awkward data: points that are not
    finite or not above 0 are left out (and counted in a note), and where nothing can be fitted ``Fit.reason`` says
    why."""
    data, notes = _read(x, score, se, runs)
    places = _num_places(data.x.reshape(len(data.y), -1)) if len(data.y) else 0
    empty = Fit(law, num_points=len(data.y), num_runs=data.num_runs, notes=tuple(notes))
    if places < len(law.parameters):
        return replace(empty, reason=_too_few(law, places, len(data.y)))
    theta, own, tau = _robust(law, data, scatter, tau)
    sigma = _sigma(data, tau)
    z = (law.log_score(theta[None], data.x)[0] - data.y) / sigma
    singular = _is_singular(law, theta, data, sigma)
    found = replace(empty, theta=theta, scatter=own, tau=tau, loss=float(huber(z).mean()), singular=singular)
    draws, why = np.zeros((0, 0)), tuple[str, ...]()
    if num_draws:
        draws, why = _replicates(found, data, scatter or own, num_draws, seed)
    if singular:
        notes.append(f"parameters of {law.name} cannot be told apart at these points")
    return replace(found, draws=draws, notes=(*notes, *why))


def _read(
    x: npt.ArrayLike, score: npt.ArrayLike, se: npt.ArrayLike | None, runs: object
) -> tuple[_Data, list[str]]:
    places, values = np.asarray(x, dtype=float), np.asarray(score, dtype=float)
    errors = np.zeros(len(values)) if se is None else np.nan_to_num(np.asarray(se, dtype=float), nan=0.0)
    labels = np.arange(len(values)) if runs is None else np.asarray(runs)
    run = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    finite = np.isfinite(places.reshape(len(values), -1)).all(axis=1) if len(values) else np.zeros(0, dtype=bool)
    good = np.isfinite(values) & (values > 0) & finite
    notes = []
    if lost := int((~good).sum()):
        notes.append(f"{lost} point{'s' if lost > 1 else ''} left out: no score above 0, or no place")
    relative = np.maximum(errors[good], 0.0) / values[good]
    return _Data(places[good], np.log(values[good]), relative, run[good]), notes


def _num_places(x: Array) -> int:
    """Rows of (n, V) that lie further than ``SAME_COST`` apart in some coordinate: each coordinate begins a new
    value where it leaves the last one, so that no two close ones fall on both sides of a rounding."""
    labels = np.zeros(x.shape, dtype=np.int64)
    for column, values in enumerate(x.T):
        start, label = -np.inf, -1
        for row in np.argsort(values, kind="stable"):
            if values[row] > start + SAME_COST:
                start, label = values[row], label + 1
            labels[row, column] = label
    return len(np.unique(labels, axis=0))


def _too_few(law: Law, places: int, num: int) -> str:
    if num == 0:
        return "there is no point with a score above 0"
    at = "one" if places == 1 else str(places)
    return (
        f"{law.name} has {len(law.parameters)} parameters and needs as many different places; "
        f"the {num} point{'s lie' if num > 1 else ' lies'} at {at}"
    )


def _sigma(data: _Data, tau: Array | float) -> Array:
    return np.asarray(np.sqrt(np.asarray(tau) ** 2 + data.se**2 + LEAST_SCALE**2))


def _robust(law: Law, data: _Data, scatter: Scatter | None, held: float | None) -> tuple[Array, Scatter, float]:
    """Parameters of the best start, residuals, tau; sigma follows the residuals."""
    ones = np.ones_like(data.y)
    starts = law.starts(data.x, data.y)
    if held is None and scatter is not None and data.one_point_a_run:
        held = scatter.sd()
    tau = _START_SCALE if held is None else held
    theta, losses = minimise(law, data.x, data.y, _sigma(data, tau), ones, starts)
    best = theta[int(losses.argmin())]
    dof = float(data.num_runs - len(best)) if data.one_point_a_run else float(len(data.y) - len(best))
    for _ in range(4):
        own = Scatter(law.log_score(best[None], data.x)[0] - data.y, data.se, dof)
        if held is None:
            tau = max(own.sd(), LEAST_SCALE) if dof > 0 else _START_SCALE
        best = minimise(law, data.x, data.y, _sigma(data, tau), ones, best[None])[0][0]
    best = _polished(law, data, _sigma(data, tau), best)
    return best, replace(own, residuals=law.log_score(best[None], data.x)[0] - data.y), tau


def _polished(law: Law, data: _Data, sigma: Array, start: Array) -> Array:
    """By scipy, from the best start."""
    low, high = bounds_of(law)
    inside = np.clip(start, low + 1e-9 * (high - low), high - 1e-9 * (high - low))
    found = optimize.least_squares(
        lambda theta: (law.log_score(theta[None], data.x)[0] - data.y) / sigma,
        inside,
        jac=lambda theta: law.jacobian(theta[None], data.x)[0] / sigma[:, None],
        bounds=(low, high),
        loss="huber",
        f_scale=BEND,
        x_scale="jac",
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    before = float(huber((law.log_score(start[None], data.x)[0] - data.y) / sigma).sum())
    return np.asarray(found.x if found.cost < before else start)


def _is_singular(law: Law, theta: Array, data: _Data, sigma: Array) -> bool:
    jacobian = law.jacobian(theta[None], data.x)[0] / sigma[:, None]
    size = np.linalg.norm(jacobian, axis=0)
    if not (size > 0).all():
        return True
    values = np.linalg.svd(jacobian / size, compute_uv=False)
    return bool(values[-1] < _SINGULAR * values[0])


def _replicates(
    found: Fit, data: _Data, scatter: Scatter, num_draws: int, seed: int
) -> tuple[Array, tuple[str, ...]]:
    """Draws (R, p); empty with the reason in a sentence where the data have no interval to give."""
    rng = np.random.default_rng(seed)
    num = found.num_runs
    if data.one_point_a_run:
        if scatter.dof < 1:
            return np.zeros((0, 0)), (f"no interval: {num} points for {len(found.theta)} parameters leave none to "
                                      "tell how far single runs scatter",)  # fmt: skip
        return _from_scatter(found, data, scatter, num_draws, rng), ()
    if num - len(found.theta) < 1:
        runs = "all points are of one run" if num == 1 else f"the points are of {num} runs only"
        return np.zeros((0, 0)), (f"no interval: {runs}, and points of one run go up and down together",)
    return _from_runs(found, data, num_draws, rng), ()


def _from_scatter(found: Fit, data: _Data, scatter: Scatter, num: int, rng: np.random.Generator) -> Array:
    curve = found.law.log_score(found.theta[None], data.x)[0]
    sigma = _sigma(data, scatter.draws(rng, num)[:, None])
    y = curve + sigma * rng.standard_normal((num, len(data.y)))
    starts = np.tile(found.theta, (num, 1))
    return minimise(found.law, data.x, y, sigma, np.ones_like(data.y), starts)[0]


def _from_runs(found: Fit, data: _Data, num: int, rng: np.random.Generator) -> Array:
    """Each run's residuals against the curve of all other runs, times one normal variable a run and one common
    factor that makes Student's t of the normal."""
    codes = np.unique(data.run, return_inverse=True)[1]
    sigma, total = _sigma(data, found.tau), found.num_runs
    without = (np.arange(total)[:, None] != codes[None, :]).astype(float)  # (runs, n)
    others = minimise(found.law, data.x, data.y, sigma, without, np.tile(found.theta, (total, 1)))[0]
    away = data.y - found.law.log_score(others, data.x)[codes, np.arange(len(codes))]
    dof = total - len(found.theta)
    factor = np.sqrt(dof / rng.chisquare(dof, size=(num, 1)) / _EFFICIENCY)
    drawn = factor * rng.standard_normal((num, total))[:, codes] * away
    curve = found.law.log_score(found.theta[None], data.x)[0]
    # so wide that Huber's loss does not bend: points that move together would look like outliers, and replicates
    # that ignore them scatter too little (coverage 86 %)
    wide = sigma * factor * 10 * max(1.0, float(np.sqrt(np.mean((away / sigma) ** 2))))
    starts = np.tile(found.theta, (num, 1))
    return minimise(found.law, data.x, curve + drawn, wide, np.ones_like(data.y), starts)[0]


def decades_beyond(value: float, low: float, high: float) -> float:
    """How many factors of ten ``value`` lies outside [low, high]; 0 inside."""
    return max(0.0, math.log10(low / value), math.log10(value / high))

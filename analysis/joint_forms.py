"""Candidate forms of a law of BrierLM b in size N, data D and chunk size K.

All are laws of the deficit g = ln(100 / b), which falls to a floor as compute grows and rises without bound
where a model has learnt nothing; so b keeps within 0 and 100 at any size, budget and K. In N and D they are the
forms of the literature; what is ours is how K enters. A larger K

* asks more of a position: one hidden state has to carry K tokens. So the size needed for the same deficit grows,
  by a power of K or faster (a curvature in ln K: at any one size some K is too much);
* turns D tokens into D / K examples, each of which holds K tokens, so that data count between D and D / K;
* may move the floor: the next K tokens are drawn together, and their vector is decoded with errors of its own.

``additive``
    g = E(K) + A(K) / N^a + B(K) / D^b (Hoffmann et al. 2022, approach 3); E and B are powers of K, A one with
    curvature.
``chunks``
    The same, but the floor is one for all K, and data are counted in chunks: B / (D / K)^b.
``exponents``
    One floor; K changes the exponent of N (larger models gain more from a larger K).
``bottleneck``
    g = [A(K) / N^(a/b) + B K / D]^b (Kaplan et al. 2020, equation 1.5): the scarcer of the two decides; data
    counted in chunks, no floor.
``power``
    g = A(K) / (N^a D^b): straight lines in logarithms, the simplest reference. It has no best size at a given
    budget: it always wants the largest or the smallest.

The token baseline has the same form without K. Terms are exponentials of lines in ln K, ln N and ln D, so all
forms are a log-sum-exp with an exact Jacobian. N and D are taken relative to their geometric means over the
points: a term's constant is then its share of the deficit in the middle of the data, and parameters correlate
less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special  # type: ignore[import-untyped]

from analysis.scaling_points import BASELINE, Points
from analysis.solving import Array, Parameter

TOP = math.log(100.0)
"""ln of the highest BrierLM."""
Column = Callable[[Array, Array, Array], Array]
"""Of ln N, ln D (relative) and ln K."""

COLUMNS: dict[str, Column] = {
    "1": lambda n, d, k: np.ones_like(n),
    "k": lambda n, d, k: k,
    "kk": lambda n, d, k: k * k,
    "-n": lambda n, d, k: -n,
    "-nk": lambda n, d, k: -n * k,
    "-d": lambda n, d, k: -d,
    "k-d": lambda n, d, k: k - d,
}
NEEDED_K = {"k": 2, "kk": 3, "-nk": 2}
"""Values of K that a column needs; with fewer its parameter is left out."""


@dataclass(frozen=True)
class Placed(Parameter):
    """A parameter with the middle of its starts."""

    start: float = 0.0


def _constant(name: str, meaning: str, start: float) -> Placed:
    return Placed(name, meaning, -9.0, 4.0, 3.0, start)


def _slope(name: str, meaning: str, start: float = 0.0) -> Placed:
    return Placed(name, meaning, -3.0, 3.0, 1.5, start)


def _exponent(name: str, meaning: str) -> Placed:
    return Placed(name, meaning, 0.01, 2.0, 0.5, 0.3)


PARAMETERS = {
    p.name: p
    for p in (
        _constant("E", "floor: ln of the deficit that remains", -0.5),
        _slope("E_K", "floor: power of K"),
        _constant("A", "size: ln of its share of the deficit in the middle of the data", 0.0),
        _slope("A_K", "size: power of K"),
        Placed("A_KK", "size: curvature in ln K", -2.0, 2.0, 1.0),
        _exponent("a", "exponent of size"),
        Placed("a_K", "change of the exponent of size with ln K", -0.7, 0.7, 0.4),
        _constant("B", "data: ln of its share of the deficit in the middle of the data", 0.0),
        _slope("B_K", "data: power of K"),
        _exponent("b", "exponent of data"),
    )
}


@dataclass(frozen=True)
class Form:
    """A candidate. ``terms`` are summed: each maps parameters to columns."""

    name: str
    formula: str
    terms: tuple[tuple[tuple[str, str], ...], ...]
    power: str | None = None
    """Exponent of the sum (Kaplan's form); None: 1."""
    has_best_size: bool = True


_A: tuple[tuple[str, str], ...] = (("A", "1"), ("A_K", "k"), ("A_KK", "kk"), ("a", "-n"))
_CHUNKS = (("B", "1"), ("b", "k-d"))
_E = (("E", "1"),)

FORMS = {
    form.name: form
    for form in (
        Form(
            "additive",
            "E·K^ε + A(K)/N^a + B·K^β/D^b",
            ((*_E, ("E_K", "k")), _A, (("B", "1"), ("B_K", "k"), ("b", "-d"))),
        ),
        Form("chunks", "E + A(K)/N^a + B/(D/K)^b", (_E, _A, _CHUNKS)),
        Form(
            "exponents",
            "E + A·K^α/N^(a + a′ ln K) + B·K^β/D^b",
            (
                _E,
                (("A", "1"), ("A_K", "k"), ("a", "-n"), ("a_K", "-nk")),
                (("B", "1"), ("B_K", "k"), ("b", "-d")),
            ),
        ),
        Form("bottleneck", "[A(K)/N^(a/b) + B·K/D]^b", (_A, _CHUNKS), power="b"),
        Form("power", "A(K)/(N^a D^b)", ((*_A, ("b", "-d")),), has_best_size=False),
    )
}


@dataclass(frozen=True)
class Middle:
    """What N and D are relative to."""

    log_n: float
    log_d: float

    @classmethod
    def of(cls, points: Points) -> Middle:
        return cls(float(np.log(points.num_parameters).mean()), float(np.log(points.tokens).mean()))


@dataclass(frozen=True)
class Law:
    """A form for the values of K that there are: which parameters it has, and what it predicts."""

    form: Form
    names: tuple[str, ...]
    middle: Middle
    of_loss: bool = False
    """A law of the cross-entropy itself (nats a token) instead of BrierLM's deficit."""

    @property
    def parameters(self) -> list[Placed]:
        return [PARAMETERS[name] for name in self.names]

    def design(self, num_parameters: Array, tokens: Array, chunk_size: Array) -> Array:
        """(terms, n, p): what the parameters are multiplied with. ``chunk_size``: 1 for baselines."""
        n = np.log(num_parameters) - self.middle.log_n
        d = np.log(tokens) - self.middle.log_d
        k = np.log(chunk_size)
        n, d, k = np.broadcast_arrays(n, d, k)
        table = np.zeros((len(self.form.terms), n.size, len(self.names)))
        for t, term in enumerate(self.form.terms):
            for name, column in term:
                if name in self.names:
                    table[t, :, self.names.index(name)] = COLUMNS[column](n.ravel(), d.ravel(), k.ravel())
        return table

    def log_deficit(self, theta: Array, design: Array) -> Array:
        """(n,) of one vector of parameters, or (r, n) of (r, p)."""
        lines = np.einsum("tnp,...p->t...n", design, theta)
        if self.form.power is None:
            return log_sum_exp(lines) if len(lines) > 1 else lines[0]
        power = theta[..., self.names.index(self.form.power), None]
        return np.asarray(power * log_sum_exp(lines / power))

    def log_score(self, theta: Array, design: Array) -> Array:
        """ln BrierLM, or ln loss."""
        if self.of_loss:
            return self.log_deficit(theta, design)
        return TOP - np.exp(np.minimum(self.log_deficit(theta, design), 50.0))

    def jacobian(self, theta: Array, design: Array) -> Array:
        """(..., n, p) of ``log_score``; ``theta`` (..., p)."""
        lines = np.einsum("tnp,...p->t...n", design, theta)
        has_power = self.form.power is not None
        own = self.names.index(self.form.power) if self.form.power is not None else 0
        power = theta[..., own, None] if has_power else np.ones(1)
        scaled = lines / power
        total = log_sum_exp(scaled)
        shares = np.exp(scaled - total)
        gradient = np.einsum("t...n,tnp->...np", shares, design)
        if has_power:
            gradient[..., own] += total - (shares * scaled).sum(axis=0)
        if self.of_loss:
            return np.asarray(gradient)
        deficit = np.exp(np.minimum(power * total, 50.0))
        return np.asarray(-deficit[..., None] * gradient)

    def score(self, theta: Array, num_parameters: Array, tokens: Array, chunk_size: Array | float) -> Array:
        """BrierLM (or loss) of one vector of parameters; the arguments broadcast."""
        n, d, k = np.broadcast_arrays(num_parameters, tokens, np.asarray(chunk_size, dtype=float))
        return np.exp(self.log_score(theta, self.design(n, d, k))).reshape(n.shape)


def log_sum_exp(lines: Array) -> Array:
    """ln sum exp over the first axis: to the last bit what scipy gives, whose checks take longer than all of a
    fit's own arithmetic where there are few points."""
    top = lines.max(axis=0)
    if not np.isfinite(top).all():
        return np.asarray(special.logsumexp(lines, axis=0))
    is_top = lines == top
    num = is_top.sum(axis=0, dtype=np.float64)
    rest = np.exp(lines - top)
    rest[is_top] = 0.0
    return np.asarray(np.log1p(rest.sum(axis=0) / num) + np.log(num) + top)


def make_law(form: Form, chunk_sizes: Sequence[int], middle: Middle, *, of_loss: bool = False) -> Law:
    """``chunk_sizes``: the values of K of the points; none for a baseline."""
    num = len({k for k in chunk_sizes if k != BASELINE})
    names = [name for term in form.terms for name, column in term if num >= NEEDED_K.get(column, 0)]
    return Law(form, tuple(dict.fromkeys(names)), middle, of_loss)


def chunk_size_of(points: Points) -> Array:
    """(n,) K, 1 for baselines."""
    return np.maximum(points.family, 1).astype(float)

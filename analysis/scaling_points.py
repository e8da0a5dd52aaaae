"""The points that scaling laws are fitted to, and what compute costs at them.

A law in size and data needs points that differ in nothing else: one evaluation fingerprint, one kind of end point
(METHOD section 7: points at constant rate and ends of decays are never mixed), one head, one latent dimension for
each K. What was left out is said. A BrierLM of 0, or one with an order within three of its errors of 0, is a bound
and no value: its logarithm is not known, so it is left out too.

Executed FLOPs per token are not 6 N at these sizes: attention, output layer, the head's samples and the frozen
encoder cost as well, and a CALM shares a step between K tokens. ``CostCurve`` takes them from the runs.

Letters: N parameters that compute is spent on (no look-up embeddings), D tokens trained on, C FLOPs, K chunk size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize  # type: ignore[import-untyped]

from analysis.frontier import KINDS
from analysis.words import flops as flops_words
from analysis.words import listed

Array = npt.NDArray[np.float64]
BASELINE = 0
"""Family of the token baseline; a CALM's is its K."""
SAME_SIZE = 0.02
"""Parameter counts this close (relative) are one size."""
SAME_COST = 0.05
"""Budgets this close (relative) are one: runs round theirs up to whole steps."""
MAX_POINTS = 300
"""More say little more about a dozen parameters, and every one is fitted 200 times."""
ALONG_A_LINE = 0.03
"""Spread of ln N and ln D across their main direction, relative to that along it, from which they vary apart."""
_NEEDED = ("model_parameters", "tokens", "train_flops")


@dataclass(frozen=True)
class Points:
    """Arrays of equal length n, one entry a point."""

    family: npt.NDArray[np.int64]
    """(n,) K, or ``BASELINE``."""
    num_parameters: Array
    """(n,) N."""
    tokens: Array
    """(n,) D."""
    flops: Array
    """(n,) executed training FLOPs, without the autoencoder's."""
    autoencoder_flops: Array
    """(n,) of the autoencoder's own training, 0 for baselines; not-a-number where not recorded."""
    infer_flops: Array
    """(n,) per generated token; not-a-number where not recorded."""
    score: Array
    """(n,) BrierLM, above 0, or cross-entropy in nats a token."""
    score_se: Array
    """(n,) its standard error; not-a-number where not recorded."""
    run: npt.NDArray[np.int64]
    """(n,) number of the run, the unit of the bootstrap."""
    latent_dim: Array
    """(n,) not-a-number for baselines."""
    width: Array
    num_layers: Array

    def __len__(self) -> int:
        return len(self.family)

    def take(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Points:
        """The points of a mask or of indices."""
        return Points(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    @property
    def is_baseline(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.family == BASELINE, dtype=bool)

    @property
    def calm(self) -> Points:
        return self.take(~self.is_baseline)

    @property
    def baseline(self) -> Points:
        return self.take(self.is_baseline)

    @property
    def chunk_sizes(self) -> list[int]:
        return sorted({int(k) for k in self.family if k != BASELINE})

    @property
    def num_runs(self) -> int:
        return len(np.unique(self.run))


@dataclass(frozen=True)
class Chosen:
    """Points of one comparison."""

    points: Points
    phase: str
    """constant or decayed; empty where there are no points."""
    head: str
    notes: list[str] = field(default_factory=list)
    """What was left out and why, in sentences."""


def choose_points(evaluations: pd.DataFrame, target: str = "brierlm") -> Chosen:
    """The largest group of comparable points of a table of evaluations (``analysis.rows.EVALUATION_COLUMNS``).

    ``target``: brierlm (all models) or cross_entropy (nats a token; token baselines only)."""
    notes: list[str] = []
    rows = evaluations
    if "role" in rows:
        rows = rows[_text(rows["role"], "run") != "check"]
    if "status" in rows:
        rows = rows[_text(rows["status"], "completed").isin(["completed", "", "running", "interrupted"])]
    if target == "cross_entropy":
        rows = rows[rows["kind"] == "baseline"]
    rows = _known(_counted(rows, notes), target, notes)
    rows = _largest(rows, "fingerprint", "evaluation fingerprints: other positions or text", notes)
    rows = _largest(rows, "phase", "kinds of point, which are not mixed", notes, KINDS)
    calm = _largest(rows[rows["kind"] == "calm"], "head", "heads", notes)
    head = str(calm["head"].iloc[0] or "") if len(calm) else ""
    calm = _one_latent(calm, notes)
    rows = pd.concat([calm, rows[rows["kind"] == "baseline"]])
    studies = sorted(set(_text(rows["study"]))) if "study" in rows else []
    if len(studies) > 1:
        notes.append(
            f"Runs of several studies are fitted together ({listed(studies)}): where their recipes differ in more "
            "than size, data and K, that counts as scatter"
        )
    phase = str(rows["phase"].iloc[0]) if len(rows) else ""
    return Chosen(_thinned(_points(rows, target), notes), phase, head, notes)


def _thinned(points: Points, notes: list[str]) -> Points:
    """At most ``MAX_POINTS``: every so manyth in the order of family, size and compute, so that all are there."""
    if len(points) <= MAX_POINTS:
        return points
    order = np.lexsort((points.run, points.flops, points.num_parameters, points.family))
    places = np.linspace(0, len(points) - 1, MAX_POINTS).round().astype(np.int64)
    notes.append(f"{MAX_POINTS} of {len(points)} points are used, spread evenly over K, sizes and compute")
    return points.take(order[places])


def _counted(rows: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """With the published count of FLOPs where no row has the executed one (tables of others)."""
    names = ("train_flops", "infer_flops_per_token")
    if rows.empty or rows["train_flops"].notna().any() or f"{names[0]}_published" not in rows:
        return rows
    published = {name: rows[f"{name}_published"] for name in names if f"{name}_published" in rows}
    if published[names[0]].notna().any():
        notes.append("FLOPs are those of the paper's count: these runs have no executed ones")
    return rows.assign(**published)


def _text(column: pd.Series, missing: str = "") -> pd.Series:
    """As text; a column that was empty in a file is one of numbers."""
    return column.astype(object).where(column.notna(), missing).astype(str)


def _known(rows: pd.DataFrame, target: str, notes: list[str]) -> pd.DataFrame:
    """Those with a value above 0, a size, tokens and FLOPs."""
    numbers = {name: pd.to_numeric(rows[name], errors="coerce") for name in (*_NEEDED, target)}
    there = pd.Series(True, index=rows.index)
    for name in _NEEDED:
        there &= np.isfinite(numbers[name].astype(float)) & (numbers[name] > 0)
    value = numbers[target].astype(float)
    known = np.isfinite(value) & (value > 0)
    if target == "brierlm" and "weak_orders" in rows:
        known &= _text(rows["weak_orders"]) == ""
        low = int((there & value.notna() & ~known).sum())
        if low:
            notes.append(
                f"{low} point{'s' if low > 1 else ''} left out whose BrierLM is 0 or only a bound "
                "(an order within three of its errors of 0); near them the lucky remain, which lifts the law"
            )
    lost = int((known & ~there).sum())
    if lost:
        notes.append(f"{lost} points left out: number of parameters, tokens or FLOPs not recorded")
    return rows[known & there]


def _largest(
    rows: pd.DataFrame, column: str, what: str, notes: list[str], allowed: Sequence[str] | None = None
) -> pd.DataFrame:
    """The rows of the value that most runs have (ties: the last by name: decayed before constant)."""
    if rows.empty or column not in rows:
        return rows
    values = _text(rows[column])
    if allowed is not None:
        rows, values = rows[values.isin(allowed)], values[values.isin(allowed)]
    counts = rows["run_id"].groupby(values).nunique()
    if len(counts) == 0:
        return rows
    chosen = max(counts.index, key=lambda value: (counts[value], value))
    left = int((values != chosen).sum())
    if left:
        others = sorted(str(v) or "none" for v in counts.index if v != chosen)
        notes.append(f"{left} points of other {what} left out ({', '.join(others)}; kept: {chosen})")
    kept: pd.DataFrame = rows[values == chosen]
    return kept


def _one_latent(calm: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Of several latent dimensions at one K the one whose best run at the largest budget scores highest."""
    kept = []
    for k, part in calm.groupby("K"):
        latents = pd.to_numeric(part["latent_dim"], errors="coerce").astype(float)
        if latents.nunique() > 1:
            spent = part["train_flops"].astype(float)
            top = part[spent >= (1 - SAME_COST) * spent.max()]
            best = float(top.sort_values("brierlm", kind="stable")["latent_dim"].iloc[-1])
            others = sorted(int(x) for x in latents.dropna().unique() if x != best)
            notes.append(
                f"K = {k}: of several latent dimensions {best:.0f} is kept, which scored highest at the largest "
                f"budget (others: {', '.join(map(str, others))})"
            )
            part = part[latents == best]
        kept.append(part)
    return pd.concat(kept) if kept else calm


def _points(rows: pd.DataFrame, target: str) -> Points:
    def column(name: str) -> Array:
        if name not in rows:
            return np.full(len(rows), np.nan)
        return pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan)

    k = column("K")
    calm = (rows["kind"] == "calm").to_numpy() if len(rows) else np.zeros(0, dtype=bool)
    family = np.where(calm, np.nan_to_num(k, nan=1.0), BASELINE).astype(np.int64)
    codes = pd.factorize(rows["run_id"].astype(str), sort=True)[0] if len(rows) else np.zeros(0)
    return Points(
        family=family,
        num_parameters=column("model_parameters"),
        tokens=column("tokens"),
        flops=column("train_flops"),
        autoencoder_flops=np.where(calm, column("train_flops_with_autoencoder") - column("train_flops"), 0.0),
        infer_flops=column("infer_flops_per_token"),
        score=column(target),
        score_se=column(f"{target}_se"),
        run=np.asarray(codes, dtype=np.int64),
        latent_dim=np.where(calm, column("latent_dim"), np.nan),
        width=column("width"),
        num_layers=column("num_layers"),
    )


def groups(values: Array, tolerance: float) -> list[npt.NDArray[np.bool_]]:
    """Masks of values that lie within a relative ``tolerance`` of each other's neighbours, smallest first."""
    order = np.argsort(values)
    logs = np.log(values[order])
    starts = np.concatenate([[0], np.flatnonzero(np.diff(logs) > tolerance) + 1, [len(values)]])
    found: list[npt.NDArray[np.bool_]] = []
    for start, end in pairwise(starts):
        mask = np.zeros(len(values), dtype=bool)
        mask[order[start:end]] = True
        found.append(mask)
    return found if len(values) else []


def budgets_of(points: Points) -> Array:
    """Budgets that several runs share, as medians, smallest first; of ladders without common budgets the range's
    ends and middle."""
    if not len(points):
        return np.zeros(0)
    found = [points.flops[mask] for mask in groups(points.flops, SAME_COST)]
    common = [float(np.median(part)) for part in found if len(part) > 1]
    if 1 < len(common) <= 12:
        return np.asarray(common)
    return np.geomspace(points.flops.min(), points.flops.max(), 3)


def lacking(points: Points, *, what: str = "a law in size and data") -> str:
    """Why the points cannot carry a law in N and D; empty where they can. One family that can is enough: the
    others share its exponents."""
    if not len(points):
        return f"{what} needs scores above 0 with known parameters, tokens and FLOPs; there are none"
    families = sorted({int(k) for k in points.family})
    reasons = [_lacking(points.take(points.family == family), what) for family in families]
    return "" if "" in reasons else reasons[0]


def _lacking(points: Points, what: str) -> str:
    """Of one family."""
    sizes = groups(points.num_parameters, SAME_SIZE)
    if len(sizes) < 2:
        num = points.num_parameters[0]
        return f"{what} needs at least two model sizes of a family; all points here have {num:.3g} parameters"
    if max(len(groups(points.tokens[mask], SAME_COST)) for mask in sizes) < 2:
        return f"{what} needs at least two amounts of data at some size; each size was trained on one only"
    logs = np.column_stack([np.log(points.num_parameters), np.log(points.tokens)])
    values = np.linalg.svd(logs - logs.mean(axis=0), compute_uv=False)
    if values[1] < ALONG_A_LINE * values[0]:
        return f"{what} needs sizes and tokens that vary apart; here tokens follow from the size"
    return ""


@dataclass(frozen=True)
class CostCurve:
    """FLOPs per token of a family as a function of N: f0 + f1 sqrt(N) + f2 N, none below 0. The last term is
    the matrices, the middle one attention and what grows with the width, the first what the size leaves alone."""

    coefficients: Array
    """(3,)."""
    misfit: float
    """Largest relative error at the runs."""
    low: float
    high: float
    """Range of N that it was fitted to."""

    def __call__(self, num_parameters: Array | float) -> Array:
        """FLOPs per token."""
        n = np.asarray(num_parameters, dtype=float)
        return np.asarray(self.coefficients @ _powers(n).reshape(3, -1)).reshape(n.shape)


def _powers(n: Array) -> Array:
    return np.stack([np.ones_like(n), np.sqrt(n), n])


def cost_curve(num_parameters: Array, flops_per_token: Array) -> CostCurve | None:
    """Non-negative least squares on relative errors; with one size in proportion to N. None without points."""
    known = np.isfinite(flops_per_token) & (flops_per_token > 0)
    n, cost = num_parameters[known], flops_per_token[known]
    if not len(n):
        return None
    basis = _powers(n)
    if len(groups(n, SAME_SIZE)) < 2:
        basis = basis * np.array([[0.0], [0.0], [1.0]])
    relative = (basis / cost).T
    scale = np.maximum(relative.max(axis=0), 1e-300)
    found, _ = optimize.nnls(relative / scale, np.ones(len(n)))
    coefficients = np.where(basis.max(axis=1) > 0, found / scale, 0.0)
    curve = CostCurve(coefficients, 0.0, float(n.min()), float(n.max()))
    return replace(curve, misfit=float(np.abs(curve(n) / cost - 1).max()))


@dataclass(frozen=True)
class Costs:
    """Of one family."""

    training: CostCurve
    inference: CostCurve | None
    autoencoder_flops: float
    """Median of the runs; not-a-number where not recorded."""


def costs_of(points: Points) -> dict[int, Costs]:
    """By family (K, or ``BASELINE``)."""
    found = {}
    for family in sorted({int(k) for k in points.family}):
        part = points.take(points.family == family)
        training = cost_curve(part.num_parameters, part.flops / part.tokens)
        assert training is not None, "points without FLOPs are left out"
        known = part.autoencoder_flops[np.isfinite(part.autoencoder_flops)]
        spent = float(np.median(known)) if len(known) else float("nan")
        found[family] = Costs(training, cost_curve(part.num_parameters, part.infer_flops), spent)
    return found


def range_words(points: Points) -> str:
    """``36 runs of K = 1, 2 and 4, 3.0×10¹¹ to 8.1×10¹² FLOPs, ...``."""
    k = listed([str(value) for value in points.chunk_sizes])
    kinds = [f"CALM of K = {k}"] if k else []
    kinds += ["token baselines"] if points.is_baseline.any() else []
    n = points.num_parameters
    return (
        f"{points.num_runs} runs ({listed(kinds)}), {flops_words(points.flops.min())} to "
        f"{flops_words(points.flops.max())} FLOPs, {n.min():.2g} to {n.max():.2g} parameters"
    )

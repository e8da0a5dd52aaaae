"""Does BrierLM say the same as cross-entropy? Over the checkpoints of token baselines, one text at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from analysis.clustered import MIN_RUNS, Coefficient, Fit, fit, percentile_bootstrap
from analysis.words import interval, number

PUBLISHED = {"Pearson": -0.966, "Spearman": -0.991}
"""Over models and checkpoints (arXiv 2510.27688)."""

LIMIT = -0.9
"""What counts against it, as the study ``correlation`` states beforehand: within one text Pearson weaker than it,
or a 95 % interval of Spearman's that contains it."""
MET, NOT_MET, OPEN = "criterion met", "criterion not met", "undecided"

MIN_POINTS = 3


@dataclass(frozen=True)
class Correlation:
    """Of one text: scores of different texts are different quantities and never share a fit."""

    text: str
    """``shakespeare, byte``."""
    fingerprint: str
    corpus: str
    tokenizer: str
    fit: Fit | None
    """BrierLM against nats per token; None where fewer than three points or no variation leave it undefined."""
    num_runs: int
    num_sizes: int
    num_zero: int
    """Checkpoints left out because BrierLM was 0 there: it is cut off, so they are not on the line."""
    num_weak: int
    """Others left out because one of their orders lies within three of its errors of 0: BrierLM is then mostly
    noise, and cut off where that noise is negative."""
    bootstrap: tuple[tuple[float, float], ...] | None
    """Percentile intervals of Pearson, Spearman, slope and intercept (``clustered.percentile_bootstrap``)."""
    points: pd.DataFrame
    """The checkpoints kept, in the order given."""

    @property
    def num_points(self) -> int:
        return len(self.points)

    @property
    def num_left_out(self) -> int:
        return self.num_zero + self.num_weak

    @property
    def note(self) -> str:
        """Why something is missing or weak; empty where nothing is."""
        if self.num_points < MIN_POINTS:
            return f"at least {MIN_POINTS} baseline checkpoints with a BrierLM clear of 0 are needed"
        if self.fit is None:
            return "all checkpoints have the same value, so no correlation is defined"
        if self.num_runs < MIN_RUNS:
            return (
                "no interval: checkpoints of one run are not independent, and an interval over runs "
                f"needs at least {MIN_RUNS} of them"
            )
        if self.fit.pearson.low is None:
            return "no interval: without one of the runs nothing is left to correlate"
        if self.num_runs < 6:
            return (
                f"the intervals rest on only {self.num_runs} runs and take it that runs differ from each other by "
                "normally distributed amounts"
            )
        return ""


def correlate(evaluations: pd.DataFrame) -> list[Correlation]:
    """One result per evaluation fingerprint (text, tokenizer, positions), in order of first appearance, over all
    baseline checkpoints that have a cross-entropy, whatever their phase (both numbers are of the same weights).

    Results of one text that was evaluated in several ways name the fingerprint. Empty without such checkpoints."""
    rows = evaluations[(evaluations["kind"] == "baseline") & evaluations["cross_entropy"].notna()]
    found = [_correlate(group) for _, group in rows.groupby("fingerprint", sort=False)]
    names = [result.text for result in found]
    return [
        result if names.count(result.text) == 1 else replace(result, text=f"{result.text} ({result.fingerprint})")
        for result in found
    ]


def _correlate(rows: pd.DataFrame) -> Correlation:
    zero = rows["brierlm"] <= 0
    weak = ~zero & (rows["weak_orders"].fillna("") != "")
    points = rows[~zero & ~weak].reset_index(drop=True)
    x = points["cross_entropy"].to_numpy(dtype=float)
    y = points["brierlm"].to_numpy(dtype=float)
    first, runs = rows.iloc[0], points["run_id"].astype(str).tolist()
    enough = len(points) >= MIN_POINTS
    return Correlation(
        text=str(first["text"]),
        fingerprint=str(first["fingerprint"]),
        corpus=str(first["corpus"]),
        tokenizer=str(first["tokenizer"]),
        fit=fit(x, y, runs) if enough else None,
        bootstrap=percentile_bootstrap(x, y, runs) if enough else None,
        num_runs=int(points["run_id"].nunique()),
        num_sizes=int(points["size"].nunique()),
        num_zero=int(zero.sum()),
        num_weak=int(weak.sum()),
        points=points,
    )


# ---------------------------------------------------------------------------- words


def coefficient_words(value: Coefficient | None, digits: int = 3) -> str:
    """``−0.973 [−0.991, −0.921]``."""
    if value is None:
        return "not available"
    bounds = f" {interval(value.low, value.high, digits)}" if value.low is not None else " (no interval)"
    return number(value.value, digits) + bounds


def answer(results: list[Correlation]) -> list[str]:
    """The question in sentences, for studies that hold nothing but token baselines: the coefficients, then text by
    text whether what would count against it happened (``criterion``)."""
    return [_coefficients(results), _criterion_words(), *map(_judged, results)]


def _coefficients(results: list[Correlation]) -> str:
    fits = [(result.text, result.fit) for result in results if result.fit is not None]
    if not fits:
        return "Too few checkpoints have a BrierLM clear of 0 to say whether it agrees with cross-entropy."
    texts = "one text" if len(fits) == 1 else f"each of {len(fits)} texts"
    parts = []
    for name, published in PUBLISHED.items():
        values = {text: (f.pearson if name == "Pearson" else f.spearman) for text, f in fits}
        weakest = max(values, key=lambda text: values[text].value)
        where = "" if len(fits) == 1 else f", at its weakest ({weakest}),"
        parts.append(f"{name}{where} {coefficient_words(values[weakest])} (published {number(published, 3)})")
    return f"Correlation of BrierLM with cross-entropy within {texts}: {'; '.join(parts)}."


def criterion(found: Fit | None) -> str:
    """``MET`` (it counts against the claim), ``NOT_MET`` or ``OPEN``, from the two 95 % intervals.

    Either coefficient suffices to meet it: Pearson's interval wholly weaker than ``LIMIT``, or Spearman's
    containing ``LIMIT`` (or wholly weaker, which is worse). Not met needs both intervals wholly stronger. Open
    otherwise: an interval is missing, or Pearson's contains ``LIMIT`` and Spearman's does not meet it."""
    if found is None:
        return OPEN
    sides = _side(found.pearson), _side(found.spearman)
    if sides[0] == "weaker" or sides[1] in ("weaker", "around"):
        return MET
    return NOT_MET if sides == ("stronger", "stronger") else OPEN


def _side(value: Coefficient) -> str:
    """Where the interval lies: ``stronger`` or ``weaker`` than LIMIT, ``around`` it, or ``missing``."""
    if value.low is None or value.high is None:
        return "missing"
    return "stronger" if value.high < LIMIT else "weaker" if value.low > LIMIT else "around"


def _criterion_words() -> str:
    limit = number(LIMIT, 1)
    return (
        f"It would count against BrierLM if, within one text, Pearson were weaker than {limit} or the 95 % "
        f"interval of Spearman's contained {limit}; judged by the intervals:"
    )


def _judged(result: Correlation) -> str:
    """``kjv, byte: criterion not met, both intervals are wholly stronger than −0.9.``"""
    verdict, limit = criterion(result.fit), number(LIMIT, 1)
    if result.fit is None:
        return f"{result.text}: {verdict}, {result.note}."
    if verdict == NOT_MET:
        return f"{result.text}: {verdict}, both intervals are wholly stronger than {limit}."
    words = {
        "stronger": f"is wholly stronger than {limit}",
        "weaker": f"is wholly weaker than {limit}",
        "around": f"contains {limit}",
        "missing": "is missing",
    }
    own, ranks = words[_side(result.fit.pearson)], words[_side(result.fit.spearman)]
    return f"{result.text}: {verdict}, Pearson's interval {own} and Spearman's {ranks}."


def details(result: Correlation) -> str:
    """One text in a sentence."""
    counts = f"{_counted(result.num_points, 'checkpoint')} of {_counted(result.num_runs, 'run')}"
    if result.num_left_out:
        counts += f" ({result.num_left_out} left out: BrierLM not told from 0)"
    if result.fit is None:
        return f"{result.text}: {result.note} ({counts})."
    f = result.fit
    return (
        f"{result.text}: Pearson {coefficient_words(f.pearson)}, Spearman {coefficient_words(f.spearman)} over "
        f"{counts} and {_counted(result.num_sizes, 'size')}; one nat less is worth "
        f"{coefficient_words(_negated(f.slope), 2)} BrierLM."
    )


def _negated(value: Coefficient) -> Coefficient:
    if value.low is None or value.high is None:
        return Coefficient(-value.value)
    return Coefficient(-value.value, -value.high, -value.low)


def _counted(num: int, what: str) -> str:
    return f"{num} {what}{'' if num == 1 else 's'}"

"""The effect of each parameter on the score at the budget.

The unit is a cell: runs that agree in everything but the seed, with the mean of their scores. A search
does not visit all combinations equally often, so values are compared after the other parameters have
been allowed for (additive least squares over cells, every parameter as categories). The residual scatter,
which holds interactions and all noise, gives the interval; with too little of it left nothing is
claimed. The reference is the best value found, so the intervals are Bonferroni-corrected for all pairs of
values, those of all parameters together.

A parameter that only some settings have (a field of one kind of head) is compared among these alone, and where it
is missing from some of the settings that are compared, nothing is adjusted for it.

This is for searches whose settings differ in several parameters at once. Where two settings differ in one alone,
``analysis.claims.controlled_pairs`` says more, and assumes nothing about how effects add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.comparison import Comparison, cells
from analysis.naming import values_of
from analysis.stats import UNDECIDED, Difference, Mean, mean_of
from workbench.uncertainty import t_quantile

MAX_CATEGORIES = 6
"""A numeric parameter with more distinct values is cut into three groups of equal size."""
MIN_RESIDUAL_DOF = 3


@dataclass(frozen=True)
class ValueEffect:
    """One value of one parameter."""

    value: str
    num_cells: int
    num_runs: int
    num_stopped: int
    """Runs with this value that did not complete; the mean is of those that did."""
    mean: Mean
    """Over cells, unadjusted."""
    difference: Difference | None
    """To the parameter's reference value, adjusted for the other parameters; None for the reference."""

    @property
    def verdict(self) -> str:
        return "reference" if self.difference is None else self.difference.verdict


@dataclass(frozen=True)
class Effect:
    parameter: str
    values: list[ValueEffect] = field(default_factory=list)
    reference: str = ""
    note: str = ""
    """Why nothing can be decided; empty otherwise."""

    @property
    def verdict(self) -> str:
        """In words, for the whole parameter."""
        others = [value for value in self.values if value.difference is not None]
        if self.note or not others:
            return UNDECIDED
        worse = [value.value for value in others if value.verdict == "worse"]
        if len(worse) == len(others):
            return f"{self.reference} is better than every other value"
        if worse:
            return f"{self.reference} is better than {', '.join(worse)}; the rest is indistinguishable from it"
        return (
            f"the values are indistinguishable at this noise ({self.reference} is highest after adjustment for "
            "the other parameters)"
        )


def effects(comparison: Comparison, runs: pd.DataFrame, columns: list[str]) -> list[Effect]:
    """One Effect per searched parameter, over the CALM runs of the comparison.

    ``runs``: all runs of the study, to count those that stopped early; ``columns``: the configuration
    columns that define a cell."""
    calm = comparison.calm
    if calm.empty:
        return [Effect(name, note="no completed CALM run at the budget") for name in comparison.parameters]
    grouped = cells(calm, columns)
    frame = pd.DataFrame(
        {
            "score": [cell["score"].mean() for cell in grouped],
            "variance": [_least_variance(cell, comparison) for cell in grouped],
            "num_runs": [len(cell) for cell in grouped],
        }
    )
    labels = {}
    for name in comparison.parameters:
        everyone = runs[runs["kind"] == "calm"]
        groups = categories(values_of(everyone, name))
        labels[name] = groups
        frame[name] = [groups[cell.index[0]] for cell in grouped]
    stopped = runs[(runs["kind"] == "calm") & runs["role"].isin(("run", "trial")) & ~runs["at_budget"]]
    pairs = max(1, sum(math.comb(len(_present(name, frame, labels[name])), 2) for name in labels))
    return [
        _effect(name, frame[frame[name].notna()], comparison.parameters, stopped.index, labels[name], pairs)
        for name in labels
    ]


def _least_variance(cell: pd.DataFrame, comparison: Comparison) -> float:
    """Of a cell's mean score: the noise between seeds where it was measured (what all runs of the positions share
    does not scatter between cells), else the evaluations' own error."""
    noise = comparison.noise
    one_run = float((cell["brierlm_se"] ** 2).mean()) if noise is None else noise.sd**2
    return one_run / len(cell)


def _present(name: str, frame: pd.DataFrame, labels: pd.Series) -> list[str]:
    """Values among the cells, in order."""
    return [value for value in labels.cat.categories if (frame[name] == value).any()]


def categories(values: pd.Series) -> pd.Series:
    """Text labels in the values' own order (an ordered category), numeric ones with many values in three
    groups of equal size."""
    present = values.dropna()
    numeric = pd.to_numeric(present, errors="coerce")
    is_numeric = len(present) > 0 and bool(numeric.notna().all()) and not present.map(_is_bool).any()
    if is_numeric and numeric.nunique() > MAX_CATEGORIES:
        cuts = pd.qcut(numeric.rank(method="first"), 3, labels=False)
        names = {g: f"{_text(numeric[cuts == g].min())} to {_text(numeric[cuts == g].max())}" for g in range(3)}
        order = [names[g] for g in range(3)]
        text = values.index.to_series().map(lambda i: names[cuts[i]] if i in cuts.index else None)
    else:
        ordered = sorted(numeric.unique()) if is_numeric else sorted(present.unique(), key=str)
        order = [_text(value) for value in ordered]
        text = values.map(lambda v: None if v is None or v != v else _text(v))
    return pd.Series(pd.Categorical(text, categories=list(dict.fromkeys(order)), ordered=True), index=values.index)


def _is_bool(value: object) -> bool:
    return isinstance(value, (bool, np.bool_))


def _text(value: object) -> str:
    if isinstance(value, (float, int, np.floating, np.integer)) and not _is_bool(value):
        return f"{float(value):.6g}"
    return str(value)


def _effect(
    name: str, frame: pd.DataFrame, parameters: list[str], stopped: pd.Index, labels: pd.Series, comparisons: int
) -> Effect:
    present = _present(name, frame, labels)
    if len(present) < 2:
        only = f" ({present[0]})" if present else ""
        return Effect(name, note=f"only one value{only} among the completed runs")
    means = {value: mean_of(frame.loc[frame[name] == value, "score"].tolist()) for value in present}
    reference = max(present, key=lambda value: means[value].value)
    adjusted = _adjusted(name, reference, present, frame, parameters, comparisons)
    ahead = {v: d.value for v, d in adjusted.items() if d.low is not None and d.value > 0}
    if ahead:  # once the other parameters are allowed for, another value is the best one
        reference = max(ahead, key=lambda value: ahead[value])
        adjusted = _adjusted(name, reference, present, frame, parameters, comparisons)
    reached = labels[stopped].astype(object)
    values = [
        ValueEffect(
            value=value,
            num_cells=means[value].num,
            num_runs=int(frame.loc[frame[name] == value, "num_runs"].sum()),
            num_stopped=int((reached == value).sum()),
            mean=means[value],
            difference=None if value == reference else adjusted[value],
        )
        for value in present
    ]
    undecided = all(value.difference is None or value.difference.low is None for value in values)
    note = f"too few completed cells ({len(frame)}) for an interval" if undecided else ""
    return Effect(name, values, reference, note)


def _adjusted(
    name: str, reference: str, present: list[str], frame: pd.DataFrame, parameters: list[str], comparisons: int
) -> dict[str, Difference]:
    """Differences to the reference from an additive fit; without an interval where the fit has fewer
    than MIN_RESIDUAL_DOF degrees of freedom left or cannot tell two parameters apart."""
    design: list[npt.NDArray[np.float64]] = [np.ones(len(frame))]
    others = [value for value in present if value != reference]
    design += [np.asarray(frame[name] == value, dtype=float) for value in others]
    for other in parameters:
        if other != name and frame[other].notna().all():
            levels = list(dict.fromkeys(frame[other].dropna()))
            design += [np.asarray(frame[other] == level, dtype=float) for level in levels[1:]]
    matrix, score = np.stack(design, axis=1), frame["score"].to_numpy(dtype=float)
    rank = int(np.linalg.matrix_rank(matrix))
    dof = len(frame) - rank
    raw = {v: float(score[frame[name] == v].mean() - score[frame[name] == reference].mean()) for v in others}
    if dof < MIN_RESIDUAL_DOF:
        return {value: Difference(raw[value]) for value in others}
    inverse = np.linalg.pinv(matrix.T @ matrix)
    coefficients = inverse @ matrix.T @ score
    residual = score - matrix @ coefficients
    # few cells can agree by chance: the scatter is never taken below what the noise of each makes
    variance = max(float(residual @ residual) / dof, float(frame["variance"].mean()))
    result = {}
    for i, value in enumerate(others, start=1):
        if not _estimable(matrix, i):
            result[value] = Difference(raw[value])
            continue
        half = t_quantile(dof, comparisons=comparisons) * math.sqrt(variance * float(inverse[i, i]))
        found = float(coefficients[i])
        result[value] = Difference(found, found - half, found + half, comparisons)
    return result


def _estimable(matrix: npt.NDArray[np.float64], column: int) -> bool:
    """Whether the other columns leave something of this one: its coefficient is then unique."""
    rest = np.delete(matrix, column, axis=1)
    target = matrix[:, column]
    solution, *_ = np.linalg.lstsq(rest, target, rcond=None)
    return bool(np.linalg.norm(target - rest @ solution) > 1e-8 * max(1.0, float(np.linalg.norm(target))))

"""Drawing until a BrierLM is known well enough: more windows first, then more samples. Imports no torch.

Windows are the better buy while there are any: they average out both the scatter between positions and the
noise of sampling. Where the split has no more, further rounds of S samples at the same positions take away
what is left of the sampling noise.

Letters: W windows, n positions of a window, O = 4 orders, R rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from workbench.uncertainty import cluster_dof, rounds_needed, summarise, t_quantile, windows_needed

RESERVE = 1.1
"""Drawn beyond the estimate of what is needed: the estimate has an error too."""
MAX_GROWTH = 4.0
"""Of the windows in one go: the first ones know the variance only roughly."""

TOLERANCE = 1.1
"""A text is called too small only where even an error so much larger is out of its reach: what it leaves is an
estimate too."""

Draw = Callable[[int, int, int], npt.NDArray[np.float32]]
"""(first window, last window, round) to estimates (windows, n, O)."""


@dataclass(frozen=True)
class Growth:
    values: npt.NDArray[np.floating]
    """(W, n, O), means over rounds."""
    rounds: int
    stopped_by: Literal["target", "budget", "text"] | None
    """None: nothing was asked for beyond the first windows."""


def grow(
    draw: Draw,
    clusters: npt.NDArray[np.integer],
    *,
    start: int,
    target_se: float,
    max_positions: int,
    num_positions: int,
) -> Growth:
    """Draw ``start`` windows, then what the measured error says, until BrierLM's standard error is at most
    ``target_se``.

    ``clusters``: of all windows there are. ``max_positions``: scored positions in all, rounds counted; the first
    ``start`` windows are drawn whatever it says. ``num_positions``: n of a window."""
    capacity = len(clusters)
    values = draw(0, start, 0)
    while True:
        num = len(values)
        if _se(values, clusters[:num]) <= target_se:
            return Growth(values, 1, "target")
        affordable = min(capacity, max_positions // num_positions)
        if num >= affordable:
            break
        weak = bool(summarise(values, clusters[:num], resamples=0).weak_orders)
        needed = None if weak else windows_needed(values, clusters[:num], target_se)
        wanted = capacity if needed is None else int(RESERVE * needed) + 1
        last = min(max(wanted, num + 2), int(MAX_GROWTH * num), affordable)
        values = np.concatenate([values, draw(num, last, 0)])
    if len(values) < capacity:
        return Growth(values, 1, "budget")
    return _more_rounds(draw, values, clusters, target_se, max_positions // (capacity * num_positions))


def _more_rounds(
    draw: Draw,
    values: npt.NDArray[np.float32],
    clusters: npt.NDArray[np.integer],
    target_se: float,
    affordable: int,
) -> Growth:
    rounds = [values]
    while len(rounds) < affordable:
        rounds.append(draw(0, len(values), len(rounds)))
        mean = np.mean(rounds, axis=0)
        if _se(mean, clusters) <= target_se:
            return Growth(mean, len(rounds), "target")
        if rounds_needed(np.stack(rounds), clusters, TOLERANCE * target_se) is None:
            return Growth(mean, len(rounds), "text")
    return Growth(np.mean(rounds, axis=0), len(rounds), "budget")


def _se(values: npt.NDArray[np.floating], clusters: npt.NDArray[np.integer]) -> float:
    """BrierLM's standard error; where an order is too near 0 for one, that of an interval that reaches the upper
    bound; infinite where one cluster alone says nothing."""
    found = summarise(values, clusters, resamples=0)
    if found.brierlm_high is None:
        return math.inf
    if found.brierlm_high == 0.0:  # an order is surely below 0: the score is 0, and known
        return 0.0
    if found.weak_orders:
        return max(found.brierlm_se, found.brierlm_high / t_quantile(cluster_dof(clusters)))
    return found.brierlm_se

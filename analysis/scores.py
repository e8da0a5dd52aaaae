"""BrierLM with its error, as a reader may take it.

Where every order lies clear of 0 that is value ± standard error. Where one does not, that error means nothing
(the delta method fails, ``workbench.uncertainty``) and only the interval [0, upper bound] is known. Runs recorded
before there were bounds have none and keep their ±.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.words import interval, missing, number, plus_minus


def is_bound(row: pd.Series | Mapping[Hashable, Any]) -> bool:
    """Whether of this run or checkpoint only an upper bound is known."""
    weak = row.get("weak_orders")
    return not missing(weak) and weak != "" and not missing(row.get("brierlm_high"))


def bounds(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """(n,) ``is_bound`` of every row."""
    if "weak_orders" not in rows or "brierlm_high" not in rows:
        return np.zeros(len(rows), dtype=bool)
    pairs = zip(rows["weak_orders"].tolist(), rows["brierlm_high"].tolist(), strict=True)
    return np.asarray([is_bound({"weak_orders": weak, "brierlm_high": high}) for weak, high in pairs], dtype=bool)


def score_words(row: pd.Series | Mapping[Hashable, Any]) -> str:
    """``4.10 ± 0.12``, or ``[0, 1.30]`` where an order cannot be told from 0."""
    if is_bound(row):
        return f"[0, {number(row['brierlm_high'])}]"
    return plus_minus(row["brierlm"], row["brierlm_se"])


def interval_words(row: pd.Series) -> str:
    """The recorded 95 % interval."""
    if is_bound(row):
        return f"[0, {number(row['brierlm_high'])}]"
    low, high = row.get("brierlm_low"), row.get("brierlm_high")
    return interval(None, None) if missing(low) or missing(high) else interval(low, high)


BOUND_TEXT = (
    " A hollow point with an arrow: an order cannot be told from 0, and BrierLM lies between 0 and the bar (95 %)."
)


def bound_note(rows: Iterable[pd.Series | Mapping[Hashable, Any]]) -> str:
    """What the caption of a table adds where ``score_words`` gives an interval."""
    words = " [0, x]: an order cannot be told from 0, and x is a 95 % upper bound."
    return words if any(map(is_bound, rows)) else ""


def bound_text(rows: pd.DataFrame) -> str:
    """What the caption of a figure adds where such scores are drawn."""
    return BOUND_TEXT if bounds(rows).any() else ""

"""Cells of a file of external results, column by column: text or numbers, each checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from workbench.errors import StudyError

EMPTY = ("", "-", "–", "na", "n/a", "nan", "none", "null", "<na>")
"""Cells that hold nothing, in small letters."""

LARGEST_WHOLE = 2**53
"""Whole numbers above this are not exact."""

Refuse = Callable[[int, str, object, str], StudyError]
"""(place of the row, column, value, what was wanted) -> what is raised."""


@dataclass(frozen=True)
class Column:
    """One documented column; a number where it has a bound, else text."""

    name: str
    meaning: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    whole: bool = False
    required: bool = False
    """Whether every row needs a value."""

    @property
    def is_number(self) -> bool:
        return self.low is not None or self.above is not None

    @property
    def wanted(self) -> str:
        """``a whole number of at least 1``."""
        noun = "a whole number" if self.whole else "a number"
        if self.above is not None:
            return f"{noun} above {self.above:g}"
        return f"{noun} of at least {self.low:g}" + (
            f" and at most {self.high:g}" if self.high is not None else ""
        )


def words(column: Column, cells: Sequence[Any], refuse: Refuse) -> list[str | None]:
    """Text without blanks around it; None where there is nothing."""
    found = [None if is_empty(cell) else str(cell).strip() for cell in cells]
    if column.required and None in found:
        raise refuse(found.index(None), column.name, "", "a value")
    return found


def numbers(column: Column, cells: Sequence[Any], refuse: Refuse) -> list[float]:
    """Finite numbers within the column's bounds; not-a-number where there is nothing."""
    found = []
    for place, cell in enumerate(cells):
        if is_empty(cell):
            if column.required:
                raise refuse(place, column.name, "", column.wanted)
            found.append(math.nan)
            continue
        value = _number(cell)
        if value is None:
            raise refuse(place, column.name, _shown(cell), f"{column.wanted} (such as 4.2 or 6.6e20)")
        if not _within(value, column):
            most = " and at most 2^53" if column.whole and value > LARGEST_WHOLE else ""
            raise refuse(place, column.name, _shown(cell), f"{column.wanted}{most}")
        found.append(value)
    return found


def is_empty(cell: Any) -> bool:
    """Whether there is nothing in a cell."""
    if isinstance(cell, str):
        return cell.strip().lower() in EMPTY
    return bool(pd.isna(cell)) if pd.api.types.is_scalar(cell) else False


def _number(cell: Any) -> float | None:
    """None where it is none; ``1_000``, yes or no and a list of one are none, though Python takes them for one."""
    listed = not pd.api.types.is_scalar(cell)
    if listed or isinstance(cell, bool) or (isinstance(cell, str) and "_" in cell):
        return None
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def _within(value: float, column: Column) -> bool:
    if not math.isfinite(value) or (column.whole and (value != math.floor(value) or value > LARGEST_WHOLE)):
        return False
    if column.above is not None:
        return value > column.above
    assert column.low is not None
    return value >= column.low and (column.high is None or value <= column.high)


def _shown(cell: Any) -> Any:
    """As a reader wrote it, without numpy's type around it."""
    return cell.tolist() if hasattr(cell, "tolist") else cell

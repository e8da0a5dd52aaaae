"""Families of models: the token baseline and CALM of each K, told apart by head only where several heads occur.

A family has the name, colour and marker of its K in every figure; the heads of one K differ in marker and dashes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import style

OVERALL = "all models"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)))


@dataclass(frozen=True)
class Family:
    """``k`` is None for the token baseline; ``head`` is empty where it need not be said."""

    k: int | None
    head: str = ""
    place: int = 0
    """Of the head among those of its K."""

    @property
    def name(self) -> str:
        """``token baseline``, ``K = 4``, ``K = 4, flow``."""
        return style.k_name(self.k) + (f", {self.head}" if self.head else "")

    @property
    def colour(self) -> str:
        return style.k_colour(self.k)

    @property
    def marker(self) -> str:
        return style.head_marker(self.head) if self.head else style.k_marker(self.k)

    @property
    def dashes(self) -> Any:
        """Line style for matplotlib."""
        return _DASHES[self.place % len(_DASHES)]


def families(rows: pd.DataFrame) -> list[tuple[Family, pd.DataFrame]]:
    """Runs or checkpoints by family: CALM by K and head, the token baseline last; empty ones are left out.

    ``rows``: with the columns kind ('calm' or 'baseline') and K, where known head (``analysis.rows``)."""
    keys = list(zip(*_keys(rows), strict=True))
    several = len({head for k, head in set(keys) if k is not None}) > 1
    found: dict[tuple[int | None, str], list[int]] = {}
    for place, (k, head) in enumerate(keys):
        found.setdefault((k, head if several else ""), []).append(place)
    ordered = sorted(found, key=lambda key: (key[0] is None, key[0] or 0, style.head_place(key[1]), key[1]))
    heads: dict[int | None, int] = {}
    parts = []
    for k, head in ordered:
        heads[k] = heads.get(k, -1) + 1
        parts.append((Family(k, head, heads[k]), rows.iloc[found[k, head]]))
    return parts


def family_names(rows: pd.DataFrame) -> pd.Series:
    """Name of the family of each row, on the index of ``rows``."""
    names = np.empty(len(rows), dtype=object)
    numbered = rows.assign(_place=np.arange(len(rows)))
    for family, part in families(numbered):
        names[part["_place"].to_numpy()] = family.name
    return pd.Series(names, index=rows.index, dtype=object)


def _keys(rows: pd.DataFrame) -> tuple[list[int | None], list[str]]:
    """K and head of each row. A CALM without a recorded K counts as K = 1, one without a head has none."""
    calm = (rows["kind"] != "baseline").tolist()
    sizes = pd.to_numeric(rows["K"], errors="coerce").to_numpy(dtype=float, na_value=1.0)
    heads = (rows["head"] if "head" in rows else pd.Series("", index=rows.index)).fillna("").astype(str).tolist()
    known = np.where(np.isnan(sizes), 1.0, sizes).astype(int).tolist()
    return (
        [k if there else None for k, there in zip(known, calm, strict=True)],
        [head if there else "" for head, there in zip(heads, calm, strict=True)],
    )

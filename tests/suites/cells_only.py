"""The tiny study's preset without a search: what is changed in it."""

from __future__ import annotations

from typing import Any

CELLS: dict[str, Any] = {"space": {}, "trials": 0, "checks": {}}
"""For ``tiny_spec(**CELLS)`` and ``tiny_study(**CELLS)``: the cells ``small`` and ``large`` are all there is."""

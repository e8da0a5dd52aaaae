"""Everything about one frontier that is shown: points with their status, families, bands."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.families import families, family_names
from analysis.frontier import ON, by_seed, last_points, select, with_status
from analysis.frontier_bands import Band, bands
from analysis.frontier_pairs import paired_gaps
from workbench.positions import PositionScores
from workbench.seeds import SeedNoise


@dataclass(frozen=True)
class View:
    """The frontier over one cost."""

    cost: str
    kind: str
    """constant or decayed."""
    points: pd.DataFrame
    """Cheapest first, with the columns of ``analysis.frontier.with_status`` (among all models), ``family`` and
    ``family_status`` (within its family)."""
    bands: list[Band]
    notes: list[str]
    noise: SeedNoise | None
    seeds_together: bool

    @property
    def members(self) -> pd.DataFrame:
        """Points on the frontier of all models."""
        return self.points[self.points["status"] == ON]


def view(
    evaluations: pd.DataFrame,
    *,
    cost: str = "train_flops",
    kind: str | None = None,
    noise: SeedNoise | None = None,
    positions: Mapping[str, PositionScores] | None = None,
    settings: Mapping[str, Hashable] | None = None,
) -> View | None:
    """Of evaluations of one fingerprint; None where no point has a known score and cost.

    ``kind``: None chooses (``analysis.frontier.choose_kind``). ``settings``, by run id: runs that differ in their
    seed only are put together where it has any. Of inference costs each run has one, so its last point of the
    kind is taken. Raises ValueError as ``analysis.frontier.select``."""
    together = settings is not None and len(set(settings.values())) < len(settings)
    rows = by_seed(evaluations, settings) if together and settings is not None else evaluations
    chosen = select(rows, cost=cost, kind=kind)
    points = last_points(chosen.points) if cost.startswith("infer") else chosen.points
    if points.empty:
        return None
    in_pairs = paired_gaps(positions, noise) if positions else None
    points = with_status(points, cost=cost, noise=noise, paired=in_pairs)
    points["family"] = family_names(points)
    parts = families(points)
    own = points["status"]
    if len(parts) > 1:
        within = [
            with_status(part.assign(_place=part.index), cost=cost, noise=noise, paired=in_pairs)
            for _, part in parts
        ]
        own = pd.concat([part.set_index("_place")["status"] for part in within]).sort_index()
    points["family_status"] = own
    return View(cost, chosen.kind, points, bands(points, cost=cost, noise=noise), chosen.notes, noise, together)

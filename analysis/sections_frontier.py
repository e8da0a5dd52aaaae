"""Sections of the report: frontiers that respect errors, and the results of others beside ours."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pandas as pd

from analysis import plots_frontier, tables_frontier
from analysis.comparison import ROLES, Comparison, cell_places
from analysis.external import COSTS, published
from analysis.frontier import AXES, KINDS, select, with_status
from analysis.frontier_view import View, view
from analysis.sections import Section
from analysis.table import RunTable

TRAINING, INFERENCE = "train_flops", "infer_flops_per_token"
CHARGED = "train_flops_with_autoencoder"


def frontier_views(table: RunTable, comparison: Comparison) -> list[View]:
    """Over training and inference compute, the kind of point that is shown first, then the other kind."""
    settings = settings_of(table, comparison)
    found = []
    for cost in (TRAINING, INFERENCE):
        shown = _view(comparison, settings, cost, None)
        others = [kind for kind in KINDS if shown is None or kind != shown.kind]
        found += [shown, *(_view(comparison, settings, cost, kind) for kind in others)] if shown else []
    return [one for one in found if one is not None]


def _view(comparison: Comparison, settings: dict[str, Hashable], cost: str, kind: str | None) -> View | None:
    return view(
        comparison.evaluations,
        cost=cost,
        kind=kind,
        noise=comparison.noise,
        positions=comparison.positions,
        settings=settings,
    )


def settings_of(table: RunTable, comparison: Comparison) -> dict[str, Hashable]:
    """Number of the setting of each run of the comparison's fingerprint: runs that differ in nothing but their
    seed have one. Of runs with one seed (the same run twice) the first."""
    runs = table.runs
    runs = runs[(runs["fingerprint"] == comparison.fingerprint) & runs["role"].isin(ROLES)]
    ids, seeds = runs["run_id"].tolist(), runs["seed"].tolist()
    found: dict[str, Hashable] = {}
    for number, places in enumerate(cell_places(runs, table.config_columns)):
        first = {seeds[place]: ids[place] for place in reversed(places)}
        found |= {str(ids[place]): number for place in places if first[seeds[place]] == ids[place]}
    return found


def frontier_section(table: RunTable, comparison: Comparison) -> Section | None:
    """Frontiers in training and in inference compute with their bands; None where no point has a known score."""
    views = frontier_views(table, comparison)
    if not views:
        return None
    section = Section("frontiers", "Compute frontiers")
    names = {str(i): str(n) for i, n in zip(table.runs["run_id"], table.runs["name"], strict=True) if n}
    for cost in (TRAINING, INFERENCE):
        found = next((one for one in views if one.cost == cost), None)  # the shown kind comes first
        if found is None:
            continue
        section.add(plots_frontier.view_figure(found))
        section.add(tables_frontier.members_table(found, names, _charged(found) if cost == TRAINING else None))
        section.add(tables_frontier.bands_table(found))
        section.notes += [f"{AXES[cost][0].upper()}{AXES[cost][1:]}: {note}." for note in found.notes]
    section.add(tables_frontier.counts_table(views))
    section.notes += _noise_words(comparison, views)
    return section


def _charged(found: View) -> dict[tuple[str, int], str] | None:
    """Status with the autoencoder's training charged in full to every run; None where that changes no cost."""
    points = found.points
    known = points[points[CHARGED] > 0]
    if known.empty or (known[CHARGED] == known[found.cost]).all():
        return None
    charged = with_status(known, cost=CHARGED, noise=found.noise)
    keys = zip(charged["run_id"].astype(str), charged["step"].astype(int), strict=True)
    return dict(zip(keys, charged["status"].astype(str), strict=True))


def _noise_words(comparison: Comparison, views: Sequence[View]) -> list[str]:
    if comparison.noise is None:
        return [
            "No setting was repeated with another seed, so training noise is in none of these intervals: they say "
            "which of these checkpoints is better, not which setting."
        ]
    words = f"Training noise (standard deviation {comparison.noise.sd:.2f} between seeds, "
    words += (
        f"{comparison.noise.dof} degrees of freedom) was measured at {comparison.budget or 'one budget'} and is "
    )
    words += "taken to be the same everywhere."
    together = any(one.seeds_together for one in views)
    return [words + (" Seeds of one setting are put together, checkpoint by checkpoint." if together else "")]


def sections_external(
    frames: Sequence[pd.DataFrame], table: RunTable | None, comparison: Comparison | None
) -> Section:
    """Results of others (``analysis.external.read_external``) and the paper's own rows, beside ours; without a
    study of ours only theirs."""
    theirs = pd.concat([*frames, published()], ignore_index=True)
    ours = comparison.evaluations if comparison is not None else theirs.iloc[:0]
    section = Section("external", "Results of others")
    section.notes.append(
        "Every source has an evaluation fingerprint of its own: its text, tokenizer and positions are not ours. A "
        "BrierLM belongs to its text, so heights are not compared across sources; how a score rises with compute, "
        "and what one family needs against another of the same source, can be."
    )
    for cost in COSTS:
        if not (theirs[cost] > 0).any():
            continue
        own = select(ours, cost=cost).points if len(ours) else None
        section.add(plots_frontier.external_figure(theirs, own, cost=cost))
        groups = [(str(print_), part) for print_, part in theirs.groupby("fingerprint", sort=False)]
        groups += [("ours", own)] if own is not None else []
        section.add(tables_frontier.slopes_table(groups, cost))
    section.add(tables_frontier.external_table(theirs))
    if table is not None and comparison is not None and ours.empty:
        section.notes.append("This study has no evaluation to show beside them.")
    return section

"""Sections about budgets and laws: the best by budget, and BrierLM in size, data and K."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from analysis.budgets import AtBudget, budget_table
from analysis.comparison import BUDGETS, Comparison, cells
from analysis.compute_ratio import ratio_sentences
from analysis.downstream import Downstream, downstream_figure, downstream_table, sentences
from analysis.power_law import RECIPE
from analysis.power_law_report import PowerLawParts
from analysis.scaling_report import ScalingParts
from analysis.sections import Section
from analysis.table import RunTable
from analysis.words import listed

ASKS = "scaling"
"""Name of the study whose question is the law."""


def budgets_section(found: list[AtBudget], comparison: Comparison) -> Section | None:
    """None with fewer than two budgets."""
    table = budget_table(found, comparison)
    if table is None:
        return None
    section = Section("budgets", "Budget by budget")
    section.add(table)
    section.notes.append(
        f"Runs with {len(found)} budgets of training compute. Sections that compare at one budget show the "
        f"largest of those with most runs ({comparison.budget})."
    )
    return section


def with_recipes(table: RunTable, evaluations: pd.DataFrame) -> pd.DataFrame:
    """The evaluations with ``power_law.RECIPE``: one number for runs that differ in budget and seed alone.
    Over inference costs a longer training is a setting of its own, and sizes tell them apart there."""
    columns = [c for c in table.config_columns if c not in BUDGETS]
    numbers = {str(i): n for n, cell in enumerate(cells(table.runs, columns)) for i in cell["run_id"]}
    return evaluations.assign(**{RECIPE: [numbers.get(str(i)) for i in evaluations["run_id"]]})


def headline_ratios(parts: PowerLawParts) -> list[str]:
    """For the summary: the ratios of compute that can be read off, and for which families none can."""
    said, without = [], []
    for one in parts.ratios:
        known = replace(one, reasons={})
        said += ratio_sentences(known) if known.families else []
        without += [family for family in one.reasons if family not in without]
    open_ones = [family for family in without if not any(family in one.families for one in parts.ratios)]
    if said and open_ones:
        said.append(f"{listed(open_ones)}: no ratio of compute; the section on growth says why.")
    return said


def power_section(parts: PowerLawParts) -> Section | None:
    """BrierLM over compute, family by family, and the compute that each needs for the baseline's score. The
    published ratios are shown beside ours only: None without a curve of ours."""
    if not any(law.fitted for law in parts.laws):
        return None
    section = Section("growth", "Growth with compute, and the ratio to the baseline")
    section.notes += dict.fromkeys([*parts.summary, *parts.sentences])  # of several costs some are the same
    for item in (*parts.pictures, *parts.tables):
        section.add(item)
    return None if section.empty else section


def scaling_section(parts: ScalingParts) -> Section | None:
    """None where there is neither a figure nor a word to say."""
    section = Section("scaling", "A law in size, data and K")
    section.notes += [*parts.summary[:1], *parts.sentences] if parts.empty else parts.sentences
    for item in (*parts.pictures, *parts.tables):
        section.add(item)
    return section if section.notes or not section.empty else None


def downstream_section(found: Downstream | None) -> Section | None:
    """None where fewer than three autoencoders are compared, all else equal."""
    if found is None:
        return None
    section = Section("downstream", "Autoencoders and what is trained on them")
    section.notes += sentences(found)
    section.add(downstream_figure(found))
    section.add(downstream_table(found))
    return section

"""The sections of the report. Each copes with there being nothing to show and says so."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from analysis import plots, plots_parameters, tables
from analysis.ablation import Effect
from analysis.comparison import Comparison
from analysis.correlation import correlate
from analysis.frontier import COSTS
from analysis.style import Picture
from analysis.table import RunTable, StudyInfo
from analysis.verdict import Standing
from analysis.words import PHASES, Cell, Table, name_of, plain

MIN_TRIALS = 20
"""Parameter importance is withheld below this many complete trials."""


@dataclass
class Section:
    """One section of the page; with neither figures nor tables its ``notes`` say why."""

    id: str
    title: str
    notes: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def add(self, item: Picture | Table | None, otherwise: str = "") -> None:
        if isinstance(item, Picture):
            self.pictures.append(item)
        elif isinstance(item, Table) and item.rows:
            self.tables.append(item)
        elif otherwise:
            self.notes.append(otherwise)


def key_section(table: RunTable, comparison: Comparison, places: list[Standing]) -> Section:
    section = Section("key-numbers", "Key numbers")
    section.add(tables.key_numbers(comparison, places), "No run completed at the budget.")
    names = table.runs.drop_duplicates("run_id").set_index("run_id")["name"]
    for cost in COSTS:
        section.add(tables.frontier_table(comparison, names, cost))
    if not (comparison.evaluations["brierlm"] > 0).any():
        section.notes.append("No checkpoint has a BrierLM above 0, so there is no frontier.")
    phases = set(comparison.evaluations["phase"])
    if len(comparison.evaluations) and "decayed" not in phases:
        section.notes.append("No run ended with a decay of its rate: all frontier points are at constant rate.")
    if len(comparison.evaluations) and "constant" not in phases:
        section.notes.append("No checkpoint was taken at constant rate: all frontier points are ends of decays.")
    section.add(tables.settings_table(comparison, table.config_columns))
    return section


def effects_section(comparison: Comparison, found: list[Effect]) -> Section:
    section = Section("parameters", "Effect of each parameter")
    if not found:
        section.notes.append("No parameter was searched or varied.")
        return section
    section.notes.append(
        "The score is the study's objective: BrierLM, or a smooth score on the same scale where an order of "
        "it lies within two of its errors of 0. A setting is all runs that differ only in their seed. Differences "
        "are adjusted for the other parameters (additive fit over settings) and corrected for the number of "
        "values. Runs that were stopped early have no score at the budget and are only counted, which flatters "
        "values that were often stopped."
    )
    for effect in found:
        section.add(
            plots_parameters.parameter_figure(comparison, effect.parameter, name_of(effect.parameter)),
            f"{name_of(effect.parameter)}: no figure, no completed run at the budget.",
        )
        section.add(
            tables.effect_table(effect),
            f"{name_of(effect.parameter)}: {effect.verdict}; {effect.note or 'no values'}.",
        )
    return section


def autoencoder_section(table: RunTable) -> Section:
    section = Section("autoencoder", "Autoencoder")
    if table.autoencoders.empty and table.kl_per_dim.empty:
        section.notes.append("No run of this study recorded an autoencoder.")
        return section
    for picture in plots_parameters.noise_figures(table.autoencoders):
        section.add(picture)
    section.add(plots_parameters.kl_figure(table.kl_per_dim))
    section.add(plots_parameters.std_figure(table.kl_per_dim))
    section.add(tables.autoencoder_table(table.autoencoders))
    return section


def correlation_section(comparison: Comparison) -> Section:
    section = Section("correlation", "BrierLM and cross-entropy")
    result = correlate(comparison.evaluations)
    if result.num_zero:
        section.notes.append(
            f"{result.num_zero} checkpoints with a BrierLM of 0 are left out: it is cut off there."
        )
    if result.note:
        section.notes.append(result.note[0].upper() + result.note[1:] + ".")
    section.add(plots.correlation_figure(result))
    section.add(tables.correlation_table(result))
    return section


def importance_section(info: StudyInfo) -> Section:
    section = Section("importance", "Parameter importance")
    importance, complete = info.summary.get("importance"), info.summary.get("num_complete")
    note = str(info.summary.get("importance_note") or "")
    if not info.summary:
        section.notes.append("The study has not written a summary yet, so there is no importance to show.")
    elif complete is None or int(complete) < MIN_TRIALS:
        done = "an unknown number of" if complete is None else str(int(complete))
        section.notes.append(
            f"Withheld: {done} complete trials, and below {MIN_TRIALS} an importance says more about chance than "
            "about the parameters."
        )
        return section
    elif not importance:
        section.notes.append("The study recorded no importance.")
    else:
        values = {str(name): float(value) for name, value in importance.items()}
        section.add(plots.importance_figure(values, {name: name_of(name) for name in values}))
    if note:
        section.notes.append(note)
    return section


def orders_section(comparison: Comparison, places: list[Standing], floors: pd.DataFrame) -> Section:
    section = Section("orders", "Scores by order")
    section.add(plots.orders_figure(comparison, floors))
    section.add(tables.orders_table(comparison, places, floors), "No run completed at the budget.")
    if floors.empty:
        section.notes.append("No n-gram floors were recorded for this evaluation.")
    return section


def cost_section(comparison: Comparison) -> Section:
    section = Section("cost", "Cost")
    for make in (plots.cost_figure, plots.speed_figure, plots.inference_figure, plots.time_figure):
        section.add(make(comparison))
    if not section.pictures:
        section.notes.append("No run completed at the budget.")
    return section


def checks_section(table: RunTable, comparison: Comparison) -> Section:
    section = Section("checks", "Sensitivity checks")
    section.add(
        tables.checks_table(table, comparison),
        "The study has no sensitivity check, so how far it depends on the learning rate is not known.",
    )
    return section


def runs_section(table: RunTable, comparison: Comparison) -> Section:
    section = Section("runs", "Runs")
    section.add(tables.runs_table(table.runs, comparison.parameters), "The study has no runs yet.")
    if comparison.left_out:
        rows: list[list[Cell]] = [[name, reason] for name, reason in comparison.left_out]
        section.add(Table("left_out", "Not in the comparison at the budget.", ["run", "why"], rows))
    return section


def rules_section(table: RunTable, comparison: Comparison) -> Section:
    section = Section("rules", "Evaluation and rules")
    section.notes += [
        f"Evaluation fingerprint: {comparison.fingerprint or 'none'}. Only scores with the same fingerprint "
        "(text, tokenizer, context, positions, samples) are compared.",
        f"Compared at {comparison.budget or 'no budget'}, {PHASES.get(comparison.phase, 'no end point')}. "
        "Points at constant rate and ends of decays are never mixed.",
        "Compute is counted as executed. The autoencoder's training is recorded apart; where it is added, it is "
        "charged in full to every run, although runs share autoencoders.",
        "Intervals are at 95 %. Differences of single runs add both evaluation errors as if independent, although "
        "both were scored at the same positions: they are wider than paired intervals.",
        "Sensitivity checks are in no comparison, figure or frontier but their own table.",
    ]
    finals = comparison.finals
    varying = [c for c in table.config_columns if finals[c].astype(object).map(plain).nunique() > 1]
    same = [
        c for c in table.config_columns if c not in varying and len(finals) and plain(finals[c].iloc[0]) != "–"
    ]
    rows: list[list[Cell]] = [[name, plain(finals[name].iloc[0])] for name in same]
    section.add(Table("common", "What all compared runs have in common.", ["setting", "value"], rows))
    return section

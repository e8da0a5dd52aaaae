"""The sections of the report. Each copes with there being nothing to show and says so."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from analysis import (
    plots,
    plots_bottleneck,
    plots_correlation,
    plots_parameters,
    tables,
    tables_correlation,
    tables_quality,
)
from analysis.ablation import Effect
from analysis.comparison import Comparison
from analysis.correlation import Correlation
from analysis.naming import setting_names
from analysis.samples import Sample
from analysis.style import Picture
from analysis.table import RunTable, StudyInfo
from analysis.texts import Part
from analysis.verdict import Standing, pairing_words
from analysis.words import PHASES, Cell, Table, name_of, plain
from workbench.bottleneck_words import where_lost
from workbench.diagnostics import SEEN_TEXT

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
    samples: list[Sample] = field(default_factory=list)
    frames: dict[str, pd.DataFrame] = field(default_factory=dict)
    """Written under data/ as CSV and Parquet, by file name."""

    @property
    def empty(self) -> bool:
        return not (self.pictures or self.tables or self.samples)

    def add(self, item: Picture | Table | None, otherwise: str = "") -> None:
        if isinstance(item, Picture):
            self.pictures.append(item)
        elif isinstance(item, Table) and item.rows:
            self.tables.append(item)
        elif otherwise:
            self.notes.append(otherwise)


def key_section(table: RunTable, parts: list[Part], shown: Part) -> Section:
    """Of all texts; what is said about the kinds of points is of the one ``shown``."""
    section, comparison = Section("key-numbers", "Key numbers"), shown.comparison
    section.add(tables.key_numbers(parts), "No run completed at the budget.")
    section.notes += [
        f"{part.text}: no run completed at the budget." for part in parts if len(parts) > 1 and not part.places
    ]
    if not (comparison.evaluations["brierlm"] > 0).any():
        section.notes.append("No checkpoint has a BrierLM above 0, so there is no frontier.")
    phases = set(comparison.evaluations["phase"])
    if len(comparison.evaluations) and "decayed" not in phases:
        section.notes.append("No run ended with a decay of its rate: all frontier points are at constant rate.")
    if len(comparison.evaluations) and "constant" not in phases:
        section.notes.append("No checkpoint was taken at constant rate: all frontier points are ends of decays.")
    section.add(tables.settings_table(parts, table.config_columns))
    return section


def effects_section(comparison: Comparison, found: list[Effect]) -> Section:
    section = Section("parameters", "Effect of each parameter")
    if not found:
        section.notes.append("No parameter was searched or varied.")
        return section
    section.notes.append(
        "The score is the study's objective: BrierLM, or a smooth score on the same scale where an order of "
        "it lies within two of its errors of 0. A setting is all runs that differ only in their seed. Differences "
        "are adjusted for the other parameters (additive fit over settings) and corrected for all pairs of "
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


def correlation_section(results: list[Correlation]) -> Section:
    """Text by text."""
    section = Section("correlation", "BrierLM and cross-entropy")
    if not results:
        section.notes.append("No token baseline was evaluated, so there is no cross-entropy to compare with.")
        return section
    for note in dict.fromkeys(result.note for result in results if result.note):
        where = [result.text for result in results if result.note == note]
        listed = f" ({'; '.join(where)})" if len(results) > 1 else ""
        section.notes.append(f"{note[0].upper()}{note[1:]}{listed}.")
    if any(result.num_left_out for result in results):
        section.notes.append(
            "Checkpoints are left out where BrierLM is 0 or one of its orders lies within three of its errors of "
            "0: there it is cut off or mostly noise."
        )
    if any(result.fit is not None and result.fit.pearson.low is not None for result in results):
        section.notes.append(
            "The intervals say what other runs like these would give: checkpoints of one run share its size and "
            "seed, so runs are left out whole. They do not speak about other texts, nor about the "
            "evaluation's own error, which all runs of a text share."
        )
    section.add(plots_correlation.correlation_figure(results))
    section.add(plots_correlation.coefficients_figure(results))
    section.add(plots_correlation.bits_figure(results))
    section.add(tables_correlation.correlation_table(results))
    section.add(tables_correlation.bootstrap_table(results))
    section.add(tables_correlation.checkpoints_table(results))
    return section


def bottleneck_section(table: RunTable, comparison: Comparison) -> Section:
    """Best run of each K (or head, ...) that holds a panel."""
    section, dimension = Section("bottleneck", "Where the quality is lost"), comparison.dimension
    panels, absent = {}, []
    for key, runs in dimension.groups(comparison.calm):
        best = comparison.best(runs)
        if best is not None and best["run_id"] in table.panels:
            panels[dimension.name(key)] = table.panels[best["run_id"]]
        else:
            absent.append(dimension.name(key))
    if comparison.calm.empty:
        section.notes.append("No CALM run completed at the budget; a token baseline has no such parts.")
    elif not panels:
        section.notes.append(
            "The best runs recorded no bottleneck panel (they were trained before there was one), so this study "
            "does not say where their quality is lost."
        )
    elif absent:
        section.notes.append(f"{', '.join(absent)}: the best run recorded no panel.")
    section.notes += [f"{name}: {where_lost(panel)}" for name, panel in panels.items()]
    section.add(plots_bottleneck.bottleneck_figure(panels, dimension.noun))
    section.add(tables_quality.bottleneck_table(panels, dimension.noun))
    return section


def importance_section(info: StudyInfo) -> Section:
    section = Section("importance", "Parameter importance")
    importance, complete = info.summary.get("importance"), info.summary.get("num_complete")
    note = str(info.summary.get("importance_note") or "")
    if info.spec and not info.parameters:
        section.notes.append("The study searched no parameter.")
        return section
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
    section.add(tables_quality.precision_table(places))
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


def runs_section(table: RunTable, parts: list[Part]) -> Section:
    section = Section("runs", "Runs")
    parameters = list(dict.fromkeys(name for part in parts for name in part.comparison.parameters))
    names = setting_names(table.runs, parameters, table.config_columns)
    section.add(tables.runs_table(table.runs, names), "The study has no runs yet.")
    left_out = [item for part in parts for item in part.comparison.left_out]
    if left_out:
        rows: list[list[Cell]] = [[name, reason] for name, reason in left_out]
        section.add(Table("left_out", "Not in the comparison at the budget.", ["run", "why"], rows))
    return section


def rules_section(table: RunTable, parts: list[Part], shown: Part) -> Section:
    section, comparison, several = Section("rules", "Evaluation and rules"), shown.comparison, len(parts) > 1
    prints = [f"{f'{part.text}: ' if several else ''}{part.comparison.fingerprint or 'none'}" for part in parts]
    section.notes += [
        f"Evaluation fingerprint{'s' if several else ''}: {'; '.join(prints)}. Only scores with the same "
        "fingerprint (text, tokenizer, context, positions, samples) are compared.",
        *[f"Text seen in training{f', {part.text}' if several else ''}: {_seen(part)}." for part in parts],
        f"Compared at {comparison.budget or 'no budget'}, {PHASES.get(comparison.phase, 'no end point')}"
        f"{f' ({shown.text})' if several else ''}. "
        "Points at constant rate and ends of decays are never mixed.",
        "Compute is counted as executed. The autoencoder's training is recorded apart; where it is added, it is "
        "charged in full to every run, although runs share autoencoders.",
        "Intervals are at 95 %, those of differences corrected for all comparisons that are looked at together. "
        f"{pairing_words(comparison)} The best setting is the one with the highest mean over its seeds (of the "
        "objective, where no BrierLM can be told from 0), the best run the highest of its seeds.",
        "Sensitivity checks are in no comparison, figure or frontier but their own table.",
    ]
    finals = comparison.finals
    varying = [c for c in table.config_columns if finals[c].astype(object).map(plain).nunique() > 1]
    same = [
        c for c in table.config_columns if c not in varying and len(finals) and plain(finals[c].iloc[0]) != "–"
    ]
    rows: list[list[Cell]] = [[name, plain(finals[name].iloc[0])] for name in same]
    on = f" on {shown.text}" if several else ""
    section.add(Table("common", f"What all compared runs{on} have in common.", ["setting", "value"], rows))
    return section


def _seen(part: Part) -> str:
    """Of the run with the largest share: runs of one evaluation differ only in how many windows they drew."""
    runs = part.comparison.finals.sort_values("overlap_token_share", ascending=False, kind="stable")
    return tables_quality.overlap_words(runs.iloc[0]) if len(runs) else "no run completed at the budget"


def seen_words(parts: list[Part]) -> list[str]:
    """A warning for every text of which more than the tolerated share may have been learnt by heart."""
    return [
        f"{part.text}: {_seen(part)}. BrierLM rewards recall there."
        for part in parts
        if (part.comparison.finals["overlap_token_share"] > SEEN_TEXT).any()
    ]

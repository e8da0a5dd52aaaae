"""The sections about what differs from what, and through how much noise that is seen."""

from __future__ import annotations

import itertools
import math

import pandas as pd

from analysis import plots_noise
from analysis.claims import ControlledPair, num_group_claims
from analysis.comparison import Comparison, noise_of, ranking
from analysis.noise import Needed, NoiseFloor, noise_floor
from analysis.sections import Section
from analysis.stats import BETTER, WORSE
from analysis.verdict import Standing
from analysis.words import (
    MISSING,
    Cell,
    Table,
    difference_words,
    interval,
    name_of,
    number,
    plain,
    value_words,
    whole,
)
from workbench.seeds import MAX_SEEDS

MAX_PAIRS = 40
"""Controlled pairs in the report; of more only those that are decided or touch the best CALM setting."""


TOO_MANY = f"more than {MAX_SEEDS:,}"


def compared_section(comparison: Comparison, places: list[Standing], pairs: list[ControlledPair]) -> Section:
    section = Section("compared", "Settings compared")
    if not places:
        section.notes.append("No run completed at the budget.")
        return section
    if len(comparison.settings) > 1:
        section.notes.append(
            "A setting is all runs that differ only in their seed; it counts with the mean over its seeds."
            if comparison.noise
            else "Training noise is not in these intervals: they rank the trained models, not their settings."
        )
    section.notes += _floor_note(comparison, places)
    section.add(
        groups_table(comparison, places),
        f"{_group_name(places[0])[0].upper()}{_group_name(places[0])[1:]} only: there is no other group to "
        "compare with.",
    )
    if not comparison.calm.empty:
        section.add(
            pairs_table(comparison, pairs),
            "No two CALM settings differ in exactly one searched parameter, so there are no controlled pairs.",
        )
    return section


def _floor_note(comparison: Comparison, places: list[Standing]) -> list[str]:
    gaps = [gap for place in places for gap in place.floors.values()]
    if not gaps:
        return []
    how = "at the positions that it was scored on"
    if any(gap.unpaired for gap in gaps):
        how += ", some without pairs because the scores by position are missing"
    return [
        f"Key numbers hold the best run of each {comparison.dimension.noun} and of the baselines against n-gram "
        f"tables {how}. That is about the trained model; it is corrected for "
        f"{_comparisons(gaps[0].comparisons)}, since every run could have been the best one."
    ]


def _what(comparison: Comparison) -> str:
    return "setting" if comparison.noise else "trained model"


def groups_table(comparison: Comparison, places: list[Standing]) -> Table:
    """The best setting of every K (or head, ...) and of the baselines against each other."""
    rows: list[list[Cell]] = []
    rank = ranking([place.setting for place in places])
    ranked = sorted(places, key=lambda place: rank(place.setting))
    for first, second in itertools.combinations(ranked, 2):
        gap = first.gaps[second.key]
        rows.append(
            [
                _group_name(first),
                _group_name(second),
                f"{first.setting.num_seeds}, {second.setting.num_seeds}",
                difference_words(gap),
                gap.verdict,
            ]
        )
    num = num_group_claims(comparison)
    caption = f"The best {_what(comparison)} of each against the best of every other: above it only if above all "
    caption += f"of the other's. Intervals are corrected for {_comparisons(num)}, the choice of the best included."
    columns = ["best of", "against best of", "seeds", "difference [95 %]", "the first is"]
    return Table("groups", caption, columns, rows, frozenset({2, 3}))


def _group_name(place: Standing) -> str:
    return "token baselines" if place.key is None else place.name


def _comparisons(num: int) -> str:
    return f"{num} comparison{'' if num == 1 else 's'}"


def pairs_table(comparison: Comparison, pairs: list[ControlledPair]) -> Table:
    """Pairs of settings that differ in exactly one searched parameter."""
    shown = pairs if len(pairs) <= MAX_PAIRS else _telling(comparison, pairs)
    rows: list[list[Cell]] = []
    for pair in shown:
        rows.append(
            [
                name_of(pair.parameter),
                *_change(comparison, pair),
                f"{pair.first.num_seeds}, {pair.second.num_seeds}",
                difference_words(pair.difference),
                pair.difference.verdict,
            ]
        )
    num = max([len(pairs), *(pair.difference.comparisons for pair in pairs)])
    caption = f"Controlled pairs: {_what(comparison)}s that differ in one parameter and agree in all others that "
    caption += f"were searched. Intervals are corrected for {_comparisons(num)}."
    if len(pairs) < num:
        caption += (
            f" There are {num:,} such pairs: only those with the best {_what(comparison)} of a group are compared."
        )
    if len(shown) < len(pairs):
        caption += f" {len(shown)} of {len(pairs)} are shown, those with a decision or with the best setting; all "
        caption += "are in data/controlled_pairs.csv."
    columns = ["parameter", "change", "at", "seeds", "difference [95 %]", "the second is"]
    return Table("controlled_pairs", caption, columns, rows, frozenset({3, 4}))


def _change(comparison: Comparison, pair: ControlledPair) -> list[Cell]:
    """``energy, quadric → flow``, and what both have: the rest of their names."""
    runs = [setting.runs.iloc[0] for setting in (pair.first, pair.second)]
    named = [[name for name in comparison.names.of(run) if name != pair.parameter] for run in runs]
    common = [name for name in named[0] if name in named[1]]
    values = []
    for run, names in zip(runs, named, strict=True):
        own = [value_words(name, run[name]) for name in names if name not in common]
        values.append(", ".join([plain(run[pair.parameter]), *own]))
    at = ", ".join(value_words(name, runs[0][name]) for name in common)
    return [f"{values[0]} → {values[1]}", at or MISSING]


def _telling(comparison: Comparison, pairs: list[ControlledPair]) -> list[ControlledPair]:
    best = comparison.best(comparison.calm)
    top = "" if best is None else str(best["run_id"])
    return [
        pair
        for pair in pairs
        if pair.difference.verdict in (BETTER, WORSE) or top in [*pair.first.run_ids, *pair.second.run_ids]
    ]


def pairs_frame(comparison: Comparison, pairs: list[ControlledPair]) -> pd.DataFrame:
    """One row a controlled pair, with the values of all parameters; second minus first."""
    columns = ["parameter", "first_value", "second_value", "first_run", "second_run", "first_seeds"]
    columns += ["second_seeds", "difference", "low", "high", "comparisons", "unpaired", "verdict"]
    rest = [f"at {name}" for name in comparison.parameters]
    rows = []
    for pair in pairs:
        first, second, gap = pair.first.runs.iloc[0], pair.second.runs.iloc[0], pair.difference
        row: list[object] = [pair.parameter, plain(first[pair.parameter]), plain(second[pair.parameter])]
        row += [first["run_id"], second["run_id"], pair.first.num_seeds, pair.second.num_seeds]
        row += [gap.value, gap.low, gap.high, gap.comparisons, gap.unpaired, gap.verdict]
        at = [MISSING if name == pair.parameter else plain(first[name]) for name in comparison.parameters]
        rows.append([*row, *at])
    return pd.DataFrame(rows, columns=[*columns, *rest])


# ---- noise ---------------------------------------------------------------------------------------------


def noise_section(comparison: Comparison, places: list[Standing], pairs: list[ControlledPair]) -> Section:
    section = Section("noise", "Noise")
    if not places:
        section.notes.append("No run completed at the budget.")
        return section
    gaps = [pair.difference for pair in pairs] or [gap for place in places for gap in place.gaps.values()]
    found = noise_floor(comparison, gaps, comparisons=num_group_claims(comparison))
    if found is None:
        section.notes.append(
            "No completed setting with orders clear of 0 was repeated with another seed, so neither the noise of "
            "training is known nor how small a difference between settings this study could show. `--seeds 3` "
            "trains every setting three times."
        )
        return section
    section.notes += _noise_words(comparison, found)
    section.add(plots_noise.seeds_figure(comparison))
    section.add(_noise_table(comparison, found))
    section.add(_needed_table(found))
    return section


def _noise_words(comparison: Comparison, found: NoiseFloor) -> list[str]:
    noise, seeds = found.noise, _seeds(found.num_seeds)
    words = [
        f"Between seeds of one setting BrierLM scatters by {number(noise.sd)} (standard deviation, 95 % interval "
        f"{interval(noise.low, noise.high)}), pooled over {_settings(noise.num_settings)} with "
        f"{noise.num_settings + noise.dof} runs; it is taken to be the same for all settings."
    ]
    if not comparison.noise_is_split:
        words.append(
            "How much of it is the evaluation's own is not known: the repeated runs did not keep their scores "
            "position by position."
        )
    words.append(
        f"Noise floor: between two settings with {seeds} each this study could show a true difference of "
        f"{number(found.smallest)} BrierLM with a chance of 80 % if it were the only comparison, and of "
        f"{number(found.smallest_corrected)} among its {_comparisons(found.comparisons)} of "
        f"{comparison.dimension.plural} and baselines. "
        "Smaller ones are mostly called indistinguishable."
    )
    return words


def _seeds(num: int) -> str:
    return f"{num} seed{'' if num == 1 else 's'}"


def _noise_table(comparison: Comparison, found: NoiseFloor) -> Table:
    noise = found.noise
    own = noise.sd_evaluation**2
    ends = [math.sqrt(max(0.0, end**2 - own)) for end in (noise.low, noise.high)]
    rows: list[list[Cell]] = [["between seeds of one setting", number(noise.sd, 3), _ends(noise.low, noise.high)]]
    if comparison.noise_is_split:
        rows.append(["of it training", number(noise.sd_training, 3), _ends(*ends)])
        rows.append(["of it evaluation, as far as seeds do not share it", number(math.sqrt(own), 3), MISSING])
    for kind in comparison.noise_kinds if len(comparison.noise_kinds) > 1 else ():
        one, _ = noise_of([s for s in comparison.settings if s.kind == kind], comparison.paired)
        name = "CALM" if kind == "calm" else "token baselines"
        if one is not None:
            rows.append([f"between seeds, {name} alone", number(one.sd, 3), _ends(one.low, one.high)])
    if found.position_sd > 0:
        tau = number(found.position_sd, 3)
        rows.append(["positions, in the difference of two settings (median)", tau, MISSING])
    degrees = "1 degree" if noise.dof == 1 else f"{noise.dof} degrees"
    caption = f"Noise in BrierLM points, from {_settings(noise.num_settings)} with several seeds ({degrees} of "
    caption += "freedom). More seeds average out the noise between seeds, more text that of positions."
    return Table("noise", caption, ["noise", "standard deviation", "95 % interval"], rows, frozenset({1, 2}))


def _ends(low: float, high: float) -> str:
    return interval(low, high, 3)


def _settings(num: int) -> str:
    return f"{num} setting{'' if num == 1 else 's'}"


def _needed_table(found: NoiseFloor) -> Table:
    """Without the columns about more text where seeds alone do."""
    rows: list[list[Cell]] = [[plain(row.difference), *_needed_words(row)] for row in found.needed]
    caption = "What it takes to show a true difference between two settings with a chance of 80 %, as the only "
    caption += "comparison."
    where = f" at {whole(found.num_positions)} positions" if found.num_positions else ""
    columns = ["difference (BrierLM)", f"seeds of each{where}", "else, positions", "and seeds of each"]
    if all(row.positions is None for row in found.needed):
        columns, rows = columns[:2], [row[:2] for row in rows]
    return Table("needed", caption, columns, rows, frozenset(range(len(columns))))


def _needed_words(row: Needed) -> list[Cell]:
    if row.seeds is not None:
        return [str(row.seeds), MISSING, MISSING]
    if row.positions is None:
        return [TOO_MANY, MISSING, MISSING]
    then = TOO_MANY if row.seeds_then is None else str(row.seeds_then)
    return ["seeds do not suffice", f"{row.positions:,}", then]

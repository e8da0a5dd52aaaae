"""The sections about sampling: network calls, samplers, texts. None where no run recorded any of it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis import plots_calls, plots_samplers, tables_sampling
from analysis.calls import CallLine, Ranked, call_lines, calls_words, mean_words, point_words, ranked
from analysis.comparison import Comparison
from analysis.samplers import SOFTMAX, Compared, Row, compare_samplers, panels
from analysis.samples import choose, sample_of, unfinished
from analysis.scores import bounds
from analysis.sections import Section
from analysis.stats import BETTER, SAME, WORSE
from analysis.table import RunTable
from analysis.texts import Part
from analysis.words import MISSING, difference_words, flops, listed, number, plus_minus

MAX_NAMED = 4
"""Settings that a sentence lists."""
MAX_PANELS = 8
"""Settings whose samplers are compared; the best ones of more."""


def calls_section(table: RunTable, comparison: Comparison) -> Section | None:
    lines = call_lines(comparison, table.calls)
    if not lines:
        return None
    section = Section("network-calls", "Network calls when sampling")
    found = ranked(lines, comparison)
    section.notes += rank_words(found)
    if _above_zero(found):
        section.notes += [*enough_words(lines), *_noise_words(found, comparison)]
    for picture in (plots_calls.calls_figure(lines), plots_calls.call_flops_figure(lines, comparison)):
        section.add(picture)
    baselines = plots_calls.baseline_points(comparison)
    best = None
    if len(baselines):
        best = float(baselines.sort_values("brierlm")["infer_flops_per_token"].iloc[-1])
    section.add(tables_sampling.calls_table(lines, found, best))
    section.add(tables_sampling.call_points_table(lines))
    return section


def verdict_words(table: RunTable, comparison: Comparison) -> list[str]:
    """What the verdict says about sampling: the best head by network calls, how few calls each needs, and the
    samplers of the best setting that was compared."""
    lines = call_lines(comparison, table.calls)
    found = ranked(lines, comparison)
    words = []
    if len(found) > 1 or any(len(line.points) > 1 for line in lines):
        words = rank_words(found)
        words += enough_words([one.line for one in found]) if _above_zero(found) else []
    compared = compare_samplers(panels(comparison, table.tradeoffs)[:1])
    return words + [sentence for one in compared for sentence in equal_words(one)]


def rank_words(found: Sequence[Ranked]) -> list[str]:
    """Which setting scores highest with how many calls, and whether the others can be told from it."""
    first, *rest = found
    if not _above_zero(found):
        return ["No setting has a BrierLM that can be told from 0 with any number of network calls."]
    top = first.line
    flop = float(top.best["infer_flops_per_token"])
    price = f" ({flops(flop)} FLOPs a token)" if flop > 0 else ""
    lead = f"{_cap(top.name)}{' scores highest' if rest else ''}, {point_words(top.best)}{price}."
    parts = []
    for verdict, words in ((WORSE, "worse"), (SAME, "indistinguishable from it"), (None, "not to be decided")):
        there = [one for one in rest if one.difference and _verdict(one) == verdict]
        named = [
            f"{one.line.name} with {calls_words(one.line.best['network_calls'])} "
            f"(difference {difference_words(one.difference)})"
            for one in there
            if one.difference
        ]
        if len(named) > MAX_NAMED:
            named = [*named[: MAX_NAMED - 1], f"{len(named) - MAX_NAMED + 1} others"]
        if named:
            parts.append(f"{words}: {listed(named)}")
    return [f"{lead} {_cap('; '.join(parts))}." if parts else lead]


def _above_zero(found: Sequence[Ranked]) -> bool:
    best = found[0].line
    return not bounds(best.points).all() and float(best.best["brierlm"]) > 0


def _verdict(one: Ranked) -> str | None:
    assert one.difference is not None
    verdict = one.difference.verdict
    return verdict if verdict in (BETTER, WORSE, SAME) else None


def enough_words(lines: Sequence[CallLine]) -> list[str]:
    """The cheapest number of calls within one error of each line's best."""
    found = []
    for line in lines:
        if len(line.points) < 2:
            continue
        best, enough, most = line.best, line.enough, int(line.points["network_calls"].max())
        if bounds(line.points).all() or not best["brierlm"] > 0:
            found.append(f"{_cap(line.name)}: cannot be told from 0 with any number of calls up to {most}.")
            continue
        num = int(enough["network_calls"])
        if num < int(best["network_calls"]):
            words = (
                f"reaches its score with about {calls_words(num)}: {mean_words(enough)}, within one error of its "
            )
            words += f"best, {point_words(best)}"
        elif num == most:
            words = (
                f"is at its best with the most calls that were tried, {point_words(best)}: more may help further"
            )
        elif num == int(line.points["network_calls"].min()):
            words = f"is at its best with the fewest calls that were tried, {point_words(best)}"
        else:
            words = f"is at its best, {point_words(best)}: fewer are worse by more than an error"
        found.append(f"{_cap(line.name)} {words}.")
    return found


def _noise_words(found: Sequence[Ranked], comparison: Comparison) -> list[str]:
    gap = next((one.difference for one in found if one.difference is not None), None)
    if gap is None:
        return []
    how = "of these differences the errors are those of the last evaluations of the same models, which did"
    if any(one.difference.unpaired for one in found if one.difference is not None):
        how = (
            "differences marked unpaired add both errors as if independent, the others take theirs from the last "
        )
        how += "evaluations of the same models"
    noise = "the noise between seeds as measured there is in the intervals"
    if comparison.noise is None:
        noise = "no setting was repeated with another seed, so the intervals hold the evaluation's noise only"
    num = f"{gap.comparisons} comparison{'' if gap.comparisons == 1 else 's'}"
    return [
        f"Points by network calls kept no scores position by position: {how}. They are corrected for {num}, the "
        f"choice of the best points included; {noise}."
    ]


def _cap(words: str) -> str:
    return words[:1].upper() + words[1:]


# ---- samplers -------------------------------------------------------------------------------------------


def samplers_section(table: RunTable, comparison: Comparison) -> Section | None:
    everything = panels(comparison, table.tradeoffs)
    found = everything[:MAX_PANELS]
    if not found:
        return None
    section = Section("samplers", "Samplers")
    compared = compare_samplers(found)
    section.notes += [words for one in compared[: plots_samplers.MAX_PANELS] for words in equal_words(one)]
    section.notes += _interval_words(compared)
    if len(found) < len(everything):
        section.notes.append(
            f"The best {len(found)} of {len(everything)} settings; all are in data/tradeoffs.csv."
        )
    section.add(plots_samplers.tradeoff_figure(found))
    section.add(plots_samplers.sampler_time_figure(found))
    section.add(tables_sampling.equal_collision_table(compared))
    section.add(tables_sampling.sampler_cost_table(found))
    return section


def equal_words(one: Compared) -> list[str]:
    """Who is right more often at equal collision."""
    name = _cap(one.panel.name)
    if len(one.rows) < 2:
        return []
    if one.level is None:
        return [f"{name}: no two samplers share a collision rate, so none can be compared."]
    there = sorted((row for row in one.rows if row.reading), key=lambda row: -_accuracy(row))
    ranked_words = [f"{row.curve.name} {_read_words(row)}" for row in there]
    words = f"{name}, where two draws agree in {number(one.level, 1)} % of cases, a draw is right by "
    sentences = [f"{words}{listed(ranked_words)}."]
    for reference, gaps in (
        ("exact sampling", [(row, row.to_exact) for row in there if row.curve.sampler != SOFTMAX]),
        ("the baseline's softmax", [(row, row.to_softmax) for row in there]),
    ):
        known = [(row.curve.name, gap.verdict) for row, gap in gaps if gap is not None]
        parts = []
        for verdict, said in ((BETTER, "above"), (WORSE, "below"), (SAME, "indistinguishable from")):
            names = [name for name, found in known if found == verdict]
            if names:
                who = "all others" if len(names) == len(known) > 2 else listed(names)
                parts.append(f"{who} {'is' if len(names) == 1 else 'are'} {said} {reference}")
        if parts:
            sentences.append(f"{_cap('; '.join(parts))}.")
    return [" ".join(sentences)]


def _accuracy(row: Row) -> float:
    assert row.reading is not None
    return row.reading.accuracy


def _read_words(row: Row) -> str:
    return MISSING if row.reading is None else f"{plus_minus(row.reading.accuracy, row.reading.error, 1)} %"


def _interval_words(compared: Sequence[Compared]) -> list[str]:
    gaps = [gap for one in compared for row in one.rows for gap in (row.to_exact, row.to_softmax) if gap]
    if not gaps:
        return []
    seeds = any(len(row.curve.runs) > 1 for one in compared for row in one.rows)
    noise = "the scatter between seeds is in them" if seeds else "without the noise of training: of single seeds"
    return [
        f"Curves are read linearly between measured points. Differences count the errors of both curves as if "
        f"independent, in both directions, and are corrected for {gaps[0].comparisons} "
        f"comparison{'' if gaps[0].comparisons == 1 else 's'}; {noise}."
    ]


# ---- texts ----------------------------------------------------------------------------------------------


def samples_section(table: RunTable, parts: Sequence[Part]) -> Section | None:
    """The last text of the best run of a few settings, and how it developed."""
    samples = table.samples
    if samples.empty:
        return None
    section = Section("samples", "Samples")
    for part in parts:
        comparison = part.comparison
        for run in choose(comparison, samples):
            title = _title(comparison, run, part.text if len(parts) > 1 else "")
            section.samples.append(sample_of(run, samples, table.evaluations, title))
    if section.empty:
        section.notes.append("No run that is compared kept a text: these are of runs that are not.")
        for run in unfinished(table.runs, samples):
            section.samples.append(sample_of(run, samples, table.evaluations, str(run["setting"])))
    section.notes.insert(
        0,
        "What the best runs write, after the same prompt at every evaluation: one draw each, to look at, not to "
        "measure by. Characters that cannot be seen are shown as numbers; long texts are cut.",
    )
    return section


def _title(comparison: Comparison, run: pd.Series, text: str) -> str:
    words = comparison.names.words(run)
    name = f"Token baseline, {words}" if run["kind"] == "baseline" else words
    if name == MISSING:
        name = comparison.dimension.name(comparison.dimension.key(run))
    return f"{text}: {name}" if text else _cap(name)

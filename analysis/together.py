"""Several studies on one page: each one's question, verdict and key numbers, and what may be compared across them.

Scores are put side by side only under one evaluation fingerprint, and called better or worse only within a study:
across studies budgets, schedules and rules may differ, and the table says where they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from analysis import plots, report, style, tables
from analysis.comparison import ROLES, compare
from analysis.files_written import Content, require_place, table_frames, write_content
from analysis.page import render
from analysis.places import keep_owner, place_beside
from analysis.scores import bound_note, score_words
from analysis.sections import Section
from analysis.table import RunTable, choose_studies, load_runs
from analysis.verdict import Verdict
from analysis.words import MISSING, PHASES, Cell, Table, flops, listed
from workbench.errors import StudyError


@dataclass(frozen=True)
class Member:
    """One study of the page."""

    name: str
    table: RunTable
    found: report.Found
    verdict: Verdict
    counts: str
    key: Table


def write_together(home: Path | str, studies: list[str] | None, out: Path | str | None = None) -> report.Written:
    """One page on several studies, in ``out`` or ``reports/together`` beside ``home``.

    Raises StudyError for fewer than two studies or an unknown one, OutputError as ``write_reports``."""
    home = Path(home).resolve()
    chosen = choose_studies(home, studies)
    if len(chosen) < 2:
        raise StudyError(
            f"--together compares several studies, given {listed(chosen)}; name at least two: "
            "`calm report A B --together`"
        )
    folder, note = place_beside(home, "together") if out is None else (Path(out).resolve(), None)
    require_place(folder)  # before anything slow
    members = [_member(home, name) for name in chosen]
    everything = load_runs(home, chosen)
    html = write_content(build(members, everything), folder)
    if out is None:
        keep_owner(home, folder)
    return report.Written(" and ".join(chosen), html, [*everything.warnings, *([note] if note else [])])


def _member(home: Path, name: str) -> Member:
    table = load_runs(home, [name])
    found = report.find(table, name, with_pictures=False)
    key = tables.key_numbers(found.parts)
    return Member(
        name,
        table,
        found,
        report.with_summary(report.verdict_of(found), found),
        report.counts(table.runs),
        replace(key, name=f"key_{name}"),
    )


def build(members: Sequence[Member], everything: RunTable) -> Content:
    """The page; ``everything``: the runs of all members in one table."""
    sections = [_evaluations_section(members)]
    with style.house_style():
        sections += _joint_sections(members, everything)
    pictures = [picture for section in sections for picture in section.pictures]
    html = render("together.html.j2", pictures=pictures, members=members, sections=sections)
    made = [member.key for member in members if member.key.rows]
    made += [item for section in sections for item in section.tables]
    return Content(html, pictures, made, table_frames(everything))


def shared_fingerprints(evaluations: pd.DataFrame) -> dict[str, list[str]]:
    """Studies by evaluation fingerprint, the fingerprint of most studies first."""
    scored = evaluations[evaluations["role"].isin(ROLES)]
    found = {
        str(name): list(dict.fromkeys(rows["study"].astype(str)))
        for name, rows in scored.groupby("fingerprint", sort=True)
    }
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def _evaluations_section(members: Sequence[Member]) -> Section:
    section = Section("evaluations", "What may be compared")
    rows: list[list[Cell]] = []
    for member in members:
        for part in member.found.parts:
            for name, num in sorted(part.comparison.fingerprints.items()):
                rows.append([member.name, part.text, name, str(num)])
    caption = "Evaluation fingerprints (text, tokenizer, context, positions, samples) of each study's runs."
    section.add(
        Table("fingerprints", caption, ["study", "evaluated text", "fingerprint", "runs"], rows, frozenset({3}))
    )
    owners: dict[str, list[str]] = {}
    for row in rows:
        owners.setdefault(str(row[2]), []).append(str(row[0]))
    shared = {name: list(dict.fromkeys(studies)) for name, studies in owners.items()}
    alone = [member.name for member in members if all(len(s) < 2 for s in shared.values() if member.name in s)]
    if alone:
        section.notes.append(
            f"{listed(alone)}: evaluated in a way that no other of these studies shares, so no score of it stands "
            "beside theirs."
        )
    return section


def _joint_sections(members: Sequence[Member], everything: RunTable) -> list[Section]:
    """One for every fingerprint that at least two studies have."""
    found = []
    for number, (fingerprint, studies) in enumerate(shared_fingerprints(everything.evaluations).items(), start=1):
        if len(studies) < 2:
            continue
        ids = set(everything.evaluations.loc[everything.evaluations["fingerprint"] == fingerprint, "run_id"])
        table = replace(
            everything,
            runs=everything.runs[everything.runs["run_id"].isin(ids)],
            evaluations=everything.evaluations[everything.evaluations["fingerprint"] == fingerprint],
            floors=everything.floors[everything.floors["fingerprint"] == fingerprint],
        )
        section = Section(f"joint-{number}", f"Side by side: {listed(studies)}")
        section.notes.append(
            f"Evaluation fingerprint {fingerprint}. Every point is a checkpoint of one of these studies, coloured "
            "by chunk size. Budgets and schedules are those of each study: only rows that agree in both were "
            "given the same."
        )
        picture = plots.main_figure(compare(table), table.floors)
        if picture is not None:
            section.add(replace(picture, name=f"joint-{number}", data="evaluations.csv"))
        section.add(_joint_table(members, fingerprint, number))
        found.append(section)
    if not found:
        found.append(
            Section(
                "joint", "Side by side", ["No evaluation is shared by two of these studies: nothing is compared."]
            )
        )
    return found


def _joint_table(members: Sequence[Member], fingerprint: str, number: int) -> Table:
    rows: list[list[Cell]] = []
    shown: list[pd.Series] = []
    for member in members:
        for part in member.found.parts:
            comparison = part.comparison
            for place in part.places if comparison.fingerprint == fingerprint else ():
                best = place.best
                shown.append(best)
                own = comparison.name(place.setting)
                rows.append(
                    [
                        member.name,
                        place.name,
                        own if own != MISSING else "",
                        score_words(best),
                        comparison.budget,
                        PHASES.get(comparison.phase, comparison.phase),
                        flops(best["train_flops"]),
                        flops(best["infer_flops_per_token"]),
                        str(place.setting.num_seeds),
                    ]
                )
    columns = ["study", "group", "best setting", "BrierLM ± s.e.", "budget", "end points", "training FLOPs"]
    columns += ["inference FLOPs/token", "seeds"]
    caption = "The best setting of each group in each study, at that study's own budget." + bound_note(shown)
    return Table(f"joint_{number}", caption, columns, rows, frozenset({3, 6, 7, 8}))

"""The report: one self-contained HTML page, figures, data, LaTeX tables and a page a run.

Everything comes from the run folders and nothing from the clock, so two reports on the same runs are
the same byte for byte. A folder is written beside its place and swapped in when it is complete.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from analysis import plots, sections, sections_compared, sections_sampling, style, tables, texts
from analysis.ablation import Effect, effects
from analysis.budgets import AtBudget, by_budget
from analysis.claims import ControlledPair, controlled_pairs
from analysis.comparison import Comparison
from analysis.correlation import Correlation, answer, correlate
from analysis.correlation import details as correlation_details
from analysis.differences import differences_section
from analysis.downstream import Downstream, downstream
from analysis.external import published, read_external
from analysis.failures import failures_section
from analysis.failures import sentence as sentence_of_lost
from analysis.files_written import HTML, Content, require_place, table_frames, write_content
from analysis.page import render
from analysis.pages import page_names, run_pages
from analysis.places import keep_owner, place_beside
from analysis.power_law_report import PowerLawParts, power_law_section_parts
from analysis.scaling_report import ScalingParts, scaling_parts
from analysis.sections import Section
from analysis.sections_frontier import frontier_section, sections_external
from analysis.sections_scaling import (
    ASKS,
    budgets_section,
    downstream_section,
    power_section,
    scaling_section,
    with_recipes,
)
from analysis.summary import summarise
from analysis.table import RunTable, StudyInfo, choose_studies, load_runs
from analysis.texts import Part
from analysis.verdict import Verdict, headline
from analysis.words import Link, Table, mlflow_url
from workbench.errors import StudyError
from workbench.garbage import rare_collections

__all__ = ["HTML", "Content", "Written", "build", "write_report", "write_reports"]

CORRELATION = "correlation"
"""Name of the study whose question is the correlation."""
ALWAYS_SAID = ("key-numbers", "rules", "runs", "environment")
"""Sections that stay where they have nothing to show: a study without runs must say so."""


@dataclass(frozen=True)
class Written:
    """Where a report went, and what it had to leave out."""

    study: str
    html: Path
    warnings: list[str]


def write_reports(
    home: Path | str,
    studies: list[str] | None = None,
    out: Path | str | None = None,
    *,
    external: Sequence[Path] = (),
    reload: int | None = None,
) -> list[Written]:
    """A report for each study (default: all under ``home``).

    One study goes to ``out`` itself, several to a folder each below it; without ``out`` to
    ``reports/STUDY`` beside ``home`` (``analysis.places``). ``external``: files with anybody's results, shown
    beside the study's; ``reload``: seconds after which the page loads itself again. Raises StudyError for an
    unknown study and OutputError where nothing can be written or ``out`` holds something that is not a report."""
    home = Path(home).resolve()
    chosen = choose_studies(home, studies)
    places = {name: _place(home, name, out, alone=len(chosen) == 1) for name in chosen}
    for folder, _ in places.values():  # before anything slow: what cannot be is said at once
        require_place(folder)
    frames = _read_external(external)
    written = []
    for name, (folder, note) in places.items():
        made = write_report(home, name, folder, external=frames, reload=reload)
        if out is None:
            keep_owner(home, folder)
        written.append(replace(made, warnings=[*made.warnings, *([note] if note else [])]))
    return written


def _read_external(paths: Sequence[Path]) -> list[pd.DataFrame]:
    """Raises StudyError, also for two files of one name: a name stands for one source."""
    names = [Path(path).stem for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise StudyError(f"two files of results are called {twice!r}: a name stands for one source; rename one")
    return [read_external(path) for path in paths]


def _place(home: Path, study: str, out: Path | str | None, *, alone: bool) -> tuple[Path, str | None]:
    """Where the report of one study goes, and what is to be said of it."""
    if out is None:
        return place_beside(home, study)
    base = Path(out).resolve()
    return base if alone else base / study, None


def write_report(
    home: Path, study: str, folder: Path, *, external: Sequence[pd.DataFrame] = (), reload: int | None = None
) -> Written:
    """Build the report of one study and swap it in at ``folder``."""
    require_place(folder)
    with rare_collections():
        table = load_runs(home, [study])
        html = write_content(build(table, study, external=external, reload=reload), folder)
    return Written(study, html, table.warnings)


# ---------------------------------------------------------------------------- the list of sections


@dataclass(frozen=True)
class Found:
    """What the sections are made from, found once."""

    table: RunTable
    info: StudyInfo
    parts: list[Part]
    shown: Part
    """The text that sections show which can show only one."""
    effects: list[Effect]
    pairs: list[ControlledPair]
    correlations: list[Correlation]
    budgets: list[AtBudget]
    powers: PowerLawParts
    scaling: ScalingParts
    autoencoders: Downstream | None
    external: Sequence[pd.DataFrame] = ()

    @property
    def comparison(self) -> Comparison:
        return self.shown.comparison


Maker = Callable[[Found], "Section | list[Section] | None"]


def _of_shown(make: Maker) -> Maker:
    """Of a section about one text, which says so where there are several."""

    def made(found: Found) -> Section | list[Section] | None:
        result = make(found)
        for section in result if isinstance(result, list) else [result] if result else []:
            if len(found.parts) > 1 and (section.pictures or section.tables):
                section.notes.insert(0, f"Runs on {found.shown.text} only.")
        return result

    return made


SECTIONS: list[Maker] = [
    lambda f: differences_section(f.table),
    lambda f: sections.key_section(f.table, f.parts, f.shown),
    _of_shown(lambda f: budgets_section(f.budgets, f.comparison)),
    _of_shown(lambda f: frontier_section(f.table, f.comparison)),
    _of_shown(lambda f: power_section(f.powers)),
    _of_shown(lambda f: scaling_section(f.scaling)),
    _of_shown(lambda f: sections_compared.compared_section(f.comparison, f.shown.places, f.pairs)),
    _of_shown(lambda f: sections_compared.noise_section(f.comparison, f.shown.places, f.pairs)),
    _of_shown(lambda f: sections.effects_section(f.comparison, f.effects)),
    _of_shown(lambda f: sections_sampling.calls_section(f.table, f.comparison)),
    _of_shown(lambda f: sections_sampling.samplers_section(f.table, f.comparison)),
    lambda f: sections_sampling.samples_section(f.table, f.parts),
    lambda f: sections.autoencoder_section(f.table),
    _of_shown(lambda f: downstream_section(f.autoencoders)),
    _of_shown(lambda f: sections.bottleneck_section(f.table, f.comparison)),
    lambda f: sections.correlation_section(f.correlations),
    lambda f: external_section(f.table, f.comparison, f.external),
    lambda f: sections.importance_section(f.info),
    _of_shown(lambda f: sections.orders_section(f.comparison, f.shown.places, f.shown.floors)),
    _of_shown(lambda f: sections.cost_section(f.comparison)),
    _of_shown(lambda f: sections.checks_section(f.table, f.comparison)),
    lambda f: failures_section(f.table, f.parts),
    lambda f: linked(sections.runs_section(f.table, f.parts), f.table.runs),
    lambda f: sections.rules_section(f.table, f.parts, f.shown),
    lambda f: _environment_section(f.table),
]
"""In the order of the page. One with nothing to show is left out; what it would have said to a question that the
study asked goes to the section "Not answered"."""


def made_sections(found: Found) -> list[Section]:
    """All that have something to show, and at the end what stays open."""
    made: list[Section] = []
    for make in SECTIONS:
        result = make(found)
        made += result if isinstance(result, list) else [result] if result is not None else []
    stays = [section for section in made if not section.empty or section.id in ALWAYS_SAID]
    open_ones = [section for section in made if section not in stays and section.id in _asked(found)]
    if open_ones:
        notes = [f"{section.title}: {note}" for section in open_ones for note in section.notes]
        place = next((i for i, section in enumerate(stays) if section.id == "runs"), len(stays))
        stays.insert(place, Section("open", "Not answered", notes))
    return stays


def _asked(found: Found) -> set[str]:
    """Sections whose question the study asked, or whose answer the comparisons rest on."""
    asked = {"checks", "noise", "bottleneck"} if len(found.comparison.finals) else set()
    if found.info.parameters:
        asked |= {"parameters", "importance"}
    if found.info.spec.get("study") == CORRELATION:
        asked.add("correlation")
    if found.info.spec.get("study") == ASKS:
        asked.add("scaling")
    return asked


def find(
    table: RunTable, study: str, *, external: Sequence[pd.DataFrame] = (), with_pictures: bool = True
) -> Found:
    """Everything that the sections and the verdict on ``study`` are made from; ``with_pictures``: of the laws,
    which are drawn where they are fitted."""
    parts = texts.parts_of(table)
    shown = texts.largest(parts)
    comparison = shown.comparison
    return Found(
        table=table,
        info=table.studies[study],
        parts=parts,
        shown=shown,
        effects=effects(comparison, table.runs, table.config_columns),
        pairs=controlled_pairs(comparison),
        correlations=correlate(texts.comparable(table)),
        budgets=by_budget(table, comparison),
        powers=power_law_section_parts(
            with_recipes(table, comparison.evaluations), published=published(), with_pictures=with_pictures
        ),
        scaling=scaling_parts(comparison.evaluations, with_pictures=with_pictures),
        autoencoders=downstream(table, comparison),
        external=external,
    )


def build(
    table: RunTable, study: str, *, external: Sequence[pd.DataFrame] = (), reload: int | None = None
) -> Content:
    """The whole report on ``study``; ``table`` holds its runs only."""
    found = find(table, study, external=external)
    info, parts, shown, comparison = found.info, found.parts, found.shown, found.comparison
    with style.house_style():
        main = plots.main_figure(comparison, shown.floors)
        contents = made_sections(found)
    if main is not None and len(parts) > 1:
        main = replace(main, title=f"{main.title}, {shown.text}")
    pictures = ([main] if main else []) + [picture for section in contents for picture in section.pictures]
    html = render(
        "report.html.j2",
        pictures=pictures,
        reload=reload,
        study=study,
        info=info,
        counts=counts(table.runs),
        verdict=with_summary(verdict_of(found), found),
        main=main,
        evaluated=bool(len(table.evaluations)),
        comparison=comparison,
        sections=contents,
        warnings=table.warnings,
        several=texts.several_words(parts),
        mixed=texts.mixed_words(parts),
        seen=sections.seen_words(parts),
        reproduce=_reproduce(study, info),
    )
    frames = {
        **table_frames(table),
        "controlled_pairs": sections_compared.pairs_frame(comparison, found.pairs),
        **{name: frame for section in contents for name, frame in section.frames.items()},
    }
    made_tables = [item for section in contents for item in section.tables]
    return Content(html, pictures, made_tables, frames, run_pages(table, study))


# ---------------------------------------------------------------------------- single sections


def external_section(table: RunTable, comparison: Comparison, frames: Sequence[pd.DataFrame]) -> Section | None:
    """Results that were not made here, beside the study's; None without ``--data``."""
    return sections_external(frames, table, comparison) if frames else None


def linked(section: Section, runs: pd.DataFrame) -> Section:
    """The table of runs with links to the runs' pages, and to MLflow in a column of their own."""
    urls = [
        mlflow_url(*row)
        for row in zip(runs["mlflow_uri"], runs["mlflow_experiment"], runs["mlflow_run"], strict=True)
    ]
    names = page_names(runs["run_id"].astype(str).tolist())
    for i, item in enumerate(section.tables):
        if item.name != "runs":
            continue
        rows = []
        for row, name, url in zip(item.rows, names, urls, strict=True):
            label = row[0].text if isinstance(row[0], Link) else row[0]
            there = [Link("open", url) if url else "–"] if any(urls) else []
            rows.append([Link(label, f"runs/{name}"), *row[1:], *there])
        columns = [*item.columns, *(["MLflow"] if any(urls) else [])]
        section.tables[i] = Table(item.name, item.caption, columns, rows, item.numeric)
    return section


def _environment_section(table: RunTable) -> Section:
    environment = Section("environment", "Environment")
    environment.add(tables.environment_table(table.environments), "No run recorded its environment.")
    return environment


def verdict_of(found: Found) -> Verdict:
    """Of every text; a study of nothing but token baselines answers whether BrierLM and cross-entropy agree."""
    parts, shown, results = found.parts, found.shown, found.correlations
    sampling = sections_sampling.verdict_words(found.table, shown.comparison)
    each = [
        headline(part.comparison, part.places, *((found.effects, found.pairs) if part is shown else ([], [])))
        for part in parts
    ]
    only_baselines = bool(results) and all(part.comparison.calm.empty for part in parts)
    if len(parts) == 1 and not only_baselines:
        return replace(each[0], details=[*each[0].details, *sampling])
    prefix = [f"{part.text}: " if len(parts) > 1 else "" for part in parts]
    lead = [words + sentence for words, verdict in zip(prefix, each, strict=True) for sentence in verdict.lead]
    details = [words + line for words, verdict in zip(prefix, each, strict=True) for line in verdict.details]
    details += [f"{shown.text}: {words}" if len(parts) > 1 else words for words in sampling]
    if only_baselines:
        lead, details = answer(results), [*map(correlation_details, results), *details]
    cautions = [verdict.caution for verdict in each if verdict.caution]
    if len(set(cautions)) > 1:
        cautions = [words + v.caution for words, v in zip(prefix, each, strict=True) if v.caution]
    return Verdict(lead, details, " ".join(dict.fromkeys(cautions)))


def with_summary(verdict: Verdict, found: Found) -> Verdict:
    """The verdict with what the other sections found and the caveats that the diagnostics demand."""
    summary = summarise(
        found.parts, found.comparison, found.budgets, found.powers, found.scaling, found.autoencoders
    )
    lost = sentence_of_lost(found.table.runs)
    return replace(verdict, findings=summary.findings, caveats=[*([lost] if lost else []), *summary.caveats])


# ---------------------------------------------------------------------------- words


def counts(runs: pd.DataFrame) -> str:
    """``14 trials (9 completed, 3 pruned), 3 baselines (3 completed)``."""
    parts = []
    names = {"trial": "trial", "baseline": "baseline", "run": "run", "check": "sensitivity check"}
    for role, name in names.items():
        statuses = runs.loc[runs["role"] == role, "status"].value_counts()
        total = int(statuses.sum())
        if total:
            ordered = sorted(statuses.items(), key=lambda item: (-item[1], str(item[0])))
            each = ", ".join(f"{num} {str(status).replace('_', ' ')}" for status, num in ordered)
            parts.append(f"{total} {name}{'s' if total > 1 else ''} ({each})")
    return "; ".join(parts) or "No runs yet"


def _reproduce(study: str, info: StudyInfo) -> list[str]:
    lines = []
    module = info.spec.get("study")
    if module:
        frozen = info.spec.get("spec")
        sampler = frozen.get("sampler") if isinstance(frozen, dict) else None
        grid = isinstance(sampler, dict) and sampler.get("kind") == "grid"
        given = {name: info.spec.get(name) for name in ("preset", "trials", "seeds")}
        given["trials"] = None if grid else given["trials"]  # which runs all of its settings
        given["name"] = study if study != f"{module}-{given['preset']}" else None
        # a study without a search has no trials, and refuses to be told a number
        options = [word for name, value in given.items() if value for word in (f"--{name}", str(value))]
        lines.append(shlex.join(["calm", "study", "run", str(module), *options]))
    lines.append(shlex.join(["calm", "report", study]))
    return lines

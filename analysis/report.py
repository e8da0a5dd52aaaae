"""The report: one self-contained HTML page, figures, data and LaTeX tables of a study.

Everything comes from the run folders and nothing from the clock, so two reports on the same runs are
the same byte for byte. A folder is written beside its place and swapped in when it is complete.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from analysis import plots, sections, sections_compared, sections_sampling, style, tables, texts
from analysis.ablation import Effect, effects
from analysis.claims import ControlledPair, controlled_pairs
from analysis.correlation import Correlation, answer, correlate
from analysis.correlation import details as correlation_details
from analysis.samples import visible_whole
from analysis.sections import Section
from analysis.style import Picture
from analysis.table import RunTable, StudyInfo, choose_studies, load_runs
from analysis.texts import Part
from analysis.verdict import Verdict, headline
from analysis.words import Table, to_latex
from workbench.errors import OutputError
from workbench.files import writable_folder

HTML = "report.html"
PARTS = (HTML, "figures", "data", "tables")


@dataclass(frozen=True)
class Written:
    """Where a report went, and what it had to leave out."""

    study: str
    html: Path
    warnings: list[str]


def write_reports(
    home: Path | str, studies: list[str] | None = None, out: Path | str | None = None
) -> list[Written]:
    """A report for each study (default: all under ``home``).

    One study goes to ``out`` itself, several to a folder each below it; without ``out`` to
    ``reports/STUDY`` beside ``home``. Raises StudyError for an unknown study and OutputError where
    nothing can be written or ``out`` holds something that is not a report."""
    home = Path(home).resolve()
    chosen = choose_studies(home, studies)
    written = []
    for name in chosen:
        base = home.parent / "reports" if out is None else Path(out).resolve()
        folder = base if out is not None and len(chosen) == 1 else base / name
        written.append(write_report(home, name, folder))
    return written


def write_report(home: Path, study: str, folder: Path) -> Written:
    """Build the report of one study and swap it in at ``folder``."""
    _refuse_foreign(folder)
    table = load_runs(home, [study])
    content = build(table, study)
    _swap_in(folder, lambda temporary: _write_parts(temporary, table, content))
    return Written(study, folder / HTML, table.warnings)


@dataclass(frozen=True)
class Content:
    """A built report, in memory."""

    html: str
    pictures: list[Picture]
    tables: list[Table]
    pairs: pd.DataFrame
    """Controlled pairs, one a row."""


def build(table: RunTable, study: str) -> Content:
    """All sections of the report on ``study``; ``table`` holds its runs only."""
    info = table.studies[study]
    parts = texts.parts_of(table)
    shown = texts.largest(parts)
    comparison, floors = shown.comparison, shown.floors
    found = effects(comparison, table.runs, table.config_columns)
    pairs = controlled_pairs(comparison)
    results = correlate(texts.comparable(table))
    with style.house_style():
        main = plots.main_figure(comparison, floors)
        calls = sections_sampling.calls_section(table, comparison)
        samplers = sections_sampling.samplers_section(table, comparison)
        samples = sections_sampling.samples_section(table, parts)
        contents = [
            sections.key_section(table, parts, shown),
            *_of_one_text(
                parts,
                shown,
                [
                    sections_compared.compared_section(comparison, shown.places, pairs),
                    sections_compared.noise_section(comparison, shown.places, pairs),
                    sections.effects_section(comparison, found),
                    *[section for section in (calls, samplers) if section],
                ],
            ),
            *[section for section in (samples,) if section],
            sections.autoencoder_section(table),
            *_of_one_text(parts, shown, [sections.bottleneck_section(table, comparison)]),
            sections.correlation_section(results),
            sections.importance_section(info),
            *_of_one_text(
                parts,
                shown,
                [
                    sections.orders_section(comparison, shown.places, floors),
                    sections.cost_section(comparison),
                    sections.checks_section(table, comparison),
                ],
            ),
            sections.runs_section(table, parts),
        ]
    contents.append(sections.rules_section(table, parts, shown))
    environment = Section("environment", "Environment")
    environment.add(tables.environment_table(table.environments), "No run recorded its environment.")
    contents.append(environment)
    if main is not None and len(parts) > 1:
        main = replace(main, title=f"{main.title}, {shown.text}")
    html = _template().render(
        study=study,
        info=info,
        counts=_counts(table.runs),
        verdict=_verdict(parts, found, pairs, results, sections_sampling.verdict_words(table, comparison)),
        main=main,
        comparison=comparison,
        sections=contents,
        warnings=table.warnings,
        several=texts.several_words(parts),
        mixed=texts.mixed_words(parts),
        seen=sections.seen_words(parts),
        reproduce=_reproduce(study, info),
        inline=_inline,
    )
    pictures = ([main] if main else []) + [picture for section in contents for picture in section.pictures]
    return Content(
        html,
        pictures,
        [item for section in contents for item in section.tables],
        sections_compared.pairs_frame(comparison, pairs),
    )


def _of_one_text(parts: list[Part], shown: Part, found: list[Section]) -> list[Section]:
    """The same sections, saying which text they are about where there are several."""
    for section in found:
        if len(parts) > 1 and (section.pictures or section.tables):
            section.notes.insert(0, f"Runs on {shown.text} only.")
    return found


def _verdict(
    parts: list[Part],
    found: list[Effect],
    pairs: list[ControlledPair],
    results: list[Correlation],
    sampling: list[str],
) -> Verdict:
    """Of every text; a study of nothing but token baselines answers whether BrierLM and cross-entropy agree.
    ``sampling``: what there is to say about network calls and samplers."""
    shown = texts.largest(parts)
    each = [
        headline(part.comparison, part.places, *((found, pairs) if part is shown else ([], []))) for part in parts
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


# ---------------------------------------------------------------------------- words


def _counts(runs: pd.DataFrame) -> str:
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
        options = "".join(
            f" --{name} {info.spec[name]}"
            for name in ("preset", "trials", "seeds")
            if info.spec.get(name)  # a study without a search has no trials, and refuses to be told a number
        )
        lines.append(f"calm study run {module}{options}")
    lines.append(f"calm report {study}")
    return lines


# ---------------------------------------------------------------------------- files


def _inline(picture: Picture) -> Markup:
    return Markup(style.inline(picture, str(escape(f"{picture.title}. {picture.text}"))))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["link"] = lambda cell: not isinstance(cell, str)
    return environment.get_template("report.html.j2")


def _write_parts(folder: Path, table: RunTable, content: Content) -> None:
    for part in PARTS[1:]:
        (folder / part).mkdir()
    (folder / HTML).write_text(content.html, encoding="utf-8")
    for picture in content.pictures:
        (folder / "figures" / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
        (folder / "figures" / f"{picture.name}.png").write_bytes(picture.png)
    for item in content.tables:
        (folder / "tables" / f"{item.name}.tex").write_text(to_latex(item), encoding="utf-8")
    for name, frame in (
        ("runs", table.runs),
        ("evaluations", table.evaluations),
        ("autoencoders", table.autoencoders),
        ("kl_per_dim", table.kl_per_dim),
        ("floors", table.floors),
        ("bottlenecks", table.bottlenecks),
        ("controlled_pairs", content.pairs),
        ("calls", table.calls),
        ("tradeoffs", table.tradeoffs),
        ("samples", table.samples.assign(**{c: table.samples[c].map(visible_whole) for c in ("prompt", "text")})),
    ):
        plain_frame = _storable(frame)
        plain_frame.to_csv(folder / "data" / f"{name}.csv", index=False, lineterminator="\n")
        plain_frame.to_parquet(folder / "data" / f"{name}.parquet", index=False)


def _storable(frame: pd.DataFrame) -> pd.DataFrame:
    """Parquet wants one type a column: columns of mixed types become text."""
    result = frame.reset_index(drop=True).copy()
    for name in result.columns:
        if result[name].dtype != object:
            continue
        present = [value for value in result[name] if not pd.isna(value)]
        kinds = {type(value) for value in present}
        if kinds <= {int, float} and kinds:
            result[name] = pd.to_numeric(result[name])
        elif len(kinds) > 1:
            result[name] = result[name].map(lambda value: None if pd.isna(value) else str(value))
    return result


def _refuse_foreign(folder: Path) -> None:
    """A full folder that holds no report is somebody's own: it must not be replaced."""
    if folder.is_dir() and not (folder / HTML).exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty and holds no {HTML}; choose another folder with --out")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; a folder for the report is wanted: choose another with --out")


def _swap_in(folder: Path, write: Callable[[Path], None]) -> None:
    """Write into a folder beside ``folder``, then put it in its place. What else lay in the old one is kept."""
    writable_folder(folder.parent)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    fresh, old = temporary / "new", temporary / "old"
    try:
        fresh.mkdir()
        write(fresh)
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(fresh, folder)
        except OSError:
            if old.exists():
                os.replace(old, folder)
            raise
        for extra in old.iterdir() if old.exists() else ():
            if extra.name not in PARTS:
                os.replace(extra, folder / extra.name)
    except OSError as error:
        raise OutputError(f"cannot write the report to {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

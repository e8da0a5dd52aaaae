"""The report: one self-contained HTML page, figures, data and LaTeX tables of a study.

Everything comes from the run folders and nothing from the clock, so two reports on the same runs are
the same byte for byte. A folder is written beside its place and swapped in when it is complete.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from analysis import plots, sections, style, tables
from analysis.ablation import effects
from analysis.comparison import Comparison, compare
from analysis.style import Picture
from analysis.table import RunTable, StudyInfo, choose_studies, load_runs
from analysis.verdict import headline, standings
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


def build(table: RunTable, study: str) -> Content:
    """All sections of the report on ``study``; ``table`` holds its runs only."""
    info = table.studies[study]
    comparison = compare(table)
    floors = table.floors[table.floors["fingerprint"] == comparison.fingerprint]
    found = effects(comparison, table.runs, table.config_columns)
    places = standings(comparison, floors)
    verdict = headline(comparison, places, found)
    with style.house_style():
        main = plots.main_figure(comparison, floors)
        parts = [
            sections.key_section(table, comparison, places),
            sections.effects_section(comparison, found),
            sections.autoencoder_section(table),
            sections.correlation_section(comparison),
            sections.importance_section(info),
            sections.orders_section(comparison, places, floors),
            sections.cost_section(comparison),
            sections.checks_section(table, comparison),
            sections.runs_section(table, comparison),
        ]
    parts.append(sections.rules_section(table, comparison))
    environment = sections.Section("environment", "Environment")
    environment.add(tables.environment_table(table.environments), "No run recorded its environment.")
    parts.append(environment)
    html = _template().render(
        study=study,
        info=info,
        counts=_counts(table.runs),
        verdict=verdict,
        main=main,
        comparison=comparison,
        sections=parts,
        warnings=table.warnings,
        mixed=_mixed_words(comparison),
        reproduce=_reproduce(study, info),
        inline=_inline,
    )
    pictures = ([main] if main else []) + [picture for section in parts for picture in section.pictures]
    return Content(html, pictures, [item for section in parts for item in section.tables])


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


def _mixed_words(comparison: Comparison) -> str:
    """The warning where several fingerprints occur; empty otherwise."""
    if len(comparison.fingerprints) < 2:
        return ""
    others = {f: n for f, n in comparison.fingerprints.items() if f != comparison.fingerprint}
    listed = ", ".join(f"{name} ({num} run{'s' if num > 1 else ''})" for name, num in sorted(others.items()))
    return (
        f"These runs were evaluated in {len(comparison.fingerprints)} different ways, and such scores cannot be "
        f"compared. This report compares only the largest group, {comparison.fingerprint} "
        f"({comparison.fingerprints[comparison.fingerprint]} runs). Left out of every comparison: {listed}. "
        "`calm evaluate` with one setting makes them comparable."
    )


def _reproduce(study: str, info: StudyInfo) -> list[str]:
    lines = []
    module = info.spec.get("study")
    if module:
        options = "".join(
            f" --{name} {info.spec[name]}"
            for name in ("preset", "trials", "seeds")
            if info.spec.get(name) is not None
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

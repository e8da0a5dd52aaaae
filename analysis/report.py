"""The report: one self-contained HTML page, figures, data and LaTeX tables of a study.

Everything comes from the run folders and nothing from the clock, so two reports on the same runs are
the same byte for byte. A folder is written beside its place and swapped in when it is complete.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from analysis import plots, plots_parameters, style, tables
from analysis.ablation import effects
from analysis.comparison import Comparison, compare
from analysis.correlation import correlate
from analysis.frontier import COSTS
from analysis.style import Picture
from analysis.table import RunTable, StudyInfo, choose_studies, load_runs
from analysis.verdict import headline, standings
from analysis.words import PHASES, Table, name_of, number, plain, to_latex
from workbench.errors import OutputError
from workbench.files import writable_folder

MIN_TRIALS = 20
"""Parameter importance is withheld below this many complete trials."""

HTML = "report.html"
PARTS = (HTML, "figures", "data", "tables")


@dataclass(frozen=True)
class Written:
    """Where a report went, and what it had to leave out."""

    study: str
    html: Path
    warnings: list[str]


def write_reports(home: Path | str, studies: list[str] | None = None, out: Path | str | None = None) -> list[Written]:
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


@dataclass
class _Section:
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
        sections = [
            _key_section(table, comparison, places),
            _effects_section(comparison, found),
            _autoencoder_section(table),
            _correlation_section(comparison),
            _importance_section(info),
            _orders_section(comparison, places, floors),
            _cost_section(comparison),
            _checks_section(table, comparison),
            _runs_section(table, comparison),
        ]
    sections.append(_rules_section(table, comparison))
    environment = _Section("environment", "Environment")
    environment.add(tables.environment_table(table.environments), "No run recorded its environment.")
    sections.append(environment)
    html = _template().render(
        study=study,
        info=info,
        counts=_counts(table.runs),
        verdict=verdict,
        main=main,
        comparison=comparison,
        sections=sections,
        warnings=table.warnings,
        mixed=_mixed_words(comparison),
        reproduce=_reproduce(study, info),
        inline=_inline,
    )
    pictures = ([main] if main else []) + [picture for section in sections for picture in section.pictures]
    return Content(html, pictures, [item for section in sections for item in section.tables])


# ---------------------------------------------------------------------------- sections


def _key_section(table: RunTable, comparison: Comparison, places: list[Any]) -> _Section:
    section = _Section("key-numbers", "Key numbers")
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


def _effects_section(comparison: Comparison, found: list[Any]) -> _Section:
    section = _Section("parameters", "Effect of each parameter")
    if not found:
        section.notes.append("No parameter was searched or varied.")
        return section
    section.notes.append(
        "The score is the study's objective: BrierLM, or a smooth score on the same scale where BrierLM lies within "
        "two of its errors of 0. A setting is all runs that differ only in their seed. Differences are "
        "adjusted for the other parameters (additive fit over settings) and corrected for the number of values. Runs "
        "that were stopped early have no score at the budget and are only counted, which flatters values that "
        "were often stopped."
    )
    for effect in found:
        section.add(
            plots_parameters.parameter_figure(comparison, effect.parameter, name_of(effect.parameter)),
            f"{name_of(effect.parameter)}: no figure, no completed run at the budget.",
        )
        section.add(
            tables.effect_table(effect), f"{name_of(effect.parameter)}: {effect.verdict}; {effect.note or 'no values'}."
        )
    return section


def _autoencoder_section(table: RunTable) -> _Section:
    section = _Section("autoencoder", "Autoencoder")
    if table.autoencoders.empty and table.kl_per_dim.empty:
        section.notes.append("No run of this study recorded an autoencoder.")
        return section
    for picture in plots_parameters.noise_figures(table.autoencoders):
        section.add(picture)
    section.add(plots_parameters.kl_figure(table.kl_per_dim))
    section.add(plots_parameters.std_figure(table.kl_per_dim))
    section.add(tables.autoencoder_table(table.autoencoders))
    return section


def _correlation_section(comparison: Comparison) -> _Section:
    section = _Section("correlation", "BrierLM and cross-entropy")
    result = correlate(comparison.evaluations)
    if result.num_zero:
        section.notes.append(f"{result.num_zero} checkpoints with a BrierLM of 0 are left out: it is cut off there.")
    if result.note:
        section.notes.append(result.note[0].upper() + result.note[1:] + ".")
    section.add(plots.correlation_figure(result))
    section.add(tables.correlation_table(result))
    return section


def _importance_section(info: StudyInfo) -> _Section:
    section = _Section("importance", "Parameter importance")
    importance, complete = info.summary.get("importance"), info.summary.get("num_complete")
    note = str(info.summary.get("importance_note") or "")
    if not info.summary:
        section.notes.append("The study has not written a summary yet, so there is no importance to show.")
    elif complete is None or int(complete) < MIN_TRIALS:
        done = "an unknown number of" if complete is None else str(int(complete))
        section.notes.append(
            f"Withheld: {done} complete trials, and below {MIN_TRIALS} an importance says more about chance than about "
            "the parameters."
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


def _orders_section(comparison: Comparison, places: list[Any], floors: pd.DataFrame) -> _Section:
    section = _Section("orders", "Scores by order")
    section.add(plots.orders_figure(comparison, floors))
    section.add(tables.orders_table(comparison, places, floors), "No run completed at the budget.")
    if floors.empty:
        section.notes.append("No n-gram floors were recorded for this evaluation.")
    return section


def _cost_section(comparison: Comparison) -> _Section:
    section = _Section("cost", "Cost")
    for make in (plots.cost_figure, plots.speed_figure, plots.inference_figure, plots.time_figure):
        section.add(make(comparison))
    if not section.pictures:
        section.notes.append("No run completed at the budget.")
    return section


def _checks_section(table: RunTable, comparison: Comparison) -> _Section:
    section = _Section("checks", "Sensitivity checks")
    section.add(
        tables.checks_table(table, comparison),
        "The study has no sensitivity check, so how much its conclusions depend on the learning rate is not known.",
    )
    return section


def _runs_section(table: RunTable, comparison: Comparison) -> _Section:
    section = _Section("runs", "Runs")
    section.add(tables.runs_table(table.runs, comparison.parameters), "The study has no runs yet.")
    if comparison.left_out:
        rows: list[list[Any]] = [[name, reason] for name, reason in comparison.left_out]
        section.add(Table("left_out", "Not in the comparison at the budget.", ["run", "why"], rows))
    return section


def _rules_section(table: RunTable, comparison: Comparison) -> _Section:
    section = _Section("rules", "Evaluation and rules")
    section.notes += [
        f"Evaluation fingerprint: {comparison.fingerprint or 'none'}. Only scores with the same fingerprint (text, "
        "tokenizer, context, positions, samples) are compared.",
        f"Compared at {comparison.budget or 'no budget'}, {PHASES.get(comparison.phase, 'no end point')}. Points at "
        "constant rate and ends of decays are never mixed.",
        "Compute is counted as executed. The autoencoder's training is recorded apart; where it is added, it is "
        "charged in full to every run, although runs share autoencoders.",
        "Intervals are at 95 %. Differences of single runs add both evaluation errors as if independent, although "
        "both were scored at the same positions: they are wider than paired intervals.",
        "Sensitivity checks are in no comparison, figure or frontier but their own table.",
    ]
    finals = comparison.finals
    varying = [c for c in table.config_columns if finals[c].astype(object).map(plain).nunique() > 1]
    same = [c for c in table.config_columns if c not in varying and len(finals) and plain(finals[c].iloc[0]) != "–"]
    rows: list[list[Any]] = [[name, plain(finals[name].iloc[0])] for name in same]
    section.add(Table("common", "What all compared runs have in common.", ["setting", "value"], rows))
    return section


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
    return "; ".join(parts) or "no runs yet"


def _mixed_words(comparison: Comparison) -> str:
    """The warning where several fingerprints occur; empty otherwise."""
    if len(comparison.fingerprints) < 2:
        return ""
    others = {f: n for f, n in comparison.fingerprints.items() if f != comparison.fingerprint}
    listed = ", ".join(f"{name} ({num} run{'s' if num > 1 else ''})" for name, num in sorted(others.items()))
    return (
        f"These runs were evaluated in {len(comparison.fingerprints)} different ways, and scores from different ways "
        f"cannot be compared. This report compares only the largest group, {comparison.fingerprint} "
        f"({comparison.fingerprints[comparison.fingerprint]} runs). Left out of every figure and comparison: {listed}. "
        "`calm evaluate` with one setting makes them comparable."
    )


def _reproduce(study: str, info: StudyInfo) -> list[str]:
    lines = []
    module = info.spec.get("study")
    if module:
        options = "".join(
            f" --{name} {info.spec[name]}" for name in ("preset", "trials", "seeds") if info.spec.get(name) is not None
        )
        lines.append(f"calm study run {module}{options}")
    lines.append(f"calm report {study}")
    return lines


# ---------------------------------------------------------------------------- files


def _inline(picture: Picture) -> Markup:
    return Markup(style.inline(picture, str(escape(f"{picture.title}. {picture.text}"))))  # noqa: S704


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["number"] = number
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

"""A report as files: page, figures, data, LaTeX tables, run pages; written beside their place and swapped in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from analysis.paper_figures import WIDTHS
from analysis.samples import visible_whole
from analysis.style import Picture
from analysis.table import RunTable
from analysis.words import Table, to_latex
from workbench import formats, modes
from workbench.errors import OutputError
from workbench.files import FORMULA, cannot_write, spreadsheet_text, writable_folder

HTML = "report.html"
PARTS = (HTML, "figures", "data", "tables", "runs")
FORMAT = "table_format"
"""Last column of every file under data/: the number of its format (``workbench.formats``)."""


@dataclass(frozen=True)
class Content:
    """A built report, in memory."""

    html: str
    pictures: list[Picture]
    tables: list[Table]
    frames: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """By name of the file under data/."""
    pages: Mapping[str, str] = field(default_factory=dict)
    """HTML by file name under runs/."""


def table_frames(table: RunTable) -> dict[str, pd.DataFrame]:
    """What every report keeps of its runs."""
    texts = {column: table.samples[column].map(visible_whole) for column in ("prompt", "text")}
    return {
        "runs": table.runs,
        "evaluations": table.evaluations,
        "autoencoders": table.autoencoders,
        "kl_per_dim": table.kl_per_dim,
        "floors": table.floors,
        "bottlenecks": table.bottlenecks,
        "calls": table.calls,
        "tradeoffs": table.tradeoffs,
        "samples": table.samples.assign(**texts),
    }


def write_content(content: Content, folder: Path) -> Path:
    """Swap the report in at ``folder``; the path of its page.

    Raises OutputError where nothing can be written or ``folder`` holds something that is not a report."""
    require_place(folder)
    _swap_in(folder, lambda temporary: _write_parts(temporary, content))
    return folder / HTML


def require_place(folder: Path) -> None:
    """Raises OutputError where a report cannot be written to ``folder``; makes nothing.

    A full folder that holds no report is somebody's own: it must not be replaced."""
    if folder.is_dir() and not (folder / HTML).exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty and holds no {HTML}; choose another folder with --out")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; a folder for the report is wanted: choose another with --out")
    above = next(path for path in folder.parents if os.path.lexists(path))
    for place in (above, folder) if folder.is_dir() else (above,):
        writable_folder(place)
    try:
        os.lstat(_beside(folder, "12345678"))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # too long a name
        raise cannot_write(folder, error) from None


def _beside(folder: Path, ending: str) -> Path:
    """Where a report is written before it is swapped in; ``new_folder`` ends it with eight letters."""
    return folder.with_name(f".{folder.name}.{ending}")


def _write_parts(folder: Path, content: Content) -> None:
    for part in PARTS[1:]:
        (folder / part).mkdir()
    (folder / HTML).write_text(content.html, encoding="utf-8")
    figures = folder / "figures"
    for width in WIDTHS if any(picture.paper for picture in content.pictures) else ():
        (figures / width).mkdir()
    for picture in content.pictures:
        (figures / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
        (figures / f"{picture.name}.png").write_bytes(picture.png)
        for kind, file in picture.paper.items():
            width, _, suffix = kind.partition(".")
            (figures / width / f"{picture.name}.{suffix}").write_bytes(file)
    for item in content.tables:
        (folder / "tables" / f"{item.name}.tex").write_text(to_latex(item), encoding="utf-8")
    for name, frame in content.frames.items():
        plain_frame = storable(frame).assign(**{FORMAT: formats.TABLE})
        guarded(plain_frame).to_csv(folder / "data" / f"{name}.csv", index=False, lineterminator="\n")
        plain_frame.to_parquet(folder / "data" / f"{name}.parquet", index=False)
    for name, page in content.pages.items():
        (folder / "runs" / name).write_text(page, encoding="utf-8")


def require_format(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table that was read back, without its number; one without a number is somebody's own, or from before there
    were any.

    Raises OutputError where a newer version wrote it, or its number is none."""
    if FORMAT not in frame:
        return frame
    for found in frame[FORMAT].dropna().unique():
        text = str(found).removesuffix(".0")
        if text == "":  # a row that somebody added
            continue
        formats.REPORT_TABLE.check(int(text) if text.isdecimal() else found, f"{name}, column {FORMAT}")
    return frame.drop(columns=FORMAT)


def guarded(frame: pd.DataFrame) -> pd.DataFrame:
    """For CSV: text that a spreadsheet would run as a formula (names, reasons, samples are anybody's) begins with
    an apostrophe. Numbers and Parquet stay as they are."""
    texts = [name for name in frame if _may_run(frame[name])]
    return frame.assign(**{name: frame[name].map(spreadsheet_text, na_action="ignore") for name in texts})


def _may_run(column: pd.Series) -> bool:
    """Whether it may hold such text: columns of nothing but text are asked at once."""
    if pd.api.types.is_numeric_dtype(column):
        return False
    return not isinstance(column.dtype, pd.StringDtype) or bool(column.str[:1].isin(list(FORMULA)).any())


def storable(frame: pd.DataFrame) -> pd.DataFrame:
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


def _swap_in(folder: Path, write: Callable[[Path], None]) -> None:
    """Write into a folder beside ``folder``, then put it in its place. What else lay in the old one is kept."""
    writable_folder(folder.parent)
    temporary = modes.new_folder(folder.parent, _beside(folder, "").name)
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

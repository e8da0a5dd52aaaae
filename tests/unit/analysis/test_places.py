"""Homes beside each other share a folder of reports, and leave each other's alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis import report
from analysis import together as together_report
from analysis.files_written import HTML, Content
from analysis.places import HOMES
from analysis.report import Written, write_reports
from analysis.together import write_together
from tests.suites.synthetic_study import write_study_files

Write = Callable[[Path], Written]


def one(home: Path) -> Written:
    return write_reports(home, ["a"])[0]


def together(home: Path) -> Written:
    return write_together(home, None)


@pytest.fixture
def empty_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in a report takes the time, and is nothing to its place."""
    for module in (report, together_report):
        monkeypatch.setattr(module, "build", lambda *_, **__: Content("a page", [], [], {}))


@pytest.fixture
def homes(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "runs", tmp_path / "other"]
    for home in found:
        for study in "ab":
            write_study_files(home / study)
    return found


@pytest.mark.parametrize(
    ("write", "what"), [(one, "a"), pytest.param(together, "together", marks=pytest.mark.slow)]
)
def test_the_report_of_another_home_stays(
    homes: list[Path], tmp_path: Path, empty_pages: None, write: Write, what: str
) -> None:
    reports = tmp_path / "reports"
    assert write(homes[0]).html == reports / what / HTML
    (reports / what / HTML).write_text("the first one's", encoding="utf-8")
    second = write(homes[1])
    assert second.html == reports / f"{what}@other" / HTML
    said = f"{reports / what} is the report of the home folder runs, and stays; the one of other is in "
    assert any(warning.startswith(said) for warning in second.warnings)
    assert write(homes[1]).html == second.html
    assert (reports / what / HTML).read_text(encoding="utf-8") == "the first one's"
    again = write(homes[0])
    assert again.html == reports / what / HTML
    assert not any("and stays" in warning for warning in again.warnings)
    assert sorted(os.listdir(reports)) == [HOMES, what, f"{what}@other"]


def test_a_home_that_is_no_more_has_no_claim(homes: list[Path], tmp_path: Path, empty_pages: None) -> None:
    one(homes[0])
    shutil.rmtree(homes[0])
    assert one(homes[1]).html == tmp_path / "reports" / "a" / HTML


@pytest.mark.parametrize("marks", [None, "{", "[1]"])
def test_a_report_without_a_mark_is_replaced_as_ever(
    homes: list[Path], tmp_path: Path, empty_pages: None, marks: str | None
) -> None:
    """By an earlier version, or the marks are damaged."""
    one(homes[0])
    (tmp_path / "reports" / HOMES).unlink()
    if marks is not None:
        (tmp_path / "reports" / HOMES).write_text(marks, encoding="utf-8")
    assert one(homes[1]).html == tmp_path / "reports" / "a" / HTML
    assert one(homes[0]).html == tmp_path / "reports" / "a@runs" / HTML


def test_a_folder_that_was_asked_for_is_what_it_is(homes: list[Path], tmp_path: Path, empty_pages: None) -> None:
    for home in homes:
        assert write_reports(home, ["a"], tmp_path / "out")[0].html == tmp_path / "out" / HTML
    assert not (tmp_path / HOMES).exists()

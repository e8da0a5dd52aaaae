"""Runs that went wrong: the section, the sentence of the summary, and what is not said of a healthy study."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.failures import WORDS, failures_section, gone_wrong, sentence
from analysis.report import SECTIONS, find, verdict_of, with_summary
from analysis.table import load_runs
from analysis.texts import parts_of
from tests.suites.run_folders import make_run_folder
from workbench import files, records
from workbench.records import Diagnostic

LOST = {
    "r1": ("diverged", "the loss (median of 20 logged points) is 9.1, 2.2 times what it was before training"),
    "r2": ("collapsed", "none of the autoencoder's 32 latent dimensions carries information"),
    "r3": ("not_finite", "loss nan, gradient norm nan at step 30"),
    "r4": ("failed", "MemoryError: <b>no room</b>"),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for number in range(8):
        name = f"r{number}"
        status, reason = LOST.get(name, ("pruned" if number == 5 else "completed", ""))
        make_run_folder(
            tmp_path / "s" / name,
            study="s",
            name=name,
            seed=number,
            status=status,
            reason=reason,
            role="trial",
            plots=False,
            num_windows=None,
            num_points=2,
            chunk_size=4 if number % 2 else 2,
            diagnostics=(Diagnostic(code=status, message=reason),) if status in records.BAD_NUMBERS else (),
        )
    files.write_json(tmp_path / "s" / "study.json", {"name": "s", "question": "?", "against": "-"})
    return tmp_path


def test_every_bad_status_has_words() -> None:
    assert set(records.BAD_NUMBERS) < set(WORDS)
    assert "pruned" not in WORDS
    assert "completed" not in WORDS


def test_the_section_names_each_run_with_its_reason(home: Path) -> None:
    table = load_runs(home, ["s"])
    section = failures_section(table, parts_of(table))
    assert section is not None
    (shown,) = section.tables
    assert len(shown.rows) == 4
    by_name = {str(row[0]): row for row in shown.rows}
    for name, (status, reason) in LOST.items():
        row = by_name[name]
        assert str(row[4]).startswith(status.replace("_", " "))
        assert row[5] == reason


def test_the_sentence_counts_them(home: Path) -> None:
    runs = load_runs(home, ["s"]).runs
    words = sentence(runs)
    assert words.startswith("4 of 8 runs went wrong (1 failed, 1 not finite, 1 diverged and 1 collapsed; K = 2: 2")
    assert sentence(runs[~runs["status"].isin(list(WORDS))]) == ""
    assert set(gone_wrong(runs)["status"]) == {status for status, _ in LOST.values()}


def test_a_healthy_study_has_no_such_section(home: Path) -> None:
    table = load_runs(home, ["s"])
    table.runs["status"] = "completed"
    assert failures_section(table, parts_of(table)) is None


def test_the_report_has_the_section_and_the_caveat(
    home: Path, monkeypatch: pytest.MonkeyPatch, without_figures: object
) -> None:
    without_figures(monkeypatch)  # type: ignore[operator]
    found = find(load_runs(home, ["s"]), "s", with_pictures=False)
    assert sum(getattr(make(found), "id", "") == "failures" for make in SECTIONS[-5:]) == 1
    caveats = with_summary(verdict_of(found), found).caveats
    assert caveats[0].startswith("4 of 8 runs went wrong")

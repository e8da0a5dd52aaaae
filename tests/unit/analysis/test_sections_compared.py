"""What a reader sees of comparisons: sections and tables of a whole report, and its files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.claims import controlled_pairs, num_floor_claims, num_group_claims
from analysis.comparison import compare
from analysis.report import write_reports
from analysis.sections_compared import compared_section, noise_section
from analysis.table import RunTable, load_runs
from analysis.verdict import standings
from tests.suites.run_folders import make_run_folder


@pytest.mark.slow
def test_a_report_holds_both_sections_and_all_pairs(home: Path, tmp_path: Path, no_figures: None) -> None:
    (written,) = write_reports(home, None, tmp_path / "out")
    text = written.html.read_text(encoding="utf-8")
    assert '<section id="compared"' in text
    assert '<section id="noise"' in text
    assert "difference [95 %]" in text
    table = load_runs(home)
    comparison = compare(table)
    frame = pd.read_csv(tmp_path / "out" / "data" / "controlled_pairs.csv")
    assert len(frame) == len(controlled_pairs(comparison)) > 5
    assert (frame["comparisons"] == len(frame)).all()
    assert set(frame["parameter"]) == set(comparison.parameters)
    assert f"({num_group_claims(comparison)} comparisons)" in text


@pytest.mark.slow
def test_groups_are_compared_pair_by_pair_in_order(table: RunTable) -> None:
    comparison = compare(table)
    places = standings(comparison, table.floors)
    section = compared_section(comparison, places, [])
    (groups,) = section.tables
    assert [row[0] for row in groups.rows] == ["token baselines"] * 3 + ["K = 4"] * 2 + ["K = 2"]
    assert [row[1] for row in groups.rows] == ["K = 4", "K = 2", "K = 1", "K = 2", "K = 1", "K = 1"]
    by_k = {place.key: place for place in places}
    assert by_k[4].to_baseline == by_k[None].gaps[4].flipped
    assert groups.rows[0][4] == by_k[None].gaps[4].verdict == "better"
    assert f"corrected for {num_group_claims(comparison)} comparisons" in groups.caption
    assert f"corrected for {num_floor_claims(comparison, table.floors)} comparisons" in section.notes[1]
    assert "no controlled pairs" in section.notes[-1]


def test_single_models_are_not_called_settings(tmp_path: Path) -> None:
    for i, k in enumerate((1, 4)):
        make_run_folder(tmp_path / "s" / f"r{i}", chunk_size=k, num_points=2, plots=False)
    table = load_runs(tmp_path, ["s"])
    comparison = compare(table)
    section = compared_section(comparison, standings(comparison, table.floors), controlled_pairs(comparison))
    assert "they rank the trained models, not their settings" in section.notes[0]
    assert all("trained model" in shown.caption for shown in section.tables)
    assert [shown.name for shown in section.tables] == ["groups", "controlled_pairs"]


def test_sections_without_runs_say_so(tmp_path: Path) -> None:
    make_run_folder(tmp_path / "s" / "r", num_points=2, status="failed", reason="x")
    comparison = compare(load_runs(tmp_path, ["s"]))
    for make in (compared_section, noise_section):
        section = make(comparison, [], [])
        assert section.notes == ["No run completed at the budget."]
        assert section.tables == []

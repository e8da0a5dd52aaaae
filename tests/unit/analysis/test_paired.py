"""Position scores of a study: read, refused with a warning, brought to shared windows."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.comparison import compare
from analysis.paired import MAX_NAMED, pair_up
from analysis.table import RunTable, load_runs
from analysis.verdict import headline, standings
from tests.suites.run_folders import make_run_folder
from tests.suites.synthetic_positions import NUM_POSITIONS
from workbench.pairs import paired_difference
from workbench.positions import FLOORS, POSITIONS, read_positions, write_positions


def folder(root: Path, name: str, **options: Any) -> Path:
    created = f"2026-01-01T00:{len(list(root.glob('s/*'))):02d}:00+00:00"
    return make_run_folder(root / "s" / name, num_points=2, plots=False, created=created, **options)


def trouble(table: RunTable) -> list[str]:
    return [warning for warning in table.warnings if "study.json" not in warning]


def test_scores_and_tables_are_read_by_run(tmp_path: Path) -> None:
    run = folder(tmp_path, "a")
    folder(tmp_path, "b", status="pruned")
    table = load_runs(tmp_path, ["s"])
    assert trouble(table) == []
    assert set(table.positions) == {"a"}  # what did not complete is compared with nothing
    np.testing.assert_array_equal(table.positions["a"].values, read_positions(run / POSITIONS).values)
    assert set(table.floor_scores["a"].tables) == {"unigram", "bigram", "trigram"}


def test_a_run_without_scores_is_compared_without_pairs_and_says_so(tmp_path: Path) -> None:
    folder(tmp_path, "a", chunk_size=1, brierlm=2.0)
    folder(tmp_path, "b", chunk_size=2, brierlm=3.0)
    folder(tmp_path, "c", chunk_size=4, brierlm=4.0, num_windows=None)
    table = load_runs(tmp_path, ["s"])
    assert trouble(table) == [
        "s/c: compared without pairs and with wider intervals, because there is no positions.npz, which older "
        "versions did not write"
    ]
    comparison = compare(table)
    assert comparison.paired is not None
    assert set(comparison.paired.values) == {"a", "b"}
    places = {place.key: place for place in standings(comparison, table.floors)}
    assert places[2].gaps[1].unpaired is False
    assert places[4].gaps[1].unpaired is places[4].gaps[2].unpaired is True
    verdict = headline(comparison, list(places.values()), [])
    assert "1 of 3 runs did not keep their scores position by position" in verdict.caution
    assert "unpaired" in verdict.lead[0]


def test_without_any_scores_all_is_as_before(tmp_path: Path) -> None:
    for name, k in (("a", 1), ("b", 4)):
        folder(tmp_path, name, chunk_size=k, num_windows=None)
    table = load_runs(tmp_path, ["s"])
    assert trouble(table)[0].startswith("s/a, s/b: compared without pairs")
    comparison = compare(table)
    assert comparison.paired is None
    caution = headline(comparison, standings(comparison, table.floors), []).caution
    assert "could not be compared position by position (no run kept its scores" in caution
    assert "added as if independent" in caution


def test_one_warning_for_all_runs_with_the_same_trouble(tmp_path: Path) -> None:
    for i in range(MAX_NAMED + 3):
        folder(tmp_path, f"r{i}", seed=i, num_windows=None)
    (warning,) = trouble(load_runs(tmp_path, ["s"]))
    assert warning.startswith("s/r0, s/r1, s/r2 and 3 more runs: compared without pairs")


def test_damaged_scores_are_a_warning_without_absolute_paths(tmp_path: Path) -> None:
    whole = folder(tmp_path, "whole")
    names = ["cut", "other-step", "other-fingerprint", "not-finite", "other-shape", "no-table"]
    for name in names:
        shutil.copytree(whole, tmp_path / "s" / name)
        text = (tmp_path / "s" / name / "record.json").read_text()
        (tmp_path / "s" / name / "record.json").write_text(text.replace('"whole"', f'"{name}"'))
    scores = read_positions(whole / POSITIONS)
    path = {name: tmp_path / "s" / name / POSITIONS for name in names}
    path["cut"].write_bytes(path["cut"].read_bytes()[:2000])
    write_positions(path["other-step"], replace(scores, step=scores.step - 1))
    write_positions(path["other-fingerprint"], replace(scores, fingerprint="0" * 16))
    write_positions(path["not-finite"], replace(scores, values=np.where(scores.values > 0, scores.values, np.nan)))
    write_positions(path["other-shape"], replace(scores, values=scores.values[1:]))
    (tmp_path / "s" / "no-table" / FLOORS).write_bytes(b"PK")
    table = load_runs(tmp_path, ["s"])
    assert set(table.positions) == {"whole", "no-table"}
    assert set(table.floor_scores) == {"whole"}
    warnings = " ".join(trouble(table))
    assert str(tmp_path) not in warnings
    assert (
        "s/cut: compared without pairs and with wider intervals, because positions.npz cannot be read" in warnings
    )
    assert "s/other-step: compared without pairs" in warnings
    assert f"belongs to another evaluation (step {scores.step - 1}, fedcba9876543210)" in warnings
    assert f"belongs to another evaluation (step {scores.step}, {'0' * 16})" in warnings
    assert "s/not-finite: compared without pairs" in warnings
    assert "s/other-shape: compared without pairs" in warnings
    assert "s/no-table: compared with n-gram tables without pairs" in warnings


def test_runs_are_paired_at_the_windows_that_all_share(tmp_path: Path) -> None:
    folder(tmp_path, "a", chunk_size=1, num_windows=128)
    folder(tmp_path, "b", chunk_size=4, num_windows=60)
    folder(tmp_path, "c", chunk_size=2, num_windows=96)
    table = load_runs(tmp_path, ["s"])
    comparison = compare(table)
    paired = comparison.paired
    assert paired is not None
    assert (paired.num_windows, paired.most_windows, paired.num_positions) == (60, 128, 60 * NUM_POSITIONS)
    first, second = (table.positions[name].values[:60] for name in "ab")
    gap = next(p for p in standings(comparison, table.floors) if p.key == 1).gaps[4]
    wanted = paired_difference(first, second, paired.clusters, comparisons=3)
    assert (gap.low, gap.high) == pytest.approx((wanted.low, wanted.high))
    words = headline(comparison, standings(comparison, table.floors), []).caution
    assert "at the 60 windows that all runs share (of up to 128)" in words


def test_how_much_was_scored_does_not_make_another_setting(tmp_path: Path) -> None:
    """Two seeds of which one was scored on more windows are one setting: their scatter is noise."""
    folder(tmp_path, "a", seed=0, overrides={"eval.num_windows": 64})
    folder(tmp_path, "b", seed=1, overrides={"eval.num_windows": 96})
    comparison = compare(load_runs(tmp_path, ["s"]))
    assert [setting.num_seeds for setting in comparison.settings] == [2]
    assert comparison.noise is not None


def test_fewer_than_two_shared_windows_cannot_be_paired(tmp_path: Path) -> None:
    folder(tmp_path, "a")
    scores = read_positions(folder(tmp_path, "b") / POSITIONS)
    moved = replace(scores, starts=scores.starts + 1)
    paired, why = pair_up({"a": scores, "b": moved}, ["a", "b"])
    assert paired is None
    assert "share 0 evaluated windows" in why


def test_other_evaluations_are_never_paired(tmp_path: Path) -> None:
    """The run of the other fingerprint would be far better; it is in no pair and moves no window."""
    folder(tmp_path, "a", chunk_size=1)
    folder(tmp_path, "b", chunk_size=4)
    folder(tmp_path, "c", chunk_size=4, fingerprint="bbbb", brierlm=60.0, num_windows=8)
    comparison = compare(load_runs(tmp_path, ["s"]))
    assert comparison.paired is not None
    assert set(comparison.paired.values) == {"a", "b"}
    assert comparison.paired.num_windows == 96

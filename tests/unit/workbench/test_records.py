"""Records survive the disk; runs are found, other things are not."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from tests.suites.run_folders import make_run_folder
from workbench import formats, records
from workbench.errors import RunError


def test_round_trip(tmp_path: Path) -> None:
    make_run_folder(tmp_path / "run")
    record = records.read_record(tmp_path / "run")
    records.write_record(tmp_path / "copy", record)
    assert records.read_record(tmp_path / "copy") == record
    assert records.read_evaluations(tmp_path / "run")[-1] == record.final
    assert records.read_train_points(tmp_path / "run")


def test_the_head_loss_of_older_records_is_read_by_its_old_name(tmp_path: Path) -> None:
    """Records and evaluations of earlier versions call it energy_loss; what is written has the new name only."""
    run_dir = tmp_path / "run"
    make_run_folder(run_dir)
    record, evaluations = records.read_record(run_dir), records.read_evaluations(run_dir)
    assert record.final is not None
    assert record.final.head_loss is not None
    for name in (records.RECORD, records.EVALUATIONS):
        text = (run_dir / name).read_text()
        assert text.count('"head_loss') in (3, 3 * len(evaluations))
        text = text.replace('"head_loss', '"energy_loss').replace(f'"format": {formats.RUN},', "")
        (run_dir / name).write_text(text)
    assert records.read_record(run_dir) == record
    assert records.read_evaluations(run_dir) == evaluations
    records.write_record(run_dir, records.read_record(run_dir))
    assert "energy_loss" not in (run_dir / records.RECORD).read_text()
    assert records.read_record(run_dir) == record


def test_numbers_that_are_not_finite_survive(tmp_path: Path) -> None:
    make_run_folder(tmp_path / "run")
    record = records.read_record(tmp_path / "run")
    record.tokens_per_second = math.inf
    record.train_seconds = math.nan
    records.write_record(tmp_path / "run", record)
    again = records.read_record(tmp_path / "run")
    assert again.tokens_per_second == math.inf
    assert math.isnan(again.train_seconds)


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run folder: it has no record\.json"):
        records.read_record(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"run_id": "x", "surprise": 1}'])
def test_damaged_record(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(RunError, match=r"record\.json cannot be read"):
        records.read_record(tmp_path)


def test_finding_runs(tmp_path: Path) -> None:
    for age, place in enumerate(("study/b", "single/a", "study/c")):
        make_run_folder(tmp_path / place)
        os.utime(tmp_path / place / "config.yaml", (1000 + age, 1000 + age))
    make_run_folder(tmp_path / "mlartifacts" / "1" / "copy")
    make_run_folder(tmp_path / ".cache" / "old")
    found = [str(p.relative_to(tmp_path)) for p in records.find_runs(tmp_path)]
    assert found == ["study/b", "single/a", "study/c"]


def test_a_run_without_an_autoencoder(tmp_path: Path) -> None:
    assert records.read_autoencoder_report(tmp_path) is None


def test_a_session_removes_what_a_killed_one_has_left_half_written(tmp_path: Path) -> None:
    """At once, but for what others write there as well."""
    for name in (".config.yaml.abc.new", ".record.json.abc.new", ".mlflow.json.abc.new"):
        (tmp_path / name).write_text("half")
    records.write_config(tmp_path, "a: 1\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.json.abc.new", "config.yaml"]

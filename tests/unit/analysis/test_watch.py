from __future__ import annotations

import os
from pathlib import Path

import pytest

from analysis.watch import finished, signature, watch
from tests.suites.run_folders import make_run_folder
from workbench import files, processes, records
from workbench.errors import StudyError


def put(home: Path, status: str, *, run: str = "r", summary: bool = False) -> None:
    files.write_json(home / "s" / "study.json", {"name": "s"})
    files.write_json(home / "s" / run / "record.json", {"status": status})
    if summary:
        files.write_json(home / "s" / "summary.json", {})


def test_a_study_has_finished_when_its_summary_is_newer_than_its_runs(tmp_path: Path) -> None:
    put(tmp_path, "running")
    assert not finished(tmp_path, ["s"])
    put(tmp_path, "completed")
    assert not finished(tmp_path, ["s"])  # between two runs
    put(tmp_path, "completed", summary=True)
    assert finished(tmp_path, ["s"])
    os.utime(tmp_path / "s" / "summary.json", ns=(0, 0))  # resumed since
    assert not finished(tmp_path, ["s"])
    (tmp_path / "s" / "study.json").unlink()  # runs outside of a launch have no summary
    assert finished(tmp_path, ["s"])


def test_a_run_whose_process_was_killed_is_not_waited_for(tmp_path: Path) -> None:
    """It says that it runs, and will never say otherwise."""
    own = processes.this_process()
    run_dir = make_run_folder(tmp_path / "single" / "r", status="running", environment={"process": own})
    assert not finished(tmp_path, ["single"])
    record = records.read_record(run_dir)
    records.write_record(run_dir, record.model_copy(update={"environment": {"process": {**own, "ticks": 1}}}))
    assert finished(tmp_path, ["single"])


def test_the_signature_changes_with_every_file_that_is_read(tmp_path: Path) -> None:
    put(tmp_path, "running")
    before = signature(tmp_path, ["s"])
    assert set(before) == {"s/study.json", "s/r/record.json"}
    assert signature(tmp_path, ["s"]) == before
    (tmp_path / "s" / "r" / "evaluations.jsonl").write_text("{}\n")
    assert signature(tmp_path, ["s"]) != before
    (tmp_path / "s" / "r" / "metrics.jsonl").write_text("{}\n")  # no report reads it
    assert set(signature(tmp_path, ["s"])) == {*before, "s/r/evaluations.jsonl"}


def test_watching_writes_after_changes_and_once_more_at_the_end(tmp_path: Path) -> None:
    put(tmp_path, "running")
    written: list[int | None] = []
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        assert seconds == 5.0
        looks += 1
        if looks == 2:  # nothing happened at the first
            put(tmp_path, "running", run="second")
        if looks == 3:
            put(tmp_path, "completed")
            put(tmp_path, "completed", run="second", summary=True)

    assert watch(tmp_path, None, written.append, every=5.0, sleep=sleep) == 3
    assert written == [5, 5, None]
    assert looks == 3


def test_ctrl_c_ends_with_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer
    from typer.testing import CliRunner

    import analysis.report
    import analysis.watch
    from workbench.cli.report import register

    def interrupted(*args: object, **kwargs: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(analysis.watch, "watch", interrupted)
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)
    put(tmp_path, "running")
    result = CliRunner().invoke(app, ["report", "s", "--home", str(tmp_path), "--watch"])
    assert result.exit_code == 130


def test_an_unknown_study_is_said_at_once(tmp_path: Path) -> None:
    put(tmp_path, "running")
    with pytest.raises(StudyError, match="known: s"):
        watch(tmp_path, ["t"], lambda reload: None)

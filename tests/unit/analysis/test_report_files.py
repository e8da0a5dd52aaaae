"""The report as files: the same bytes again, in the right place, and nothing lost where writing fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import style
from analysis.files_written import guarded
from analysis.report import write_reports
from analysis.together import write_together
from tests.suites.run_folders import make_run_folder
from tests.suites.synthetic_study import write_study_files
from workbench.errors import OutputError, StudyError


@pytest.mark.slow
def test_same_runs_same_bytes_in_another_process(home: Path, report: Path, tmp_path: Path) -> None:
    """With another order of every set."""
    code = f"import sys; from analysis import report, style; style.DPI = {style.DPI}; "
    code += "print(hash('a')); report.write_reports(sys.argv[1], None, sys.argv[2])"
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(home), str(tmp_path / "other")]
    said = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout
    assert int(said) != hash("a")
    first, second = contents(report), contents(tmp_path / "other")
    assert len(first) > 50
    assert [name for name in first if first[name] != second.get(name)] == []


@pytest.mark.slow
def test_same_runs_same_bytes(tmp_path: Path) -> None:
    make_run_folder(tmp_path / "runs" / "s" / "r", num_points=2, num_evaluations=2, kind="baseline")
    write_reports(tmp_path / "runs", None, tmp_path / "one")
    first = contents(tmp_path / "one")
    assert len(first) > 20
    write_reports(tmp_path / "runs", None, tmp_path / "one")
    again = contents(tmp_path / "one")
    assert [name for name in first if first[name] != again[name]] == []
    assert first.keys() == again.keys()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_several_studies_get_a_folder_each(tmp_path: Path, no_figures: None) -> None:
    write_study_files(tmp_path / "runs" / "a")
    write_study_files(tmp_path / "runs" / "b")
    written = write_reports(tmp_path / "runs", None, tmp_path / "out")
    assert [w.html for w in written] == [tmp_path / "out" / n / "report.html" for n in "ab"]


def test_bad_places_leave_everything_as_it_was(tmp_path: Path, no_figures: None) -> None:
    write_study_files(tmp_path / "runs" / "a")
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not empty and holds no report\.html"):
        write_reports(tmp_path / "runs", ["a"], own)
    with pytest.raises(OutputError, match="is a file"):
        write_reports(tmp_path / "runs", ["a"], own / "thesis.txt")
    with pytest.raises(OutputError, match="cannot write"):
        write_reports(tmp_path / "runs", ["a"], own / "thesis.txt" / "report")
    with pytest.raises(StudyError, match="known: a"):
        write_reports(tmp_path / "runs", ["b"], tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["own", "runs"]
    assert os.listdir(own) == ["thesis.txt"]


@pytest.mark.parametrize("together", [False, True])
def test_bad_places_are_found_before_the_runs_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """And nothing is made by looking, below folders that are not there yet either."""
    for name in "ab":
        write_study_files(tmp_path / "runs" / name)
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("old")

    def read(*arguments: Any) -> Any:
        raise KeyError("read")

    for module in ("report", "together"):
        monkeypatch.setattr(f"analysis.{module}.load_runs", read)
    write, studies = (write_together, ["a", "b"]) if together else (write_reports, ["a"])
    for place in (out, tmp_path / "not" / "yet"):
        with pytest.raises(KeyError, match="read"):
            write(tmp_path / "runs", studies, place)
    with pytest.raises(OutputError, match="its name is too long"):
        write(tmp_path / "runs", studies, tmp_path / ("x" * 250))

    def protected(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", protected)
    for place in (out, tmp_path / "not" / "yet"):
        with pytest.raises(OutputError, match=rf"cannot write into {tmp_path}"):
            write(tmp_path / "runs", studies, place)
    assert sorted(os.listdir(tmp_path)) == ["out", "runs"]


def test_rewriting_keeps_what_else_lies_in_the_folder(tmp_path: Path, no_figures: None) -> None:
    write_study_files(tmp_path / "runs" / "a")
    out = tmp_path / "out"
    write_reports(tmp_path / "runs", ["a"], out)
    (out / "notes.txt").write_text("mine")
    (out / "data" / "stale.csv").write_text("old")
    write_reports(tmp_path / "runs", ["a"], out)
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "data" / "stale.csv").exists()
    assert sorted(os.listdir(tmp_path)) == ["out", "runs"]


def test_a_failure_while_writing_keeps_the_old_report(
    tmp_path: Path, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study_files(tmp_path / "runs" / "a")
    out = tmp_path / "out"
    write_reports(tmp_path / "runs", ["a"], out)
    before = (out / "report.html").read_bytes()

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OutputError, match="No space left"):
        write_reports(tmp_path / "runs", ["a"], out)
    assert (out / "report.html").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["out", "runs"]


def test_command_prints_the_path_last(tmp_path: Path, no_figures: None) -> None:
    import typer
    from typer.testing import CliRunner

    from workbench.cli.report import register

    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)  # two commands, so that names are needed
    write_study_files(tmp_path / "runs" / "a")
    result = CliRunner().invoke(app, ["report", "a", "--home", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == str(tmp_path / "reports" / "a" / "report.html")


def test_text_that_a_spreadsheet_would_run_is_quoted_in_csv() -> None:
    frame = pd.DataFrame({"name": ["=HYPERLINK(1)", "-0.5", "@x", "plain", None], "value": [-1.0, 2, 3, 4, 5]})
    shown = guarded(frame)
    assert shown["name"].tolist()[:4] == ["'=HYPERLINK(1)", "-0.5", "'@x", "plain"]
    assert shown["name"].isna().tolist() == [False] * 4 + [True]
    assert shown["value"].tolist() == frame["value"].tolist()


def test_a_wrong_file_of_others_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run_folder(tmp_path / "runs" / "s" / "r", num_points=2)
    monkeypatch.setattr("analysis.report.load_runs", lambda *_: pytest.fail("runs were read first"))
    with pytest.raises(StudyError, match="there is no such file"):
        write_reports(tmp_path / "runs", external=[tmp_path / "absent.csv"])
    with pytest.raises(StudyError, match=r"two files of results are called 'a': .* rename one"):
        write_reports(tmp_path / "runs", external=[tmp_path / "x" / "a.csv", tmp_path / "y" / "a.csv"])

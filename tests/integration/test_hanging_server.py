"""A PostgreSQL server whose processes are stopped takes calls and answers none: who is asked to leave leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from studies import database, hanging, recovery
from studies.search_spec import HeartbeatSpec
from studies.worker import open_launch
from tests.suites import postgres
from tests.suites.fake_runner import ATTEMPTS
from tests.suites.study_launch import FAKE
from tests.suites.waiting import wait_for
from workbench.home import open_home

pytestmark = [pytest.mark.slow, postgres.NEEDED]


@contextlib.contextmanager
def stopped(server: postgres.Server) -> Iterator[None]:
    postmaster = psutil.Process(int((server.folder / "data" / "postmaster.pid").read_text().splitlines()[0]))
    processes = [postmaster]
    postmaster.suspend()  # first: it starts no more
    try:
        processes += postmaster.children(recursive=True)
        for process in processes[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def launcher(home: Path, url: str, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "workbench.cli", "study", "run", "joint", "--preset", "quick"]
    command += ["--name", "pgs", "--trials", "2", "--workers", "1", "--threads", "1", "--tracking-uri", "none"]
    command += ["--home", str(home), "--storage", url, "--execute", FAKE]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "FAKE_SECONDS": str(seconds)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials(deepcopy=False)]


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_a_study_leaves_a_server_that_hangs(
    tmp_path: Path, server: postgres.Server, url: str, number: signal.Signals, times: int
) -> None:
    """Worker and launcher; whoever comes when it answers again takes the trial up."""
    process = launcher(tmp_path, url, seconds=4)
    try:
        wait_for(lambda: list(tmp_path.glob(f"pgs/*/{ATTEMPTS}")), seconds=60)
        with stopped(server):
            time.sleep(1.5)  # the launcher looks once a second
            for again in range(times):
                time.sleep(1.0 * again)
                process.send_signal(number)
            said, _ = process.communicate(timeout=25)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said
    assert "it takes calls and answers none" in said
    assert "queued again when it does" in said
    assert "continue with: calm study run pgs" in said
    log = (tmp_path / "pgs" / "logs" / "worker-0.log").read_text()
    assert "Traceback" not in log
    assert ("stopped: storage" in log) == (times == 1)
    launch = open_launch(str(tmp_path), "pgs", url)
    assert launch.search.user_attrs["abort"] == ""
    lost = [study for study in (launch.search, launch.cells) if TrialState.RUNNING in states(study)]
    queued = [recovery.recover(study, launch.spec.heartbeat, launch.folder) for study in lost]
    assert [len(numbers) for numbers in queued] == [1]
    assert TrialState.WAITING in states(lost[0])


def test_nobody_waits_for_ever(
    tmp_path: Path, server: postgres.Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor without a signal: neither for a call, nor for the connection."""
    opened = database.open_storage(url, open_home(tmp_path), HeartbeatSpec())
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(hanging, "CONNECT_SECONDS", 2)
    with stopped(server):
        with pytest.raises(hanging.HangingError):
            opened.get_all_studies()
        with pytest.raises(database.StudyError, match="cannot be opened"):
            database.open_storage(url, open_home(tmp_path), HeartbeatSpec())
    monkeypatch.undo()
    assert opened.get_all_studies() == []


def test_both_ends_notice_a_lost_network(tmp_path: Path, url: str) -> None:
    opened = database.open_storage(url, open_home(tmp_path), HeartbeatSpec())
    with opened.engine.connect() as connection:
        said = {
            name: connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("TimeZone", "tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
        }
        here = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    assert list(said.values()) == ["UTC", "30", "10", "3"]
    assert (here["connect_timeout"], here["tcp_user_timeout"]) == ("10", "60000")

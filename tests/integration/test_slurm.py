"""Studies as SLURM jobs: the files and commands are submitit's own, the scheduler is a stand-in of one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState

from studies import database, plan, prepare, slurm, storage
from studies.prepare import Options
from studies.storage import Launch
from tests.suites import fake_slurm, postgres
from tests.suites.fake_runner import ATTEMPTS
from tests.suites.study_launch import FAKE, tiny_spec, tiny_study
from tests.suites.waiting import wait_for
from workbench.files import read_json, read_json_lines
from workbench.home import open_home

CALM = [sys.executable, "-m", "workbench.cli"]
pytestmark = [pytest.mark.slow, postgres.NEEDED]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SLURM's programs first in the PATH; gives the folder of its jobs."""
    environment = fake_slurm.install(tmp_path / "slurm")
    for name, value in {**environment, "FAKE_KILL_WAIT": "6", "PYTHONPATH": os.getcwd()}.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "slurm" / "jobs"


def created(folder: Path, url: str, **preset: object) -> Launch:
    spec = tiny_spec(**{"baselines": {}, "checks": {}, **preset})
    home = open_home(folder)
    search, cells = storage.create(spec, database.open_storage(url, home, spec.heartbeat))
    launch = Launch(home, url, spec, search, cells)
    prepare.write_study_file(launch, "none")
    return launch


def calm(launch: Launch, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*CALM, "study", *arguments, "--home", str(launch.home.root), "--storage", launch.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def submit(launch: Launch, workers: int, *more: str) -> subprocess.CompletedProcess[str]:
    return calm(
        launch,
        *("run", launch.name, "--launcher", "slurm", "--workers", str(workers), "--tracking-uri", "none"),
        *("--execute", FAKE, *more),
    )


def attempts(launch: Launch) -> Counter[str]:
    paths = launch.folder.glob(f"*/{ATTEMPTS}")
    return Counter({path.parent.name: len(read_json_lines(path)) for path in paths})


def state_of(cluster: Path, job: str) -> str:
    return (cluster / job / "state").read_text()


def test_an_array_of_jobs_shares_the_trials(
    tmp_path: Path, url: str, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command ends at once; the options arrive; no password lies in a file."""
    monkeypatch.setenv("FAKE_SECONDS", "0.5")
    secret = url.replace("calm@", "calm:not-to-be-seen@")
    launch = created(tmp_path / "home", secret, trials=6)
    done = submit(
        launch,
        2,
        *("--partition", "long", "--gpus-per-worker", "1", "--cpus-per-worker", "3", "--time", "1-02:30:00"),
        *("--slurm", "mem=16GB", "--slurm", "hint=nomultithread", "--slurm", "setup=export SEEN=yes"),
    )
    assert done.returncode == 0, done.stderr
    assert "submitted 2 job(s) for tiny-quick: 1001_0, 1001_1" in done.stdout
    options = json.loads((cluster / "1001_0" / "options").read_text())
    wanted = {"array": "0-1%2", "partition": "long", "gpus-per-node": "1", "cpus-per-task": "3", "time": "1590"}
    wanted |= {"mem": "16GB", "hint": "nomultithread", "signal": "USR2@90", "job-name": "calm-tiny-quick"}
    assert options.items() >= wanted.items()
    assert "requeue" in options
    assert "export SEEN=yes" in (launch.folder / "slurm" / "1001_submission.sh").read_text()
    wait_for(lambda: all(state_of(cluster, job) == "COMPLETED" for job in ("1001_0", "1001_1")))
    assert plan.is_finished(launch.spec, launch.search, launch.cells)
    assert Counter(attempts(launch).values()) == {1: 6}
    assert {t.user_attrs["worker"]["index"] for t in launch.search.get_trials()} == {0, 1}
    assert (launch.folder / "summary.json").exists()
    (row,) = read_json(launch.folder / "slurm" / "jobs.json")
    assert (row["jobs"], row["cpus"], row["minutes"]) == (["1001_0", "1001_1"], 3, 1590)
    written = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert [path for path in written if b"not-to-be-seen" in path.read_bytes()] == []


def test_a_job_near_its_time_limit_gives_its_trial_back_and_is_queued_again(
    tmp_path: Path, url: str, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "4")
    launch = created(tmp_path / "home", url, trials=1)
    assert submit(launch, 1).returncode == 0
    wait_for(lambda: attempts(launch))
    subprocess.run(["scancel", "--signal=USR2", "1001"], check=True)
    wait_for(lambda: state_of(cluster, "1001") == "COMPLETED")
    assert (cluster / "1001" / "requeued").read_text() == "1"
    first, second = launch.search.get_trials()
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert second.user_attrs["continues"] == [0]
    assert "died" not in first.user_attrs  # given back, not found dead
    assert attempts(launch) == {"t000-s0": 2}


def test_status_shows_the_jobs_and_stop_cancels_them(
    tmp_path: Path, url: str, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "60")
    launch = created(tmp_path / "home", url, trials=2)
    assert submit(launch, 2).returncode == 0
    wait_for(lambda: len(attempts(launch)) == 2)
    said = calm(launch, "status", launch.name).stdout
    assert "workers alive: 2" in said
    assert "job 1001_1: running on fake1" in said
    assert len(json.loads(calm(launch, "status", launch.name, "--json").stdout)["jobs"]) == 2
    said = calm(launch, "stop", launch.name).stdout
    assert "cancelled: 1001_0, 1001_1" in said
    given_back = Counter({TrialState.FAIL: 2, TrialState.WAITING: 2})  # one after the other
    wait_for(lambda: Counter(t.state for t in launch.search.get_trials()) == given_back)
    wait_for(lambda: all(state_of(cluster, job) == "CANCELLED" for job in ("1001_0", "1001_1")))
    assert "no jobs in SLURM's queue" in calm(launch, "stop", launch.name).stdout


def test_submitits_local_executor_runs_the_same_jobs(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new study, frozen here; the jobs know only its launch."""
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": tiny_study(baselines={}, checks={}, trials=3)})
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    monkeypatch.setenv("FAKE_SECONDS", "0.3")
    options = Options(name="tiny", storage=url, tracking_uri="none", workers=2, execute=FAKE)
    submission = slurm.submit(options, slurm.Resources(minutes=2), open_home(tmp_path), cluster="local")
    assert len(submission.jobs) == 2
    launch = submission.launch
    wait_for(lambda: plan.is_finished(launch.spec, launch.search, launch.cells))
    wait_for(lambda: len(list(submission.folder.glob("*_result.pkl"))) == 2)
    assert Counter(attempts(launch).values()) == {1: 3}
    assert slurm.submit(options, slurm.Resources(), open_home(tmp_path), cluster="local").jobs == ()


def test_what_sbatch_says_is_told(tmp_path: Path, url: str, cluster: Path) -> None:
    launch = created(tmp_path / "home", url, trials=1)
    done = submit(launch, 1, "--partition", "nowhere")
    assert done.returncode == 2
    assert "sbatch refused the jobs: " in done.stderr
    assert "invalid partition specified: nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_stand_in_kills_what_does_not_end(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a cancelled job would only seem to end."""
    monkeypatch.setenv("FAKE_KILL_WAIT", "0.5")
    script = tmp_path / "script.sh"
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    script.write_text(f"#!/bin/bash\n#SBATCH --time=1\nsrun --unbuffered {sys.executable} -S -c '{stubborn}'\n")
    subprocess.run(["sbatch", str(script)], check=True, capture_output=True)
    wait_for(lambda: (cluster / "1001" / "pid").exists())
    subprocess.run(["scancel", "1001"], check=True)
    wait_for(lambda: state_of(cluster, "1001") == "CANCELLED", seconds=10)

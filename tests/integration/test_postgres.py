"""Studies on a real PostgreSQL server: several hosts with folders of their own, kills, wrong clocks, restarts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from optuna.trial import TrialState

from studies import database, plan, prepare, storage
from studies.claim import claim
from studies.recovery import failed
from studies.spec import StudySpec
from studies.storage import Launch
from studies.worker import open_launch
from tests.suites import postgres
from tests.suites.fake_runner import ATTEMPTS
from tests.suites.study_launch import FAKE, tiny_spec
from tests.suites.waiting import wait_for
from workbench.errors import StudyError
from workbench.files import read_json_lines
from workbench.home import open_home

pytestmark = [pytest.mark.slow, postgres.NEEDED]


def create(folder: Path, url: str, spec: StudySpec) -> Launch:
    home = open_home(folder)
    search, cells = storage.create(spec, database.open_storage(url, home, spec.heartbeat))
    launch = Launch(home, url, spec, search, cells)
    prepare.write_study_file(launch, "none")
    return launch


@dataclass
class Host:
    """A home folder of its own, and workers that believe themselves elsewhere."""

    name: str
    folder: Path
    url: str
    ahead: float = 0.0

    def start(self, seconds: float = 0.0, index: int = 0) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "FAKE_SECONDS": str(seconds),
            "PYTHONPATH": os.getcwd(),
            "CALM_STORAGE": self.url,
        }
        command = [sys.executable, "-m", "tests.suites.other_host", self.name, str(self.ahead)]
        command += ["--home", str(self.folder), "--launch", "tiny-quick", "--worker", str(index)]
        command += ["--tracking-uri", "none", "--execute", FAKE]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def attempts(self) -> Counter[str]:
        paths = self.folder.glob(f"tiny-quick/*/{ATTEMPTS}")
        return Counter({path.parent.name: len(read_json_lines(path)) for path in paths})


def finish(*workers: subprocess.Popen[str]) -> None:
    for worker in workers:
        _, said = worker.communicate(timeout=150)
        assert worker.returncode == 0, said


def everything_once(launch: Launch, *hosts: Host) -> None:
    """Every trial that was wanted, no more, and each trained by one host only."""
    assert plan.is_finished(launch.spec, launch.search, launch.cells)
    assert plan.count(launch.search.get_trials()).complete == launch.spec.trials
    assert failed(launch.search) == failed(launch.cells) == []
    total: Counter[str] = sum((host.attempts() for host in hosts), Counter())
    assert set(total.values()) == {1}
    assert total.total() == launch.spec.trials + len(launch.spec.baselines) + len(launch.spec.check_names)


def test_two_hosts_share_the_trials_whatever_their_clocks_say(tmp_path: Path, url: str) -> None:
    """One a day ahead. Never a trial more than wanted, nor a cell twice."""
    launch = create(tmp_path / "a", url, tiny_spec(trials=8))
    hosts = [Host("a", tmp_path / "a", url), Host("b", tmp_path / "b", url, ahead=86_400.0)]
    finish(*(host.start(seconds=0.4, index=i) for host in hosts for i in range(2)))
    everything_once(launch, *hosts)
    owners = {t.user_attrs["worker"]["host"] for t in launch.search.get_trials()}
    assert owners == {"a", "b"}
    assert len(launch.search.get_trials()) == 8


def test_a_host_that_is_killed_loses_its_trial_to_the_other_after_the_grace_period(
    tmp_path: Path, url: str
) -> None:
    """By the database's clock; the other's is an hour behind."""
    spec = tiny_spec(trials=3, baselines={}, checks={}, heartbeat={"interval": 1, "grace": 3})
    launch = create(tmp_path / "a", url, spec)
    a, b = Host("a", tmp_path / "a", url), Host("b", tmp_path / "b", url, ahead=-3600.0)
    victim = a.start(seconds=60)
    wait_for(a.attempts)
    victim.kill()
    victim.wait()
    finish(b.start())
    assert plan.count(launch.search.get_trials()).complete == 3
    assert plan.is_finished(spec, launch.search, launch.cells)
    taken = b.attempts()
    assert "t000-s0" in taken
    assert (len(taken), taken.total()) == (3, 3)
    assert "no sign of life" in launch.search.get_trials()[0].user_attrs["died"]


def test_a_host_that_was_suspended_leaves_its_trial_to_the_other(tmp_path: Path, url: str) -> None:
    spec = tiny_spec(trials=1, baselines={}, checks={}, heartbeat={"interval": 1, "grace": 3})
    launch = create(tmp_path / "a", url, spec)
    a, b = Host("a", tmp_path / "a", url), Host("b", tmp_path / "b", url)
    sleeper = a.start(seconds=4)
    wait_for(a.attempts)
    sleeper.send_signal(signal.SIGSTOP)
    finish(b.start())
    sleeper.send_signal(signal.SIGCONT)
    finish(sleeper)
    assert [t.state for t in launch.search.get_trials()] == [TrialState.FAIL, TrialState.COMPLETE]
    assert b.attempts() == {"t000-s0": 1}


def test_the_server_is_restarted_in_the_middle(tmp_path: Path, server: postgres.Server, url: str) -> None:
    """Workers wait for it and go on; the trials under way are not lost."""
    launch = create(tmp_path / "a", url, tiny_spec(trials=4, checks={}))
    hosts = [Host("a", tmp_path / "a", url), Host("b", tmp_path / "b", url)]
    workers = [host.start(seconds=2) for host in hosts]
    wait_for(lambda: all(host.attempts() for host in hosts))
    server.stop()
    time.sleep(3)
    server.start()
    finish(*workers)
    everything_once(launch, *hosts)


def test_the_claim_is_free_when_its_holder_is_killed(url: str) -> None:
    hold = (
        f"import time; from studies.claim import claim; claim({url!r}, 'x').__enter__(); print('held', flush=True)"
    )
    holder = subprocess.Popen([sys.executable, "-c", f"{hold}; time.sleep(60)"], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    other = claim(url, "x")
    assert not other._lock.attempt()
    with claim(url, "another study"):
        pass
    holder.kill()
    holder.communicate()
    with other:
        assert not claim(url, "x")._lock.attempt()
    with claim(url, "x"):
        pass


OPENS = """
import sys
import workbench.tracking_mlflow
from workbench.home import open_home
from workbench.tracking import open_tracker
print("ready", flush=True)
sys.stdin.readline()
open_tracker(sys.argv[1], experiment="demo", home=open_home(sys.argv[2])).close()
"""


def test_hosts_that_find_the_tracking_database_empty_at_the_same_time(tmp_path: Path, url: str) -> None:
    """One makes MLflow's tables, which the others may meet half made."""
    commands = [[sys.executable, "-c", OPENS, url, str(tmp_path / name)] for name in "ab"]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said


def test_a_server_that_is_not_there_is_one_message(tmp_path: Path, server: postgres.Server) -> None:
    missing = f"postgresql://calm:secret@127.0.0.1:{server.port}/missing"
    with pytest.raises(StudyError, match=r"calm:\*\*\*@.* cannot be opened") as raised:
        open_launch(str(tmp_path), "tiny-quick", missing)
    assert "secret" not in str(raised.value)

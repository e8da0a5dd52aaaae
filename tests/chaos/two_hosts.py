"""A study on two hosts, one of which dies: every trial once, none lost, every point on the server once.

    python -m tests.chaos.two_hosts --trials 20 --seed 0

A real PostgreSQL server, a real MLflow server and two ``calm study run`` with a home folder each, which believe
themselves on different hosts. In the middle of a trial every process of one host is killed with SIGKILL, and does
not come back: the other one finishes the study. Then ``calm sync`` on the dead host's folder, as after its repair.
What came out is compared with a study that one worker ran undisturbed. Prints a table; exit code 1 where anything
is lost, doubled, stuck or different.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from optuna.trial import TrialState

from studies import database, prepare, recovery, storage
from studies.spec import StudySpec
from studies.storage import Launch
from tests.chaos.kills import NAME, leave_alone
from tests.suites import postgres
from tests.suites.delivered import Verdict, compare_folders, compare_rest, shown_runs
from tests.suites.faulty_server import free_port
from tests.suites.other_host import environment, seen_from
from tests.suites.study_launch import create, tiny_spec
from tests.suites.tiny_runs import leftovers, traces, tree, write_text
from workbench import records
from workbench.home import Home, open_home
from workbench.tracking import open_tracker
from workbench.tracking_server import serve

CALM = [sys.executable, "-m", "workbench.cli"]
LONGEST_SECONDS = 600.0
"""Of the whole study."""


def specification(folder: Path, trials: int, steps: int) -> StudySpec:
    """A grid of CALMs with K = 2 and 4, ``trials`` in all."""
    base = tree(write_text(folder / "text.txt"))
    base["train"] = {**base["train"], "train_tokens": steps * 128, "num_evaluations": 4}
    base["train"]["checkpoint_every_seconds"] = 0.5
    rates = [1e-3 * (1 + 0.1 * i) for i in range(trials // 2)]
    return tiny_spec(
        base=base,
        space={"model.chunk_size": {"choices": [2, 4]}, "optim.lr": {"choices": rates}},
        sampler={"kind": "grid"},
        trials=2 * len(rates),
        checks={},
        baselines={},
        heartbeat={"interval": 1, "grace": 3},
    )


@dataclass
class Host:
    """A home folder of its own, and processes that believe themselves on a machine called ``name``."""

    name: str
    folder: Path

    @property
    def home(self) -> Home:
        return open_home(self.folder / "home")

    @property
    def log(self) -> Path:
        return self.folder / "launcher.log"

    def calm(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command, as a user types it there."""
        command = [*CALM, *arguments, "--home", str(self.home.root)]
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                command,
                env=environment(self.name, self.folder / "site"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run_study(self, url: str, tracking_uri: str) -> subprocess.Popen[bytes]:
        where = ["--storage", url, "--tracking-uri", tracking_uri]
        return self.calm("study", "run", NAME, *where, "--workers", "1", "--threads", "1")

    def suspend(self, launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """The launcher and all that it started."""
        family = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
        for process in family:
            process.suspend()
        return family

    def kill(self, launcher: subprocess.Popen[bytes], family: list[psutil.Process]) -> int:
        """Those that are suspended, before any of them can do a thing about it; how many."""
        for process in family:
            process.send_signal(signal.SIGKILL)
        launcher.wait()
        psutil.wait_procs(family, timeout=10)
        return len(family)


@dataclass
class Outcome:
    wanted: int = 0
    seconds: float = 0.0
    quiet_seconds: float = 0.0
    """Of the study that was left alone."""
    killed: str = ""
    """Host."""
    processes_killed: int = 0
    under_way: list[str] = field(default_factory=list)
    """Runs of the killed host when it died."""
    complete: Counter[str] = field(default_factory=Counter)
    """Completed trials by host."""
    given_out_again: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    """Settings that two trials completed, or two folders hold finished."""
    unsaid: list[str] = field(default_factory=list)
    """Runs that the killed host had ended when it died, but not told the study: the other trained them again."""
    stuck: int = 0
    different: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    exit_code: int | None = None
    """Of the surviving launcher."""
    shown: Verdict = field(default_factory=Verdict)

    @property
    def good(self) -> bool:
        bad = (self.lost, self.doubled, self.stuck, self.different, self.leftovers, self.exit_code != 0)
        once = self.complete.total() == self.wanted and self.given_out_again == len(self.under_way) == 1
        return once and not any(bad) and self.shown.whole

    def table(self) -> str:
        hosts = ", ".join(f"{count} on {host}" for host, count in sorted(self.complete.items()))
        rows = {
            "time": f"{self.seconds:.0f} s; one worker left alone {self.quiet_seconds:.0f} s",
            "killed": f"host {self.killed}, {self.processes_killed} processes, during {self.under_way}",
            "trials complete": f"{self.complete.total()} of {self.wanted} ({hosts})",
            "trials given out again": self.given_out_again,
            "trials lost, doubled, stuck": f"{len(self.lost)}, {len(self.doubled)}, {self.stuck}",
            "ended, not told, trained again": str(len(self.unsaid)),
            "runs that differ from the undisturbed": len(self.different),
            "temporary files left in finished runs": len(self.leftovers),
            "points shown in MLflow": f"{self.shown.points:,} of {self.shown.runs} runs",
            "... lost, doubled, altered": ", ".join(
                str(len(points)) for points in (self.shown.lost, self.shown.doubled, self.shown.altered)
            ),
            "... runs doubled, wrong status": f"{self.shown.doubled_runs}, {len(self.shown.wrong_status)}",
            "exit code of the other host": self.exit_code,
        }
        width = max(map(len, rows))
        lines = [f"{name:{width}}  {value}" for name, value in rows.items()]
        more = (self.lost, self.doubled, self.different, self.leftovers, self.shown.lost, self.shown.doubled)
        return "\n".join([*lines, *(line for found in more for line in found[:10]), *self.shown.wrong_status])


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[tuple[str, str]]:
    """PostgreSQL and MLflow on loopback: the database's URL and the server's."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:  # other users must get in
        Path(place).chmod(0o755)
        cluster = postgres.Server.create(Path(place) / "cluster")
        cluster.start()
        try:
            home = open_home(folder / "server")
            open_tracker(None, home=home).close()  # makes its database
            with serve(home, free_port()) as (address, _):
                yield cluster.new_database("calm"), address
        finally:
            cluster.stop()


def running(launch: Launch, host: str) -> list[str]:
    """Runs that ``host`` has begun and not ended, with a few steps done."""
    trials = launch.search.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    mine = [trial for trial in trials if trial.user_attrs.get("worker", {}).get("host") == host]
    return [run for trial in mine if trial.user_attrs.get("evaluations") for run in trial.user_attrs["runs"]]


def completed(launch: Launch) -> int:
    return len(launch.search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def disturb(launch: Launch, hosts: list[Host], tracking_uri: str, rng: random.Random, outcome: Outcome) -> None:
    """Run the study on both hosts and kill one of them in the middle of a trial."""
    began = time.monotonic()
    launchers = {host.name: host.run_study(launch.url, tracking_uri) for host in hosts}
    try:
        after = rng.randrange(1, max(2, outcome.wanted // 2))
        family: list[psutil.Process] = []
        while not family:
            while completed(launch) < after or not (busy := [h for h in hosts if running(launch, h.name)]):
                said = "\n".join(host.log.read_text() for host in hosts)
                assert time.monotonic() - began < LONGEST_SECONDS, said
                assert any(launcher.poll() is None for launcher in launchers.values()), said
                time.sleep(0.05)
            victim = rng.choice(busy)
            time.sleep(rng.uniform(0.0, 0.2))
            family = victim.suspend(launchers[victim.name])
            if not running(launch, victim.name):  # a short trial may have ended meanwhile: another one then
                for process in family:
                    process.resume()
                family = []
        (other,) = (host for host in hosts if host is not victim)
        outcome.killed, outcome.processes_killed = victim.name, victim.kill(launchers[victim.name], family)
        outcome.under_way = running(launch, victim.name)
        outcome.exit_code = launchers[other.name].wait(timeout=LONGEST_SECONDS)
        outcome.seconds = time.monotonic() - began
    finally:
        for host in hosts:
            if launchers[host.name].poll() is None:
                host.kill(launchers[host.name])
    assert victim.calm("sync", "--tracking-uri", tracking_uri).wait(timeout=120) == 0, victim.log.read_text()


def finished_runs(home: Home) -> dict[str, Path]:
    """By their configuration."""
    found = {run_dir: records.read_record(run_dir) for run_dir in records.find_runs(home.study(NAME))}
    return {record.config_hash: run_dir for run_dir, record in found.items() if record.status == "completed"}


def judge(launch: Launch, hosts: list[Host], quiet: Home, outcome: Outcome) -> None:
    trials = launch.search.get_trials()
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    outcome.complete = Counter(trial.user_attrs["worker"]["host"] for trial in complete)
    outcome.given_out_again = len(recovery.superseded(trials))
    outcome.stuck = sum(trial.state in (TrialState.RUNNING, TrialState.WAITING) for trial in trials)
    outcome.stuck += len(recovery.failed(launch.search))
    settings = Counter(json.dumps(trial.params, sort_keys=True) for trial in complete)
    outcome.doubled = [setting for setting, times in settings.items() if times > 1]
    wanted, found = finished_runs(quiet), [finished_runs(host.home) for host in hosts]
    both = found[0].keys() & found[1].keys()  # but a run may have ended when its host died before it said so
    dead = found[[host.name for host in hosts].index(outcome.killed)]
    outcome.unsaid = sorted(key for key in both if dead[key].name in outcome.under_way)
    outcome.doubled += sorted(both - set(outcome.unsaid))
    mine = {**found[0], **found[1]}
    outcome.lost = sorted(wanted.keys() - mine.keys())
    outcome.doubled += sorted(mine.keys() - wanted.keys())
    for key in wanted.keys() & mine.keys():
        one, other = traces(mine[key]), traces(wanted[key])
        outcome.different += [f"{mine[key].name}: {part}" for part in one if one[part] != other[part]]
        outcome.leftovers += [f"{mine[key].name}: {name}" for name in leftovers(mine[key])]


def compare(hosts: list[Host], tracking_uri: str) -> Verdict:
    """Every point of both hosts' folders, also of the run that died, against the server."""
    tracker: Any = open_tracker(tracking_uri, experiment=NAME, home=hosts[0].home)
    with contextlib.closing(tracker):
        shown, verdict = shown_runs(tracker), Verdict()
        for host in hosts:
            with seen_from(host.name):
                compare_folders(tracker, host.home, NAME, shown, verdict)
        compare_rest(shown, verdict)
    return verdict


def chaos(folder: Path, *, trials: int, steps: int, seed: int) -> Outcome:
    """Run the study twice below ``folder``, once left alone and once on two hosts of which one dies."""
    spec = specification(folder, trials, steps)
    outcome = Outcome(wanted=spec.trials)
    quiet = create(folder / "quiet", spec)
    began = time.monotonic()
    leave_alone(quiet)
    outcome.quiet_seconds = time.monotonic() - began
    with servers(folder) as (url, tracking_uri):
        hosts = [Host("a", folder / "a"), Host("b", folder / "b")]
        home = hosts[0].home
        search, cells = storage.create(spec, database.open_storage(url, home, spec.heartbeat))
        launch = Launch(home, url, spec, search, cells)
        prepare.write_study_file(launch, tracking_uri)
        disturb(launch, hosts, tracking_uri, random.Random(seed), outcome)
        judge(launch, hosts, quiet.home, outcome)
        outcome.shown = compare(hosts, tracking_uri)
        database.database_of(search).engine.dispose()
    return outcome


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.two_hosts", description="Kill one of two hosts of a study."
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        outcome = chaos(Path(folder), **vars(given))
    print(outcome.table())
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())

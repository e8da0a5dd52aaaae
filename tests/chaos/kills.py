"""Kill the workers and the launcher of a real study at random moments, and compare what comes out with a study
that was left alone.

    python -m tests.chaos.kills --kills 50 --cells 12 --workers 2 --seed 0

The study is a fixed list of cells without a pruner: CALMs of several K and token baselines, trained by the real
runner on a text of the test's own, shown in an MLflow database. Every kill is SIGKILL: of one worker, of all, of
the launcher, or of all at once (a power cut, as far as processes go). Prints a table; exit code 1 where anything
is lost, repeated, stuck or different.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from optuna.trial import TrialState

from studies import plan, prepare, recovery
from studies.objective import Worker, load_runner
from studies.spec import StudySpec
from studies.storage import Launch
from studies.worker import Stop, work
from tests.suites.delivered import Verdict, compare_shown
from tests.suites.study_launch import create, tiny_spec
from tests.suites.tiny_runs import BASELINE, leftovers, traces, tree, write_text
from workbench import processes, records
from workbench.tracking import open_tracker
from workbench.tracking_sync import sync

NAME = "tiny-quick"
TARGETS = {"one worker": 0.55, "all workers": 0.15, "launcher": 0.15, "everything": 0.15}
AT_WORK = 0.7
"""Share of the kills that come up to LONGEST_WAIT seconds after a trial was seen under way; the others come up to
so long after the last kill, when most processes are starting."""
LONGEST_WAIT = 4.0
START_SECONDS = 60.0
"""What a trial gets to be under way."""
STUCK_SECONDS = 300.0
"""After the last kill."""


def specification(folder: Path, cells: int, steps: int) -> StudySpec:
    """A grid of CALMs with K = 1, 2, 4, and a quarter of the ``cells`` token baselines."""
    text = folder / "text.txt"
    write_text(text)
    base = tree(text)
    base["train"] = {**base["train"], "train_tokens": steps * 128, "num_evaluations": 4}
    base["train"]["checkpoint_every_seconds"] = 0.5
    per_kind = cells // 4
    clips = [1.0 + 0.01 * i for i in range(per_kind)]
    baseline = {f"model.{key}": value for key, value in BASELINE["model"].items() if key != "backbone"}
    return tiny_spec(
        base=base,
        space={"model.chunk_size": {"choices": [1, 2, 4]}, "optim.clip": {"choices": clips}},
        sampler={"kind": "grid"},
        trials=3 * per_kind,
        checks={},
        baselines={f"baseline-{i}": {**baseline, "optim.clip": clip} for i, clip in enumerate(clips)},
    )


def launch_in(folder: Path, spec: StudySpec, tracking_uri: str | None) -> Launch:
    launch = create(folder, spec)
    prepare.write_study_file(launch, tracking_uri)
    return launch


def leave_alone(launch: Launch) -> None:
    """The study in this process, by one worker."""
    identity = recovery.this_worker(0)
    work(Worker(launch, load_runner(), tracker=None, tracking_parent=None, threads=1, identity=identity), Stop())


def start(launch: Launch, workers: int) -> subprocess.Popen[bytes]:
    """``calm study run``, as a user types it."""
    command = [sys.executable, "-m", "workbench.cli", "study", "run", NAME]
    command += ["--home", str(launch.home.root), "--workers", str(workers), "--threads", "1"]
    with open(launch.home.root / "launcher.log", "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def workers_of(launch: Launch) -> list[psutil.Process]:
    """Also those that an earlier launcher has left behind."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if "studies.worker" in line and str(launch.home.root) in line:
                found.append(process)
    return found


@dataclass
class Finished:
    """Runs as they were when they were first seen to have ended."""

    seen: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def look(self, launch: Launch) -> None:
        for name, now in self.now(launch).items():
            self.seen.setdefault(name, now)

    @staticmethod
    def now(launch: Launch) -> dict[str, tuple[str, str, str]]:
        found = {}
        for run_dir in records.find_runs(launch.folder):
            record = records.read_record(run_dir)  # never half a file, however many were killed
            if record.status == "completed":
                scores = (run_dir / records.EVALUATIONS).read_text(encoding="utf-8")
                found[run_dir.name] = (record.created, str(record.finished), scores)
        return found

    def differences(self, launch: Launch) -> tuple[int, int]:
        """Lost, repeated."""
        now = self.now(launch)
        lost = sum(name not in now for name in self.seen)
        return lost, sum(name in now and now[name] != before for name, before in self.seen.items())


@dataclass
class Outcome:
    kills: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    quiet_seconds: float = 0.0
    """Of the study that was left alone."""
    launchers: int = 0
    lost: int = 0
    repeated: int = 0
    stuck: int = 0
    different: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    tracebacks: int = 0
    """In the logs of launchers and workers."""
    wanted: int = 0
    trials: Counter[str] = field(default_factory=Counter)
    shown: Verdict = field(default_factory=Verdict)

    @property
    def good(self) -> bool:
        bad = (self.lost, self.repeated, self.stuck, self.different, self.leftovers, self.tracebacks)
        return not any(bad) and self.shown.whole and self.kills.total() == self.wanted

    def table(self) -> str:
        kinds = ", ".join(f"{count} {target}" for target, count in sorted(self.kills.items()))
        rows = {
            "kills": f"{self.kills.total()} ({kinds})",
            "time": f"{self.seconds:.0f} s; one worker left alone {self.quiet_seconds:.0f} s",
            "launchers": self.launchers,
            "trials given out again": self.trials["fail"],
            "trials complete": self.trials["complete"],
            "finished trials lost": self.lost,
            "finished trials repeated": self.repeated,
            "trials stuck": self.stuck,
            "runs that differ from the undisturbed": len(self.different),
            "temporary files left": len(self.leftovers),
            "tracebacks in logs": self.tracebacks,
            "points shown in MLflow": f"{self.shown.points:,} of {self.shown.runs} runs",
            "... lost, doubled, altered": ", ".join(
                str(len(points)) for points in (self.shown.lost, self.shown.doubled, self.shown.altered)
            ),
            "... runs doubled, wrong status": f"{self.shown.doubled_runs}, {len(self.shown.wrong_status)}",
        }
        width = max(map(len, rows))
        lines = [f"{name:{width}}  {value}" for name, value in rows.items()]
        return "\n".join([*lines, *self.different, *self.leftovers, *self.shown.wrong_status])


def choose_victims(launch: Launch, launcher: subprocess.Popen[bytes], rng: random.Random) -> tuple[str, list[int]]:
    """What is killed next; an empty list where nothing of the kind is there."""
    target = rng.choices(list(TARGETS), weights=list(TARGETS.values()))[0]
    workers = [process.pid for process in workers_of(launch)]
    alive = [launcher.pid] if launcher.poll() is None else []
    return target, {
        "one worker": [rng.choice(workers)] if workers else [],
        "all workers": workers,
        "launcher": alive,
        "everything": [*alive, *workers],
    }[target]


def wait_for_work(launch: Launch, launcher: subprocess.Popen[bytes]) -> None:
    """Until a worker that lives has a trial, or the launcher has ended."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and launcher.poll() is None:
        for study in (launch.search, launch.cells):
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if processes.is_alive(trial.user_attrs.get("worker") or {"host": ""}):
                    return
        time.sleep(0.1)


def disturb(
    launch: Launch,
    kills: int,
    workers: int,
    rng: random.Random,
    outcome: Outcome,
    seen: Finished,
    longest_wait: float,
) -> None:
    """Kill until ``kills`` are done, then let the study end."""
    launcher = start(launch, workers)
    outcome.launchers = 1
    began = last = time.monotonic()
    while True:
        kills_left = kills - outcome.kills.total()
        if kills_left:
            if rng.random() < AT_WORK:
                wait_for_work(launch, launcher)
            time.sleep(rng.uniform(0.0, longest_wait))
            seen.look(launch)
            target, victims = choose_victims(launch, launcher, rng)
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            if victims:
                outcome.kills[target] += 1
                last = time.monotonic()
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                launcher.wait(timeout=1)
        if plan.is_finished(launch.spec, launch.search, launch.cells) and launcher.poll() == 0:
            break
        if time.monotonic() - last > STUCK_SECONDS:
            launcher.kill()
            break
        if launcher.poll() is not None:  # at once, or after a pause in which its workers go on alone
            time.sleep(rng.choice([0.0, 1.5]))
            launcher = start(launch, workers)
            outcome.launchers += 1
    outcome.seconds = time.monotonic() - began


def judge(launch: Launch, quiet: Launch, outcome: Outcome, seen: Finished) -> None:
    outcome.lost, outcome.repeated = seen.differences(launch)
    logs = [launch.home.root / "launcher.log", *(launch.folder / "logs").glob("*.log")]
    texts = [log.read_text(errors="replace") for log in logs]  # an interruption is logged with a traceback
    outcome.tracebacks = sum(text.count("Traceback") - text.count("\nKeyboardInterrupt\n") for text in texts)
    for study in (launch.search, launch.cells):
        trials = study.get_trials()
        outcome.trials.update(trial.state.name.lower() for trial in trials)
        outcome.stuck += sum(t.state in (TrialState.RUNNING, TrialState.WAITING) for t in trials)
        outcome.stuck += len(recovery.failed(study))
        complete = Counter(json.dumps(t.params, sort_keys=True) for t in trials if t.state == TrialState.COMPLETE)
        outcome.repeated += sum(count - 1 for count in complete.values())
    mine, theirs = by_configuration(launch), by_configuration(quiet)
    outcome.lost += len(theirs.keys() - mine.keys())
    outcome.repeated += len(mine.keys() - theirs.keys()) + len(records.find_runs(launch.folder)) - len(mine)
    for key in mine.keys() & theirs.keys():
        try:
            one, other = traces(mine[key]), traces(theirs[key])
        except FileNotFoundError as error:  # it was given up as stuck before its end
            outcome.different.append(f"{mine[key].name}: no {Path(str(error.filename)).name}")
            continue
        outcome.different += [f"{mine[key].name}: {part}" for part in one if one[part] != other[part]]
        outcome.leftovers += [f"{mine[key].name}: {name}" for name in leftovers(mine[key])]


def by_configuration(launch: Launch) -> dict[str, Path]:
    """Folders are named by the number of the trial, which is another where its first worker was killed at once."""
    return {records.read_record(run_dir).config_hash: run_dir for run_dir in records.find_runs(launch.folder)}


def chaos(
    folder: Path,
    *,
    kills: int,
    cells: int,
    workers: int,
    steps: int,
    seed: int,
    shown: bool = True,
    longest_wait: float = LONGEST_WAIT,
) -> Outcome:
    """Run the study twice below ``folder``, once left alone and once disturbed; ``shown``: in MLflow, too."""
    spec = specification(folder, cells, steps)
    outcome, seen = Outcome(wanted=kills), Finished()
    quiet = launch_in(folder / "quiet", spec, "none")
    began = time.monotonic()
    leave_alone(quiet)
    outcome.quiet_seconds = time.monotonic() - began
    launch = launch_in(folder / "disturbed", spec, None if shown else "none")
    disturb(launch, kills, workers, random.Random(seed), outcome, seen, longest_wait)
    judge(launch, quiet, outcome, seen)
    if shown:
        sync(launch.home)
        tracker = open_tracker(None, experiment=NAME, home=launch.home)
        outcome.shown = compare_shown(tracker, launch.home, NAME)
        tracker.close()
    return outcome


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.kills", description="Kill a study at random moments."
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--cells", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        outcome = chaos(Path(folder), **vars(given))
    print(outcome.table())
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())

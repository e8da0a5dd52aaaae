"""What SLURM jobs are asked for, what is refused before anything is made, and how a job obeys signals."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from studies import launch as launching
from studies import prepare, slurm, slurm_job
from studies.plan import Counts
from studies.prepare import Options
from studies.progress import Snapshot, TrialRow
from studies.slurm import Resources, minutes_of, parse_more, queued_jobs
from studies.slurm_job import WARNING, WorkerJob
from tests.suites import fake_slurm
from tests.suites.study_launch import tiny_study
from workbench import files
from workbench.errors import StudyError
from workbench.home import open_home

POSTGRES = "postgresql://calm@database/calm"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("30:01", 31), ("12:00:00", 720), ("0:00:30", 1), ("2-0", 2880), ("1-12:30", 2190)],
)
def test_time_limits_are_read_as_slurm_writes_them(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "two hours", "1:2:3:4", "-5", "1-", "12h"])
def test_other_time_limits_are_refused(text: str) -> None:
    with pytest.raises(StudyError, match="--time wants a limit as SLURM writes it"):
        minutes_of(text)


def test_options_for_sbatch() -> None:
    more = parse_more(["mem=16GB", "mail-user=a=b", "setup=module load x", "setup=export Y=1", "--qos=low"])
    setup = ("module load x", "export Y=1")
    assert more == {"mem": ("16GB",), "mail_user": ("a=b",), "setup": setup, "qos": ("low",)}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["mem"], "wants NAME=VALUE"),
        (["mem="], "wants NAME=VALUE"),
        (["a b=1"], "wants NAME=VALUE"),
        (["comment=x\n#SBATCH --uid=0"], "wants NAME=VALUE"),
        (["array=0-9"], "array is set by the launcher"),
        (["open-mode=truncate"], "open-mode is set by the launcher"),
        (["mem=1", "mem=2"], "mem is given twice"),
    ],
)
def test_options_that_cannot_be_given(given: list[str], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        parse_more(given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": None}, "--workers N: the number of jobs"),
        ({"storage": None}, r"optuna.db is a file; give --storage postgresql://"),
        ({"tracking_uri": None}, r"HOME/mlflow.db is a file; give --tracking-uri http://"),
        ({"tracking_uri": "sqlite:////x/mlflow.db"}, r"/x/mlflow.db is a file"),
    ],
)
def test_what_several_machines_cannot_share_is_refused(
    options: dict[str, object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": tiny_study()})
    given = {"name": "tiny", "storage": POSTGRES, "tracking_uri": "none", "workers": 2, **options}
    with pytest.raises(StudyError, match=said):
        slurm.submit(Options(**given), Resources(), open_home(tmp_path), cluster="local")
    assert list(tmp_path.rglob("*")) == []


def test_without_slurm_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    options = Options(name="joint", storage=POSTGRES, tracking_uri="none", workers=2)
    with pytest.raises(StudyError, match="sbatch, srun, scontrol cannot be found"):
        slurm.submit(options, Resources(), open_home(tmp_path))
    assert list(tmp_path.rglob("*")) == []


def test_all_that_is_missing_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(StudyError) as found:
        slurm.submit(Options(name="joint"), Resources(), open_home(tmp_path))
    said = ("sbatch, srun, scontrol", "--workers N", "optuna.db is a file", "mlflow.db is a file")
    lines = str(found.value).splitlines()
    assert [part in line for part, line in zip(said, lines, strict=True)] == [True] * 4
    assert list(tmp_path.rglob("*")) == []


def test_jobs_that_slurm_has_forgotten_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in fake_slurm.install(tmp_path / "slurm").items():
        monkeypatch.setenv(name, value)
    assert queued_jobs(tmp_path) == []
    files.writable_folder(tmp_path / "slurm")
    files.write_json(tmp_path / "slurm" / "jobs.json", [{"jobs": ["7_0", "7_1"]}, {"jobs": ["8"]}])
    for job, state in {"7_0": "COMPLETED", "7_1": "RUNNING", "8": "PENDING", "9": "RUNNING"}.items():
        fake_slurm._set(job, "state", state)
    assert [job.words() for job in queued_jobs(tmp_path)] == [
        "job 7_1: running on fake1",
        "job 8: pending (Priority)",
    ]


JOB = WorkerJob(
    name="tiny-quick",
    home="/nowhere",
    storage="postgresql://calm:***@database/calm",
    tracking_uri="none",
    index=3,
    threads=2,
    execute="tests.suites.fake_runner:execute",
)


def ended(*states: str) -> Snapshot:
    """Of a study without a search."""
    rows = tuple(TrialRow("", state, None, "", None, "", "no heap", is_cell=True) for state in states)
    none = Counts(complete=0, pruned=0, running=0, waiting=0, failed=0)
    cells = replace(none, complete=states.count("complete"), failed=states.count("fail"))
    return Snapshot(0, none, len(rows), cells, rows, None, None, finished=True)


class Launched:
    """Stands for ``launching.run``."""

    def __init__(self, *signals: int) -> None:
        self.signals = signals
        self.options: Options | None = None
        self.state = ended("complete", "fail")

    def __call__(self, options: Options, home: object, display: object) -> launching.Result:
        self.options = options
        interrupted = False
        for number in self.signals:
            try:
                os.kill(os.getpid(), number)
            except KeyboardInterrupt:
                assert not interrupted, "asked a second time, which would kill the workers"
                interrupted = True
        return launching.Result(None, self.state, interrupted=interrupted)  # type: ignore[arg-type]


@pytest.fixture
def requeued(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Calls of submitit's own handler, by signal."""
    calls: list[int] = []
    before = signal.signal(WARNING, lambda number, frame: calls.append(number))
    monkeypatch.setattr(slurm_job, "open_home", lambda path: path)
    monkeypatch.setattr(slurm_job, "LINGER_SECONDS", 0.01)
    monkeypatch.setenv("CALM_STORAGE", "postgresql://calm:secret@database/calm")
    yield calls
    signal.signal(WARNING, before)


def test_a_job_works_until_nothing_is_left(requeued: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "run", run := Launched())
    said = JOB()
    assert said.startswith("1 of 2 cells of tiny-quick failed, most often (once): no heap; ")
    assert said.endswith(f"calm study retry tiny-quick --home {JOB.home}")
    assert run.options is not None
    assert run.options.storage == "postgresql://calm:secret@database/calm"
    assert (run.options.workers, run.options.threads, run.options.first_worker) == (1, 2, 3)
    assert requeued == []


def test_a_job_fails_where_nothing_completed(
    requeued: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launching, "run", run := Launched())
    run.state = ended("complete")
    assert JOB() == "nothing left to do"
    run.state = ended("fail", "fail")
    with pytest.raises(SystemExit) as left:
        JOB()
    assert left.value.code == 1
    said = "error: none of the 2 cells of tiny-quick completed (2 failed), most often (2 times): no heap; "
    assert said in capsys.readouterr().err
    assert requeued == []


@pytest.mark.parametrize("signals", [(WARNING,), (signal.SIGTERM, WARNING), (WARNING, signal.SIGTERM)])
def test_a_warned_job_is_queued_again_once_its_launcher_has_left(
    signals: tuple[int, ...], requeued: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "run", Launched(*signals))
    assert JOB() == "stopped"
    assert requeued == [WARNING]


def test_a_cancelled_job_is_not_queued_again(requeued: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "run", Launched(signal.SIGTERM))
    with pytest.raises(SystemExit) as left:
        JOB()
    assert left.value.code == 143
    assert requeued == []


def test_a_mistake_of_the_user_is_one_message(
    requeued: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CALM_STORAGE")
    with pytest.raises(SystemExit) as left:
        JOB()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: CALM_STORAGE is not in the job's environment")
    assert "~/.pgpass" in said


def test_the_job_is_stored_without_a_password_or_code() -> None:
    stored = pickle.dumps(JOB)
    assert b"secret" not in stored
    assert b"studies.slurm_job" in stored
    assert pickle.loads(stored) == JOB
    assert len(stored) < 1000


@pytest.mark.slow
def test_the_command_says_what_belongs_together() -> None:
    calm = [sys.executable, "-m", "workbench.cli", "study", "run", "joint"]
    done = subprocess.run([*calm, "--time", "1:00:00"], capture_output=True, text=True, check=False)
    assert (done.returncode, "only --launcher slurm knows --time" in done.stderr) == (2, True)

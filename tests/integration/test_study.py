"""Studies with real worker processes on one sqlite storage, a kill, an interruption; and the command line."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import typer
from optuna.trial import TrialState
from rich.console import Console
from typer.testing import CliRunner

from studies import launch as launching
from studies import plan, prepare, storage
from studies.display import Display
from studies.prepare import Options
from studies.spec import HeartbeatSpec
from tests.suites.fake_runner import ATTEMPTS
from tests.suites.study_launch import FAKE, create, steps, tiny_spec, tiny_study
from workbench import records
from workbench.cli.study import register
from workbench.errors import StudyError, TrackingError, UserError
from workbench.files import read_json, read_json_lines
from workbench.home import open_home

CALM = "import typer; from workbench.cli.study import register; app = typer.Typer(); register(app); app()"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": tiny_study()})
    monkeypatch.setattr("studies.find_studies", lambda: {"tiny": tiny_study()})
    monkeypatch.setattr("studies.launch.POLL_SECONDS", 0.2)
    return open_home(tmp_path)


def run(home, **options):
    options = {"name": "tiny", "tracking_uri": "none", "execute": FAKE, **options}
    output = io.StringIO()
    result = launching.run(Options(**options), home, Display(Console(file=output, width=200), "tiny"))
    return result, output.getvalue()


def attempts(folder):
    return {p.parent.name: len(read_json_lines(p)) for p in folder.glob(f"*/{ATTEMPTS}")}


def invoke(*arguments):
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, list(arguments))


def start_worker(launch, index, seconds):
    environment = {**os.environ, "FAKE_SECONDS": str(seconds), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-m", "studies.worker", "--home", str(launch.home.root), "--launch", launch.name]
    command += ["--worker", str(index), "--tracking-uri", "none", "--execute", FAKE]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("did not happen in time")


def test_the_command_line_knows_the_studies():
    result = invoke("study", "list", "--home", "nowhere")
    assert result.exit_code == 0
    assert "joint" in result.output
    assert "--preset quick" in result.output
    assert not os.path.exists("nowhere")


def test_show_is_a_dry_run(tmp_path):
    result = invoke("study", "show", "joint", "--preset", "cpu", "--home", str(tmp_path))
    assert result.exit_code == 0
    for text in (
        "autoencoder.kl_floor:",
        "chunk_size=4",
        "baseline-d128-l4",
        "question:",
        "FLOP/s a worker",
    ):
        assert text in result.output
    assert [p.name for p in tmp_path.iterdir()] == [".cache"], "only the remembered probe of the machine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "join"], r"no study 'join'; did you mean joint\?"),
        (["show", "joint", "--preset", "huge"], r"no preset 'huge'; known: cpu, quick"),
        (["run", "joint", "--set", "optim.clipp=1"], r"did you mean optim.clip\?"),
        (["run", "joint", "--storage", "journal.log"], r"--storage wants a database URL"),
        (["run", "joint", "--set", "data.corpus=text:/nowhere.txt"], r"nowhere"),
        (["run", "joint", "--set", "eval.num_windows=99999"], r"set eval\.num_windows to at most"),
        (["status", "joint-quick"], r"no launch 'joint-quick'"),
        (["retry", "joint-quick"], r"no launch 'joint-quick'"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing_behind(tmp_path, arguments, message):
    result = invoke("study", *arguments, "--home", str(tmp_path))
    assert isinstance(result.exception, UserError)
    assert re.search(message, str(result.exception))
    assert not (tmp_path / "joint-quick").exists()


@pytest.mark.slow
def test_a_study_with_unusable_text_can_be_launched_again_as_it_should_be(tmp_path):
    arguments = ["study", "run", "joint", "--home", str(tmp_path), "--execute", FAKE, "--trials", "1"]
    wrong = invoke(
        *[a for a in arguments if a not in ("--execute", FAKE)], "--set", "data.corpus=text:/nowhere.txt"
    )
    assert isinstance(wrong.exception, UserError)
    assert invoke(*arguments).exit_code == 0


def test_status_and_retry(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "small")
    launch = create(tmp_path, tiny_spec(checks={}))
    prepare.write_study_file(launch, "none")
    steps(launch)
    status = invoke("study", "status", "tiny", "--home", str(tmp_path))
    assert "finished: 5/5 trials, 0 pruned, 1 failed" in status.output
    assert "failed: small : RuntimeError: a failure for the test" in status.output
    retried = invoke("study", "retry", "tiny", "--home", str(tmp_path))
    assert "queued again: small; now: calm study run tiny-quick" in retried.output
    assert "queued: 1" in invoke("study", "status", "tiny", "--home", str(tmp_path)).output
    assert "nothing has failed" in invoke("study", "retry", "tiny", "--home", str(tmp_path)).output


def test_a_tracking_server_that_does_not_answer_leaves_no_launch_behind(home):
    with pytest.raises(TrackingError, match="connection refused"):
        run(home, tracking_uri="http://127.0.0.1:9")
    assert not (home.root / "tiny-quick").exists()
    assert storage.load("tiny-quick", storage.open_storage(home.optuna_url, home, HeartbeatSpec())) is None


@pytest.mark.slow
def test_a_worker_that_cannot_start_says_why(home):
    with pytest.raises(StudyError, match=r"--execute wants module:function .*no.such:execute"):
        run(home, execute="no.such:execute")


@pytest.mark.slow
def test_two_workers_finish_exactly_what_was_asked_for(home):
    result, output = run(home, workers=2, trials=8)
    launch = result.launch
    assert result.state.finished
    assert plan.count(launch.search.get_trials()).complete == 8
    assert len(launch.search.get_trials()) == 8
    assert len(launch.cells.get_trials()) == 4
    counts = attempts(launch.folder)
    assert len(counts) == 12
    assert set(counts.values()) == {1}
    workers = {t.user_attrs["worker"]["index"] for t in launch.search.get_trials()}
    assert workers == {0, 1}
    # one search trial per (setting, seed)
    hashes = [records.read_record(p).config_hash for p in records.find_runs(launch.folder)]
    assert len(set(hashes)) == len(hashes)
    assert "8/8 trials" in output
    summary = read_json(launch.folder / "summary.json")
    assert (summary["num_complete"], summary["num_cells"]) == (8, 4)

    again, _ = run(home, workers=2)
    assert again.already_finished
    assert attempts(launch.folder) == counts

    more, _ = run(home, workers=1, trials=9, name="tiny-quick")
    assert plan.count(more.launch.search.get_trials()).complete == 9
    assert all(attempts(launch.folder)[name] == 1 for name in counts)


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", [False, True], ids=["noticed at once", "by its heartbeat"])
def test_a_killed_workers_trial_goes_on_in_its_folder(tmp_path, elsewhere):
    spec = tiny_spec(baselines={}, checks={}, trials=1, heartbeat={"interval": 1, "grace": 2})
    launch = create(tmp_path, spec)
    victim = start_worker(launch, 0, seconds=60)
    wait_for(lambda: attempts(launch.folder))
    victim.kill()
    victim.wait()
    (running,) = launch.search.get_trials()
    assert running.state == TrialState.RUNNING
    if elsewhere:  # as if it had run on another host, where nobody can ask for its process
        worker = {**running.user_attrs["worker"], "host": "elsewhere"}
        launch.search._storage.set_trial_user_attr(running._trial_id, "worker", worker)
    second = start_worker(launch, 1, seconds=0)
    assert second.wait(40) == 0, second.stderr.read()
    dead, retried = launch.search.get_trials()
    assert (dead.state, retried.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert retried.params == dead.params
    assert retried.user_attrs["runs"] == dead.user_attrs["runs"] == ["t000-s0"]
    assert attempts(launch.folder) == {"t000-s0": 2}
    assert len(records.find_runs(launch.folder)) == 1
    assert plan.count(launch.search.get_trials()).failed == 0


@pytest.mark.slow
def test_a_crashed_worker_is_replaced_and_the_launch_goes_on(home, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.8")
    killed = []

    class Killer(Display):
        def update(self, state):
            running = state.of_state("running")
            if running and running[0].worker and not killed:
                killed.append(running[0].worker["pid"])
                os.kill(killed[0], signal.SIGKILL)
            super().update(state)

    output = io.StringIO()
    options = Options("tiny", tracking_uri="none", execute=FAKE, workers=1, trials=1)
    result = launching.run(options, home, Killer(Console(file=output, width=200), "tiny"))
    assert killed
    assert result.state.finished
    assert "worker 0 ended with signal 9" in output.getvalue()
    assert sorted(attempts(result.launch.folder).values()) == [1, 1, 1, 1, 2]


@pytest.mark.slow
def test_a_mistake_of_the_user_ends_the_launch_with_its_message(home, monkeypatch):
    monkeypatch.setenv("FAKE_ERROR", "large")
    with pytest.raises(UserError, match="corpus of this test is missing"):
        run(home, workers=2)
    launch = prepare.find_launch(home, "tiny")
    assert not launch.search.get_trials(states=(TrialState.RUNNING,))
    assert not launch.cells.get_trials(states=(TrialState.RUNNING,))
    monkeypatch.delenv("FAKE_ERROR")
    result, _ = run(home, workers=2)
    assert result.state.finished
    assert result.state.cells.failed == result.state.search.failed == 0


@pytest.mark.slow
def test_when_every_trial_fails_the_launch_stops_early(home, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "s0")
    with pytest.raises(StudyError, match="failed with the same error: RuntimeError: a failure for the test"):
        run(home, workers=1)
    assert len(attempts(home.root / "tiny-quick")) == 3


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_a_later_run_resumes(tmp_path):
    environment = {**os.environ, "FAKE_SECONDS": "3", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", CALM, "study", "run", "joint", "--home", str(tmp_path), "--workers", "2"]
    command += ["--trials", "1", "--tracking-uri", "none", "--execute", FAKE]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    folder = tmp_path / "joint-quick"
    wait_for(lambda: len(list(folder.glob("*/evaluations.jsonl"))) == 2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "continue with: calm study run joint-quick" in output
    assert {records.read_record(p).status for p in records.find_runs(folder)} == {"interrupted"}
    launch = prepare.find_launch(open_home(tmp_path), "joint")
    assert not launch.cells.get_trials(states=(TrialState.RUNNING,))
    interrupted = set(attempts(folder))

    environment["FAKE_SECONDS"] = "0"
    command = [*command[: command.index("run") + 1], "joint-quick", *command[command.index("--home") :]]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=60)
    resumed = {name: read_json_lines(folder / name / ATTEMPTS) for name in interrupted}
    assert len(resumed) == 2
    assert all(len(rows) == 2 and rows[1]["from"] > 0 for rows in resumed.values())
    assert json.loads((folder / "summary.json").read_text())["num_failed"] == 0
    launch = prepare.find_launch(open_home(tmp_path), "joint")
    assert plan.is_finished(launch.spec, launch.search, launch.cells)

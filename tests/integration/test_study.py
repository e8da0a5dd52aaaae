"""Studies with real worker processes on one sqlite storage, a kill, an interruption; and the command line."""

import io
import json
import os
import signal
import subprocess
import sys

import pytest
from optuna.trial import TrialState
from rich.console import Console

from studies import launch as launching
from studies import plan, prepare
from studies.display import Display
from studies.objective import DEFAULT_RUNNER
from studies.prepare import Options
from tests.suites.cells_only import CELLS
from tests.suites.fake_runner import ATTEMPTS
from tests.suites.study_launch import FAKE, create, invoke, steps, tiny_home, tiny_spec, tiny_study
from tests.suites.tiny_runs import BASELINE, tree, write_text
from tests.suites.waiting import wait_for
from workbench import records
from workbench.errors import StudyError, UserError
from workbench.files import read_json, read_json_lines
from workbench.home import open_home

CALM = "import typer; from workbench.cli.study import register; app = typer.Typer(); register(app); app()"


@pytest.fixture
def home(tmp_path, monkeypatch):
    return tiny_home(tmp_path, monkeypatch)


def run(home, **options):
    options = {"name": "tiny", "tracking_uri": "none", "execute": FAKE, **options}
    output = io.StringIO()
    result = launching.run(Options(**options), home, Display(Console(file=output, width=200), "tiny"))
    return result, output.getvalue()


def attempts(folder):
    return {p.parent.name: len(read_json_lines(p)) for p in folder.glob(f"*/{ATTEMPTS}")}


def start_worker(launch, index, seconds):
    environment = {**os.environ, "FAKE_SECONDS": str(seconds), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-m", "studies.worker", "--home", str(launch.home.root), "--launch", launch.name]
    command += ["--worker", str(index), "--tracking-uri", "none", "--execute", FAKE]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_command_line_knows_the_studies():
    result = invoke("study", "list", "--home", "nowhere")
    assert result.exit_code == 0
    assert "joint" in result.output
    assert "correlation" in result.output
    assert "--preset quick" in result.output
    assert not os.path.exists("nowhere")


@pytest.mark.slow
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


@pytest.mark.slow
def test_show_of_a_study_without_a_search(tmp_path):
    result = invoke("study", "show", "correlation", "--seeds", "3", "--home", str(tmp_path))
    assert result.exit_code == 0, result.exception
    assert "no search: 8 cells (token baselines) x 3 seed(s)" in result.output
    for text in ("question:", "against:", "shakespeare-byte-d64-l2", "kjv-byte-d128-l4", "FLOP/s a worker"):
        assert text in result.output
    for text in ("trials", "autoencoders", "search space"):
        assert text not in result.output
    assert [p.name for p in tmp_path.iterdir()] == [".cache"], "only the remembered probe of the machine"


@pytest.mark.slow
def test_status_and_retry(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "small")
    launch = create(tmp_path, tiny_spec(checks={}))
    prepare.write_study_file(launch, "none")
    steps(launch)
    status = invoke("study", "status", "tiny", "--home", str(tmp_path))
    assert "finished: 5/5 trials, 0 pruned, 1 failed" in status.output
    assert "failed: small : RuntimeError: a failure for the test" in status.output
    retried = invoke("study", "retry", "tiny", "--queue", "--home", str(tmp_path))
    assert f"queued again: small; now: calm study run tiny-quick --home {tmp_path}\n" in retried.output
    status = invoke("study", "status", "tiny", "--home", str(tmp_path)).output
    assert "queued: 1" in status
    assert f"nobody works on it; continue with: calm study run tiny-quick --home {tmp_path}\n" in status
    assert "queued again: small; " in invoke("study", "retry", "tiny", "--queue", "--home", str(tmp_path)).output
    assert plan.count(launch.cells.get_trials()).waiting == 1


@pytest.mark.slow
def test_a_study_without_a_search_on_the_command_line(tmp_path, monkeypatch):
    """status, retry, run and its end: nothing is said about trials or a best one."""
    monkeypatch.setattr("studies.launch.POLL_SECONDS", 0.2)
    monkeypatch.setenv("FAKE_FAIL", "small")
    launch = create(tmp_path, tiny_spec(**CELLS))
    prepare.write_study_file(launch, "none")
    steps(launch)
    arguments = ["--home", str(tmp_path)]
    status = invoke("study", "status", "tiny", *arguments)
    assert "finished: cells 1/2, 1 failed, 0 running" in status.output
    assert "failed: small : RuntimeError: a failure for the test" in status.output
    run_again = ["study", "run", "tiny-quick", "--tracking-uri", "none", "--execute", FAKE, *arguments]
    already = invoke(*run_again)
    assert "tiny-quick is finished already" in already.output
    assert "--trials" not in already.output
    assert "calm study retry tiny-quick" in already.output
    refused = invoke(*run_again, "--trials", "5")
    assert "--trials 5: tiny-quick has no search" in str(refused.exception)
    monkeypatch.delenv("FAKE_FAIL")
    again = ["study", "retry", "tiny", "--tracking-uri", "none", "--execute", FAKE, "--workers", "1", *arguments]
    done = invoke(*again)
    assert done.exit_code == 0, done.exception
    assert "again: small" in done.output
    assert "small complete score 6.01" in done.output
    assert "[cells 2/2, 0 failed, 0 running]" in done.output
    said = done.output.replace(str(tmp_path), "")
    assert not any(word in said for word in ("trial", "best", "search"))
    assert (read_json(launch.folder / "summary.json")["num_cells"], attempts(launch.folder)["small-s0"]) == (2, 2)


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
def test_two_workers_finish_a_study_without_a_search(home, monkeypatch):
    """Every cell with every seed, once; a second launch has nothing to do."""
    names = [f"cell-{number}" for number in range(5)]
    study = tiny_study(**CELLS, baselines={name: {"optim.clip": 1.0 + i} for i, name in enumerate(names)})
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": study})
    result, output = run(home, workers=2, seeds=2)
    assert result.state.finished
    assert attempts(result.launch.folder) == {f"{name}-s{seed}": 1 for name in names for seed in (0, 1)}
    assert result.launch.search.get_trials() == []
    assert "cells 5/5" in output
    assert read_json(result.launch.folder / "summary.json")["num_cells"] == 5
    again, _ = run(home, workers=2, seeds=2)
    assert again.already_finished
    assert set(attempts(result.launch.folder).values()) == {1}


@pytest.mark.slow
def test_cells_on_several_texts_are_trained_and_scored_apart(home, tmp_path, monkeypatch):
    """With the real runner: two texts, two tokenizations, two seeds. Each text has a fingerprint of its own, which
    its cells share, and a cross-entropy at every checkpoint."""
    texts = {"one": write_text(tmp_path / "one.txt", 30000), "two": write_text(tmp_path / "two.txt", 36000)}
    tokenizers = {"byte": {"data.tokenizer.kind": "byte"}}
    tokenizers["bpe"] = {"data.tokenizer.kind": "bpe", "data.tokenizer.vocab_size": 300}
    cells = {
        f"{text}-{kind}-d{width}": {
            "data.corpus": f"text:{path}",
            **tokenizers[kind],
            "model.backbone.width": width,
        }
        for text, path in texts.items()
        for kind in tokenizers
        for width in (16, 32)
    }
    content = {**tree(texts["one"]), **BASELINE}
    content["optim"] = {"batch_positions": 128}
    study = tiny_study(**CELLS, base=content, baselines=cells)
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": study})
    result, _ = run(home, workers=2, seeds=2, execute=DEFAULT_RUNNER)
    assert result.state.finished
    assert (result.state.cells.complete, result.state.cells.failed) == (8, 0)
    fingerprints = {}
    for name in cells:
        for seed in (0, 1):
            record = records.read_record(result.launch.folder / f"{name}-s{seed}")
            assert (record.status, record.role, record.seed) == ("completed", "baseline", seed)
            evaluations = records.read_evaluations(result.launch.folder / f"{name}-s{seed}")
            assert len(evaluations) == 3
            assert all(e.cross_entropy is not None for e in evaluations)
            fingerprints.setdefault(name.rpartition("-")[0], set()).update(e.fingerprint for e in evaluations)
    assert all(len(found) == 1 for found in fingerprints.values())
    assert len(set.union(*fingerprints.values())) == 4


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
        worker = {**running.user_attrs["worker"], "host": "elsewhere", "boot": "another"}
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
def test_a_launch_in_which_everything_fails_ends_with_1(home, monkeypatch):
    """Every time; what is retried may still fail. Its workers, whose launcher tells it, end as ever."""
    monkeypatch.setenv("FAKE_FAIL", "-s0")
    launch = create(home.root, tiny_spec(**CELLS))
    prepare.write_study_file(launch, "none")
    given = ["--workers", "1", "--tracking-uri", "none", "--execute", FAKE, "--home", str(home.root)]
    for command, runs in (("run", 1), ("run", 1), ("retry", 2)):
        done = invoke("study", command, "tiny-quick", *given)
        assert done.exit_code == 1, done.exception
        assert "none of the 2 cells of tiny-quick completed (2 failed), most often (2 times): " in done.stderr
        assert "started again" not in done.output
        assert attempts(launch.folder) == {"small-s0": runs, "large-s0": runs}
    monkeypatch.delenv("FAKE_FAIL")
    assert invoke("study", "retry", "tiny-quick", *given).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("searched", [{}, {"sampler": {"kind": "grid"}, "trials": 0}], ids=["search", "grid"])
def test_retrying_runs_what_failed_and_nothing_else(home, monkeypatch, searched):
    """Of a search that was interrupted early: neither new trials nor cells or settings that were never begun."""
    monkeypatch.setenv("FAKE_FAIL", "small")
    launch = create(home.root, tiny_spec(**searched))
    prepare.write_study_file(launch, "none")
    steps(launch, most=3)
    before = attempts(launch.folder)
    assert [t.state for t in launch.search.get_trials() if t.state.is_finished()] == [TrialState.COMPLETE]
    monkeypatch.delenv("FAKE_FAIL")
    assert prepare.retry(launch) == ["small"]
    result, _ = run(home, name="tiny-quick", only_queued=True, workers=2)
    assert not result.state.finished
    assert (result.state.cells.failed, result.state.cells.waiting) == (0, 0)
    assert attempts(launch.folder) == {**before, "small-s0": before["small-s0"] + 1}


@pytest.mark.slow
def test_what_an_earlier_retry_left_queued_is_run_by_the_next(home, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "small")
    launch = create(home.root, tiny_spec())
    prepare.write_study_file(launch, "none")
    steps(launch, most=1)
    monkeypatch.delenv("FAKE_FAIL")
    retried = ["study", "retry", "tiny-quick", "--home", str(home.root)]
    assert "queued again: small" in invoke(*retried, "--queue").output
    done = invoke(*retried, "--workers", "1", "--tracking-uri", "none", "--execute", FAKE)
    assert (done.exit_code, "again: small" in done.output) == (0, True), done.output
    assert "the search ended" not in done.output, "it has not been begun"
    assert attempts(launch.folder) == {"small-s0": 2}
    assert "nothing has failed" in invoke(*retried).output


@pytest.mark.slow
def test_a_crashed_worker_is_replaced_and_the_launch_goes_on(home, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "60")
    killed = []

    class Killer(Display):
        """Kills the worker in the middle of its first run; those of its successor take no time."""

        def update(self, state):
            running = state.of_state("running")
            if not killed and running and attempts(home.root / "tiny-quick"):
                killed.append(running[0].worker["pid"])
                monkeypatch.setenv("FAKE_SECONDS", "0")
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
def test_no_room_ends_the_launch_with_its_message(home, monkeypatch):
    monkeypatch.setenv("FAKE_NO_ROOM", "large")
    with pytest.raises(UserError, match="no room left; free some"):
        run(home, workers=2)
    launch = prepare.find_launch(home, "tiny")
    assert not launch.search.get_trials(states=(TrialState.RUNNING,))
    assert not launch.cells.get_trials(states=(TrialState.RUNNING,))
    monkeypatch.delenv("FAKE_NO_ROOM")
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
    environment = {**os.environ, "FAKE_SECONDS": "6", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", CALM, "study", "run", "joint", "--home", str(tmp_path), "--workers", "2"]
    command += ["--trials", "1", "--tracking-uri", "none", "--execute", FAKE]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    folder = tmp_path / "joint-quick"
    wait_for(lambda: len(list(folder.glob("*/evaluations.jsonl"))) == 2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"continue with: calm study run joint-quick --home {tmp_path}\n" in output
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

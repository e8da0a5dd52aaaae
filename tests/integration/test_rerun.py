"""``calm rerun``: the same bits again, or what is not the same."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.suites.command_line import Command
from tests.suites.old_runs import write_old_run
from tests.suites.tiny_runs import BASELINE, tiny_config, traces, write_text
from workbench import code_state, files, records, rerun_state
from workbench.code_state import CodeState
from workbench.errors import ConfigError, OutputError, RunError
from workbench.home import Home, open_home
from workbench.records import Evaluation
from workbench.rerun import Rerun, rerun
from workbench.rerun_results import compare_results
from workbench.run_names import find_run
from workbench.runner import Identity, StopRun, execute


@pytest.fixture
def calm(whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(whole, monkeypatch, capsys)


@pytest.fixture(scope="module")
def home(whole: Path) -> Home:
    return tiny_config(whole)[1]


@pytest.fixture(scope="module")
def again(whole: Path, home: Home) -> Rerun:
    """The undisturbed run, made again."""
    return rerun("whole", home)


def set_environment(run_dir: Path, **changes: Any) -> None:
    record = records.read_record(run_dir)
    records.write_record(run_dir, record.model_copy(update={"environment": {**record.environment, **changes}}))


def copy_run(home: Home, name: str) -> Path:
    return Path(shutil.copytree(home.root / "whole", home.root / name))


def change_code(monkeypatch: pytest.MonkeyPatch) -> None:
    now = code_state.present()
    other = CodeState(now.git_commit, "0123456789abcdef", "fedcba9876543210", now.code_version)
    monkeypatch.setattr(code_state, "present", lambda: other)
    monkeypatch.setattr(
        code_state, "uncommitted", lambda: "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n+x\n"
    )


class TestTheSameAgain:
    @pytest.mark.slow
    def test_bit_for_bit(self, home: Home, again: Rerun) -> None:
        assert again.folder == home.single_runs() / "whole-rerun"
        assert traces(again.folder) == traces(home.root / "whole")
        assert again.results is not None
        assert again.results.identical
        assert again.results.whole
        assert again.results.parts == {"autoencoder": True, "weights": True, "scores of every position": True}
        verdict, metrics, evaluations, *_ = again.results.words()
        assert verdict == "identical, bit for bit"
        assert metrics == "metrics: 24 lines identical, bit for bit"
        assert evaluations == "evaluations: 3 lines identical, bit for bit"
        assert not again.before
        assert {point.name for point in again.state.points if point.same is not True} == set()
        record = records.read_record(again.folder)
        assert (record.name, record.role, record.study) == ("whole rerun", "run", None)

    @pytest.mark.slow
    def test_a_finished_one_is_not_made_twice(
        self, home: Home, again: Rerun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("workbench.rerun.execute", None)
        change_code(monkeypatch)  # it was made with the code of then
        second = rerun(home.root / "whole", home)
        assert second.before
        assert second.state.same("code") is True
        assert second.results == again.results

    @pytest.mark.slow
    def test_a_baseline(self, whole: Path, home: Home) -> None:
        config, _ = tiny_config(whole, {"train.train_tokens": 512}, **BASELINE)
        execute(config, home.root / "base", home=home)
        found = rerun("base", home, out=whole / "elsewhere", fresh=True)
        assert found.results is not None
        assert found.results.whole
        assert found.results.identical
        assert found.results.parts == {"weights": True, "scores of every position": True}
        assert not (whole / "elsewhere" / ".fresh").exists()

    @pytest.mark.slow
    def test_fresh_takes_nothing_from_the_cache(
        self, whole: Path, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Home, "cache", property(lambda self: _used(self, used)))
        used: list[Path] = []
        found = rerun("whole", home, out=home.root / "fresh", fresh=True)
        assert found.results is not None
        assert found.results.identical
        trained = [path for path in used if path != home.root / ".cache"]
        assert set(trained) == {home.root / "fresh" / ".fresh" / ".cache"}

    @pytest.mark.slow
    def test_interrupted_it_goes_on(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        out = home.root / "stopped"
        append, calls = files.append_json_line, []

        def stop(path: Path, value: object) -> None:
            append(path, value)
            if threading.current_thread() is not threading.main_thread():
                return  # of how busy the machine is
            calls.append(value)
            if len(calls) == 10:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("workbench.files.append_json_line", stop)
            with pytest.raises(KeyboardInterrupt):
                rerun("whole", home, out=out)
        assert records.read_record(out).status == "interrupted"
        half = rerun("whole", home, out=out, compare_only=True).results
        assert half is not None
        assert half.identical
        assert not half.whole
        assert "up to step" in half.words()[0]
        done = rerun("whole", home, out=out).results
        assert done is not None
        assert done.whole
        assert done.identical

    @pytest.mark.slow
    def test_of_a_study_where_it_was_ended_early(self, whole: Path, home: Home) -> None:
        config, _ = tiny_config(whole, {"seed": 5})

        def prune(evaluation: Evaluation) -> None:
            raise StopRun("too low")

        run_dir = home.root / "study-quick" / "t003-s0"
        identity = Identity(study="study-quick", role="trial", trial=3, name="t003 s0")
        assert execute(config, run_dir, home=home, identity=identity, on_evaluation=prune).status == "pruned"
        found = rerun("study-quick/t003-s0", home)
        assert found.folder.name == "study-quick-t003-s0-rerun"
        assert records.read_record(found.folder).status == "completed"
        assert found.results is not None
        assert found.results.identical
        assert not found.results.whole
        steps = len(records.read_train_points(run_dir))
        words = "\n".join(found.results.words())
        assert words.startswith(f"identical, bit for bit, up to step {steps}")
        assert "the study ended the run early; the rerun is not ended" in words


def _used(home: Home, used: list[Path]) -> Path:
    used.append(home.root / ".cache")
    return home.root / ".cache"


class TestWhatIsNotTheSame:
    @pytest.mark.slow
    def test_other_code_is_refused(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        change_code(monkeypatch)
        out = home.root / "other-code"
        states: list[rerun_state.State] = []
        with pytest.raises(RunError, match=r"code is not the same as when whole was trained; .*--any-code"):
            rerun("whole", home, out=out, fresh=True, on_state=states.append)
        assert not out.exists()
        assert states[0].same("code") is False
        assert states[0].same("data") is True
        assert states[0].same("uncommitted changes") is False
        assert any(line.startswith("uncommitted: ") for line in states[0].details)
        found = rerun("whole", home, out=out, any_code=True)
        assert found.results is not None
        assert found.results.identical

    def test_unknown_code_is_refused(self, home: Home) -> None:
        run_dir = copy_run(home, "unknown")
        set_environment(run_dir, code_hash="", git_commit="", git_diff_hash="")
        with pytest.raises(RunError, match="code cannot be said to be the same"):
            rerun(run_dir, home)

    def test_other_text_is_refused_whatever_is_said(self, whole: Path, home: Home) -> None:
        run_dir = copy_run(home, "texts")
        record = records.read_record(run_dir)
        records.write_record(run_dir, record.model_copy(update={"data_hash": "0" * 16}))
        states: list[rerun_state.State] = []
        with pytest.raises(RunError, match="trained on other text"):
            rerun(run_dir, home, any_code=True, on_state=states.append)
        assert states[0].same("data") is False
        found = rerun(run_dir, home, compare_only=True)
        assert found.results is None, "compared is what is there, and nothing is"

    def test_a_changed_configuration_is_refused(self, home: Home) -> None:
        run_dir = copy_run(home, "changed")
        path = run_dir / "config.yaml"
        path.write_text(path.read_text().replace("lr: 0.002", "lr: 0.004"))
        with pytest.raises(RunError, match="not the configuration that its run was made with"):
            rerun(run_dir, home, any_code=True)

    def test_only_the_machine_may_be_set(self, home: Home) -> None:
        with pytest.raises(ConfigError, match=r"optim\.lr cannot be set of a rerun"):
            rerun("whole", home, overrides={"optim.lr": 1.0})
        with pytest.raises(ConfigError, match=r"runtime\.device: 'cuda:99' cannot be used here"):
            rerun("whole", home, overrides={"runtime.device": "cuda:99"})

    @pytest.mark.slow
    def test_another_number_type_gives_other_results(self, home: Home) -> None:
        found = rerun("whole", home, overrides={"runtime.dtype": "bfloat16"})
        assert found.folder.name.startswith("whole-rerun-"), "beside the rerun with the stored settings"
        assert found.state.same("dtype") is False
        assert found.state.same("configuration") is False
        assert found.results is not None
        assert not found.results.identical
        verdict, metrics, *_ = found.results.words()
        assert verdict == "the results differ"
        assert re.match(r"metrics: the first difference is (loss|grad_norm) at step 1: [0-9.]+ then, ", metrics)
        assert metrics.endswith("24 of 24 lines differ")

    def test_the_first_difference_is_found(self, home: Home) -> None:
        run_dir = copy_run(home, "touched")
        rows = files.read_json_lines(run_dir / "metrics.jsonl")
        rows[6]["grad_norm"] += 0.25
        rows[9]["loss"] = float("nan")
        rows[9]["seconds"] = 99.0
        files.rewrite_json_lines(run_dir / "metrics.jsonl", rows)
        scored = files.read_json_lines(run_dir / "evaluations.jsonl")
        scored[1]["brier"]["brier"][2] = 50.0
        files.rewrite_json_lines(run_dir / "evaluations.jsonl", scored)
        found = compare_results(home.root / "whole", run_dir)
        metrics, evaluations = found.lines
        assert metrics.first is not None
        assert (metrics.first.step, metrics.first.name, metrics.num_different) == (7, "grad_norm", 2)
        assert "a difference of 0.25" in metrics.words()
        assert evaluations.first is not None
        assert (evaluations.first.name, evaluations.first.now) == ("brier.brier[2]", 50.0)
        assert not found.identical
        assert compare_results(run_dir, run_dir).identical, "two that are not a number are the same"


class TestFolders:
    def test_the_old_one_is_never_touched(self, home: Home) -> None:
        for out in (home.root / "whole", home.root / "whole" / "inside"):
            with pytest.raises(OutputError, match="is the run's own folder"):
                rerun("whole", home, out=out)

    def test_what_is_taken_is_left_alone(self, home: Home, again: Rerun) -> None:
        other = copy_run(home, "another")
        (home.root / "full").mkdir()
        (home.root / "full" / "thesis.txt").write_text("mine")
        for out in (other, home.root / "full", home.root):
            with pytest.raises(OutputError, match=r"holds something else than a rerun of .*--out"):
                rerun("whole", home, out=out)
        (home.root / "file").write_text("")
        with pytest.raises(OutputError, match="is a file"):
            rerun("whole", home, out=home.root / "file")
        record = records.read_record(other)
        records.write_record(other, record.model_copy(update={"run_id": "another", "created": "2020"}))
        with pytest.raises(OutputError, match="holds something else"):
            rerun(other, home, out=again.folder)


class TestOldRuns:
    @pytest.fixture
    def old(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        write_text(tmp_path / "text.txt")
        monkeypatch.chdir(tmp_path)
        return write_old_run(tmp_path / "runs" / "old")

    @pytest.mark.slow
    def test_one_is_made_again(self, old: Path) -> None:
        home = open_home("runs")
        with pytest.raises(RunError, match=r"the workbench's code (is not|cannot be said to be) the same"):
            rerun("old", home)
        found = rerun("old", home, any_code=True)
        assert found.state.same("configuration") is True
        assert found.state.same("data") is True
        assert records.read_record(found.folder).status == "completed"

    @pytest.mark.slow
    @pytest.mark.parametrize("earlier", [False, True])
    def test_an_interrupted_one_goes_on(self, tmp_path: Path, old: Path, earlier: bool) -> None:
        from workbench.config_file import stored_config

        home = open_home("runs")
        if earlier:
            old = write_old_run(tmp_path / "runs" / "earlier", earlier=True)
        record = execute(stored_config(old / "config.yaml"), old, home=home)
        assert record.status == "completed", "as then nothing ends it, though its autoencoder carries nothing"
        assert record.created == "2026-11-26T15:03:14+00:00"
        assert [evaluation.step for evaluation in records.read_evaluations(old)] == [7, 13, 24]
        (before,) = record.environment["earlier"]
        assert before["git_commit"].startswith("024925a")
        stated = rerun(old, home, compare_only=True).state
        assert stated.same("code") is False
        assert any(line.startswith("the run was interrupted, and began on other code") for line in stated.details)


class TestCommand:
    def test_says_what_is_the_same(self, calm: Command, again: Rerun) -> None:
        done = calm("rerun", "whole", "--compare-only")
        assert done.code == 0, done.err
        assert "identical, bit for bit" in done.out
        assert "finished before" in done.out
        for name in ("data", "code", "commit", "uncommitted changes", "torch", "cpu", "threads", "dtype"):
            assert f"{name} " in done.out

    @pytest.mark.slow
    def test_trains(self, calm: Command, whole: Path) -> None:
        done = calm("rerun", "whole", "--out", whole / "by-command", "--tracking-uri", "none", "--json")
        assert done.code == 0, done.err
        found = json.loads(done.out)
        assert found["results"]["identical"]
        assert found["results"]["whole"]
        assert found["finished_before"] is False
        assert {"name": "dtype", "then": "float32", "now": "float32", "same": True} in found["state"]
        assert "training 24/24" in done.err

    def test_refuses_with_the_table(self, calm: Command, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        change_code(monkeypatch)
        done = calm("rerun", "whole", "--out", whole / "refused", "--tracking-uri", "none")
        assert done.code == 2
        assert "DIFFERS" in done.out
        assert "--any-code" in done.err
        assert "Traceback" not in done.err

    @pytest.mark.slow
    def test_other_results_have_a_code_of_their_own(self, calm: Command, home: Home) -> None:
        rerun("whole", home, overrides={"runtime.dtype": "bfloat16"})
        done = calm("rerun", "whole", "--set", "runtime.dtype=bfloat16", "--compare-only", "--json")
        assert done.code == 1
        assert json.loads(done.out)["results"]["lines"][0]["first"]["step"] == 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nothing"], "no run 'nothing'"),
            (["whole", "--set", "optim.lr=1"], "optim.lr cannot be set of a rerun"),
        ],
    )
    def test_mistakes_are_said(self, calm: Command, arguments: list[str], message: str) -> None:
        done = calm("rerun", *arguments, "--tracking-uri", "none")
        assert done.code == 2
        assert message in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "evaluations.jsonl", "positions.npz", "autoencoder.safetensors"]
)
def test_a_damaged_original_is_said_before_anything_trains(home: Home, name: str) -> None:
    run_dir = copy_run(home, f"damaged-{name}")
    content = (run_dir / name).read_bytes()
    (run_dir / name).write_bytes(b'{"x\n' + content[8:])
    with pytest.raises(RunError, match=re.escape(name)):
        rerun(run_dir, home, out=home.root / f"again-{name}")
    assert not (home.root / f"again-{name}").exists()


@pytest.mark.slow
def test_a_name_is_not_said_to_be_nobodys_while_a_record_cannot_be_read(home: Home) -> None:
    run_dir = copy_run(home, "cut-off")
    (run_dir / records.RECORD).write_text('{"run_id": ')
    with pytest.raises(
        RunError, match=r"no run 'gone'; .*not to be read, so that its name is not known: .*cut-off"
    ):
        find_run("gone", home)
    shutil.rmtree(run_dir)

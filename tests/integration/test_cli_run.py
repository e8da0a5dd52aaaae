"""``calm train`` and ``evaluate``: what they print, write and refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.suites.command_line import Command, write_config
from tests.suites.run_folders import make_run_folder
from tests.suites.tiny_runs import leftovers, tree, write_text
from workbench import processes, records

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``text.txt`` and ``tiny.yaml``."""
    folder = tmp_path_factory.mktemp("cli")
    write_config(folder / "tiny.yaml", tree(write_text(folder / "text.txt")))
    return folder


@pytest.fixture
def calm(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(folder, monkeypatch, capsys)


@pytest.fixture
def trained(folder: Path, calm: Command) -> Path:
    """The run ``tiny``, trained by the command line, once."""
    done = calm("train", folder / "tiny.yaml", "--tracking-uri", "none")
    assert done.code == 0, done.err
    (run_dir,) = (folder / "runs" / "single").glob("tiny-*")
    return run_dir


def processor_seconds() -> float:
    """Of the processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def commands(group: Any, name: str = "calm") -> Iterator[tuple[str, Any]]:
    """All commands that do something, with their names."""
    for called, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {called}")
        else:
            yield f"{name} {called}", command


@pytest.mark.parametrize(
    ("option", "variable"),
    [("home", "CALM_HOME"), ("storage", "CALM_STORAGE"), ("tracking_uri", "CALM_TRACKING_URI")],
)
def test_what_the_environment_says_holds_for_every_command(option: str, variable: str) -> None:
    from workbench.cli import app

    found = {
        name: parameter.envvar
        for name, command in commands(typer.main.get_command(app))
        for parameter in command.params
        if parameter.name == option
    }
    assert len(found) > 4
    assert set(found.values()) == {variable}, found


@pytest.mark.slow
def test_trainings_that_are_not_tracked_are_delivered_later_all_the_same(
    calm: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folder / "later"
    make_run_folder(home / "single" / "r", plots=False)
    monkeypatch.setenv("CALM_TRACKING_URI", "none")
    assert "1 delivered" in calm("sync", "--home", home).out
    assert calm("models", "--home", home).code == 0
    assert "1 delivered" not in calm("sync", "--home", home, "--tracking-uri", "none").out


class TestHelp:
    def test_is_quick_and_loads_nothing_heavy(self) -> None:
        code = (
            "import sys; sys.argv = ['calm', '--help']\n"
            "from workbench.cli import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            "print('LOADED', *{m.split('.')[0] for m in sys.modules})"
        )
        seconds = []  # of the processor: what else the machine does must not count
        for _ in range(3):
            start = processor_seconds()
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
            seconds.append(processor_seconds() - start)
        assert done.returncode == 0
        loaded = set(done.stdout.rpartition("LOADED")[2].split())
        assert loaded & {"torch", "mlflow", "optuna", "pandas", "pydantic", "numpy", "matplotlib", "yaml"} == set()
        assert min(seconds) < 0.5
        for name in ("train", "evaluate", "sample", "bench", "study", "report", "ui", "sync"):
            assert f"  {name}  " in done.stdout

    @pytest.mark.parametrize("command", ["train", "evaluate", "sample", "bench"])
    def test_of_a_command(self, calm: Command, command: str) -> None:
        done = calm(command, "--help")
        assert done.code == 0
        assert "--home" in done.out


class TestDryRun:
    def test_json_says_what_a_run_costs_and_trains_nothing(self, calm: Command, folder: Path) -> None:
        home = folder / "dry"
        done = calm("train", folder / "tiny.yaml", "--dry-run", "--json", "--home", home)
        assert done.code == 0, done.err
        found = json.loads(done.out)
        assert found["train_flops"] > 0
        assert found["infer_flops_per_token"] > 0
        assert found["num_steps"] == 24
        assert found["parameters"]["total"] == sum(
            v for k, v in found["parameters"].items() if k not in ("total", "autoencoder")
        )
        assert found["config"]["model"]["chunk_size"] == 4
        assert not home.exists()

    def test_overrides_count(self, calm: Command, folder: Path) -> None:
        found = [
            json.loads(calm("train", folder / "tiny.yaml", "--dry-run", "--json", *more).out)
            for more in ((), ("--set", "model.backbone.num_layers=4", "--set", "train.train_flops=1e12"))
        ]
        assert found[1]["parameters"]["backbone"] > 1.9 * found[0]["parameters"]["backbone"]
        assert found[1]["train_flops"] == pytest.approx(1e12, rel=0.01)

    def test_as_a_table(self, calm: Command, folder: Path) -> None:
        done = calm("train", folder / "tiny.yaml", "--dry-run")
        assert "nothing is trained" in done.out
        assert "infer flops per token" in done.out
        assert "refused" not in done.err

    def test_says_that_the_text_is_not_there(self, calm: Command, folder: Path) -> None:
        done = calm("train", folder / "tiny.yaml", "--dry-run", "--set", "data.corpus=shakespear")
        assert (done.code, "nothing is trained" in done.out) == (0, True)
        assert (
            "the run itself would be refused: unknown corpus 'shakespear'; did you mean shakespeare?" in done.err
        )

    @pytest.mark.slow
    def test_says_that_it_cannot_start_from_the_run_that_is_named(
        self, calm: Command, folder: Path, trained: Path
    ) -> None:
        def said(*settings: str) -> str:
            sets = [part for one in settings for part in ("--set", one)]
            done = calm("train", folder / "tiny.yaml", "--dry-run", "--name", "tuned", *sets)
            assert (done.code, "nothing is trained" in done.out) == (0, True)
            return done.err

        refused = "the run itself would be refused: train.init_from: "
        assert f"{refused}no run 'nope'" in said("train.init_from=nope")
        fits = f"train.init_from={trained}"
        assert "refused" not in said(fits)
        assert "model.chunk_size is 2 here and 4 there" in said(fits, "model.chunk_size=2")


class TestTrain:
    @pytest.mark.slow
    def test_trains_and_sums_up(self, calm: Command, folder: Path, trained: Path) -> None:
        record = records.read_record(trained)
        assert (record.status, record.name) == ("completed", "tiny")
        assert leftovers(trained) == []
        done = calm("train", folder / "tiny.yaml", "--tracking-uri", "none")  # finished already: shown again
        assert done.code == 0
        for word in ("BrierLM", "Brier-4 %", "trigram table", "tokens/s", "completed", trained.name):
            assert word in done.out
        assert len(list((folder / "runs" / "single").glob("tiny-*"))) == 1

    @pytest.mark.slow
    def test_json_is_the_record_and_nothing_else(self, calm: Command, folder: Path, trained: Path) -> None:
        done = calm("train", folder / "tiny.yaml", "--tracking-uri", "none", "--json")
        assert records.RunRecord.model_validate_json(done.out) == records.read_record(trained)

    @pytest.mark.slow
    def test_progress_is_shown(self, calm: Command, folder: Path) -> None:
        done = calm("train", folder / "tiny.yaml", "--tracking-uri", "none", "--name", "seen")
        assert "training 24/24" in done.out
        assert "tokens/s" in done.out
        assert "step 7 (constant): BrierLM" in done.out

    @pytest.mark.slow
    def test_an_interruption_can_be_continued(
        self, calm: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from workbench.train import Trainer

        real = Trainer._step

        def step(self: Trainer, tokens: Any, number: int) -> Any:
            if number == 9:
                raise KeyboardInterrupt
            return real(self, tokens, number)

        arguments = ("train", folder / "tiny.yaml", "--tracking-uri", "none", "--name", "broken-off")
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_step", step)
            done = calm(*arguments)
        assert done.code == 130
        assert "interrupted; the same command continues" in done.err
        assert "Traceback" not in done.err
        assert calm(*arguments).code == 0
        (run_dir,) = (folder / "runs" / "single").glob("broken-off-*")
        assert records.read_record(run_dir).status == "completed"


class TestEvaluate:
    def test_again_gives_the_same_scores(self, calm: Command, trained: Path) -> None:
        done = calm("evaluate", "tiny", "--json")
        assert done.code == 0, done.err
        found = records.Evaluation.model_validate_json(done.out)
        final = records.read_record(trained).final
        assert final is not None
        assert found.brier == final.brier
        assert found.fingerprint == final.fingerprint
        assert (trained / f"evaluation-{found.fingerprint}-s0-w16.json").exists()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("arguments", "positions"),
        [
            (("--set", "eval.num_windows=9"), 9 * 2),
            (("--split", "test"), 16 * 2),
            (("--set", "eval.min_context=8"), 16 * 3),
        ],
    )
    def test_other_positions(
        self, calm: Command, trained: Path, arguments: tuple[str, ...], positions: int
    ) -> None:
        found = json.loads(calm("evaluate", trained, *arguments, "--json").out)
        final = records.read_record(trained).final
        assert final is not None
        fewer = "num_windows" in arguments[-1]  # of the same positions: still comparable
        assert (found["fingerprint"] == final.fingerprint) == fewer
        assert found["brier"]["num_positions"] == positions
        assert records.read_record(trained).final == final, "the record of the training stays as it is"

    def test_as_a_table(self, calm: Command, trained: Path) -> None:
        done = calm("evaluate", trained)
        assert "bigram table" in done.out
        assert "± is one standard error" in done.out

    def test_only_the_evaluation_can_be_changed(self, calm: Command, trained: Path) -> None:
        done = calm("evaluate", trained, "--set", "model.chunk_size=2")
        assert done.code == 2
        assert "model.chunk_size cannot be changed without training anew" in done.err


class TestBadInput:
    """One message on the error stream, exit code 2, no traceback, nothing half-written."""

    def refused(self, calm: Command, *arguments: str | Path) -> str:
        done = calm(*arguments)
        assert done.code == 2, (done.code, done.out, done.err)
        assert done.err.startswith("calm: ")
        assert "Traceback" not in done.err
        assert leftovers(calm.folder / "runs") in ([], [".cache"])
        return done.err

    @pytest.mark.parametrize(
        ("assignment", "message"),
        [
            ("model.chunk_sise=4", "unknown field model.chunk_sise; did you mean model.chunk_size?"),
            ("model.chunk_size=four", "given: 'four'"),
            ("model.chunk_size=5", "not a multiple of model.chunk_size 5"),
            ("model.head.alpha=2", "alpha must lie in (0, 2)"),
            ("model.chunk_size", "--set wants NAME=VALUE"),
        ],
    )
    def test_configuration(self, calm: Command, folder: Path, assignment: str, message: str) -> None:
        before = sorted((folder / "runs").rglob("record.json"))
        assert message in self.refused(calm, "train", folder / "tiny.yaml", "--set", assignment)
        assert sorted((folder / "runs").rglob("record.json")) == before

    def test_missing_configuration(self, calm: Command, folder: Path) -> None:
        message = self.refused(calm, "train", folder / "none.yaml")
        assert "there is no configuration" in message

    @pytest.mark.parametrize(
        ("corpus", "content", "message"),
        [
            ("text:{}/none.txt", None, "no file or folder"),
            ("text:{}/x.txt", "", "holds no text"),
            ("text:{}/x.txt", "too short", "is too small"),
            ("json:{}/x.jsonl", '{"text": "a"}\n{"text": \n', "line 2: not JSON"),
            ("json:{}/x.jsonl", '{"body": "a"}\n', "no field 'text'"),
            ("shakespear", None, "did you mean shakespeare?"),
            ("wikitext/wikitext-103", None, "write hub:wikitext/wikitext-103"),
        ],
    )
    def test_corpus(
        self, calm: Command, folder: Path, tmp_path: Path, corpus: str, content: str | None, message: str
    ) -> None:
        name = corpus.format(tmp_path)
        if content is not None:
            Path(name.partition(":")[2]).write_text(content)
        arguments = ("--set", f"data.corpus={name}", "--tracking-uri", "none", "--name", "bad")
        assert message in self.refused(calm, "train", folder / "tiny.yaml", *arguments)
        assert leftovers(folder / "runs" / ".cache" / "corpora") == []
        for path in (folder / "runs" / "single").glob("bad-*"):
            record = records.read_record(path)
            assert record.status == "failed", "what is there is complete and says why"
            assert record.reason

    @pytest.mark.parametrize(
        ("assignment", "message"),
        [
            ("eval.num_windows=100000", "set eval.num_windows to at most"),
            ("runtime.device=gpu", "runtime.device: 'gpu' cannot be used here"),
            ("train.block_len=1000000", "lower train.block_len"),
        ],
    )
    def test_what_does_not_fit_data_or_machine(
        self, calm: Command, folder: Path, assignment: str, message: str
    ) -> None:
        arguments = ("--set", assignment, "--tracking-uri", "none", "--name", "misfit")
        assert message in self.refused(calm, "train", folder / "tiny.yaml", *arguments)

    def test_output_that_cannot_be_written(self, calm: Command, folder: Path) -> None:
        home = folder / "text.txt" / "runs"
        message = self.refused(calm, "train", folder / "tiny.yaml", "--home", home, "--tracking-uri", "none")
        assert "cannot write into" in message

    @pytest.mark.parametrize("command", ["evaluate", "sample", "bench"])
    def test_unknown_run(self, calm: Command, trained: Path, command: str) -> None:
        message = self.refused(calm, command, "nosuchrun")
        assert "no run 'nosuchrun'; latest: " in message

    def test_no_runs_at_all(self, calm: Command, tmp_path: Path) -> None:
        assert "there are no runs under" in self.refused(calm, "sample", "x", "--home", tmp_path / "empty")

    def test_a_run_without_weights(self, calm: Command, folder: Path, trained: Path, tmp_path: Path) -> None:
        bare = tmp_path / "bare"
        bare.mkdir()
        for name in (records.RECORD, records.CONFIG):
            (bare / name).write_bytes((trained / name).read_bytes())
        assert "has no checkpoint yet" in self.refused(calm, "sample", bare)
        record = json.loads((bare / records.RECORD).read_text())
        here = processes.this_process()
        for status, process, remedy in (
            ("running", here, "(status: running); a process trains it: wait"),
            (
                "running",
                {**here, "ticks": 1},
                "(status: killed); nobody trains it any more: the command that trained",
            ),
            ("interrupted", here, "(status: interrupted); the command that trained it goes on"),
        ):
            record |= {"status": status, "environment": {**record["environment"], "process": process}}
            (bare / records.RECORD).write_text(json.dumps(record))
            assert remedy in self.refused(calm, "sample", bare)

    def test_damaged_weights(self, calm: Command, trained: Path, tmp_path: Path) -> None:
        import shutil

        copy = tmp_path / "copy"
        shutil.copytree(trained, copy)
        (copy / "checkpoint" / "model.safetensors").write_bytes(b"broken")
        assert "cannot be loaded" in self.refused(calm, "evaluate", copy)

    @pytest.mark.parametrize(
        ("uri", "message"),
        [("ftp://x", "is not supported; wanted"), ("./mlruns", "is a folder"), ("http://", "names no host")],
    )
    def test_tracking_uri(self, calm: Command, folder: Path, uri: str, message: str) -> None:
        arguments = ("--tracking-uri", uri, "--name", "untracked")
        assert message in self.refused(calm, "train", folder / "tiny.yaml", *arguments)
        assert list((folder / "runs" / "single").glob("untracked-*")) == []

    def test_nothing_is_opened_for_a_text_that_is_not_there(self, calm: Command, folder: Path) -> None:
        home = folder / "none_of_it"
        done = calm("train", folder / "tiny.yaml", "--set", "data.corpus=text:nowhere", "--home", home)
        assert (done.code, home.exists()) == (2, False)
        assert "there is no file or folder nowhere" in done.err

    @pytest.mark.parametrize(
        "command", [("train", "tiny.yaml"), ("study", "list"), ("report",), ("ui",), ("sync",)]
    )
    def test_a_home_without_a_name(self, calm: Command, command: tuple[str, ...]) -> None:
        """To pathlib it is the current folder."""
        done = calm(*command, "--home", "")
        assert done.code == 2
        assert "the name of a folder is wanted, '' was given" in " ".join(done.err.replace("│", " ").split())

    def test_unknown_option(self, calm: Command, folder: Path) -> None:
        done = calm("train", folder / "tiny.yaml", "--fast")
        assert done.code == 2
        assert "No such option" in done.err


@pytest.mark.slow
def test_the_installed_command_with_tracking(folder: Path, tmp_path: Path) -> None:
    """A real process: train with MLflow's database, then a mistake."""
    calm = Path(sys.executable).with_name("calm")
    environment = {**os.environ, "CALM_HOME": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(calm), *arguments], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120
        )

    done = run("train", str(folder / "tiny.yaml"))
    assert done.returncode == 0, done.stderr
    (run_dir,) = (tmp_path / "runs" / "single").glob("tiny-*")
    record = records.read_record(run_dir)
    assert record.mlflow is not None
    done = run("train", "missing.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("calm: there is no configuration missing.yaml")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

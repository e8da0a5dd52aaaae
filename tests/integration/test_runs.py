"""Whole runs: repeatable, interruptible, resumable; every way to end is recorded."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.suites.tiny_runs import BASELINE, leftovers, tiny_config, traces, without_times, write_text
from workbench import checkpoint, files, records
from workbench.config import RunConfig
from workbench.errors import DataError, RunError
from workbench.home import Home
from workbench.records import Evaluation
from workbench.runner import Identity, StopRun, execute
from workbench.saved_runs import find_run, load_run
from workbench.train import Trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the text, the caches, and a run that nothing disturbed: ``runs/whole``."""
    folder = tmp_path_factory.mktemp("whole")
    config, home = tiny_config(folder)
    execute(config, home.root / "whole", home=home)
    return folder


class TestWholeRun:
    def test_record_and_folder(self, whole: Path) -> None:
        config, home = tiny_config(whole)
        run_dir = home.root / "whole"
        record = records.read_record(run_dir)
        assert record.status == "completed"
        assert (record.step, record.num_steps, record.tokens) == (24, 24, 24 * 128)
        assert record.config_hash == config.hash()
        assert record.kind == "calm"
        assert record.head == "energy"
        assert set(record.floors) == {"unigram", "bigram", "trigram"}
        assert record.compute["train_flops"] > 0
        assert record.compute["train_flops_published"] > 0
        assert record.parameters["total"] > 0
        evaluations = records.read_evaluations(run_dir)
        assert [e.step for e in evaluations][-1] == 24
        assert len(evaluations) == 3
        assert record.final == evaluations[-1]
        assert all(e.fingerprint == record.eval_fingerprint for e in evaluations)
        assert [p.step for p in records.read_train_points(run_dir)] == list(range(1, 25))
        values = np.load(run_dir / "brier_positions.npy")
        np.testing.assert_allclose(100 * values.mean((0, 1)), record.final.brier.brier, rtol=1e-5)
        assert records.read_autoencoder_report(run_dir) is not None
        assert leftovers(run_dir) == []
        assert not (run_dir / "checkpoint" / "optimizer.safetensors").exists(), "only needed to go on"

    def test_same_configuration_and_seed_give_the_same_bits(self, whole: Path, tmp_path: Path) -> None:
        """From nothing: corpus, autoencoder and model are all made again."""
        config, home = tiny_config(tmp_path, {"data.corpus": f"text:{whole / 'text.txt'}"})
        execute(config, home.root / "again", home=home)
        assert traces(home.root / "again") == traces(whole / "runs" / "whole")

    def test_another_seed_gives_another_run(self, whole: Path) -> None:
        config, home = tiny_config(whole, {"seed": 1})
        execute(config, home.root / "seed", home=home)
        first, second = traces(home.root / "seed"), traces(home.root / "whole")
        assert first["metrics"][0]["loss"] != second["metrics"][0]["loss"]

    def test_a_completed_run_is_returned_at_once(self, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config, home = tiny_config(whole)
        monkeypatch.setattr("workbench.runner.prepare_inputs", None)
        record = execute(config, home.root / "whole", home=home)
        assert record == records.read_record(home.root / "whole")

    def test_another_configuration_in_the_folder_is_refused(self, whole: Path) -> None:
        config, home = tiny_config(whole, {"optim.lr": 1e-3})
        before = without_times(records.read_record(home.root / "whole").model_dump())
        with pytest.raises(RunError, match="holds a run of another configuration"):
            execute(config, home.root / "whole", home=home)
        assert without_times(records.read_record(home.root / "whole").model_dump()) == before

    def test_two_processes_at_one_run_are_refused(self, whole: Path) -> None:
        """They would write the same points twice and each other's checkpoints."""
        config, home = tiny_config(whole)
        run_dir = home.root / "busy"
        code = "import sys, time; from pathlib import Path; from workbench import files\n"
        code += f"with files.claimed(Path({str(run_dir)!r})): print('held', flush=True); time.sleep(60)"
        holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(RunError, match="another process is writing into"):
                execute(config, run_dir, home=home)
            assert not (run_dir / "record.json").exists()
        finally:
            holder.kill()
            holder.wait()
        assert execute(config, run_dir, home=home).status == "completed", "a killed process holds nothing"

    def test_loads_to_the_same_scores(self, whole: Path) -> None:
        from workbench.evaluate import brier_values, evaluation_grid

        _, home = tiny_config(whole)
        saved = load_run(home.root / "whole", home)
        config, record, model, corpus = saved.config, saved.record, saved.model, saved.corpus
        values, _ = brier_values(model, config.eval, evaluation_grid(config.eval, corpus))
        np.testing.assert_array_equal(values, np.load(home.root / "whole" / "brier_positions.npy"))
        assert record.status == "completed"


def test_a_run_does_not_need_the_cached_autoencoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another training of it would give other latent vectors, and the language model belongs to these."""
    from workbench.evaluate import brier_values, evaluation_grid

    config, home = tiny_config(tmp_path)
    execute(config, home.root / "run", home=home)
    shutil.rmtree(home.cache / "autoencoders")
    monkeypatch.setattr("workbench.train_autoencoder.train_autoencoder", None)
    saved = load_run(home.root / "run", home)
    model, corpus = saved.model, saved.corpus
    values, _ = brier_values(model, config.eval, evaluation_grid(config.eval, corpus))
    np.testing.assert_array_equal(values, np.load(home.root / "run" / "brier_positions.npy"))


class Interrupted:
    """Interrupts the first time it is called with ``when(...)`` true."""

    def __init__(self, step: int) -> None:
        self.step, self.done = step, False

    def __call__(self, evaluation: Evaluation) -> None:
        if evaluation.step >= self.step and not self.done:
            self.done = True
            raise KeyboardInterrupt


def _interrupted_step(*_: Any) -> Any:
    raise KeyboardInterrupt


def resume_and_compare(whole: Path, run_dir: Path, home: Home) -> None:
    config, _ = tiny_config(whole)
    assert records.read_record(run_dir).status == "interrupted"
    assert leftovers(run_dir) == []
    with pytest.MonkeyPatch.context() as patch:  # interrupted again at once: what was evaluated is not forgotten
        patch.setattr(Trainer, "_step", _interrupted_step)
        if (run_dir / "checkpoint").exists() and records.read_evaluations(run_dir):
            with pytest.raises(KeyboardInterrupt):
                execute(config, run_dir, home=home)
            assert records.read_record(run_dir).final == records.read_evaluations(run_dir)[-1]
    record = execute(config, run_dir, home=home)
    assert record.status == "completed"
    assert traces(run_dir) == traces(whole / "runs" / "whole")
    steps = [p.step for p in records.read_train_points(run_dir)]
    assert steps == sorted(set(steps))


class TestInterruption:
    def test_at_an_evaluation(self, whole: Path) -> None:
        config, home = tiny_config(whole)
        run_dir = home.root / "at-evaluation"
        with pytest.raises(KeyboardInterrupt):
            execute(config, run_dir, home=home, on_evaluation=Interrupted(8))
        assert checkpoint.find(run_dir / "checkpoint") is not None
        kept = files.read_json(run_dir / "checkpoint" / "state.json")["step"]
        assert kept == records.read_evaluations(run_dir)[-1].step, "nothing was lost"
        resume_and_compare(whole, run_dir, home)

    @pytest.mark.parametrize("place", ["before", "during", "after"])
    def test_at_any_moment_of_a_step(self, whole: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also between the update of one group of weights and the next, or before the position is counted."""
        config, home = tiny_config(whole)
        run_dir = home.root / f"{place}-step"
        step = torch.optim.AdamW.step
        count = 0

        def interrupted(self: torch.optim.AdamW, closure: Any = None) -> Any:
            nonlocal count
            count += 1
            if count != 11:
                return step(self)
            if place == "during":
                groups, self.param_groups = self.param_groups, self.param_groups[:1]
                step(self)
                self.param_groups = groups
            elif place == "after":
                step(self)
            raise KeyboardInterrupt

        # a checkpoint lies at the first evaluation, step 7
        with monkeypatch.context() as patch:
            patch.setattr("workbench.train.Trainer._step", _patched_step(interrupted, place))
            with pytest.raises(KeyboardInterrupt):
                execute(config, run_dir, home=home)
        kept = files.read_json(run_dir / "checkpoint" / "state.json")["step"]
        assert kept == (10 if place == "before" else 7)
        resume_and_compare(whole, run_dir, home)

    @pytest.mark.parametrize("call", [1, 2, 3])
    def test_in_the_middle_of_an_evaluation(self, whole: Path, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """The evaluation must be made after resuming; the last one too."""
        import workbench.runner as runner

        config, home = tiny_config(whole)
        run_dir = home.root / f"in-evaluation-{call}"
        real, count = runner.evaluate, 0

        def interrupted(*args: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                raise KeyboardInterrupt
            return real(*args, **named)

        with monkeypatch.context() as patch:
            patch.setattr(runner, "evaluate", interrupted)
            with pytest.raises(KeyboardInterrupt):
                execute(config, run_dir, home=home)
        resume_and_compare(whole, run_dir, home)

    def test_while_finishing(self, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """After the last step, when the checkpoint shrinks to the weights: the run is finished already."""
        config, home = tiny_config(whole)
        run_dir = home.root / "finishing"
        save = Trainer.save

        def interrupted(self: Trainer, *, finished: bool = False) -> None:
            save(self, finished=finished)
            if finished:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "save", interrupted)
            with pytest.raises(KeyboardInterrupt):
                execute(config, run_dir, home=home)
        assert records.read_record(run_dir).status == "completed"
        assert execute(config, run_dir, home=home).status == "completed"
        assert traces(run_dir) == traces(home.root / "whole")

    def test_twice(self, whole: Path) -> None:
        config, home = tiny_config(whole)
        run_dir = home.root / "twice"
        for step in (7, 12):
            with pytest.raises(KeyboardInterrupt):
                execute(config, run_dir, home=home, on_evaluation=Interrupted(step))
        resume_and_compare(whole, run_dir, home)

    def test_rows_after_the_checkpoint_are_dropped(self, whole: Path) -> None:
        """A crash leaves points, an evaluation and a torn line that the checkpoint knows nothing of."""
        config, home = tiny_config(whole)
        run_dir = home.root / "crashed"
        with pytest.raises(KeyboardInterrupt):
            execute(config, run_dir, home=home, on_evaluation=Interrupted(7))
        point = records.read_train_points(run_dir)[-1]
        for step in (8, 9):
            files.append_json_line(run_dir / "metrics.jsonl", {**point.model_dump(), "step": step, "loss": 99.0})
        evaluation = records.read_evaluations(run_dir)[-1].model_dump()
        files.append_json_line(run_dir / "evaluations.jsonl", {**evaluation, "step": 9})
        with open(run_dir / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write('{"step": 10, "lo')
        resume_and_compare(whole, run_dir, home)


def _patched_step(optimizer_step: Any, place: str) -> Any:
    real = Trainer._step

    def step(self: Trainer, tokens: torch.Tensor, number: int) -> Any:
        if place == "before" and number == 10:
            raise KeyboardInterrupt
        if place != "before":
            self.optimizer.step = optimizer_step.__get__(self.optimizer)  # type: ignore[method-assign]
        return real(self, tokens, number)

    return step


class TestFindRun:
    def test_by_path_id_and_name(self, whole: Path) -> None:
        _, home = tiny_config(whole)
        for name in (str(home.root / "whole"), "whole"):
            assert find_run(name, home) == home.root / "whole"

    def test_a_damaged_record_elsewhere_does_not_matter(self, tmp_path: Path) -> None:
        from tests.suites.run_folders import make_run_folder

        make_run_folder(tmp_path / "a", name="first")
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "record.json").write_text("{")
        assert find_run("first", Home(tmp_path)) == tmp_path / "a"

    def test_an_ambiguous_name(self, tmp_path: Path) -> None:
        from tests.suites.run_folders import make_run_folder

        for folder in ("a", "b"):
            make_run_folder(tmp_path / folder, name="twin")
        with pytest.raises(RunError, match="'twin' names 2 runs"):
            find_run("twin", Home(tmp_path))


class TestOtherEnds:
    def test_stopped_by_the_caller(self, whole: Path) -> None:
        config, home = tiny_config(whole)

        def stop(evaluation: Evaluation) -> None:
            raise StopRun("not among the best")

        record = execute(config, home.root / "pruned", home=home, on_evaluation=stop)
        assert (record.status, record.reason) == ("pruned", "not among the best")
        assert record.final is not None
        assert record.step == record.final.step == 7
        assert len(records.read_evaluations(home.root / "pruned")) == 1
        model = load_run(home.root / "pruned", home).model
        assert model.network is not None
        assert execute(config, home.root / "pruned", home=home).status == "pruned", "it stays so"

    def test_a_loss_that_is_not_finite(self, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from workbench.model import Calm

        config, home = tiny_config(whole)
        run_dir = home.root / "nan"
        loss, count = Calm.training_loss, 0

        def broken(self: Calm, tokens: torch.Tensor, *, rng: torch.Generator) -> torch.Tensor:
            nonlocal count
            count += 1
            value = loss(self, tokens, rng=rng)
            return value * float("nan") if count == 11 else value

        monkeypatch.setattr(Calm, "training_loss", broken)
        record = execute(config, run_dir, home=home)
        assert record.status == "not_finite"
        assert "at step 11" in record.reason
        assert "not_finite" in [d.code for d in record.diagnostics]
        assert record == records.read_record(run_dir)
        assert leftovers(run_dir) == []
        assert files.read_json(run_dir / "checkpoint" / "state.json")["step"] == 7
        model = load_run(run_dir, home).model
        assert all(torch.isfinite(p).all() for p in model.network.parameters())
        assert all(np.isfinite(p.loss) for p in records.read_train_points(run_dir))

    def test_an_autoencoder_whose_loss_is_not_finite(
        self, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from workbench.autoencoder import Autoencoder

        config, home = tiny_config(tmp_path)
        loss = Autoencoder.loss
        monkeypatch.setattr(Autoencoder, "loss", lambda self, x, *, rng: loss(self, x, rng=rng) * float("nan"))
        record = execute(config, home.root / "nan", home=home)
        assert record.status == "not_finite"
        assert "autoencoder" in record.reason
        assert list((home.cache / "autoencoders").glob("[!.]*")) == []

    def test_a_failure_is_recorded_and_raised(self, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config, home = tiny_config(whole)
        run_dir = home.root / "failed"
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_step", lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                execute(config, run_dir, home=home)
        record = records.read_record(run_dir)
        assert (record.status, record.reason) == ("failed", "ZeroDivisionError: division by zero")
        assert record.finished is not None
        assert execute(config, run_dir, home=home).status == "completed", "a second attempt is allowed"
        assert traces(run_dir) == traces(home.root / "whole")

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"eval.num_windows": 5000}, r"set eval\.num_windows to at most"),
            ({"train.block_len": 400_000}, r"lower train\.block_len"),
            ({"data.corpus": "text:/nowhere/at/all.txt"}, "nowhere"),
        ],
    )
    def test_unusable_text_is_found_before_anything_is_written(
        self, whole: Path, overrides: dict[str, Any], message: str
    ) -> None:
        config, home = tiny_config(whole, overrides)
        with pytest.raises(DataError, match=message):
            execute(config, home.root / "short", home=home)
        assert not (home.root / "short").exists()

    def test_a_figure_that_cannot_be_drawn_does_not_fail_a_finished_run(
        self, whole: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def draw(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr("workbench.run_plots.draw", draw)
        config, home = tiny_config(whole, {"seed": 77})
        assert execute(config, home.root / "undrawn", home=home).status == "completed"
        assert "disk full" in caplog.text

    def test_a_finished_run_has_its_figures(self, whole: Path) -> None:
        _, home = tiny_config(whole)
        plots = sorted(p.name for p in (home.root / "whole" / records.PLOTS).iterdir())
        assert plots == ["autoencoder.png", "training.png"]


class TestChangedSurroundings:
    """Between an interruption and the next attempt, the text or the cache may have changed."""

    def interrupted(self, folder: Path) -> tuple[RunConfig, Home, Path]:
        config, home = tiny_config(folder)
        run_dir = home.root / "run"

        def stop(_: Evaluation) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            execute(config, run_dir, home=home, on_evaluation=stop)
        return config, home, run_dir

    def test_other_text_is_refused(self, tmp_path: Path) -> None:
        config, home, run_dir = self.interrupted(tmp_path)
        before = records.read_record(run_dir)
        text = tmp_path / "text.txt"
        text.write_text(text.read_text(encoding="utf-8").replace("castle", "garden"), encoding="utf-8")
        with pytest.raises(RunError, match="was trained on other text"):
            execute(config, run_dir, home=home)
        with pytest.raises(RunError, match="was trained on other text"):
            load_run(run_dir, home)
        assert records.read_record(run_dir) == before

    def test_without_the_cache_the_runs_own_autoencoder_goes_on(self, tmp_path: Path, whole: Path) -> None:
        config, home, run_dir = self.interrupted(tmp_path)
        own = (run_dir / records.AUTOENCODER_WEIGHTS).read_bytes()
        shutil.rmtree(home.cache / "autoencoders")
        assert execute(config, run_dir, home=home).status == "completed"
        assert not (home.cache / "autoencoders").exists(), "not trained anew"
        assert (run_dir / records.AUTOENCODER_WEIGHTS).read_bytes() == own

    def test_an_interrupted_run_is_loaded_at_its_checkpoints_step(self, tmp_path: Path) -> None:
        _, home, run_dir = self.interrupted(tmp_path)
        saved = load_run(run_dir, home)
        first = records.read_evaluations(run_dir)[0]
        assert (saved.step, saved.tokens, saved.phase) == (first.step, first.tokens, first.phase)
        assert saved.train_flops == pytest.approx(first.train_flops)


@pytest.mark.parametrize(
    "overrides",
    [
        {"model.input_mode": "latent"},
        {"model.input_mode": "both", "model.latent_feedback": "predicted"},
        {"model.chunk_size": 8},
        {"model.chunk_size": 1},
        {"data.tokenizer.kind": "bpe", "data.tokenizer.vocab_size": 280},
        {"runtime.dtype": "bfloat16", "runtime.autoencoder_dtype": "bfloat16"},
        {"train.train_tokens": None, "train.train_flops": 3e8, "optim.decay_fraction": 0.5},
    ],
    ids=lambda o: ",".join(f"{k.split('.')[-1]}={v}" for k, v in o.items()),
)
def test_variants_run(whole: Path, overrides: dict[str, Any]) -> None:
    config, home = tiny_config(whole, overrides)
    run_dir = home.root / f"variant-{config.hash()}"
    record = execute(config, run_dir, home=home)
    assert record.status == "completed"
    assert record.final is not None
    expected = "decayed" if config.optim.decay_fraction else "constant"
    assert record.final.phase == expected
    losses = [e.energy_loss or 0.0 for e in records.read_evaluations(run_dir)]
    assert losses[-1] < losses[0]


def test_a_baseline_runs(whole: Path) -> None:
    config, home = tiny_config(whole, **BASELINE)
    record = execute(config, home.root / "baseline", home=home, identity=Identity(role="baseline", name="b"))
    assert record.status == "completed"
    assert (record.kind, record.head, record.role, record.name) == ("baseline", None, "baseline", "b")
    assert record.final is not None
    assert record.final.cross_entropy is not None
    assert record.final.cross_entropy < np.log(258)
    calm = records.read_record(home.root / "whole")
    assert record.eval_fingerprint == calm.eval_fingerprint, "both are scored at the same positions"
    assert not (home.root / "baseline" / "autoencoder.json").exists()
    assert find_run("b", home) == home.root / "baseline"


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from tests.suites.tiny_runs import tiny_config
from workbench.runner import execute
overrides = {{"train.checkpoint_every_seconds": 0.02, "train.train_tokens": 51200}}
config, home = tiny_config(Path({folder!r}), overrides)
execute(config, home.root / "killed", home=home)
"""


@pytest.mark.slow
@pytest.mark.parametrize("rows", [30, 90])
def test_a_killed_process_is_resumed_exactly(whole: Path, rows: int) -> None:
    """SIGKILL at an arbitrary moment of a real process."""
    overrides = {"train.checkpoint_every_seconds": 0.02, "train.train_tokens": 51200}
    config, home = tiny_config(whole, overrides)
    if not (home.root / "undisturbed").exists():
        execute(config, home.root / "undisturbed", home=home)
    run_dir = home.root / "killed"
    shutil.rmtree(run_dir, ignore_errors=True)
    root = str(Path(__file__).resolve().parents[2])
    script = SCRIPT.format(root=root, folder=str(whole))
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while len(files.read_json_lines(run_dir / "metrics.jsonl")) < rows:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert records.read_record(run_dir).status == "running"
    assert checkpoint.find(run_dir / "checkpoint") is not None
    record = execute(config, run_dir, home=home)
    assert record.status == "completed"
    assert leftovers(run_dir) == []
    assert traces(run_dir) == traces(home.root / "undisturbed")


@pytest.mark.slow
def test_two_processes_share_one_corpus_and_one_autoencoder(tmp_path: Path) -> None:
    write_text(tmp_path / "text.txt")
    root = str(Path(__file__).resolve().parents[2])
    processes = []
    for name in ("killed", "other"):
        script = SCRIPT.format(root=root, folder=str(tmp_path)).replace('"killed"', repr(name))
        script = script.replace("51200", "1280")
        processes.append(subprocess.Popen([sys.executable, "-c", script]))
    assert [p.wait(timeout=120) for p in processes] == [0, 0]
    home = tmp_path / "runs"
    assert traces(home / "killed") == traces(home / "other")
    assert len(list((home / ".cache" / "autoencoders").glob("[!.]*"))) == 1

"""Whole runs: repeatable, interruptible, resumable to the last bit."""

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

from tests.suites.tiny_runs import leftovers, tiny_config, traces, without_times, write_text
from workbench import checkpoint, files, records
from workbench.config import RunConfig
from workbench.errors import RunError
from workbench.home import Home
from workbench.optimizers import Optimizer, Together
from workbench.positions import read_positions
from workbench.records import Evaluation
from workbench.runner import execute
from workbench.saved_runs import load_run
from workbench.train import Trainer


class TestWholeRun:
    @pytest.mark.slow
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
        values = read_positions(run_dir / "positions.npz").values
        np.testing.assert_allclose(100 * values.mean((0, 1)), record.final.brier.brier, rtol=1e-5)
        assert records.read_autoencoder_report(run_dir) is not None
        assert leftovers(run_dir) == []
        assert not (run_dir / "checkpoint" / "optimizer.safetensors").exists(), "only needed to go on"

    @pytest.mark.slow
    def test_same_configuration_and_seed_give_the_same_bits(self, whole: Path, tmp_path: Path) -> None:
        """From nothing: corpus, autoencoder and model are all made again."""
        config, home = tiny_config(tmp_path, {"data.corpus": f"text:{whole / 'text.txt'}"})
        execute(config, home.root / "again", home=home)
        assert traces(home.root / "again") == traces(whole / "runs" / "whole")

    @pytest.mark.slow
    def test_another_seed_gives_another_run(self, whole: Path) -> None:
        config, home = tiny_config(whole, {"seed": 1})
        execute(config, home.root / "seed", home=home)
        first, second = traces(home.root / "seed"), traces(home.root / "whole")
        assert first["metrics"][0]["loss"] != second["metrics"][0]["loss"]

    def test_a_completed_run_is_returned_at_once(self, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config, home = tiny_config(whole)
        monkeypatch.setattr("workbench.runner.prepare_inputs", None)
        left = home.root / "whole" / ".checkpoint.12345678"  # killed as its checkpoint shrank to the weights
        left.mkdir()
        record = execute(config, home.root / "whole", home=home)
        assert record == records.read_record(home.root / "whole")
        assert not left.exists()

    def test_another_configuration_in_the_folder_is_refused(self, whole: Path) -> None:
        config, home = tiny_config(whole, {"optim.lr": 1e-3})
        before = without_times(records.read_record(home.root / "whole").model_dump())
        with pytest.raises(RunError, match="holds a run of another configuration"):
            execute(config, home.root / "whole", home=home)
        assert without_times(records.read_record(home.root / "whole").model_dump()) == before

    @pytest.mark.slow
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
        from workbench.evaluate import evaluation_grid, score_windows

        _, home = tiny_config(whole)
        saved = load_run(home.root / "whole", home)
        config, record, model, corpus = saved.config, saved.record, saved.model, saved.corpus
        values = score_windows(model, config.eval, evaluation_grid(config.eval, corpus)).values
        np.testing.assert_array_equal(values, read_positions(home.root / "whole" / "positions.npz").values)
        assert record.status == "completed"


@pytest.mark.slow
def test_a_run_does_not_need_the_cached_autoencoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another training of it would give other latent vectors, and the language model belongs to these."""
    from workbench.evaluate import evaluation_grid, score_windows

    config, home = tiny_config(tmp_path)
    execute(config, home.root / "run", home=home)
    shutil.rmtree(home.cache / "autoencoders")
    monkeypatch.setattr("workbench.train_autoencoder.train_autoencoder", None)
    saved = load_run(home.root / "run", home)
    model, corpus = saved.model, saved.corpus
    values = score_windows(model, config.eval, evaluation_grid(config.eval, corpus)).values
    np.testing.assert_array_equal(values, read_positions(home.root / "run" / "positions.npz").values)


class Interrupted:
    """Interrupts the first time it is called with ``when(...)`` true."""

    def __init__(self, step: int) -> None:
        self.step, self.done = step, False

    def __call__(self, evaluation: Evaluation) -> None:
        if evaluation.step >= self.step and not self.done:
            self.done = True
            raise KeyboardInterrupt


def _interrupted_step(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def resume_and_compare(
    whole: Path, run_dir: Path, home: Home, *, overrides: dict[str, Any] | None = None, like: str = "whole"
) -> None:
    """``like``: the run that nothing disturbed."""
    config, _ = tiny_config(whole, overrides)
    assert records.read_record(run_dir).status == "interrupted"
    assert leftovers(run_dir) == []
    with pytest.MonkeyPatch.context() as patch:  # interrupted again at once: what was evaluated is not forgotten
        patch.setattr(Trainer, "_step", _interrupted_step)
        patch.setattr("workbench.runner.evaluate", _interrupted_step)  # where an evaluation was pending
        if (run_dir / "checkpoint").exists() and records.read_evaluations(run_dir):
            with pytest.raises(KeyboardInterrupt):
                execute(config, run_dir, home=home)
            assert records.read_record(run_dir).final == records.read_evaluations(run_dir)[-1]
    record = execute(config, run_dir, home=home)
    assert record.status == "completed"
    assert traces(run_dir) == traces(whole / "runs" / like)
    steps = [p.step for p in records.read_train_points(run_dir)]
    assert steps == sorted(set(steps))


class TestInterruption:
    @pytest.mark.slow
    def test_at_an_evaluation(self, whole: Path) -> None:
        config, home = tiny_config(whole)
        run_dir = home.root / "at-evaluation"
        with pytest.raises(KeyboardInterrupt):
            execute(config, run_dir, home=home, on_evaluation=Interrupted(8))
        assert checkpoint.find(run_dir / "checkpoint") is not None
        kept = files.read_json(run_dir / "checkpoint" / "state.json")["step"]
        assert kept == records.read_evaluations(run_dir)[-1].step, "nothing was lost"
        resume_and_compare(whole, run_dir, home)

    @pytest.mark.slow
    @pytest.mark.parametrize("place", ["before", "during", "after"])
    def test_at_any_moment_of_a_step(self, whole: Path, place: str) -> None:
        """Also between the update of one group of weights and the next, or before the position is counted."""
        config, home = tiny_config(whole)
        run_dir = home.root / f"{place}-step"
        interrupt_step(config, run_dir, home, place)
        kept = files.read_json(run_dir / "checkpoint" / "state.json")["step"]
        assert kept == (10 if place == "before" else 7)  # a checkpoint lies at the first evaluation, step 7
        resume_and_compare(whole, run_dir, home)

    @pytest.mark.slow
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

    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_twice(self, whole: Path) -> None:
        config, home = tiny_config(whole)
        run_dir = home.root / "twice"
        for step in (7, 12):
            with pytest.raises(KeyboardInterrupt):
                execute(config, run_dir, home=home, on_evaluation=Interrupted(step))
        resume_and_compare(whole, run_dir, home)

    @pytest.mark.slow
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


def interrupt_step(config: RunConfig, run_dir: Path, home: Home, place: str) -> None:
    """Start the run; interrupt its eleventh step before it begins, halfway through the update, or just after."""
    real = Trainer._step

    def step(self: Trainer, tokens: torch.Tensor, number: int) -> Any:
        if number != 10:
            return real(self, tokens, number)
        if place == "before":
            raise KeyboardInterrupt
        self.optimizer = Interrupting(self.optimizer, place)
        return real(self, tokens, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            execute(config, run_dir, home=home)


class Interrupting(Optimizer):
    """Updates with another one: its first part (AdamW's first group, Muon's matrices), or all; then interrupts."""

    def __init__(self, real: Optimizer, place: str) -> None:
        self.real, self.place, self.param_groups = real, place, real.param_groups

    @property
    def state(self) -> list[dict[str, torch.Tensor]]:
        return self.real.state

    def step(self) -> None:
        if self.place == "after":
            self.real.step()
        elif isinstance(self.real, Together):
            self.real.parts[0].step()
        else:
            self.real.param_groups = self.real.param_groups[:1]
            self.real.step()
        raise KeyboardInterrupt


MUON = {"optim.kind": "muon", "optim.decay_fraction": 0.5}
THIRD = {**MUON, "optim.matrix_every": 3}
ENCODED = {"train.cache_targets": False}


class TestInterruptionOfOtherKinds:
    """Muon, and Muon that moves its matrices in every third step only (the tenth is none); targets encoded in
    every step. Targets from a table, and AdamW, are the kind above."""

    @pytest.fixture(params=[MUON, THIRD, ENCODED], ids=["muon", "muon-every-third", "encoded"])
    def overrides(self, request: pytest.FixtureRequest, whole: Path) -> dict[str, Any]:
        overrides: dict[str, Any] = request.param
        config, home = tiny_config(whole, overrides)
        execute(config, home.root / config.hash(), home=home)
        return overrides

    def test_the_kind_above_looks_its_targets_up(self, whole: Path) -> None:
        config, home = tiny_config(whole)
        assert (config.optim.kind, config.train.cache_targets) == ("adamw", True)
        assert any((home.cache / "posteriors").iterdir())

    @pytest.mark.slow
    @pytest.mark.parametrize("place", ["before", "during", "after"])
    def test_at_any_moment_of_a_step(self, whole: Path, overrides: dict[str, Any], place: str) -> None:
        config, home = tiny_config(whole, overrides)
        run_dir = home.root / f"{config.hash()}-{place}"
        interrupt_step(config, run_dir, home, place)
        kept = files.read_json(run_dir / "checkpoint" / "state.json")["step"]
        assert kept == (10 if place == "before" else 7)
        resume_and_compare(whole, run_dir, home, overrides=overrides, like=config.hash())

    @pytest.mark.slow
    def test_a_table_that_is_gone_is_made_again(self, whole: Path) -> None:
        config, home = tiny_config(whole)
        run_dir = home.root / "without-table"
        interrupt_step(config, run_dir, home, "before")
        shutil.rmtree(home.cache / "posteriors")
        resume_and_compare(whole, run_dir, home)
        assert any((home.cache / "posteriors").iterdir())


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from tests.suites.tiny_runs import tiny_config
from workbench.runner import execute
overrides = {{"train.checkpoint_every_seconds": 0.02, "train.train_tokens": 25600}}
config, home = tiny_config(Path({folder!r}), overrides)
execute(config, home.root / "killed", home=home)
"""


@pytest.mark.slow
@pytest.mark.parametrize("rows", [30, 90])
def test_a_killed_process_is_resumed_exactly(whole: Path, rows: int) -> None:
    """SIGKILL at an arbitrary moment of a real process."""
    overrides = {"train.checkpoint_every_seconds": 0.02, "train.train_tokens": 25600}
    config, home = tiny_config(whole, overrides)
    if not (home.root / "undisturbed").exists():
        execute(config, home.root / "undisturbed", home=home)
    run_dir = home.root / "killed"
    shutil.rmtree(run_dir, ignore_errors=True)
    root = str(Path(__file__).resolve().parents[2])
    script = SCRIPT.format(root=root, folder=str(whole))
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
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
        script = script.replace("25600", "1280")
        processes.append(subprocess.Popen([sys.executable, "-c", script]))
    assert [p.wait(timeout=120) for p in processes] == [0, 0]
    home = tmp_path / "runs"
    assert traces(home / "killed") == traces(home / "other")
    assert len(list((home / ".cache" / "autoencoders").glob("[!.]*"))) == 1

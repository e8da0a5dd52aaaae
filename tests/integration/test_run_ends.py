"""Whole runs: every way to end is recorded; variants of the model; finding and loading a run again."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.suites.tiny_runs import BASELINE, leftovers, tiny_config, traces
from workbench import files, records
from workbench.config import RunConfig
from workbench.errors import DataError, RunError
from workbench.home import Home
from workbench.records import Evaluation
from workbench.run_names import find_run
from workbench.runner import Identity, StopRun, execute
from workbench.saved_runs import load_run
from workbench.train import Trainer


class TestFindRun:
    @pytest.mark.slow
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
        with pytest.raises(RunError) as caught:
            find_run("twin", Home(tmp_path))
        listed = f"{tmp_path / 'a'}, {tmp_path / 'b'}"
        assert str(caught.value) == f"'twin' names 2 runs ({listed}); give STUDY/RUN or the folder"

    def test_the_name_of_several_seeds(self, tmp_path: Path) -> None:
        from tests.suites.run_folders import make_run_folder

        def message(name: str) -> str:
            with pytest.raises(RunError) as caught:
                find_run(name, Home(tmp_path))
            return str(caught.value)

        for number in range(7):
            make_run_folder(tmp_path / f"two-{number}", name=f"two s{number}")
            if number == 0:
                assert message("two") == "'two' is 1 run: 'two s0'; name one"
            if number == 1:
                assert message("two") == "'two' is 2 runs: 'two s0', 'two s1'; name one"
        assert message("two").endswith("'two s4', and 2 more; name one")
        assert find_run("two s1", Home(tmp_path)) == tmp_path / "two-1"
        assert message("tw").startswith("no run 'tw'")
        assert message("tw.").startswith("no run 'tw.'")


class TestOtherEnds:
    @pytest.mark.slow
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

    @pytest.mark.slow
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

    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_a_finished_run_is_no_answer_for_other_text(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One whose text is gone, or cannot be read, is what it was."""

        def unreadable(path: str, *mode: str, **more: str) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

        config, home = tiny_config(tmp_path, {"train.train_tokens": 256}, **BASELINE)
        run_dir = home.root / "run"
        done = execute(config, run_dir, home=home)
        text = tmp_path / "text.txt"
        before = text.read_text(encoding="utf-8")
        text.write_text(before.replace("castle", "garden"), encoding="utf-8")
        with pytest.raises(RunError, match="was trained on other text"):
            execute(config, run_dir, home=home)
        for cut in (before[:3000], "", " "):
            text.write_text(cut, encoding="utf-8")
            with pytest.raises(RunError, match=r"was trained on .*text"):
                execute(config, run_dir, home=home)
        monkeypatch.setattr("workbench.userfiles.open", unreadable, raising=False)
        assert execute(config, run_dir, home=home) == done
        monkeypatch.undo()
        text.unlink()
        assert execute(config, run_dir, home=home) == done
        text.write_text(before, encoding="utf-8")
        assert execute(config, run_dir, home=home) == done

    @pytest.mark.slow
    def test_without_the_cache_the_runs_own_autoencoder_goes_on(self, tmp_path: Path, whole: Path) -> None:
        config, home, run_dir = self.interrupted(tmp_path)
        own = (run_dir / records.AUTOENCODER_WEIGHTS).read_bytes()
        shutil.rmtree(home.cache / "autoencoders")
        assert execute(config, run_dir, home=home).status == "completed"
        assert not (home.cache / "autoencoders").exists(), "not trained anew"
        assert (run_dir / records.AUTOENCODER_WEIGHTS).read_bytes() == own

    @pytest.mark.slow
    def test_an_interrupted_run_is_loaded_at_its_checkpoints_step(self, tmp_path: Path) -> None:
        _, home, run_dir = self.interrupted(tmp_path)
        saved = load_run(run_dir, home)
        first = records.read_evaluations(run_dir)[0]
        assert (saved.step, saved.tokens, saved.phase) == (first.step, first.tokens, first.phase)
        assert saved.train_flops == pytest.approx(first.train_flops)


@pytest.mark.slow
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
    losses = [e.head_loss or 0.0 for e in records.read_evaluations(run_dir)]
    assert losses[-1] < losses[0]


@pytest.mark.slow
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

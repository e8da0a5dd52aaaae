"""The loop by itself: schedule of calls, batches, what a checkpoint holds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.suites.small import build_baseline, build_calm, small_config
from workbench import interruption
from workbench.data import Corpus
from workbench.errors import NotFiniteError
from workbench.progress import NoDisplay
from workbench.records import TrainPoint
from workbench.schedule import plan
from workbench.train import Trainer


class Calls:
    """What a loop told its caller, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.order: list[tuple[str, int]] = []
        self.points: list[TrainPoint] = []

    def run(self, trainer: Trainer, *, stop: Callable[[Any], None] = lambda _: None) -> None:
        def log(point: TrainPoint) -> None:
            self.points.append(point)

        def evaluate(current: Trainer) -> Any:
            self.order.append(("evaluate", current.position.step))
            return SimpleNamespace(step=current.position.step)

        def decide(evaluation: Any) -> None:
            self.order.append(("decide", evaluation.step))
            assert (self.folder / "state.json").exists(), "the checkpoint comes first"
            stop(evaluation)

        trainer.train(log=log, evaluate=evaluate, decide=decide, display=NoDisplay())


def trainer(tiny_corpus: Corpus, folder: Path, *, steps: int = 9, **model: Any) -> Trainer:
    config = small_config(**model)
    full = plan(config, 258)
    short = replace(full, num_steps=steps, warmup_steps=2, evaluation_steps=(3, steps), log_every=2)
    build = build_calm if config.is_calm else build_baseline
    return Trainer(build(config, vocab_size=258), config, short, tiny_corpus, folder)


@pytest.mark.parametrize("baseline", [False, True])
def test_calls_and_points(tiny_corpus: Corpus, tmp_path: Path, baseline: bool) -> None:
    calls = Calls(tmp_path / "c")
    loop = trainer(tiny_corpus, tmp_path / "c", baseline=baseline)
    calls.run(loop)
    assert calls.order == [("evaluate", 3), ("decide", 3), ("evaluate", 9), ("decide", 9)]
    assert [p.step for p in calls.points] == [2, 4, 6, 8, 9]
    assert [p.tokens for p in calls.points] == [p.step * loop.plan.tokens_per_step for p in calls.points]
    assert [p.train_flops for p in calls.points] == [p.step * loop.plan.flops_per_step for p in calls.points]
    base = loop.config.optim.lr
    assert [p.lr for p in calls.points] == [base] * 5
    assert loop.position.num_summed == 0


class Shown(NoDisplay):
    def __init__(self, fails_at: int = 0) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.saved_at: list[int] = []
        self.stages: list[str] = []
        self.fails_at = fails_at

    def stage(self, name: str, total: int) -> None:
        self.stages.append(f"{name} {total}")

    def advance(self, done: int, **values: float) -> None:
        if done == self.fails_at:
            raise OSError("no room for the log")
        self.steps.append(done)
        self.losses.append(values["loss"])

    def saved(self, done: int) -> None:
        self.saved_at.append(done)


def show(loop: Trainer, display: Shown) -> list[TrainPoint]:
    points: list[TrainPoint] = []
    step = SimpleNamespace(step=0)
    loop.train(
        log=points.append,
        evaluate=lambda _: step,  # type: ignore[arg-type, return-value]
        decide=lambda _: None,
        display=display,
    )
    return points


def test_a_display_is_told_every_step_and_chooses_itself(tiny_corpus: Corpus, tmp_path: Path) -> None:
    """Points are logged every sixth step only: of a long run one in a thousand."""
    loop, display = trainer(tiny_corpus, tmp_path / "c"), Shown()
    loop.plan = replace(loop.plan, log_every=6)
    points = show(loop, display)
    assert display.steps == list(range(1, 10))
    assert [display.losses[5], display.losses[8]] == [point.loss for point in points]
    assert display.saved_at == [3, 9]
    assert display.stages == ["training 9"] * 3  # an evaluation may have been shown between


def test_a_display_that_fails_ends_the_training_saved_or_not(tiny_corpus: Corpus, tmp_path: Path) -> None:
    loop, display = trainer(tiny_corpus, tmp_path / "c"), Shown(fails_at=5)
    loop.plan = replace(loop.plan, log_every=6)
    with pytest.raises(OSError, match="no room for the log"):
        show(loop, display)
    assert loop.position.step == 6
    assert display.steps == [1, 2, 3, 4, 6]
    assert display.saved_at == [3]


def test_a_point_is_the_mean_since_the_last(tiny_corpus: Corpus, tmp_path: Path) -> None:
    each, pairs = Calls(tmp_path / "a"), Calls(tmp_path / "b")
    first = trainer(tiny_corpus, tmp_path / "a")
    first.plan = replace(first.plan, log_every=1)
    each.run(first)
    pairs.run(trainer(tiny_corpus, tmp_path / "b"))
    losses = [p.loss for p in each.points]
    expected = [np.mean(losses[i : i + 2]) for i in range(0, 8, 2)] + [losses[8]]
    np.testing.assert_allclose([p.loss for p in pairs.points], expected)


def test_the_gradient_is_clipped_and_its_norm_reported_before(tiny_corpus: Corpus, tmp_path: Path) -> None:
    loop = trainer(tiny_corpus, tmp_path / "c")
    loop.config = loop.config.model_copy(
        update={"optim": loop.config.optim.model_copy(update={"clip": 1e-3, "weight_decay": 0.0})}
    )
    blocks = next(loop._batches(0))
    _, norm = loop._step(blocks, 0)
    gradients = [p.grad for p in loop.model.network.parameters() if p.grad is not None]
    assert norm > 1e-2
    assert torch.stack([g.norm() for g in gradients]).norm() == pytest.approx(1e-3, rel=1e-3)


def test_batches_depend_on_seed_and_step_alone(tiny_corpus: Corpus, tmp_path: Path) -> None:
    loop = trainer(tiny_corpus, tmp_path / "c")
    whole = list(loop._batches(0))
    assert len(whole) == 9
    for a, b in zip(whole[5:], loop._batches(5), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(whole[0], whole[1])
    config = loop.config.model_copy(update={"seed": 1})
    other = Trainer(loop.model, config, loop.plan, tiny_corpus, tmp_path / "d")
    assert not torch.equal(whole[0], next(other._batches(0)))


def test_resuming_in_the_middle_is_exact(tiny_corpus: Corpus, tmp_path: Path) -> None:
    """Also between two logged points, whose mean is carried over."""
    calls = Calls(tmp_path / "whole")
    whole = trainer(tiny_corpus, tmp_path / "whole")
    calls.run(whole)

    def stop(_: Any) -> None:
        raise InterruptedError

    first, rest = Calls(tmp_path / "part"), Calls(tmp_path / "part")
    with pytest.raises(InterruptedError):
        first.run(trainer(tiny_corpus, tmp_path / "part"), stop=stop)
    again = trainer(tiny_corpus, tmp_path / "part")
    assert again.resume()
    assert (again.position.step, again.position.num_summed) == (3, 1)
    rest.run(again)
    for a, b in zip(whole.model.network.parameters(), again.model.network.parameters(), strict=True):
        assert torch.equal(a, b)
    exact = {"step", "loss", "grad_norm", "lr", "tokens"}
    shown = [p.model_dump(include=exact) for p in [*first.points, *rest.points]]
    assert shown == [p.model_dump(include=exact) for p in calls.points]


def test_nothing_to_resume(tiny_corpus: Corpus, tmp_path: Path) -> None:
    assert not trainer(tiny_corpus, tmp_path / "c").resume()


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_not_finite(tiny_corpus: Corpus, tmp_path: Path, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = trainer(tiny_corpus, tmp_path / "c")
    step = Trainer._step

    def broken(self: Trainer, tokens: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        loss, norm = step(self, tokens, number)
        worst = torch.tensor(float("inf"))
        if number < 4:
            return loss, norm
        return (worst, norm) if bad == "loss" else (loss, worst)

    monkeypatch.setattr(Trainer, "_step", broken)
    calls = Calls(tmp_path / "c")
    with pytest.raises(NotFiniteError, match=r"inf.* at step 5"):
        calls.run(loop)
    assert [p.step for p in calls.points] == [2, 4]


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)


def test_a_signal_within_a_step_finishes_and_saves_it(
    tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_calls, first, rest = Calls(tmp_path / "whole"), Calls(tmp_path / "part"), Calls(tmp_path / "part")
    whole = trainer(tiny_corpus, tmp_path / "whole")
    whole_calls.run(whole)
    step = Trainer._step

    def interrupted(self: Trainer, tokens: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        if number == 4:
            interrupt()
        return step(self, tokens, number)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            first.run(trainer(tiny_corpus, tmp_path / "part"))
    again = trainer(tiny_corpus, tmp_path / "part")
    assert again.resume()
    assert (again.position.step, again.position.pending) == (5, False)
    rest.run(again)
    assert first.order + rest.order == whole_calls.order
    for a, b in zip(whole.model.network.parameters(), again.model.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_signal_within_an_evaluation_breaks_it_off_and_it_is_done_first_after_resuming(
    tiny_corpus: Corpus, tmp_path: Path
) -> None:
    loop = trainer(tiny_corpus, tmp_path / "c")
    before = []

    def evaluate(current: Trainer) -> Any:
        interrupt()
        pytest.fail("broken off")

    loop.before_save = lambda: before.append(loop.position.step)
    with pytest.raises(KeyboardInterrupt):
        loop.train(log=lambda _: None, evaluate=evaluate, decide=lambda _: None, display=NoDisplay())
    assert before == [3]
    again, calls = trainer(tiny_corpus, tmp_path / "c"), Calls(tmp_path / "c")
    assert again.resume()
    assert (again.position.step, again.position.pending) == (3, True)
    calls.run(again)
    assert calls.order == [("evaluate", 3), ("decide", 3), ("evaluate", 9), ("decide", 9)]
    done = trainer(tiny_corpus, tmp_path / "c")
    assert done.resume()
    assert (done.position.step, done.position.pending) == (9, False)


@pytest.mark.slow
def test_a_signal_within_an_update_leaves_the_last_checkpoint(
    tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a step that outlasts the patience."""
    monkeypatch.setattr(interruption, "PATIENCE_SECONDS", 0.05)
    step = Trainer._step

    def slow(self: Trainer, tokens: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        found = step(self, tokens, number)
        if number == 5:
            interrupt()
            time.sleep(20)
        return found

    monkeypatch.setattr(Trainer, "_step", slow)
    with pytest.raises(KeyboardInterrupt):
        Calls(tmp_path / "c").run(trainer(tiny_corpus, tmp_path / "c"))
    again = trainer(tiny_corpus, tmp_path / "c")
    assert again.resume()
    assert again.position.step == 3

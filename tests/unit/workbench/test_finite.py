"""Weights and results that are no numbers: seen before they are scored, saved or put into the cache."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.suites.small import build_baseline, build_calm, small_config
from workbench import checkpoint, files
from workbench import train_autoencoder as autoencoders
from workbench.config import EvalConfig, RunConfig
from workbench.data import Corpus
from workbench.errors import NotFiniteError
from workbench.evaluate import cross_entropy, evaluate, evaluation_grid
from workbench.finite import all_finite, at_step, require_finite
from workbench.language_model import LanguageModel
from workbench.posterior import Posterior
from workbench.progress import NoDisplay
from workbench.schedule import plan
from workbench.train import Trainer

LARGEST = torch.finfo(torch.float32).max
RULES = EvalConfig(context_len=64, min_context=16, grid_stride=8, num_windows=12, num_samples=4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_bad_element_anywhere_is_found(bad: float, dtype: torch.dtype) -> None:
    good = torch.randn(7, 133, dtype=torch.float64).to(dtype)
    for place in (0, 1, 64, 132):
        other = good.clone()
        other[place % 7, place] = bad
        assert not all_finite([good, other, good])
        assert not all_finite([other.T])
    assert all_finite([good, good.T])


def test_what_is_large_is_a_number() -> None:
    assert all_finite([torch.tensor([LARGEST, -LARGEST, 0.0]), torch.empty(0, 3), torch.tensor(1)])
    assert all_finite([])
    assert all_finite([torch.empty(0)])


def test_it_is_said_what_is_not_finite_and_when() -> None:
    good = torch.ones(2)
    assert require_finite("the samples", good) is good
    with (
        pytest.raises(NotFiniteError, match=r"^the samples are not finite, in the evaluation at step 7$"),
        at_step(7),
    ):
        require_finite("the samples", good * math.nan)


# ---- training ----------------------------------------------------------------------------------


def trainer(corpus: Corpus, folder: Path, **model: Any) -> Trainer:
    """Nine steps, evaluated after the third and the last."""
    config = small_config(**model)
    short = replace(plan(config, 258), num_steps=9, warmup_steps=2, evaluation_steps=(3, 9), log_every=2)
    build = build_calm if config.is_calm else build_baseline
    return Trainer(build(config, vocab_size=258), config, short, corpus, folder)


def go(loop: Trainer) -> list[int]:
    """Steps at which it was evaluated."""
    evaluated: list[int] = []

    def note(current: Trainer) -> Any:
        evaluated.append(current.position.step)
        return SimpleNamespace(step=current.position.step)

    loop.train(log=lambda _: None, evaluate=note, decide=lambda _: None, display=NoDisplay())
    return evaluated


def break_at(monkeypatch: pytest.MonkeyPatch, step: int, then: Callable[[], None] = lambda: None) -> None:
    """The update of that step leaves a weight that is none; its loss and gradient are as ever."""
    real = Trainer._step

    def broken(self: Trainer, tokens: torch.Tensor, number: int) -> Any:
        found = real(self, tokens, number)
        if number + 1 == step:
            with torch.no_grad():
                list(self.model.network.parameters())[-1].view(-1)[0] = math.inf
            then()
        return found

    monkeypatch.setattr(Trainer, "_step", broken)


@pytest.mark.parametrize("step", [3, 9])
@pytest.mark.parametrize("baseline", [False, True])
def test_the_update_before_an_evaluation(
    tiny_corpus: Corpus, tmp_path: Path, step: int, baseline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(monkeypatch, step)
    with pytest.raises(NotFiniteError, match=f"the weights are not finite after step {step}"):
        go(trainer(tiny_corpus, tmp_path / "c", baseline=baseline))
    left = checkpoint.find(tmp_path / "c")
    assert (left and checkpoint.read_step(left)) == {3: None, 9: 3}[step], "the last one stays"


def test_the_update_before_a_checkpoint(
    tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(monkeypatch, 5)
    monkeypatch.setattr(Trainer, "_is_due", lambda self: True)
    with pytest.raises(NotFiniteError, match="after step 5"):
        go(trainer(tiny_corpus, tmp_path / "c"))
    assert files.read_json(tmp_path / "c" / "state.json")["step"] == 4


def test_an_interruption_after_it_leaves_the_last_checkpoint(
    tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        go(trainer(tiny_corpus, tmp_path / "c"))
    assert files.read_json(tmp_path / "c" / "state.json")["step"] == 3


@pytest.mark.parametrize("position", [{"step": 3, "pending": True}, {"step": 4}, {"step": 9}])
def test_a_checkpoint_that_holds_such_weights(
    tiny_corpus: Corpus, tmp_path: Path, position: dict[str, Any]
) -> None:
    """An older version wrote it."""
    first = trainer(tiny_corpus, tmp_path / "c")
    vars(first.position).update(position)
    with torch.no_grad():
        next(first.model.network.parameters()).fill_(math.nan)
    first.save()
    for _ in range(2):
        again = trainer(tiny_corpus, tmp_path / "c")
        assert again.resume()
        with pytest.raises(NotFiniteError, match=f"at step {position['step']} are not finite"):
            go(again)


# ---- evaluation --------------------------------------------------------------------------------


def evaluated(model: LanguageModel, corpus: Corpus) -> Any:
    grid = evaluation_grid(RULES, corpus)
    return evaluate(model, RULES, grid, corpus=corpus, phase="constant", step=5, tokens=60, flops=1e6).evaluation


@torch.no_grad()
def enlarge(module: nn.Module) -> None:
    for p in module.parameters():
        p.fill_(1e38)


class TestResults:
    """Of weights that are finite all the same."""

    @pytest.mark.parametrize("baseline", [False, True])
    def test_hidden_states(self, tiny_corpus: Corpus, baseline: bool) -> None:
        build = build_baseline if baseline else build_calm
        model = build(small_config(baseline=baseline), vocab_size=258)
        enlarge(model.network.backbone)
        assert all_finite(model.network.parameters())
        with pytest.raises(NotFiniteError, match="the hidden states are not finite"):
            evaluated(model, tiny_corpus)

    def test_logits(self, tiny_corpus: Corpus) -> None:
        model = build_baseline(small_config(baseline=True), vocab_size=258)
        enlarge(model.network.output)
        with torch.no_grad():
            model.network.output.weight[3] = -1e38
        with pytest.raises(NotFiniteError, match="the log probabilities are not finite"):
            evaluated(model, tiny_corpus)

    def test_samples(self, tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
        model = build_calm(small_config(), vocab_size=258)
        sample, head = model.network.head.sample, type(model.network.head)
        monkeypatch.setattr(head, "sample", lambda self, *given, **named: sample(*given, **named) * math.inf)
        with pytest.raises(NotFiniteError, match="the head's samples are not finite"):
            evaluated(model, tiny_corpus)

    @pytest.mark.parametrize("factor", [math.nan, LARGEST])
    def test_the_head_s_loss(self, tiny_corpus: Corpus, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
        model = build_calm(small_config(), vocab_size=258)
        loss, head = model.network.head.loss, type(model.network.head)
        monkeypatch.setattr(head, "loss", lambda self, *args, **named: loss(*args, **named).abs() * factor)
        with pytest.raises(NotFiniteError, match="the head's losses on held-out text are not finite"):
            evaluated(model, tiny_corpus)

    def test_a_number_of_the_evaluation(self, tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
        model = build_calm(small_config(), vocab_size=258)
        monkeypatch.setattr("workbench.evaluate.context_use", lambda *_: {"head_loss": math.inf})
        with pytest.raises(NotFiniteError, match=r"^head_loss is inf$"):
            evaluated(model, tiny_corpus)

    def test_the_text_s_probability(self, tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
        model = build_baseline(small_config(baseline=True), vocab_size=258)
        monkeypatch.setattr("workbench.evaluate.text_log_probs", lambda *_: torch.full((12, 48), -math.inf))
        with pytest.raises(NotFiniteError, match="the text's log probabilities are not finite"):
            evaluated(model, tiny_corpus)

    def test_a_perplexity_that_no_float_holds_is_left_out(self, tiny_corpus: Corpus) -> None:
        """The cross-entropy that it belongs to is a number, if a sad one."""
        grid = evaluation_grid(RULES, tiny_corpus)
        log_probs = np.full((12, 48), -1e30, dtype=np.float32)
        found = cross_entropy(log_probs, grid, tiny_corpus, RULES.min_context)
        assert found["cross_entropy"] == pytest.approx(1e30)
        assert found["byte_perplexity"] is None


# ---- the autoencoder ---------------------------------------------------------------------------


def too_fast(**fields: Any) -> RunConfig:
    """Every loss that is looked at is that of fresh weights; what comes after the only update is none."""
    base = small_config()
    update = {"steps": 1, "lr": 1e38, "warmup_steps": 0, "decay_fraction": 0.0, "weight_decay": 100.0, **fields}
    return base.model_copy(update={"autoencoder": base.autoencoder.model_copy(update=update)})


class TestAutoencoder:
    def test_the_last_update(self, tiny_corpus: Corpus, tmp_path: Path) -> None:
        with pytest.raises(NotFiniteError, match="the autoencoder's weights are not finite after step 1"):
            autoencoders.trained_autoencoder(too_fast(), tiny_corpus, tmp_path)
        left = [p.name for p in (tmp_path / "autoencoders").iterdir() if not p.name.endswith(".lock")]
        assert left == []

    def test_what_it_makes(self, tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """And what was kept of its training is not needed any more."""
        encode = autoencoders.Autoencoder.encode

        def steep(self: Any, chunks: torch.Tensor) -> Posterior:
            found = encode(self, chunks)
            trains = self.training and torch.is_grad_enabled()
            return found if trains else Posterior(found.mean, found.log_std + 99)

        monkeypatch.setattr(autoencoders.Autoencoder, "encode", steep)
        monkeypatch.setattr(autoencoders._Training, "is_due", lambda self: True)
        with pytest.raises(NotFiniteError, match="the autoencoder's KL is inf"):
            autoencoders.trained_autoencoder(too_fast(lr=1e-3), tiny_corpus, tmp_path)
        left = [p.name for p in (tmp_path / "autoencoders").iterdir() if not p.name.endswith(".lock")]
        assert left == []

    @pytest.mark.slow
    def test_one_in_the_cache_is_made_anew(
        self, tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An older version put it there."""
        config = too_fast(lr=1e-3)
        with monkeypatch.context() as patch:
            save = checkpoint.save_weights

            def broken(network: nn.Module, path: Path) -> None:
                with torch.no_grad():
                    next(network.parameters())[0] = math.nan
                save(network, path)

            patch.setattr(checkpoint, "save_weights", broken)
            with pytest.raises(Exception, match="its weights are not finite"):
                autoencoders.trained_autoencoder(config, tiny_corpus, tmp_path)
        found, _ = autoencoders.trained_autoencoder(config, tiny_corpus, tmp_path)
        assert all_finite(found.parameters())

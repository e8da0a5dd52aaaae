"""Several ranks train the autoencoder that one process trains, and leave together."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.test_hub_run import streaming
from tests.suites.processes import CONTEXT
from tests.suites.ranks import apart, together
from tests.suites.small import small_config
from tests.suites.tiny_runs import tiny_config
from workbench import interruption, records, runner
from workbench import train_autoencoder as subject
from workbench.config import RunConfig
from workbench.data import Corpus, prepare
from workbench.files import read_json
from workbench.followers import follow
from workbench.home import Home
from workbench.optim import rate_factor
from workbench.progress import NoDisplay
from workbench.ranks import ALONE, PeerLostError, Ranks
from workbench.runner import execute
from workbench.train import Trainer

pytestmark = pytest.mark.slow

STEPS, BROKEN_OFF = 6, 3
CASES: dict[str, tuple[int, int | None]] = {
    "uneven": (33, None),
    "slices": (33, 5),
    "fewer-chunks-than-ranks": (1, None),
}
"""By name: chunks of a step, and how many a rank takes at a time."""


def config_with(base: RunConfig, chunks: int, micro_chunks: int | None = None) -> RunConfig:
    """With both dropouts."""
    settings = {"steps": STEPS, "warmup_steps": 3, "lr": 5e-3, "batch_chunks": chunks}
    return base.model_copy(
        update={
            "autoencoder": base.autoencoder.model_copy(update=settings),
            "runtime": base.runtime.model_copy(update={"micro_chunks": micro_chunks}),
        }
    )


@dataclass
class Job:
    name: str
    config: RunConfig
    corpus: Corpus
    broken_off: bool = False
    """Interrupted in the middle."""


@dataclass
class Trained(NoDisplay):
    losses: list[float] = field(default_factory=list)
    weights: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def advance(self, done: int, **values: float) -> None:
        self.losses.append(values["loss"])


def train(ranks: Ranks, job: Job, folder: Path) -> Trained:
    """On rank 0. Broken off: by what looks like a signal to the others, too, but is none to later jobs."""
    found = Trained()
    with pytest.MonkeyPatch.context() as patch:
        if job.broken_off:
            patch.setattr(interruption, "requested", lambda: len(found.losses) + 1 == BROKEN_OFF)
            patch.setattr(interruption, "obey", leave)
            if ranks.world == 1:
                patch.setattr(found, "advance", lambda done, loss: stop_at(done, loss, found.losses))
        try:
            network, _ = subject.train_autoencoder(
                job.config, job.corpus, display=found, partial=folder / job.name, ranks=ranks
            )
        except KeyboardInterrupt:
            assert job.broken_off
            return found
    assert not job.broken_off
    found.weights = {name: value.numpy() for name, value in network.state_dict().items()}
    return found


def leave() -> None:
    raise KeyboardInterrupt


def stop_at(done: int, loss: float, losses: list[float]) -> None:
    losses.append(loss)
    if done == BROKEN_OFF:
        leave()


def train_all(ranks: Ranks, jobs: list[Job], folder: Path) -> list[Trained]:
    torch.set_num_threads(1)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "SHOWN_EVERY", 1)
        for job in jobs:
            if ranks.leads:
                found.append(train(ranks, job, folder))
            else:
                text = ranks.expect_post(subject.AUTOENCODER_POST)
                subject.follow_training(job.config, job.corpus, ranks, text)
    return found


@dataclass
class Runs:
    ended: dict[str, Trained]
    begun: dict[str, Trained]


@pytest.fixture(scope="module")
def runs(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All in one start of two ranks; what one process does, before and after it."""
    folder = tmp_path_factory.mktemp("ranks")
    stream, home = streaming(folder, folder / "home")
    texts = {"kept": (small_config(), tiny_corpus), "stream": (stream, prepare(stream.data, home.cache))}
    before, two, after = [], [], []
    for name, how in CASES.items():
        before.append(Job(f"one {name}", config_with(small_config(), how[0]), tiny_corpus))
        two.append(Job(f"two {name}", config_with(small_config(), *how), tiny_corpus))
    for text, (base, corpus) in texts.items():
        before.append(Job(f"one {text}", config_with(base, 32), corpus))
        two.append(Job(f"two {text}", config_with(base, 32), corpus))
        before.append(Job(f"one-two {text}", config_with(base, 32, 7), corpus, broken_off=True))
        two.append(Job(f"one-two {text}", config_with(base, 32), corpus))
        two.append(Job(f"two-one {text}", config_with(base, 32, 10), corpus, broken_off=True))
        after.append(Job(f"two-one {text}", config_with(base, 32, 7), corpus))
    found = Runs({}, {})
    for jobs, trained in (
        (before, train_all(ALONE, before, folder)),
        (two, together(train_all, two, folder)[0]),
        (after, train_all(ALONE, after, folder)),
    ):
        for job, result in zip(jobs, trained, strict=True):
            (found.begun if job.broken_off else found.ended)[job.name] = result
    return found


def assert_same(losses: list[float], found: Trained, wanted: Trained) -> None:
    assert len(wanted.losses) == STEPS
    assert losses == pytest.approx(wanted.losses, rel=1e-5)
    for name, value in wanted.weights.items():
        np.testing.assert_allclose(found.weights[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*CASES, "kept", "stream"])
def test_losses_and_weights_are_those_of_one_process(runs: Runs, name: str) -> None:
    found = runs.ended[f"two {name}"]
    assert_same(found.losses, found, runs.ended[f"one {name}"])


@pytest.mark.parametrize("text", ["kept", "stream"])
@pytest.mark.parametrize("how", ["one-two", "two-one"])
def test_a_checkpoint_moves(runs: Runs, how: str, text: str) -> None:
    """From one process to two ranks and back, and to other slices."""
    begun, then = runs.begun[f"{how} {text}"], runs.ended[f"{how} {text}"]
    assert len(begun.losses) == BROKEN_OFF
    assert_same(begun.losses + then.losses, then, runs.ended[f"one {text}"])


# ---- within a run ------------------------------------------------------------------------------


def run_together(ranks: Ranks, config: RunConfig, home: Home, at_step: str = "") -> Any:
    """The run "two"; ``at_step``: what happens to rank 1 at step 5 of the autoencoder. Returns its status."""
    torch.set_num_threads(1)
    if ranks.leads:
        return execute(config, home.root / "two", home=home, ranks=ranks).status

    def factor(step: int, *more: Any, **named: Any) -> float:
        if step == 5 and at_step == "dies":
            os._exit(9)
        if step == 5 and at_step == "gets a signal":
            os.kill(os.getpid(), signal.SIGTERM)
        return rate_factor(step, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "rate_factor", factor)
        follow(ranks, home)
    return None


@pytest.mark.parametrize("how", ["dies", "gets a signal"])
def test_when_a_rank_ends_all_do_and_one_process_goes_on(tmp_path: Path, how: str) -> None:
    config, home = tiny_config(tmp_path, {"autoencoder.steps": 12, "autoencoder.batch_chunks": 33})
    (first, said), (second, _) = apart(run_together, config, home, how)
    assert first == "raised"
    assert second == {"dies": "died", "gets a signal": "ended"}[how]
    assert (PeerLostError.__name__ if how == "dies" else KeyboardInterrupt.__name__) in said
    assert records.read_record(home.root / "two").status == "interrupted"
    corpus = prepare(config.data, home.cache)
    key = subject.autoencoder_hash(config, corpus)
    kept = home.cache / "autoencoders" / f".{key}.partial" / "state.json"
    assert read_json(kept)["step"] == {"dies": 5, "gets a signal": 6}[how]
    torch.set_num_threads(1)
    found, _ = subject.trained_autoencoder(config, corpus, home.cache)
    assert not kept.exists()
    alone, _ = subject.train_autoencoder(config, corpus)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-5, atol=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run_on_all(tmp_path: Path) -> None:
    config, home = tiny_config(tmp_path, {"autoencoder.lr": 1e30, "autoencoder.warmup_steps": 0})
    assert together(run_together, config, home) == ["not_finite", None]


def note_threads(ranks: Ranks, config: RunConfig, home: Home) -> dict[str, set[int]]:
    """By what is done, those that this rank asks for in the run. It has one: more of them than cores spin."""
    found: dict[str, set[int]] = {}
    asked = [1]

    def noting(name: str, original: Any) -> Any:
        def noted(*args: Any, **named: Any) -> Any:
            found.setdefault(name, set()).add(asked[-1])
            return original(*args, **named)

        return noted

    watched = {
        "evaluate the autoencoder": (subject, "evaluate_autoencoder"),
        "train it": (subject._Training, "take_step"),
        "evaluate": (runner, "evaluate"),
        "train": (Trainer, "_step"),
        "the panel": (runner, "bottleneck"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", asked.append)
        for name, (where, what) in watched.items():
            patch.setattr(where, what, noting(name, getattr(where, what)))
        run_together(ranks, config, home)
    return found


def test_rank_0_has_the_threads_of_those_that_wait(tmp_path: Path) -> None:
    few = {"eval.num_windows": 4, "autoencoder.steps": 4, "train.train_tokens": 512, "train.stop_diverged": False}
    config, home = tiny_config(tmp_path, {"runtime.threads": 6, **few})
    first, second = together(note_threads, config, home)
    assert second == {"train it": {3}, "train": {3}}
    assert first == second | {"evaluate the autoencoder": {6}, "evaluate": {6}, "the panel": {6}}


def hold(config: RunConfig, corpus: Corpus, cache: Path, began: Any) -> None:
    """Train it in a process of its own, slowly."""
    torch.set_num_threads(1)
    real = subject.train_autoencoder

    def slow(*args: Any, **named: Any) -> Any:
        began.set()
        time.sleep(1.0)
        return real(*args, **named)

    subject.train_autoencoder = slow
    subject.trained_autoencoder(config, corpus, cache)


def ask(ranks: Ranks, config: RunConfig, corpus: Corpus, cache: Path) -> None:
    if not ranks.leads:
        ranks.expect_post("model")  # not to train
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "train_autoencoder", None)
        subject.trained_autoencoder(config, corpus, cache, ranks=ranks)
    ranks.post("model")


def test_ranks_wait_for_another_process_that_trains_it(tiny_corpus: Corpus, tmp_path: Path) -> None:
    """And train none themselves."""
    config = config_with(small_config(), 32)
    began = CONTEXT.Event()
    process = CONTEXT.Process(target=hold, args=(config, tiny_corpus, tmp_path, began))
    process.start()
    assert began.wait(60)
    together(ask, config, tiny_corpus, tmp_path)
    process.join(60)
    assert process.exitcode == 0

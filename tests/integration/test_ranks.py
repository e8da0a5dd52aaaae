"""Several ranks train what one process trains: the same curve, the same checkpoints, moved at will."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.suites.ranks import together
from tests.suites.small import build_baseline, build_calm, small_config
from workbench import checkpoint, files
from workbench.config import RunConfig
from workbench.data import Corpus
from workbench.language_model import LanguageModel
from workbench.progress import NoDisplay
from workbench.ranks import ALONE, Ranks
from workbench.records import Evaluation, TrainPoint
from workbench.schedule import plan
from workbench.train import Trainer

pytestmark = pytest.mark.slow

CLOSE = 1e-5
STEPS, FIRST = 6, 2
"""All of a run, and those before its first evaluation."""
FSDP = {"strategy": "fsdp"}
LEAN = {"micro_batch": 1, "checkpoint_activations": True}
KINDS: dict[str, dict[str, Any]] = {
    "calm": {},
    "baseline": {"baseline": True},
    "both": {"input_mode": "both", "auxiliary_weight": 0.1},
    "flow": {"head": {"kind": "flow"}},
    "diffusion": {"head": {"kind": "diffusion"}},
    "muon": {"optim": {"kind": "muon"}},
}
TWO: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{kind}-ddp": (kind, {}) for kind in KINDS},
    **{f"{kind}-fsdp": (kind, FSDP) for kind in ("calm", "baseline", "both", "flow", "diffusion")},
    "calm-ddp-lean": ("calm", LEAN),
    "calm-fsdp-lean": ("calm", {**FSDP, **LEAN}),
    "baseline-ddp-lean": ("baseline", LEAN),
    "calm-fsdp-bfloat16": ("bfloat16", FSDP),
}
"""By name: what is trained, and how by two ranks."""
MOVED = {"one-ddp": ("", "ddp"), "one-fsdp": ("", "fsdp"), "ddp-one": ("ddp", ""), "fsdp-one": ("fsdp", "")} | {
    "fsdp-ddp": ("fsdp", "ddp"),
    "ddp-fsdp": ("ddp", "fsdp"),
}
"""By whom a run is begun and gone on with; "" is a single process."""


def config_of(kind: str, runtime: dict[str, Any]) -> RunConfig:
    """A step has 4 sequences of 32 tokens."""
    model = dict(KINDS.get(kind, {}))
    optim = model.pop("optim", {})
    tree = small_config(**model).to_dict()
    positions = 128 if kind == "baseline" else 32
    tree["optim"] = {**tree["optim"], "batch_positions": positions, "matrix_lr": None, **optim}
    tree["train"] = {
        **tree["train"],
        "train_tokens": STEPS * 128,
        "num_evaluations": 2,
        "first_evaluation": FIRST / STEPS,
    }
    dtype = "bfloat16" if kind == "bfloat16" else "float32"
    tree["runtime"] = {**tree["runtime"], "dtype": dtype, **runtime}
    return RunConfig.model_validate(tree).resolved()


@dataclass
class Trained:
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)

    def add(self, point: TrainPoint) -> None:
        self.losses.append(point.loss)
        self.norms.append(point.grad_norm)


def build(config: RunConfig, corpus: Corpus) -> LanguageModel:
    make = build_calm if config.is_calm else build_baseline
    model: LanguageModel = make(config, vocab_size=corpus.vocab_size)
    return model


def train(
    config: RunConfig, corpus: Corpus, folder: Path, ranks: Ranks = ALONE, *, interrupted: bool = False
) -> Trained:
    """Train, or go on; ``interrupted``: at the first evaluation. Of other ranks nothing is told."""
    torch.set_num_threads(1)
    found = Trained()
    trainer = Trainer(build(config, corpus), config, plan(config, corpus.vocab_size), corpus, folder, ranks)
    trainer.resume()
    if not ranks.leads:
        trainer.follow()
        return found

    def evaluate(current: Trainer) -> Any:
        found.evaluated.append(current.position.step)
        assert next(current.model.network.parameters()).abs().sum() > 0

    def decide(evaluation: Evaluation) -> None:
        if interrupted:
            raise KeyboardInterrupt

    try:
        trainer.train(log=found.add, evaluate=evaluate, decide=decide, display=NoDisplay())
    except KeyboardInterrupt:
        assert interrupted
    finally:
        ranks.post("leave")
    return found


Job = tuple[str, RunConfig, bool]
"""Folder, configuration, whether it is interrupted."""


def train_all(ranks: Ranks, jobs: list[Job], corpus: Corpus, root: Path) -> dict[str, Trained]:
    return {
        f"{name}{'/begun' * stop}": train(c, corpus, root / name, ranks, interrupted=stop)
        for name, c, stop in jobs
    }


@dataclass
class Runs:
    root: Path
    alone: dict[str, Trained]
    two: dict[str, Trained]


@pytest.fixture(scope="module")
def runs(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All in one start of two ranks; what one process begins before it and goes on with after it, around it."""
    root = tmp_path_factory.mktemp("ranks")
    one: list[Job] = [(kind, config_of(kind, {}), False) for kind in (*KINDS, "bfloat16")]
    two: list[Job] = [(f"two-{name}", config_of(kind, how), False) for name, (kind, how) in TWO.items()]
    after: list[Job] = []
    for name, (first, then) in MOVED.items():
        begin = (f"moved-{name}", config_of("calm", {"strategy": first or "ddp"}), True)
        go_on = (f"moved-{name}", config_of("calm", {"strategy": then or "ddp"}), False)
        (two if first else one).append(begin)
        (two if then else after).append(go_on)
    alone = train_all(ALONE, one, tiny_corpus, root)
    together_found = together(train_all, two, tiny_corpus, root, clean=True)[0]
    alone |= train_all(ALONE, after, tiny_corpus, root)
    return Runs(root, alone, together_found)


def assert_close(found: list[float], wanted: list[float], rel: float = CLOSE) -> None:
    assert len(found) == len(wanted)
    assert found == pytest.approx(wanted, rel=rel)


@pytest.mark.parametrize("name", TWO)
def test_the_curve_is_that_of_one_process(runs: Runs, name: str) -> None:
    wanted, found = runs.alone[TWO[name][0]], runs.two[f"two-{name}"]
    assert len(wanted.losses) == STEPS
    # in bfloat16 norms' weights are rounded as well, which autocast does not
    close = CLOSE if TWO[name][0] != "bfloat16" else 2e-2
    assert_close(found.losses, wanted.losses, close)
    assert_close(found.norms, wanted.norms, 10 * close)
    assert found.evaluated == wanted.evaluated == [FIRST, STEPS]
    kept = [checkpoint.find(runs.root / f) for f in (f"two-{name}", TWO[name][0])]
    weights = [files.read_json(folder / "state.json") for folder in kept if folder is not None]
    assert [state["step"] for state in weights] == [STEPS, STEPS]


@pytest.mark.parametrize("name", MOVED)
def test_a_checkpoint_moves(runs: Runs, name: str) -> None:
    """From one process to two ranks, back, and between the strategies."""
    both = {**runs.alone, **runs.two}
    first, then = both[f"moved-{name}/begun"], both[f"moved-{name}"]
    assert_close(first.losses + then.losses, runs.alone["calm"].losses)
    assert first.evaluated + then.evaluated == [FIRST, STEPS]


def shard_and_gather(ranks: Ranks, config: RunConfig, corpus: Corpus, folder: Path) -> None:
    torch.set_num_threads(1)
    trainer = Trainer(build(config, corpus), config, plan(config, corpus.vocab_size), corpus, folder, ranks)
    assert trainer.resume() == ranks.leads
    if ranks.leads:
        with torch.no_grad():
            for p in trainer.model.network.parameters():
                p.zero_()
    trainer.strategy.collect(-1)
    if ranks.leads:
        trainer.save()


@pytest.mark.parametrize("world", [2, 3])
def test_sharding_keeps_every_bit(runs: Runs, tiny_corpus: Corpus, tmp_path: Path, world: int) -> None:
    """Of weights and optimizer state, also where rows do not divide evenly."""
    folder = tmp_path / "checkpoint"
    train(config_of("calm", {}), tiny_corpus, folder, interrupted=True)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    together(shard_and_gather, config_of("calm", FSDP), tiny_corpus, folder, world=world, clean=True)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert set(before) == {"model.safetensors", "optimizer.safetensors", "state.json"}

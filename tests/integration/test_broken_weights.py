"""Runs whose last update before an evaluation breaks the weights: nothing that is no number is scored or kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from studies import plan, recovery
from studies.objective import DEFAULT_RUNNER, load_runner
from studies.worker import stop_if_hopeless, take
from tests.suites.cells_only import CELLS
from tests.suites.command_line import Command
from tests.suites.ranks import together
from tests.suites.study_launch import create, tiny_spec, worker
from tests.suites.tiny_runs import BASELINE, leftovers, tiny_config, tree, write_text
from workbench import checkpoint, records, tracking_schema
from workbench.config import RunConfig
from workbench.errors import NotFiniteError
from workbench.followers import follow
from workbench.home import Home
from workbench.ranks import Ranks
from workbench.records import Evaluation
from workbench.runner import execute

ONE_STEP: dict[str, Any] = {
    "optim.lr": 1e38,
    "optim.warmup_fraction": 0.0,
    "optim.weight_decay": 1.0,
    "train.train_tokens": 128,
    "train.num_evaluations": 1,
}
"""Its loss and gradient are those of fresh weights."""
KINDS: dict[str, dict[str, Any]] = {
    "calm": {},
    "baseline": {**BASELINE, "optim": {"batch_positions": 128, "lr": 1e-3}},
}

BOTH = [pytest.param("calm", marks=pytest.mark.slow), "baseline"]


@pytest.mark.parametrize("kind", BOTH)
def test_the_only_update(tmp_path: Path, kind: str) -> None:
    config, home = tiny_config(tmp_path, ONE_STEP, **KINDS[kind])
    run_dir = home.root / "lost"
    record = execute(config, run_dir, home=home)
    assert (record.status, record.reason) == ("not_finite", "the weights are not finite after step 1")
    assert record.final is None
    assert "not_finite" in [d.code for d in record.diagnostics]
    assert tracking_schema.FINAL_STATUS[record.status] == "FAILED"
    assert not (run_dir / records.EVALUATIONS).exists()
    assert not (run_dir / records.CHECKPOINT).exists()
    assert leftovers(run_dir) == []
    assert execute(config, run_dir, home=home) == record == records.read_record(run_dir), "it stays so"


@pytest.mark.parametrize("kind", BOTH)
def test_weights_that_are_numbers_and_make_none(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.train import Trainer

    step = Trainer._step

    def enlarged(self: Trainer, tokens: torch.Tensor, number: int) -> Any:
        found = step(self, tokens, number)
        with torch.no_grad():
            for p in self.model.network.backbone.parameters():  # type: ignore[union-attr]
                p.fill_(1e38)
        return found

    monkeypatch.setattr(Trainer, "_step", enlarged)
    config, home = tiny_config(tmp_path, {**ONE_STEP, "optim.lr": 1e-3}, **KINDS[kind])
    record = execute(config, home.root / "lost", home=home)
    said = "the hidden states are not finite, in the evaluation at step 1"
    assert (record.status, record.reason) == ("not_finite", said)
    assert not (home.root / "lost" / records.EVALUATIONS).exists()


@pytest.mark.slow
def test_a_run_of_an_older_version_that_goes_on(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was interrupted after it had saved such weights, and says the same however often it is asked."""
    config, home = tiny_config(whole)
    run_dir = home.root / "older"

    save = checkpoint.save

    def broken(folder: Path, network: torch.nn.Module, *given: Any) -> None:
        with torch.no_grad():
            next(network.parameters()).fill_(math.nan)
        save(folder, network, *given)

    def stop(_: Evaluation) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", broken)
        with pytest.raises(KeyboardInterrupt):
            execute(config, run_dir, home=home, on_evaluation=stop)
    calm = Command(whole, monkeypatch, capsys)
    for command in ("evaluate", "sample"):
        done = calm(command, str(run_dir))
        assert done.code == 2
        assert "are not finite (status: interrupted)" in " ".join(done.err.split())
    record = execute(config, run_dir, home=home)
    assert (record.status, record.step) == ("not_finite", 7)
    assert record.reason == "the weights to go on from at step 7 are not finite"
    assert execute(config, run_dir, home=home) == record


@pytest.mark.slow
def test_what_cannot_be_scored_is_said_in_words(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from workbench.model import Calm

    def refuse(*_: Any, **__: Any) -> None:
        raise NotFiniteError("the head's samples are not finite")

    monkeypatch.setattr(Calm, "draw", refuse)
    done = Command(whole, monkeypatch, capsys)("evaluate", "whole")
    assert done.code == 2
    assert "cannot be scored: the head's samples are not finite; leave the head's settings" in done.err


@pytest.mark.slow
def test_another_number_of_calls_ends_its_comparison_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.heads.flow import FlowHead

    sample = FlowHead.sample

    def breaks(self: FlowHead, *given: Any, **named: Any) -> torch.Tensor:
        found = sample(self, *given, **named)
        return found * math.nan if self.config.num_calls == 4 else found

    monkeypatch.setattr(FlowHead, "sample", breaks)
    overrides = {"model.head": {"kind": "flow", "num_calls": 2}, "eval.network_calls": [2, 4]}
    config, home = tiny_config(tmp_path, {**overrides, "train.train_tokens": 128, "train.num_evaluations": 1})
    record = execute(config, home.root / "curve", home=home)
    assert record.status == "completed"
    assert [point.network_calls for point in record.call_curve] == [2]
    (said,) = [d.message for d in record.diagnostics if d.code == "not_finite"]
    assert "eval.network_calls asks for is not complete: the head's samples are not finite" in said
    lines = (home.root / "curve" / records.EVALUATIONS).read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["step"] for line in lines] == [1]


# ---- several at a time -------------------------------------------------------------------------


@pytest.mark.slow
def test_such_baselines_do_not_end_a_launch(tmp_path: Path) -> None:
    broken = {**tree(write_text(tmp_path / "text.txt")), **BASELINE}
    broken["optim"] = {"batch_positions": 128, "lr": 1e38, "warmup_fraction": 0.0, "weight_decay": 1.0}
    broken["train"] = {**broken["train"], "train_tokens": 128, "num_evaluations": 1}
    names = ("first", "second", "third", "fourth")
    spec = tiny_spec(**{**CELLS, "baselines": dict.fromkeys(names, broken)})
    launch = create(tmp_path, spec)
    this = worker(launch)
    this.runner = load_runner(DEFAULT_RUNNER)
    done: list[plan.Step] = []
    while len(done) < 9 and (not done or done[-1] != "done"):
        done.append(take(this))
        stop_if_hopeless(this)
    assert done[-1] == "done"
    reasons = {recovery.failure_reason(trial) for trial in recovery.failed(launch.cells)}
    assert reasons == {"the weights are not finite after step 1"}


def run_together(ranks: Ranks, configs: list[RunConfig], home: Home) -> Any:
    """Statuses of one run after the other, on rank 0."""
    torch.set_num_threads(1)
    if not ranks.leads:
        return follow(ranks, home)
    runs = [execute(c, home.root / str(number), home=home, ranks=ranks) for number, c in enumerate(configs)]
    return [(record.status, record.reason) for record in runs]


@pytest.mark.slow
def test_all_ranks_end_such_a_run_and_begin_the_next(tmp_path: Path) -> None:
    """Of ranks that each have a part of the weights, too, and where the autoencoder is what has broken."""
    ways: list[dict[str, Any]] = [ONE_STEP, {**ONE_STEP, "runtime.strategy": "fsdp"}]
    made = [tiny_config(tmp_path, way) for way in ways]
    blown = {"autoencoder.lr": 1e38, "autoencoder.steps": 1, "autoencoder.warmup_steps": 0}
    made.append(tiny_config(tmp_path, {**blown, "autoencoder.weight_decay": 100.0}))
    said = together(run_together, [config for config, _ in made], made[0][1])
    lost = ("not_finite", "the weights are not finite after step 1")
    assert said == [[lost, lost, ("not_finite", "the autoencoder's weights are not finite after step 1")], None]

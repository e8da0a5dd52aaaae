"""Whole runs of every head: trained, interrupted, scored by other numbers of calls, samplers compared, sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.suites.tiny_runs import BASELINE, leftovers, tiny_config, traces
from workbench import records, tracking_schema
from workbench.errors import ConfigError
from workbench.evaluate import score_windows
from workbench.model import Calm
from workbench.records import RunRecord
from workbench.rescore import rescore
from workbench.runner import StopRun, execute
from workbench.train import Trainer

EXTRA: dict[str, Any] = {
    "eval.network_calls": [1, 3, 6],
    "eval.tradeoff.temperatures": [1.0, 0.5],
    "eval.tradeoff.batch_sizes": [4],
    "eval.tradeoff.noise_scales": [0.5],
    "eval.tradeoff.exact_budget": 20,
    "eval.tradeoff.num_windows": 4,
    "eval.sample_tokens": 8,
}


def run(folder: Path, name: str, overrides: dict[str, Any], **sections: Any) -> tuple[RunRecord, Path]:
    config, home = tiny_config(folder, overrides, **sections)
    run_dir = home.root / name
    return execute(config, run_dir, home=home), run_dir


@pytest.mark.slow
@pytest.mark.draws
@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_a_run_of_the_head(kind: str, whole: Path) -> None:
    changes = {"model.head.kind": kind, "model.head.num_calls": 6, **EXTRA}
    record, run_dir = run(whole, kind, changes)
    assert record.status == "completed"
    assert record.head == kind
    assert record.final is not None
    assert record.final.network_calls == 6
    assert [p.network_calls for p in record.call_curve] == ([1, 3, 6] if kind == "diffusion" else [1, 2, 6])
    assert record.call_curve[-1].brier == record.final.brier  # what is known is not scored again
    assert record.call_curve[-1].infer_flops_per_token == record.compute["infer_flops_per_token"]
    assert [p.sampler for p in record.tradeoff] == ["exact", "exact", "batch", "noise"]
    samples = records.read_samples(run_dir)
    assert [s.step for s in samples] == [e.step for e in records.read_evaluations(run_dir)]
    assert (run_dir / records.PLOTS / "sampling.png").stat().st_size > 5_000
    assert leftovers(run_dir) == []
    assert records.read_record(run_dir) == record


@pytest.mark.slow
def test_the_kind_alone_changes_the_head_of_a_run(whole: Path) -> None:
    """The tiny configuration names fields of the energy head; the same folder is no longer the same run."""
    config, _ = tiny_config(whole, {"model.head.kind": "flow"})
    assert config.hash() != tiny_config(whole)[0].hash()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_interrupted_equals_uninterrupted(kind: str, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"model.head.kind": kind, "model.head.num_calls": 3, "eval.sample_tokens": 8}
    _, straight = run(whole, f"{kind}-straight", changes)

    class Stop(Exception):
        pass

    def stop_at_ten(trainer: Trainer, *given: Any) -> Any:
        if given[1] == 20:
            raise Stop
        return step(trainer, *given)

    step = Trainer._step
    monkeypatch.setattr(Trainer, "_step", stop_at_ten)
    with pytest.raises(Stop):
        run(whole, f"{kind}-stopped", changes)
    monkeypatch.setattr(Trainer, "_step", step)
    _, stopped = run(whole, f"{kind}-stopped", changes)
    assert traces(straight) == traces(stopped)
    assert records.read_samples(straight) == records.read_samples(stopped)


@pytest.mark.slow
def test_texts_after_the_checkpoint_are_forgotten(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"model.head.kind": "flow", "model.head.num_calls": 2, "eval.sample_tokens": 8}
    run_dir = tiny_config(whole, changes)[1].root / "forgetful"
    save = Trainer.save

    def broken(trainer: Trainer, **given: Any) -> None:
        if trainer.position.step > 10:
            raise OSError("no space left")
        save(trainer, **given)

    monkeypatch.setattr(Trainer, "save", broken)
    with pytest.raises(OSError, match="no space"):
        run(whole, "forgetful", changes)
    first = sorted(p.name for p in (run_dir / records.SAMPLE_TEXTS).iterdir())
    monkeypatch.setattr(Trainer, "save", save)
    run(whole, "forgetful", changes)
    steps = [s.step for s in records.read_samples(run_dir)]
    assert steps == sorted(set(steps))
    assert len(steps) == 3
    assert len(first) < 3
    assert len(list((run_dir / records.SAMPLE_TEXTS).iterdir())) == 3


@pytest.mark.slow
def test_a_pruned_run_is_not_compared(whole: Path) -> None:
    config, home = tiny_config(whole, {"model.head.kind": "flow", "model.head.num_calls": 2, **EXTRA})

    def stop(evaluation: Any) -> None:
        raise StopRun("enough")

    record = execute(config, home.root / "pruned-flow", home=home, on_evaluation=stop)
    assert record.status == "pruned"
    assert record.call_curve == record.tradeoff == []


@pytest.mark.slow
def test_a_baseline_has_softmax_points_and_a_text(whole: Path) -> None:
    record, run_dir = run(whole, "baseline-softmax", EXTRA, **BASELINE)
    assert record.call_curve == []
    assert {p.sampler for p in record.tradeoff} == {"softmax"}
    assert {s.sampler for s in records.read_samples(run_dir)} == {"softmax"}


@pytest.mark.slow
def test_a_trained_head_is_scored_with_other_sampling(whole: Path) -> None:
    _, run_dir = run(whole, "flow-rescored", {"model.head.kind": "flow", "model.head.num_calls": 4})
    _, home = tiny_config(whole)
    own = rescore(run_dir, home, {}, reuse=True)
    few = rescore(run_dir, home, {"model.head.num_calls": 1}, reuse=True)
    assert (own.evaluation.network_calls, own.evaluation.solver) == (4, "midpoint")
    assert (few.evaluation.network_calls, few.evaluation.solver) == (1, "euler")
    assert few.evaluation.brier != own.evaluation.brier
    assert rescore(run_dir, home, {}, reuse=True).evaluation == own.evaluation  # kept apart
    with pytest.raises(ConfigError, match="cannot be changed without training anew"):
        rescore(run_dir, home, {"model.head.num_draws": 1})


@pytest.mark.slow
def test_texts_are_due_while_the_run_goes_on(whole: Path) -> None:
    record, run_dir = run(whole, "flow-mirrored", {"model.head.kind": "flow", "model.head.num_calls": 2, **EXTRA})
    running = tracking_schema.artifact_hashes(run_dir, ended=False)
    assert len(running) == 3
    assert all(name.startswith("samples/step-") for name in running)
    ended = tracking_schema.artifact_hashes(run_dir)
    assert {*running, "plots/sampling.png", "config.yaml"} <= set(ended)
    points = tracking_schema.points(run_dir, record, ended=True)
    shown = [(p.key, p.step, p.value) for p in points if p.key.startswith("calls/") and p.key.endswith("/brierlm")]
    assert shown == [(f"calls/{p.solver}/brierlm", p.network_calls, p.brier.brierlm) for p in record.call_curve]
    assert len({p.solver for p in record.call_curve}) > 1  # midpoint, and Euler for one call


@pytest.mark.slow
def test_a_comparison_that_was_interrupted_goes_on(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"model.head.kind": "flow", "model.head.num_calls": 6, **EXTRA}
    straight, _ = run(whole, "flow-compared", changes)
    calls: list[int] = []

    def interrupted(variant: Calm, *given: Any, **named: Any) -> Any:
        calls.append(variant.network.head.config.network_calls)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score_windows(variant, *given, **named)

    monkeypatch.setattr("workbench.call_curve.score_windows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(whole, "flow-cut", changes)
    resumed, run_dir = run(whole, "flow-cut", changes)
    assert calls == [1, 2, 2]  # the one that was done is kept; six calls are the evaluation itself
    assert [p.brier for p in resumed.call_curve] == [p.brier for p in straight.call_curve]
    assert [(p.sampler, p.accuracy, p.collision) for p in resumed.tradeoff] == [
        (p.sampler, p.accuracy, p.collision) for p in straight.tradeoff
    ]
    assert records.read_record(run_dir) == resumed


@pytest.mark.slow
@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_a_text_that_cannot_be_sampled_costs_no_run(
    whole: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def broken(*given: Any, **named: Any) -> None:
        raise kind("no")

    monkeypatch.setattr("workbench.runner.sample_text", broken)
    record, run_dir = run(
        whole, f"speechless-{kind.__name__}", {"model.head.kind": "flow", "model.head.num_calls": 2}
    )
    assert record.status == "completed"
    assert records.read_samples(run_dir) == []


@pytest.mark.slow
def test_a_finished_run_is_compared_anew(whole: Path) -> None:
    _, run_dir = run(whole, "flow-later", {"model.head.kind": "flow", "model.head.num_calls": 4})
    _, home = tiny_config(whole)
    asked = {"eval.network_calls": [1, 4], "eval.solvers": ["adams"], "eval.tradeoff.temperatures": [0.5]}
    few = {"eval.tradeoff.batch_sizes": [3], "eval.tradeoff.noise_scales": [], "eval.tradeoff.num_windows": 4}
    found = rescore(run_dir, home, {**asked, **few}, reuse=True)
    assert [(p.solver, p.network_calls) for p in found.call_curve] == [("adams", 1), ("adams", 4)]
    assert [p.sampler for p in found.tradeoff] == ["exact", "batch"]
    assert len(list(run_dir.glob("sampling-*.json"))) == 1
    assert rescore(run_dir, home, {}, reuse=True).call_curve == []


@pytest.mark.slow
def test_a_warning_about_the_exponent_stands_in_the_record_from_the_start(whole: Path) -> None:
    record, _ = run(whole, "below-one", {"model.head.alpha": 0.8})
    assert [d.code for d in record.diagnostics].count("alpha_below_one") == 1

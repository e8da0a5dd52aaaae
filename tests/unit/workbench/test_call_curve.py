"""One training, many numbers of network calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.suites.small import build_calm, rng, small_config
from workbench import flops
from workbench.call_curve import call_curve
from workbench.config import RunConfig
from workbench.data import Corpus
from workbench.evaluate import evaluate, evaluation_grid, score_windows
from workbench.model import Calm
from workbench.records import CallPoint
from workbench.uncertainty import summarise

RULES = {"context_len": 64, "min_context": 16, "num_windows": 8, "num_samples": 3}


def config_of(kind: str, calls: tuple[int, ...] = (1, 2, 5, 4), solvers: tuple[str, ...] = ()) -> RunConfig:
    config = small_config(head={"kind": kind})
    rules = config.eval.model_copy(update={**RULES, "network_calls": calls, "solvers": solvers})
    return config.model_copy(update={"eval": rules})


def test_each_number_of_calls_is_scored_as_the_model_with_it_would_be(tiny_corpus: Corpus) -> None:
    config = config_of("flow")
    model, grid = build_calm(config, vocab_size=258), evaluation_grid(config.eval, tiny_corpus)
    points = call_curve(model, config, grid, vocab=258)
    assert [(p.solver, p.network_calls) for p in points] == [("euler", 1), ("midpoint", 2), ("midpoint", 4)]
    for point in points:
        head = config.model.head.model_copy(update={"num_calls": point.network_calls})
        other = config.model_copy(update={"model": config.model.model_copy(update={"head": head})})
        rebuilt = build_calm(other, vocab_size=258)
        scored = score_windows(rebuilt, config.eval, grid)
        assert point.brier == summarise(scored.values, grid.clusters)
        assert point.infer_flops_per_token == flops.infer_flops_per_token(other, 258)


def test_an_energy_head_has_one_point_and_it_is_the_evaluation(tiny_corpus: Corpus) -> None:
    config = config_of("energy")
    model, grid = build_calm(config, vocab_size=258), evaluation_grid(config.eval, tiny_corpus)
    known = evaluate(
        model, config.eval, grid, corpus=tiny_corpus, phase="constant", step=1, tokens=1, flops=1.0
    ).evaluation
    (point,) = call_curve(model, config, grid, vocab=258, known=known)
    assert (point.network_calls, point.solver) == (1, "energy")
    assert point.brier == known.brier == call_curve(model, config, grid, vocab=258)[0].brier
    assert point.infer_flops_per_token == flops.infer_flops_per_token(config, 258)


def test_solvers_that_the_head_does_not_have_are_passed_over(tiny_corpus: Corpus) -> None:
    config = config_of("diffusion", (1, 3), ("midpoint", "ddim", "ddpm"))
    grid = evaluation_grid(config.eval, tiny_corpus)
    told: list[tuple[int, int]] = []
    points = call_curve(
        build_calm(config, vocab_size=258), config, grid, vocab=258, progress=lambda *done: told.append(done)
    )
    assert [(p.solver, p.network_calls) for p in points] == [("ddim", 1), ("ddim", 3), ("ddpm", 1), ("ddpm", 3)]
    assert told[-1] == (32, 32)
    assert told == sorted(told)


def test_points_that_are_done_are_not_scored_again(tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("flow", solvers=("euler", "midpoint"))
    model, grid = build_calm(config, vocab_size=258), evaluation_grid(config.eval, tiny_corpus)
    kept: list[CallPoint] = []
    points = call_curve(model, config, grid, vocab=258, keep=kept.append)
    assert points == kept
    scored: list[int] = []

    def counting(variant: Calm, *given: Any, **named: Any) -> Any:
        scored.append(variant.network.head.config.network_calls)
        return score_windows(variant, *given, **named)

    monkeypatch.setattr("workbench.call_curve.score_windows", counting)
    again = call_curve(model, config, grid, vocab=258, done=points[:3])
    assert [(p.solver, p.network_calls, p.brier) for p in again] == [
        (p.solver, p.network_calls, p.brier) for p in points
    ]
    assert len(scored) == len(points) - 3


def test_nothing_asked_nothing_done(tiny_corpus: Corpus) -> None:
    config = config_of("flow", ())
    grid = evaluation_grid(config.eval, tiny_corpus)
    assert call_curve(build_calm(config, vocab_size=258), config, grid, vocab=258) == []


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_other_sampling_shares_the_weights_and_leaves_the_model_as_it_was(kind: str) -> None:
    model = build_calm(small_config(head={"kind": kind}))
    hidden = torch.randn(3, 32, generator=rng())
    before = model.network.head.sample(hidden, num_samples=2, rng=rng())
    other = model.with_sampling(num_calls=2)
    assert not torch.equal(before, other.network.head.sample(hidden, num_samples=2, rng=rng()))
    assert torch.equal(before, model.network.head.sample(hidden, num_samples=2, rng=rng()))
    assert {p.data_ptr() for p in other.network.parameters()} == {p.data_ptr() for p in model.network.parameters()}

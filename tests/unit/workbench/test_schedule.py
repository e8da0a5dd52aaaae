"""From a budget to steps and evaluation points."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from tests.suites.small import VOCAB, small_config
from workbench import flops
from workbench.config import RunConfig
from workbench.optim import phase_after
from workbench.schedule import evaluation_steps, plan


def with_sections(config: RunConfig, **sections: dict[str, Any]) -> RunConfig:
    for name, fields in sections.items():
        config = config.model_copy(update={name: getattr(config, name).model_copy(update=fields)})
    return config


def test_a_budget_of_tokens_is_rounded_up_to_whole_steps() -> None:
    config = small_config()  # 24 positions of 4 tokens a step: 3 blocks of 32
    assert config.batch_sequences == 3
    for tokens, steps in ((96, 1), (97, 2), (9600, 100), (9601, 101)):
        planned = plan(with_sections(config, train={"train_tokens": tokens}), VOCAB)
        assert planned.num_steps == steps
        assert planned.tokens_per_step == 96


def test_a_budget_of_flops_is_rounded_up_to_whole_steps() -> None:
    config = small_config()
    per_step = flops.train_step_flops(config, VOCAB)
    for budget, steps in ((per_step, 1), (1.5 * per_step, 2), (99.5 * per_step, 100)):
        planned = plan(with_sections(config, train={"train_tokens": None, "train_flops": budget}), VOCAB)
        assert planned.num_steps == steps
        assert planned.flops_per_step == per_step


def test_warmup_and_decay_are_parts_of_the_steps() -> None:
    config = with_sections(
        small_config(), train={"train_tokens": 9600}, optim={"warmup_fraction": 0.1, "decay_fraction": 0.25}
    )
    planned = plan(config, VOCAB)
    assert (planned.num_steps, planned.warmup_steps, planned.decay_steps) == (100, 10, 25)


def test_about_two_hundred_points_are_logged() -> None:
    for steps, every in ((10, 1), (399, 1), (400, 2), (10_000, 50)):
        assert plan(with_sections(small_config(), train={"train_tokens": 96 * steps}), VOCAB).log_every == every


def test_evaluations_are_log_spaced_from_the_first_to_the_end() -> None:
    config = with_sections(small_config(), train={"num_evaluations": 6, "first_evaluation": 0.05})
    points = evaluation_steps(config, 10_000, 0)
    assert len(points) == 6
    assert (points[0], points[-1]) == (500, 10_000)
    ratios = [b / a for a, b in itertools.pairwise(points)]
    assert ratios == pytest.approx([20 ** (1 / 5)] * 5, rel=1e-2)


def test_with_a_decay_the_last_constant_point_comes_right_before_it_and_the_end_after_it() -> None:
    config = with_sections(small_config(), train={"num_evaluations": 6, "first_evaluation": 0.05})
    points = evaluation_steps(config, 10_000, 4_000)
    assert len(points) == 6
    assert points[0] == 500
    assert points[-2:] == (6_000, 10_000)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("decay_fraction", [0.0, 0.3, 0.97, 1.0])
@pytest.mark.parametrize("num_evaluations", [1, 2, 5])
def test_no_evaluation_lies_inside_the_decay(num_steps: int, decay_fraction: float, num_evaluations: int) -> None:
    config = with_sections(small_config(), train={"num_evaluations": num_evaluations})
    decay = round(decay_fraction * num_steps)
    points = evaluation_steps(config, num_steps, decay)
    assert points == tuple(sorted(set(points)))
    assert points[-1] == num_steps
    assert points[0] >= 1
    assert len(points) <= num_evaluations
    phases = [phase_after(p, num_steps, warmup_steps=0, decay_steps=decay) for p in points]
    assert "decaying" not in phases


def test_the_rule_for_the_batch_holds_across_block_lengths_and_chunk_sizes() -> None:
    for chunk_size in (1, 2, 4):
        config = with_sections(small_config(chunk_size=chunk_size), optim={"batch_positions": 256})
        planned = plan(config, VOCAB)
        assert planned.tokens_per_step == 256 * chunk_size
        assert math.isclose(planned.tokens_per_step / config.train.block_len, config.batch_sequences)

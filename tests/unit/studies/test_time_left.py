"""Time left: the work of what is to come, at the pace of what has ended."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from studies import space
from studies.time_left import seconds, seconds_left
from tests.suites.study_launch import tiny_spec
from workbench import flops

PARAMS = {"model.chunk_size": 2, "autoencoder.latent_dim": 16, "autoencoder.kl_floor": 0.0}
SPEC = tiny_spec(baselines={"tenth": {"train.train_flops": 1e10}, "whole": {}}, checks={})


def made(state: TrialState, seconds: float, params: dict[str, Any], number: int = 0) -> FrozenTrial:
    now = datetime.datetime.now()
    start = now - datetime.timedelta(seconds=seconds)
    return FrozenTrial(
        number=number,
        state=state,
        value=None,
        datetime_start=start,
        datetime_complete=now if state.is_finished() else None,
        params=params,
        distributions={name: CategoricalDistribution([value]) for name, value in params.items()},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=number,
    )


def trial(state: TrialState, seconds: float) -> FrozenTrial:
    return made(state, seconds, PARAMS)


def cell(name: str, state: TrialState, seconds: float) -> FrozenTrial:
    return made(state, seconds, {"cell": name})


def cost(config: Any) -> float:
    return float(flops.describe(config.resolved())["train_flops"])


TENTH = cost(space.baseline_config(SPEC, "tenth"))
WHOLE = cost(space.baseline_config(SPEC, "whole"))
TRIAL = sum(cost(space.setting_config(SPEC, setting)) for setting in space.settings(SPEC)) / 18


def test_the_time_of_a_trial_is_that_of_all_its_sessions() -> None:
    """But for the time in which it lay dead."""
    ended = trial(TrialState.COMPLETE, 100)
    ended.user_attrs |= {"spent": 40.0}
    assert seconds(ended) == pytest.approx(140)
    lost = trial(TrialState.FAIL, 100)
    lost.user_attrs |= {"spent": 40.0, "silence": 90.0}
    assert seconds(lost) == pytest.approx(50)
    lost.user_attrs |= {"silence": 130.0}  # clocks disagree
    assert seconds(lost) == 40.0


def test_a_trial_that_was_continued_makes_the_pace_slower() -> None:
    found = []
    for spent in (0.0, 40.0):
        ended = cell("whole", TrialState.COMPLETE, 40)
        ended.user_attrs |= {"spent": spent}
        found.append(seconds_left(SPEC, [], [ended], 1, 0, 1))
    assert found[1] == pytest.approx(2 * (found[0] or 0.0), rel=1e-3)


def test_nothing_has_ended() -> None:
    assert seconds_left(SPEC, [trial(TrialState.RUNNING, 5)], [], 5, 2, 1) is None


def test_a_cheap_baseline_says_how_long_trials_take() -> None:
    left = seconds_left(SPEC, [], [cell("tenth", TrialState.COMPLETE, 6)], 5, 1, 1)
    assert left == pytest.approx((5 * TRIAL + WHOLE) * 6 / TENTH)
    assert left == pytest.approx(360, rel=0.02), "the budgets are ten times the baseline's"


def test_two_workers_need_half() -> None:
    one, two = (seconds_left(SPEC, [trial(TrialState.COMPLETE, 10)], [], 4, 2, n) for n in (1, 2))
    assert one is not None
    assert two == pytest.approx(one / 2)


def test_pruned_trials_cost_time_and_complete_none() -> None:
    ended = [trial(TrialState.COMPLETE, 10), trial(TrialState.PRUNED, 5)]
    per_trial = 15 / cost(space.setting_config(SPEC, PARAMS))
    assert seconds_left(SPEC, ended, [], 4, 0, 1) == pytest.approx(4 * TRIAL * per_trial)


def test_what_runs_has_a_part_behind_it() -> None:
    trials = [trial(TrialState.COMPLETE, 100), trial(TrialState.RUNNING, 40)]
    assert seconds_left(SPEC, trials, [], 1, 0, 1) == pytest.approx(60, abs=2)
    trials = [trial(TrialState.COMPLETE, 100), trial(TrialState.RUNNING, 400)]
    assert seconds_left(SPEC, trials, [], 1, 0, 1) == 0.0


def test_each_cell_that_is_left_has_its_own_cost() -> None:
    done = [trial(TrialState.COMPLETE, 100)]
    pace = 100 / cost(space.setting_config(SPEC, PARAMS))
    assert seconds_left(SPEC, done, [], 0, 2, 1) == pytest.approx((TENTH + WHOLE) * pace)
    cells = [cell("whole", TrialState.COMPLETE, 100)]
    pace = 200 / (cost(space.setting_config(SPEC, PARAMS)) + WHOLE)
    assert seconds_left(SPEC, done, cells, 0, 1, 1) == pytest.approx(TENTH * pace)


def test_checks_of_a_setting_that_is_not_found_yet_cost_a_trial() -> None:
    spec = tiny_spec(baselines={}, checks={"lr_factors": [0.5, 2.0]})
    left = seconds_left(spec, [trial(TrialState.COMPLETE, 10)], [], 0, 2, 1)
    assert left == pytest.approx(20, rel=0.02)

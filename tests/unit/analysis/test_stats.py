"""Means, and differences of scores that are not known position by position."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as reference

from analysis.stats import (
    Difference,
    Scored,
    against_constant,
    mean_of,
    scatter_of_scores,
    unpaired_difference,
)
from workbench.uncertainty import t_quantile


def test_t_quantile_and_mean_interval_agree_with_scipy() -> None:
    assert t_quantile(4) == pytest.approx(reference.t.ppf(0.975, 4))
    assert t_quantile(4, comparisons=3) == pytest.approx(reference.t.ppf(1 - 0.025 / 3, 4))
    assert t_quantile(0) == math.inf
    values = [1.0, 2.0, 4.0, 3.5]
    mean = mean_of(values)
    low, high = reference.t.interval(0.95, 3, np.mean(values), reference.sem(values))
    assert (mean.low, mean.high) == pytest.approx((low, high))


def test_one_value_has_no_interval() -> None:
    assert (mean_of([2.0]).low, mean_of([2.0]).num) == (None, 1)
    assert math.isnan(mean_of([]).value)


def test_verdicts_need_an_interval_that_excludes_zero() -> None:
    def verdict(first: float, second: float, se: float = 0.1) -> str:
        return unpaired_difference(Scored(first, se), Scored(second, 0.1), clusters=96).verdict

    assert verdict(3.0, 2.0) == "better"
    assert verdict(2.0, 3.0) == "worse"
    assert verdict(3.0, 2.9) == "indistinguishable"
    assert verdict(3.0, 2.0, math.nan) == "not decidable from this study"
    assert verdict(3.0, 2.0, 0.0) == "not decidable from this study"  # an error of 0 is none


def test_unpaired_errors_are_added_and_corrected() -> None:
    found = unpaired_difference(Scored(3.0, 0.3), Scored(2.0, 0.4), clusters=11, comparisons=5)
    half = reference.t.ppf(1 - 0.025 / 5, 10) * 0.5
    assert (found.low, found.high) == pytest.approx((1 - half, 1 + half))
    assert (found.comparisons, found.unpaired) == (5, True)


def test_training_noise_widens_an_unpaired_difference_with_its_own_quantile() -> None:
    noise = scatter_of_scores([[1.0, 2.0], [5.0], [3.0, 3.0, 6.0]])
    assert noise is not None
    assert (noise.dof, noise.num_settings) == (3, 2)
    assert noise.sd == pytest.approx(math.sqrt((0.5 + 6.0) / 3))
    ends = np.sqrt(6.5 / reference.chi2.ppf([0.975, 0.025], 3))
    assert (noise.low, noise.high) == pytest.approx(tuple(ends))
    assert (noise.sd_training, noise.sd_evaluation) == (noise.sd, 0.0)  # nobody knows how to split it
    assert scatter_of_scores([[1.0], [2.0]]) is None
    found = unpaired_difference(Scored(3.0, 0.1, 3), Scored(2.0, 0.1, 2), clusters=96, noise=noise)
    evaluation = reference.t.ppf(0.975, 95) * math.hypot(0.1, 0.1)
    seeds = reference.t.ppf(0.975, 3) * noise.sd * math.sqrt(1 / 3 + 1 / 2)
    assert found.high == pytest.approx(1.0 + math.hypot(evaluation, seeds))
    assert found.verdict == "indistinguishable"


def test_against_a_floor() -> None:
    assert against_constant(3.0, 0.1, 0.7, clusters=96).verdict == "better"
    assert against_constant(0.75, 0.1, 0.7, clusters=96).verdict == "indistinguishable"
    assert against_constant(0.0, 0.05, 0.7, clusters=96).verdict == "worse"
    assert against_constant(0.0, 0.0, 0.7, clusters=96).verdict == "not decidable from this study"
    # 2.3 errors above: enough for one look, not for a hundred
    assert against_constant(0.93, 0.1, 0.7, clusters=96).verdict == "better"
    assert against_constant(0.93, 0.1, 0.7, clusters=96, comparisons=100).verdict == "indistinguishable"


def test_a_difference_can_be_turned_round() -> None:
    turned = Difference(1.0, 0.2, 3.0, comparisons=4, unpaired=True).flipped
    assert (turned.value, turned.low, turned.high) == (-1.0, -3.0, -0.2)
    assert (turned.comparisons, turned.unpaired, turned.verdict) == (4, True, "worse")
    assert Difference(1.0).flipped.verdict == "not decidable from this study"

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as reference

from analysis.stats import against_constant, difference_of_runs, mean_of, seed_noise, t_quantile


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
    assert difference_of_runs(3.0, 0.1, 2.0, 0.1, clusters=96).verdict == "better"
    assert difference_of_runs(2.0, 0.1, 3.0, 0.1, clusters=96).verdict == "worse"
    assert difference_of_runs(3.0, 0.1, 2.9, 0.1, clusters=96).verdict == "indistinguishable"
    assert difference_of_runs(3.0, math.nan, 2.0, 0.1, clusters=96).verdict == "not decidable from this study"


def test_seed_noise_is_pooled_and_widens_a_difference() -> None:
    noise = seed_noise([[1.0, 2.0], [5.0], [3.0, 3.0, 6.0]])
    assert noise is not None
    assert (noise.dof, noise.num_cells) == (3, 2)
    assert noise.sd == pytest.approx(math.sqrt((0.5 + 6.0) / 3))
    assert seed_noise([[1.0], [2.0]]) is None
    assert difference_of_runs(3.0, 0.1, 2.0, 0.1, clusters=96, noise=noise).verdict == "indistinguishable"


def test_welch_satterthwaite_between_equal_parts() -> None:
    difference = difference_of_runs(3.0, 0.2, 2.0, 0.2, clusters=11)
    half = reference.t.ppf(0.975, 20) * math.sqrt(0.08)
    assert (difference.low, difference.high) == pytest.approx((1 - half, 1 + half))


def test_against_a_floor() -> None:
    assert against_constant(3.0, 0.1, 0.7, clusters=96).verdict == "better"
    assert against_constant(0.75, 0.1, 0.7, clusters=96).verdict == "indistinguishable"
    assert against_constant(0.0, 0.05, 0.7, clusters=96).verdict == "worse"
    assert against_constant(0.0, 0.0, 0.7, clusters=96).verdict == "not decidable from this study"

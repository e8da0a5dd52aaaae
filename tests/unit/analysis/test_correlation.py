from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.correlation import cluster_intervals, correlate, pearson, spearman


def test_coefficients_agree_with_scipy_also_with_ties() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=40)
    y = -x + rng.normal(size=40)
    tied = np.round(y)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert spearman(x, tied) == pytest.approx(stats.spearmanr(x, tied).statistic, abs=1e-12)
    assert math.isnan(pearson(x, np.ones(40)))


def checkpoints(num_runs: int, per_run: int = 5, shift: float = 0.0) -> pd.DataFrame:
    """``shift``: standard deviation of an offset that all checkpoints of a run share."""
    rng = np.random.default_rng(2)
    rows = []
    for run in range(num_runs):
        offset = shift * rng.normal()
        for i in range(per_run):
            x = 3.0 - 0.2 * i
            rows.append((f"r{run}", "baseline", x, 9 - 2 * x + offset + 0.1 * rng.normal(), "f", 1e9 * (i + 1)))
    frame = pd.DataFrame(
        rows, columns=["run_id", "kind", "cross_entropy", "brierlm", "fingerprint", "train_flops"]
    )
    return frame.assign(brierlm_se=0.1)


def test_correlation_states_points_runs_and_line() -> None:
    result = correlate(checkpoints(8), resamples=300)
    assert result.pearson is not None
    assert result.spearman is not None
    assert (result.num_points, result.num_runs, result.num_zero) == (40, 8, 0)
    assert result.slope == pytest.approx(-2.0, abs=0.2)
    assert result.pearson.low is not None
    assert result.pearson.high is not None
    assert -1 <= result.pearson.low <= result.pearson.value <= result.pearson.high < 0
    assert result.note == ""


def test_resampling_whole_runs_is_wider_where_runs_differ() -> None:
    frame = checkpoints(8, shift=0.5)
    x, y = frame["cross_entropy"].to_numpy(), frame["brierlm"].to_numpy()
    by_run = cluster_intervals(x, y, frame["run_id"].tolist())
    by_point = cluster_intervals(x, y, [str(i) for i in range(len(frame))])
    assert by_run is not None
    assert by_point is not None
    assert by_run == cluster_intervals(x, y, frame["run_id"].tolist())  # seeded
    # copies of the same eight runs hold no news: the clustered interval must not shrink with them
    twice = np.concatenate([x, x]), np.concatenate([y, y]), frame["run_id"].tolist() * 2
    copied = cluster_intervals(*twice)
    assert copied is not None
    assert copied[0] == pytest.approx(by_run[0], abs=1e-9)


def test_fewer_than_three_runs_have_no_interval() -> None:
    result = correlate(checkpoints(2))
    assert result.pearson is not None
    assert result.pearson.low is None
    assert "not independent" in result.note


def test_zeros_are_left_out_and_counted() -> None:
    frame = checkpoints(3)
    frame.loc[0, "brierlm"] = 0.0
    result = correlate(frame, resamples=50)
    assert (result.num_points, result.num_zero) == (14, 1)


def test_too_little_or_mixed() -> None:
    nothing = correlate(checkpoints(1, per_run=2))
    assert nothing.pearson is None
    assert "at least 3" in nothing.note
    assert correlate(checkpoints(1).head(0)).num_points == 0
    mixed = checkpoints(3)
    mixed.loc[0, "fingerprint"] = "g"
    with pytest.raises(ValueError, match="fingerprints"):
        correlate(mixed)

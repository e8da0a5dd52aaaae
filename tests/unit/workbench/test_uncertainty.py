"""BrierLM, its standard error and the smooth score, from made-up estimates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from workbench.brier import smooth_score, summarise

MEANS = np.array([0.30, 0.12, 0.06, 0.04])


def estimates(
    rng: np.random.Generator, num_windows: int, num_positions: int = 24, means: np.ndarray = MEANS
) -> np.ndarray:
    """(W, n, 4) with what orders share, what a window shares, and noise of every position."""
    window = rng.normal(0, 0.05, (num_windows, 1, 1)) * np.array([1.0, 0.6, 0.4, 0.3])
    shared = rng.normal(0, 0.15, (num_windows, num_positions, 1))
    own = rng.normal(0, 0.10, (num_windows, num_positions, 4))
    return means + window + shared * np.array([1.0, 0.5, 0.3, 0.2]) + own


def test_values_follow_the_formulas() -> None:
    values = estimates(np.random.default_rng(0), 12)
    found = summarise(values, np.arange(12))
    mean = values.reshape(-1, 4).mean(0)
    np.testing.assert_allclose(found.brier, 100 * mean)
    assert found.brierlm == pytest.approx(100 * np.prod(mean) ** 0.25)
    windows = values.mean(1)
    np.testing.assert_allclose(found.brier_se, 100 * windows.std(0, ddof=1) / np.sqrt(12))
    logs = (windows / mean).mean(1) * found.brierlm  # delta method: d log BrierLM = mean of d b_n / b_n
    assert found.brierlm_se == pytest.approx(logs.std(ddof=1) / np.sqrt(12))
    assert (found.num_positions, found.num_clusters) == (12 * 24, 12)
    assert found.score == found.brierlm


def test_clusters_of_unequal_size() -> None:
    """Ratio estimator: Var(mean) = C/(C-1) * sum over clusters of (sum of deviations / W)^2."""
    values = estimates(np.random.default_rng(1), 10)
    clusters = np.array([7, 7, 7, 7, 2, 2, 5, 5, 5, 9])
    found = summarise(values, clusters)
    deviation = values.mean(1) - values.mean((0, 1))
    total = np.stack([deviation[clusters == c].sum(0) for c in (2, 5, 7, 9)])
    np.testing.assert_allclose(found.brier_se, 100 * np.sqrt(4 / 3 * (total**2).sum(0)) / 10)
    assert found.num_clusters == 4


def test_windows_of_one_document_are_not_independent() -> None:
    """The same window four times over is no more evidence than once."""
    values = estimates(np.random.default_rng(2), 10)
    once = summarise(values, np.arange(10))
    copies = summarise(np.repeat(values, 4, 0), np.repeat(np.arange(10), 4))
    assert copies.brierlm_se == pytest.approx(once.brierlm_se)
    assert summarise(np.repeat(values, 4, 0), np.arange(40)).brierlm_se < 0.6 * once.brierlm_se


def test_order_and_labels_of_windows_do_not_matter() -> None:
    values, clusters = estimates(np.random.default_rng(3), 20), np.arange(20) // 3
    order = np.random.default_rng(0).permutation(20)
    first, second = summarise(values, clusters), summarise(values[order], 100 - clusters[order])
    for name, value in first.model_dump().items():
        np.testing.assert_allclose(getattr(second, name), value, rtol=1e-12)


def test_the_interval_covers_the_truth() -> None:
    """1,000 evaluations: 95 % t-intervals of BrierLM cover the true one in 93 to 97 % of them, and the
    standard error is the actual spread."""
    rng = np.random.default_rng(4)
    true = 100 * np.prod(MEANS) ** 0.25
    found = [summarise(estimates(rng, 60), np.arange(60)) for _ in range(1000)]
    reach = stats.t.ppf(0.975, 59)
    covered = np.mean([abs(f.brierlm - true) <= reach * f.brierlm_se for f in found])
    assert 0.93 <= covered <= 0.97
    spread = np.std([f.brierlm for f in found])
    assert np.mean([f.brierlm_se for f in found]) == pytest.approx(spread, rel=0.08)


def test_ignoring_clusters_would_not_cover() -> None:
    """The test above can fail: 20 documents of 6 windows with something in common, taken as 120 windows."""
    rng = np.random.default_rng(5)
    true = 100 * np.prod(MEANS) ** 0.25
    covered = {"windows": [], "documents": []}
    for _ in range(300):
        document = np.repeat(rng.normal(0, 0.06, (20, 1, 1)), 6, 0) * np.array([1.0, 0.5, 0.3, 0.2])
        values = estimates(rng, 120) + document
        for name, clusters in (("windows", np.arange(120)), ("documents", np.repeat(np.arange(20), 6))):
            found = summarise(values, clusters)
            reach = stats.t.ppf(0.975, found.num_clusters - 1) * found.brierlm_se
            covered[name].append(abs(found.brierlm - true) <= reach)
    assert np.mean(covered["windows"]) < 0.85
    assert np.mean(covered["documents"]) > 0.91


def test_the_geometric_mean_is_taken_once() -> None:
    """Taken per batch and averaged it is off by far more than the error, as batches' orders fall below 0."""
    values = estimates(np.random.default_rng(6), 2000, means=np.array([0.2, 0.02, 0.01, 0.005]))
    once = summarise(values, np.arange(2000))
    per_batch = np.mean([summarise(part, np.arange(4)).brierlm for part in np.split(values, 500)])
    assert once.brierlm == pytest.approx(100 * np.prod(values.mean((0, 1))) ** 0.25)
    assert abs(per_batch - once.brierlm) > 3 * once.brierlm_se


@pytest.mark.parametrize("last", [0.0, -0.02])
def test_an_order_that_is_not_positive_makes_brierlm_zero(last: float) -> None:
    values = estimates(np.random.default_rng(7), 30)
    values[..., 3] += last - values[..., 3].mean()
    if last == 0.0:
        values[..., 3] = 0.0
    found = summarise(values, np.arange(30))
    assert found.brierlm == 0.0
    assert found.brierlm_se > 0, "a BrierLM of 0 has a scale too"
    assert found.score > 0


@pytest.mark.parametrize("last", [1e-4, -0.02])
def test_an_order_that_is_not_above_its_error_is_replaced_by_that_error(last: float) -> None:
    """In the logarithms of the delta method; with the mean itself the error would grow without bounds."""
    values = estimates(np.random.default_rng(8), 30)
    values[..., 3] += last - values[..., 3].mean()
    found = summarise(values, np.arange(30))
    windows = values.mean(1)
    scale = windows.mean(0)
    scale[3] = windows[:, 3].std(ddof=1) / np.sqrt(30)
    logs = 100 * np.prod(scale) ** 0.25 * (windows / scale).mean(1)
    assert found.brierlm_se == pytest.approx(logs.std(ddof=1) / np.sqrt(30))


def test_no_variation_at_all() -> None:
    found = summarise(np.broadcast_to(MEANS, (5, 3, 4)), np.arange(5))
    assert found.brierlm_se == pytest.approx(0, abs=1e-12)
    assert found.score == pytest.approx(100 * np.prod(MEANS) ** 0.25)


class TestSmoothScore:
    SE = np.array([0.02, 0.01, 0.01, 0.02])

    def score(self, *means: float) -> float:
        return smooth_score(np.array(means), self.SE)

    def test_is_brierlm_where_every_order_lies_above_two_errors(self) -> None:
        assert (MEANS >= 2 * self.SE).all()
        assert self.score(*MEANS) == pytest.approx(100 * np.prod(MEANS) ** 0.25)

    def test_follows_its_formula_below(self) -> None:
        means = np.array([0.05, 0.01, 0.0, -0.03])
        parts = [0.05, 0.02 * np.exp(-0.5), 0.02 * np.exp(-1.0), 0.04 * np.exp(-1.75)]
        assert self.score(*means) == pytest.approx(100 * np.prod(parts) ** 0.25)

    def test_has_neither_jump_nor_kink_at_two_errors(self) -> None:
        def at(b: float) -> float:
            return self.score(0.1, 0.1, 0.1, b)

        s, h = 2 * self.SE[3], 1e-6
        assert at(s - h) == pytest.approx(at(s + h), rel=1e-3)
        assert (at(s) - at(s - h)) / h == pytest.approx((at(s + h) - at(s)) / h, rel=1e-3)

    @pytest.mark.parametrize("order", range(4))
    def test_rises_with_every_order_and_stays_positive(self, order: int) -> None:
        means = np.array([0.1, -0.01, 0.003, -0.05])
        scores = []
        for shift in np.linspace(-0.3, 0.3, 25):
            shifted = means.copy()
            shifted[order] += shift
            scores.append(self.score(*shifted))
        assert scores[0] > 0
        assert (np.diff(scores) > 0).all()

"""BrierLM, its standard error, interval and bound, from made-up and simulated estimates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.suites.simulated_scores import evaluations, true_brierlm, true_scores
from workbench import uncertainty
from workbench.uncertainty import (
    bootstrap,
    cluster_dof,
    geometric_mean,
    rounds_needed,
    summarise,
    t_quantile,
    upper_bound,
    weak_orders,
    windows_needed,
)

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
        close = 0.1 if name == "bootstrap_se" else 1e-9  # which clusters are drawn depends on their order
        np.testing.assert_allclose(getattr(second, name), value, rtol=close)


def test_the_interval_covers_the_truth() -> None:
    """1,000 evaluations: 95 % t-intervals of BrierLM cover the true one in 93 to 97 % of them, and the
    standard error is the actual spread."""
    rng = np.random.default_rng(4)
    true = 100 * np.prod(MEANS) ** 0.25
    found = [summarise(estimates(rng, 60), np.arange(60), resamples=0) for _ in range(1000)]
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
            found = summarise(values, clusters, resamples=0)
            reach = stats.t.ppf(0.975, found.num_clusters - 1) * found.brierlm_se
            covered[name].append(abs(found.brierlm - true) <= reach)
    assert np.mean(covered["windows"]) < 0.85
    assert np.mean(covered["documents"]) > 0.91


@pytest.mark.slow
def test_the_geometric_mean_is_taken_once() -> None:
    """Taken per batch and averaged it is off by far more than the error, as batches' orders fall below 0."""
    values = estimates(np.random.default_rng(6), 2000, means=np.array([0.2, 0.02, 0.01, 0.005]))
    once = summarise(values, np.arange(2000))
    per_batch = np.mean([geometric_mean(part.mean((0, 1))) for part in np.split(values, 500)])
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


NUM = 600


class TestIntervals:
    """Simulated evaluations with rare, nested, skewed hits, 600 of each kind: of that many, intervals that hold in
    90 % only are found out with a chance of 99.3 % where at least 93 % are wanted, of 99.9 % where 94 % are."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("strength", "num_windows"), [(0.5, 20), (0.0, 20), (0.0, 64), (-0.5, 64), (-1.0, 64)]
    )
    def test_nominal_95_percent_cover_in_93_to_97(self, strength: float, num_windows: int) -> None:
        """Measured: 94.1 to 95.6 %. A normal quantile, or clusters ignored, would not."""
        truth, covered, weak = true_brierlm(strength), [], 0
        for values in evaluations(np.random.default_rng(1), strength, NUM, num_windows):
            found = summarise(values, np.arange(num_windows), resamples=0)
            assert found.brierlm_low is not None
            assert found.brierlm_high is not None
            covered.append(found.brierlm_low <= truth <= found.brierlm_high)
            weak += bool(found.weak_orders)
        assert weak < NUM / 10, "these are evaluations that the delta method is for"
        assert 0.93 <= np.mean(covered) <= 0.97

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("strength", "num_windows"),
        [(-1.0, 20), (-1.5, 20), (-1.5, 64), (-2.0, 64), (-2.5, 64), (-3.0, 20), (-3.0, 64)],
    )
    def test_the_bound_holds_in_95_percent_of_evaluations_near_0(self, strength: float, num_windows: int) -> None:
        """Of all evaluations of a model, whatever each found: true BrierLM 4.7 down to 0.15. Measured: 95.0 %
        (where the highest order lies at three errors) to 100 % (where hits are so rare that none is seen)."""
        truth = true_brierlm(strength)
        bounds = [
            upper_bound(values, np.arange(num_windows))
            for values in evaluations(np.random.default_rng(2), strength, NUM, num_windows)
        ]
        assert np.mean(np.array(bounds) >= truth) >= 0.94

    @pytest.mark.slow
    @pytest.mark.parametrize("strength", [-1.0, -1.25, -1.5, -1.75, -2.0])
    def test_the_two_regimes_together_cover(self, strength: float) -> None:
        """Where some evaluations of a model are weak and others are not: the interval that is reported, either
        kind. Measured: 93.4 to 98.5 %."""
        truth, covered = true_brierlm(strength), []
        for values in evaluations(np.random.default_rng(3), strength, NUM, 40):
            found = summarise(values, np.arange(40), resamples=0)
            assert found.brierlm_high is not None
            covered.append((found.brierlm_low or 0.0) <= truth <= found.brierlm_high)
        assert np.mean(covered) >= 0.93

    @pytest.mark.slow
    def test_the_delta_method_fails_near_0(self) -> None:
        """Why there is a bound: the plain interval misses in far more than 5 % there."""
        truth, covered = true_brierlm(-2.5), []
        for values in evaluations(np.random.default_rng(4), -2.5, 500, 64):
            found = summarise(values, np.arange(64), resamples=0)
            covered.append(abs(found.brierlm - truth) <= t_quantile(63) * found.brierlm_se)
        assert np.mean(covered) < 0.85

    def test_the_bound_is_not_idle(self) -> None:
        """It falls towards the truth as text is added."""
        medians = [
            np.median([upper_bound(v, np.arange(w)) for v in evaluations(np.random.default_rng(5), -2.0, 20, w)])
            for w in (20, 100, 500)
        ]
        truth = true_brierlm(-2.0)
        assert medians[0] > medians[1] > medians[2] > truth
        assert medians[2] < 1.3 * truth

    def test_interval_or_bound(self) -> None:
        strong = summarise(estimates(np.random.default_rng(0), 30), np.arange(30))
        assert strong.weak_orders == []
        reach = stats.t.ppf(0.975, 29) * strong.brierlm_se
        assert strong.brierlm_low == pytest.approx(strong.brierlm - reach)
        assert strong.brierlm_high == pytest.approx(strong.brierlm + reach)
        values = estimates(np.random.default_rng(0), 30)
        values[..., 3] += 2.9 * strong.brier_se[3] / 100 - values[..., 3].mean()
        weak = summarise(values, np.arange(30))
        assert weak.weak_orders == [4]
        assert weak.brierlm_low == 0.0
        assert weak.brierlm_high == pytest.approx(upper_bound(values, np.arange(30)))
        assert weak.words() == f"[0, {weak.brierlm_high:.2f}]"
        assert strong.words() == f"{strong.brierlm:.2f} ± {strong.brierlm_se:.2f}"

    def test_one_cluster_has_no_interval(self) -> None:
        found = summarise(estimates(np.random.default_rng(0), 5), np.zeros(5, dtype=int))
        assert (found.brierlm_low, found.brierlm_high, found.bootstrap_se) == (None, None, None)

    def test_weak_orders_at_the_limit(self) -> None:
        assert weak_orders(np.array([3.1, 3.0, 0.0, -1.0]), np.array([1.0, 1.0, 0.0, 0.1])) == [2, 3, 4]


class TestUpperBound:
    def test_a_single_weak_order_gives_its_own_bound(self) -> None:
        """Orders 1 to 3 without any noise: the bound of BrierLM is that of order 4."""
        rng = np.random.default_rng(0)
        values = np.tile(np.array([0.3, 0.1, 0.05, 0.0]), (400, 1, 1))
        values[:, 0, 3] = rng.permutation(np.r_[np.full(8, 0.25), np.full(5, -0.25), np.zeros(387)])
        # the first three have no scatter, but one event of their size is added as well: make it negligible
        bound = upper_bound(values, np.arange(400))
        b, s, event = values[..., 3].mean(), values[:, 0, 3].std(ddof=1) / 20, 0.25 / 400
        own = b + (1.645**2 + 2) / 3 * event + stats.t.ppf(0.95, 399) * np.hypot(s, event)
        alone = 100 * (0.3 * 0.1 * 0.05 * own) ** 0.25
        assert bound == pytest.approx(alone, rel=0.03)
        assert bound >= 0.999 * alone

    def test_an_order_that_is_surely_negative_bounds_it_at_0(self) -> None:
        values = estimates(np.random.default_rng(1), 60)
        values[..., 3] -= 0.5
        assert upper_bound(values, np.arange(60)) == 0.0

    def test_no_hit_at_all_does_not_mean_0(self) -> None:
        """Rule of three: with nothing seen in N positions the chance may still be 3 / N."""
        values = np.zeros((100, 10, 4))
        values[..., :3] = estimates(np.random.default_rng(2), 100, 10)[..., :3]
        bound = upper_bound(values, np.arange(100))
        size = (np.maximum(values[..., 2], 0) ** 2).sum() / np.maximum(values[..., 2], 0).sum()
        rule_of_three = 100 * (np.prod(values.mean((0, 1))[:3]) * 3 * size / 1000) ** 0.25
        assert bound >= 0.98 * rule_of_three

    @pytest.mark.parametrize(("level", "num_hits"), [(0.95, 6), (0.975, 6), (0.9979, 7), (0.9996, 9)])
    def test_holds_at_the_levels_of_corrected_claims(self, level: float, num_hits: int) -> None:
        """Order 4 made of rare hits of one size, the others known: of 20,000 evaluations no more than 1.3 times
        the allowed share lie above the bound. With 1.5 events at every level it is three times at 99.8 %."""
        rng, size, num = np.random.default_rng(0), 0.25, 96 * 24
        counts = rng.poisson(num_hits, 20_000)
        missed = 0.0
        known = np.broadcast_to(np.array([0.3, 0.1, 0.05, 0.0]), (96, 24, 4))
        for count, how_often in zip(*np.unique(counts, return_counts=True), strict=True):
            values = np.array(known)
            windows = rng.permutation(96)[: min(count, 96)]
            values[windows, 0, 3] = size
            if count == 0:
                continue  # the event size is then that of another order
            truth = 100 * (0.3 * 0.1 * 0.05 * num_hits * size / num) ** 0.25
            missed += how_often * (upper_bound(values, np.arange(96), level=level) < truth)
        assert missed / 20_000 <= 1.3 * (1 - level)

    def test_nothing_on_the_way_to_it_is_computed_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        weights, plain = [], uncertainty._barrier_minimum

        def counted(centre: np.ndarray, inverse: np.ndarray, weight: float) -> np.ndarray:
            weights.append(weight)
            return plain(centre, inverse, weight)

        monkeypatch.setattr(uncertainty, "_barrier_minimum", counted)
        upper_bound(evaluations(np.random.default_rng(3), -2.0, 1, 40)[0], np.arange(40))
        assert len(weights) == len(set(weights)) > 5

    def test_rises_with_the_level(self) -> None:
        values = evaluations(np.random.default_rng(3), -2.0, 1, 40)[0]
        bounds = [upper_bound(values, np.arange(40), level=level) for level in (0.8, 0.95, 0.99)]
        assert bounds[0] < bounds[1] < bounds[2]


class TestBootstrap:
    @pytest.mark.parametrize("strength", [0.5, 0.0, -0.5])
    def test_agrees_with_the_delta_method_where_that_holds(self, strength: float) -> None:
        ratios = []
        for values in evaluations(np.random.default_rng(6), strength, 20, 100):
            found = summarise(values, np.arange(100))
            assert found.bootstrap_se is not None
            ratios.append(found.bootstrap_se / found.brierlm_se)
        assert np.mean(ratios) == pytest.approx(1.0, abs=0.03)
        assert np.std(ratios) < 0.06

    def test_draws_whole_clusters(self) -> None:
        """Copies of a window in one cluster are no more evidence than the window."""
        values = estimates(np.random.default_rng(2), 40)
        once = bootstrap(values, np.arange(40))
        copies = bootstrap(np.repeat(values, 4, 0), np.repeat(np.arange(40), 4))
        np.testing.assert_allclose(copies, once, rtol=1e-9)

    def test_clusters_of_unequal_size_keep_their_weight(self) -> None:
        values = np.broadcast_to(np.array([[[0.4]], [[0.4]], [[0.4]], [[0.1]]]), (4, 3, 4))
        clusters = np.array([0, 0, 0, 1])
        _, low, high = bootstrap(values, clusters, resamples=500)
        assert low == pytest.approx(10.0), "the small cluster twice"
        assert high == pytest.approx(40.0)

    def test_repeatable(self) -> None:
        values = estimates(np.random.default_rng(2), 20)
        assert bootstrap(values, np.arange(20)) == bootstrap(values, np.arange(20))
        assert bootstrap(values, np.arange(20)) != bootstrap(values, np.arange(20), seed=1)


class TestHowManyMore:
    @pytest.mark.slow
    def test_windows_follow_the_root_law(self) -> None:
        """The number that 100 windows ask for gives the wished-for error when it is drawn."""
        clusters, ratios = np.arange(100), []
        for seed in range(10):
            pilot, drawn = (evaluations(np.random.default_rng([seed, i]), 0.0, 1, 100 * 4**i)[0] for i in (0, 1))
            error = summarise(pilot, clusters).brierlm_se
            assert windows_needed(pilot, clusters, error / 2) == pytest.approx(400, abs=1)
            ratios.append(summarise(drawn, np.arange(400)).brierlm_se / error)
        assert np.mean(ratios) == pytest.approx(0.5, abs=0.04)

    def test_what_documents_share_is_not_averaged_out(self) -> None:
        rng, clusters = np.random.default_rng(9), np.repeat(np.arange(30), 10)
        document = np.repeat(rng.normal(0, 0.04, (30, 1, 1)), 10, 0) * np.array([1.0, 0.4, 0.2, 0.13])
        values = estimates(rng, 300) + document
        error = summarise(values, clusters).brierlm_se
        assert windows_needed(values, clusters, error / 3) is None
        needed = windows_needed(values, clusters, 0.97 * error)
        assert needed is not None
        assert needed > 300

    def test_rounds(self) -> None:
        """Text with an error of its own, sampling noise on top that falls as 1 / R."""
        rng = np.random.default_rng(10)
        text = estimates(rng, 200)
        rounds = text + rng.normal(0, 0.3, (6, 200, 24, 1)) * np.array([1.0, 0.4, 0.2, 0.13])
        clusters = np.arange(200)
        floor = summarise(text, clusters).brierlm_se
        assert rounds_needed(rounds[:2], clusters, 0.8 * floor) is None
        wished = 1.05 * floor
        needed = rounds_needed(rounds[:2], clusters, wished)
        assert needed is not None
        more = text + (rng.normal(0, 0.3, (needed, 200, 24, 1)) * np.array([1.0, 0.4, 0.2, 0.13])).mean(0)
        assert summarise(more, clusters).brierlm_se == pytest.approx(wished, rel=0.1)


@pytest.mark.slow
def test_the_simulated_truth_is_what_many_evaluations_average_to() -> None:
    """The simulations above rest on it."""
    for strength in (0.0, -1.5):
        mean = evaluations(np.random.default_rng(11), strength, 40, 1000).mean((0, 1, 2))
        np.testing.assert_allclose(mean, true_scores(strength), rtol=0.05)


class TestUnequalClusters:
    def test_degrees_of_freedom(self) -> None:
        assert cluster_dof(np.arange(12)) == pytest.approx(11)
        assert cluster_dof(np.repeat(np.arange(5), 3)) == pytest.approx(4)
        assert cluster_dof(np.array([0, 0, 0, 1])) == pytest.approx(16 / 10 - 1)
        assert cluster_dof(np.zeros(7, dtype=int)) == pytest.approx(0)

    def test_one_document_with_half_of_the_text(self) -> None:
        """Thirty documents, one of them with half of the windows: with 29 degrees of freedom a 95 % interval holds
        in three of four evaluations."""
        clusters = np.r_[np.zeros(60, dtype=int), 1 + np.arange(60) % 29]
        rng, true = np.random.default_rng(0), 100 * np.prod(MEANS) ** 0.25
        covered, naive = [], []
        for _ in range(400):
            document = rng.normal(0, 0.06, 30)[clusters][:, None, None] * np.array([1.0, 0.5, 0.3, 0.2])
            found = summarise(estimates(rng, 120, 4) + document, clusters, resamples=0)
            assert found.brierlm_low is not None
            assert found.brierlm_high is not None
            covered.append(found.brierlm_low <= true <= found.brierlm_high)
            naive.append(abs(found.brierlm - true) <= t_quantile(29) * found.brierlm_se)
        assert np.mean(covered) >= 0.92
        assert np.mean(naive) < 0.85

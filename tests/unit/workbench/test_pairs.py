"""Paired differences: formulas, coverage, refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from tests.suites.simulated_scores import evaluations
from workbench.errors import RunError
from workbench.pairs import POWER, against_floor, align, compare_all, needed, paired_difference
from workbench.positions import FloorScores, PositionScores
from workbench.uncertainty import summarise, upper_bound

MEANS = np.array([0.30, 0.12, 0.06, 0.04])
SHARE = np.array([1.0, 0.5, 0.3, 0.2])


def pair(
    rng: np.random.Generator, num_windows: int = 60, *, gain: float = 0.0, shared: float = 0.06, own: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Two models at the same positions: what windows share, what each model has of its own; ``gain`` (relative) of
    the first."""
    text = rng.normal(0, shared, (num_windows, 1, 1)) * SHARE
    made = [MEANS * (1 + g) + text + rng.normal(0, own, (num_windows, 6, 1)) * SHARE for g in (gain, 0.0)]
    return made[0], made[1]


def scores(values: np.ndarray, *, fingerprint: str = "f", starts: np.ndarray | None = None) -> PositionScores:
    starts = np.arange(len(values)) * 64 if starts is None else starts
    return PositionScores(fingerprint, values.astype(np.float32), starts // 64, starts)


class TestPairedDifference:
    def test_follows_its_formula(self) -> None:
        first, second = pair(np.random.default_rng(0))
        found = paired_difference(first, second, np.arange(60))
        parts = []
        for values in (first, second):
            mean, windows = values.mean((0, 1)), values.mean(1)
            at = 100 * np.prod(mean) ** 0.25
            parts.append((at, at * (windows / mean).mean(1)))
        assert found.value == pytest.approx(parts[0][0] - parts[1][0])
        error = (parts[0][1] - parts[1][1]).std(ddof=1) / np.sqrt(60)
        assert found.se == pytest.approx(error)
        reach = stats.t.ppf(0.975, 59) * error
        assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach))
        orders = 100 * (first - second).mean(1)
        for n, order in enumerate(found.orders):
            assert order.value == pytest.approx(orders[:, n].mean())
            assert order.se == pytest.approx(orders[:, n].std(ddof=1) / np.sqrt(60))
        assert (found.num_windows, found.num_positions, found.num_clusters) == (60, 360, 60)

    def test_is_far_sharper_than_the_two_errors_added(self) -> None:
        first, second = pair(np.random.default_rng(1), shared=0.1, own=0.02)
        alone = [summarise(values, np.arange(60)).brierlm_se for values in (first, second)]
        found = paired_difference(first, second, np.arange(60))
        assert found.se is not None
        assert found.se < 0.25 * np.hypot(*alone)

    def test_a_run_against_itself_is_exactly_0(self) -> None:
        first, _ = pair(np.random.default_rng(2))
        found = paired_difference(first, first, np.arange(60))
        assert (found.value, found.se, found.low, found.high) == (0.0, 0.0, 0.0, 0.0)
        assert found.verdict == "indistinguishable"
        assert found.positions_needed is None

    def test_swapped_it_is_the_negative(self) -> None:
        first, second = pair(np.random.default_rng(3), gain=0.2)
        one, two = paired_difference(first, second, np.arange(60)), paired_difference(second, first, np.arange(60))
        assert (one.value, one.low, one.high) == pytest.approx((-two.value, -two.high, -two.low))
        assert (one.verdict, two.verdict) == ("better", "worse")

    @pytest.mark.slow
    def test_1000_intervals_cover(self) -> None:
        """Nominal 95 %. Taking windows of one document as independent would give 80 % (second part)."""
        rng, true = np.random.default_rng(4), 100 * np.prod(MEANS) ** 0.25 * 0.1
        covered: list[bool] = []
        for _ in range(1000):
            found = paired_difference(*pair(rng, gain=0.1), np.arange(60))
            covered.append(found.low <= true <= found.high)
        assert 0.93 <= np.mean(covered) <= 0.97
        apart: dict[str, list[bool]] = {"documents": [], "windows": []}
        documents = np.repeat(np.arange(20), 3)
        for _ in range(300):
            first, second = pair(rng, gain=0.1)
            first = first + np.repeat(rng.normal(0, 0.03, (20, 1, 1)), 3, 0) * SHARE
            for name, clusters in (("documents", documents), ("windows", np.arange(60))):
                found = paired_difference(first, second, clusters)
                apart[name].append(found.low <= true <= found.high)
        assert np.mean(apart["documents"]) > 0.92
        assert np.mean(apart["windows"]) < 0.87

    @pytest.mark.slow
    def test_the_correction_widens_and_holds_for_all_together(self) -> None:
        """Ten equal models against one: corrected for 10 comparisons, at most about 5 % of studies claim any."""
        rng, claims = np.random.default_rng(5), []
        for _ in range(300):
            text = rng.normal(0, 0.06, (40, 1, 1)) * SHARE
            models = [MEANS + text + rng.normal(0, 0.05, (40, 4, 1)) * SHARE for _ in range(11)]
            found = [paired_difference(m, models[0], np.arange(40), comparisons=10) for m in models[1:]]
            claims.append(any(f.verdict != "indistinguishable" for f in found))
        assert np.mean(claims) < 0.09

    def test_positions_needed_shows_the_difference_in_four_of_five_studies(self) -> None:
        rng = np.random.default_rng(6)
        pilots = [paired_difference(*pair(rng, gain=0.04), np.arange(60)) for _ in range(200)]
        error = np.mean([p.se for p in pilots if p.se is not None])
        true = 100 * np.prod(MEANS) ** 0.25 * 0.04
        positions = needed(360, float(true), float(error), 59)
        assert positions is not None
        windows = round(positions / 6)
        shown = [
            paired_difference(*pair(rng, windows, gain=0.04), np.arange(windows)).verdict == "better"
            for _ in range(300)
        ]
        assert np.mean(shown) == pytest.approx(POWER, abs=0.07)

    def test_what_documents_share_is_not_averaged_out_by_more_positions(self) -> None:
        rng, clusters = np.random.default_rng(13), np.repeat(np.arange(30), 10)
        first, second = pair(rng, 300, gain=0.03, own=0.02)
        first = first + np.repeat(rng.normal(0, 0.05, (30, 1, 1)), 10, 0) * SHARE
        assert paired_difference(first, second, clusters).positions_needed is None
        assert paired_difference(first, second, np.arange(300)).positions_needed is not None

    def test_one_cluster_says_nothing(self) -> None:
        found = paired_difference(*pair(np.random.default_rng(14), 5, gain=0.5), np.zeros(5, dtype=int))
        assert found.verdict == "indistinguishable"
        assert found.positions_needed is None


class TestWeakOrders:
    """One of the two cannot be told from 0: no delta method, but still an interval that holds."""

    def test_interval_from_the_bounds_of_both(self) -> None:
        strong = evaluations(np.random.default_rng(0), 0.0, 1, 64)[0]
        weak = evaluations(np.random.default_rng(1), -2.5, 1, 64)[0]
        found = paired_difference(strong, weak, np.arange(64))
        assert found.weak == (False, True)
        assert found.se is None
        alone = summarise(strong, np.arange(64))
        reach = stats.t.ppf(1 - 0.025 / 2, 63) * alone.brierlm_se
        assert found.low == pytest.approx(alone.brierlm - reach - upper_bound(weak, np.arange(64), level=0.975))
        assert found.high == pytest.approx(alone.brierlm + reach)
        assert found.verdict == "better"

    def test_two_that_are_both_near_0_are_indistinguishable(self) -> None:
        rng = np.random.default_rng(2)
        found = paired_difference(*evaluations(rng, -2.5, 2, 64), np.arange(64))
        assert found.weak == (True, True)
        assert found.low < 0 < found.high

    @pytest.mark.slow
    def test_covers(self) -> None:
        from tests.suites.simulated_scores import true_brierlm

        rng, true = np.random.default_rng(3), true_brierlm(-1.5) - true_brierlm(-2.0)
        covered = []
        for first, second in zip(evaluations(rng, -1.5, 300, 40), evaluations(rng, -2.0, 300, 40), strict=True):
            found = paired_difference(first, second, np.arange(40))
            covered.append(found.low <= true <= found.high)
        assert np.mean(covered) >= 0.94


class TestAlign:
    def test_windows_are_matched_by_where_they_start(self) -> None:
        first, second = pair(np.random.default_rng(7), 40)
        order = np.random.default_rng(0).permutation(40)
        starts = np.arange(40) * 64
        shared = align([scores(first), scores(second[order], starts=starts[order])], ["a", "b"])
        np.testing.assert_array_equal(shared.values[0], first.astype(np.float32))
        np.testing.assert_array_equal(shared.values[1], second.astype(np.float32))

    def test_only_windows_that_all_have_count(self) -> None:
        first, second = pair(np.random.default_rng(8), 40)
        shared = align([scores(first[:30]), scores(second), scores(second[10:], starts=np.arange(10, 40) * 64)],
                       ["a", "b", "c"])  # fmt: skip
        np.testing.assert_array_equal(shared.starts, np.arange(10, 30) * 64)
        np.testing.assert_array_equal(shared.values[0], first[10:30].astype(np.float32))
        np.testing.assert_array_equal(shared.clusters, np.arange(10, 30))

    def test_other_fingerprints_are_refused_with_what_to_do(self) -> None:
        first, second = pair(np.random.default_rng(9))
        with pytest.raises(RunError, match=r"(?s)a has f, b has g: other text.*--set eval\.NAME=VALUE"):
            align([scores(first), scores(second, fingerprint="g")], ["a", "b"])

    def test_nothing_in_common_is_refused(self) -> None:
        first, second = pair(np.random.default_rng(9), 10)
        with pytest.raises(RunError, match="share 0 evaluated windows, at least 2"):
            align([scores(first), scores(second, starts=np.arange(100, 110) * 64)], ["a", "b"])


def test_every_pair_of_several_better_first() -> None:
    rng = np.random.default_rng(10)
    base, _ = pair(rng)
    runs = {name: scores(base * factor) for name, factor in (("low", 0.8), ("high", 1.2), ("middle", 1.0))}
    found = compare_all(runs)
    assert [(p.first, p.second) for p in found] == [("high", "middle"), ("high", "low"), ("middle", "low")]
    assert all(p.difference.comparisons == 3 and p.difference.verdict == "better" for p in found)


class TestAgainstFloor:
    def test_pairs_the_table_at_the_runs_windows(self) -> None:
        first, second = pair(np.random.default_rng(11), gain=0.3)
        table = FloorScores("f", np.arange(60) * 64, {"bigram": second.astype(np.float32)})
        run = dataclasses.replace(scores(first[20:]), starts=np.arange(20, 60) * 64)
        found = against_floor(run, table, "bigram")
        assert found is not None
        expected = paired_difference(first[20:].astype(np.float32), second[20:].astype(np.float32), run.clusters)
        assert found == expected

    def test_none_where_it_was_scored_elsewhere(self) -> None:
        first, second = pair(np.random.default_rng(12))
        table = FloorScores("f", np.arange(60) * 64, {"bigram": second.astype(np.float32)})
        assert against_floor(scores(first, fingerprint="g"), table, "bigram") is None
        assert against_floor(scores(first), table, "trigram") is None
        assert against_floor(scores(first, starts=np.arange(1, 61) * 64), table, "bigram") is None

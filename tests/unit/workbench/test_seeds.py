"""Training noise against evaluation noise: the split, intervals with both, how many seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from workbench.seeds import SeedNoise, seed_noise, seeds_needed, setting_difference
from workbench.uncertainty import geometric_mean, upper_bound

MEANS = np.array([0.30, 0.12, 0.06, 0.04])
SCALE = 100 * float(np.prod(MEANS) ** 0.25)
"""BrierLM of MEANS: a relative change of all orders by x changes it by SCALE * x."""
CLUSTERS = np.arange(40)


def settings(
    rng: np.random.Generator,
    counts: tuple[int, ...],
    *,
    training: float,
    evaluation: float,
    gain: float = 0.0,
    positions: float = 0.0,
) -> list[list[np.ndarray]]:
    """Settings with so many seeds each. Relative standard deviations: ``training`` of a seed's true score,
    ``evaluation`` of what a window says about one run, ``positions`` of what it says about one setting. ``gain``
    of the first setting over the others."""
    text = rng.normal(0, 0.2, (40, 1, 1))
    made = []
    for index, count in enumerate(counts):
        liking = rng.normal(0, positions, (40, 1, 1))
        level = gain if index == 0 else 0.0
        made.append(
            [
                MEANS
                * (1 + text + liking + level + rng.normal(0, training) + rng.normal(0, evaluation, (40, 1, 1)))
                + rng.normal(0, 1e-3, (40, 3, 4))
                for _ in range(count)
            ]
        )
    return made


class TestSeedNoise:
    @pytest.mark.parametrize(("training", "evaluation"), [(0.04, 0.05), (0.02, 0.3), (0.0, 0.3), (0.05, 0.0)])
    def test_the_variance_is_split_as_it_was_made(self, training: float, evaluation: float) -> None:
        rng, squares = np.random.default_rng(0), []
        for _ in range(60):
            noise = seed_noise(settings(rng, (6, 6, 6), training=training, evaluation=evaluation), CLUSTERS)
            assert noise is not None
            squares.append([noise.sd**2, noise.sd**2 - noise.sd_evaluation**2, noise.sd_evaluation**2])
        total, made, scored = np.mean(squares, 0) / SCALE**2
        expected = np.array([training**2, evaluation**2 / 40])
        assert total == pytest.approx(expected.sum(), rel=0.12)
        assert scored == pytest.approx(expected[1], rel=0.1, abs=2e-6)
        assert made == pytest.approx(expected[0], rel=0.15, abs=0.15 * expected.sum())

    def test_formulas(self) -> None:
        first, second = settings(np.random.default_rng(1), (3, 2), training=0.05, evaluation=0.2)
        noise = seed_noise([first, second, [first[0]]], CLUSTERS)
        assert noise is not None
        scores = [[geometric_mean(v.mean((0, 1))) for v in seeds] for seeds in (first, second)]
        pooled = (2 * np.var(scores[0], ddof=1) + np.var(scores[1], ddof=1)) / 3
        assert noise.sd == pytest.approx(np.sqrt(pooled))
        assert (noise.dof, noise.num_settings) == (3, 2)
        low, high = np.sqrt(3 * pooled / stats.chi2.ppf([0.975, 0.025], 3))
        assert (noise.low, noise.high) == pytest.approx((low, high))
        assert noise.sd_training == pytest.approx(np.sqrt(max(0.0, pooled - noise.sd_evaluation**2)))

    def test_none_where_every_repeated_setting_is_near_0(self) -> None:
        (seeds,) = settings(np.random.default_rng(2), (3,), training=0.1, evaluation=0.1)
        assert seed_noise([[v - np.array([0, 0, 0, 0.06]) for v in seeds]], CLUSTERS) is None

    def test_none_without_a_repeated_setting(self) -> None:
        first, second = settings(np.random.default_rng(2), (1, 1), training=0.1, evaluation=0.1)
        assert seed_noise([first, second], CLUSTERS) is None

    def test_the_same_model_twice_has_no_training_noise(self) -> None:
        (seeds,) = settings(np.random.default_rng(3), (1,), training=0.1, evaluation=0.1)
        noise = seed_noise([[seeds[0], seeds[0]]], CLUSTERS)
        assert noise is not None
        assert (noise.sd, noise.sd_training, noise.sd_evaluation) == (0.0, 0.0, 0.0)


class TestSettingDifference:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("counts", "training", "evaluation", "positions"),
        [
            ((2, 2), 0.0, 0.1, 0.0),
            ((2, 2), 0.03, 0.1, 0.0),
            ((2, 2), 0.03, 0.1, 0.2),
            ((3, 3), 0.05, 0.1, 0.0),
            ((3, 3), 0.01, 0.2, 0.1),
            ((5, 1), 0.02, 0.1, 0.1),
            ((2, 2, 2, 2), 0.03, 0.2, 0.05),
        ],
    )
    def test_intervals_hold_training_and_evaluation_noise(
        self, counts: tuple[int, ...], training: float, evaluation: float, positions: float
    ) -> None:
        """1,000 studies each, two to five seeds: nominal 95 % cover in 93 to 98.5 % (the two parts' own
        half-widths are added in squares, on the safe side where both count)."""
        rng, covered = np.random.default_rng(4), []
        for _ in range(1000):
            made = settings(rng, counts, training=training, evaluation=evaluation, gain=0.05, positions=positions)
            found = setting_difference(made[0], made[1], CLUSTERS, seed_noise(made, CLUSTERS))
            covered.append(found.low <= 0.05 * SCALE <= found.high)
        assert 0.93 <= np.mean(covered) <= 0.985

    def test_evaluation_noise_alone_would_not_cover(self) -> None:
        """What is wrong with comparing two checkpoints and speaking of settings."""
        rng, covered = np.random.default_rng(5), []
        for _ in range(300):
            made = settings(rng, (2, 2), training=0.05, evaluation=0.1)
            found = setting_difference(made[0], made[1], CLUSTERS, None)
            assert not found.training_noise
            covered.append(found.low <= 0 <= found.high)
        assert np.mean(covered) < 0.7

    def test_more_seeds_sharpen_the_training_part_only(self) -> None:
        rng = np.random.default_rng(6)
        widths = []
        for count in (3, 24):
            made = settings(rng, (count, count), training=0.05, evaluation=0.05, positions=0.3)
            found = setting_difference(made[0], made[1], CLUSTERS, seed_noise(made, CLUSTERS))
            widths.append(found.high - found.low)
            assert found.position_sd == pytest.approx(SCALE * 0.3 * np.sqrt(2 / 40), rel=0.4)
        assert widths[1] < widths[0]
        assert widths[1] > 2 * 1.96 * SCALE * 0.3 * np.sqrt(2 / 40) * 0.6

    def test_verdict_and_correction(self) -> None:
        made = settings(np.random.default_rng(7), (4, 4), training=0.01, evaluation=0.05, gain=0.3)
        noise = seed_noise(made, CLUSTERS)
        plain = setting_difference(made[0], made[1], CLUSTERS, noise)
        many = setting_difference(made[0], made[1], CLUSTERS, noise, comparisons=100)
        assert plain.verdict == "better"
        assert setting_difference(made[1], made[0], CLUSTERS, noise).verdict == "worse"
        assert many.low < plain.low
        assert many.high > plain.high

    def test_weak_orders_give_a_wider_interval_from_bounds(self) -> None:
        made = settings(np.random.default_rng(8), (2, 2), training=0.02, evaluation=0.05, gain=0.3)
        near_0 = [v - np.array([0, 0, 0, 0.04]) for v in made[1]]
        noise = seed_noise(made, CLUSTERS)
        found = setting_difference(made[0], near_0, CLUSTERS, noise)
        assert found.weak
        average = np.mean([v.astype(float) for v in near_0], axis=0)
        bound = upper_bound(average, CLUSTERS, level=0.975)
        assert found.low <= geometric_mean(np.mean(made[0], axis=(0, 1, 2))) - bound
        clear = setting_difference(made[0], made[1], CLUSTERS, noise)
        assert found.high - found.low > clear.high - clear.low

    @pytest.mark.slow
    def test_settings_at_0_do_not_make_the_noise_look_small(self) -> None:
        """Two equal settings, and a third that is 0 with every seed: pooled with its scatter of 0, a third of such
        studies would call the equal ones different."""
        rng, claims = np.random.default_rng(10), []
        for _ in range(400):
            made = settings(rng, (2, 2, 3), training=0.05, evaluation=0.05)
            made[2] = [v - np.array([0, 0, 0, 0.06]) for v in made[2]]
            noise = seed_noise(made, CLUSTERS)
            assert noise is not None
            assert (noise.num_settings, noise.dof) == (2, 2)
            claims.append(setting_difference(made[0], made[1], CLUSTERS, noise).verdict != "indistinguishable")
        assert np.mean(claims) < 0.08


class TestSeedsNeeded:
    NOISE = SeedNoise(sd=0.5, low=0.3, high=0.9, sd_training=0.4, sd_evaluation=0.3, dof=10, num_settings=5)

    def test_that_many_seeds_show_the_difference_in_four_of_five_studies(self) -> None:
        num = seeds_needed(self.NOISE, 0.6)
        assert num is not None
        rng = np.random.default_rng(9)
        first, second = rng.normal(0.6, 0.5, (4000, num)), rng.normal(0.0, 0.5, (4000, num))
        shown = stats.ttest_ind(first, second, axis=1).pvalue < 0.05
        assert 0.78 <= shown.mean() <= 0.9
        fewer = stats.ttest_ind(first[:, :-1], second[:, :-1], axis=1).pvalue < 0.05
        assert fewer.mean() < 0.82

    def test_smaller_differences_need_more(self) -> None:
        counts = [seeds_needed(self.NOISE, d) for d in (2.0, 1.0, 0.5, 0.25)]
        assert None not in counts
        assert counts == sorted(counts)  # type: ignore[type-var]

    def test_none_where_the_text_is_the_limit(self) -> None:
        assert seeds_needed(self.NOISE, 0.5, position_sd=0.5) is None
        assert seeds_needed(self.NOISE, 1e-3) is None

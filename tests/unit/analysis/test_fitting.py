from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats  # type: ignore[import-untyped]

from analysis.fitting import Fit, Scatter, decades_beyond, fit
from analysis.power_forms import Power, Saturating, ScoreLaw
from analysis.solving import BEND, huber, minimise
from tests.suites.synthetic_laws import Curve, Design

POWER, BENT = Curve(), Curve(gamma=0.5, score=8.0, level=30.0)


def law_of(curve: Curve) -> ScoreLaw:
    return (Power if np.isinf(curve.level) else Saturating)(curve.middle, curve.score)


def fitted(curve: Curve, design: Design, seed: int, *, num_draws: int = 200) -> Fit:
    costs, scores, errors, run = design.draw(curve, np.random.default_rng([7, seed]))
    law = law_of(curve)
    return fit(law, law.u(costs), scores, se=errors, runs=run, seed=seed, num_draws=num_draws)


def held_at_least(held: list[bool], claimed: float = 0.95) -> bool:
    """Whether so few misses as that, or fewer, happen by chance with 1e-3 or more where ``claimed`` is true."""
    return bool(stats.binom.cdf(sum(held), len(held), claimed) > 1e-3)


class TestSolver:
    @pytest.mark.parametrize("curve", [POWER, BENT])
    def test_replicates_are_those_of_scipy(self, curve: Curve) -> None:
        law, rng = law_of(curve), np.random.default_rng(0)
        costs, scores, _, _ = Design(14, decades=5, outliers=0.1).draw(curve, rng)
        x, sigma = law.u(costs), np.full(14, 0.03)
        y = np.log(scores) + 0.03 * rng.standard_normal((6, 14))
        weights = rng.gamma(2.0, 0.5, size=(6, 14))
        starts = np.tile(law.starts(x, np.log(scores))[0], (6, 1))
        theta, losses = minimise(law, x, y, sigma, weights, starts)
        low, high = ([getattr(p, end) for p in law.parameters] for end in ("low", "high"))
        for r in range(6):
            found = optimize.minimize(
                lambda t, r=r: float((weights[r] * huber((law.log_score(t[None], x)[0] - y[r]) / sigma)).sum()),
                theta[r] + 0.05,
                bounds=list(zip(low, high, strict=True)),
                method="Nelder-Mead",
                options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000, "maxfev": 4000},
            )
            assert losses[r] <= found.fun * (1 + 1e-6)
            np.testing.assert_allclose(theta[r], found.x, rtol=2e-3, atol=2e-3)

    @pytest.mark.parametrize("curve", [POWER, BENT])
    def test_unweighted_it_is_least_squares_with_huber(self, curve: Curve) -> None:
        law = law_of(curve)
        costs, scores, _, _ = Design(14, decades=5, outliers=0.1).draw(curve, np.random.default_rng(1))
        x, y = law.u(costs), np.log(scores)
        theta, losses = minimise(law, x, y, np.full(14, 0.03), np.ones(14), law.starts(x, y))
        best = theta[losses.argmin()]
        low, high = ([getattr(p, end) for p in law.parameters] for end in ("low", "high"))
        found = optimize.least_squares(
            lambda t: (law.log_score(t[None], x)[0] - y) / 0.03, best + 0.02, bounds=(low, high), loss="huber",
            f_scale=BEND, xtol=1e-12, ftol=1e-12, gtol=1e-12,
        )  # fmt: skip
        assert losses.min() == pytest.approx(found.cost, rel=1e-7)
        np.testing.assert_allclose(best, found.x, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("curve", [POWER, BENT])
    def test_jacobian_is_the_derivative(self, curve: Curve) -> None:
        law, x = law_of(curve), np.linspace(-9, 9, 7)
        theta = np.array([[1.2, 0.4, 0.7][: len(law.parameters)]])
        exact = law.jacobian(theta, x)[0]
        for i in range(theta.shape[1]):
            step = np.zeros_like(theta)
            step[0, i] = 1e-6
            slope = (law.log_score(theta + step, x) - law.log_score(theta - step, x))[0] / 2e-6
            np.testing.assert_allclose(exact[:, i], slope, atol=1e-7)

    @pytest.mark.parametrize("curve", [POWER, BENT])
    def test_compute_at_a_score_inverts_the_curve(self, curve: Curve) -> None:
        law, theta = law_of(curve), np.array([[1.5, 0.4, 1.0]])
        theta = theta[:, : len(law.parameters)]
        score = float(np.exp(law.log_score(theta, np.array([1.7]))[0, 0]))
        assert law.log_cost(theta, score)[0] == pytest.approx(1.7 + np.log(curve.middle))
        if not np.isinf(curve.level):
            assert np.isinf(law.log_cost(theta, float(law.level(theta)[0]) * 1.01)[0])

    def test_a_bound_is_not_left(self) -> None:
        law = Saturating(1e13, 4.0)
        costs = np.geomspace(1e11, 1e15, 12)
        found = fit(law, law.u(costs), 4.0 * (costs / 1e13) ** 0.3)  # a pure power: v has no upper end
        assert found.theta[2] <= law.parameters[2].high
        assert "v" in found.unidentified


class TestRecovery:
    @pytest.mark.parametrize("middle", [1e9, 1e13, 1e22])
    @pytest.mark.parametrize("curve", [POWER, BENT])
    def test_exact_data_give_the_exact_curve_at_any_scale(self, curve: Curve, middle: float) -> None:
        moved = Curve(curve.gamma, middle, curve.score, curve.level)
        found = fitted(moved, Design(12, decades=5, between=0.0, se=0.0), 0)
        assert found.theta[:2] == pytest.approx([np.log(curve.score), curve.gamma], abs=1e-4)
        law = found.law
        assert isinstance(law, ScoreLaw)
        if not np.isinf(curve.level):
            assert law.level(found.theta[None])[0] == pytest.approx(curve.level, rel=1e-3)
        assert found.predict(law.u(np.array([3 * middle]))).value[0] == pytest.approx(
            moved.at(3 * middle), rel=1e-4
        )

    def test_thirteen_decades_at_once(self) -> None:
        curve = Curve(gamma=0.12, middle=3e15, score=4.0)
        found = fitted(curve, Design(14, decades=13), 3)
        low, high = found.interval(1)
        assert low < 0.12 < high
        assert high - low < 0.02

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("curve", "design"),
        [
            (POWER, Design(3)),
            (POWER, Design(6, between=0.1)),
            (POWER, Design(9, between=0.0, se=0.05)),
            (POWER, Design(10, points_a_run=5, within=0.01)),
            (BENT, Design(14, decades=5)),
        ],
        ids=["3 runs", "6 runs, noisy", "evaluation noise only", "10 runs x 5 points", "saturating"],
    )
    def test_intervals_hold_the_truth_as_often_as_they_say(self, curve: Curve, design: Design) -> None:
        """The full simulation is tests/bench/fit_coverage.py."""
        exponent, middle = [], []
        for seed in range(60):
            found = fitted(curve, design, seed)
            low, high = found.interval(1)
            exponent.append(low <= curve.gamma <= high)
            seen = found.predict(np.zeros(1))
            middle.append(bool(seen.low[0] <= curve.score <= seen.high[0]))
        assert held_at_least(exponent)
        assert held_at_least(middle)

    def test_intervals_are_no_wider_than_the_noise_asks_for(self) -> None:
        widths = [np.diff(fitted(POWER, Design(24), seed).interval(1))[0] for seed in range(20)]
        u = np.log(10) * 3 * (np.linspace(0, 1, 24) - 0.5)
        wanted = 2 * 2.07 * np.hypot(0.03, 0.01) / np.sqrt((u**2).sum())  # least squares, t of 22
        assert 0.8 * wanted < np.median(widths) < 1.3 * wanted

    def test_seeded(self) -> None:
        one, two = (fitted(BENT, Design(9), 5) for _ in range(2))
        assert one.draws.tobytes() == two.draws.tobytes()


class TestScatter:
    def test_finds_what_is_beyond_the_errors_of_evaluation(self) -> None:
        rng, se = np.random.default_rng(0), np.full(4000, 0.03)
        residuals = np.hypot(0.04, 0.03) * rng.standard_normal(4000)
        assert Scatter(residuals, se, 4000).sd() == pytest.approx(0.04, rel=0.05)
        assert Scatter(0.03 * rng.standard_normal(4000), se, 4000).sd() < 0.01

    def test_an_outlier_hardly_moves_it(self) -> None:
        residuals = 0.03 * np.random.default_rng(1).standard_normal(40)
        clean = Scatter(residuals, np.zeros(40), 38).sd()
        assert Scatter(np.append(residuals, 3.0), np.zeros(41), 39).sd() < 1.2 * clean

    def test_lent_scatter_gives_three_points_a_narrower_interval(self) -> None:
        law, costs = Power(1e13, 4.0), np.geomspace(1e12, 1e14, 3)
        scores = POWER.at(costs) * np.exp([0.02, -0.01, 0.0])
        rest = Scatter(0.02 * np.random.default_rng(2).standard_normal(20), np.zeros(20), 18)
        alone, helped = fit(law, law.u(costs), scores), fit(law, law.u(costs), scores, scatter=rest)
        assert np.diff(helped.interval(1))[0] < 0.5 * np.diff(alone.interval(1))[0]

    def test_nothing_to_pool_is_no_scatter(self) -> None:
        assert Scatter.pooled([Scatter(np.zeros(2), np.zeros(2), 0.0)]).dof == 0


class TestAwkwardData:
    """No error is raised; what the data do not say is said in words."""

    def of(
        self, costs: list[float], scores: list[float], runs: list[str] | None = None, bent: bool = False
    ) -> Fit:
        law: ScoreLaw = (Saturating if bent else Power)(1e13, 4.0)
        return fit(law, law.u(np.array(costs)), scores, runs=runs)

    def test_no_point_at_all(self) -> None:
        found = self.of([], [])
        assert not found.there
        assert found.reason == "there is no point with a score above 0"
        with pytest.raises(ValueError, match="no fit: there is no point"):
            found.predict(np.zeros(1))

    def test_one_point(self) -> None:
        assert "needs as many different places; the 1 point lies at one" in self.of([1e12], [3.0]).reason

    def test_all_at_one_cost(self) -> None:
        assert "the 4 points lie at one" in self.of([1e12] * 4, [3.0, 3.1, 3.0, 2.9]).reason
        near = [5.91e4, 5.92e4, 5.93e4, 5.94e4]  # of which two lie on both sides of a rounding
        assert "the 4 points lie at one" in self.of(near, [3.0, 3.1, 3.0, 2.9]).reason
        assert "at one" not in self.of([5.91e4, 5.93e4, 6.1e4, 6.1e4], [3.0, 3.1, 3.0, 2.9]).reason

    def test_as_many_points_as_parameters_have_no_interval(self) -> None:
        found = self.of([1e12, 1e13], [2.0, 4.0])
        assert found.there
        assert not found.has_interval
        assert found.unidentified == ["h", "γ"]
        assert found.notes == (
            "no interval: 2 points for 2 parameters leave none to tell how far single runs scatter",
        )
        assert np.isnan(found.predict(np.zeros(1)).low[0])

    def test_all_in_one_run(self) -> None:
        costs = np.geomspace(1e11, 1e14, 12)
        found = self.of(costs.tolist(), POWER.at(costs).tolist(), ["a"] * 12)
        assert found.notes == (
            "no interval: all points are of one run, and points of one run go up and down together",
        )
        assert "γ" in found.unidentified

    def test_two_runs_of_many_points(self) -> None:
        costs = np.geomspace(1e11, 1e14, 12)
        found = self.of(costs.tolist(), POWER.at(costs).tolist(), ["a"] * 6 + ["b"] * 6)
        assert "the points are of 2 runs only" in found.notes[0]

    def test_zeros_and_not_a_numbers_are_left_out_and_counted(self) -> None:
        costs = np.geomspace(1e11, 1e14, 8)
        scores = POWER.at(costs)
        scores[0], scores[3] = 0.0, np.nan
        found = self.of(costs.tolist(), scores.tolist())
        assert found.num_points == 6
        assert found.notes[0] == "2 points left out: no score above 0, or no place"
        assert found.theta[1] == pytest.approx(POWER.gamma, abs=1e-3)

    def test_all_zero(self) -> None:
        found = self.of([1e11, 1e12], [0.0, 0.0])
        assert found.reason == "there is no point with a score above 0"
        assert "2 points left out" in found.notes[0]

    def test_ties_are_flat_and_not_a_growth(self) -> None:
        found = self.of(np.geomspace(1e11, 1e14, 8).tolist(), [3.0] * 8)
        low, high = found.interval(1)
        assert low <= 0 <= high

    def test_seeds_at_the_same_cost_count_as_runs(self) -> None:
        costs = np.repeat(np.geomspace(1e11, 1e14, 3), 3)
        noise = 0.03 * np.random.default_rng(3).standard_normal(9)
        found = self.of(costs.tolist(), (POWER.at(costs) * np.exp(noise)).tolist())
        assert found.num_runs == 9
        assert found.identified(1)

    def test_an_outlier_hardly_moves_the_curve(self) -> None:
        costs = np.geomspace(1e11, 1e14, 12)
        noise = np.exp(0.02 * np.random.default_rng(4).standard_normal(12))
        scores = POWER.at(costs) * noise
        clean = self.of(costs.tolist(), scores.tolist())
        scores[-1] /= 5
        spoilt = self.of(costs.tolist(), scores.tolist())
        plain = np.polyfit(np.log(costs), np.log(scores), 1)[0]
        assert abs(spoilt.theta[1] - clean.theta[1]) < 0.02 < abs(plain - clean.theta[1])

    def test_a_hump_is_not_taken_for_growth(self) -> None:
        costs = np.geomspace(1e11, 1e14, 9)
        scores = [1.0, 2.0, 3.0, 4.0, 4.5, 4.0, 3.0, 2.0, 1.0]
        for bent in (False, True):
            found = self.of(costs.tolist(), scores, bent=bent)
            low, high = found.interval(1)
            assert low <= 0 or "γ" in found.unidentified
            assert np.isfinite(found.predict(np.zeros(1)).value[0])
            assert low < high

    def test_saturation_that_is_not_seen_is_not_identified(self) -> None:
        costs, law = np.geomspace(1e11, 1e14, 12), Saturating(3e12, 3.0)
        noise = np.exp(0.03 * np.random.default_rng(5).standard_normal(12))
        found = fit(law, law.u(costs), Curve(middle=3e12, score=3.0).at(costs) * noise)
        assert "v" in found.unidentified

    def test_a_place_twice_is_singular_for_three_parameters(self) -> None:
        found = self.of([1e12, 1e12, 1e13, 1e13], [2.0, 2.1, 4.0, 4.1], bent=True)
        assert not found.there
        assert "3 parameters and needs as many different places; the 4 points lie at 2" in found.reason


def test_decades_beyond() -> None:
    assert decades_beyond(1e14, 1e11, 1e13) == pytest.approx(1.0)
    assert decades_beyond(1e9, 1e11, 1e13) == pytest.approx(2.0)
    assert decades_beyond(1e12, 1e11, 1e13) == 0


def test_criterion_prefers_the_true_form() -> None:
    right = 0
    for seed in range(10):
        costs, scores, errors, _ = Design(16, decades=6).draw(BENT, np.random.default_rng(seed))
        laws = [Power(BENT.middle, 8.0), Saturating(BENT.middle, 8.0)]
        tau = fit(laws[1], laws[1].u(costs), scores, se=errors, num_draws=0).tau
        one, two = (fit(law, law.u(costs), scores, se=errors, tau=tau, num_draws=0).aicc for law in laws)
        right += two < one
    assert right == 10

"""The joint law on made data: the form, its parameters, its choice of K, and data that cannot carry it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import special

from analysis.joint_forms import FORMS, Middle, chunk_size_of, log_sum_exp, make_law
from analysis.joint_law import CLOSE, Candidate, JointLaw, choose, fit_joint, held_out_predictions, largest_sizes
from analysis.law_fit import bootstrap_weights, fit_law, make_data, starts_of
from analysis.scaling_points import BASELINE, choose_points
from analysis.solving import BEND
from tests.suites.synthetic_scaling import CHUNKS, Plan, Truth, cost_per_token, evaluations

TRUTH = Truth()


@pytest.fixture(scope="module")
def exact() -> JointLaw:
    return fit_joint(evaluations(TRUTH, Plan(noise=0.0)), num_draws=20)


@pytest.fixture(scope="module")
def noisy() -> JointLaw:
    return fit_joint(evaluations(TRUTH, seed=1), num_draws=40)


@pytest.mark.parametrize("shape", [(1, 7), (2, 30), (4, 60, 27), (3, 5, 1)])
def test_sums_of_exponentials_are_scipys_to_the_last_bit(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-9, 0.1, 3.0, 400.0):
        lines = scale * rng.normal(size=shape)
        lines[0, ..., 0] = lines[-1, ..., 0]  # equally large
        np.testing.assert_array_equal(log_sum_exp(lines), special.logsumexp(lines, axis=0))
    lines[0, ..., 0], lines[:, ..., -1] = np.inf, -np.inf
    np.testing.assert_array_equal(log_sum_exp(lines), special.logsumexp(lines, axis=0))
    lines[0] = np.nan
    np.testing.assert_array_equal(log_sum_exp(lines), special.logsumexp(lines, axis=0))


class TestForms:
    @pytest.mark.parametrize("name", FORMS)
    def test_the_jacobian_is_the_derivative(self, name: str) -> None:
        points = choose_points(evaluations(TRUTH)).points.calm
        for of_loss in (False, True):
            law = make_law(FORMS[name], points.chunk_sizes, Middle.of(points), of_loss=of_loss)
            design = law.design(points.num_parameters, points.tokens, chunk_size_of(points))
            theta = starts_of(law)[:3] + 0.1 * np.random.default_rng(0).standard_normal((3, len(law.names)))
            step = 1e-6
            for p in range(len(law.names)):
                up, down = theta.copy(), theta.copy()
                up[:, p] += step
                down[:, p] -= step
                numeric = (law.log_score(up, design) - law.log_score(down, design)) / (2 * step)
                np.testing.assert_allclose(law.jacobian(theta, design)[..., p], numeric, rtol=1e-5, atol=1e-7)

    def test_bottleneck_is_kaplans_equation(self) -> None:
        """[(A K^c / N)^(a/b) + B K / D]^b, written out."""
        points = choose_points(evaluations(TRUTH)).points.calm
        law = make_law(FORMS["bottleneck"], points.chunk_sizes, Middle(0.0, 0.0))
        value = {"A": 1.2, "A_K": 0.3, "A_KK": 0.1, "a": 0.4, "B": 2.0, "b": 0.25}
        theta = np.array([value[name] for name in law.names])
        n, d, k = 2e5, 3e6, 4.0
        x = math.log(k)
        size = math.exp((1.2 + 0.3 * x + 0.1 * x * x) / 0.25) * n ** (-0.4 / 0.25)
        data = math.exp(2.0 / 0.25) * k / d
        wanted = 100 * math.exp(-((size + data) ** 0.25))
        assert float(law.score(theta, np.array(n), np.array(d), k)) == pytest.approx(wanted, rel=1e-9)

    def test_scores_keep_within_0_and_100(self) -> None:
        points = choose_points(evaluations(TRUTH)).points.calm
        for form in FORMS.values():
            law = make_law(form, points.chunk_sizes, Middle.of(points))
            for theta in starts_of(law):
                n, d = np.array([1.0, 1e3, 1e12]), np.array([1.0, 1e14, 1e9])
                score = law.score(theta, n, d, 4.0)
                assert ((score >= 0) & (score <= 100)).all()

    def test_parameters_of_k_need_values_of_k(self) -> None:
        middle = Middle(0.0, 0.0)
        assert make_law(FORMS["additive"], [], middle).names == ("E", "A", "a", "B", "b")
        assert make_law(FORMS["additive"], [2, 4], middle).names == ("E", "E_K", "A", "A_K", "a", "B", "B_K", "b")
        assert "A_KK" in make_law(FORMS["additive"], [1, 2, 4], middle).names


class TestRecovery:
    @pytest.mark.slow
    def test_without_noise_the_true_form_and_its_parameters(self, exact: JointLaw) -> None:
        assert exact.chosen is not None
        assert exact.chosen.form.name == "additive"
        fit = exact.chosen.fit
        assert fit is not None
        middle = fit.law.middle
        (e, e_k), (s, s_k, s_kk, a), (t, t_k, b) = TRUTH.floor, TRUTH.size, TRUTH.data
        wanted = {"E": e, "E_K": e_k, "A": s - a * middle.log_n, "A_K": s_k, "A_KK": s_kk, "a": a}
        wanted |= {"B": t - b * middle.log_d, "B_K": t_k, "b": b}
        for name, value in wanted.items():
            assert fit.theta[fit.law.names.index(name)] == pytest.approx(value, abs=0.01), name

    def test_the_baseline_has_calms_exponents(self, exact: JointLaw) -> None:
        assert exact.shared_exponents is True
        assert exact.baseline is not None
        assert exact.baseline.tied == ("a", "b")
        for budget in (1e12, 1e14):
            found = exact.best(BASELINE, budget)
            assert found is not None
            assert found.score[0] == pytest.approx(TRUTH.best(budget, [0])[2], rel=0.01)

    def test_a_baseline_with_exponents_of_its_own_is_told(self) -> None:
        frame = evaluations(TRUTH, Plan(noise=0.005))
        base = frame["kind"] == "baseline"
        n, d = (frame.loc[base, name].astype(float) for name in ("model_parameters", "tokens"))
        frame.loc[base, "brierlm"] = 100 * np.exp(-(0.3 + 3000.0 * n**-0.7 + 30.0 * d**-0.2))
        law = fit_joint(frame, num_draws=20, forms=("additive",))
        assert law.shared_exponents is False
        assert law.baseline is not None
        assert law.baseline.theta[law.baseline.law.names.index("a")] == pytest.approx(0.7, abs=0.1)

    def test_best_size_score_and_k(self, exact: JointLaw) -> None:
        for budget in (1e12, 9e12, 1e16, 1e18):
            best, _, _, scores = TRUTH.best(budget)
            found = {k: exact.best(k, budget) for k in CHUNKS}
            for k, optimum in found.items():
                assert optimum is not None
                assert optimum.score[0] == pytest.approx(scores[k], rel=0.01)
                assert not optimum.at_edge[0]
                spent = cost_per_token(optimum.num_parameters, k) * optimum.tokens
                np.testing.assert_allclose(spent, budget, rtol=1e-6)
            assert max(CHUNKS, key=lambda k: found[k].score[0]) == best  # type: ignore[union-attr]

    @pytest.mark.slow
    def test_with_noise_intervals_hold_the_truth_in_most_tables(self) -> None:
        """tests/bench/scaling_coverage.py has the coverage over many tables (95 %). Here one score of 12 tables
        (all scores of one table err together); honest intervals miss more than 3 once in 400."""
        held = []
        for seed in range(12):
            law = fit_joint(evaluations(TRUTH, seed=seed), num_draws=60, forms=("additive",))
            optimum, truth = law.best(2, 3e12), TRUTH.best(3e12)[3][2]
            assert optimum is not None
            low, high = np.percentile(optimum.score[1:], (2.5, 97.5))
            assert high - low < 0.1 * truth  # it says something
            held.append(low <= truth <= high)
        assert sum(held) >= 9

    @pytest.mark.slow
    def test_the_same_twice(self, noisy: JointLaw) -> None:
        again = fit_joint(evaluations(TRUTH, seed=1), num_draws=40)
        assert again.chosen is not None
        assert noisy.chosen is not None
        assert again.chosen.fit is not None
        assert noisy.chosen.fit is not None
        np.testing.assert_array_equal(again.chosen.fit.draws, noisy.chosen.fit.draws)

    @pytest.mark.slow
    def test_the_order_of_rows_does_not_matter(self, noisy: JointLaw) -> None:
        shuffled = evaluations(TRUTH, seed=1).sample(frac=1.0, random_state=3)
        again = fit_joint(shuffled, num_draws=5)
        assert again.chosen is not None
        assert noisy.chosen is not None
        assert again.chosen.form.name == noisy.chosen.form.name
        first, second = noisy.best(4, 1e13), again.best(4, 1e13)
        assert first is not None
        assert second is not None
        assert second.score[0] == pytest.approx(first.score[0], rel=1e-3)

    @pytest.mark.slow
    def test_outliers_hardly_move_it(self) -> None:
        clean = fit_joint(evaluations(TRUTH, Plan(noise=0.01)), num_draws=0, forms=("additive",))
        plan = Plan(noise=0.01, spoil={7: 0.3, 20: 2.5, 41: 0.5})
        spoilt = fit_joint(evaluations(TRUTH, plan), num_draws=0, forms=("additive",))
        for k in CHUNKS:
            for law in (clean, spoilt):
                assert law.chosen is not None
                assert law.chosen.fit is not None
            one, other = (
                law.chosen.fit.law.score(law.chosen.fit.theta, np.array(2e5), np.array(5e6), k)  # type: ignore[union-attr]
                for law in (clean, spoilt)
            )
            assert float(other) == pytest.approx(float(one), rel=0.03)


class TestChoice:
    def test_by_held_out_error_then_aicc(self) -> None:
        frame = evaluations(TRUTH)
        law = fit_joint(frame, num_draws=5, forms=("additive", "power"))
        good, bad = law.candidates
        assert good.held_out < bad.held_out / CLOSE
        assert choose([good, bad]) is good
        level = Candidate(bad.form, bad.fit, held_out=good.held_out * 1.05)  # level: AICc decides
        assert choose([good, level]) is good
        better = Candidate(bad.form, bad.fit, held_out=good.held_out / 2)
        assert choose([good, better]) is better
        unknown = [Candidate(c.form, c.fit) for c in (bad, good)]  # nothing held out
        assert choose(unknown) is unknown[1]
        assert choose([]) is None

    def test_only_the_largest_sizes_are_held_out(self, noisy: JointLaw) -> None:
        held = noisy.held_out
        assert set(noisy.points.num_parameters[held]) == {3.5e5}
        predicted = held_out_predictions(noisy)
        calm = noisy.points.calm
        assert np.isfinite(predicted).sum() == (calm.num_parameters > 3e5).sum()
        assert noisy.chosen is not None
        unseen = np.isfinite(predicted)
        error = np.log(predicted[unseen] / calm.score[unseen])
        assert float(np.sqrt(np.mean(error**2))) == pytest.approx(noisy.chosen.held_out, rel=0.05)

    def test_with_two_sizes_nothing_is_held_out(self) -> None:
        law = fit_joint(evaluations(TRUTH, Plan(sizes=(5e4, 3.5e5))), num_draws=5)
        assert not law.held_out.any()
        assert law.chosen is not None
        assert math.isnan(law.chosen.held_out)
        assert not largest_sizes(law.points.take(law.points.family == 4)).any()

    @pytest.mark.slow
    def test_the_true_form_wins_among_exponents(self) -> None:
        """Data made by another form are told from the additive one."""
        points = choose_points(evaluations(TRUTH)).points
        law = make_law(FORMS["exponents"], CHUNKS, Middle.of(points.calm))
        value = {"E": -0.7, "A": 0.2, "A_K": 0.5, "a": 0.25, "a_K": 0.12, "B": 0.1, "B_K": 0.05, "b": 0.3}
        theta = np.array([value[name] for name in law.names])
        frame = evaluations(TRUTH, Plan(baseline=False))
        n, d, k = (frame[name].to_numpy(dtype=float) for name in ("model_parameters", "tokens", "K"))
        noise = np.exp(0.02 * np.random.default_rng(5).standard_normal(len(frame)))
        frame["brierlm"] = law.score(theta, n, d, k) * noise
        found = fit_joint(frame, num_draws=5)
        assert found.chosen is not None
        assert found.chosen.form.name == "exponents"


class TestAwkward:
    def fails(self, frame: pd.DataFrame) -> str:
        law = fit_joint(frame, num_draws=5)
        assert law.chosen is None
        assert law.best(4, 1e13) is None
        return law.reason

    def test_one_size(self) -> None:
        assert "at least two model sizes" in self.fails(evaluations(TRUTH, Plan(sizes=(1e5,))))

    def test_one_budget(self) -> None:
        assert "at least two amounts of data" in self.fails(evaluations(TRUTH, Plan(budgets=(1e12,))))

    def test_few_points(self) -> None:
        plan = Plan(sizes=(5e4, 3e5), budgets=(1e12, 3e12), chunks=(2,))
        assert "needs" in self.fails(evaluations(TRUTH, plan))

    def test_everything_at_zero(self) -> None:
        frame = evaluations(TRUTH).assign(brierlm=0.0)
        assert "there are none" in self.fails(frame)
        assert "0 or only a bound" in fit_joint(frame).notes[0]

    def test_no_rows(self) -> None:
        assert "there are none" in self.fails(evaluations(TRUTH).iloc[:0])

    def test_bounds_are_no_values(self) -> None:
        frame = evaluations(TRUTH)
        frame.loc[[0, 1, 2], "weak_orders"] = "4"
        law = fit_joint(frame, num_draws=5, forms=("additive",))
        assert len(law.points) == len(frame) - 3
        assert law.notes[0].startswith("3 points left out")

    def test_one_k_is_a_law_in_size_and_data(self) -> None:
        law = fit_joint(evaluations(TRUTH, Plan(chunks=(4,))), num_draws=20, forms=("additive",))
        assert law.chosen is not None
        assert law.chosen.fit is not None
        assert law.chosen.fit.law.names == ("E", "A", "a", "B", "b")

    def test_ties_and_repeats(self) -> None:
        frame = evaluations(TRUTH, Plan(noise=0.0, seeds=2))
        law = fit_joint(frame, num_draws=20, forms=("additive",))
        found = law.best(2, 1e12)
        assert found is not None
        assert found.score[0] == pytest.approx(TRUTH.best(1e12)[3][2], rel=0.01)

    def test_scores_that_fall_with_compute(self) -> None:
        """Non-monotone curves: no law fits, nothing breaks, points off the law and the held-out error say so."""
        frame = evaluations(TRUTH)
        last = frame["train_flops"] == frame["train_flops"].max()
        frame.loc[last, "brierlm"] *= 0.2
        law = fit_joint(frame, num_draws=20, forms=("additive",))
        assert law.chosen is not None
        assert law.chosen.fit is not None
        assert np.isfinite(law.chosen.fit.draws).all()
        assert law.chosen.fit.num_off >= 6  # half of the twelve points that were spoilt
        assert law.chosen.held_out > 0.3

    def test_a_wide_range_of_scales(self) -> None:
        """1e9 to 1e22 FLOPs."""
        sizes, budgets = tuple(np.geomspace(1e4, 1e10, 5)), tuple(np.geomspace(1e11, 1e22, 6))
        frame = evaluations(TRUTH, Plan(sizes=sizes, budgets=budgets))
        frame = frame[(frame["brierlm"] > 1e-3) & (frame["tokens"] > 1e3)]
        law = fit_joint(frame, num_draws=20, forms=("additive",))
        assert law.chosen is not None
        assert law.chosen.fit is not None
        fit = law.chosen.fit
        assert fit.theta[fit.law.names.index("a")] == pytest.approx(0.33, rel=0.05)
        assert fit.theta[fit.law.names.index("b")] == pytest.approx(0.30, rel=0.05)

    def test_other_heads_and_checks_are_left_out(self) -> None:
        frame = evaluations(TRUTH)
        flow = frame.iloc[:4].assign(head="flow", run_id=["a", "b", "c", "d"])
        check = frame.iloc[:2].assign(role="check", run_id=["e", "f"])
        chosen = choose_points(pd.concat([frame, flow, check]))
        assert len(chosen.points) == len(frame)
        assert chosen.head == "energy"
        assert "heads" in chosen.notes[0]

    def test_one_latent_a_k(self) -> None:
        frame = evaluations(TRUTH)
        four = frame[frame["K"] == 4].copy()
        worse = four.assign(
            latent_dim=8, brierlm=0.5 * four["brierlm"], run_id=[f"w{i}" for i in range(len(four))]
        )
        chosen = choose_points(pd.concat([frame, worse]))
        own = chosen.points.take(chosen.points.family == 4)
        assert set(own.latent_dim) == {64.0}
        assert any("latent dimensions 64 is kept" in note for note in chosen.notes)


def test_bootstrap_weights_have_the_variance_that_degrees_of_freedom_ask_for() -> None:
    points = choose_points(evaluations(TRUTH, Plan(noise=0.0))).points.calm
    law = make_law(FORMS["additive"], points.chunk_sizes, Middle.of(points))
    data = make_data(law, points)
    weights = bootstrap_weights(data, 9, 4000, seed=0) / data.weights
    assert weights.mean() == pytest.approx(1.0, abs=0.02)
    assert weights.var() == pytest.approx(48 / 39 * (2.0227 / 1.959964) ** 2, rel=0.05)


def test_runs_and_not_points_are_resampled() -> None:
    frame = evaluations(TRUTH)
    doubled = pd.concat([frame, frame])  # two checkpoints of each run: no new information
    points = choose_points(doubled).points.calm
    law = make_law(FORMS["additive"], points.chunk_sizes, Middle.of(points))
    data = make_data(law, points)
    assert data.num_runs == 48
    weights = bootstrap_weights(data, 9, 3, seed=0) / data.weights
    for run in range(48):
        own = weights[:, data.run == run]
        assert own.shape == (3, 2)
        np.testing.assert_allclose(own[:, 0], own[:, 1])
    fit = fit_law(law, points, BEND * 0.03, num_draws=5)
    assert fit.num_runs == 48
    assert fit.num_points == 96

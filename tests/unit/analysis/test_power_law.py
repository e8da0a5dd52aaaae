from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from analysis.plots_power_law import curves_figure
from analysis.power_law import PowerLaws, envelope, fit_power_laws
from analysis.style import house_style
from analysis.tables_power_law import NOT_IDENTIFIED, curve_sentence, law_sentences, power_law_table
from tests.suites.synthetic_laws import Curve, Design, evaluations

CURVES: Mapping[str, Curve] = {
    "token baseline": Curve(0.30, score=4.0),
    "K = 1": Curve(0.25, score=2.5),
    "K = 4": Curve(0.35, score=5.0),
}


@pytest.fixture(scope="module")
def laws() -> PowerLaws:
    """Three sizes at each of four budgets, as the study of scaling has them."""
    return fit_power_laws(evaluations(CURVES, Design(4, decades=2), sizes=(0.0, 0.1, 0.2)))


class TestFamilies:
    def test_each_has_the_curve_that_made_it(self, laws: PowerLaws) -> None:
        assert [curve.family for curve in laws.curves] == ["K = 1", "K = 4", "token baseline"]
        for curve in laws.curves:
            truth = CURVES[curve.family]
            assert curve.fit.theta[1] == pytest.approx(truth.gamma, abs=0.03)
            assert curve.at([truth.middle]).value[0] == pytest.approx(truth.score, rel=0.05)

    @pytest.mark.slow
    def test_intervals_hold_the_truth_as_often_as_they_say(self) -> None:
        """Of whole tables with choice of size and pooled scatter; in full: tests/bench/fit_coverage.py."""
        missed = 0
        for seed in range(20):
            table = evaluations(CURVES, Design(4, decades=2), sizes=(0.0, 0.1, 0.2), seed=100 + seed)
            curve = fit_power_laws(table, num_draws=200).of("K = 4")
            assert curve is not None
            low, high = curve.fit.interval(1)
            missed += not low <= CURVES["K = 4"].gamma <= high
        assert missed <= 5  # 6 or more of 20 at 95 % have a chance of 3e-4

    def test_the_best_size_of_each_budget_carries_the_curve(self, laws: PowerLaws) -> None:
        for curve in laws.curves:
            assert len(curve.points) == 4
            assert len(curve.others) == 8
        assert any("best of up to 3 settings" in note for note in laws.notes)

    def test_a_column_may_name_the_family(self) -> None:
        rows = evaluations(CURVES, Design(4)).assign(corpus="code")
        found = fit_power_laws(rows, family="corpus", num_draws=10)
        assert [curve.family for curve in found.curves] == ["code"]

    def test_scatter_is_lent_between_families(self) -> None:
        """Three runs each have one degree of freedom, five families together five."""
        curves = {**CURVES, "K = 2": Curve(0.3, score=3.5), "K = 8": Curve(0.3, score=3.0)}
        rows = evaluations(curves, Design(3), seed=1)
        alone = fit_power_laws(rows[rows["kind"] == "baseline"]).curves[0]
        together = fit_power_laws(rows).of("token baseline")
        assert together is not None
        assert np.diff(together.fit.interval(1))[0] < np.diff(alone.fit.interval(1))[0]

    def test_the_same_table_gives_the_same_curves(self, laws: PowerLaws) -> None:
        again = fit_power_laws(evaluations(CURVES, Design(4, decades=2), sizes=(0.0, 0.1, 0.2)))
        for one, two in zip(laws.curves, again.curves, strict=True):
            assert one.fit.draws.tobytes() == two.fit.draws.tobytes()

    def test_saturation_is_found_where_it_is(self) -> None:
        truth = Curve(0.5, score=8.0, level=20.0)
        curve = fit_power_laws(evaluations({"K = 4": truth}, Design(16, decades=6))).curves[0]
        level = curve.level()
        assert level is not None
        assert level[1] < 20 < level[2]
        assert "levels off at BrierLM" in curve_sentence(curve)

    @pytest.mark.slow
    def test_no_saturation_is_made_up(self) -> None:
        bent = 0
        for seed in range(10):
            found = fit_power_laws(evaluations(CURVES, Design(8), seed=seed), num_draws=0)
            bent += sum(curve.saturates for curve in found.curves)
        assert bent <= 4  # of 30; the criterion asks for 2 more than a parameter costs

    def test_extrapolation_is_measured(self, laws: PowerLaws) -> None:
        curve = laws.curves[0]
        assert curve.decades_beyond(curve.range[1] * 100) == pytest.approx(2.0)
        assert curve.decades_beyond(curve.range[0]) == 0


class TestEnvelope:
    def frame(self, rows: list[tuple[float, float, float, float]]) -> pd.DataFrame:
        names = ["train_flops", "brierlm", "brierlm_se", "model_parameters"]
        frame = pd.DataFrame(rows, columns=names)
        return frame.assign(run_id=[f"r{i}" for i in range(len(frame))])

    def test_one_setting_a_budget_with_all_its_seeds(self) -> None:
        rows = [(1e12, 3.0, 0.1, 1e5), (1.01e12, 3.2, 0.1, 1e5), (1.02e12, 3.15, 0.1, 2e5)]
        mask, most = envelope(self.frame(rows), "train_flops")
        assert mask.tolist() == [False, False, True]  # one seed of the first is higher, its mean is not
        assert most == 2

    def test_below_the_frontier_beyond_the_error(self) -> None:
        rows = [(1e12, 3.0, 0.05, 1e5), (4e12, 2.9, 0.05, 2e5), (5e12, 2.0, 0.05, 2e5)]
        assert envelope(self.frame(rows), "train_flops")[0].tolist() == [True, True, False]

    def test_what_an_unlucky_run_of_the_same_setting_scores_stays(self) -> None:
        rows = [(1e12, 3.0, 0.05, 1e5), (5e12, 2.0, 0.05, 1e5)]
        assert envelope(self.frame(rows), "train_flops")[0].all()

    def test_without_errors_nothing_is_beaten(self) -> None:
        rows = [(1e12, 3.0, math.nan, 1e5), (5e12, 2.0, math.nan, 2e5)]
        assert envelope(self.frame(rows), "train_flops")[0].all()

    def test_close_checkpoints_are_no_single_budget(self) -> None:
        rows = [(1e12 * 1.02**i, 1.0 + 0.1 * i, 0.01, 1e5 * 3**i) for i in range(30)]
        assert envelope(self.frame(rows), "train_flops")[0].sum() >= 9


class TestWhatIsSaid:
    def test_growth_without_saturation(self, laws: PowerLaws) -> None:
        said = curve_sentence(laws.curves[0])
        assert said.startswith("K = 1 (4 points of 4 runs, 1.00×10¹² to 1.00×10¹⁴ FLOPs): no saturation seen;")
        assert "BrierLM grows as C^0.2" in said

    def test_no_digits_of_an_exponent_that_is_not_known(self) -> None:
        rows = evaluations({"K = 4": Curve()}, Design(3, decades=0.3, between=0.4), seed=3)
        found = fit_power_laws(rows)
        assert "the growth exponent is not identified" in curve_sentence(found.curves[0])
        table = power_law_table(found)
        assert table is not None
        assert table.rows[0][4] == NOT_IDENTIFIED

    def test_one_run_of_many_points(self) -> None:
        rows = evaluations({"K = 4": Curve()}, Design(1, decades=0, points_a_run=8))
        found = fit_power_laws(rows)
        assert "a curve without an interval. No interval: all points are of one run" in curve_sentence(
            found.curves[0]
        )
        table = power_law_table(found)
        assert table is not None
        assert table.rows[0][4] == NOT_IDENTIFIED

    def test_one_point(self) -> None:
        found = fit_power_laws(evaluations({"K = 4": Curve()}, Design(1)))
        assert curve_sentence(found.curves[0]) == (
            "K = 4: no curve, since power has 2 parameters and needs as many different places; "
            "the 1 point lies at one."
        )

    def test_flat_scores(self) -> None:
        rows = evaluations({"K = 4": Curve(gamma=1e-9)}, Design(9))
        assert "do not say whether BrierLM grows" in curve_sentence(fit_power_laws(rows).curves[0])

    def test_zeros_and_bounds_are_left_out_and_their_bias_is_said(self) -> None:
        rows = evaluations({"K = 4": Curve()}, Design(9))
        rows.loc[0, "brierlm"], rows.loc[1, "weak_orders"] = 0.0, "4"
        found = fit_power_laws(rows)
        assert len(found.curves[0].points) == 7
        said = law_sentences(found)
        assert "2 of the points left out: their BrierLM is 0 or only a bound." in said
        assert any("those that remain are the lucky ones" in text for text in said)

    def test_all_scores_zero(self) -> None:
        rows = evaluations(CURVES, Design(4)).assign(brierlm=0.0)
        found = fit_power_laws(rows)
        assert not found.curves
        assert power_law_table(found) is None
        assert found.notes == ["All 12 points are left out: none has a BrierLM that is more than a bound."]

    def test_nothing(self) -> None:
        found = fit_power_laws(evaluations(CURVES, Design(4)).iloc[:0])
        assert law_sentences(found) == []

    def test_another_text_is_not_mixed_in(self) -> None:
        rows = evaluations(CURVES, Design(4))
        rows.loc[rows["K"] == 1, "fingerprint"] = "other"
        found = fit_power_laws(rows, num_draws=10)
        assert found.of("K = 1") is None
        assert "4 points were scored on other text or positions and are left out." in found.notes

    def test_unknown_cost_is_an_error_of_the_caller(self) -> None:
        with pytest.raises(ValueError, match="cost must be a column"):
            fit_power_laws(evaluations(CURVES, Design(3)), cost="time")

    @pytest.mark.slow
    @pytest.mark.parametrize("middle", [1e9, 1e22])
    def test_scales(self, middle: float) -> None:
        curve = fit_power_laws(evaluations({"K = 4": Curve(0.2, middle=middle)}, Design(9))).curves[0]
        exponent = curve.exponent()
        assert exponent is not None
        assert exponent[1] < 0.2 < exponent[2]

    def test_a_hump_does_not_grow(self) -> None:
        rows = evaluations({"K = 4": Curve()}, Design(9, se=0.0))
        rows["brierlm"] = [1.0, 2.0, 3.0, 4.0, 4.5, 4.0, 3.0, 2.0, 1.0]
        rows["brierlm_se"] = math.nan
        curve = fit_power_laws(rows).curves[0]
        assert not curve.grows

    def test_bootstrap_weighs_no_score_of_other_schedules(self) -> None:
        rows = evaluations(CURVES, Design(4))
        mixed = pd.concat([rows, rows.head(2).assign(phase="constant")], ignore_index=True)
        found = fit_power_laws(mixed, num_draws=10)
        assert found.kind == "decayed"
        assert "2 points of the other kind, which has a frontier of its own." in found.notes


class TestFigure:
    @pytest.mark.slow
    def test_same_bytes(self, laws: PowerLaws) -> None:
        with house_style():
            one, two = curves_figure(laws), curves_figure(laws)
        assert one is not None
        assert two is not None
        assert one.svg == two.svg
        assert one.name == "power-law-train-flops"
        assert "K = 4" in one.svg

    def test_none_without_a_curve(self) -> None:
        with house_style():
            assert curves_figure(fit_power_laws(evaluations(CURVES, Design(1)))) is None

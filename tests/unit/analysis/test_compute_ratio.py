from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from analysis.compute_ratio import (
    CHARGED,
    COLUMNS,
    INFERENCE,
    MAX_BEYOND,
    TRAINING,
    Ratios,
    compute_ratios,
    published_ratios,
    ratio_at,
    ratio_sentences,
)
from analysis.external import published
from analysis.plots_power_law import ratio_figure
from analysis.power_law import FamilyCurve, PowerLaws, fit_power_laws
from analysis.power_law_report import power_law_section_parts
from analysis.style import house_style
from analysis.tables_power_law import published_table, ratio_table
from tests.suites.synthetic_laws import Curve, Design, evaluations

BASE, CALM = Curve(0.30, score=4.0), Curve(0.30, score=4.0 * 0.56**-0.30)
"""The second needs 0.56 of the first's compute at any score."""
QUIET = Design(8, between=0.005, se=0.002)


def fitted(
    curves: Mapping[str, Curve], design: Design = QUIET, *, seed: int = 0, autoencoder: float = 0.0
) -> PowerLaws:
    return fit_power_laws(evaluations(curves, design, seed=seed, autoencoder=autoencoder))


@pytest.fixture(scope="module")
def laws() -> PowerLaws:
    return fitted({"token baseline": BASE, "K = 4": CALM}, autoencoder=1e12)


@pytest.fixture(scope="module")
def ratios(laws: PowerLaws) -> Ratios:
    return compute_ratios(laws)


def curves_of(laws: PowerLaws, *names: str) -> list[FamilyCurve]:
    found = [laws.of(name) for name in names]
    return [curve for curve in found if curve is not None]


class TestRatio:
    def test_is_the_true_one_at_every_score_within_the_data(self, ratios: Ratios) -> None:
        inside = ratios.inside("K = 4")
        assert list(ratios.frame.columns) == COLUMNS
        assert len(inside) > 10
        assert inside["ratio"].between(0.53, 0.59).all()
        assert ((inside["low"] < inside["ratio"]) & (inside["ratio"] < inside["high"])).all()

    def test_follows_a_ratio_that_changes_with_the_score(self) -> None:
        steep = Curve(0.40, score=4.0)
        found = compute_ratios(fitted({"token baseline": BASE, "K = 4": steep})).inside("K = 4")
        for _, row in found.iterrows():
            level = float(row["quality"])
            truth = steep.cost_of(level) / BASE.cost_of(level)
            assert row["ratio"] == pytest.approx(truth, rel=0.06)

    @pytest.mark.slow
    def test_intervals_hold_it_as_often_as_they_say(self) -> None:
        """Scatter is pooled; the full simulation is tests/bench/fit_coverage.py."""
        held = 0
        for seed in range(60):
            own = fitted({"token baseline": BASE, "K = 4": CALM}, Design(4), seed=seed)
            _, low, high = ratio_at(*curves_of(own, "K = 4", "token baseline"), 4.5)
            held += low <= 0.56 <= high
        assert held >= 50  # binomial, 95 %: 51 or fewer has a chance of 2e-3, 50 or fewer of 6e-4

    def test_the_autoencoder_is_added_to_what_the_family_needs(self, laws: PowerLaws, ratios: Ratios) -> None:
        charged = compute_ratios(laws, with_autoencoder=True)
        assert charged.cost == CHARGED
        both = zip(ratios.frame.to_dict("records"), charged.frame.to_dict("records"), strict=True)
        for without, with_ in both:
            base = BASE.cost_of(float(without["quality"]))
            assert with_["ratio"] - without["ratio"] == pytest.approx(1e12 / base, rel=0.15)

    def test_without_a_recorded_autoencoder_there_is_none_of_that_kind(self) -> None:
        rows = evaluations({"token baseline": BASE, "K = 4": CALM}, QUIET)
        rows["train_flops_with_autoencoder"] = math.nan
        found = compute_ratios(fit_power_laws(rows), with_autoencoder=True)
        assert found.reasons == {"K = 4": "no autoencoder cost recorded"}

    def test_inference_is_its_own_cost(self) -> None:
        rows = evaluations({"token baseline": BASE, "K = 4": CALM}, QUIET)
        calm = rows["kind"] == "calm"
        rows.loc[calm, "infer_flops_per_token"] *= 0.5
        found = compute_ratios(fit_power_laws(rows, cost="infer_flops_per_token"))
        assert found.cost == INFERENCE
        assert found.inside("K = 4")["ratio"].between(0.26, 0.30).all()


class TestExtrapolation:
    def test_is_marked_and_ends(self, ratios: Ratios, laws: PowerLaws) -> None:
        rows = ratios.frame
        assert rows["extrapolated"].max() <= MAX_BEYOND * 1.001
        assert rows["extrapolated"].max() > 0.9 * MAX_BEYOND
        base = curves_of(laws, "token baseline")[0]
        top = float(base.at([base.range[1]]).value[0])
        beyond = rows[rows["quality"] > top * 1.001]
        assert len(beyond)
        assert (beyond["extrapolated"] > 0).all()

    def test_scores_that_do_not_meet_have_no_ratio(self) -> None:
        found = compute_ratios(fitted({"token baseline": BASE, "K = 8": Curve(0.3, score=0.1)}))
        assert found.frame.empty
        assert found.reasons["K = 8"].startswith("scores do not overlap: K = 8 has 0.0")
        assert "K = 8: no ratio of training compute, since scores do not overlap" in ratio_sentences(found)[0]

    def test_a_gap_that_is_bridged_is_said(self) -> None:
        low = Curve(0.3, score=4.0 * 10 ** (-0.3 * 3.4))
        found = compute_ratios(fitted({"token baseline": BASE, "K = 1": low}))
        assert found.inside("K = 1").empty
        assert ratio_sentences(found)[0].endswith("the two were not trained to common scores.")

    def test_a_score_above_the_baselines_level_is_never_reached_by_it(self) -> None:
        level = Curve(0.8, score=8.0, level=10.0)
        made = evaluations({"token baseline": level, "K = 4": Curve(0.3, score=8.0)}, Design(14, 5, between=0.003))
        found = fit_power_laws(made)
        calm, base = curves_of(found, "K = 4", "token baseline")
        assert base.saturates
        assert ratio_at(calm, base, 15.0)[0] == 0.0
        assert ratio_at(base, calm, 15.0)[0] == math.inf
        assert np.isfinite(compute_ratios(found).frame["ratio"]).all()


class TestWhatIsSaid:
    def test_headline(self, ratios: Ratios) -> None:
        said = ratio_sentences(ratios)[0]
        assert said.startswith("K = 4 needs 0.5")
        assert "times [0.5" in said
        assert "the training compute of the token baseline at BrierLM 1" in said
        assert " % less)" in said

    def test_a_ratio_that_may_be_one(self) -> None:
        found = compute_ratios(fitted({"token baseline": BASE, "K = 4": BASE}, Design(6, between=0.1)))
        assert "(less or more is not told by these runs)" in ratio_sentences(found)[0]
        table = ratio_table([found])
        assert table is not None
        assert table.rows[0][5] == "–"

    def test_no_baseline(self) -> None:
        found = compute_ratios(fitted({"K = 4": CALM}))
        assert ratio_sentences(found) == [
            "K = 4: no ratio of training compute, since there is no token baseline to compare with."
        ]

    def test_a_baseline_of_one_point(self) -> None:
        rows = evaluations({"token baseline": BASE, "K = 4": CALM}, QUIET)
        base = rows[rows["kind"] == "baseline"]
        found = compute_ratios(fit_power_laws(rows.drop(base.index[1:])))
        assert "no curve of token baseline: power has 2 parameters" in found.reasons["K = 4"]

    def test_too_few_runs_for_an_interval(self) -> None:
        found = compute_ratios(fitted({"token baseline": BASE, "K = 4": CALM}, Design(2, between=0.0)))
        assert "there are too few runs for an interval" in ratio_sentences(found)[0]
        assert found.frame["low"].isna().all()
        table = ratio_table([found])
        assert table is not None
        assert table.rows[0][4] == "no interval"

    def test_scores_that_fall_or_do_not_rise(self) -> None:
        found = compute_ratios(fitted({"token baseline": BASE, "K = 4": Curve(gamma=-0.3)}))
        assert found.reasons["K = 4"] == "the score of K = 4 does not rise with compute"
        found = compute_ratios(
            fitted({"token baseline": BASE, "K = 4": Curve(0.03)}, Design(8, between=0.3), seed=2)
        )
        assert found.reasons["K = 4"].startswith("the ")
        assert found.frame.empty

    @pytest.mark.parametrize(("low", "high"), [(0.01, 10.0), (0.0, 0.9), (0.3, math.inf)])
    def test_one_that_is_not_determined_has_no_digits(self, ratios: Ratios, low: float, high: float) -> None:
        wide = replace(ratios, frame=ratios.frame.assign(low=low, high=high))
        assert "is not determined by these runs" in ratio_sentences(wide)[0]
        assert "needs 0." not in ratio_sentences(wide)[0]
        table = ratio_table([wide])
        assert table is not None
        assert {row[3] for row in table.rows} == {"not identified"}


class TestPublished:
    def test_the_papers_own_figures(self) -> None:
        """44 % fewer FLOPs in training and 34 % fewer in inference (arXiv 2510.27688)."""
        found = published_ratios(published(), ["train_flops_published", "infer_flops_per_token_published"])
        assert found["fewer"].round(2).tolist() == [0.44, 0.34]
        assert found[["brierlm", "brierlm_baseline"]].iloc[0].tolist() == [5.72, 6.05]
        table = published_table(found)
        assert table is not None
        assert [row[4] for row in table.rows] == ["44 %", "34 %"]

    def test_one_model_a_family_is_no_curve(self) -> None:
        found = compute_ratios(fit_power_laws(published(), cost="train_flops_published"))
        assert "the 1 point lies at one" in found.reasons["K = 4"]

    def test_nothing_published(self) -> None:
        assert published_table(published_ratios(published().iloc[:0], ["train_flops_published"])) is None


class TestParts:
    @pytest.mark.slow
    def test_everything_a_report_shows(self) -> None:
        rows = evaluations({"token baseline": BASE, "K = 4": CALM}, QUIET, autoencoder=1e12)
        parts = power_law_section_parts(rows, published=published(), with_pictures=False)
        assert [one.cost for one in parts.ratios] == [TRAINING, CHARGED, INFERENCE]
        names = [table.name for table in parts.tables]
        assert names == [
            *("power_law_train_flops", "power_law_infer_flops_per_token", "compute_ratio", "published_ratio")
        ]
        assert len(parts.summary) == 3
        assert any("longer training moves them up" in text for text in parts.sentences)
        assert power_law_section_parts(rows, with_pictures=False).summary == parts.summary

    def test_nothing_to_show(self) -> None:
        assert power_law_section_parts(evaluations({}, QUIET)).empty

    def test_figure(self, laws: PowerLaws, ratios: Ratios) -> None:
        with house_style():
            one, two = ratio_figure(ratios, laws), ratio_figure(ratios, laws)
            assert ratio_figure(Ratios(TRAINING, ratios.frame.iloc[:0]), laws) is None
        assert one is not None
        assert two is not None
        assert one.svg == two.svg
        assert one.name == "compute-ratio-training"

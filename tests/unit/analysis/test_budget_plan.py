"""What to train for a budget: choice, odds, shapes, limits, warnings, and the parts of a report."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.budget_plan import BudgetPlan, Estimate, plan_budget, plan_by, probabilities
from analysis.joint_law import JointLaw, fit_joint
from analysis.planning_words import advice_of, beyond, lack_of_fit, measured_words
from analysis.scaling_points import BASELINE
from analysis.scaling_report import ScalingParts, scaling_parts, summary_sentences
from analysis.shapes import find_shape, heads_for, layers_for
from analysis.tables_scaling import NOT_IDENTIFIED, flops_short
from analysis.words import to_latex
from tests.suites.synthetic_scaling import CHUNKS, LOSS, Plan, Truth, evaluations
from workbench import flops
from workbench.config_file import load_config
from workbench.errors import ConfigError

TRUTH = Truth()


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    made = evaluations(TRUTH, seed=4)
    base = made["kind"] == "baseline"
    e, big_a, big_b, a, b = LOSS
    n, d = (made.loc[base, name].astype(float) for name in ("model_parameters", "tokens"))
    noise = np.exp(0.005 * np.random.default_rng(0).standard_normal(int(base.sum())))
    made.loc[base, "cross_entropy"] = (e + big_a * n**-a + big_b * d**-b) * noise
    return made


@pytest.fixture(scope="module")
def law(frame: pd.DataFrame) -> JointLaw:
    return fit_joint(frame, num_draws=100)


@pytest.fixture(scope="module")
def parts(frame: pd.DataFrame) -> ScalingParts:
    return scaling_parts(frame, num_draws=40)


class TestRecommendation:
    @pytest.mark.slow
    @pytest.mark.parametrize("budget", [1e12, 3e12])
    def test_the_true_k_where_it_is_clear(self, law: JointLaw, budget: float) -> None:
        plan = plan_by(law, budget)
        best_k, size, score, _ = TRUTH.best(budget)
        best = plan.recommended
        assert best is not None
        assert best.family == best_k
        assert best.probability is not None
        assert best.probability > 0.9
        assert best.num_parameters.value == pytest.approx(size, rel=0.15)
        assert best.score.value == pytest.approx(score, rel=0.05)
        assert best.latent_dim == 16 * best_k
        assert "16 for each of the K tokens" in best.latent_words

    @pytest.mark.slow
    def test_odds_are_shares_of_the_resamples(self, law: JointLaw) -> None:
        plan = plan_by(law, 2e13)
        assert plan.recommended is not None
        choices = [plan.recommended, *plan.alternatives]
        assert {c.family for c in choices} == set(CHUNKS)
        odds = [c.probability or 0.0 for c in choices]
        assert sum(odds) == pytest.approx(1.0)
        assert odds == sorted(odds, reverse=True)
        optima = {k: law.best(k, 2e13) for k in CHUNKS}
        found = probabilities({k: o for k, o in optima.items() if o is not None})
        for choice in choices:
            assert choice.probability == found[choice.family]

    def test_the_baseline_stands_beside_it(self, law: JointLaw) -> None:
        plan = plan_by(law, 3e12)
        assert plan.baseline is not None
        assert plan.baseline.family == BASELINE
        assert plan.baseline.probability is None
        truth = TRUTH.best(3e12, [0])[2]
        assert plan.baseline.score.value == pytest.approx(truth, rel=0.08)

    def test_inside_the_data_there_is_no_word_of_extrapolation(self, law: JointLaw) -> None:
        plan = plan_by(law, 3e12)
        assert not any("Extrapolation" in line for line in plan.warnings)

    def test_beyond_the_data_it_is_a_guess_and_runs_are_asked_for(self, law: JointLaw) -> None:
        plan = plan_by(law, 9e15)
        text = " ".join(plan.warnings)
        assert "3.0 decades above the trained budgets" in text
        assert "guess" in text
        assert any("half-way" in line for line in plan.advice)

    def test_a_limit_on_inference(self, law: JointLaw) -> None:
        free = plan_by(law, 9e12)
        limit = 1.5e5
        plan = plan_by(law, 9e12, type(free.limits)(limit))
        assert plan.recommended is not None
        for choice in (plan.recommended, *plan.alternatives):
            assert choice.infer_flops_per_token is not None
            assert choice.infer_flops_per_token <= limit * (1 + 1e-9)
            if choice.shape is not None:
                assert choice.shape.infer_flops_per_token <= limit
        assert plan.recommended.capped
        assert free.recommended is not None
        assert plan.recommended.score.value < free.recommended.score.value
        assert any("limit on inference" in line for line in plan.warnings)

    def test_a_limit_that_nothing_keeps_to(self, law: JointLaw) -> None:
        plan = plan_by(law, 9e12, type(plan_by(law, 9e12).limits)(1.0))
        assert plan.recommended is None
        assert "no size of any K" in plan.reason

    def test_the_autoencoder_is_charged(self, law: JointLaw) -> None:
        free = plan_by(law, 3e11)
        charged = plan_by(law, 3e11, type(free.limits)(None, True))
        assert free.recommended is not None
        assert charged.recommended is not None
        for plan, left in ((free, 3e11), (charged, 3e11 - 4e10)):
            best = plan.recommended
            assert best is not None
            assert best.tokens.value * best.flops_per_token == pytest.approx(left, rel=1e-6)
        assert charged.recommended.score.value < free.recommended.score.value
        gone = plan_by(law, 3e10, charged.limits)
        assert gone.recommended is None
        assert "does not pay" in gone.reason

    def test_one_k_gives_a_size_but_no_k(self) -> None:
        plan = plan_budget(evaluations(TRUTH, Plan(chunks=(2,))), flops=3e12, num_draws=20)
        assert plan.recommended is not None
        assert plan.alternatives == []
        assert any("Only K = 2 was run" in line for line in plan.warnings)
        assert any("other K" in line for line in plan.advice)

    def test_without_a_law_the_reason(self) -> None:
        plan = plan_budget(evaluations(TRUTH, Plan(sizes=(1e5,))), flops=1e13)
        assert plan.recommended is None
        assert "at least two model sizes" in plan.reason

    @pytest.mark.slow
    def test_without_a_baseline_that_is_said(self) -> None:
        plan = plan_budget(evaluations(TRUTH, Plan(baseline=False)), flops=3e12, num_draws=20)
        assert plan.baseline is None
        assert "No baseline to compare with: there are no token baselines." in plan.notes

    @pytest.mark.parametrize("value", [0.0, -1e12, math.inf, math.nan])
    def test_budgets_and_limits_are_above_0(self, frame: pd.DataFrame, value: float) -> None:
        with pytest.raises(ConfigError, match="--flops wants a number of FLOPs above 0"):
            plan_budget(frame, flops=value)
        with pytest.raises(ConfigError, match="--inference-flops-per-token wants"):
            plan_budget(frame, flops=1e12, infer_flops_per_token=value)

    def test_forms_that_disagree_are_named(self, law: JointLaw) -> None:
        plan = plan_by(law, 1e16)
        assert plan.recommended is not None
        assert plan.by_form[plan.form] == plan.recommended.family
        others = {k for name, k in plan.by_form.items() if name != plan.form}
        assert others - {plan.recommended.family}  # by the power law the best K never moves
        assert any("forms disagree" in line for line in plan.warnings)

    def test_everything_goes_into_json(self, law: JointLaw) -> None:
        tree = json.loads(json.dumps(plan_by(law, 1e13).to_dict(), allow_nan=False))
        assert set(tree) == set(BudgetPlan.__dataclass_fields__)
        assert tree["recommended"]["score"]["low"] < tree["recommended"]["score"]["high"]
        assert tree["recommended"]["shape"]["width"] > 0

    @pytest.mark.slow
    def test_odds_are_honest_where_k_is_close(self) -> None:
        """Over many tables: tests/bench/scaling_coverage.py. Here: where two K are level (9e13 FLOPs), nearly sure
        answers are right."""
        sure, right = 0, 0
        best = TRUTH.best(9e13)[0]
        for seed in range(8):
            made = evaluations(TRUTH, Plan(noise=0.03, baseline=False), seed=100 + seed)
            found = fit_joint(made, num_draws=60, forms=("additive",))
            plan = plan_by(found, 9e13, with_shapes=False)
            assert plan.recommended is not None
            if (plan.recommended.probability or 0) > 0.98:
                sure += 1
                right += plan.recommended.family == best
        assert right >= sure - 1
        assert sure < 8  # it is not always sure


class TestShapes:
    @pytest.mark.parametrize("family", [0, 1, 4])
    @pytest.mark.parametrize("size", [1e5, 3e6, 1e8])
    def test_steps_times_their_cost_are_the_budget(self, family: int, size: float) -> None:
        shape = find_shape(family, size, 1e15, latent_dim=16 * family or None)
        assert shape is not None
        assert shape.train_flops <= 1e15
        assert shape.train_flops == pytest.approx(1e15, rel=0.01)
        assert shape.tokens * shape.flops_per_token == pytest.approx(shape.train_flops, rel=1e-9)
        assert shape.num_parameters == pytest.approx(size, rel=0.3)
        assert shape.num_layers == layers_for(shape.width)

    def test_counts_are_those_of_the_workbench(self) -> None:
        shape = find_shape(4, 1e6, 1e14, latent_dim=64)
        assert shape is not None
        command = shape.command(4, shape.train_flops)
        words = command.split()
        assert words[:3] == ["calm", "train", "tuned-calm"]
        sets = dict(word.split("=", 1) for word in words if "=" in word)
        config = load_config("tuned-calm", {name: float(v) if "e" in v else int(v) for name, v in sets.items()})
        counts = flops.describe(config.resolved())
        parts = counts["parameters"]
        assert parts["total"] - parts["embedding"] == shape.num_parameters
        assert counts["train_flops"] == pytest.approx(shape.train_flops, rel=1e-3)
        assert counts["infer_flops_per_token"] == shape.infer_flops_per_token

    def test_the_presets_follow_the_rule(self) -> None:
        for name in ("small-calm", "transformer-s", "calm-m", "calm-l", "calm-xl", "transformer-l"):
            backbone = load_config(name).model.backbone
            assert layers_for(backbone.width) == backbone.num_layers, name
            assert backbone.width % heads_for(backbone.width) == 0

    def test_the_study_s_own_configuration_is_used(self) -> None:
        tree = load_config("tuned-calm", {"model.head.num_samples": 2}).to_dict()
        cheap, dear = (find_shape(4, 1e6, 1e14, latent_dim=64, tree=t) for t in (tree, None))
        assert cheap is not None
        assert dear is not None
        assert cheap.width == dear.width
        assert cheap.flops_per_token < 0.8 * dear.flops_per_token
        assert cheap.command(4, 1e14) == ""

    def test_what_cannot_be_built(self) -> None:
        assert find_shape(3, 1e6, 1e14) is None  # blocks of 256 tokens hold no whole chunks of 3
        assert find_shape(4, 1e8, 1e9) is None  # not one step
        assert find_shape(4, 1e6, 1e14, infer_limit=10.0) is None


class TestParts:
    @pytest.mark.slow
    def test_pictures_and_tables(self, parts: ScalingParts) -> None:
        assert [p.name for p in parts.pictures] == ["isoflop", "best-k-by-budget", "law-predictions", "loss-law"]
        names = [t.name for t in parts.tables]
        assert names == ["plan_by_budget", "law_forms", "law_parameters", "loss_law"]
        for table in parts.tables:
            assert all(len(row) == len(table.columns) for row in table.rows)
            assert to_latex(table).count(r"\\") == len(table.rows) + 1
        assert not parts.empty

    @pytest.mark.slow
    def test_the_chosen_form_is_marked(self, parts: ScalingParts) -> None:
        marked = [str(row[0]) for row in parts.tables[1].rows if "(chosen)" in str(row[0])]
        assert marked == [f"{parts.plans[0].form} (chosen)"]

    def test_sentences_say_what_and_how_sure(self, parts: ScalingParts) -> None:
        best = parts.plans[3].recommended
        assert best is not None
        assert f"the law recommends {best.name}" in parts.summary[0]
        assert f"{best.probability:.0%}" in parts.summary[0]
        assert "decades beyond the data" in parts.summary[-1]

    @pytest.mark.slow
    def test_the_same_bytes_twice(self, frame: pd.DataFrame, parts: ScalingParts) -> None:
        again = scaling_parts(frame, num_draws=40)
        assert [p.svg for p in again.pictures] == [p.svg for p in parts.pictures]
        assert again.tables == parts.tables

    @pytest.mark.slow
    def test_parameters_that_are_not_known_are_words(self) -> None:
        plan = Plan(sizes=(1e5, 1.3e5), budgets=(1e12, 2e12), noise=0.05, seeds=2)
        found = scaling_parts(evaluations(TRUTH, plan), with_pictures=False, num_draws=60)
        table = next(t for t in found.tables if t.name == "law_parameters")
        assert found.law.chosen is not None
        fit = found.law.chosen.fit
        assert fit is not None
        assert fit.unidentified
        shown = {str(row[1]): str(row[3]) for row in table.rows if row[0] == "CALM"}
        assert {name for name, value in shown.items() if value == NOT_IDENTIFIED} == set(fit.unidentified)
        assert any("do not determine" in line for line in found.sentences)

    def test_nothing_to_show(self) -> None:
        assert scaling_parts(evaluations(TRUTH).iloc[:0]).empty
        found = scaling_parts(evaluations(TRUTH, Plan(budgets=(1e12,))))
        assert found.empty
        assert "at least two amounts of data" in found.summary[0]


def test_decades_beyond() -> None:
    assert beyond(1e3, 1e1, 1e2) == pytest.approx(1.0)
    assert beyond(1.0, 1e1, 1e2) == pytest.approx(-1.0)
    assert beyond(50.0, 1e1, 1e2) == 0.0


def test_short_counts() -> None:
    assert [flops_short(v) for v in (12.0, 3.5e5, 1.2e6, 4.5e9)] == ["12", "350k", "1.2M", "4.5G"]


@pytest.mark.slow
def test_no_file_of_the_tests_is_needed(tmp_path: Path) -> None:
    """A table read back from CSV gives the same plan."""
    frame = evaluations(TRUTH, seed=4)
    frame.to_csv(tmp_path / "runs.csv", index=False)
    one = plan_budget(frame, flops=3e12, num_draws=20)
    other = plan_budget(pd.read_csv(tmp_path / "runs.csv"), flops=3e12, num_draws=20)
    assert one.recommended is not None
    assert other.recommended is not None
    assert other.recommended.family == one.recommended.family
    assert other.recommended.score.value == pytest.approx(one.recommended.score.value, rel=1e-3)


def test_a_budget_beyond_any_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--flops wants at most 1e\+40 FLOPs, 1e\+300 given"):
        plan_budget(evaluations(Truth()), flops=1e300)


@pytest.mark.slow
def test_an_autoencoder_that_was_not_recorded_drops_no_k_and_is_said() -> None:
    table = evaluations(Truth())
    some = table["K"] == 2
    table.loc[some, "train_flops_with_autoencoder"] = float("nan")
    plan = plan_budget(table, flops=9e12, with_autoencoder=True, num_draws=20)
    assert {c.family for c in (plan.recommended, *plan.alternatives) if c} >= {2}
    assert any("not charged to K = 2: no run recorded it" in line for line in plan.warnings)


class TestAgainstTheRuns:
    def test_a_law_of_the_true_form_does_not_lack_fit(self, law: JointLaw) -> None:
        assert lack_of_fit(law) == []

    def test_a_form_that_does_not_bend_is_told_from_noise(self, frame: pd.DataFrame) -> None:
        straight = fit_joint(frame, num_draws=40, forms=("power",))
        (said,) = lack_of_fit(straight)
        assert said.startswith("The law misses the runs by ")
        assert said.endswith("the form does not bend as the data do.")
        plan = plan_by(straight, 1e12, with_shapes=False)
        assert said in plan.warnings
        assert said in summary_sentences(straight, [plan])

    def test_the_best_runs_stand_beside_what_the_law_says_of_them(
        self, law: JointLaw, frame: pd.DataFrame
    ) -> None:
        words = measured_words(law)
        top = frame[frame["train_flops"] > 0.99 * frame["train_flops"].max()]
        for k in CHUNKS:
            best = top[top["K"] == k].sort_values("brierlm").iloc[-1]
            found = re.search(rf"K = {k} ([\d.]+)(?: ± [\d.]+)? \(law ([\d.]+) \[([\d.]+), ([\d.]+)\]\)", words)
            assert found is not None
            measured, value, low, high = map(float, found.groups())
            assert measured == pytest.approx(best["brierlm"], abs=0.006)
            n, tokens = float(best["model_parameters"]), float(best["tokens"])
            assert value == pytest.approx(float(TRUTH.score(n, tokens, k)), rel=0.04)
            assert low <= value <= high
        assert "token baseline" in words
        assert words in plan_by(law, 1e13, with_shapes=False).notes

    @pytest.mark.parametrize(("way", "words"), [(0, "smaller than"), (-1, "larger than")])
    def test_the_direction_in_which_sizes_end_is_said(self, law: JointLaw, way: int, words: str) -> None:
        best = plan_by(law, 3e12, with_shapes=False).recommended
        assert best is not None
        own = np.sort(law.points.num_parameters[law.points.family == best.family])
        edge = dataclasses.replace(
            best, num_parameters=Estimate(float(own[way]), float(own[0]), float(own[-1])), at_edge=True
        )
        plan = dataclasses.replace(plan_by(law, 3e12, with_shapes=False), recommended=edge)
        (said,) = [line for line in advice_of(plan, law) if line.startswith("Add a size")]
        assert f"{words} {own[way]:,.0f} parameters" in said


def test_the_shape_has_the_depth_of_the_runs() -> None:
    tree = {**load_config("tuned-calm").to_dict(), "train": {"train_tokens": 2_000_000, "block_len": 256}}
    deep, shallow = (find_shape(4, 3e6, 1e14, num_layers=n, tree=tree) for n in (6, 2))
    assert deep is not None
    assert shallow is not None
    assert (deep.num_layers, shallow.num_layers) == (6, 2)
    assert deep.width < shallow.width
    assert shallow.train_flops == pytest.approx(1e14, rel=0.01)


def test_runs_of_several_studies_are_named(frame: pd.DataFrame) -> None:
    other = frame.assign(study="another", run_id=frame["run_id"] + "x")
    notes = fit_joint(pd.concat([frame, other]), num_draws=0, forms=("power",)).notes
    assert any("several studies are fitted together (another and scaling-made)" in note for note in notes)
    assert not any("several studies" in note for note in fit_joint(frame, num_draws=0, forms=("power",)).notes)

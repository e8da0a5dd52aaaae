"""BrierLM by network calls: lines, their errors, and what is said of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import plots_calls, style
from analysis.calls import CallLine, call_lines, point_words, ranked
from analysis.claims import setting_gap
from analysis.comparison import Comparison, compare
from analysis.plots_calls import MAX_LINES, baseline_points, looks, shown_lines
from analysis.sections_sampling import calls_section, enough_words, rank_words
from analysis.stats import BETTER, WORSE, mean_over_seeds
from analysis.table import RunTable, load_runs
from analysis.tables_sampling import call_points_table, calls_table
from tests.suites.simulated_studies import SCALE, Noise, compared_again, narrowed, simulate, with_scores
from tests.suites.synthetic_heads import CALLS, make_heads_study
from workbench import records
from workbench.uncertainty import t_quantile


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    """Three heads (energy with both distances), three seeds."""
    home = tmp_path_factory.mktemp("heads") / "runs"
    make_heads_study(home, tradeoff=False, samples=False)
    return load_runs(home)


@pytest.fixture(scope="module")
def comparison(heads: RunTable) -> Comparison:
    return compare(heads)


@pytest.fixture(scope="module")
def lines(heads: RunTable, comparison: Comparison) -> list[CallLine]:
    return call_lines(comparison, heads.calls)


def by_name(lines: list[CallLine]) -> dict[str, CallLine]:
    return {line.name: line for line in lines}


@pytest.mark.slow
def test_one_row_a_point_with_its_run(heads: RunTable) -> None:
    calls = heads.calls
    assert set(calls["status"]) == {"completed"}
    flow = calls[calls["run_id"] == "s1-k4-flow"]
    assert (flow["head"].iloc[0], flow["setting"].iloc[0], flow["K"].iloc[0], flow["seed"].iloc[0]) == (
        "flow", "flow", 4, 1
    )  # fmt: skip
    assert sorted(set(flow["solver"])) == ["euler", "midpoint"]
    assert flow["network_calls"].dtype == "Int64"
    assert flow["brier_4"].notna().all()
    assert set(calls["setting"]) == {"energy, quadric", "energy, power", "flow", "diffusion"}


def test_lines_are_settings_and_solvers(lines: list[CallLine]) -> None:
    named = by_name(lines)
    assert set(named) == {
        "energy, quadric", "energy, power", "flow, midpoint", "flow, euler", "diffusion, ddpm", "diffusion, ddim"
    }  # fmt: skip
    assert named["energy, quadric"].points["network_calls"].tolist() == [1]
    assert named["flow, midpoint"].points["network_calls"].tolist() == list(CALLS[1:])
    assert named["diffusion, ddpm"].points["num_seeds"].tolist() == [3] * len(CALLS)
    assert lines[0].name == "energy, quadric"  # the best first


def test_a_single_euler_step_begins_the_line_of_the_solver_that_is_too_dear(
    heads: RunTable, comparison: Comparison
) -> None:
    calls = heads.calls
    fallback = (calls["solver"] != "euler") | (calls["network_calls"] == 1)
    named = by_name(call_lines(comparison, calls[fallback]))
    assert named["flow"].points["network_calls"].tolist() == list(CALLS)
    assert named["flow"].solver == "midpoint"


def test_errors_hold_the_scatter_between_seeds(heads: RunTable, lines: list[CallLine]) -> None:
    point = by_name(lines)["flow, midpoint"].points.iloc[-1]
    rows = heads.calls[(heads.calls["head"] == "flow") & (heads.calls["solver"] == "midpoint")]
    scores = rows.loc[rows["network_calls"] == 100, "brierlm"].to_numpy(dtype=float)
    assert point["brierlm"] == pytest.approx(scores.mean())
    half = t_quantile(2, level=0.6827) * scores.std(ddof=1) / math.sqrt(3)
    assert point["brierlm_se"] == pytest.approx(half)


def test_the_t_interval_over_few_seeds_holds_what_it_says() -> None:
    rng = np.random.default_rng(0)
    for num in (2, 3, 6):
        held = []
        for _ in range(2000):
            value, error = mean_over_seeds(rng.normal(size=num).tolist(), [9.0] * num)
            held.append(abs(value) <= error)
        assert np.mean(held) == pytest.approx(0.683, abs=0.035)
    assert mean_over_seeds([3.0], [0.2]) == (3.0, 0.2)


def test_points_that_cannot_be_told_from_0_stay_bounds(lines: list[CallLine]) -> None:
    first = by_name(lines)["diffusion, ddpm"].points.iloc[0]
    assert first["brierlm"] < 0.1
    assert first["weak_orders"] != ""
    assert first["brierlm_high"] > 0
    assert point_words(first) == f"[0, {first['brierlm_high']:.2f}] with 1 call"


def test_enough_is_the_cheapest_within_one_error_of_the_best(lines: list[CallLine]) -> None:
    line = by_name(lines)["flow, midpoint"]
    points = line.points
    best = points.loc[points["brierlm"].idxmax()]
    near = points[points["brierlm"] >= best["brierlm"] - best["brierlm_se"]]
    assert line.enough["network_calls"] == near["network_calls"].min() < best["network_calls"]
    (words,) = enough_words([line])
    assert words.startswith(f"Flow, midpoint reaches its score with about {line.enough['network_calls']} calls: ")
    assert enough_words([by_name(lines)["energy, quadric"]]) == []


def made(values: list[float], error: float = 0.1, *, calls: tuple[int, ...] = CALLS) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "network_calls": calls[: len(values)],
            "brierlm": values,
            "brierlm_se": error,
            "brierlm_high": math.nan,
            "weak_orders": "",
            "num_seeds": 1,
        }
    )


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (made([1.0, 2.0, 2.95, 3.0]), "reaches its score with about 4 calls: 2.95 ± 0.10"),
        (
            made([1.0, 2.0, 3.0]),
            "at its best with the most calls that were tried, 3.00 ± 0.10 with 4 calls: more may",
        ),
        (made([1.0, 3.0, 2.0]), "is at its best, 3.00 ± 0.10 with 2 calls: fewer are worse by more than an error"),
        (made([3.0, 3.0, 2.0]), "is at its best with the fewest calls that were tried, 3.00 ± 0.10 with 1 call."),
        (made([3.0, 2.0], math.nan), "fewest calls that were tried, 3.00 with 1 call."),
        (made([0.0, 0.0]), "cannot be told from 0 with any number of calls up to 2"),
    ],
)
def test_words_about_the_number_of_calls(lines: list[CallLine], points: pd.DataFrame, words: str) -> None:
    (found,) = enough_words([replace(by_name(lines)["flow, midpoint"], points=points)])
    assert words in found


def test_settings_are_ranked_with_the_noise_that_was_measured(
    comparison: Comparison, lines: list[CallLine]
) -> None:
    found = ranked(lines, comparison)
    assert [one.line.name for one in found][:2] == ["energy, quadric", "flow, midpoint"]
    assert found[0].difference is None
    num = math.ceil(3 * (1 + 1 + 13 + 14) / 2)
    first, flow = found[0].line, found[1]
    assert flow.difference is not None
    assert (flow.difference.comparisons, flow.difference.unpaired) == (num, False)
    # as the settings' own difference at their last evaluations, with another value
    own = setting_gap(flow.line.setting, first.setting, comparison, comparisons=num)
    assert own.low is not None
    assert flow.difference.low is not None
    assert flow.difference.value - flow.difference.low == pytest.approx(own.value - own.low, rel=0.02)
    assert flow.difference.verdict == "indistinguishable"
    diffusion = next(one for one in found if one.line.head == "diffusion")
    assert diffusion.difference is not None
    assert diffusion.difference.verdict == "worse"
    (words,) = rank_words(found)
    assert words.startswith("Energy, quadric scores highest, ")
    assert "indistinguishable from it: flow, midpoint with " in words
    assert "diffusion, dd" in words.split("indistinguishable")[0]


@pytest.mark.slow
def test_without_scores_by_position_differences_are_unpaired(heads: RunTable) -> None:
    alone = replace(heads, positions={})
    comparison = compare(alone)
    found = ranked(call_lines(comparison, alone.calls), comparison)
    assert all(one.difference.unpaired for one in found if one.difference)
    with style.house_style():
        section = calls_section(alone, comparison)
    assert section is not None
    assert any("differences marked unpaired" in note for note in section.notes)


@pytest.mark.slow
def test_figures_and_tables(heads: RunTable, comparison: Comparison, lines: list[CallLine]) -> None:
    with style.house_style():
        section = calls_section(heads, comparison)
    assert section is not None
    assert [picture.name for picture in section.pictures] == ["network-calls", "network-calls-flops"]
    first, second = section.pictures
    assert "t interval at 68 %" in first.text
    assert "token baselines, one point a setting" in second.text
    for name in by_name(lines):
        assert name in first.svg
        assert name in second.svg
    assert "token baseline" in second.svg
    best, points = section.tables
    assert [row[0] for row in best.rows][:2] == ["energy, quadric", "flow, midpoint"]
    assert best.rows[0][4] == "the best"
    assert len(points.rows) == 1 + 1 + 13 + 14
    baselines = baseline_points(comparison)
    assert baselines["brierlm"].round(1).tolist() == [6.0, 5.0, 4.0]


def test_looks_are_told_apart_without_colour(lines: list[CallLine]) -> None:
    shown = shown_lines(lines)
    found = looks(shown)
    assert len({marker for _, marker, _ in found}) == len(shown)
    assert len({colour for colour, _, _ in found}) == len(shown)
    flows = [line for line in shown if line.head == "flow"]
    assert len({marker for _, marker, _ in looks(flows)}) == 2


def test_many_lines_are_cut_with_every_setting_first(lines: list[CallLine]) -> None:
    copies = [replace(line, setting=replace(line.setting)) for _ in range(4) for line in lines]
    shown = shown_lines(copies)
    assert len(shown) == MAX_LINES
    with style.house_style():
        picture = plots_calls.calls_figure(copies)
    assert picture is not None
    assert f"the best {MAX_LINES} of {len(copies)}" in picture.text
    assert "of 24 lines" in call_points_table(copies).caption


# ---- awkward --------------------------------------------------------------------------------------------


def calls_of(home: Path, **options: Any) -> tuple[RunTable, Comparison]:
    make_heads_study(home, "s", tradeoff=False, samples=False, **options)
    table = load_runs(home, ["s"])
    return table, compare(table)


@pytest.mark.slow
def test_one_seed_says_so(tmp_path: Path) -> None:
    table, comparison = calls_of(tmp_path, seeds=1, heads=("energy-quadric", "flow"))
    with style.house_style():
        section = calls_section(table, comparison)
    assert section is not None
    assert "single seed" in section.pictures[0].text
    assert any("no setting was repeated with another seed" in note for note in section.notes)
    point = call_lines(comparison, table.calls)[0].points.iloc[0]
    row = table.calls[table.calls["run_id"] == "s0-k4-energy-quadric"].iloc[0]
    assert (point["brierlm"], point["brierlm_se"]) == (row["brierlm"], row["brierlm_se"])


@pytest.mark.slow
def test_missing_points_free_tokens_and_zeros(tmp_path: Path) -> None:
    """Of one seed a point is missing, of one setting the curve; one head costs no FLOPs, all of it is 0."""
    make_heads_study(tmp_path, "s", tradeoff=False, samples=False, seeds=2)
    for name in ("s0-k4-flow", "s1-k4-flow", "s0-k4-diffusion", "s0-k4-energy-power", "s1-k4-energy-power"):
        run = tmp_path / "s" / name
        record = records.read_record(run)
        if name == "s0-k4-flow":
            record.call_curve = [p for p in record.call_curve if p.network_calls != 8]
        elif name == "s1-k4-flow":
            record.call_curve.append(record.call_curve[0])  # the same point twice
        elif name == "s0-k4-diffusion":
            record.call_curve = []
        else:
            (point,) = record.call_curve
            nothing = {"brier": [0.0] * 4, "brier_se": [0.0] * 4, "brierlm": 0.0, "brierlm_se": 0.0}
            brier = point.brier.model_copy(update=nothing)
            record.call_curve = [point.model_copy(update={"infer_flops_per_token": 0.0, "brier": brier})]
        records.write_record(run, record)
    table = load_runs(tmp_path, ["s"])
    comparison = compare(table)
    named = by_name(call_lines(comparison, table.calls))
    points = named["flow, midpoint"].points.set_index("network_calls")
    assert points.loc[8, "num_seeds"] == 1
    assert points.loc[4, "num_seeds"] == 2
    assert named["diffusion, ddpm"].points["num_seeds"].tolist() == [1] * len(CALLS)
    with style.house_style():
        section = calls_section(table, comparison)
    assert section is not None
    assert "energy, power" in section.pictures[0].svg
    assert "energy, power" not in section.pictures[1].svg
    assert "of a single seed, one standard error" in section.pictures[0].text
    assert section.tables[0].rows[-1][0] == "energy, power"


@pytest.mark.slow
def test_nothing_above_0_is_said(tmp_path: Path) -> None:
    table, comparison = calls_of(tmp_path, seeds=1, heads=("flow",))
    calls = table.calls.assign(brierlm=0.0, brierlm_high=0.4, weak_orders="4")
    with style.house_style():
        section = calls_section(replace(table, calls=calls), comparison)
    assert section is not None
    assert section.notes[0] == "No setting has a BrierLM that can be told from 0 with any number of network calls."
    assert "hollow point" in section.pictures[0].text
    assert calls_table(call_lines(comparison, calls), [], None).rows[0][1] == "1"


def test_no_curves_no_section(heads: RunTable, comparison: Comparison) -> None:
    assert calls_section(replace(heads, calls=heads.calls.iloc[:0]), comparison) is None
    other = heads.calls.assign(run_id="not compared")
    assert calls_section(replace(heads, calls=other), comparison) is None


def test_several_chunk_sizes_are_in_the_names(tmp_path: Path) -> None:
    table, comparison = calls_of(tmp_path, seeds=1, heads=("energy-quadric", "flow"), chunk_sizes=(2, 4))
    names = set(by_name(call_lines(comparison, table.calls)))
    assert {"energy, K 4", "energy, K 2", "flow, K 2, midpoint"} <= names
    assert comparison.dimension.is_k


@pytest.mark.slow
def test_of_studies_in_which_no_head_differs_few_claim_that_one_does(tmp_path: Path) -> None:
    """100 studies of four equal settings with three seeds and three numbers of calls each; scores with other calls
    are those of the last evaluation with a third of its own noise on top. A share of 5 % has an error of 2.2 %."""
    make_heads_study(tmp_path, "s", calls=False, tradeoff=False, samples=False)
    table, rng = load_runs(tmp_path, ["s"]), np.random.default_rng(5)
    kept = table.runs[table.runs["status"] == "completed"]
    table = narrowed(replace(table, runs=kept))
    settings = {str(name): part["run_id"].tolist() for name, part in kept.groupby("setting", sort=False)}
    made, first = [], None
    for _ in range(100):
        drawn = with_scores(table, simulate(rng, settings, Noise(0.03, 0.1)))
        comparison = compare(drawn) if first is None else compared_again(first, drawn)
        first = first or comparison
        found = ranked(call_lines(comparison, _calls(drawn.runs, rng)), comparison)
        assert len(found) == 4
        made.append(any(one.difference.verdict in (BETTER, WORSE) for one in found if one.difference))
    assert np.mean(made) <= 0.1


def _calls(runs: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    rows = runs[runs["kind"] == "calm"].assign(weak_orders="", seconds=1.0, solver="one")
    rows = pd.concat([rows.assign(network_calls=calls) for calls in (8, 20, 50)], ignore_index=True)
    return rows.assign(brierlm=rows["brierlm"] + rng.normal(0, 0.03 * SCALE / 6, len(rows)))

"""Samplers at equal collision: readings of curves by hand, their errors, and what is said."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import plots_samplers, style
from analysis.comparison import Comparison, compare
from analysis.samplers import (
    Curve,
    Panel,
    common_level,
    compare_samplers,
    num_windows,
    panels,
    read,
)
from analysis.sections_sampling import equal_words, samplers_section
from analysis.table import RunTable, load_runs
from analysis.tables_sampling import sampler_cost_table
from tests.suites.synthetic_heads import TEMPERATURES, make_heads_study
from workbench import records
from workbench.uncertainty import t_quantile


def points(*rows: tuple[float, float], error: float = 0.1, fallback: float = 0.0) -> pd.DataFrame:
    """(collision, accuracy) each."""
    return pd.DataFrame(
        [
            {
                "collision": x,
                "accuracy": y,
                **{f"{name}{kind}": error for name in ("collision", "accuracy") for kind in ("_se", "_own")},
                "fallback_share": fallback,
                "calls_per_chunk": 4.0**i,
            }
            for i, (x, y) in enumerate(rows)
        ]
    )


def test_curves_are_read_linearly_with_errors_in_both_directions() -> None:
    curve = points((10.0, 20.0), (30.0, 30.0), (50.0, 34.0))
    found = read(curve, 15.0)
    assert found is not None
    assert found.accuracy == pytest.approx(22.5)
    # weights 3/4 and 1/4; an error along the collision axis moves the line by its slope, 1/2
    wanted = math.sqrt((0.75**2 + 0.25**2) * (0.1**2 + (0.5 * 0.1) ** 2))
    assert found.error == pytest.approx(wanted)
    assert found.calls == pytest.approx(4.0**0.25)
    at_point = read(curve, 30.0)
    assert at_point is not None
    assert at_point.accuracy == pytest.approx(30.0)
    assert read(curve, 50.0) is not None
    assert read(curve, 50.1) is None
    assert read(curve, 9.9) is None
    assert read(curve.iloc[:1], 10.0) is None


@pytest.mark.slow
def test_the_error_of_a_reading_is_that_of_many_studies() -> None:
    """Against simulation: points scattered by their errors, read again."""
    rng, found = np.random.default_rng(0), []
    true = points((10.0, 20.0), (30.0, 30.0), error=0.8)
    for _ in range(800):
        moved = true.assign(
            collision=true["collision"] + rng.normal(0, 0.8, 2), accuracy=true["accuracy"] + rng.normal(0, 0.8, 2)
        )
        reading = read(moved, 18.0)
        assert reading is not None
        found.append(reading.accuracy)
    exact = read(true, 18.0)
    assert exact is not None
    assert np.std(found) == pytest.approx(exact.error, rel=0.1)
    assert np.mean(found) == pytest.approx(exact.accuracy, abs=0.1)


def test_points_of_undecided_chunks_and_equal_collisions() -> None:
    curve = points((10.0, 20.0), (20.0, 24.0), (40.0, 40.0))
    curve.loc[2, "fallback_share"] = 0.06
    assert read(curve, 30.0) is None
    twice = points((10.0, 20.0), (10.0, 22.0), (30.0, 30.0))
    found = read(twice, 10.0)
    assert found is not None
    assert found.accuracy == pytest.approx(21.0)
    assert math.isfinite(found.error)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    """Two heads with three seeds and the baselines, samplers only."""
    home = tmp_path_factory.mktemp("samplers") / "runs"
    make_heads_study(home, heads=("energy-quadric", "flow"), calls=False, samples=False)
    return load_runs(home)


@pytest.fixture(scope="module")
def comparison(heads: RunTable) -> Comparison:
    return compare(heads)


@pytest.fixture(scope="module")
def found(heads: RunTable, comparison: Comparison) -> list[Panel]:
    return panels(comparison, heads.tradeoffs)


def test_rows_say_whose_points_they_are(heads: RunTable) -> None:
    rows = heads.tradeoffs
    batch = rows[(rows["run_id"] == "s0-k4-flow") & (rows["sampler"] == "batch")]
    assert batch["batch_size"].tolist() == [n for n in (8, 32, 128) for _ in range(4)]
    assert batch["noise_scale"].isna().all()
    assert set(rows.loc[rows["sampler"] == "softmax", "num_tokens"]) == {2, 4}
    assert rows["batch_size"].dtype == "Int64"


def test_a_panel_holds_the_samplers_and_the_best_baseline_at_as_many_tokens(found: list[Panel]) -> None:
    assert [panel.name for panel in found] == ["energy", "flow"]
    curves = {curve.name: curve for curve in found[0].curves}
    assert list(curves) == [
        "exact", "batch N = 8", "batch N = 32", "batch N = 128", "noise scale", "softmax of the token baseline"
    ]  # fmt: skip
    assert curves["exact"].points["level"].tolist() == list(TEMPERATURES)
    softmax = curves["softmax of the token baseline"]
    assert softmax.setting.run_ids == [f"baseline-0-s{seed}" for seed in range(3)]
    assert set(pd.concat(softmax.runs)["num_tokens"]) == {4}
    # batch draws at temperature 1 what exact does
    batch = curves["batch N = 8"]
    assert batch.points["level"].tolist() == list(TEMPERATURES)
    assert batch.points["accuracy"].iloc[0] == curves["exact"].points["accuracy"].iloc[0]
    assert batch.measured["level"].tolist() == list(TEMPERATURES[1:])
    assert curves["exact"].points["num_seeds"].tolist() == [3] * 5


def test_the_common_level_is_where_most_can_be_read(found: list[Panel]) -> None:
    level = common_level(found[0].curves)
    assert level is not None
    readable = [curve.name for curve in found[0].curves if curve.covers(level)]
    assert len(readable) == 6
    assert common_level(found[0].curves[:1]) is None
    apart = [replace(found[0].curves[0], points=points((x, 1.0), (x + 1, 2.0))) for x in (1.0, 5.0)]
    assert common_level(apart) is None


def test_differences_at_equal_collision(found: list[Panel]) -> None:
    one = compare_samplers(found)[0]
    rows = {row.curve.name: row for row in one.rows}
    noise, exact, softmax = rows["noise scale"], rows["exact"], rows["softmax of the token baseline"]
    assert one.comparisons == 2 * (4 + 5)
    assert noise.reading is not None
    assert exact.reading is not None
    assert softmax.reading is not None
    assert noise.to_exact is not None
    assert noise.to_exact.value == pytest.approx(noise.reading.accuracy - exact.reading.accuracy)
    assert exact.to_exact is None
    assert exact.to_softmax is not None
    assert exact.to_softmax.verdict == "worse"
    assert (softmax.to_exact, softmax.to_softmax) == (None, None)
    # never narrower than what the errors of the evaluation alone make, with as many clusters as windows
    assert num_windows(exact.curve) == 24
    own = t_quantile(23, comparisons=18) * math.hypot(noise.reading.own, exact.reading.own)
    assert noise.to_exact.low is not None
    assert noise.to_exact.value - noise.to_exact.low > own


@pytest.mark.slow
def test_more_scatter_between_seeds_makes_wider_intervals(heads: RunTable, comparison: Comparison) -> None:
    def width(tradeoffs: pd.DataFrame) -> float:
        one = compare_samplers(panels(comparison, tradeoffs))[0]
        gap = next(row.to_exact for row in one.rows if row.curve.sampler == "noise")
        assert gap is not None
        assert gap.low is not None
        return gap.value - gap.low

    rows = heads.tradeoffs
    lucky = rows["run_id"].str.startswith("s1") & (rows["sampler"] == "noise")
    moved = rows.assign(accuracy=rows["accuracy"] + 4.0 * lucky)
    assert width(moved) > 1.5 * width(rows)


@pytest.mark.slow
def test_words_figures_and_tables(heads: RunTable, comparison: Comparison) -> None:
    with style.house_style():
        section = samplers_section(heads, comparison)
    assert section is not None
    assert [picture.name for picture in section.pictures] == ["samplers", "sampler-time"]
    text = section.notes[0]
    assert text.startswith("Energy, where two draws agree in ")
    assert "softmax of the token baseline " in text.split("exact")[0]
    assert "All others are below the baseline's softmax." in text
    main = section.pictures[0]
    for words in ("batch N = 8", "noise scale", "&gt; 5 % undecided", "0.75"):
        assert words in main.svg
    assert "Hollow: more than 5 % of the chunks" in main.text
    assert "the next 4 tokens drawn are right" in main.text
    equal, cost = section.tables
    assert len(equal.rows) == 12
    assert [row[2] for row in cost.rows][:2] == ["1.0 (τ = 1) to 870.0 (τ = 0.3)", "8.0"]
    assert cost.rows[0][4] == "up to 22.0 % (τ = 0.3)"


# ---- awkward --------------------------------------------------------------------------------------------


def load(home: Path, **options: Any) -> tuple[RunTable, Comparison]:
    make_heads_study(home, "s", calls=False, samples=False, **options)
    table = load_runs(home, ["s"])
    return table, compare(table)


@pytest.mark.slow
def test_chunks_of_several_lengths_have_panels_of_their_own(tmp_path: Path) -> None:
    table, comparison = load(tmp_path, seeds=1, heads=("energy-quadric", "flow"), chunk_sizes=(2, 4))
    found = panels(comparison, table.tradeoffs)
    assert [panel.num_tokens for panel in found][:2] in ([2, 4], [4, 2])  # the best of each length first
    assert {panel.name for panel in found} == {"energy, K 2", "energy, K 4", "flow, K 2", "flow, K 4"}
    for panel in found:
        softmax = panel.curves[-1]
        assert set(softmax.runs[0]["num_tokens"]) == {panel.num_tokens}
    with style.house_style():
        picture = plots_samplers.tradeoff_figure(found)
    assert picture is not None
    assert "the next chunk drawn is right" in picture.text
    assert "single seeds" in picture.text


@pytest.mark.slow
def test_single_seeds_have_the_errors_of_the_evaluation(tmp_path: Path) -> None:
    table, comparison = load(tmp_path, seeds=1, heads=("flow",))
    one = compare_samplers(panels(comparison, table.tradeoffs))[0]
    exact = one.rows[0].curve.points
    own = table.tradeoffs[(table.tradeoffs["run_id"] == "s0-k4-flow") & (table.tradeoffs["sampler"] == "exact")]
    assert exact["accuracy_se"].tolist() == own["accuracy_se"].tolist()
    noise = next(row for row in one.rows if row.curve.sampler == "noise")
    assert noise.reading is not None
    assert noise.reading.error == noise.reading.own
    with style.house_style():
        section = samplers_section(table, comparison)
    assert section is not None
    assert "without the noise of training" in section.notes[1]


def thin(home: Path, keep: dict[str, list[int] | None]) -> tuple[RunTable, Comparison]:
    """One seed of two settings; ``keep``: points of a kind of run that stay (None: all)."""
    make_heads_study(home, "s", seeds=1, heads=("energy-quadric", "flow"), calls=False, samples=False)
    for run in sorted((home / "s").glob("*s0*")):
        record = records.read_record(run)
        for name, places in keep.items():
            if name in run.name and places is not None:
                record.tradeoff = [record.tradeoff[i] for i in places]
        records.write_record(run, record)
    table = load_runs(home, ["s"])
    return table, compare(table)


@pytest.mark.slow
@pytest.mark.parametrize(
    "keep",
    [
        {"energy": [], "flow": [0]},  # a curve of one point
        {"energy": [0, 1, 2], "flow": []},  # exact alone, and the baseline
        {"energy": [], "flow": [], "baseline": None},  # the baseline alone
        {"baseline": []},
        {"energy": [5, 6], "flow": [17, 18, 19], "baseline": []},  # nothing to compare with
    ],
)
def test_what_is_missing_does_not_fail(tmp_path: Path, keep: dict[str, list[int] | None]) -> None:
    table, comparison = thin(tmp_path, keep)
    with style.house_style():
        section = samplers_section(table, comparison)
    assert section is not None
    assert section.pictures
    assert section.tables


@pytest.mark.slow
def test_zeros_everywhere(tmp_path: Path) -> None:
    table, comparison = load(tmp_path, seeds=1, heads=("flow",))
    nothing = dict.fromkeys(("accuracy", "accuracy_se", "collision", "collision_se", "seconds_per_token"), 0.0)
    table = replace(table, tradeoffs=table.tradeoffs.assign(**nothing))
    with style.house_style():
        section = samplers_section(table, comparison)
    assert section is not None
    assert [picture.name for picture in section.pictures] == ["samplers"]  # no time is known
    assert "no two samplers share a collision rate" in section.notes[0]


def test_without_an_error_nothing_is_claimed(found: list[Panel]) -> None:
    blind = [
        replace(curve, points=curve.points.assign(accuracy_own=0.0, collision_own=0.0))
        for curve in found[0].curves
    ]
    one = compare_samplers([replace(found[0], curves=blind)])[0]
    gaps = [row.to_exact for row in one.rows if row.to_exact]
    assert gaps
    assert all(gap.verdict == "not decidable from this study" for gap in gaps)
    (words,) = equal_words(one)
    assert "indistinguishable" not in words


def test_no_tradeoffs_no_section(heads: RunTable, comparison: Comparison) -> None:
    assert samplers_section(replace(heads, tradeoffs=heads.tradeoffs.iloc[:0]), comparison) is None


def test_costs_of_a_sampler_without_its_plain_point() -> None:
    rows = points((10.0, 20.0), (30.0, 30.0)).assign(level=[0.5, 0.3], sampler="batch", seconds_per_token=0.001)
    curve = Curve(None, "batch", 8, rows, [])  # type: ignore[arg-type]
    table = sampler_cost_table([Panel(None, "flow", 4, [curve])])  # type: ignore[arg-type]
    assert table.rows == [["flow", "batch N = 8", "1.0 (τ = 0.5) to 4.0 (τ = 0.3)", "1.000", "–"]]

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import style
from analysis.comparison import Comparison, compare
from analysis.frontier import DOMINATED, ON, select, with_status
from analysis.frontier_pairs import difference_reach, paired_gaps
from analysis.frontier_view import view
from analysis.plots_frontier import view_figure
from analysis.sections_frontier import frontier_section, frontier_views, sections_external, settings_of
from analysis.table import RunTable
from tests.suites.synthetic_scaling import Plan, Truth, evaluations
from workbench.positions import PositionScores
from workbench.seeds import seed_noise, setting_difference
from workbench.uncertainty import Linearised


@pytest.fixture(scope="module")
def comparison(table: RunTable) -> Comparison:
    return compare(table)


def scores(shift: float, seed: int, shared: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """(40 windows, 8 positions, 4 orders): what all runs share, a run's own noise, and its level."""
    own = np.random.default_rng(seed).normal(0, 0.01, shared.shape)
    return np.asarray(shared + own + shift, dtype=np.float32)


@pytest.fixture
def four() -> dict[str, PositionScores]:
    shared = 0.3 + np.random.default_rng(9).normal(0, 0.1, (40, 8, 4))
    starts, clusters = np.arange(40), np.arange(40) // 2
    values = {f"r{i}": scores(shift, i, shared) for i, shift in enumerate((0.02, 0.0, 0.0, 0.021))}
    common = {"fingerprint": "f", "step": 7, "starts": starts, "clusters": clusters}
    return {name: PositionScores(values=v, **common) for name, v in values.items()}  # type: ignore[arg-type]


def test_paired_intervals_are_those_of_two_settings(four: dict[str, PositionScores]) -> None:
    values = [four[f"r{i}"].values for i in range(4)]
    clusters = four["r0"].clusters
    runs = [Linearised.of(v, clusters) for v in values]
    noise = seed_noise([values[1:3]], clusters)
    assert noise is not None
    for given in (None, noise):
        half = difference_reach(runs, given, 1)
        for i, j in ((0, 1), (0, 3), (2, 3)):
            wanted = setting_difference([values[i]], [values[j]], clusters, given)
            assert half[i, j] == pytest.approx((wanted.high - wanted.low) / 2, rel=1e-6)


def test_pairs_tell_apart_what_independent_errors_do_not(four: dict[str, PositionScores]) -> None:
    brierlm = [Linearised.of(four[f"r{i}"].values, four["r0"].clusters).brierlm for i in range(4)]
    rows = pd.DataFrame(
        {
            "run_id": list(four), "step": 7, "train_flops": [1.0, 1.0, 2.0, 1.0], "brierlm": brierlm,
            "brierlm_se": 2.0, "num_clusters": 20, "weak_orders": "", "phase": "decayed", "fingerprint": "f",
        }
    )  # fmt: skip
    alone = with_status(rows).set_index("run_id")["status"]
    assert (alone != DOMINATED).all()
    gaps = paired_gaps(four, None)
    found = with_status(rows, paired=gaps).set_index("run_id")
    assert found.loc["r3", "status"] == ON
    assert found.loc[["r1", "r2"], "status"].tolist() == [DOMINATED, DOMINATED]
    assert (found.loc[["r1", "r2"], "gap_low"] > 0).all()
    other_step = with_status(rows.assign(step=6), paired=gaps)  # positions are of the last evaluation only
    assert (other_step["status"] != DOMINATED).all()
    together = with_status(rows.assign(num_seeds=2), paired=gaps)
    assert (together["status"] != DOMINATED).all()


@pytest.mark.slow
def test_the_section_of_a_study(table: RunTable, comparison: Comparison) -> None:
    with style.house_style():
        section = frontier_section(table, comparison)
    assert section is not None
    assert [p.name for p in section.pictures] == ["frontier-train-flops", "frontier-infer-flops-per-token"]
    tables = {one.name: one for one in section.tables}
    assert set(tables) == {
        "members-train-flops",
        "bands-train-flops",
        "members-infer-flops-per-token",
        "bands-infer-flops-per-token",
        "frontier_counts",
    }
    rows = tables["members-train-flops"].rows
    assert any("token baseline" in row and ON in row for row in rows)
    assert {len(row) for row in rows} == {len(tables["members-train-flops"].columns)}
    counts = tables["frontier_counts"]
    for row in counts.rows:
        assert int(str(row[3])) == sum(int(str(cell)) for cell in row[5:])
    assert {str(row[1]) for row in counts.rows} == {"constant rate", "end of decay"}
    assert any("standard deviation" in note for note in section.notes)


def test_seeds_are_put_together_and_the_other_kind_comes_last(table: RunTable, comparison: Comparison) -> None:
    settings = settings_of(table, comparison)
    assert len(set(settings.values())) < len(settings)
    views = frontier_views(table, comparison)
    assert [(one.cost, one.kind) for one in views] == [
        ("train_flops", "decayed"),
        ("train_flops", "constant"),
        ("infer_flops_per_token", "decayed"),
        ("infer_flops_per_token", "constant"),
    ]
    first = views[0].points
    assert first["num_seeds"].max() > 1
    assert first["num_seeds"].sum() == (select(comparison.evaluations, kind="decayed").points["run_id"].nunique())
    assert views[2].points["run_id"].is_unique


def test_without_a_known_score_there_is_no_section(table: RunTable, comparison: Comparison) -> None:
    zero = comparison.evaluations.assign(brierlm=0.0)
    assert frontier_section(table, replace(comparison, evaluations=zero)) is None
    assert frontier_section(table, replace(comparison, evaluations=zero.head(0))) is None


@pytest.mark.slow
def test_without_repeated_settings_it_says_what_the_intervals_lack(table: RunTable) -> None:
    made = evaluations(Truth(), Plan())
    alone = Comparison("made", made.head(0), made, "decayed", "", {"made": 60})
    runs = table.runs.head(0)
    with style.house_style():
        section = frontier_section(replace(table, runs=runs), alone)
    assert section is not None
    assert section.notes[-1].startswith("No setting was repeated with another seed, so training noise is in none")
    assert "evaluation noise only" in section.tables[0].caption


def test_within_a_family_and_among_all() -> None:
    found = view(evaluations(Truth(), Plan(chunks=(2, 4))))
    assert found is not None
    best = found.points[found.points["status"] == ON]
    assert set(best["family"]) == {"token baseline"}  # far ahead in this truth
    own = found.points[found.points["family_status"] == ON].groupby("family")["run_id"].nunique()
    assert own.to_dict() == {"K = 2": 4, "K = 4": 4, "token baseline": 4}  # one a budget
    with style.house_style():
        picture = view_figure(found)
        assert picture.svg == view_figure(found).svg
    assert "evaluation noise only" in picture.text


def test_results_of_others_beside_a_study(table: RunTable, comparison: Comparison) -> None:
    with style.house_style():
        section = sections_external([], table, comparison)
    assert [table_.name for table_ in section.tables][-1] == "external"
    models = [str(row[0]) for row in section.tables[-1].rows]
    assert models == ["CALM-M", "Transformer-S"]
    assert any("heights are not compared" in note for note in section.notes)

"""What a study can tell apart, and what it would take to tell more."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from analysis import plots_noise, style
from analysis.claims import controlled_pairs
from analysis.comparison import Comparison, compare
from analysis.noise import Needed, noise_floor, smallest_difference, what_it_takes, wished_differences
from analysis.plots_noise import seeds_figure
from analysis.sections import Section
from analysis.sections_compared import TOO_MANY, _needed_table, noise_section
from analysis.stats import Difference
from analysis.table import load_runs
from analysis.verdict import standings
from tests.suites.run_folders import make_run_folder
from workbench.seeds import SeedNoise, seeds_needed
from workbench.uncertainty import t_quantile


def noise(sd: float, dof: int) -> SeedNoise:
    return SeedNoise(sd, sd / 2, 2 * sd, sd, 0.0, dof, 4)


@pytest.mark.parametrize(
    ("dof", "seeds", "position_sd", "comparisons"),
    [(12, 3, 0.05, 1), (4, 2, 0.0, 1), (4, 2, 0.1, 11), (30, 2, 0.3, 11), (1, 2, 0.1, 6)],
)
def test_the_smallest_difference_is_shown_in_80_per_cent(
    dof: int, seeds: int, position_sd: float, comparisons: int
) -> None:
    """By drawing what such studies would measure; taking the measured noise for the true one in the half-width
    misses up to 7 %."""
    sd, clusters, rng = 0.2, 60, np.random.default_rng(0)
    true = smallest_difference(noise(sd, dof), seeds, position_sd, clusters, comparisons=comparisons)
    measured = sd * np.sqrt(rng.chisquare(dof, 100_000) / dof * 2 / seeds)
    half = np.hypot(
        t_quantile(dof, comparisons=comparisons) * measured,
        t_quantile(clusters - 1, comparisons=comparisons) * position_sd,
    )
    found = rng.normal(true, math.hypot(sd * math.sqrt(2 / seeds), position_sd), len(half))
    assert np.mean(found > half) == pytest.approx(0.8, abs=0.006)


def test_without_positions_it_is_a_noncentral_t() -> None:
    true = smallest_difference(noise(0.3, 8), 3, 0.0, 96)
    shift = true / (0.3 * math.sqrt(2 / 3))
    assert reference.nct.sf(reference.t.ppf(0.975, 8), 8, shift) == pytest.approx(0.8, abs=0.002)


def test_more_text_is_asked_for_only_where_seeds_do_not_do() -> None:
    found = what_it_takes(noise(0.2, 8), 0.5, 0.05, 2304)
    assert found == Needed(0.5, seeds_needed(noise(0.2, 8), 0.5, position_sd=0.05), None, None)
    assert found.seeds is not None
    # twice the text at which tau alone would hide it
    limited = what_it_takes(noise(0.2, 8), 0.1, 0.1, 2304)
    reach = reference.norm.ppf(0.975) + reference.norm.ppf(0.8)
    assert limited.seeds is None
    assert limited.positions == math.ceil(2304 * 2 * reach**2)
    assert limited.seeds_then == seeds_needed(noise(0.2, 8), 0.1, position_sd=0.1 / math.sqrt(2) / reach)
    assert limited.seeds_then is not None
    hopeless = what_it_takes(noise(5.0, 8), 0.1, 0.0, 2304)
    assert hopeless == Needed(0.1, None, None, None)


def test_so_much_text_and_so_many_seeds_do_show_it() -> None:
    """A study of the size that is asked for, from its noise as it would be then."""
    row = what_it_takes(noise(0.2, 8), 0.1, 0.1, 2304)
    assert row.positions is not None
    assert row.seeds_then is not None
    tau = 0.1 * math.sqrt(2304 / row.positions)
    then = noise(0.2, 2 * row.seeds_then - 2)
    assert smallest_difference(then, row.seeds_then, tau, 2000) == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize(
    ("best", "wanted"),
    [
        (4.0, [0.1, 0.2, 0.5, 1, 2]),
        (1.0, [0.02, 0.05, 0.1, 0.2, 0.5]),
        (9.2, [0.1, 0.2, 0.5, 1, 2]),
        (20.0, [0.5, 1, 2, 5, 10]),
        (0.0, []),
    ],
)
def test_wished_differences_fit_the_scores(best: float, wanted: list[float]) -> None:
    assert wished_differences(best) == pytest.approx(wanted)


# ---- of a study on disk -----------------------------------------------------------------------------------


def study(root: Path, *runs: dict[str, Any]) -> Comparison:
    for i, options in enumerate(runs):
        created = f"2026-01-01T00:{i:02d}:00+00:00"
        make_run_folder(root / "s" / f"r{i:02d}", num_points=2, plots=False, created=created, **options)
    return compare(load_runs(root, ["s"]))


def section_of(comparison: Comparison, monkeypatch: pytest.MonkeyPatch | None = None) -> Section:
    """With ``monkeypatch`` without its figure, which takes most of the time."""
    if monkeypatch is not None:
        monkeypatch.setattr(plots_noise, "seeds_figure", lambda comparison: None)
    floors = pd.DataFrame({"table": []})
    with style.house_style():
        return noise_section(comparison, standings(comparison, floors), controlled_pairs(comparison))


SEEDS = [
    {"chunk_size": k, "latent_dim": latent, "seed": seed, "brierlm": 2.0 + 0.3 * k + 0.1 * seed}
    for k in (1, 2)
    for latent in (16, 32)
    for seed in (0, 1, 2)
]


def test_the_section_says_noise_floor_and_seeds_needed(tmp_path: Path) -> None:
    comparison = study(tmp_path, *SEEDS, {"kind": "baseline"}, {"kind": "baseline", "seed": 1})
    section = section_of(comparison)
    measured = comparison.noise
    assert measured is not None
    assert (measured.dof, measured.num_settings) == (9, 5)
    gaps = [Difference(1.0, position_sd=tau) for tau in (0.01, 0.02, 0.9, None)]
    floor = noise_floor(comparison, gaps, comparisons=10)
    assert floor is not None
    assert (floor.num_seeds, floor.position_sd, floor.num_positions) == (3, 0.02, 2304)  # most have three seeds
    assert floor.smallest == smallest_difference(measured, 3, 0.02, 96)
    assert floor.smallest_corrected == smallest_difference(measured, 3, 0.02, 96, comparisons=10)
    text = " ".join(section.notes)
    assert f"scatters by {measured.sd:.2f}" in text
    assert f"[{measured.low:.2f}, {measured.high:.2f}]" in text
    assert "pooled over 5 settings with 14 runs" in text
    assert "between two settings with 3 seeds each this study could show" in text
    assert [table.name for table in section.tables] == ["noise", "needed"]
    rows = {row[0]: row[1] for row in section.tables[0].rows}
    assert rows["of it training"] == f"{measured.sd_training:.3f}"
    assert rows["of it evaluation, as far as seeds do not share it"] == f"{measured.sd_evaluation:.3f}"
    assert {"between seeds, CALM alone", "between seeds, token baselines alone"} <= set(rows)
    (picture,) = section.pictures
    assert "baseline, D 128, layers 2" in picture.svg


def test_columns_about_text_appear_where_text_is_what_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = study(tmp_path, *SEEDS)
    assert len(section_of(comparison, monkeypatch).tables[1].columns) == 2
    floor = noise_floor(comparison, [Difference(1.0, position_sd=0.3)], comparisons=1)
    assert floor is not None
    table = _needed_table(floor)
    assert table.columns[2:] == ["else, positions", "and seeds of each"]
    assert table.rows[0][1] == "seeds do not suffice"
    hopeless = [Needed(0.01, None, None, None), Needed(0.01, None, 10, None)]
    shown = _needed_table(replace(floor, needed=hopeless)).rows
    assert (shown[0][1], shown[1][3]) == (TOO_MANY, TOO_MANY)


def test_without_a_second_seed_nothing_is_known(tmp_path: Path) -> None:
    comparison = study(tmp_path, {"chunk_size": 1}, {"chunk_size": 4})
    section = section_of(comparison)
    assert noise_floor(comparison, [], comparisons=1) is None
    assert "neither the noise of training is known" in section.notes[0]
    assert (section.tables, section.pictures) == ([], [])


@pytest.mark.slow
def test_settings_at_zero_are_no_evidence_of_little_noise(tmp_path: Path) -> None:
    """Two seeds with a BrierLM of 0 do not scatter because the score is cut off there."""
    zero = [{"latent_dim": 8, "seed": seed, "brierlm": 0.0} for seed in (0, 1)]
    comparison, without = study(tmp_path / "a", *SEEDS, *zero), study(tmp_path / "b", *SEEDS)
    assert comparison.noise is not None
    assert without.noise is not None
    assert comparison.noise.sd == pytest.approx(without.noise.sd)
    assert comparison.noise.dof == without.noise.dof
    nothing = study(tmp_path / "c", *zero)
    assert nothing.noise is None
    assert seeds_figure(nothing) is None
    assert "orders clear of 0" in section_of(nothing).notes[0]


def test_noise_that_cannot_be_split_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = study(tmp_path, *[run | {"num_windows": None} for run in SEEDS])
    section = section_of(comparison, monkeypatch)
    assert comparison.noise is not None
    assert not comparison.noise_is_split
    assert "How much of it is the evaluation's own is not known" in " ".join(section.notes)
    assert "of it training" not in [row[0] for row in section.tables[0].rows]

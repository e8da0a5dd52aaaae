"""What settings are called, and by what a report groups them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.ablation import effects
from analysis.claims import controlled_pairs
from analysis.comparison import Comparison, compare
from analysis.dimension import CHUNK_SIZE
from analysis.naming import HEAD, idle, varied
from analysis.report import build
from analysis.sections_compared import pairs_table
from analysis.style import head_colour, head_marker
from analysis.table import RunTable, load_runs
from analysis.verdict import headline, standings
from tests.suites.run_folders import make_run_folder
from workbench import files

FLOW, DIFFUSION = {HEAD: "flow"}, {HEAD: "diffusion"}
QUADRIC = {"model.head.distance": "quadric"}


def study(
    root: Path,
    parameters: dict[str, list[Any]] | None,
    *runs: dict[str, Any],
    seeds: int = 1,
    scored: bool = False,
) -> tuple[RunTable, Comparison]:
    """``runs``: overrides of a CALM each, and options (``brierlm``); with ``baseline`` of a token baseline.
    ``scored``: with scores position by position, which make differences sharper and the test slower."""
    if parameters is not None:
        stated = {name: {"choices": choices} for name, choices in parameters.items()}
        files.write_json(root / "s" / "study.json", {"name": "s", "parameters": stated})
    number = 0
    for run in runs:
        options = dict(run)
        kind = "baseline" if options.pop("baseline", False) else "calm"
        own = {name: options.pop(name) for name in list(options) if "." not in name}
        for seed in range(seeds):
            make_run_folder(
                root / "s" / f"r{number:02d}",
                kind=kind,
                role="baseline" if kind == "baseline" else "trial",
                seed=seed,
                overrides=options,
                num_points=2,
                num_evaluations=2,
                plots=False,
                num_windows=96 if scored else None,
                created=f"2026-01-01T00:{number:02d}:00+00:00",
                **own,
            )
            number += 1
    table = load_runs(root, ["s"])
    return table, compare(table)


def names(comparison: Comparison) -> list[str]:
    return [comparison.name(setting, whole=True) for setting in comparison.settings]


HEADS = {HEAD: ["energy", "flow", "diffusion"], "model.head.distance": ["quadric", "power"]}


def test_a_setting_is_named_by_what_differs_and_applies(tmp_path: Path) -> None:
    _, comparison = study(tmp_path, HEADS, QUADRIC, FLOW, DIFFUSION, {})
    assert names(comparison) == ["energy, quadric", "flow", "diffusion", "energy, power"]
    assert [comparison.name(setting) for setting in comparison.settings] == ["quadric", "–", "–", "power"]


def test_one_energy_head_needs_no_distance(tmp_path: Path) -> None:
    _, comparison = study(tmp_path, HEADS, QUADRIC, FLOW)
    assert names(comparison) == ["energy", "flow"]


def test_without_a_stated_space_what_varies_makes_the_names(tmp_path: Path) -> None:
    table, comparison = study(tmp_path, None, {}, FLOW, {**FLOW, "model.head.num_draws": 8})
    # steps, calls and samples follow from the head; only the draws differ between runs with one head
    assert varied(comparison.calm, table.config_columns) == [HEAD, "model.head.num_draws"]
    assert names(comparison) == ["energy", "flow, draws 4", "flow, draws 8"]


def test_fields_without_effect_are_idle(tmp_path: Path) -> None:
    table, _ = study(tmp_path, None, QUADRIC, {"model.head.alpha": 1.25, "optim.kind": "muon"})
    quadric, power = (row for _, row in table.runs.iterrows())
    assert "model.head.alpha" in idle(quadric)
    assert {"model.head.quadric_scale", "model.head.quadric_gamma"} <= idle(power)
    assert "optim.momentum" in idle(quadric)
    assert "optim.momentum" not in idle(power)


@pytest.mark.slow
def test_baselines_that_differ_in_the_optimizer_alone_are_told_apart(tmp_path: Path, no_figures: None) -> None:
    muon = {"baseline": True, "optim.kind": "muon", "optim.lr": 6e-3}
    table, comparison = study(
        tmp_path, None, muon, {"baseline": True}, {"baseline": True, "num_layers": 4}, {}, seeds=2
    )
    assert names(comparison) == ["D 128, layers 2, muon", "D 128, layers 2, adamw", "D 128, layers 4", "–"]
    assert table.runs["setting"].tolist() == [name for name in names(comparison) for _ in range(2)]
    page = build(table, "s").html
    assert "D 128, layers 2, muon" in page
    assert "D 128, layers 2, adamw" in page


def test_other_runs_do_not_lengthen_names(tmp_path: Path) -> None:
    """Of pruned runs and checks, which differ in more, no name has to be told apart."""
    rate = {"optim.lr": 5e-4}
    table, comparison = study(tmp_path, HEADS, FLOW, {**FLOW, **rate, "status": "pruned"}, QUADRIC)
    assert names(comparison) == ["flow", "energy"]
    assert table.runs["setting"].tolist() == ["flow", "flow", "energy"]
    _, told = study(tmp_path / "more", HEADS, FLOW, {**FLOW, **rate}, QUADRIC)
    assert names(told) == ["flow, rate 0.001", "flow, rate 0.0005", "energy"]


# ---- what leads -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_of_one_chunk_size_leads_with_what_it_varies(tmp_path: Path, no_figures: None) -> None:
    baseline = {"baseline": True, "brierlm": 9.0}
    cells = [{**QUADRIC, "brierlm": 4.0}, {**FLOW, "brierlm": 3.0}, {**DIFFUSION, "brierlm": 2.0}]
    table, comparison = study(tmp_path, HEADS, *cells, {"brierlm": 3.6}, baseline, seeds=2, scored=True)
    dimension = comparison.dimension
    assert (dimension.column, dimension.values) == (HEAD, ("energy", "flow", "diffusion"))
    assert [key for key, _ in comparison.groups] == [None, "energy", "flow", "diffusion"]
    assert dimension.colour("flow") == head_colour("flow")
    assert dimension.marker("flow") == head_marker("flow")
    places = standings(comparison, table.floors)
    verdict = headline(comparison, places, [], controlled_pairs(comparison))
    lead = " ".join(verdict.lead)
    assert lead.startswith(
        "The best setting has head energy (quadric); it is above the best setting with head flow"
    )
    assert "With one parameter of it exchanged: worse with head flow (−1.00 [" in lead
    assert "distance of the score power (−0.40 [" in lead
    assert "Energy, flow and diffusion: the best setting is below the best token baseline" in lead
    assert "K" not in lead.replace("CALM", "")
    assert "Best setting per head at" in build(table, "s").html


def test_several_chunk_sizes_lead_unless_the_study_names_something_before_them(tmp_path: Path) -> None:
    cells = [{"chunk_size": k, "model.input_mode": mode} for k in (2, 4) for mode in ("tokens", "both")]
    modes = {"model.input_mode": ["tokens", "both"]}
    for i, (space, column) in enumerate(
        (
            ({CHUNK_SIZE: [2, 4], **modes}, CHUNK_SIZE),
            ({**modes, CHUNK_SIZE: [2, 4]}, "model.input_mode"),
            (None, CHUNK_SIZE),
        )
    ):
        _, comparison = study(tmp_path / str(i), space, *cells)
        assert comparison.dimension.column == column
    assert comparison.dimension.values == (2, 4)


@pytest.mark.parametrize(
    ("parameter", "values", "expected"),
    [
        ("model.input_mode", ("tokens", "latent", "both"), ["input tokens", "input latent", "input both"]),
        ("model.head.num_samples", (16, 2, 8), ["N = 2", "N = 8", "N = 16"]),
        ("optim.kind", ("muon", "adamw"), ["muon", "adamw"]),
    ],
)
def test_groups_are_ordered_and_named(
    tmp_path: Path, parameter: str, values: tuple[Any, ...], expected: list[str]
) -> None:
    _, comparison = study(tmp_path, {parameter: list(values)}, *[{parameter: value} for value in values])
    dimension = comparison.dimension
    assert [dimension.name(key) for key in dimension.values] == expected
    assert len({dimension.colour(key) for key in dimension.values}) == len(values)
    assert len({dimension.marker(key) for key in (*dimension.values, None)}) == len(values) + 1


def test_many_values_of_a_number_make_no_groups(tmp_path: Path) -> None:
    floors = [{"autoencoder.kl_floor": 0.1 * i, "brierlm": 3.0 + 0.1 * i} for i in range(1, 9)]
    table, comparison = study(tmp_path, {"autoencoder.kl_floor": []}, *floors)
    assert comparison.dimension.is_k
    places = standings(comparison, table.floors)
    lead = " ".join(headline(comparison, places, [], controlled_pairs(comparison)).lead)
    assert lead.startswith("The best of 8 CALM trained models is λ 0.8, at 3.80 ± ")
    assert "With one parameter of it exchanged" in lead


# ---- comparisons of settings that have different fields -------------------------------------------------


def test_controlled_pairs_ignore_what_only_one_of_the_two_has(tmp_path: Path) -> None:
    _, comparison = study(tmp_path, HEADS, QUADRIC, FLOW, DIFFUSION, {})
    pairs = controlled_pairs(comparison)
    table = pairs_table(comparison, pairs)
    assert {tuple(row[:3]) for row in table.rows} == {
        ("head", "energy, quadric → flow", "–"),
        ("head", "energy, power → flow", "–"),
        ("head", "diffusion → energy, quadric", "–"),
        ("head", "diffusion → flow", "–"),
        ("head", "diffusion → energy, power", "–"),
        ("distance of the score", "power → quadric", "energy"),
    }
    assert all(pair.difference.comparisons == 6 for pair in pairs)


def test_effects_compare_a_heads_own_fields_among_its_runs_alone(tmp_path: Path) -> None:
    """N helps by 1, and flow, which has no N, is far below: it must not stand for a value of N."""
    space = {HEAD: ["energy", "flow"], "model.head.num_samples": [2, 8], "model.input_mode": ["tokens", "both"]}
    cells = [
        {"model.head.num_samples": n, "model.input_mode": mode, "optim.lr": rate, "brierlm": score + bonus}
        for n, score in ((2, 5.0), (8, 6.0))
        for mode, bonus in (("tokens", 0.0), ("both", 0.4))
        for rate in (1e-3, 2e-3)
    ]
    cells += [{**FLOW, "model.input_mode": mode, "brierlm": 2.0} for mode in ("tokens", "both")]
    table, comparison = study(tmp_path, {**space, "optim.lr": [1e-3, 2e-3]}, *cells)
    found = {effect.parameter: effect for effect in effects(comparison, table.runs, table.config_columns)}
    samples = {value.value: value for value in found["model.head.num_samples"].values}
    assert (samples["2"].num_cells, samples["8"].num_cells) == (4, 4)
    assert samples["2"].difference is not None
    assert samples["2"].difference.value == pytest.approx(-1.0, abs=0.05)
    assert found["model.head.num_samples"].verdict == "8 is better than every other value"
    heads = {value.value: value for value in found[HEAD].values}
    assert heads["flow"].difference is not None
    assert heads["flow"].difference.value == pytest.approx(-3.7, abs=0.3)
    assert heads["flow"].verdict == "worse"

"""Configuration of the heads: ``kind`` alone changes the head, sampling can be changed after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.config_file import build_config, load_config, with_head_sampling
from workbench.errors import ConfigError
from workbench.head_sections import HEAD_SECTIONS, DiffusionHeadConfig, EnergyHeadConfig, FlowHeadConfig

ENERGY = {"model.head.num_targets": 7, "model.head.distance": "quadric", "model.head.num_blocks": 3}


@pytest.mark.parametrize(("kind", "section"), HEAD_SECTIONS.items())
def test_the_kind_alone_changes_the_head(kind: str, section: type) -> None:
    config = build_config(build_config({}, ENERGY).resolved().to_dict(), {"model.head.kind": kind})
    assert type(config.model.head) is section
    assert config.model.head.num_blocks == 3  # what both heads have stays
    back = build_config(config.to_dict(), {"model.head.kind": "energy"})
    assert back.model.head.num_targets == (7 if kind == "energy" else 100)


def test_equal_experiments_have_equal_hashes() -> None:
    plain = build_config({}, {"model.head.kind": "flow"}).resolved()
    switched = build_config({}, {"model.head.kind": "flow", "model.head.num_targets": 7}).resolved()
    assert plain.hash() == switched.hash()


@pytest.mark.parametrize(
    ("model", "same"),
    [
        ({"model.kind": "baseline"}, True),
        ({"model.head.kind": "energy"}, False),  # its one point is recorded where the comparison is asked for
        ({"model.head.kind": "flow"}, False),
    ],
)
def test_a_comparison_that_cannot_be_made_changes_no_hash(model: dict[str, Any], same: bool) -> None:
    plain = build_config({}, model).resolved()
    asked = build_config({}, {**model, "eval.network_calls": [1, 4], "eval.solvers": ["euler"]}).resolved()
    assert (plain.hash() == asked.hash()) == same


def test_solvers_mean_nothing_to_an_energy_head() -> None:
    calls = {"eval.network_calls": [1]}
    plain = build_config({}, calls).resolved()
    assert plain.hash() == build_config({}, {**calls, "eval.solvers": ["rk4"]}).resolved().hash()


def test_a_solver_of_another_head_is_dropped_with_the_rest() -> None:
    flow = build_config({}, {"model.head.kind": "flow", "model.head.solver": "rk4"})
    diffusion = build_config(flow.to_dict(), {"model.head.kind": "diffusion"})
    assert diffusion.model.head.solver == "ddpm"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.head.kind": "gan"}, "one of energy, diffusion, flow is wanted, 'gan' given"),
        ({"model.head.kind": "flow", "model.head.num_blok": 1}, "did you mean model.head.num_blocks"),
        ({"model.head.kind": "flow", "model.head.solver": "heun"}, "'euler', 'midpoint', 'adams' or 'rk4'"),
        ({"model.head.kind": "diffusion", "model.head.num_steps": 1}, "greater than or equal to 2; given: 1"),
        ({"model.head.alpha": 2.0}, "strictly proper"),
    ],
)
def test_what_no_head_has_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config({}, overrides)


@pytest.mark.parametrize(
    ("fields", "solver", "calls"),
    [
        ({}, "midpoint", 20),
        ({"num_calls": 1}, "euler", 1),
        ({"num_calls": 5}, "midpoint", 4),
        ({"solver": "rk4", "num_calls": 3}, "euler", 3),
        ({"solver": "rk4", "num_calls": 11}, "rk4", 8),
        ({"solver": "adams", "num_calls": 7}, "adams", 7),
    ],
)
def test_a_flow_head_takes_whole_steps_within_its_budget(fields: dict[str, Any], solver: str, calls: int) -> None:
    config = FlowHeadConfig(**fields)
    assert (config.solver_used, config.network_calls) == (solver, calls)


def test_other_heads_calls() -> None:
    assert EnergyHeadConfig().network_calls == 1
    assert DiffusionHeadConfig().network_calls == 100
    assert DiffusionHeadConfig(num_steps=10).network_calls == 10


def test_sampling_of_a_trained_head_can_be_changed() -> None:
    trained = build_config({}, {"model.head.kind": "diffusion"}).resolved()
    changed = with_head_sampling(trained, {"model.head.num_calls": 4, "model.head.solver": "ddim"})
    assert changed.model.head == trained.model.head.model_copy(update={"num_calls": 4, "solver": "ddim"})
    assert with_head_sampling(trained, {}) == trained


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("flow", "model.head.num_draws", "can be sampled with another model.head.solver"),
        ("energy", "model.head.num_calls", "the energy head always makes one network call"),
        ("energy", "model.head.num_samples", "head energy has no settings of sampling"),
        ("flow", "model.head.num_cals", "unknown field model.head.num_cals; did you mean model.head.num_calls"),
        ("flow", "optim.lr", "cannot be changed without training anew"),
    ],
)
def test_what_needs_another_training_is_refused(kind: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_head_sampling(build_config({}, {"model.head.kind": kind}).resolved(), {name: 2})


@pytest.mark.parametrize("tree", [{}, {"model": {"kind": "baseline"}}])
def test_another_text_is_another_run(tree: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"data\.corpus cannot be changed of a run .* import them again with it"):
        with_head_sampling(build_config(tree).resolved(), {"data.corpus": "kjv"})


def test_another_heads_solver_is_refused_and_not_dropped() -> None:
    trained = build_config({}, {"model.head.kind": "flow", "model.head.solver": "rk4"}).resolved()
    with pytest.raises(ConfigError, match="flow head has the solvers euler, midpoint, adams, rk4; 'ddim' given"):
        with_head_sampling(trained, {"model.head.solver": "ddim"})


def test_who_sets_another_heads_field_by_hand_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: {kind: calm, head: {num_draws: 3}}\n")
    assert load_config(tmp_path / "mine.yaml").model.head.kind == "energy"  # in a file it may stand
    with pytest.raises(ConfigError, match=r"num_calls has no effect: .* is energy, .* diffusion and flow"):
        load_config(tmp_path / "mine.yaml", {"model.head.num_calls": 4})
    with pytest.raises(ConfigError, match="'ddpm' given"):
        load_config(tmp_path / "mine.yaml", {"model.head.kind": "flow", "model.head.solver": "ddpm"})
    assert load_config(tmp_path / "mine.yaml", {"model.head.kind": "flow"}).model.head.num_draws == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"eval.solvers": ["midpoint", "heun"]}, "eval.solvers.1"),
        ({"eval.tradeoff.num_tokens": [4, 16]}, "tradeoff.num_tokens 16 is more than grid_stride 8"),
    ],
)
def test_comparisons_after_training_are_checked_before(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config({}, overrides)


def test_a_section_that_was_left_out_can_be_set_by_its_fields() -> None:
    config = build_config(build_config({}).to_dict(), {"eval.tradeoff.num_windows": 7})
    assert config.eval.tradeoff is not None
    assert config.eval.tradeoff.num_windows == 7


def test_a_baseline_has_no_settings_of_sampling() -> None:
    with pytest.raises(ConfigError, match="a token baseline has no settings of sampling"):
        with_head_sampling(build_config({}, {"model.kind": "baseline"}), {"model.head.num_calls": 2})

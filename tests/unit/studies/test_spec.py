"""Presets, the frozen specification, and what counts as another one."""

import copy
import dataclasses
import json
from collections import Counter

import pytest

from studies import find_studies
from studies.search_spec import Choices, PrunerSpec, Range
from studies.space import setting_config
from studies.spec import StudySpec, amend, differences, freeze
from tests.suites.cells_only import CELLS
from tests.suites.study_launch import TINY, tiny_spec, tiny_study
from workbench.errors import ConfigError, StudyError


@pytest.mark.slow
def test_the_presets_of_every_study_are_valid():
    for study in find_studies().values():
        presets = study.load_presets()
        assert {"quick", "cpu"} <= set(presets)
        for preset in presets:
            spec = freeze(study, preset)
            assert spec.name == f"{study.name}-{preset}"
            assert len(spec.baselines) >= 3


def test_joint_searches_what_the_question_names():
    study = find_studies()["joint"]
    names = {"model.chunk_size", "autoencoder.latent_dim", "autoencoder.kl_floor"}
    quick, cpu = freeze(study, "quick"), freeze(study, "cpu")
    assert set(quick.space) == set(cpu.space) == names
    assert quick.space["model.chunk_size"] == cpu.space["model.chunk_size"] == Choices(choices=(1, 2, 4))
    # autoencoders can be shared from the cache only where the space is categorical
    assert all(isinstance(d, Choices) for d in quick.space.values())
    assert isinstance(cpu.space["autoencoder.latent_dim"], Range)
    assert cpu.space["autoencoder.latent_dim"].is_int
    assert cpu.space["autoencoder.latent_dim"].log
    assert quick.trials >= 12
    assert {s["model.chunk_size"] for s in quick.start} == {1, 2, 4}
    for spec in (quick, cpu):  # what the noise between seeds is measured by: four degrees of freedom at least
        start = Counter(json.dumps(setting, sort_keys=True) for setting in spec.start)
        cells = Counter(json.dumps({**cell, "seed": 0}, sort_keys=True) for cell in spec.baselines.values())
        assert len(spec.start) - len(start) >= 2
        assert len(spec.baselines) - len(cells) >= 2


def test_the_specification_is_complete_and_survives_json():
    spec = tiny_spec()
    assert spec.base["optim"]["clip"] == 1.0  # a default, frozen with the rest
    again = StudySpec.model_validate(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.hash() == spec.hash()


def test_editing_the_preset_afterwards_changes_nothing():
    presets = copy.deepcopy(TINY)
    study = tiny_study()
    object.__setattr__(study, "presets", {"quick": presets})
    spec = freeze(study, "quick")
    before = spec.hash()
    presets["base"]["train"]["train_flops"] = 5e9
    presets["space"]["model.chunk_size"]["choices"].append(8)
    assert spec.hash() == before
    assert freeze(study, "quick").hash() != before


def test_differences_are_named_line_by_line():
    stored = tiny_spec()
    asked = amend(stored, seeds=3, overrides={"optim.clip": 2.0})
    assert differences(stored, asked) == ["base.optim.clip: 1.0 → 2.0", "seeds: 1 → 3"]
    assert differences(stored, stored) == []


def test_trials_may_be_raised_but_not_lowered():
    stored = tiny_spec()
    assert differences(stored, amend(stored, trials=9)) == []
    assert amend(stored, trials=9).hash() == stored.hash()
    assert differences(stored, amend(stored, trials=2)) == ["trials: 5 → 2 (they may be raised, not lowered)"]


def test_a_changed_search_space_is_a_difference():
    stored, asked = tiny_spec(), tiny_spec(space={"model.chunk_size": {"choices": [1, 2]}})
    lines = differences(stored, asked)
    assert any(line.startswith("space.model.chunk_size.choices:") for line in lines)
    assert any("autoencoder.kl_floor" in line and "(absent)" in line for line in lines)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(
        StudyError, match=r"study joint has no preset 'quik'; did you mean quick\? known: cpu, gpu, quick"
    ):
        find_studies()["joint"].preset("quik")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": -1}, r"trials: .*greater than or equal to 0; given: -1"),
        ({"trials": 0}, r"preset quick:\ntrials must be at least 1 where a space is searched, 0 given"),
        ({**CELLS, "trials": 3}, r"trials is about a search and space is empty; leave trials out or give a space"),
        ({**CELLS, "max_pruned": 3}, r"max_pruned is about a search"),
        ({**CELLS, "start": [{"model.chunk_size": 1}]}, r"start is about a search"),
        ({**CELLS, "checks": {"lr_factors": [2.0]}}, r"checks.lr_factors is about a search"),
        ({**CELLS, "baselines": {}}, r"nothing to run: give a space to search, or baselines"),
        ({"trails": 3}, r"trails: .*not permitted"),
        ({"space": {"model.chunk_size": {"low": 4, "high": 1}}}, r"low must be below high, 4 and 1 given"),
        ({"space": {"model.chunk_size": {"choices": [1, 1]}}}, r"choices must differ, \[1, 1\] given"),
        ({"heartbeat": {"interval": 60, "grace": 60}}, r"grace 60 must be at least twice the interval 60"),
    ],
)
def test_a_wrong_preset_is_explained(change, message):
    with pytest.raises(StudyError, match=message):
        tiny_spec(**change)


def test_every_reachable_configuration_is_checked_before_the_launch():
    with pytest.raises(StudyError, match=r"preset quick, chunk_size=3.*block_len 256 is not a multiple"):
        tiny_spec(space={"model.chunk_size": {"choices": [1, 3]}})
    with pytest.raises(StudyError, match=r"latent_dims"):
        tiny_spec(space={"autoencoder.latent_dims": {"choices": [16]}})
    with pytest.raises(StudyError, match=r"baseline bad: .*width 15"):
        tiny_spec(baselines={"bad": {"model.backbone.width": 15}})
    with pytest.raises(StudyError, match=r"baseline bad: a baseline is a token model; leave model.kind out"):
        tiny_spec(baselines={"bad": {"model.kind": "calm"}})
    with pytest.raises(StudyError, match=r"start: optim.lr is not in the search space"):
        tiny_spec(start=[{"optim.lr": 1e-3}])


def test_a_preset_without_a_search_needs_neither_space_nor_trials():
    """Space and trials may be left out altogether; nothing is left that would be searched or checked."""
    preset = {"base": TINY["base"], "baselines": TINY["baselines"]}
    study = dataclasses.replace(tiny_study(), presets={"quick": preset})
    spec = freeze(study, "quick")
    assert not spec.searches
    assert (spec.trials, spec.max_extra, spec.check_names, spec.num_settings()) == (0, 0, (), 0)
    assert tiny_spec().searches
    assert StudySpec.model_validate(json.loads(json.dumps(spec.to_dict()))) == spec
    assert differences(spec, amend(spec)) == []
    assert differences(spec, amend(spec, seeds=2)) == ["seeds: 1 → 2"]


@pytest.mark.parametrize("trials", [0, 3])
def test_trials_of_a_study_without_a_search_are_refused(trials):
    """Also 0, which would otherwise be told to be at least 1; and also when a launch is continued."""
    message = rf"--trials {trials}: .* has no search, only 2 fixed cells; leave it out \(--seeds N runs each cell"
    with pytest.raises(StudyError, match=message):
        freeze(tiny_study(**CELLS), "quick", trials=trials)
    with pytest.raises(StudyError, match=rf"--trials {trials}: tiny-quick has no search"):
        amend(tiny_spec(**CELLS), trials=trials)
    with pytest.raises(StudyError, match="--trials must be at least 1, 0 given"):
        freeze(tiny_study(), "quick", trials=0)


def test_what_every_cell_sets_itself_cannot_be_set_for_all():
    """``--set`` changes the base, so it would change nothing and say nothing."""
    cells = {
        "a": {"data.corpus": "kjv", "data.tokenizer": {"kind": "byte"}, "optim.clip": 2.0},
        "b": {"data.corpus": "kjv", "data.tokenizer.kind": "bpe", "data.tokenizer.vocab_size": 512},
    }
    study = tiny_study(**CELLS, baselines=cells)
    for name, value in (("data.corpus", "shakespeare"), ("data.tokenizer.kind", "byte")):
        with pytest.raises(
            StudyError, match=rf"{name} cannot be set: every cell of study tiny, preset quick, has"
        ):
            freeze(study, "quick", overrides={name: value})
    for name, value in (("clip", 3.0), ("lr", 1e-3)):  # of which one cell has its own, or none
        assert freeze(study, "quick", overrides={f"optim.{name}": value}).base["optim"][name] == value


def test_overrides_are_validated_and_may_not_fix_what_is_searched():
    with pytest.raises(ConfigError, match=r"unknown field optim.clipp; did you mean optim.clip"):
        freeze(tiny_study(), "quick", overrides={"optim.clipp": 1.0})
    with pytest.raises(StudyError, match=r"model.chunk_size cannot be set: study tiny searches over it"):
        freeze(tiny_study(), "quick", overrides={"model.chunk_size": 4})
    assert freeze(tiny_study(), "quick", overrides={"optim.clip": 2.0}).base["optim"]["clip"] == 2.0


def test_the_number_of_settings():
    assert tiny_spec().num_settings() == 18
    assert tiny_spec(space={"autoencoder.kl_floor": {"low": 0.0, "high": 1.0}}).num_settings() is None
    assert tiny_spec(space={"autoencoder.latent_dim": {"low": 8, "high": 64}}).num_settings() == 57


def test_pruned_trials_have_a_stated_maximum():
    assert tiny_spec().max_extra == 5
    assert tiny_spec(max_pruned=2).max_extra == 2
    assert PrunerSpec().warmup_evaluations >= 2  # slow starters get their time


GRID = {
    "space": {"model.chunk_size": {"choices": [1, 2]}, "train.train_flops": {"choices": [2e9, 4e9]}},
    "follows": {"model.chunk_size": {1: {"autoencoder.latent_dim": 8}, 2: {"autoencoder.latent_dim": 16}}},
    "sampler": {"kind": "grid"},
    "pruner": {"kind": "none"},
    "trials": 0,
    "start": [],
}


def test_a_grid_runs_every_setting_and_what_follows_from_it():
    spec = tiny_spec(**GRID)
    assert spec.trials == 4
    assert len(spec.start) == 4
    assert [tuple(setting.values()) for setting in spec.start] == [(1, 2e9), (1, 4e9), (2, 2e9), (2, 4e9)]
    configs = [setting_config(spec, setting) for setting in spec.start]
    assert [(c.chunk_size, c.autoencoder.latent_dim) for c in configs] == [(1, 8), (1, 8), (2, 16), (2, 16)]
    again = StudySpec.model_validate(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert setting_config(again, spec.start[2]).autoencoder.latent_dim == 16
    assert differences(spec, amend(spec)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {"autoencoder.kl_floor": {"low": 0.0, "high": 1.0}}, "follows": {}}, r"kl_floor is a range"),
        ({"pruner": {"kind": "percentile"}}, r"grid wants pruner.kind none, percentile given"),
        ({"trials": 3}, r"a grid runs all of its 4 settings; leave trials and start out"),
        ({"follows": {"optim.lr": {1: {"optim.clip": 2.0}}}}, r"follows: optim.lr must be in the space"),
        ({"follows": {"model.chunk_size": {1: {"optim.clip": 2.0}}}}, r"chunk_size 2 has no row; every choice"),
        ({"follows": {"model.chunk_size": {3: {"optim.clip": 2.0}}}}, r"3 is not a choice of model.chunk_size"),
        ({"follows": {"model.chunk_size": {k: {"train.train_flops": 1e9} for k in (1, 2)}}}, r"it is searched"),
        (
            {"follows": {n: {c: {"optim.clip": 2.0} for c in GRID["space"][n]["choices"]} for n in GRID["space"]}},
            r"optim.clip cannot follow from train.train_flops: it follows from model.chunk_size already",
        ),
    ],
)
def test_a_wrong_grid_is_explained(change, message):
    with pytest.raises(StudyError, match=message):
        tiny_spec(**{**GRID, **change})


def test_a_grid_takes_no_number_of_trials_and_no_setting_of_its_own():
    with pytest.raises(StudyError, match=r"--trials 9: .* is a grid and runs all of its 4 settings"):
        amend(tiny_spec(**GRID), trials=9)
    with pytest.raises(StudyError, match=r"autoencoder.latent_dim cannot be set: .*or over what it follows from"):
        amend(tiny_spec(**GRID), overrides={"autoencoder.latent_dim": 32})

"""Presets of studies that start from presets of runs: what they become, and what is refused."""

import dataclasses
import json

import pytest

from studies.space import baseline_config, setting_config
from studies.spec import Study, differences, freeze, from_stored, numbered
from tests.suites.study_launch import tiny_study
from workbench import config_file
from workbench.config_file import build_config, laid_over, load_config
from workbench.errors import StudyError

CELLS = {"m": {"preset": "transformer-m"}, "s": {"preset": "transformer-s", "optim.lr": 1e-4}, "own": {}}


def study(**preset) -> Study:
    given = {"base": {"preset": "calm-m"}, "space": {"optim.clip": {"choices": [1.0, 2.0]}}, "trials": 2}
    return dataclasses.replace(tiny_study(), presets={"quick": {**given, "baselines": CELLS, **preset}})


def same(config, name):
    """Equal to a run preset but for its name, and for the autoencoder that a baseline does not have."""
    wanted = load_config(name)
    ignored = {"name"} if wanted.is_calm else {"name", "autoencoder"}
    return config.model_dump(exclude=ignored) == wanted.model_dump(exclude=ignored)


class TestBase:
    def test_it_is_the_run_preset_with_the_rest_over_it(self):
        spec = freeze(study(), "quick")
        assert same(build_config(spec.base), "calm-m")
        assert spec.base["name"] is None
        more = {"optim": {"lr": 1e-4}, "model": {"head": {"num_samples": 2}}, "eval": {"split": "test"}}
        changed = build_config(freeze(study(base={"preset": "calm-m", **more}), "quick").base)
        flat = {"optim.lr": 1e-4, "model.head.num_samples": 2, "eval.split": "test"}
        assert changed == load_config("calm-m", {**flat, "name": None})

    def test_a_section_whose_kind_changes_is_replaced_as_a_whole(self):
        head, tokenizer = {"kind": "flow", "num_draws": 3}, {"kind": "byte"}
        base = {"preset": "calm-m", "model": {"head": head}, "data": {"tokenizer": tokenizer}}
        config = build_config(freeze(study(base=base), "quick").base)
        assert (config.model.head.kind, config.model.head.num_draws, config.model.head.num_blocks) == (
            "flow",
            3,
            None,
        )
        assert config.data.tokenizer.name is None
        assert config.model.backbone == load_config("calm-m").model.backbone
        token = {"preset": "calm-m", "model": {"kind": "baseline"}}
        cells = {"space": {}, "trials": 0}
        assert build_config(freeze(study(base=token, **cells), "quick").base).model.backbone.width == 128

    def test_a_budget_replaces_the_other_one(self):
        spec = freeze(study(base={"preset": "calm-m", "train": {"train_flops": 1e15}}), "quick")
        assert (spec.base["train"]["train_flops"], spec.base["train"]["train_tokens"]) == (1e15, None)
        assert spec.base["train"]["block_len"] == 8192


class TestBaselines:
    def test_they_are_the_run_presets_with_their_own_settings(self):
        spec = freeze(study(), "quick")
        assert same(baseline_config(spec, "m"), "transformer-m")
        small = baseline_config(spec, "s")
        assert small.optim.lr == 1e-4
        assert small.model == load_config("transformer-s").model
        assert small.train == load_config("transformer-s").train
        assert baseline_config(spec, "own").train.block_len == 8192

    def test_only_what_sets_them_apart_is_kept(self):
        spec = freeze(study(), "quick")
        own = {"optim.batch_positions": 2**21, "train.block_len": 2048, "runtime.micro_chunks": None}
        assert spec.baselines["m"] == own

    @pytest.mark.parametrize("base", [{"preset": "calm-m"}, {"model": {"backbone": {"width": 64}}}])
    def test_text_budget_and_evaluation_are_the_bases_own(self, base):
        own = {"data": {"corpus": "kjv", "hub": None, "tokenizer": {"kind": "byte"}}, "seed": 3,
               "train": {"train_flops": 1e15}, "eval": {"split": "test"}, "optim": {"lr": 1e-2}}  # fmt: skip
        spec = freeze(study(base={**base, **own}), "quick")
        config = baseline_config(spec, "m")
        assert (config.data.corpus, config.data.tokenizer.kind) == ("kjv", "byte")
        assert (config.train.train_flops, config.train.train_tokens) == (1e15, None)
        assert (config.train.block_len, config.eval.split, config.seed) == (2048, "test", 3)
        assert (config.eval.context_len, config.optim.lr) == (2048, 3e-4)
        assert config.model == load_config("transformer-m").model

    def test_what_is_set_at_the_launch_reaches_them(self):
        given = {"data.corpus": "json:mine.jsonl", "data.hub": None, "train.train_flops": 1e15, "optim.clip": 3.0}
        given |= {"data.tokenizer": {"kind": "byte"}}
        spec = freeze(study(space={}, trials=0), "quick", overrides=given)
        for cell in CELLS:
            config = baseline_config(spec, cell)
            assert (config.data.corpus, config.data.tokenizer.kind) == ("json:mine.jsonl", "byte")
            assert (config.train.train_flops, config.train.train_tokens, config.optim.clip) == (1e15, None, 3.0)

    def test_a_budget_or_a_section_of_a_cell_replaces_the_run_presets(self):
        base = {"model": {"backbone": {"width": 64}}}
        own = {"preset": "transformer-s", "train.train_flops": 1e15, "data.tokenizer": {"kind": "byte"}}
        config = baseline_config(freeze(study(base=base, baselines={"a": own}), "quick"), "a")
        assert (config.train.train_flops, config.train.train_tokens) == (1e15, None)
        assert (config.data.tokenizer.kind, config.data.corpus) == ("byte", "hub:monology/pile-uncopyrighted")


def test_what_is_frozen_needs_the_files_no_more(tmp_path, monkeypatch):
    spec = freeze(study(), "quick")
    stored = json.loads(json.dumps(numbered(spec)))
    monkeypatch.setattr(config_file, "PRESETS", tmp_path)
    again = from_stored(stored, "here")
    assert again == spec
    assert differences(again, spec) == []
    assert "preset" not in again.base
    assert all("preset" not in cell for cell in again.baselines.values())
    assert setting_config(again, {"optim.clip": 2.0}).model.backbone.width == 1024


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"base": {"preset": "calm-n"}},
            r"^study tiny, preset quick, base: there is no run preset 'calm-n'; did you mean calm-m\? known: ",
        ),
        ({"base": {"preset": "runs/calm-m.yaml"}}, r"there is no run preset 'runs/calm-m.yaml'; .*known: "),
        ({"base": {"preset": ["calm-m"]}}, r"there is no run preset \['calm-m'\]"),
        (
            {"baselines": {"a": {"preset": "transformer-x"}}},
            r"quick, baseline a: there is no run preset 'transformer-x'; did you mean transformer-",
        ),
        (
            {"baselines": {"a": {"preset": "calm-l"}}},
            r"run preset 'calm-l' is a CALM, a baseline is a token model; known: small-baseline, transf",
        ),
        (
            {"baselines": {"a": {"preset": "transformer-m", "model.kind": "baseline"}}},
            r"baseline a: model.kind beside preset, which says it; leave one of them out",
        ),
        ({"baselines": {"a": {"preset": "transformer-m", "model": {}}}}, r"baseline a: model beside preset"),
        ({"base": {"preset": "calm-m", "model.kind": "baseline"}}, r"base: unknown field model.kind"),
        ({"base": {"preset": "calm-m", "optim": {"lrr": 1}}}, r"preset quick, base: unknown field optim.lrr"),
        ({"baselines": {"a": {"preset": "transformer-m", "optim.lrr": 1}}}, r"baseline a: .*mean optim.lr\?"),
    ],
)
def test_what_cannot_be_is_one_message(change, message):
    with pytest.raises(StudyError, match=message):
        freeze(study(**change), "quick")


def test_what_is_laid_over_leaves_both_as_they_were():
    tree, over = {"a": {"b": 1, "kind": "x"}, "c": {"d": [1]}}, {"a": {"b": 2}, "c": {"e": {"f": 3}}}
    before = json.dumps([tree, over])
    made = laid_over(tree, over)
    assert made == {"a": {"b": 2, "kind": "x"}, "c": {"d": [1], "e": {"f": 3}}}
    made["c"]["d"].append(2)
    made["c"]["e"]["f"] = 4
    assert json.dumps([tree, over]) == before
    assert laid_over(tree, {"a": {"kind": "y"}, "c": None}) == {"a": {"kind": "y"}, "c": None}


def test_a_preset_may_ask_its_own_question():
    asked = freeze(tiny_study(question="at what size?", against="at none"), "quick")
    assert (asked.question, asked.against) == ("at what size?", "at none")
    assert freeze(tiny_study(), "quick").question == tiny_study().question

"""The configuration: what it refuses, what it fills in, what its hash depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml

from workbench import formats
from workbench.config import BaselineConfig, CalmConfig, RunConfig, content_hash
from workbench.config_file import (
    build_config,
    flatten,
    load_config,
    parse_assignments,
    preset_names,
    stored_config,
    with_overrides,
)
from workbench.errors import ConfigError, RunError

BUDGET = {"train_tokens": 1000}


class TestBadInput:
    """Every message names the field, the value and the remedy."""

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"model.chunk_sise": 4}, r"unknown field model\.chunk_sise; did you mean model\.chunk_size\?"),
            ({"modle.chunk_size": 4}, r"unknown field modle; did you mean model\?"),
            ({"model.backbone.widht": 4}, r"unknown field model\.backbone\.widht; .*model\.backbone\.width\?"),
            ({"model.head.num_sample": 4}, r"unknown field model\.head\.num_sample; .*num_samples\?"),
            ({"data.tokenizer.sort": 4}, r"unknown field data\.tokenizer\.sort; known here: kind, vocab_size"),
            ({"model.chunk_size": "four"}, r"model\.chunk_size: .*integer.*given: 'four'"),
            ({"model.chunk_size": 0}, r"model\.chunk_size: .*greater than 0; given: 0"),
            ({"model.backbone": 7}, r"model\.backbone: .*given: 7"),
            ({"model.kind": "gpt"}, r"model: .*'gpt'.*'calm'"),
            ({"train.block_len": 250}, r"block_len 250 .*chunk_size 4; nearest lengths: 248 or 252"),
            ({"train.block_len": 4}, r"block_len 4 holds fewer than two chunks of 4"),
            ({"model.head.alpha": 2.0}, r"model\.head: alpha must lie in \(0, 2\), 2\.0 given.*published"),
            ({"model.head.alpha": 0.0}, r"alpha must lie in \(0, 2\), 0\.0 given"),
            ({"model.head.alpha": -1}, r"alpha must lie in \(0, 2\)"),
            ({"train.train_flops": 1e9, "train.train_tokens": 5}, r"train: give exactly one budget"),
            ({"train.train_tokens": None}, r"train: give exactly one budget: train\.train_flops"),
            ({"train.train_flops": -1.0, "train.train_tokens": None}, r"train\.train_flops: .*given: -1\.0"),
            ({"eval.grid_stride": 12, "eval.min_context": 24}, r"min_context 24 and context_len 256 must be mul"),
            ({"eval.grid_stride": 2}, r"grid_stride must be at least 4.*2 given"),
            (
                {"model.chunk_size": 16, "eval.grid_stride": 8},
                r"grid_stride 8 is not .*chunk_size 16.*nearest: 16",
            ),
            ({"eval.min_context": 256}, r"no position has min_context 256"),
            ({"eval.num_samples": 1}, r"eval\.num_samples: .*given: 1"),
            ({"eval.split": "train"}, r"eval\.split: .*'validation' or 'test'; given: 'train'"),
            ({"optim.lr": 0.0}, r"optim\.lr: .*given: 0\.0"),
            ({"optim.lr": float("nan")}, r"optim\.lr: .*finite.*given: nan"),
            ({"optim.warmup_fraction": 0.6, "optim.decay_fraction": 0.6}, r"0\.6 \+ decay_fraction 0\.6 is more"),
            ({"model.backbone.num_heads": 3}, r"width 128 is not a multiple of num_heads 3"),
            ({"model.backbone.num_kv_heads": 3}, r"num_heads 4 is not a multiple of num_kv_heads 3"),
            ({"model.backbone.width": 12}, r"width / num_heads = 3 must be even"),
            ({"data.tokenizer.vocab_size": 500}, r"byte tokenizer always has 258 ids, 500 given; .*kind: bpe"),
            ({"data.tokenizer": {"kind": "bpe", "vocab_size": 100}}, r"at least 260 ids.*100 given"),
            ({"autoencoder.token_dropout": 1.0}, r"autoencoder\.token_dropout: .*less than 1; given: 1\.0"),
        ],
    )
    def test_message(self, overrides: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            build_config({"train": dict(BUDGET)}, overrides)
        assert "\n" not in str(caught.value), "one message for one mistake"
        assert "pydantic" not in str(caught.value)

    def test_several_mistakes_are_told_at_once(self) -> None:
        with pytest.raises(ConfigError) as caught:
            build_config({}, {"seed": "x", "optim.lr": -1})
        assert len(str(caught.value).splitlines()) == 2

    def test_an_override_below_a_value(self) -> None:
        with pytest.raises(ConfigError, match=r"seed\.deep: seed is a value \(0\), not a section"):
            build_config({"seed": 0}, {"seed.deep": 1})

    @pytest.mark.parametrize("assignment", ["model.chunk_size", "=4", "a=[1"])
    def test_assignments(self, assignment: str) -> None:
        with pytest.raises(ConfigError, match="--set"):
            parse_assignments([assignment])


class TestFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(
            ConfigError, match=r"there is no configuration .*none\.yaml; give a YAML file, or a preset: calm-l,"
        ):
            load_config(tmp_path / "none.yaml")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("a: [1\nb: 2", r"is not YAML: line 2, column 2: expected ',' or '\]', but got ':' \(while [^\n]*\)$"),
            ("- a\n- b\n", "a mapping of sections is wanted.*found list"),
        ],
    )
    def test_unreadable(self, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "c.yaml").write_text(content)
        with pytest.raises(ConfigError, match=message):
            load_config(tmp_path / "c.yaml")

    def test_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mine").mkdir()
        monkeypatch.chdir(tmp_path)
        wanted = r"^mine is a folder and no configuration; give a YAML file, or a preset: calm-l, .*=text:mine\)$"
        with pytest.raises(ConfigError, match=wanted):
            load_config("mine")

    def test_a_folder_in_the_place_of_a_runs(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match=r"configuration .*: Is a directory$"):
            stored_config(tmp_path)

    def test_not_text(self, tmp_path: Path) -> None:
        (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ConfigError, match="cannot read the configuration"):
            load_config(tmp_path / "c.yaml")

    def test_empty_is_all_defaults(self, tmp_path: Path) -> None:
        (tmp_path / "c.yaml").write_text("# nothing yet\n")
        assert load_config(tmp_path / "c.yaml") == RunConfig()

    def test_numbers_as_people_write_them(self, tmp_path: Path) -> None:
        """YAML 1.1 takes 1e12 and 1e-3 for text."""
        (tmp_path / "c.yaml").write_text("train: {train_flops: 1e12}\noptim: {lr: 1e-3}\n")
        config = load_config(tmp_path / "c.yaml")
        assert config.train.train_flops == 1e12
        assert config.optim.lr == 1e-3
        overrides = parse_assignments(["train.train_flops=3e9", "optim.lr=2e-4", "train.block_len=64", "name=on3"])
        assert overrides == {"train.train_flops": 3e9, "optim.lr": 2e-4, "train.block_len": 64, "name": "on3"}

    @pytest.mark.parametrize(
        "overrides",
        [
            {},
            {"model.kind": "baseline"},
            {"optim.lr": 1e-5, "train.train_flops": 1.25e16, "train.train_tokens": None},
            {"data.tokenizer.kind": "bpe", "name": "yes", "model.input_mode": "both"},
        ],
    )
    @pytest.mark.parametrize("resolve", [False, True])
    def test_round_trip(self, tmp_path: Path, overrides: dict[str, Any], resolve: bool) -> None:
        config = build_config({"train": dict(BUDGET)}, overrides)
        config = config.resolved() if resolve else config
        (tmp_path / "c.yaml").write_text(config.to_yaml())
        again = load_config(tmp_path / "c.yaml")
        assert again == config
        assert again.hash() == config.hash()
        assert yaml.safe_load(config.to_yaml()) == {"format": formats.RUN, **config.to_dict()}


class TestOverrides:
    def test_do_not_change_what_they_are_laid_over(self) -> None:
        tree = {"a": {"b": 1, "c": [1]}}
        assert with_overrides(tree, {"a.b": 2, "d.e": 3}) == {"a": {"b": 2, "c": [1]}, "d": {"e": 3}}
        assert tree == {"a": {"b": 1, "c": [1]}}

    def test_flatten(self) -> None:
        assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}

    def test_a_budget_on_the_command_line_replaces_the_files(self) -> None:
        config = build_config({"train": {"train_tokens": 1000}}, {"train.train_flops": 1e9})
        assert (config.train.train_flops, config.train.train_tokens) == (1e9, None)
        config = build_config({"train": {"train_flops": 1e9}}, {"train.train_tokens": 7})
        assert (config.train.train_flops, config.train.train_tokens) == (None, 7)

    def test_the_kind_of_model_may_be_left_out(self) -> None:
        assert isinstance(build_config({"model": {"chunk_size": 2}}).model, CalmConfig)
        assert isinstance(build_config({"model": {"kind": "baseline"}}).model, BaselineConfig)


OPEN = {
    "name",
    "data.max_documents",
    "data.tokenizer.vocab_size",
    "train.train_flops",
    "eval.target_se",
    "eval.tradeoff",
}
OPEN |= {"optim.matrix_lr", "train.init_from", "runtime.micro_batch", "runtime.micro_chunks"}
OPEN |= {f"data.tokenizer.{name}" for name in ("path", "sha256", "end_id", "pad_id", "name", "revision")}
OPEN.add("data.hub")
"""What may stay None: no name, all documents, the tokenizer's own size and no file of its own, no hub, the budget
not chosen, no wished error, no rate of their own for matrices that AdamW moves like the rest, no run to start
from, no division of a step."""


class TestResolved:
    @pytest.mark.parametrize("kind", ["calm", "baseline"])
    def test_complete_and_idempotent(self, kind: str) -> None:
        config = build_config({"model": {"kind": kind}, "train": dict(BUDGET)})
        resolved = config.resolved(device="cpu", dtype="bfloat16", autoencoder_dtype="bfloat16", threads=3)
        flat = flatten(resolved.to_dict())
        assert {name for name, value in flat.items() if value is None} <= OPEN
        assert "auto" not in flat.values()
        assert resolved.runtime.threads == 3
        assert resolved.runtime.dtype == "bfloat16"
        assert resolved.resolved(device="cuda", dtype="float32", threads=9) == resolved
        assert RunConfig.model_validate(resolved.to_dict()) == resolved, "what is stored is valid"

    @pytest.mark.parametrize(
        ("overrides", "expected"),
        [
            ({"model.backbone.width": 128}, {"model.init": "fan_in", "model.backbone.mlp_width": 352}),
            ({"model.backbone.width": 512}, {"model.init": "paper", "optim.lr": 2.5e-4}),
            ({"model.kind": "baseline"}, {"optim.lr": 3e-3, "optim.batch_positions": 2048}),
            ({"optim.kind": "muon"}, {"optim.lr": 1e-3, "optim.matrix_lr": 1e-3}),
            ({"optim.kind": "muon", "optim.matrix_lr": 0.02}, {"optim.lr": 1e-3, "optim.matrix_lr": 0.02}),
            ({"optim.lr": 0.01}, {"optim.lr": 0.01, "optim.matrix_lr": None}),
            ({"model.chunk_size": 8}, {"optim.lr": 1e-3, "optim.batch_positions": 256}),
            ({"model.backbone.num_layers": 16}, {"model.head.num_blocks": 4}),
            ({"model.backbone.num_layers": 2}, {"model.head.num_blocks": 2}),
            ({"autoencoder.width": 512}, {"autoencoder.mlp_width": 1280, "autoencoder.init": "paper"}),
            ({"optim.lr": 0.5, "model.init": "paper"}, {"optim.lr": 0.5, "model.init": "paper"}),
        ],
    )  # fmt: skip
    def test_rules(self, overrides: dict[str, Any], expected: dict[str, Any]) -> None:
        flat = flatten(build_config({}, overrides).resolved().to_dict())
        assert {name: flat[name] for name in expected} == expected

    def test_a_step_covers_as_many_positions_whatever_k_is(self) -> None:
        sequences = {k: build_config({}, {"model.chunk_size": k}).resolved().batch_sequences for k in (1, 2, 4, 8)}
        assert sequences == {1: 1, 2: 2, 4: 4, 8: 8}


class TestHash:
    BASE = RunConfig()

    def test_the_name_does_not_matter(self) -> None:
        assert self.BASE.model_copy(update={"name": "x"}).hash() == self.BASE.hash()

    def test_every_other_section_does(self) -> None:
        changes: dict[str, Any] = {
            "seed": 1, "data.corpus": "kjv", "autoencoder.steps": 7, "model.chunk_size": 2, "optim.lr": 1e-3,
            "train.train_tokens": 5, "eval.seed": 1, "runtime.threads": 2,
        }  # fmt: skip
        assert {name.split(".")[0] for name in changes} | {"name"} == set(RunConfig.model_fields)
        hashes = {build_config(self.BASE.to_dict(), {name: value}).hash() for name, value in changes.items()}
        assert len(hashes | {self.BASE.hash()}) == len(changes) + 1

    def test_a_baseline_does_not_depend_on_the_autoencoder(self) -> None:
        first = build_config({"model": {"kind": "baseline"}})
        second = build_config({"model": {"kind": "baseline"}, "autoencoder": {"latent_dim": 7}})
        assert first.hash() == second.hash()

    def test_the_order_of_keys_does_not_matter(self) -> None:
        assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
        assert content_hash({"a": 1}) != content_hash({"a": 2})


def test_frozen() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        RunConfig().seed = 1  # type: ignore[misc]


def test_a_yaml_date_is_a_value_of_the_wrong_type(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: 2026-11-22\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="name: input should be a valid string"):
        load_config(path)


def test_presets_are_found_by_name_and_valid() -> None:
    for name in preset_names():
        assert load_config(name).name == name
    with pytest.raises(ConfigError, match="neither a file nor a preset 'smal-calm'; presets: calm-l"):
        load_config("smal-calm")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("adamw", "optim.matrix_lr", 0.5),
        ("adamw", "optim.momentum", 0.5),
        ("adamw", "optim.matrix_every", 3),
        ("power", "model.head.quadric_scale", 2.0),
        ("power", "model.head.quadric_gamma", 2.0),
        ("quadric", "model.head.alpha", 1.5),
    ],
)
def test_a_field_without_effect_does_not_change_the_hash(kind: str, field: str, value: float) -> None:
    base = {"model.head.distance": kind} if kind != "adamw" else {}
    plain, changed = build_config({}, base).resolved(), build_config({}, {**base, field: value}).resolved()
    assert plain.hash() == changed.hash()


def test_targets_that_cannot_be_numbered_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"chunks of 8 tokens of 258 cannot be numbered .* set it to false"):
        build_config({"train": BUDGET}, {"model.chunk_size": 8, "train.cache_targets": True})
    build_config({"train": BUDGET}, {"model.chunk_size": 4, "train.cache_targets": True})


def test_where_it_has_an_effect_it_does() -> None:
    muon = {"optim.kind": "muon"}
    assert (
        build_config({}, muon).resolved().hash()
        != build_config({}, {**muon, "optim.momentum": 0.5}).resolved().hash()
    )


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "paper-calm",
            {
                "model.init": "paper", "model.head.distance": "power", "model.head.alpha": 1.0,
                "model.head.num_samples": 8, "model.head.num_targets": 100, "model.auxiliary_weight": 0.0,
                "optim.kind": "adamw", "optim.lr": 3e-4, "optim.betas": [0.9, 0.95], "optim.weight_decay": 0.1,
                "optim.clip": 1.0, "optim.warmup_fraction": 0.008, "optim.decay_fraction": 0.0,
                "autoencoder.kl_weight": 0.001, "autoencoder.kl_floor": 0.5, "autoencoder.token_dropout": 0.15,
                "autoencoder.latent_dropout": 0.15,
            },
        ),
        ("tuned-calm", {"optim.kind": "muon", "model.head.distance": "quadric", "model.auxiliary_weight": 0.0}),
        ("tuned-calm-auxiliary", {"optim.kind": "muon", "model.auxiliary_weight": 0.3}),
        ("tuned-baseline", {"model.kind": "baseline", "optim.kind": "muon"}),
    ],
)  # fmt: skip
def test_presets_say_what_they_are_for(name: str, wanted: dict[str, object]) -> None:
    found = flatten(load_config(name).resolved().to_dict())
    assert {key: found[key] for key in wanted} == wanted

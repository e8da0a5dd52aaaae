"""A study whose runs start from another run's weights (``train.init_from``): refused where they cannot."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from studies import prepare, space
from studies.pins import pin
from studies.prepare import Options
from studies.spec import Study, freeze
from tests.suites.released_weights import VOCAB, tokenizer_json
from tests.suites.study_launch import invoke, tiny_study
from tests.suites.tiny_runs import BASELINE, tiny_config, tree
from workbench import records
from workbench.config_file import build_config
from workbench.errors import DataError, StudyError, UserError
from workbench.home import open_home
from workbench.initial import initial_run
from workbench.runner import execute, resolve


def study(whole: Path, init_from: str | None = "whole", **preset: Any) -> Study:
    """One setting that fits the run ``whole``, and no baseline."""
    base = tree(whole / "text.txt")
    base["train"] |= {"init_from": init_from}
    return tiny_study(
        **{
            "base": base,
            "space": {"train.cache_targets": {"choices": [False]}},
            "baselines": {},
            "checks": {},
            "trials": 1,
            **preset,
        }
    )


def check(whole: Path, *given: Any, **preset: Any) -> None:
    spec = freeze(study(whole, *given, **preset), "quick")
    prepare.check_inputs(spec, open_home(whole / "runs"))


@pytest.mark.slow
def test_one_that_fits_is_launched(whole: Path) -> None:
    check(whole)
    check(whole, baselines={"token": {"train.init_from": None}})
    check(whole, None, baselines={"token": {}}, space={"model.chunk_size": {"choices": [2, 4]}})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("init_from", "preset", "message"),
    [
        ("nope", {}, r"^every setting: train.init_from: no run 'nope'; "),
        ("nope", {"baselines": {"token": {}}}, r"^baseline token: train.init_from: no run 'nope'"),
        (
            "whole",
            {"baselines": {"token": {}}},
            r"^baseline token: train.init_from: .*model.kind is 'baseline' here and 'calm' there.*; in a study: "
            r"give it train.init_from: null in a preset of your own \(docs/own-study.md\), or leave",
        ),
        (
            "whole",
            {"space": {"model.chunk_size": {"choices": [4, 2]}, "optim.clip": {"choices": [1.0, 2.0]}}},
            r"^the setting chunk_size=2: train.init_from: .*model.chunk_size is 2 here and 4 there.*; in a study: "
            r"search in a preset of your own",
        ),
        (
            None,
            {"space": {"train.init_from": {"choices": ["whole", "nope"]}}},
            r"^the setting init_from=nope: train.init_from: no run 'nope'",
        ),
        (
            "whole",
            {
                "space": {"train.cache_targets": {"choices": [False, True]}},
                "follows": {"train.cache_targets": {"True": {"autoencoder.width": 32}, "False": {}}},
            },
            r"^the setting width=32: train.init_from: .*autoencoder.width is 32 here and 24 there",
        ),
    ],
)
def test_one_that_does_not_is_refused_by_the_name_of_what_does_not(
    whole: Path, init_from: str | None, preset: dict[str, Any], message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        check(whole, init_from, **preset)


@pytest.mark.slow
def test_nothing_is_left_of_a_refused_launch(tmp_path: Path) -> None:
    home = tmp_path / "home"
    wrong = ["--name", "n", "--trials", "1", "--workers", "1", "--set", "train.init_from=nope"]
    result = invoke("study", "run", "joint", *wrong, "--tracking-uri", "none", "--home", str(home))
    assert isinstance(result.exception, UserError)
    assert re.match(r"baseline \S+: train.init_from: no run 'nope'", str(result.exception))
    assert not (home / "n").exists()
    assert not list(home.glob("optuna.db*"))


@pytest.mark.slow
def test_a_tokenizer_trained_on_other_text(whole: Path, tmp_path: Path) -> None:
    bpe = {"data.tokenizer.kind": "bpe", "data.tokenizer.vocab_size": 280}
    shutil.copy(whole / "text.txt", tmp_path / "text.txt")
    small = {"train.train_tokens": 256, "train.num_evaluations": 1, "eval.sample_tokens": 0}
    config, home = tiny_config(tmp_path, {**bpe, **small}, **BASELINE)
    execute(config, home.root / "bpe", home=home)
    base = tree(tmp_path / "text.txt")
    base["data"] |= {"tokenizer": {"kind": "bpe", "vocab_size": 280}}
    base["model"] = BASELINE["model"]
    cells = {"bpe": {"train.init_from": str(home.root / "bpe")}}
    space: dict[str, Any] = {"space": {}, "trials": 0, "pruner": {"kind": "none"}}
    fits = freeze(study(whole, base=base, baselines=cells, **space), "quick")
    prepare.check_inputs(fits, home)
    (tmp_path / "other.txt").write_text((whole / "text.txt").read_text().replace("king", "emperor"))
    base["data"] |= {"corpus": f"text:{tmp_path / 'other.txt'}"}
    with pytest.raises(UserError, match=r"^cell bpe: train.init_from: .*tokenizer that was trained on other text"):
        prepare.check_inputs(freeze(study(whole, base=base, baselines=cells, **space), "quick"), home)


@pytest.mark.slow
def test_the_run_that_a_name_means_is_frozen_with_the_launch(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run of the name made every later trial of the launch fail."""
    home = open_home(tmp_path / "home")
    shutil.copytree(whole / "runs" / "whole", home.single_runs() / "whole-1")
    outside = str(whole / "runs" / "whole")
    asked = study(
        whole,
        "whole",
        space={"train.cache_targets": {"choices": [False, True]}},
        follows={"train.cache_targets": {"False": {}, "True": {"train.init_from": outside}}},
        baselines={"token": {"train.init_from": None}, "tuned": {"train.init_from": "token"}},
        checks={"lr_factors": [0.5]},
        pruner={"kind": "none"},
    )
    base = {
        **asked.preset("quick").base,
        "model": BASELINE["model"],
        "train": {"train_tokens": 256, "block_len": 32},
    }
    execute(build_config(base).resolved(), home.single_runs() / "token-1", home=home)
    named = records.read_record(home.single_runs() / "token-1")
    records.write_record(home.single_runs() / "token-1", named.model_copy(update={"name": "token"}))
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": asked})
    made, _ = prepare.prepare(Options("tiny"), home)
    prepare.write_study_file(made, None)
    places = [
        space.setting_config(made.spec, {"train.cache_targets": value}).train.init_from for value in (False, True)
    ]
    assert places == ["single/whole-1", outside]
    assert space.baseline_config(made.spec, "token").train.init_from is None
    assert space.baseline_config(made.spec, "tuned").train.init_from == "single/token-1"
    best = {"train.cache_targets": False}
    assert space.check_config(made.spec, "lr-x0.5", best).train.init_from == "single/whole-1"
    shutil.copytree(home.single_runs() / "whole-1", home.single_runs() / "whole-2")
    with pytest.raises(UserError, match="'whole' names 2 runs"):
        prepare.prepare(Options("tiny", launch="other"), home)
    for again in (Options("tiny"), Options("tiny-quick")):
        assert prepare.prepare(again, home)[0].spec == made.spec
    shown = invoke("study", "show", "tiny-quick", "--home", str(home.root)).output
    assert "train.init_from whole: single/whole-1\ntrain.init_from token: single/token-1\n" in shown
    first = space.setting_config(made.spec, {"train.cache_targets": False}).resolved()
    assert initial_run(first, home) == home.single_runs() / "whole-1"
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": study(whole, "whole-2", baselines={})})
    with pytest.raises(StudyError, match=r"base\.train\.init_from: whole → whole-2"):
        prepare.prepare(Options("tiny"), home)


@pytest.mark.slow
def test_a_frozen_place_is_the_homes_wherever_its_disk_is_and_wherever_one_stands(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link to another disk is a place of the home, and another home that one stands in has no say."""
    home = open_home(tmp_path / "home")
    (tmp_path / "disk").mkdir()
    home.single_runs().symlink_to(tmp_path / "disk")
    shutil.copytree(whole / "runs" / "whole", home.single_runs() / "whole")
    shutil.copytree(whole / "runs" / "whole", tmp_path / "other" / "single" / "whole")
    spec = freeze(study(whole, "whole", baselines={}), "quick")
    assert pin(spec, home)[0].runs == {"whole": "single/whole"}
    monkeypatch.chdir(tmp_path / "other")
    frozen = space.setting_config(pin(spec, home)[0], {"train.cache_targets": False}).resolved()
    assert initial_run(frozen, home) == home.single_runs() / "whole"
    relative = freeze(study(whole, "./single/whole", baselines={}), "quick")
    assert pin(relative, home)[0].runs == {}, "a path to a run elsewhere stays as it was given"
    config = space.setting_config(relative, {"train.cache_targets": False}).resolved()
    assert initial_run(config, home) == Path("single/whole")


@pytest.mark.slow
def test_a_launch_that_starts_from_no_run_is_stored_as_before(whole: Path) -> None:
    spec = freeze(study(whole, None), "quick")
    assert pin(spec, open_home(whole / "runs")) == (spec, [])
    assert "runs" not in spec.to_dict()


@pytest.mark.slow
def test_a_home_that_was_moved_finds_a_tokenizer_by_its_content(whole: Path, tmp_path: Path) -> None:
    """As of imported weights, whose settings a study takes over: their tokenizer lay in the home as it was."""
    home = open_home(tmp_path / "home")
    place = home.single_runs() / "imported" / "tokenizer.json"
    place.parent.mkdir(parents=True)
    place.write_text(tokenizer_json(), encoding="utf-8")
    base = tree(whole / "text.txt")
    base["data"] |= {"validation_fraction": 0.2, "test_fraction": 0.2}
    base["data"] |= {"tokenizer": {"kind": "pretrained", "name": str(place), "vocab_size": VOCAB}}
    base["train"] |= {"train_tokens": 256, "num_evaluations": 1}
    base["model"] = BASELINE["model"]
    whose = {"base": base, "baselines": {"small": {}}, "space": {}, "trials": 0, "pruner": {"kind": "none"}}
    spec, _ = pin(freeze(study(whole, None, **whose), "quick"), home)
    moved = open_home(home.root.rename(tmp_path / "moved"))
    prepare.check_inputs(spec, moved)
    config = resolve(space.baseline_config(spec, "small"), moved)
    assert execute(config, moved.study("tiny-quick") / "small-s0", home=moved).status == "completed"
    (moved.single_runs() / "imported" / "tokenizer.json").unlink()
    prepare.check_inputs(spec, moved)
    shutil.rmtree(moved.study("tiny-quick"))
    with pytest.raises(DataError, match=r"cell small: cannot read the tokenizer .*folder of a run in the home"):
        prepare.check_inputs(spec, moved)

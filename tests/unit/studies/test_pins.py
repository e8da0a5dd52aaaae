"""What names on the hub and tokenizers' files stand for is frozen with a launch, on whatever host it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from studies import prepare, space, storage
from studies.pins import Pin, pin, pinned
from studies.prepare import Options
from studies.search_spec import Choices
from studies.spec import StudySpec, freeze
from studies.storage import Launch
from tests.suites.cells_only import CELLS
from tests.suites.released_weights import VOCAB, tokenizer_json
from tests.suites.study_launch import FAKE, TINY, prepared_home, tiny_study
from workbench.config import RunConfig
from workbench.errors import DataError, StudyError
from workbench.home import Home
from workbench.hub import commit_of, with_revisions
from workbench.runner import resolve

OLD, NEW = "1" * 40, "2" * 40
STREAMED = {"data.corpus": "hub:owner/set", "data.hub.streaming": True}
OWN_TEXTS = {
    "same": {"model.backbone.num_layers": 1},
    "other": {"data.corpus": "hub:owner/other"},
    "section": {"data.hub": {"streaming": True, "mix": [{"name": "owner/mixed", "revision": "v1"}]}},
    "bytes": {"data.tokenizer": {"kind": "byte"}},
}


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Commits that the hub gives for ``name@revision``; OLD for all others."""
    known: dict[str, str] = {}

    def info(self: object, name: str, *, revision: str | None = None, **options: Any) -> Any:
        return type("Info", (), {"sha": known.get(f"{name}@{revision}", known.get("all", OLD))})()

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", info)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    commit_of.cache_clear()
    return known


def move(heads: dict[str, str]) -> None:
    """Everything on the hub has another commit now, and this process has not asked yet."""
    heads["all"] = NEW
    commit_of.cache_clear()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": tiny_study(baselines=OWN_TEXTS)})
    return prepared_home(tmp_path / "first")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Home:
    return prepared_home(tmp_path / "second")


def launch(home: Home, **options: Any) -> Launch:
    given = {"name": "tiny", "execute": FAKE, "overrides": {**STREAMED, **options.pop("more", {})}, **options}
    made, _ = prepare.prepare(Options(**given), home)
    prepare.write_study_file(made, None)
    return made


def texts(spec: StudySpec, home: Home) -> dict[str, Any]:
    """As the runs of the study resolve them on a host."""
    configs = {"": space.setting_config(spec, spec.start[0] if spec.start else {})}
    configs |= {name: space.baseline_config(spec, name) for name in spec.baselines}
    return {name: resolve(config, home).data.model_dump() for name, config in configs.items()}


@pytest.mark.slow
def test_another_host_trains_on_the_same_commits_though_the_hub_has_moved(
    heads: dict[str, str], home: Home, elsewhere: Home
) -> None:
    first = launch(home)
    found = texts(first.spec, home)
    assert [found[name]["hub"]["revision"] for name in found] == [OLD] * 5
    assert found["section"]["hub"]["mix"][0]["revision"] == OLD
    for kept in (
        json.loads((home.root / "tiny-quick" / "study.json").read_text())["spec"],
        storage.stored_spec(first.search).to_dict(),
    ):
        assert kept["base"]["data"]["hub"]["revision"] == OLD
        assert kept["baselines"]["other"]["data.hub.revision"] == OLD
    move(heads)
    joined = launch(elsewhere, storage=first.url)
    assert joined.spec == first.spec
    assert texts(joined.spec, elsewhere) == found
    by_name, _ = prepare.prepare(Options("tiny-quick", storage=first.url, overrides=STREAMED), elsewhere)
    assert by_name.spec == first.spec
    assert launch(elsewhere, launch="own").spec.base["data"]["hub"]["revision"] == NEW


@pytest.mark.slow
def test_another_revision_is_another_study(heads: dict[str, str], home: Home, elsewhere: Home) -> None:
    first = launch(home, more={"data.hub.revision": "v1"})
    move(heads)
    assert launch(elsewhere, storage=first.url, more={"data.hub.revision": "v1"}).spec == first.spec
    assert launch(elsewhere, storage=first.url, more={"data.hub.revision": OLD}).spec == first.spec
    for asked in ("v2", NEW, None):
        with pytest.raises(StudyError, match=rf"base\.data\.hub\.revision: {OLD} → {asked}"):
            launch(elsewhere, storage=first.url, more={"data.hub.revision": asked})
    with pytest.raises(StudyError) as caught:
        launch(elsewhere, storage=first.url, more={"data.hub.revision": "v1", "optim.clip": 2.0})
    assert "base.optim.clip" in str(caught.value)
    assert "data.hub.revision" not in str(caught.value)


def test_a_tokenizers_file_is_pinned_with_its_special_ids(
    heads: dict[str, str], home: Home, elsewhere: Home, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer_json(), encoding="utf-8")
    tokenizer = {"kind": "pretrained", "name": str(path), "vocab_size": VOCAB}
    more = {"data.tokenizer": tokenizer}
    first = launch(home, more=more)
    kept = storage.stored_spec(first.search).base["data"]["tokenizer"]
    assert len(kept["sha256"]) == 64
    assert None not in (kept["end_id"], kept["pad_id"])
    assert texts(first.spec, home)["bytes"]["tokenizer"]["kind"] == "byte"
    path.write_text(tokenizer_json(vocab=VOCAB + 8), encoding="utf-8")  # of the other host: another file
    joined = launch(elsewhere, storage=first.url, more=more)
    assert joined.spec == first.spec
    path.unlink()
    with pytest.raises(DataError, match="cannot read the tokenizer"):
        launch(elsewhere, launch="new", more=more)


def test_a_launch_without_such_texts_stays_as_it_was(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = freeze(tiny_study(**CELLS), "quick")
    assert pin(spec, home) == (spec, [])
    assert pinned(spec, [Pin(["base", "data", "hub", "revision"], None, OLD)]) == spec


FIRST, SECOND, MIXED = "a" * 40, "b" * 40, "c" * 40
SETS = ["hub:owner/first", "hub:owner/second"]


def searching(monkeypatch: pytest.MonkeyPatch, **preset: Any) -> StudySpec:
    study = tiny_study(**{"trials": 2, "baselines": {"plain": {}}, "checks": {"lr_factors": [0.5]}, **preset})
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": study})
    return freeze(study, "quick")


def searched(spec: StudySpec, name: str, home: Home) -> dict[Any, Any]:
    """Text of every choice, as a run resolves it."""
    dimension = spec.space[name]
    assert isinstance(dimension, Choices)
    return {
        one: resolve(space.setting_config(spec, {name: one}), home).data.model_dump() for one in dimension.choices
    }


@pytest.mark.parametrize("base", ["hub:owner/first", "text:own.txt"])
def test_a_search_over_sets_has_the_same_commits_everywhere(
    heads: dict[str, str], home: Home, elsewhere: Home, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    """Also where the base itself names no set."""
    heads.update({"owner/first@None": FIRST, "owner/second@None": SECOND})
    choices = list(dict.fromkeys([*SETS, base]))
    space_of_sets = {"data.corpus": {"choices": choices}}
    searching(monkeypatch, base={**TINY["base"], "data": {"corpus": base}}, space=space_of_sets)
    first = launch(home, overrides={})
    found = searched(first.spec, "data.corpus", home)
    assert [found[one]["hub"]["revision"] for one in SETS] == [FIRST, SECOND]
    check = space.check_config(first.spec, "lr-x0.5", {"data.corpus": "hub:owner/second"})
    assert check.data.model_dump() == found["hub:owner/second"]
    heads.clear()
    move(heads)
    joined = launch(elsewhere, storage=first.url, overrides={})
    assert joined.spec == first.spec == storage.stored_spec(first.search)
    assert searched(joined.spec, "data.corpus", elsewhere) == found
    assert texts(joined.spec, elsewhere)["plain"] == found[base]
    assert searched(launch(elsewhere, launch="own", overrides={}).spec, "data.corpus", elsewhere) != found


def test_a_search_over_revisions_and_what_they_bring(
    heads: dict[str, str], home: Home, elsewhere: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads.update({"owner/set@v1": FIRST, "owner/set@v2": SECOND, "owner/held@None": MIXED})
    searching(
        monkeypatch,
        base={**TINY["base"], "data": {"corpus": {"name": "owner/set", "evaluation": {"name": "owner/held"}}}},
        space={"data.hub.revision": {"choices": ["v1", "v2"]}, "model.chunk_size": {"choices": [2, 4]}},
        follows={"model.chunk_size": {"2": {"data.hub.evaluation.revision": FIRST}, "4": {"optim.clip": 2.0}}},
    )
    first = launch(home, overrides={})
    found = searched(first.spec, "data.hub.revision", home)
    assert [row["hub"]["revision"] for row in found.values()] == [FIRST, SECOND]
    assert {row["hub"]["evaluation"]["revision"] for row in found.values()} == {MIXED}
    heads.clear()
    move(heads)
    assert (
        searched(launch(elsewhere, storage=first.url, overrides={}).spec, "data.hub.revision", elsewhere) == found
    )


def test_a_search_over_tokenizers_pins_each_file(
    heads: dict[str, str], home: Home, elsewhere: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for number, path in enumerate(paths):
        path.write_text(tokenizer_json(vocab=VOCAB + 8 * number), encoding="utf-8")
    tokenizer = {"kind": "pretrained", "name": str(paths[0]), "vocab_size": VOCAB + 8}
    searching(
        monkeypatch,
        base={**TINY["base"], "data": {"tokenizer": tokenizer}},
        space={"data.tokenizer.name": {"choices": list(map(str, paths))}},
    )
    first = launch(home, overrides={})
    found = searched(first.spec, "data.tokenizer.name", home)
    assert len({row["tokenizer"]["sha256"] for row in found.values()}) == 2
    paths[1].write_text(tokenizer_json(vocab=VOCAB + 4), encoding="utf-8")  # of the other host: another file
    assert (
        searched(launch(elsewhere, storage=first.url, overrides={}).spec, "data.tokenizer.name", elsewhere)
        == found
    )


def test_a_search_over_something_else_of_the_text_has_the_bases_commit(heads: dict[str, str], home: Home) -> None:
    base = {**TINY["base"], "data": {"corpus": "hub:owner/set"}}
    over_parts = {"data.validation_fraction": {"choices": [0.1, 0.2]}}
    frozen, _ = pin(freeze(tiny_study(base=base, space=over_parts, trials=2), "quick"), home)
    assert frozen.base["data"]["hub"]["revision"] == OLD
    assert frozen.texts == {}


def test_only_what_names_a_text_is_tried(
    heads: dict[str, str], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search over much else of the text has as many combinations as there are texts, each built once."""
    heads.update({"owner/first@None": FIRST, "owner/second@None": SECOND})
    several = {"choices": list(range(1, 11))}
    others = dict.fromkeys(["data.hub.shuffle_buffer", "data.hub.seed", "data.hub.workers"], several)
    over = {"data.corpus": {"choices": SETS}, **others, "data.validation_fraction": {"choices": [0.1, 0.2]}}
    base = {**TINY["base"], "data": {"corpus": SETS[0]}}
    given = freeze(tiny_study(base=base, space=over, trials=2), "quick")
    built: list[Any] = []
    setting_config = space.setting_config

    def counted(spec: StudySpec, setting: Any) -> RunConfig:
        built.append(setting)
        return setting_config(spec, setting)

    monkeypatch.setattr(space, "setting_config", counted)
    frozen, _ = pin(given, home)
    assert {one["revision"] for one in frozen.texts.values()} == {FIRST, SECOND}
    assert 2 <= len(built) <= 4, "one for each text, and once more with the base pinned"


def test_a_launch_of_an_earlier_version_has_no_table(home: Home) -> None:
    """And the same hash; what has none is read by an earlier version."""
    spec = freeze(tiny_study(**CELLS), "quick")
    assert "texts" not in spec.to_dict()
    assert StudySpec.model_validate(spec.to_dict()) == spec
    assert spec.hash() != spec.model_copy(update={"texts": {"dataset owner/set": {"revision": OLD}}}).hash()


def test_a_mapping_for_the_corpus(heads: dict[str, str], home: Home) -> None:
    cells = {"mapped": {"data.corpus": {"name": "owner/set", "evaluation": {"name": "owner/held"}}}}
    frozen, _ = pin(freeze(tiny_study(baselines=cells), "quick"), home)
    wanted: RunConfig = with_revisions(space.baseline_config(frozen, "mapped"), home.cache)
    assert space.baseline_config(frozen, "mapped") == wanted
    assert wanted.data.hub is not None
    assert wanted.data.hub.revision == OLD

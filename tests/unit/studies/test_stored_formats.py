"""A launch of an older version is continued as it was frozen; one of a newer version is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import optuna
import pytest

from studies import prepare, storage
from studies.prepare import Options, find_launch, read_study_file
from studies.spec import differences, from_stored, numbered
from studies.storage import Launch
from tests.suites.study_launch import prepared_home, tiny_spec, tiny_study
from workbench import config_file, formats
from workbench.config import RunConfig
from workbench.errors import RunError, StudyError
from workbench.formats import Format
from workbench.head_sections import Since
from workbench.home import Home
from workbench.sections import TrainConfig

NEXT = formats.RUN + 1


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": tiny_study()})
    return prepared_home(tmp_path)


def launch(home: Home, name: str = "tiny", **options: Any) -> Launch:
    made, _ = prepare.prepare(Options(name=name, **options), home)
    prepare.write_study_file(made, None)
    return made


def stored(search: optuna.Study) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(search.user_attrs["spec"])
    return tree


def rewrite(home: Home, search: optuna.Study, **changes: Any) -> None:
    """Change what is stored of the specification, and study.json alike."""
    search.set_user_attr("spec", json.dumps({**stored(search), **changes}))
    path = home.root / "tiny-quick" / "study.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format": changes.get("format", content["format"])}))


@pytest.mark.slow
def test_numbers_are_stored(home: Home) -> None:
    made = launch(home)
    tree = stored(made.search)
    assert (tree["format"], tree["base"]["format"]) == (formats.STUDY, formats.RUN)
    assert json.loads((home.root / "tiny-quick" / "study.json").read_text())["format"] == formats.STUDY
    assert from_stored(tree, "here") == made.spec == storage.stored_spec(made.search)
    assert "format" not in (read_study_file(home, "tiny-quick") or {})


@pytest.mark.slow
def test_a_launch_from_before_numbers_is_continued(home: Home) -> None:
    made = launch(home)
    tree = made.spec.to_dict()
    assert "format" not in {*tree, *tree["base"]}
    del tree["base"]["train"]["stop_diverged"]  # there was no such thing
    made.search.set_user_attr("spec", json.dumps(tree))
    path = home.root / "tiny-quick" / "study.json"
    content = json.loads(path.read_text())
    del content["format"]
    path.write_text(json.dumps(content))
    for name in ("tiny", "tiny-quick"):
        assert launch(home, name).spec == made.spec
    assert find_launch(home, "tiny").spec == made.spec
    with pytest.raises(StudyError, match=r"base.optim.clip: 1.0 → 2.0"):
        launch(home, overrides={"optim.clip": 2.0})
    assert launch(home, trials=7).spec.trials == 7
    assert stored(find_launch(home, "tiny").search)["format"] == formats.STUDY, "what is written anew has a number"


class NextTrain(TrainConfig):
    accumulate: Annotated[int, Since(NEXT, before=1)] = 4
    careful: Annotated[bool, Since(NEXT, before=False, left_out=True)] = True


class NextRun(RunConfig):
    train: NextTrain = NextTrain(train_tokens=2_000_000)


def test_fields_that_came_since_are_no_difference(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen is what was done then: a new field says so, and the preset of today, which means the new default, is
    another specification."""
    made = launch(home)
    tree = stored(made.search)
    monkeypatch.setattr(config_file, "RunConfig", NextRun)
    monkeypatch.setattr(formats, "RUN", NEXT)
    monkeypatch.setattr(formats, "CONFIG", Format(NEXT, RunError))
    spec = from_stored(tree, "here")
    assert spec.base["train"] == {**made.spec.base["train"], "accumulate": 1, "careful": True}
    assert numbered(spec)["base"]["format"] == NEXT
    assert launch(home, "tiny-quick").spec == spec, "continued under its own name"
    with pytest.raises(StudyError, match=r"base.train.accumulate: 1 → 4"):
        launch(home)


def test_a_newer_one_is_refused(home: Home) -> None:
    made = launch(home)
    rewrite(home, made.search, format=5)
    message = r"written by a newer workbench \(format 5, this one reads up to 1\); update"
    for act in (
        lambda: launch(home),
        lambda: find_launch(home, "tiny-quick"),
        lambda: storage.stored_spec(made.search),
    ):
        with pytest.raises(StudyError, match=message):
            act()
    (home.root / "tiny-quick" / "study.json").unlink()
    with pytest.raises(StudyError, match=r"the specification of tiny-quick was written by a newer"):
        launch(home, "tiny-quick", storage=made.url)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "new"}, r"format is 'new', a number from 0 to 1 is wanted"),
        ({"patience": 3}, r"patience: .*not permitted.*\na newer workbench may have written it"),
        ({"base": {"format": 1, "train": {"train_tokens": 7, "speed": 2}}}, r"base: unknown field train.speed"),
        ({"base": {"format": NEXT}}, r"base: here was written by a newer workbench"),
        ({"base": None}, r"here cannot be read: base: here cannot be read: a mapping is wanted, found NoneType"),
        ({"trials": -3}, r"trials: .*given: -3"),
    ],
)
def test_what_is_not_known_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        from_stored({**numbered(tiny_spec()), **changes}, "here")


def test_a_head_that_is_not_here_is_offered_and_nothing_updated() -> None:
    tree = numbered(tiny_spec())
    tree["base"]["model"]["head"] = {"kind": "far_away"}
    with pytest.raises(
        StudyError, match=r"here cannot be read: base: .*'far_away' given; .*calm --heads"
    ) as caught:
        from_stored(tree, "here")
    assert "newer workbench" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "3", "{", '{"format": "x"}', '{"format": true}'])
def test_a_damaged_study_file_is_named(home: Home, content: str) -> None:
    (home.root / "tiny-quick").mkdir()
    (home.root / "tiny-quick" / "study.json").write_text(content)
    with pytest.raises(StudyError, match=r"tiny-quick/study\.json(: format is| cannot be read)"):
        read_study_file(home, "tiny-quick")


def test_a_specification_differs_from_itself_in_nothing() -> None:
    spec = tiny_spec()
    assert differences(from_stored(numbered(spec), "here"), spec) == []

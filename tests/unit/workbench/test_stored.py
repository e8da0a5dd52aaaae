"""Damaged files of a run are named with line, reason and remedy, in one line and without a web address."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pydantic
import pytest

from tests.suites.run_folders import make_run_folder
from workbench import lineage, records, stored, system_usage
from workbench.errors import RunError
from workbench.records import TrainPoint

POINT: dict[str, Any] = {
    "step": 1,
    "tokens": 4,
    "train_flops": 1.0,
    "loss": 1.0,
    "grad_norm": 1.0,
    "lr": 1.0,
    "tokens_per_second": 1.0,
    "seconds": 1.0,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": None}, "loss: input should be a valid number; given: None"),
        ({"step": "x"}, "step: input should be a valid integer, unable to parse string as an integer; given: 'x'"),
        ({"foo": 1}, "foo is unknown"),
        ({"a\ud800": 1}, "it: input should be a valid string, unable to parse raw data"),
        ({"foo": 1, "step": "x", "lr": "y"}, "(and 2 more)"),
        ({"lr": "y" * 4000}, "yyy...yyy"),
    ],
)
def test_a_reason_is_one_short_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        TrainPoint.model_validate({**POINT, **changes})
    said = stored.reason(caught.value)
    assert words in said
    assert len(said) < 200
    assert "\n" not in said
    assert "pydantic" not in said
    assert stored.reason(ValueError("as it is")) == "as it is"


def test_a_reason_without_words_is_one_too() -> None:
    def refuse(value: int) -> int:
        raise ValueError

    class Refusing(pydantic.BaseModel):
        number: Annotated[int, pydantic.AfterValidator(refuse)]

    with pytest.raises(pydantic.ValidationError) as caught:
        Refusing(number=1)
    assert stored.reason(caught.value) == "number: it is not valid"


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    without = {key: value for key, value in POINT.items() if key != "loss"}
    path.write_text(f"{json.dumps(POINT)}\n\n{json.dumps(without)}\n{json.dumps(POINT)}\n")
    message = r"metrics\.jsonl is damaged: line 3: loss is missing; bring the file back .*, or delete that line$"
    with pytest.raises(RunError, match=message):
        records.read_train_points(tmp_path)


READERS: dict[str, Callable[[Path], Any]] = {
    "metrics.jsonl": records.read_train_points,
    "evaluations.jsonl": records.read_evaluations,
    "samples.jsonl": records.read_samples,
    "system.jsonl": system_usage.read_system_points,
    "autoencoder.json": records.read_autoencoder_report,
    "record.json": records.read_record,
    "data.json": lineage.read,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "content", ["{}", "[1]", '{"step": 1}', "{broken", '"x"', '{"a": "\\ud800"}', "[" * 100_000]
)
def test_every_damaged_file_of_a_run_is_one_line(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(f"{content}\n{content}\n" if name.endswith("l") else content)
    if name.endswith("l") and (content[0] != "{" or content == "{broken"):  # what a crash may leave at the end
        assert READERS[name](tmp_path) == []
        return
    with pytest.raises(RunError, match=re.escape(name)) as caught:
        READERS[name](tmp_path)
    said = str(caught.value)
    assert any(remedy in said for remedy in ("bring it back", "bring the file back", "restore it"))
    assert "pydantic" not in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"versions": 5}, "environment: versions is 5, a mapping is wanted"),
        ({"earlier": 5}, "environment: earlier is 5, a list is wanted"),
        ({"earlier": [5]}, "environment: earlier holds 5, mappings are wanted"),
        ({"earlier": [{"versions": [1]}]}, r"environment: versions is \[1\], a mapping is wanted"),
        ({"own_head": "x"}, "environment: own_head is 'x', a mapping is wanted"),
        ({"initial": [1]}, r"environment: initial is \[1\], a mapping is wanted"),
        ({"git_diff_hash": [1]}, r"environment: git_diff_hash is \[1\], a text is wanted"),
    ],
)
def test_what_a_record_says_of_its_machine(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    run_dir = make_run_folder(tmp_path / "run")
    path = run_dir / records.RECORD
    tree = json.loads(path.read_text())
    tree["environment"] |= changes
    path.write_text(json.dumps(tree))
    with pytest.raises(RunError, match=rf"record\.json cannot be read: {words}.*; restore it from a copy"):
        records.read_record(run_dir)

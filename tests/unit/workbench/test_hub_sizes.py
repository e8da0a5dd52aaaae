"""Room for texts on the hub and in folders: nothing is refused for what may not be kept. No test asks the hub."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from studies.room import study_need
from tests.suites.hub_repository import documents, repository
from tests.suites.study_launch import TINY, tiny_spec
from workbench import hub_sizes, room
from workbench.config import RunConfig
from workbench.config_file import build_config
from workbench.data import prepare
from workbench.errors import OutputError
from workbench.hub_sizes import DOCUMENT_BYTES, Known, Size
from workbench.room import Free, need_fields, need_words, require_room_for_run, run_need, text_of

HUGE = 100_000_000_000


def config(corpus: str, **data: Any) -> RunConfig:
    tree = {"train": {"train_tokens": 100_000}, "data": {"corpus": corpus, **data}}
    return build_config(tree, {}).resolved()


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_sizes.set_bytes.cache_clear()
    monkeypatch.setattr(room, "free_room", lambda folder: Free(2_000_000_000, None))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the hub says of every set's configurations and files."""

    def says(
        *described: dict[str, Any], listed: tuple[tuple[str, int], ...] = (), has_configs: bool = False
    ) -> None:
        monkeypatch.setattr(hub_sizes, "_kept_here", lambda name: iter(()))
        monkeypatch.setattr(hub_sizes, "is_offline", lambda option: False)
        monkeypatch.setattr(
            hub_sizes, "_asked", lambda name, revision: (list(described), list(listed), has_configs)
        )

    return says


def sparse(folder: Path, *names: str, size: int = HUGE) -> str:
    """A folder of large files that take no room."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.truncate(size)
    return f"hub:{folder}"


class TestFirstDocuments:
    def test_of_a_large_folder(self, tmp_path: Path) -> None:
        given = config(sparse(tmp_path / "set", "data/x.jsonl.zst"), max_documents=10_000)
        assert text_of(given) == Known(10_000 * DOCUMENT_BYTES)
        require_room_for_run(given, tmp_path / "run", tmp_path / "cache")
        whole = config(f"hub:{tmp_path / 'set'}")
        assert text_of(whole) == Known(4 * HUGE)
        with pytest.raises(OutputError, match="the run needs about"):
            require_room_for_run(whole, tmp_path / "run", tmp_path / "cache")

    def test_of_a_set_of_unknown_size(self, card: Any) -> None:
        card()
        assert text_of(config("hub:owner/set", max_documents=50)) == Known(50 * DOCUMENT_BYTES)
        held = {"evaluation": {"name": "owner/held"}}
        found = text_of(config("hub:owner/set", max_documents=50, hub=held))
        assert found == Known(50 * DOCUMENT_BYTES, ("owner/held",)), "which is read as a whole"

    def test_of_a_small_one(self, tmp_path: Path) -> None:
        given = config(sparse(tmp_path / "set", "x.jsonl", size=1_000), max_documents=50)
        assert text_of(given) == Known(1_000)

    def test_of_a_file_of_rows(self, tmp_path: Path) -> None:
        sparse(tmp_path, "x.jsonl")
        assert text_of(config(f"json:{tmp_path}/x.jsonl", max_documents=50)) == Known(50 * DOCUMENT_BYTES)


def test_a_text_that_the_cache_has_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large its source: the same command continues."""
    path = repository(tmp_path / "set", {"train": documents(40)}, num_shards=1) / "README.md"
    path.unlink()
    given = config(f"hub:{path.parent}")
    monkeypatch.setattr(room, "PREPARED", 1e9)
    with pytest.raises(OutputError, match="the run needs about"):
        require_room_for_run(given, tmp_path / "run", tmp_path / "cache")
    corpus = prepare(given.data, tmp_path / "cache", least_tokens=1)
    require_room_for_run(given, tmp_path / "run", tmp_path / "cache")
    assert text_of(given, tmp_path / "cache") == Known(sum(corpus.num_bytes.values()), prepared=True)
    spec = tiny_spec(base={**TINY["base"], "data": {"corpus": given.data.corpus}})
    need = study_need(spec, cache=tmp_path / "cache")
    assert need.cache < 1e9 < study_need(spec).cache
    (path.parent / "data" / "train-00.jsonl").write_text('{"text": "another"}\n')
    assert not text_of(given, tmp_path / "cache").prepared


class TestBounds:
    @pytest.mark.parametrize("other", ["test.jsonl", "eval/x.jsonl", "README.md"])
    def test_a_folder_of_several_splits_or_configurations_is_not_refused(
        self, tmp_path: Path, other: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        corpus = sparse(tmp_path / "set", "train/x.jsonl")
        if other == "README.md":
            (tmp_path / "set" / other).write_text("---\nconfigs:\n- config_name: small\n---\n")
        else:
            sparse(tmp_path / "set", other, size=1_000)
        given = config(corpus)
        with caplog.at_level(logging.WARNING):
            require_room_for_run(given, tmp_path / "run", tmp_path / "cache")
        assert f"of the text of {tmp_path / 'set'} only an upper bound is known" in caplog.text
        need = run_need(given)
        assert need.bound > HUGE
        assert need_words(need).endswith(f" of this for {tmp_path / 'set'} are an upper bound")
        assert need_fields(need)["disk_bounded"] == [str(tmp_path / "set")]
        spec = tiny_spec(base={**TINY["base"], "data": {"corpus": corpus}})
        assert study_need(spec).bound > HUGE

    def test_what_is_needed_besides_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever lies in the cache."""
        given = config(sparse(tmp_path / "set", "train.jsonl", "test.jsonl"))
        monkeypatch.setattr(room, "free_room", lambda folder: Free(1_000, None))
        sparse(tmp_path / "cache", "other")
        with pytest.raises(OutputError, match="the run needs about"):
            require_room_for_run(given, tmp_path / "run", tmp_path / "cache")

    def test_a_folder_all_of_whose_splits_are_read_is_known(self, tmp_path: Path) -> None:
        corpus = sparse(tmp_path / "set", "train.jsonl", "dev.jsonl", "test.jsonl")
        assert text_of(config(corpus, hub={"evaluation": {}})) == Known(3 * HUGE)

    def test_a_card(self, card: Any) -> None:
        parts = [{"name": "train", "num_bytes": 7_000}, {"name": "test", "num_bytes": 500}]
        small, large = {"config_name": "a", "splits": parts, "dataset_size": 7_500}, {"dataset_size": 9_000}

        def size(split: str, config: str | None = None) -> Size | None:
            hub_sizes.set_bytes.cache_clear()
            return hub_sizes.set_bytes("owner/set", config, split, None)

        card(small)
        assert size("train") == Size(7_000)
        assert size("train[:1%]") == Size(7_000, is_bound=True), "not the whole set"
        assert size("train+test") == size("all") == Size(7_500)
        assert size("dev") == Size(7_500, is_bound=True)
        card(small, {"config_name": "b", **large})
        assert size("train", "a") == Size(7_000)
        assert size("train") == Size(9_000, is_bound=True), "one of them"
        card(small, {"config_name": "default", "splits": [{"name": "train", "num_bytes": 3_000}]})
        assert size("train") == Size(3_000)

    def test_a_list_of_files(self, card: Any) -> None:
        card(listed=(("data/train.jsonl", 900), ("data/test.jsonl", 100)))
        bounded = Known(1_000, (), 1_000, ("owner/set",))
        assert text_of(config("hub:owner/set")) == bounded
        card(listed=(("data/x.jsonl", 1_000),), has_configs=True)
        hub_sizes.set_bytes.cache_clear()
        assert text_of(config("hub:owner/set")) == bounded

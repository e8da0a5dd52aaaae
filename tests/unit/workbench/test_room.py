"""Room on the disk: estimates, what is free, and the message."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from studies import find_studies
from studies.room import study_need
from studies.spec import freeze
from tests.suites.hub_repository import repository
from tests.suites.study_launch import tiny_spec
from workbench import hub_sizes, room
from workbench.config import RunConfig
from workbench.config_file import build_config
from workbench.errors import OutputError
from workbench.flops import parameters, vocab_size
from workbench.hub_sizes import Known
from workbench.room import (
    Free,
    Need,
    bytes_words,
    free_room,
    need_fields,
    need_words,
    require_room,
    run_need,
    runs_need,
    text_of,
)


def config(**overrides: Any) -> RunConfig:
    return build_config({"train": {"train_tokens": 100_000}}, overrides).resolved()


class TestNeed:
    def test_weights_stay_and_a_checkpoint_is_there_twice_while_it_is_replaced(self) -> None:
        large = config(**{"model.backbone.width": 1024, "model.backbone.num_layers": 8})
        need, sizes = run_need(large), parameters(large, vocab_size(large))
        weights = 4 * sizes["total"]
        assert need.kept > weights
        assert need.kept < 1.1 * (weights + 4 * sizes["autoencoder"]) + 2e6
        assert need.working == 5 * weights, "two checkpoints of weights and two moments, less the weights kept"

    def test_runs_that_share_a_text_and_an_autoencoder_count_them_once(self) -> None:
        one = run_need(config())
        many = runs_need([config(seed=0), config(seed=1)], times=3, at_once=2)
        assert many.cache == one.cache
        assert many.kept == 6 * one.kept
        assert many.working == 2 * one.working
        assert many.num_files == 6 * one.num_files

    def test_a_missing_text_is_not_its_business(self) -> None:
        assert run_need(config(**{"data.corpus": "text:/nowhere/at/all.txt"})).total > 0

    def test_more_positions_more_bytes(self) -> None:
        assert run_need(config(**{"eval.num_windows": 960})).kept > run_need(config()).kept

    @pytest.mark.parametrize("name", ["joint", "correlation", "scaling"])
    def test_every_study_has_one(self, name: str) -> None:
        spec = freeze(find_studies()[name], "quick")
        need = study_need(spec, workers=2)
        assert 20e6 < need.total < 2e9
        assert study_need(spec.model_copy(update={"seeds": 4}), workers=2).kept > 3 * need.kept

    def test_a_study_without_a_search(self) -> None:
        spec = tiny_spec(space={}, trials=0, checks={})
        assert study_need(spec).num_files == 2 * room.RUN_FILES


class TestSetsOnTheHub:
    """As far as their size is known; no test asks the hub."""

    @pytest.fixture(autouse=True)
    def nothing_remembered(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        hub_sizes.set_bytes.cache_clear()
        hub_sizes._asked.cache_clear()
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf" / "datasets"))

    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """What it answers, or an error; returns the names that were asked for."""

        def says(answer: Any) -> list[str]:
            asked: list[str] = []

            def info(self: object, name: str, **options: Any) -> Any:
                asked.append(name)
                if isinstance(answer, Exception):
                    raise answer
                return answer

            monkeypatch.setattr("huggingface_hub.HfApi.repo_info", info)
            return asked

        return says

    @staticmethod
    def info(card: dict[str, Any] | None = None, **files: int) -> Any:
        listed = [SimpleNamespace(rfilename=name.replace("_", "."), size=size) for name, size in files.items()]
        about = None if card is None else SimpleNamespace(to_dict=lambda: card)
        return SimpleNamespace(card_data=about, siblings=listed)

    def text(self, **hub: Any) -> Known:
        return text_of(config(**{"data.corpus": "hub:owner/set", **({"data.hub": hub} if hub else {})}))

    def test_its_card_says_it(self, hub: Any) -> None:
        splits = [{"name": "train", "num_bytes": 7_000_000}, {"name": "test", "num_bytes": 500}]
        card = [{"config_name": "a", "splits": splits}, {"config_name": "b", "dataset_size": 3_000_000}]
        asked = hub(self.info({"dataset_info": card}, data_parquet=10))
        assert self.text(config="a") == Known(7_000_000)
        assert self.text(config="b").num_bytes == 3_000_000
        assert asked == ["owner/set"], "once"
        assert run_need(config(**{"data.corpus": "hub:owner/set"})).cache > room.PREPARED * 7e6

    def test_otherwise_its_files(self, hub: Any) -> None:
        hub(self.info(None, data_jsonl=1_000, more_parquet=100, README_md=50))
        assert self.text() == Known(1_300)

    def test_what_is_not_known_is_said(self, hub: Any) -> None:
        hub(ConnectionError("no address"))
        need = run_need(config(**{"data.corpus": "hub:owner/set"}))
        assert need.unknown == ("owner/set",)
        assert need_words(need).endswith("; on top the text of owner/set, size unknown")
        assert need_fields(need) == {"disk_bytes": need.total, "disk_unknown": ["owner/set"]}
        base = {"data": {"corpus": "hub:owner/set"}, "train": {"train_flops": 1e11}}
        assert study_need(tiny_spec(base=base)).unknown == ("owner/set",)

    def test_offline_what_was_prepared_or_downloaded(self, hub: Any, tmp_path: Path) -> None:
        asked = hub(self.info(None, data_jsonl=1_000))
        assert self.text(offline=True) == Known(0, ("owner/set",))
        hub_sizes.set_bytes.cache_clear()
        snapshot = tmp_path / "hf" / "hub" / "datasets--owner--set" / "snapshots" / ("1" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "README.md").write_text("---\ndataset_info:\n  dataset_size: 2000000\n---\nA set.\n")
        assert self.text(offline=True).num_bytes == 2_000_000
        hub_sizes.set_bytes.cache_clear()
        prepared = tmp_path / "hf" / "datasets" / "owner___set" / "default" / "0.0.0" / "abc"
        prepared.mkdir(parents=True)
        about = {"config_name": "default", "splits": {"train": {"name": "train", "num_bytes": 5_000_000}}}
        (prepared / "dataset_info.json").write_text(json.dumps(about))
        assert self.text(offline=True) == Known(5_000_000)
        assert asked == []

    def test_of_a_stream_only_what_is_kept(self, hub: Any, tmp_path: Path) -> None:
        asked = hub(self.info({"dataset_info": {"dataset_size": 1_000_000}}))
        kept = hub_sizes.DOCUMENT_BYTES * (500 + 2 * 100)
        few = {"streaming": True, "sample_documents": 500, "held_out_documents": 100}
        assert self.text(**few) == Known(kept)
        assert asked == []
        evaluated = self.text(**few, evaluation={"name": "owner/held"})
        assert evaluated.num_bytes == hub_sizes.DOCUMENT_BYTES * 500 + 2 * 1_000_000
        assert evaluated.bounded == ("owner/held",), "of the whole set, for each split"
        folder = repository(tmp_path / "set", {"train": ["a few words"] * 10}, num_shards=1)
        small = text_of(config(**{"data.corpus": f"hub:{folder}", "data.hub": few}))
        assert 100 < small.num_bytes < 2_000, "no more than there is"


class TestRequire:
    need = Need(kept=1_000_000_000, working=200_000_000, cache=0)

    @pytest.fixture
    def free(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        def set_free(size: int, files: int | None = None) -> None:
            monkeypatch.setattr(room, "free_room", lambda folder: Free(size, files))

        return set_free

    def test_too_little(self, free: Any) -> None:
        free(300_000_000)
        with pytest.raises(OutputError) as error:
            require_room("/some/home", self.need, "the run")
        assert str(error.value) == (
            "the run needs about 1.2 GB in /some/home, 300 MB are free; free some or choose another --home; "
            "finished work stays and the same command continues"
        )

    def test_enough_or_unknown(self, free: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        free(1_200_000_000)
        require_room("/some/home", self.need, "the run")
        monkeypatch.setattr(room, "free_room", lambda folder: None)
        require_room("/some/home", self.need, "the run")

    def test_what_is_there_already_counts(self, free: Any) -> None:
        free(300_000_000)
        require_room("/some/home", self.need, "the run", there=900_000_000)

    def test_no_files_left(self, free: Any) -> None:
        free(10**12, files=3)
        with pytest.raises(OutputError, match=r"makes about 60 files in .*, where 3 more are possible \(inodes\)"):
            require_room("/some/home", self.need, "the run")

    def test_a_folder_that_is_not_there_yet(self, tmp_path: Path) -> None:
        here, below = free_room(tmp_path), free_room(tmp_path / "a" / "b")
        assert here is not None
        assert below is not None
        assert abs(here.bytes - below.bytes) < 1e9


def test_words() -> None:
    assert [bytes_words(n) for n in (5, 5_200, 34e6, 1.24e9, 2e13)] == [
        "5 bytes",
        "5.2 kB",
        "34 MB",
        "1.2 GB",
        "20 TB",
    ]
    need = Need(kept=3_000_000, working=2_000_000, cache=0)
    assert need_words(need) == "about 5.0 MB: 3.0 MB kept, 2.0 MB more while training"
    assert dataclasses.replace(need, cache=1_000_000).total == 6_000_000

"""Names, folders, revisions, no network: what is said, and how long it takes. No test asks the hub."""

from __future__ import annotations

import gzip
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard

from tests.suites.hub_repository import documents, repository
from tests.suites.released_weights import VOCAB, tokenizer_json
from workbench import hub
from workbench.config import DataConfig, RunConfig
from workbench.config_file import build_config, parse_assignments
from workbench.data import require_source
from workbench.errors import ConfigError, DataError
from workbench.hub import HubUnreachableError, Patience, commit_of, explained, is_transient, with_retries
from workbench.hub_damage import named
from workbench.hub_reading import SetShards, joined
from workbench.hub_sections import HubConfig, HubSet, evaluation_sets, sets_of
from workbench.pretrained_tokenizer import FILE, pretrained_tokenizer, with_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class ConnectError(ConnectionError):
    pass


class Answer(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__(f"status {status_code}")
        self.response = type("Response", (), {"status_code": status_code})()


class RepositoryNotFoundError(Answer):
    pass


class GatedRepoError(RepositoryNotFoundError):
    pass


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commit_of.cache_clear()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))


def answers(monkeypatch: pytest.MonkeyPatch, *results: Any) -> list[str]:
    """What the hub says, one call after the other, the last for ever; returns the names that were asked."""
    asked: list[str] = []

    def info(self: object, name: str, **options: Any) -> Any:
        result = results[min(len(asked), len(results) - 1)]
        asked.append(name)
        if isinstance(result, Exception):
            raise result
        return type("Info", (), {"sha": result})()

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", info)
    monkeypatch.setattr(hub, "QUICK", Patience(attempts=3, first=0.001))
    return asked


class TestRetries:
    def test_until_it_succeeds(self) -> None:
        left, pauses = [1, 2, 3], []

        def action() -> str:
            if left:
                left.pop()
                raise TimeoutError
            return "done"

        patience = Patience(attempts=6, first=0.5, most=1.5)
        assert with_retries(action, "it", patience, sleep=pauses.append) == "done"
        assert pauses == [0.5, 1.0, 1.5]

    def test_not_for_ever_and_not_for_everything(self) -> None:
        def fail(error: Exception) -> Any:
            raise error

        with pytest.raises(HubUnreachableError, match=r"it cannot be had.*ConnectError: dead; 3 attempts"):
            with_retries(lambda: fail(ConnectError("dead")), "it", Patience(attempts=3), sleep=lambda _: None)
        with pytest.raises(KeyError):
            with_retries(lambda: fail(KeyError("x")), "it", Patience(), sleep=lambda _: pytest.fail("waited"))

    def test_which_answers_are_a_bad_day(self) -> None:
        assert [is_transient(Answer(code)) for code in (401, 404, 408, 429, 500, 503)] == [False] * 2 + [True] * 4
        import httpx2

        assert is_transient(httpx2.ConnectError("x"))
        assert is_transient(httpx2.ReadTimeout("x"))
        assert not is_transient(ValueError("x"))


class TestNoNetwork:
    def test_is_said_soon_with_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = answers(monkeypatch, ConnectError("no address"))
        start = time.monotonic()
        with pytest.raises(HubUnreachableError) as found:
            SetShards(HubSet(name="owner/set"), streaming=True)
        assert time.monotonic() - start < 3.0
        assert len(asked) == 3
        for part in ("'owner/set'", "HF_HUB_OFFLINE: not set", "hub:FOLDER", "json:PATH"):
            assert part in str(found.value)

    def test_offline_nothing_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = answers(monkeypatch, COMMIT)
        monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
        off = r"offline.*HF_DATASETS_OFFLINE: 1\). Unset HF_DATASETS_OFFLINE and run"
        with pytest.raises(HubUnreachableError, match=off):
            commit_of("owner/set", None)
        monkeypatch.delenv("HF_DATASETS_OFFLINE")
        for environment in ("0", "1"):  # the latter as the libraries are told
            monkeypatch.setenv("HF_HUB_OFFLINE", environment)
            with pytest.raises(HubUnreachableError, match="offline") as found:
                commit_of("owner/set", None, "dataset", True)
            assert "data.hub.offline: true). Set data.hub.offline=false and run the same" in str(found.value)
            assert not re.search("network|HF_", str(found.value))
        assert asked == []

    def test_offline_by_the_option_the_libraries_answer_names_it(self) -> None:
        """They know of a variable only, which is set for them."""
        with pytest.raises(HubUnreachableError, match=r"data\.hub\.offline: true"):
            SetShards(HubSet(name="owner/set", revision=COMMIT), streaming=True, offline=True)

        class OfflineModeIsEnabled(ConnectionError):
            pass

        with (
            pytest.raises(HubUnreachableError, match=r"Set data\.hub\.offline=false"),
            explained("it", None, offline=True),
        ):
            raise OfflineModeIsEnabled

    def test_offline_nothing_is_asked_for_the_tokenizer(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Neither where it is looked for nor where it is read; what was downloaded before is used."""
        asked = answers(monkeypatch, COMMIT)
        monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, *_, **__: asked.append(name))
        hub_options = {"offline": True, "revision": COMMIT}
        tokenizer = {"kind": "pretrained", "name": "owner/tokenizer", "vocab_size": VOCAB}
        config = build_config({"data": {"corpus": "hub:owner/set", "hub": hub_options, "tokenizer": tokenizer}})
        with pytest.raises(
            HubUnreachableError, match=r"'owner/tokenizer' cannot be had.*not downloaded before; data.hub"
        ):
            with_tokenizer(hub.with_revisions(config, tmp_path))
        kept = tmp_path / "hf" / "models--owner--tokenizer"
        for path, text in ((f"snapshots/{COMMIT}/{FILE}", tokenizer_json()), ("refs/main", COMMIT)):
            (kept / path).parent.mkdir(parents=True)
            (kept / path).write_text(text, encoding="utf-8")
        commit_of.cache_clear()
        data = with_tokenizer(hub.with_revisions(config, tmp_path)).data
        assert (data.tokenizer.revision, len(data.tokenizer.sha256 or "")) == (COMMIT, 64)
        assert pretrained_tokenizer(data.tokenizer, offline=data.offline).vocab_size == VOCAB
        assert asked == []

    def test_what_was_downloaded_before_is_known(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        refs = tmp_path / "hf" / "datasets--owner--set" / "refs"
        refs.mkdir(parents=True)
        (refs / "main").write_text(COMMIT)
        answers(monkeypatch, ConnectError("no address"))
        assert commit_of("owner/set", None) == COMMIT

    def test_a_set_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answers(monkeypatch, RepositoryNotFoundError(401))
        with pytest.raises(DataError, match="'owner/sett' is not on the hub"):
            commit_of("owner/sett", None)
        answers(monkeypatch, GatedRepoError(403))
        with pytest.raises(DataError, match="gated: accept its terms"):
            commit_of("owner/gated", None)

    @pytest.mark.parametrize(
        ("name", "message"),
        [("json", "write json:PATH"), ("jsonn", "did you mean json:PATH"), ("./nowhere/x y", "no such folder")],
    )
    def test_names_that_are_none_fail_without_asking(
        self, monkeypatch: pytest.MonkeyPatch, name: str, message: str
    ) -> None:
        asked = answers(monkeypatch, COMMIT)
        with pytest.raises(DataError, match=message):
            commit_of(name, None)
        assert asked == []


class TestRevisions:
    def test_are_resolved_and_kept(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        asked = answers(monkeypatch, COMMIT, "f" * 40)
        data = {"name": "owner/set", "streaming": True, "evaluation": {"name": "other/set"}}
        config = build_config({"data": {"corpus": data}})
        found = hub.with_revisions(config, tmp_path).data.hub
        assert found is not None
        assert found.evaluation is not None
        assert (found.revision, found.evaluation.revision) == (COMMIT, "f" * 40)
        commit_of.cache_clear()
        answers(monkeypatch, "a" * 40)  # the hub has moved on
        assert hub.with_revisions(config, tmp_path).data.hub == found
        assert hub.with_revisions(config, tmp_path / "other").data.hub != found
        assert asked == ["owner/set", "other/set"]

    def test_of_an_evaluation_from_the_same_set(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        answers(monkeypatch, COMMIT, "f" * 40)
        config = build_config({"data": {"corpus": {"name": "owner/set", "evaluation": {"revision": "held"}}}})
        found = hub.with_revisions(config, tmp_path).data.hub
        assert found is not None
        assert found.evaluation is not None
        assert (found.revision, found.evaluation.revision) == (COMMIT, "f" * 40)

    def test_without_a_network_stay_open(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        answers(monkeypatch, ConnectError("no address"))
        config = build_config({"data": {"corpus": "hub:owner/set"}})
        assert hub.with_revisions(config, tmp_path) == config

    def test_other_corpora_ask_nothing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        asked = answers(monkeypatch, COMMIT)
        assert hub.with_revisions(RunConfig(), tmp_path) == RunConfig()
        assert asked == []


class TestConfiguration:
    def test_a_mapping_says_both(self) -> None:
        data = DataConfig.model_validate({"corpus": {"name": "owner/set", "config": "x", "streaming": True}})
        assert (data.corpus, data.hub) == ("hub:owner/set", HubConfig(config="x", streaming=True))
        assert DataConfig(corpus="hub:owner/set").hub == HubConfig()

    def test_hashes_of_other_corpora_stay(self) -> None:
        assert set(DataConfig().hashed()) == {
            "corpus",
            "tokenizer",
            "validation_fraction",
            "test_fraction",
            "max_documents",
        }
        assert DataConfig().hashed()["tokenizer"] == {"kind": "byte", "vocab_size": None}
        assert RunConfig().hash() == "1f082abf23b2faa5"  # of the version without these fields

    def test_what_changes_nothing_is_not_in_the_hash(self) -> None:
        one, other, third = (
            build_config({"data": {"corpus": "hub:owner/set", "hub": {"streaming": True, **more}}}).hash()
            for more in ({}, {"workers": 4, "offline": True, "attempts": 2}, {"shuffle_buffer": 5})
        )
        assert one == other != third

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"corpus": "shakespeare", "hub": {}}, "hub is about a corpus hub:NAME"),
            ({"corpus": "hub:a/b", "hub": {"mix": [{"name": "c/d"}]}}, "streaming=true"),
            ({"corpus": "hub:a/b", "hub": {"document_start": "("}}, "no regular expression"),
            ({"corpus": "hub:a/b", "hub": {"streaming": True}, "max_documents": 3}, "no meaning for a stream"),
            ({"corpus": {"config": "x"}}, "wants a name"),
            ({"corpus": {"name": None}}, "wants a name"),
            *(
                ({"corpus": empty}, "^data: corpus: hub: wants a name: hub:owner/set")
                for empty in ("hub:", "hub: ", {"hub": None}, {"name": ""})  # the mapping is YAML's for `hub:`
            ),
            ({"tokenizer": {"kind": "pretrained", "name": "a/b"}}, "vocab_size"),
            ({"tokenizer": {"name": "a/b"}}, "of kind: pretrained"),
        ],
    )
    def test_refusals(self, data: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            build_config({"data": data})

    def test_other_kinds_without_a_name_say_so_themselves(self) -> None:
        made = build_config({"data": parse_assignments(["corpus=text:"])})
        with pytest.raises(DataError, match=r"text: wants a path, for example text:notes\.txt"):
            require_source(made.data)

    def test_the_evaluation_is_of_the_same_set_unless_named(self) -> None:
        hub = HubConfig.model_validate(
            {"config": "x", "revision": "v1", "text_field": "t", "evaluation": {"validation": "dev"}}
        )
        validation, test = evaluation_sets("hub:a/b", hub) or (None, None)
        assert validation == HubSet(name="a/b", config="x", revision="v1", text_field="t", split="dev")
        assert test is not None
        assert test.split == "test"
        mixed = HubConfig.model_validate({"streaming": True, "mix": [{"name": "c/d", "weight": 2}]})
        assert [(one.name, one.weight) for one in sets_of("hub:a/b", mixed)] == [("a/b", 1.0), ("c/d", 2.0)]


class TestFolders:
    @pytest.mark.parametrize("kind", ["jsonl", "parquet", "jsonl.zst"])
    def test_rows_from_anywhere_in_a_shard(self, tmp_path: Path, kind: str) -> None:
        texts = documents(11)
        name = str(repository(tmp_path / "set", {"train": texts}, kind=kind))
        shards = SetShards(HubSet(name=name, config="main"), streaming=True)
        assert shards.num_shards == 3
        assert list(shards.read(1, 2)) == texts[1::3][2:]

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"config": "mian"}, "mian.*Available.*main"),
            ({"split": "dev"}, "Bad split: dev"),
            (
                {"text_field": "txt"},
                "no field 'txt'.*text, number|row holds NoneType in the field 'txt'.*text, number",
            ),
            ({"text_field": "number"}, "row holds int in the field 'number'"),
        ],
    )
    def test_what_is_not_there_is_named(self, tmp_path: Path, fields: dict[str, str], message: str) -> None:
        name = str(repository(tmp_path / "set", {"train": documents(3)}))
        with pytest.raises(DataError, match=message):
            list(SetShards(HubSet(name=name, **fields), streaming=True).read(0, 0))  # type: ignore[arg-type]

    @pytest.mark.parametrize("streaming", [True, False])
    def test_a_broken_line_is_named_with_its_file(
        self, tmp_path: Path, streaming: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not the first of its file, and in one message."""
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        folder = repository(tmp_path / "set", {"train": documents(9)})
        path = folder / "data" / "train-01.jsonl"
        path.write_text(path.read_text() + '{"text": "cut sh\n{"text": "whole"}\n')
        with pytest.raises(DataError) as found:
            self.read_all(folder, streaming=streaming)
        assert f"split train cannot be read: {path}, line 4: not JSON: Invalid control character" in str(
            found.value
        )
        assert "column 17" in str(found.value)
        assert str(found.value).endswith("Mend or remove what is broken there, or take the file out of the folder")
        assert "Failed to" not in capfd.readouterr().err
        assert not any(handler.filters for handler in logging.getLogger("datasets").handlers)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            (
                "x.jsonl.gz",
                gzip.compress(b'{"text": "a"}\n{"text": \n'),
                r"x\.jsonl\.gz, line 2: not JSON",
            ),
            ("x.jsonl.zst", b"no such thing", r"x\.jsonl\.zst: ZstdError"),
            ("x.jsonl.zst", zstandard.compress(b'{"text": "a"}\n{"te\n'), r"x\.jsonl\.zst, line 2: not JSON"),
            ("x.jsonl", b'{"text": "a"}\n[1]\n', r"x\.jsonl, line 2: no object"),
            ("x.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"x\.jsonl, line 2: not UTF-8 text \(byte 0xff"),
            ("x.jsonl", b"", "holds no rows; check its files, or choose another split"),
            ("x.parquet", b"PAR1", r"x\.parquet: ArrowInvalid: .*[^.]\. Mend or remove"),
        ],
        ids=["gzip", "no zstd", "zstd", "no object", "no UTF-8", "no rows", "no Parquet"],
    )
    def test_what_else_can_be_broken(self, tmp_path: Path, name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            self.read_all(tmp_path, streaming=True)

    def test_a_file_on_the_hub_is_named_too(self) -> None:
        """As far as the library does it, with what can be done about a set of somebody else."""

        def read() -> None:
            with named("the set", HubSet(name="owner/set")):
                url = "hf://datasets/owner/set@main/x.jsonl"
                logging.getLogger("datasets.json").error(f"Failed to load JSON from file '{url}' with error E: e")
                raise pyarrow.ArrowInvalid("JSON parse error in row 3")

        with pytest.raises(
            DataError, match=r"cannot be read: hf://\S+/x.jsonl: ArrowInvalid: .* row 3\. If a down"
        ) as found:
            read()
        assert "data.hub.revision" in str(found.value)

    @staticmethod
    def read_all(folder: Path, *, streaming: bool) -> list[str]:
        shards = SetShards(HubSet(name=str(folder)), streaming=streaming)
        return [text for number in range(shards.num_shards) for text in shards.read(number, 0)]

    def test_code_is_not_run(self, tmp_path: Path) -> None:
        folder = tmp_path / "set"
        folder.mkdir()
        (folder / "set.py").write_text("raise SystemExit('run')")
        with pytest.raises(DataError, match="whose code is not run"):
            SetShards(HubSet(name=str(folder)), streaming=True)

    def test_rows_are_joined(self) -> None:
        rows = ["", " = One = \n", "a\n", " = = Part = = \n", "b", " = Two = \n"]
        assert list(joined(iter(rows), r" = [^=]")) == ["\n", " = One = \na\n = = Part = = \nb\n", " = Two = \n"]


def test_what_is_held_out_of_a_stream_of_joined_rows_ends(tmp_path: Path) -> None:
    """Also where fewer documents are held out than may be: a set is read once."""
    from workbench.hub_corpus import hub_source, split_of

    rows = [line for i in range(40) for line in (f"# {i}", f"about {i}")]
    name = str(repository(tmp_path / "set", {"train": rows}, num_shards=1))
    data = DataConfig.model_validate({"corpus": {"name": name, "streaming": True, "document_start": "# "}})
    source = hub_source(data)
    assert source.held_out is not None
    held_out = source.held_out()
    found = [*source.read(), *held_out["validation"], *held_out["test"]]
    assert sorted(found) == sorted(f"# {i}\nabout {i}" for i in range(40))
    assert all(split_of(text, data) == split for split, texts in held_out.items() for text in texts)
    assert min(len(texts) for texts in held_out.values()) > 0


def test_the_state_of_a_stream_is_small(tmp_path: Path) -> None:
    from workbench.hub_corpus import open_stream
    from workbench.tokenizer import ByteTokenizer

    name = str(repository(tmp_path / "set", {"train": documents(60)}))
    data = DataConfig.model_validate({"corpus": {"name": name, "streaming": True, "shuffle_buffer": 30}})
    opened = open_stream(data, ByteTokenizer(), (), purpose=0, seed=0, num_blocks=2, block_len=64)
    for step in range(30):
        opened.next_batch(step)
    assert len(json.dumps(opened.state_dict(30))) < 300
    opened.close()

"""Prepared corpora, their cache, and training blocks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.suites.documents import document
from workbench import data
from workbench.config import DataConfig, TokenizerConfig
from workbench.data import SPLITS, Corpus, prepare, training_blocks
from workbench.errors import DataError, OutputError
from workbench.files import read_json, sha256, write_json
from workbench.tokenizer import END_ID, PAD_ID


def folder_of(tmp_path: Path, texts: list[str]) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, text in enumerate(texts):
        (folder / f"{i:03}.txt").write_text(text)
    return folder


def texts_of(corpus: Corpus, split: str) -> list[str]:
    starts = corpus.document_starts[split]
    pieces = np.split(corpus.tokens[split], starts[1:])
    assert starts[0] == 0
    assert all(piece[-1] == END_ID and (piece[:-1] > END_ID).all() for piece in pieces)
    return [corpus.tokenizer.decode(piece[:-1]) for piece in pieces]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


# ---- whole corpora -----------------------------------------------------------------------------


@pytest.mark.slow
def test_shakespeare(cache: Path) -> None:
    corpus = prepare(DataConfig(), cache)
    assert corpus.name == "shakespeare"
    assert corpus.vocab_size == 258
    assert sum(len(starts) for starts in corpus.document_starts.values()) == 38
    total = sum(len(tokens) for tokens in corpus.tokens.values())
    for split, fraction in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
        tokens = corpus.tokens[split]
        assert isinstance(tokens, np.memmap)
        assert tokens.dtype == np.uint16
        assert not tokens.flags.writeable
        assert len(tokens) / total == pytest.approx(fraction, abs=0.005)
        assert PAD_ID not in tokens
        assert corpus.num_bytes[split] == len(tokens) - len(corpus.document_starts[split])


def test_a_second_call_reads_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(DataConfig(), cache)
    monkeypatch.setattr(data, "clean", lambda text: pytest.fail("the text was read again"))
    second = prepare(DataConfig(), cache)
    assert second.hash == first.hash
    assert np.array_equal(second.tokens["test"], first.tokens["test"])


def test_every_document_is_in_one_split(tmp_path: Path) -> None:
    texts = [document(i) for i in range(25)]
    corpus = prepare(DataConfig(corpus=f"text:{folder_of(tmp_path, texts)}"), tmp_path, least_tokens=1)
    found = [text for split in SPLITS for text in texts_of(corpus, split)]
    assert sorted(found) == sorted(texts)
    assert {s: sum(len(t.encode()) for t in texts_of(corpus, s)) for s in SPLITS} == corpus.num_bytes


def test_bpe_corpus(tmp_path: Path) -> None:
    texts = [document(i) for i in range(25)]
    config = DataConfig(
        corpus=f"text:{folder_of(tmp_path, texts)}", tokenizer=TokenizerConfig(kind="bpe", vocab_size=300)
    )
    corpus = prepare(config, tmp_path / "a", least_tokens=1)
    assert corpus.vocab_size == 300
    assert len(corpus.tokens["train"]) < corpus.num_bytes["train"] / 2
    assert sorted(t for s in SPLITS for t in texts_of(corpus, s)) == sorted(texts)
    for split in SPLITS:
        assert corpus.tokenizer.byte_lengths[corpus.tokens[split]].sum() == corpus.num_bytes[split]
    again = prepare(config, tmp_path / "b", least_tokens=1)
    assert again.hash == corpus.hash
    assert all(np.array_equal(again.tokens[s], corpus.tokens[s]) for s in SPLITS)


def test_large_vocabularies_take_four_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(data.ByteTokenizer):
        vocab_size = 2**16 + 1

    monkeypatch.setattr(data, "ByteTokenizer", Wide)
    folder = folder_of(tmp_path, [document(i) for i in range(12)])
    assert (
        prepare(DataConfig(corpus=f"text:{folder}"), tmp_path, least_tokens=1).tokens["train"].dtype == np.uint32
    )


def test_hash_depends_on_text_and_settings_but_not_on_names(tmp_path: Path) -> None:
    texts = [document(i) for i in range(12)]
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, order in ((one, texts), (two, texts[::-1])):
        folder.mkdir()
        folder_of(folder, order)

    def corpus(folder: Path, **settings: object) -> Corpus:
        config = DataConfig.model_validate({"corpus": f"text:{folder}/texts", **settings})
        return prepare(config, folder / "cache", least_tokens=1)

    base = corpus(one)
    same = corpus(two)
    assert same.hash == base.hash
    assert np.array_equal(same.tokens["train"], base.tokens["train"])
    others = [
        corpus(one, test_fraction=0.2),
        corpus(one, max_documents=11),
        corpus(one, tokenizer={"kind": "bpe", "vocab_size": 300}),
        corpus(one, tokenizer={"kind": "bpe", "vocab_size": 301}),
    ]
    assert len({base.hash, *(c.hash for c in others)}) == 5
    assert sum(len(starts) for starts in others[1].document_starts.values()) == 11


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [document(i) for i in range(12)])
    config = DataConfig(corpus=f"text:{folder}")
    before = prepare(config, tmp_path, least_tokens=1)
    path = folder / "003.txt"
    path.write_text(path.read_text().replace("k", "q"))  # same size
    after = prepare(config, tmp_path, least_tokens=1)
    assert after.hash != before.hash
    assert any("qing" in text for split in SPLITS for text in texts_of(after, split))
    (folder / "new.txt").write_text(document(99))
    assert prepare(config, tmp_path, least_tokens=1).hash not in (before.hash, after.hash)


def prepared(tmp_path: Path) -> tuple[DataConfig, Corpus, Path]:
    config = DataConfig(corpus=f"text:{folder_of(tmp_path, [document(i) for i in range(12)])}")
    corpus = prepare(config, tmp_path, least_tokens=1)
    return config, corpus, tmp_path / "corpora" / corpus.hash


def test_a_deleted_cache_is_made_anew(tmp_path: Path) -> None:
    config, corpus, folder = prepared(tmp_path)
    shutil.rmtree(folder)
    assert prepare(config, tmp_path, least_tokens=1).hash == corpus.hash


@pytest.mark.parametrize("file", ["train.npy", "test.starts.npy", "corpus.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_corpus_is_made_anew(
    tmp_path: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    config, corpus, folder = prepared(tmp_path)
    tokens = {split: corpus.tokens[split].copy() for split in SPLITS}  # a map shows what is done to its file
    content = (folder / file).read_bytes()
    altered = content[:-1] if damage == "cut" else content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    (folder / file).write_bytes(altered)
    again = prepare(config, tmp_path, least_tokens=1)
    assert (folder / file).read_bytes() == content
    assert f"{folder} is not used: {file} " in caplog.text
    for split in SPLITS:
        np.testing.assert_array_equal(again.tokens[split], tokens[split])


def test_a_pickle_in_the_place_of_tokens_is_never_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Even where the manifest was made to fit."""
    config, _, folder = prepared(tmp_path)
    np.save(folder / "train.npy", np.array([Harmful(tmp_path / "harm")], dtype=object), allow_pickle=True)
    manifest = read_json(folder / "manifest.json")
    manifest["files"]["train.npy"] = {
        "size": (folder / "train.npy").stat().st_size,
        "sha256": sha256(folder / "train.npy"),
    }
    write_json(folder / "manifest.json", manifest)
    assert prepare(config, tmp_path, least_tokens=1).tokens["train"].dtype == np.uint16
    assert not (tmp_path / "harm").exists()
    assert "is not used: the prepared corpus in" in caplog.text


class Harmful:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"hash": "../../x"}', '{"hash": 3}', "\0\0", '{"hash": "0123456789abcdef"}']
)
def test_a_damaged_index_is_made_anew(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    config, corpus, _ = prepared(tmp_path)
    (index,) = (tmp_path / "corpora" / "index").glob("*.json")
    content = index.read_text()
    index.write_text(text)
    assert prepare(config, tmp_path, least_tokens=1).hash == corpus.hash
    assert index.read_text() == content
    assert f"{index} is not used" in caplog.text


def test_the_index_of_another_corpus_is_not_followed(tmp_path: Path) -> None:
    config, corpus, _ = prepared(tmp_path)
    other = config.model_copy(update={"test_fraction": 0.2})
    (own,) = (tmp_path / "corpora" / "index").glob("*.json")
    prepare(other, tmp_path, least_tokens=1)
    (another,) = set((tmp_path / "corpora" / "index").glob("*.json")) - {own}
    shutil.copy(another, own)
    assert prepare(config, tmp_path, least_tokens=1).hash == corpus.hash


def test_a_corpus_of_other_settings_is_not_used(tmp_path: Path) -> None:
    config, _, folder = prepared(tmp_path)
    about = read_json(folder / "corpus.json")
    about["settings"]["fractions"] = [0.3, 0.3]
    write_json(folder / "corpus.json", about)
    manifest = read_json(folder / "manifest.json")
    path = folder / "corpus.json"
    manifest["files"]["corpus.json"] = {"size": path.stat().st_size, "sha256": sha256(path)}
    write_json(folder / "manifest.json", manifest)
    prepare(config, tmp_path, least_tokens=1)
    assert read_json(path)["settings"]["fractions"] == [config.validation_fraction, config.test_fraction]


PREPARE = """
import logging, sys
from pathlib import Path
from workbench.config import DataConfig
from workbench.data import prepare
logging.basicConfig(level=logging.INFO, format="%(message)s")
sys.stdin.readline()
corpus = prepare(DataConfig(corpus=sys.argv[1]), Path(sys.argv[2]), least_tokens=1)
print(corpus.hash, len(corpus.tokens["train"]), "torch" in sys.modules, "datasets" in sys.modules)
"""


@pytest.mark.slow
def test_two_processes_prepare_a_corpus_once(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", PREPARE, "kjv", str(tmp_path)]
    processes = [
        subprocess.Popen(
            arguments, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in processes:  # both have started: let them go at once
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert "".join(err for _, err in results).count("preparing the corpus") == 1
    assert results[0][0].split()[2:] == ["False", "False"]
    assert len([p for p in (tmp_path / "corpora").iterdir() if p.is_dir()]) == 2  # the corpus, the index


def test_a_prepared_json_corpus_loads_without_datasets(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "{"word " * i}"}}\n' for i in range(1, 40)))
    first = prepare(DataConfig(corpus=f"json:{path}"), tmp_path, least_tokens=1)
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, f"json:{path}", str(tmp_path)],
        input="\n", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [first.hash, str(len(first.tokens["train"])), "False", "False"]


# ---- what cannot be prepared -------------------------------------------------------------------


@pytest.mark.parametrize("texts", [[], ["", " \n "]])
def test_empty_corpus(tmp_path: Path, texts: list[str]) -> None:
    folder = folder_of(tmp_path, [*texts, ""])
    with pytest.raises(DataError, match="holds no text"):
        prepare(DataConfig(corpus=f"text:{folder}"), tmp_path)
    assert not list((tmp_path / "corpora").glob("*/*.npy"))


def test_tiny_corpus_leaves_nothing_behind(tmp_path: Path) -> None:
    config = DataConfig(corpus=f"text:{folder_of(tmp_path, [document(i, 80) for i in range(12)])}")
    wanted = (
        r"too small: at least 2,048 tokens are wanted in each split, there are: train [\d,]+, "
        r"validation \d+, test \d+\. Give more text, or change data\.validation_fraction"
    )
    with pytest.raises(DataError, match=wanted):
        prepare(config, tmp_path)
    assert [p.name for p in (tmp_path / "corpora").iterdir() if not p.name.startswith(".")] == ["index"]
    prepare(config, tmp_path, least_tokens=100)
    with pytest.raises(DataError, match=wanted):  # now from the cache
        prepare(config, tmp_path)
    with pytest.raises(DataError, match="at least 1 tokens"):
        prepare(DataConfig(corpus=f"text:{tmp_path}/texts/000.txt", test_fraction=1e-9), tmp_path, least_tokens=0)


def test_unwritable_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write into"):
        prepare(DataConfig(corpus="kjv"), tmp_path / "file")


# ---- blocks ------------------------------------------------------------------------------------


def test_blocks_are_text_at_every_offset() -> None:
    tokens = np.arange(20, dtype=np.uint16)
    blocks = training_blocks(tokens, 500, 8, np.random.default_rng(0))
    assert blocks.shape == (500, 8)
    assert blocks.dtype == np.int64
    assert (np.diff(blocks, axis=1) == 1).all()
    assert set(blocks[:, 0].tolist()) == set(range(13))
    assert np.array_equal(blocks, training_blocks(tokens, 500, 8, np.random.default_rng(0)))
    assert training_blocks(tokens, 2, 20, np.random.default_rng(0)).tolist() == [list(range(20))] * 2


def test_blocks_longer_than_the_text() -> None:
    with pytest.raises(DataError, match=r"a training block has 9 tokens, the training split only 8; lower"):
        training_blocks(np.zeros(8, dtype=np.uint16), 1, 9, np.random.default_rng(0))


def test_blocks_from_a_memory_map(cache: Path) -> None:
    tokens = prepare(DataConfig(), cache).tokens["train"]
    assert isinstance(tokens, np.memmap)
    blocks = training_blocks(tokens, 64, 256, np.random.default_rng(1))
    assert blocks.min() > PAD_ID
    assert np.array_equal(blocks, training_blocks(np.array(tokens), 64, 256, np.random.default_rng(1)))

"""Tokenizers of others: ids moved, special tokens kept out of text, identity by content, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.suites.released_weights import BEGIN, END, LANGUAGE_MODEL, PAD, SPECIAL, VOCAB, tokenizer_json
from tests.suites.tiny_runs import write_text
from workbench.config import DataConfig, TokenizerConfig
from workbench.config_file import build_config
from workbench.data import prepare
from workbench.errors import ConfigError, DataError
from workbench.files import sha256
from workbench.pretrained_tokenizer import (
    FILE,
    PretrainedTokenizer,
    file_order,
    pinned,
    pretrained_tokenizer,
    with_tokenizer,
)
from workbench.released.vocabulary import tokenizer_section
from workbench.tokenizer import END_ID, NUM_RESERVED, PAD_ID, load_tokenizer

TEXTS = [
    "the king of the night",
    "",
    "é日🙂\n\n  a\tb",
    f"a{SPECIAL[0]}b{SPECIAL[2]}",
    "word0 and word3",
    "x" * 2500,
]


def plain_json(*special: str) -> str:
    """Bytes and a few merges, with as many special tokens as given; nothing is put before a text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(["the king of the night rides to the king"] * 3, trainer)
    bpe.add_special_tokens(list(special))
    return str(bpe.to_str())


def read(definition: str) -> Tokenizer:
    return Tokenizer.from_str(definition)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / FILE).write_text(tokenizer_json(), encoding="utf-8")
    return tmp_path / FILE


def config(path: Path, size: int = VOCAB, **more: Any) -> TokenizerConfig:
    return TokenizerConfig.model_validate({"kind": "pretrained", "name": str(path), "vocab_size": size, **more})


MADE = {
    "two special": (tokenizer_json(), {"end_id": BEGIN, "pad_id": PAD, "vocab_size": VOCAB}),
    "padded": (tokenizer_json(), {"end_id": BEGIN, "pad_id": PAD, "vocab_size": VOCAB + 20}),
    "one special": (plain_json("<|endoftext|>"), {"end_id": 270, "pad_id": None, "vocab_size": 272}),
    "none": (plain_json(), {"end_id": None, "pad_id": None, "vocab_size": 272}),
}


class TestIds:
    @pytest.fixture(params=MADE)
    def made(self, request: pytest.FixtureRequest) -> tuple[str, PretrainedTokenizer]:
        definition, options = MADE[request.param]
        return definition, PretrainedTokenizer(definition, **options)

    @pytest.mark.parametrize("text", TEXTS)
    def test_text_comes_back_and_holds_no_reserved_id(
        self, made: tuple[str, PretrainedTokenizer], text: str
    ) -> None:
        _, tokenizer = made
        ids = tokenizer.encode(text)
        assert (ids >= NUM_RESERVED).all()
        assert ids.dtype == np.uint32
        assert tokenizer.decode(ids) == text
        assert int(tokenizer.byte_lengths[ids].sum()) == len(text.encode())

    @pytest.mark.parametrize("text", ["the king of the night rides", "é日🙂 and no crown"])
    def test_they_are_the_files_own(self, made: tuple[str, PretrainedTokenizer], text: str) -> None:
        definition, tokenizer = made
        theirs = read(definition).encode(text, add_special_tokens=False).ids
        assert tokenizer.order[tokenizer.encode(text)].tolist() == theirs

    def test_saved_and_loaded(self, made: tuple[str, PretrainedTokenizer], tmp_path: Path) -> None:
        _, tokenizer = made
        tokenizer.save(tmp_path)
        again = load_tokenizer(tmp_path)
        assert isinstance(again, PretrainedTokenizer)
        assert again.token_bytes == tokenizer.token_bytes
        assert again.vocab_size == tokenizer.vocab_size
        assert (again.end_id, again.pad_id) == (tokenizer.end_id, tokenizer.pad_id)
        assert again.encode(TEXTS[0]).tolist() == tokenizer.encode(TEXTS[0]).tolist()

    def test_two_move_to_the_front(self) -> None:
        definition, options = MADE["two special"]
        order = PretrainedTokenizer(definition, **options).order
        assert (order[PAD_ID], order[END_ID]) == (PAD, BEGIN)
        assert order[NUM_RESERVED:].tolist() == [i for i in range(VOCAB) if i not in (PAD, BEGIN)]

    @pytest.mark.parametrize(
        ("size", "end", "pad", "order"),
        [
            (5, 0, 1, [1, 0, 2, 3, 4]),
            (5, 2, None, [-1, 2, 0, 1, 3]),
            (5, None, 2, [2, -1, 0, 1, 3]),
            (5, None, None, [-1, -1, 0, 1, 2]),
        ],
    )
    def test_order(self, size: int, end: int | None, pad: int | None, order: list[int]) -> None:
        assert file_order(size, end_id=end, pad_id=pad).tolist() == order

    def test_special_tokens_spell_nothing(self) -> None:
        definition, options = MADE["two special"]
        tokenizer = PretrainedTokenizer(definition, **options)
        ours = tokenizer.order.argsort()
        assert tokenizer.decode([ours[BEGIN], ours[END], *tokenizer.encode("a"), ours[PAD]]) == "\na"
        assert SPECIAL[1].encode() not in tokenizer.token_bytes

    def test_ids_that_the_file_does_not_have_spell_nothing(self) -> None:
        definition, options = MADE["padded"]
        tokenizer = PretrainedTokenizer(definition, **options)
        assert tokenizer.vocab_size == VOCAB + 20
        assert tokenizer.token_bytes[VOCAB:] == [b""] * 20

    def test_gaps_spell_nothing(self) -> None:
        tree = json.loads(plain_json())
        moved = max(tree["model"]["vocab"], key=tree["model"]["vocab"].get)
        tree["model"]["vocab"][moved] = 275
        tokenizer = PretrainedTokenizer(json.dumps(tree), end_id=None, pad_id=None, vocab_size=278)
        assert tokenizer.token_bytes[NUM_RESERVED + 269 : NUM_RESERVED + 275] == [b""] * 6
        assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]


class TestRefused:
    def test_ids_that_are_not_special(self) -> None:
        message = r"end_id 7 is no special token.*special are 297 '<\|begin_of_text\|>', 29"
        with pytest.raises(DataError, match=message):
            PretrainedTokenizer(tokenizer_json(), end_id=7, pad_id=PAD, vocab_size=VOCAB)

    def test_no_tokenizer(self) -> None:
        with pytest.raises(DataError, match=r"no tokenizer.json of the tokenizers library"):
            PretrainedTokenizer("{}", end_id=1, pad_id=0, vocab_size=VOCAB)

    def test_not_of_bytes(self) -> None:
        made = Tokenizer(models.WordLevel({"a": 0, "日": 1}, unk_token="a"))
        made.add_special_tokens(["<|end|>", "<|pad|>"])
        with pytest.raises(DataError, match=r"a byte-level BPE is wanted.*token 1 is '日'"):
            PretrainedTokenizer(made.to_str(), end_id=2, pad_id=3, vocab_size=VOCAB)

    @pytest.mark.parametrize(
        ("special", "wanted"), [(("<|end|>", "<|pad|>"), 272), (("<|end|>",), 272), ((), 272)]
    )
    def test_too_few_ids(self, path: Path, special: tuple[str, ...], wanted: int) -> None:
        path.write_text(plain_json(*special), encoding="utf-8")
        assert pretrained_tokenizer(config(path, wanted)).vocab_size == wanted
        with pytest.raises(DataError, match=rf"has {wanted} ids .* is {wanted - 1}; set it to at least {wanted}"):
            pretrained_tokenizer(config(path, wanted - 1))

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda tree: tree["model"].update(type="WordPiece"), "it is no byte-level BPE"),
            (lambda tree: tree.update(pre_tokenizer=None), "it is no byte-level BPE"),
            (lambda tree: tree.update(normalizer={"type": "Lowercase"}), "it changes the text"),
            (lambda tree: tree["pre_tokenizer"].update(add_prefix_space=True), "it changes the text"),
            (lambda tree: tree["model"]["vocab"].update({"日": 9000}), "9000 is '日', which spells no bytes"),
            (lambda tree: tree.pop("model"), "is not a tokenizer that can be used"),
        ],
    )
    def test_others(self, path: Path, change: Any, reason: str) -> None:
        tree = json.loads(tokenizer_json())
        change(tree)
        path.write_text(json.dumps(tree), encoding="utf-8")
        with pytest.raises(DataError, match=reason):
            pretrained_tokenizer(config(path, 10_000))

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            ({"kind": "pretrained", "name": "a/b"}, r"wants name .* and vocab_size"),
            ({"kind": "byte", "name": "x"}, r"name: of kind: pretrained alone, kind is byte"),
            ({"kind": "bpe", "end_id": 3}, r"end_id: of kind: pretrained alone, kind is bpe"),
            (
                {"kind": "pretrained", "name": "x", "vocab_size": 9, "end_id": 1, "pad_id": 1},
                "must differ, both are 1",
            ),
        ],
    )
    def test_sections_that_make_no_sense(self, section: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            build_config({"data": {"tokenizer": section}})


class TestPinned:
    def test_what_was_left_open(self, path: Path) -> None:
        found = pinned(config(path))
        assert (found.sha256, found.end_id, found.pad_id) == (sha256(path), BEGIN, PAD)
        assert pinned(found) == found
        assert pinned(config(path.parent)).sha256 == found.sha256, "a folder with it"
        run = with_tokenizer(build_config({"data": {"tokenizer": config(path).model_dump()}}))
        assert run.data.tokenizer == found
        assert with_tokenizer(build_config({})) == build_config({})

    @pytest.mark.parametrize(
        ("special", "given", "end", "pad"),
        [
            (("<|a|>", "<|b|>"), {}, 270, 271),
            (("<|a|>", "<|b|>"), {"end_id": 271}, 271, 270),
            (("<|a|>", "<|b|>"), {"pad_id": 270}, 271, 270),
            (("<|a|>",), {}, 270, None),
            (("<|a|>",), {"pad_id": 270}, None, 270),
            ((), {}, None, None),
        ],
    )
    def test_where_nothing_is_put_before_a_text(
        self, path: Path, special: tuple[str, ...], given: dict[str, int], end: int | None, pad: int | None
    ) -> None:
        path.write_text(plain_json(*special), encoding="utf-8")
        found = pinned(config(path, 272, **given))
        assert (found.end_id, found.pad_id) == (end, pad)

    def test_it_is_the_section_that_an_import_writes(self, path: Path) -> None:
        section = tokenizer_section(path, LANGUAGE_MODEL)
        assert pinned(config(path)) == TokenizerConfig.model_validate(section)

    def test_the_hash_is_of_the_content(self, tmp_path: Path) -> None:
        sections = []
        for name in ("a.json", "b.json"):
            (tmp_path / name).write_text(tokenizer_json(), encoding="utf-8")
            sections.append(pinned(config(tmp_path / name)).model_dump())
        hashes = [build_config({"data": {"tokenizer": section}}).hash() for section in sections]
        assert hashes[0] == hashes[1]
        assert build_config({"data": {"tokenizer": {**sections[0], "end_id": END}}}).hash() != hashes[0]
        assert build_config({}).hash() == build_config({"data": {"tokenizer": {"kind": "byte"}}}).hash()


class TestCorpus:
    @pytest.fixture
    def text(self, tmp_path: Path) -> Path:
        write_text(tmp_path / "text.txt", 25_000)
        return tmp_path / "text.txt"

    def test_in_its_tokens(self, path: Path, text: Path, tmp_path: Path) -> None:
        data = DataConfig(corpus=f"text:{text}", tokenizer=config(path))
        corpus = prepare(data, tmp_path / "cache")
        assert corpus.vocab_size == VOCAB
        whole = "".join(corpus.tokenizer.decode(corpus.tokens[s][:-1]) for s in ("train", "validation", "test"))
        assert whole == text.read_text().strip()
        assert [int(corpus.tokens[split][-1]) for split in corpus.tokens] == [END_ID] * 3
        moved = path.rename(tmp_path / "moved.json")
        for section in (config(moved), pinned(config(moved)), tokenizer_section(moved, LANGUAGE_MODEL)):
            same = DataConfig.model_validate({"corpus": data.corpus, "tokenizer": section})
            assert prepare(same, tmp_path / "cache").hash == corpus.hash

    def test_another_file_is_refused(self, path: Path, text: Path, tmp_path: Path) -> None:
        data = DataConfig(corpus=f"text:{text}", tokenizer=pinned(config(path)))
        path.write_text(tokenizer_json(vocab=VOCAB + 8))
        with pytest.raises(DataError, match="is another one than the configuration says"):
            prepare(data, tmp_path / "cache")

    def test_another_content_is_another_corpus(self, path: Path, text: Path, tmp_path: Path) -> None:
        data = DataConfig(corpus=f"text:{text}", tokenizer=config(path, VOCAB + 8))
        before = prepare(data, tmp_path / "cache").hash
        path.write_text(tokenizer_json(vocab=VOCAB + 8))
        assert prepare(data, tmp_path / "cache").hash != before

    def test_a_missing_file_is_named(self, path: Path, text: Path, tmp_path: Path) -> None:
        path.unlink()
        for name in (path, path.parent):
            data = DataConfig(corpus=f"text:{text}", tokenizer=config(name))
            with pytest.raises(DataError, match=r"cannot read the tokenizer .*tokenizer.json: No such file"):
                prepare(data, tmp_path / "cache")

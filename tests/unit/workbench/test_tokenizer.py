"""Round trips, reserved ids, determinism and storage of the tokenizers."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from workbench.errors import DataError
from workbench.files import write_json
from workbench.tokenizer import END_ID, PAD_ID, BpeTokenizer, ByteTokenizer, Tokenizer, load_tokenizer

TEXT = (
    "To be, or not to be: that is the question.\n\tÀ l'œuvre — 日本語, 😀 <pad> <end> [UNK]\n"
    "  two  spaces, \x7f and \xa0 odd characters; ¡Ä!\n"
)


def random_text(seed: int, length: int = 400) -> str:
    rng = random.Random(seed)
    ranges = [(0x20, 0x7E), (0xA0, 0x17F), (0x4E00, 0x4EFF), (0x1F600, 0x1F64F), (0x00, 0x1F)]
    return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(length))


@pytest.fixture(scope="module", params=["byte", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return ByteTokenizer() if request.param == "byte" else BpeTokenizer.train([TEXT, "to be or not " * 20], 300)


@pytest.mark.parametrize("text", ["", "a", TEXT, *(random_text(s) for s in range(5))])
def test_round_trip_without_reserved_ids(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not np.isin(ids, [PAD_ID, END_ID]).any()
    assert ids.size == 0 or ids.max() < tokenizer.vocab_size
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())


def test_decode_never_raises(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert isinstance(tokenizer.decode(rng.integers(-5, tokenizer.vocab_size + 5, 40)), str)
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([10**12]) == "�"


def test_end_shows_as_newline_and_padding_as_nothing(tokenizer: Tokenizer) -> None:
    a, b = tokenizer.encode("ab").tolist(), tokenizer.encode("c").tolist()
    assert tokenizer.decode([*a, PAD_ID, END_ID, *b]) == "ab\nc"


def test_lone_surrogates_become_replacement_characters(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a�b"


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.vocab_size == tokenizer.vocab_size
    assert loaded.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


def test_byte_ids() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.vocab_size == 258
    assert tokenizer.encode("é\n").tolist() == [0xC3 + 2, 0xA9 + 2, 10 + 2]
    assert tokenizer.decode([0xC3 + 2]) == "�"


def test_bpe_is_deterministic_and_merges() -> None:
    documents = [random_text(s) + "the cat and the dog and the cow " * 10 for s in range(10)]
    one, two = BpeTokenizer.train(documents, 320), BpeTokenizer.train(iter(documents), 320)
    assert one.vocab_size == 320
    assert one.token_bytes == two.token_bytes
    assert len(one.encode("the cat and the dog")) < 10
    assert sorted(one.token_bytes[2:258]) == [bytes([b]) for b in range(256)]


def test_bpe_vocabulary_is_smaller_where_the_text_is() -> None:
    assert BpeTokenizer.train(["ab"], 5000).vocab_size == 258


def test_unreadable_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no readable tokenizer in .*delete that folder"):
        load_tokenizer(tmp_path)
    write_json(tmp_path / "tokenizer.json", {"kind": "words"})
    with pytest.raises(DataError, match="'words'; known: byte, bpe"):
        load_tokenizer(tmp_path)


def test_training_is_interrupted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though native code waits in it: here for a document that does not come."""
    monkeypatch.setattr("workbench.tokenizer.LEAVE_SECONDS", 0.01)
    free, heard_inside, read_in = threading.Event(), [], []

    def documents() -> Iterator[str]:
        read_in.append(threading.current_thread())
        yield "the king and the queen"
        signal.raise_signal(signal.SIGINT)
        try:
            free.wait(30)
        except KeyboardInterrupt:
            heard_inside.append(True)
            raise
        heard_inside.append(not free.is_set())
        yield "never read"

    told: list[int] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            BpeTokenizer.train(documents(), 300, told.append)
        assert heard_inside == [], "the interruption waited for the document"
        assert threading.main_thread() not in read_in
    finally:
        free.set()


def test_training_tells_how_much_was_read() -> None:
    waiting, told = threading.Event(), []

    def tell(read: int) -> None:
        told.append(read)
        waiting.set()

    def documents() -> Iterator[str]:
        yield "the king"
        assert waiting.wait(30)
        yield "the queen"

    BpeTokenizer.train(documents(), 300, tell)
    assert set(told) <= {0, 1, 2}
    assert told == sorted(told)
    assert told


def test_an_error_of_the_documents_is_raised() -> None:
    def documents() -> Iterator[str]:
        yield "the king"
        raise DataError("the text ends here")

    with pytest.raises(DataError, match="ends here"):
        BpeTokenizer.train(documents(), 300)

"""Text that comes in pieces is the text decoded at once."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.text_stream import TextStream
from workbench.tokenizer import END_ID, BpeTokenizer, ByteTokenizer, Tokenizer

TEXT = "naïve – 日本 🙂, the king’s crown"
TOKENIZERS = {"byte": ByteTokenizer(), "bpe": BpeTokenizer.train(["the king and the queen " * 50], 300)}


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_join_to_the_text_and_hold_whole_characters(tokenizer: Tokenizer, size: int) -> None:
    tokens = tokenizer.encode(TEXT).tolist()
    stream = TextStream(tokenizer)
    pieces = [stream.feed(tokens[i : i + size]) for i in range(0, len(tokens), size)]
    assert stream.close() == ""
    assert "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)


def test_any_tokens_are_what_the_tokenizer_decodes() -> None:
    """Broken characters, padding and ends of documents too, cut anywhere."""
    rng = np.random.default_rng(0)
    tokenizer = ByteTokenizer()
    for _ in range(200):
        tokens = rng.choice([0, END_ID, *tokenizer.encode("é日🙂a")], size=12).tolist()
        cut = int(rng.integers(13))
        stream = TextStream(tokenizer)
        assert stream.feed(tokens[:cut]) + stream.feed(tokens[cut:]) + stream.close() == tokenizer.decode(tokens)


def test_a_character_that_is_begun_shows_at_the_end() -> None:
    stream = TextStream(ByteTokenizer())
    assert stream.feed(ByteTokenizer().encode("a日")[:3]) == "a"
    assert stream.close() == "\ufffd"

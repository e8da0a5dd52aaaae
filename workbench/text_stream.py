"""Text of tokens that come a few at a time: a character may be spread over tokens, and tokens over steps.
Imports no torch."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from workbench.tokenizer import END_ID, Tokenizer


class TextStream:
    """What ``feed`` and ``close`` return, joined, is ``tokenizer.decode`` of all tokens: every piece consists of
    whole characters, and bytes that are no UTF-8 show as U+FFFD."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, tokens: Iterable[int]) -> str:
        """Text of the characters that these tokens complete."""
        table = self._tokenizer.token_bytes
        spelled = b"".join(b"\n" if token == END_ID else table[token] for token in tokens)
        return self._decoder.decode(spelled)

    def close(self) -> str:
        """Of a character that was begun."""
        return self._decoder.decode(b"", final=True)

"""Evaluated text that the training text holds as well. Imports no torch.

A *span* is L tokens in a row. The spans of the windows (the small side) are hashed and sorted once; the
training text is streamed past them in blocks. Hashes only propose: every match is confirmed by comparing the
tokens, so no collision is ever reported.

Letters: W windows, T tokens of a window, L tokens of a span, V vocabulary, M spans, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench.records import Overlap
from workbench.tokenizer import END_ID

LEAST_SPAN = 8
"""Tokens. Fewer in a row recur in any two texts of one language."""
QUOTED = 80
"""Characters of the longest stretch that are kept."""

_BLOCK = 2**18
"""Training tokens hashed at a time: a dozen arrays of 2 MB."""
_BASE = 0x9E3779B97F4A7C15
"""Of the polynomial hash; odd, so that it has an inverse modulo 2^64."""
_SIEVE_BITS = (16, 26)
"""Least and most bits of a hash by which the sieve tells training spans from those of the windows."""

Tokens = npt.NDArray[np.integer[Any]]
Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def find_overlap(
    train: Tokens,
    windows: Tokens,
    byte_lengths: npt.NDArray[np.integer[Any]],
    *,
    span_bytes: int = 50,
    decode: Callable[[Ints], str] | None = None,
) -> Overlap:
    """How much of the evaluated text occurs in the training text.

    ``train``: token ids, one dimension, any integer type; may be memory-mapped and far larger than memory (it
    is read once, in blocks). ``windows``: (W, T) ids, held in memory with about 120 bytes a token.
    ``byte_lengths``: (V,) UTF-8 bytes of each id (``Tokenizer.byte_lengths``). ``decode``: ids to text
    (``Tokenizer.decode``); without it the longest stretch is counted and not quoted.

    A token counts if it lies in a span of L tokens, within its window and without an end token, that occurs
    exactly in ``train``; L is ``span_tokens``. A stretch is a run of tokens that count: as a whole it may be
    pieced together from several places of the training text. End tokens never count, but are among the tokens
    that the shares are of."""
    assert (train.ndim, windows.ndim) == (1, 2), f"(N,), (W, T) wanted, {train.shape}, {windows.shape} given"
    length = span_tokens(windows, byte_lengths, span_bytes)
    covered = _covered(train, windows, length)  # (W, T)
    start, longest = _longest_run(covered)
    text = decode(windows.reshape(-1)[start : start + longest].astype(np.int64)) if decode and longest else ""
    return Overlap(
        span_bytes=span_bytes,
        token_share=float(covered.mean()) if covered.size else 0.0,
        window_share=float((2 * covered.sum(1) > covered.shape[1]).mean()) if covered.size else 0.0,
        longest=text[:QUOTED],
        longest_tokens=longest,
    )


def span_tokens(windows: Tokens, byte_lengths: npt.NDArray[np.integer[Any]], span_bytes: int) -> int:
    """L: tokens that spell about ``span_bytes`` bytes, by the mean over the windows' own text (end tokens left
    out), at least ``LEAST_SPAN``."""
    ids = windows[windows != END_ID]
    spelt = float(byte_lengths[ids].mean()) if ids.size else 1.0
    return max(LEAST_SPAN, round(span_bytes / max(spelt, 1e-9)))


def _covered(train: Tokens, windows: Tokens, length: int) -> Mask:
    """(W, T): tokens in a span of ``length`` that ``train`` has too."""
    starts = _span_starts(windows, length)
    covered: Mask = np.zeros(windows.size, dtype=np.bool_)
    if len(starts) and len(train) >= length:
        spans = _Spans(windows.reshape(-1), starts, length)
        for first in range(0, len(train) - length + 1, _BLOCK):
            # L - 1 tokens more than a block: each span that starts in it is whole, and none is seen twice
            spans.look_for(train[first : first + _BLOCK + length - 1])
        edges = np.zeros(windows.size + 1, dtype=np.int64)  # + 1 where a span starts, - 1 after its end
        found = spans.starts[spans.found]
        edges[found] += 1  # starts are distinct
        edges[found + length] -= 1
        covered = edges.cumsum()[:-1] > 0
    return covered.reshape(windows.shape)


def _span_starts(windows: Tokens, length: int) -> Ints:
    """(M,) offsets, in the windows laid end to end, of all spans that lie in one window and hold no END_ID."""
    num_windows, size = windows.shape
    if size < length:
        return np.zeros(0, dtype=np.int64)
    ends = np.zeros((num_windows, size + 1), dtype=np.int64)
    np.cumsum(windows == END_ID, axis=1, out=ends[:, 1:])
    window, offset = np.nonzero(ends[:, length:] == ends[:, : size - length + 1])
    return np.asarray(window * size + offset, dtype=np.int64)


class _Spans:
    """The spans of the windows, in the order of their hashes, and which of them were found."""

    def __init__(self, text: Tokens, starts: Ints, length: int) -> None:
        self.text, self.length = text, length
        hashes = _rolling_hash(text, length)[starts]
        order = np.argsort(hashes, kind="stable")
        self.starts = starts[order]  # (M,)
        self.keys, first, self.group = np.unique(hashes[order], return_index=True, return_inverse=True)
        self.bounds = np.append(first, len(starts))  # spans of key g: bounds[g] ... bounds[g + 1]
        self.found: Mask = np.zeros(len(starts), dtype=np.bool_)
        self.missing = np.diff(self.bounds)  # spans of each key still to be found
        bits = min(max((64 * len(self.keys)).bit_length(), _SIEVE_BITS[0]), _SIEVE_BITS[1])
        self.shift = np.uint64(64 - bits)  # the high bits of a polynomial modulo 2^64 are the mixed ones
        self.sieve: Mask = np.zeros(2**bits, dtype=np.bool_)
        self.sieve[self.keys >> self.shift] = True

    def look_for(self, block: Tokens) -> None:
        """Mark the spans that occur in a piece of training text."""
        block = np.asarray(block)
        hashes = _rolling_hash(block, self.length)
        at = np.flatnonzero(self.sieve[hashes >> self.shift])  # (C,) candidates: most others are gone
        key = np.minimum(np.searchsorted(self.keys, hashes[at]), len(self.keys) - 1)
        same = (self.keys[key] == hashes[at]) & (self.missing[key] > 0)
        at, key = at[same], key[same]
        while len(at):
            # One candidate of each key at a time. It settles the key unless two texts have one hash; only then
            # spans stay missing and the next candidate is tried.
            keys, first = np.unique(key, return_index=True)
            self._confirm(block, keys, at[first])
            left = self.missing[key] > 0
            left[first] = False
            at, key = at[left], key[left]

    def _confirm(self, block: Tokens, keys: Ints, at: Ints) -> None:
        """Compare the training text at ``at`` with the spans of ``keys`` that are still missing."""
        sizes = self.bounds[keys + 1] - self.bounds[keys]
        before = sizes.cumsum() - sizes
        member = np.arange(sizes.sum()) + np.repeat(self.bounds[keys] - before, sizes)  # indices of spans
        place = np.repeat(at, sizes)
        missing = ~self.found[member]
        member, place = member[missing], place[missing]
        for offset in range(self.length):
            equal = self.text[self.starts[member] + offset] == block[place + offset]
            member, place = member[equal], place[equal]
        self.found[member] = True
        np.subtract.at(self.missing, self.group[member], 1)


def _rolling_hash(tokens: Tokens, length: int) -> Hashes:
    """(N - L + 1,) sum_j tokens[i + j] * base^j modulo 2^64 of every span: differences of running sums of
    tokens[i] * base^i, divided by base^i. Equal spans have equal hashes wherever they stand."""
    powers, inverses = _powers(_BASE, len(tokens)), _powers(pow(_BASE, -1, 2**64), len(tokens))
    sums = np.zeros(len(tokens) + 1, dtype=np.uint64)
    np.cumsum(tokens.astype(np.uint64) * powers, out=sums[1:])
    return (sums[length:] - sums[:-length]) * inverses[: len(tokens) - length + 1]


def _powers(base: int, num: int) -> Hashes:
    """base^0 ... base^(num - 1) modulo 2^64."""
    factors = np.full(num, base, dtype=np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _longest_run(covered: Mask) -> tuple[int, int]:
    """Start (in the windows laid end to end) and length of the longest run of covered tokens within one window;
    the first of equals; (0, 0) where there is none."""
    padded = np.zeros((covered.shape[0], covered.shape[1] + 1), dtype=np.int8)  # an uncovered token after each
    padded[:, :-1] = covered
    steps = np.diff(padded.reshape(-1), prepend=np.int8(0))
    starts, stops = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    if not len(starts):
        return 0, 0
    best = int(np.argmax(stops - starts))
    window, offset = divmod(int(starts[best]), covered.shape[1] + 1)
    return window * covered.shape[1] + offset, int(stops[best] - starts[best])

"""Overlap of evaluated with training text, against a search with Python's ``bytes.find``."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from workbench import overlap
from workbench.overlap import LEAST_SPAN, find_overlap, span_tokens
from workbench.records import Overlap
from workbench.tokenizer import END_ID, NUM_RESERVED, ByteTokenizer

Ints = npt.NDArray[np.integer[Any]]
ONE_BYTE = np.array([0, 0, *[1] * 256])
"""Byte lengths of ``ByteTokenizer``."""


def brute_force(train: Ints, windows: Ints, length: int) -> npt.NDArray[np.bool_]:
    """(W, T) tokens in a span that ``train`` has too. Any ids, at most 256 different ones in all."""
    names = {int(token): i for i, token in enumerate(np.unique([*train.tolist(), *windows.ravel().tolist()]))}
    text = bytes(names[t] for t in train.tolist())
    covered = np.zeros(windows.shape, dtype=bool)
    for w, window in enumerate(windows.tolist()):
        for i in range(len(window) - length + 1):
            span = window[i : i + length]
            if END_ID not in span and text.find(bytes(names[t] for t in span)) >= 0:
                covered[w, i : i + length] = True
    return covered


def longest_run(covered: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    """Window, offset and length of the first of the longest runs."""
    best = (0, 0, 0)
    for w, row in enumerate(covered.tolist()):
        for i in range(len(row)):
            size = 0
            while i + size < len(row) and row[i + size]:
                size += 1
            if size > best[2]:
                best = (w, i, size)
    return best


def random_text(rng: np.random.Generator, num: int, alphabet: list[int], *, ends: float = 0.0) -> Ints:
    text = rng.choice(alphabet, size=num)
    text[rng.random(num) < ends] = END_ID
    return text.astype(np.uint16)


def check(train: Ints, windows: Ints, length: int) -> Overlap:
    """Every field against brute force; byte tokens."""
    expected = brute_force(train, windows, length)
    np.testing.assert_array_equal(overlap._covered(train, windows, length), expected)
    found = find_overlap(
        train, windows, ONE_BYTE, span_bytes=length, decode=lambda ids: "".join(chr(64 + i) for i in ids)
    )
    window, offset, size = longest_run(expected)
    text = "".join(chr(64 + int(i)) for i in windows[window, offset : offset + size])
    assert found == Overlap(
        span_bytes=length,
        token_share=expected.mean(),
        window_share=(expected.mean(1) > 0.5).mean(),
        longest=text[:80],
        longest_tokens=size,
    )
    return found


class TestAgainstBruteForce:
    @pytest.mark.parametrize("block", [1, 7, 64, 2**18])
    def test_random_texts_over_tiny_alphabets(self, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
        """Catches wrong span bounds, spans across windows or ends, lost or doubled block edges, and a wrong
        rule of the longest run. Two symbols and spans of 8 and 9: about half of the spans occur."""
        monkeypatch.setattr(overlap, "_BLOCK", block)
        shares = []
        for seed in range(25):
            rng = np.random.default_rng(seed)
            train = random_text(rng, 150, [2, 3], ends=0.02)
            windows = random_text(rng, 5 * 24, [2, 3], ends=0.02).reshape(5, 24)
            shares.append(check(train, windows, 8 + seed % 2).token_share)
        assert len(set(shares)) > 10
        assert 0.1 < np.mean(shares) < 0.95, "neither nothing nor everything"

    def test_wide_ids_of_other_types_and_sizes(self) -> None:
        """A 16-bit cast anywhere, or a comparison of low bits only, would take 70,000 for 4,464."""
        for seed in range(10):
            rng = np.random.default_rng(seed)
            alphabet = [4464, 70_000, 2**31 + 7]
            train = rng.choice(alphabet, 8_000).astype(np.uint32)
            windows = rng.choice(alphabet, (4, 40)).astype(np.int64)
            windows[0, :30] = train[5_000:5_030]
            np.testing.assert_array_equal(
                overlap._covered(train, windows, 9), brute_force(train, windows, 9), strict=True
            )
        low = np.full(20, 4464, dtype=np.uint16)
        assert not overlap._covered(low, np.full((1, 20), 70_000), 8).any()

    def test_colliding_hashes_are_never_reported_and_hide_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a hash of four values nearly every candidate is false: without the comparison all would be
        reported, and a comparison with the first candidate alone would lose true ones."""

        def weak(tokens: Ints, length: int) -> npt.NDArray[np.uint64]:
            sums = np.lib.stride_tricks.sliding_window_view(tokens, length).astype(np.uint64).sum(1)
            return (sums % np.uint64(4)) << np.uint64(62)

        monkeypatch.setattr(overlap, "_rolling_hash", weak)
        monkeypatch.setattr(overlap, "_BLOCK", 50)
        shares = []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            train = random_text(rng, 160, [2, 3, 4, 5])
            windows = random_text(rng, 90, [2, 3, 4, 5]).reshape(3, 30)
            windows[1, 5:19] = train[60:74]
            windows[2, 10:21] = train[60:71]  # spans that occur twice in the windows
            shares.append(check(train, windows, 8).token_share)
        assert np.mean(shares) < 0.5

    def test_the_hash_of_a_span_is_the_polynomial(self) -> None:
        """Otherwise hashes of equal spans at different places would differ, and matches be lost silently."""
        tokens = np.random.default_rng(0).integers(0, 2**32, 300).astype(np.uint32)
        found = overlap._rolling_hash(tokens, 9)
        for i in (0, 1, 37, len(tokens) - 9):
            span = tokens[i : i + 9].tolist()
            assert int(found[i]) == sum(t * overlap._BASE**j for j, t in enumerate(span)) % 2**64
        assert len(found) == 292


class TestPlanted:
    @pytest.fixture
    def texts(self) -> tuple[Ints, Ints]:
        """Random bytes: nothing of 50 bytes occurs twice by chance."""
        rng = np.random.default_rng(1)
        train = rng.integers(2, 258, 5000).astype(np.uint16)
        return train, rng.integers(2, 258, (10, 200))

    def test_nothing_is_found_where_nothing_was_planted(self, texts: tuple[Ints, Ints]) -> None:
        found = find_overlap(*texts, ONE_BYTE, decode=ByteTokenizer().decode)
        assert found == Overlap(span_bytes=50, token_share=0.0, window_share=0.0, longest="", longest_tokens=0)

    @pytest.mark.parametrize(("size", "counted"), [(49, 0), (50, 50), (51, 51), (120, 120)])
    def test_a_copy_counts_from_the_length_of_a_span_on(
        self, texts: tuple[Ints, Ints], size: int, counted: int
    ) -> None:
        train, windows = texts
        windows[3, 40 : 40 + size] = train[1000 : 1000 + size]
        found = find_overlap(train, windows, ONE_BYTE)
        assert (found.longest_tokens, found.token_share) == (counted, counted / 2000)
        assert found.window_share == (0.1 if counted > 100 else 0.0)

    def test_half_a_window_is_not_more_than_half(self, texts: tuple[Ints, Ints]) -> None:
        train, windows = texts
        windows[0, :100] = train[:100]
        windows[1, 99:] = train[-101:]  # the last spans of window and text
        assert find_overlap(train, windows, ONE_BYTE).window_share == 0.1

    def test_a_copy_across_the_edge_of_a_block(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With blocks that do not overlap by L - 1 tokens it would be lost."""
        rng = np.random.default_rng(2)
        windows = rng.integers(2, 258, (4, 100)).astype(np.uint16)
        for block in (64, 2**18):
            monkeypatch.setattr(overlap, "_BLOCK", block)
            for before in (0, 1, 30, 59, 60):
                train = rng.integers(2, 258, 2 * block + 500).astype(np.uint16)
                train[block - before : block - before + 60] = windows[1, 20:80]
                found = find_overlap(train, windows, ONE_BYTE)
                assert (found.longest_tokens, found.token_share) == (60, 60 / 400)

    def test_spans_do_not_cross_the_end_of_a_document(self, texts: tuple[Ints, Ints]) -> None:
        train, windows = texts
        train[1049] = END_ID
        windows[3, :100] = train[1000:1100]  # 49 tokens, end, 50 tokens
        found = find_overlap(train, windows, ONE_BYTE)
        assert (found.longest_tokens, found.token_share) == (50, 50 / 2000)

    def test_spans_do_not_cross_windows(self, texts: tuple[Ints, Ints]) -> None:
        train, windows = texts
        windows[3, -40:], windows[4, :40] = train[1000:1040], train[1040:1080]
        assert find_overlap(train, windows, ONE_BYTE).token_share == 0.0

    def test_stretches_do_not_cross_windows(self, texts: tuple[Ints, Ints]) -> None:
        train, windows = texts
        windows[3, -60:], windows[4, :70] = train[1000:1060], train[1060:1130]
        assert find_overlap(train, windows, ONE_BYTE).longest_tokens == 70

    def test_the_longest_stretch_is_quoted_from_its_beginning(self) -> None:
        tokenizer = ByteTokenizer()
        line = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age"
        rng = np.random.default_rng(3)
        train = np.concatenate([rng.integers(2, 258, 500), tokenizer.encode(line), rng.integers(2, 258, 500)])
        windows = rng.integers(2, 258, (3, 150))
        windows[2, 20 : 20 + len(line)] = tokenizer.encode(line)
        windows[0, :60] = train[:60]
        found = find_overlap(train, windows, tokenizer.byte_lengths, decode=tokenizer.decode)
        assert (found.longest, found.longest_tokens) == (line[:80], len(line))
        assert find_overlap(train, windows, tokenizer.byte_lengths).longest == ""


class TestLengths:
    def test_a_span_is_so_many_tokens_as_spell_the_bytes(self) -> None:
        lengths = np.array([0, 0, 1, 3, 5])
        assert span_tokens(np.array([[2, 2, 2]]), lengths, 50) == 50
        assert span_tokens(np.array([[2, 3, 4, 3]]), lengths, 50) == 17  # 3 bytes a token
        assert span_tokens(np.array([[3, END_ID, END_ID, END_ID]]), lengths, 50) == 17  # ends spell nothing
        assert span_tokens(np.array([[4, 4]]), lengths, 20) == LEAST_SPAN
        assert span_tokens(np.array([[END_ID]]), lengths, 50) == 50

    def test_fewer_tokens_where_they_are_long(self) -> None:
        rng = np.random.default_rng(4)
        train = rng.integers(NUM_RESERVED, 4096, 3000).astype(np.uint16)
        windows = rng.integers(NUM_RESERVED, 4096, (2, 100))
        windows[0, :13] = train[70:83]
        assert find_overlap(train, windows, np.full(4096, 4)).longest_tokens == 13  # 50 / 4 = 12.5: L is 12
        assert find_overlap(train, windows, np.full(4096, 3)).longest_tokens == 0  # L is 17

    @pytest.mark.parametrize(("num_train", "num_window"), [(49, 60), (60, 49), (0, 60), (60, 0)])
    def test_text_shorter_than_a_span(self, num_train: int, num_window: int) -> None:
        train, windows = np.full(num_train, 9, np.uint16), np.full((2, num_window), 9)
        found = find_overlap(train, windows, ONE_BYTE, decode=ByteTokenizer().decode)
        assert (found.token_share, found.window_share, found.longest_tokens) == (0.0, 0.0, 0)

    def test_text_as_long_as_a_span(self) -> None:
        assert find_overlap(np.full(50, 9, np.uint16), np.full((2, 50), 9), ONE_BYTE).token_share == 1.0

    def test_no_windows(self) -> None:
        assert find_overlap(np.full(90, 9), np.zeros((0, 60), np.int64), ONE_BYTE).token_share == 0.0


class TestCost:
    def test_memory_does_not_grow_with_the_training_text(self, tmp_path: Path) -> None:
        """Read whole, the larger file alone would take 16 MB as it is and 64 MB as hashes."""
        windows = np.random.default_rng(5).integers(2, 258, (10, 256))
        peaks = []
        for num in (2**20, 2**23):
            np.save(tmp_path / f"{num}.npy", np.full(num, 5, dtype=np.uint16))
            train = np.load(tmp_path / f"{num}.npy", mmap_mode="r")
            tracemalloc.start()
            find_overlap(train, windows, ONE_BYTE)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < 1.1 * peaks[0] < 20e6

    @pytest.mark.parametrize("copied", [False, True])
    def test_five_million_tokens_against_a_hundred_windows_in_two_seconds(self, copied: bool) -> None:
        rng = np.random.default_rng(6)
        train = rng.integers(2, 258, 5_000_000).astype(np.uint16)
        starts = np.linspace(0, len(train) - 256, 100).astype(np.int64)
        windows = train[starts[:, None] + np.arange(256)] if copied else rng.integers(2, 258, (100, 256))
        start = time.process_time()
        found = find_overlap(train, windows, ONE_BYTE)
        assert time.process_time() - start < 2.0
        assert found.token_share == (1.0 if copied else 0.0)

    def test_one_span_over_and_over_costs_no_more(self) -> None:
        """Every place of the text is a candidate for every span: a key that is settled must not be tried again at
        each of them."""
        start = time.process_time()
        found = find_overlap(np.full(60_000, 34, np.uint16), np.full((20, 256), 34), ONE_BYTE)
        assert time.process_time() - start < 1.0
        assert found.token_share == 1.0

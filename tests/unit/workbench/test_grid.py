"""The windows and positions that are scored: the same for every model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from workbench.config import EvalConfig
from workbench.data import Corpus
from workbench.errors import DataError
from workbench.grid import MANY_DOCUMENTS, NOT_IN_FINGERPRINT, evaluation_grid, spread_order
from workbench.tokenizer import ByteTokenizer

RULES = EvalConfig(context_len=64, min_context=16, grid_stride=8, num_windows=12, num_samples=4)


def corpus(num_tokens: int = 4000, num_documents: int = 3, *, hash: str = "abc") -> Corpus:
    """Every token of a split is different from its neighbours: a window shows where it was cut."""
    tokenizer = ByteTokenizer()
    tokens = {s: (np.arange(num_tokens) % 251 + 2).astype(np.uint16) for s in ("train", "validation", "test")}
    starts = {s: np.linspace(0, num_tokens, num_documents, endpoint=False).astype(np.int64) for s in tokens}
    return Corpus("made-up", hash, tokenizer, 258, tokens, starts, dict.fromkeys(tokens, num_tokens))


def _counting(num_tokens: int) -> Corpus:
    """Token i is i."""
    made = corpus(num_tokens)
    return dataclasses.replace(made, tokens={split: np.arange(num_tokens) for split in made.tokens})


class TestGrid:
    @pytest.mark.parametrize("num_tokens", [768, 769, 1000, 3001, 99_999])
    def test_windows_do_not_overlap_and_span_the_split(self, num_tokens: int) -> None:
        text = _counting(num_tokens)
        for num in (12, num_tokens // 64):
            found = evaluation_grid(RULES, text, num_windows=num)
            assert found.capacity == num_tokens // 64
            assert len(found.windows) == num
            np.testing.assert_array_equal(found.windows, found.starts[:, None] + np.arange(64))
            starts = np.sort(found.starts)
            assert (np.diff(starts) >= 64).all()
            assert starts[0] == 0
        assert starts[-1] == num_tokens - 64

    @pytest.mark.parametrize("num", [7, 12, 40, 100, 333])
    def test_a_smaller_grid_is_the_beginning_of_a_larger_one_and_spread_evenly(self, num: int) -> None:
        text = _counting(64 * 333)
        whole = evaluation_grid(RULES, text, num_windows=333)
        part = evaluation_grid(RULES, text, num_windows=num)
        assert part.fingerprint == whole.fingerprint
        for name in ("windows", "clusters", "starts"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[:num])
        gaps = np.diff([*np.sort(part.starts), 64 * 333])
        assert gaps.max() <= 4 * 64 * 333 / num, "a plain random choice would leave larger holes"

    def test_positions(self) -> None:
        found = evaluation_grid(RULES, corpus())
        np.testing.assert_array_equal(found.positions, [16, 24, 32, 40, 48, 56])
        for k in (1, 2, 4, 8):
            assert (found.positions % k == 0).all()
        assert found.positions.max() + 8 <= 64, "the truth of the last position lies inside the window"

    def test_too_short_a_split_says_what_to_do(self) -> None:
        with pytest.raises(DataError, match=r"validation split of made-up has 700 tokens.*at most 10"):
            evaluation_grid(RULES, corpus(700))

    def test_the_split_is_the_configured_one(self) -> None:
        text = corpus()
        text.tokens["test"][:] = 9  # type: ignore[index]
        assert (evaluation_grid(RULES.model_copy(update={"split": "test"}), text).windows == 9).all()

    @pytest.mark.parametrize(
        "change",
        [
            {"split": "test"},
            {"context_len": 72},
            {"min_context": 24},
            {"grid_stride": 16},
            {"num_samples": 5},
        ],
    )
    def test_every_rule_changes_the_fingerprint(self, change: dict[str, object]) -> None:
        changed = EvalConfig(**{**RULES.model_dump(), **change})
        assert evaluation_grid(changed, corpus()).fingerprint != evaluation_grid(RULES, corpus()).fingerprint

    def test_every_rule_is_covered_above(self) -> None:
        assert set(EvalConfig.model_fields) - NOT_IN_FINGERPRINT == {
            "split", "context_len", "min_context", "grid_stride", "num_samples",
        }  # fmt: skip

    @pytest.mark.parametrize(
        "change", [{"num_windows": 13}, {"target_se": 0.1}, {"max_positions": 9}, {"seed": 7}]
    )
    def test_how_much_is_drawn_does_not(self, change: dict[str, object]) -> None:
        changed = EvalConfig(**{**RULES.model_dump(), **change})
        assert evaluation_grid(changed, corpus()).fingerprint == evaluation_grid(RULES, corpus()).fingerprint

    def test_the_data_changes_the_fingerprint(self) -> None:
        first = evaluation_grid(RULES, corpus()).fingerprint
        assert evaluation_grid(RULES, corpus(hash="abd")).fingerprint != first

    def test_clusters_are_windows_for_few_documents_and_documents_for_many(self) -> None:
        rules = RULES.model_copy(update={"num_windows": 120})
        few = evaluation_grid(rules, corpus(120 * 64, MANY_DOCUMENTS - 1))
        assert len(set(few.clusters)) == 120
        many = evaluation_grid(rules, corpus(120 * 64, MANY_DOCUMENTS))
        assert len(set(many.clusters)) == MANY_DOCUMENTS
        assert (np.bincount(many.clusters)[1:] == 4).all()
        order = np.argsort(many.starts)
        assert (np.diff(many.clusters[order]) >= 0).all()

    def test_whether_documents_are_clusters_does_not_depend_on_how_much_is_drawn(self) -> None:
        text = corpus(120 * 64, MANY_DOCUMENTS)
        few = evaluation_grid(RULES, text)
        assert len(set(few.clusters)) == 12
        assert set(few.clusters) <= set(range(1, MANY_DOCUMENTS + 1))


@pytest.mark.parametrize("num", [1, 2, 3, 8, 100])
def test_the_order_of_windows_is_a_permutation(num: int) -> None:
    assert sorted(spread_order(num)) == list(range(num))


def test_the_order_of_windows_reverses_binary_digits() -> None:
    np.testing.assert_array_equal(spread_order(8), [0, 4, 2, 6, 1, 5, 3, 7])
    np.testing.assert_array_equal(spread_order(5), [0, 4, 2, 1, 3])

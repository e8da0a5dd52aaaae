"""Which split a document falls into."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from tests.suites.documents import document
from workbench.splits import SPLITS, cut_document, split_documents


def sizes_of(split: dict[str, list[str]]) -> dict[str, float]:
    total = sum(len(t) for texts in split.values() for t in texts)
    return {name: sum(map(len, texts)) / total for name, texts in split.items()}


@pytest.mark.parametrize("fractions", [(0.1, 0.1), (0.05, 0.2), (0.3, 0.3)])
@pytest.mark.parametrize("num", [20, 100, 2000])
def test_fractions_are_met(num: int, fractions: tuple[float, float]) -> None:
    rng = random.Random(num)
    texts = [document(i, int(rng.lognormvariate(4, 1))) for i in range(num)]
    sizes = sizes_of(split_documents(texts, *fractions))
    assert sizes["validation"] == pytest.approx(fractions[0], abs=0.02)
    assert sizes["test"] == pytest.approx(fractions[1], abs=0.02)


def test_split_does_not_depend_on_order() -> None:
    texts = [document(i) for i in range(30)]
    shuffled = random.Random(0).sample(texts, len(texts))
    assert split_documents(texts, 0.1, 0.1) == split_documents(shuffled, 0.1, 0.1)


def test_equal_documents_stay_together() -> None:
    texts = [document(i % 15) for i in range(45)]
    split = split_documents(texts, 0.2, 0.2)
    for one, two in itertools.combinations(SPLITS, 2):
        assert not set(split[one]) & set(split[two])
    assert Counter(t for s in split.values() for t in s) == Counter(texts)


@pytest.mark.parametrize("fractions", [(0.001, 0.001), (0.499, 0.499)])
@pytest.mark.parametrize("large", [1, 10_000])
def test_at_least_one_document_each(fractions: tuple[float, float], large: int) -> None:
    texts = [f"text {i} " * (large if i == 0 else 1) for i in range(10)]
    split = split_documents(texts, *fractions)
    assert all(split.values())
    assert sum(map(len, split.values())) == 10


def test_few_documents_are_cut_into_spans() -> None:
    texts = [document(i, 2000) for i in range(3)]
    split = split_documents([*texts, texts[1]], 0.1, 0.2)
    assert [len(spans) for spans in split.values()] == [4, 4, 4]
    together = Counter(map("".join, zip(*split.values(), strict=True)))
    assert together == Counter([*texts, texts[1]])
    assert sizes_of(split)["test"] == pytest.approx(0.2, abs=0.02)
    assert all(span.endswith("\n") for span in split["train"])
    for one, two in itertools.combinations(SPLITS, 2):
        assert not set(split[one]) & set(split[two])


@pytest.mark.parametrize(
    "text", ["", "a", "ab", "no spaces" * 50, "日本" * 300, "a b " * 100, "x" * 99 + "\n" + "y" * 9]
)
def test_cut_documents_are_whole(text: str) -> None:
    parts = cut_document(text, 0.1, 0.1)
    assert "".join(parts) == text

"""Documents divided into training, validation and test text.

Splits are made of whole documents, in the order of their hashes: which split a document falls into
depends neither on the names nor the order of files, and equal documents stay together. A corpus of
fewer than ten different documents is cut instead: the first part of each document is for training,
the next for validation, the last for testing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SPLITS = ("train", "validation", "test")
LEAST_DOCUMENTS = 10
"""With fewer different documents, each is cut into spans instead."""

Ints = npt.NDArray[np.int64]


def digest(text: str) -> str:
    """sha256, by which documents are told apart."""
    return hashlib.sha256(text.encode()).hexdigest()


def split_documents(
    texts: Sequence[str], validation_fraction: float, test_fraction: float
) -> dict[str, list[str]]:
    """Documents by split, each split in the order of the documents' hashes.

    The fractions are of characters and are met as nearly as whole documents allow, with at least one
    document in each split. Equal documents count as one and go together. With fewer than
    ``LEAST_DOCUMENTS`` different ones, contiguous spans of each document (see ``cut_document``)."""
    copies = Counter(texts)
    different = sorted(copies, key=digest)
    if len(different) < LEAST_DOCUMENTS:
        spans = [
            cut_document(text, validation_fraction, test_fraction)
            for text in different
            for _ in range(copies[text])
        ]
        return {split: [s[i] for s in spans if s[i]] for i, split in enumerate(SPLITS)}
    sizes = np.array([len(text) * copies[text] for text in different])
    total = int(sizes.sum())
    everything = list(range(len(different)))
    validation = _choose(sizes, everything, validation_fraction * total)
    rest = sorted(set(everything) - set(validation))
    test = _choose(sizes, rest, test_fraction * total)
    train = sorted(set(rest) - set(test))
    if not train:  # fractions that add up to nearly everything
        train = [max(validation, test, key=len).pop()]
    members = {"train": train, "validation": validation, "test": test}
    return {
        split: [different[i] for i in sorted(indices) for _ in range(copies[different[i]])]
        for split, indices in members.items()
    }


def cut_document(text: str, validation_fraction: float, test_fraction: float) -> tuple[str, str, str]:
    """The first, middle and last part of a text, cut after a line where one ends nearby, else after a
    word; joined they are the text."""
    first = _cut_near(text, round(len(text) * (1.0 - validation_fraction - test_fraction)))
    second = max(first, _cut_near(text, round(len(text) * (1.0 - test_fraction))))
    return text[:first], text[first:second], text[second:]


def _cut_near(text: str, at: int, reach: int = 200) -> int:
    for separator in ("\n", " "):
        found = text.find(separator, at, at + min(reach, len(text) // 50))
        if found >= 0:
            return found + 1
    return at


def _choose(sizes: Ints, candidates: Sequence[int], target: float) -> list[int]:
    """Some of the candidates (at least one, not all), in order, whose sizes add up to nearly ``target``."""
    chosen: list[int] = []
    total = 0
    for i in candidates:
        if total + sizes[i] <= target and len(chosen) < len(candidates) - 1:
            chosen.append(i)
            total += int(sizes[i])
        if total >= 0.99 * target:
            return chosen
    if not chosen:
        return [min(candidates, key=lambda i: (sizes[i], i))]
    if len(candidates) <= 1000:  # else the error is small already
        _improve(sizes, candidates, chosen, target)
    return chosen


def _improve(sizes: Ints, candidates: Sequence[int], chosen: list[int], target: float) -> None:
    """Exchange one document at a time while that brings the sum nearer to the target."""
    while True:
        others = np.array([i for i in candidates if i not in set(chosen)])
        error = target - sizes[chosen].sum()
        gains = sizes[others][None, :] - sizes[chosen][:, None]  # (chosen, others)
        out, into = np.unravel_index(np.argmin(np.abs(error - gains)), gains.shape)
        if abs(error - gains[out, into]) >= abs(error):
            return
        chosen[out] = int(others[into])

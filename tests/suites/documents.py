"""Texts to be made a corpus of."""

from __future__ import annotations

import random


def document(seed: int, num_words: int = 200) -> str:
    rng = random.Random(seed)
    words = ["king", "queen", "crown", "night", "the", "and", "of", "élan", "日本", "goes"]
    lines = [" ".join(rng.choices(words, k=8)) for _ in range(num_words // 8)]
    return f"document {seed}\n" + "\n".join(lines)

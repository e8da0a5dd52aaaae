"""What the diagnostics of the compared runs demand to be said beside any conclusion."""

from __future__ import annotations

import pandas as pd

from analysis import style
from analysis.words import listed

WORDS = {
    "collapse": "an autoencoder with collapsed latent dimensions",
    "reconstruction": "an autoencoder that reconstructs less than 99 % of held-out tokens",
    "brittle_decoder": "a decoder that fails under small noise on the latent vector",
    "brierlm_zero": "a BrierLM that cannot be told from 0",
    "below_floor": "a score not above the best n-gram table's",
    "ignores_context": "a head that ignores its context",
    "identical_draws": "samples that do not differ, so that its BrierLM means nothing",
    "seen_text": "evaluated text that occurs in the training text",
    "not_finite": "numbers that were not finite",
    "diverged": "a loss or gradients that exploded",
    "collapsed": "an autoencoder that carries nothing",
    "other_head_code": "weights that other code of their own head had trained",
    "alpha_below_one": "an exponent α below 1, whose gradients are not bounded",
    "gradient_norm": "gradients that grew or were clipped at nearly every step",
}
"""What a run with each diagnostic has (``workbench.records.Diagnostic``)."""
NAMED = 3
"""Of so many groups at most the names are given."""


def caveats(runs: pd.DataFrame) -> list[str]:
    """One sentence a diagnostic, those of most runs first: how many of ``runs`` (the ones that a conclusion rests
    on) have it, and of which chunk sizes."""
    if runs.empty:
        return []
    codes = [set(filter(None, str(text).split(", "))) for text in runs["diagnostics"].fillna("")]
    found = {
        code: [code in own for own in codes] for code in dict.fromkeys(c for own in codes for c in sorted(own))
    }
    ordered = sorted(found.items(), key=lambda item: (-sum(item[1]), item[0]))
    return [_sentence(code, runs[pd.Series(mask, index=runs.index)], len(runs)) for code, mask in ordered]


def _sentence(code: str, having: pd.DataFrame, total: int) -> str:
    num = len(having)
    who = f"All {total} compared runs have" if num == total > 1 else f"{num} of {total} compared runs "
    who = who if who.endswith("have") else who + ("has" if num == 1 else "have")
    return f"{who} {WORDS.get(code, code.replace('_', ' '))}{where(having)}."


def where(runs: pd.DataFrame) -> str:
    """`` (baseline: 2, K = 4: 1)``; empty where that would be a long list."""
    kinds = [
        style.k_name(None if kind == "baseline" else k) for kind, k in zip(runs["kind"], runs["K"], strict=True)
    ]
    counts = {name: kinds.count(name) for name in sorted(dict.fromkeys(kinds), key=lambda n: (n[0] != "t", n))}
    if len(counts) > NAMED:
        return ""
    return f" ({listed([f'{name}: {num}' for name, num in counts.items()])})"

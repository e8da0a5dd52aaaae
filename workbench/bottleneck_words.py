"""The bottleneck panel in words, for a terminal table and for the report. Imports no torch."""

from __future__ import annotations

from workbench.records import Bottleneck

WHERE = "where it is lost"
"""Label of the row that holds the sentence."""
MOST = 0.5
"""Share of what is lost from which on a part loses "most" of it."""


def lost(panel: Bottleneck) -> list[tuple[str, str]]:
    """Labelled rows; lists run over the orders n = 1 ... min(K, 4). The last row, ``WHERE``, is ``where_lost``."""
    gain = [own - other for own, other in zip(panel.brier, panel.shuffled_brier, strict=True)]
    return [
        ("measured on", f"{panel.num_positions:,} positions, {panel.num_samples} samples each"),
        ("Brier-n for n =", " / ".join(str(n) for n in range(1, len(panel.brier) + 1))),
        ("autoencoder alone", _percents(panel.autoencoder_brier)),
        ("with the head's noise", _percents(panel.noisy_brier)),
        ("the model", _percents(panel.brier)),
        ("with another window's context", _percents(panel.shuffled_brier)),
        ("gain from its own context", _percents(gain)),
        ("samples that are right", _percents(panel.sample_accuracy)),
        ("most frequent of them is right", _percents(panel.mode_accuracy)),
        (
            "noise per latent dimension",
            f"head {panel.head_noise:.2f}, posterior {panel.posterior_noise:.2f}",
        ),
        (
            "effective rank of the latents",
            f"posterior {panel.effective_rank_posterior:.1f}, head {panel.effective_rank_samples:.1f} "
            f"of {panel.latent_dim}",
        ),
        (WHERE, where_lost(panel)),
    ]


def losses(panel: Bottleneck) -> dict[str, float]:
    """Points of Brier-min(K, 4), in per cent, that lie between 100 and the model, by part; they add up.

    The head's prediction includes what no model could know, and the noise of vectors that decode to a wrong
    chunk (``workbench.bottleneck``)."""
    return {
        "the autoencoder": 100 - panel.autoencoder_brier[-1],
        "the head's noise": panel.autoencoder_brier[-1] - panel.noisy_brier[-1],
        "the head's prediction": panel.noisy_brier[-1] - panel.brier[-1],
    }


def where_lost(panel: Bottleneck) -> str:
    """One sentence: how much of Brier-min(K, 4) each part loses, and which loses most of it, if one does."""
    parts, order = losses(panel), len(panel.brier)
    total = sum(parts.values())
    if total < 0.05:  # shown as 0.0
        return f"Nothing is lost: Brier-{order} is 100 %."
    listed = ", ".join(f"{name} {_number(value)}" for name, value in parts.items())
    worst = max(parts, key=lambda name: parts[name])
    share = parts[worst] / total
    verdict = f"most is lost in {worst}" if share > MOST else f"no part loses most of it, the largest is {worst}"
    if worst == "the head's prediction":
        verdict += ", which includes what the text leaves open"
    return f"Brier-{order} lacks {_number(total)} points of 100 ({listed}): {verdict}."


def _percents(values: list[float]) -> str:
    return " / ".join(_number(value) for value in values) + " %"


def _number(value: float) -> str:
    """One decimal, a real minus sign, no minus zero."""
    text = f"{value:.1f}"
    return text.replace("-", "−") if float(text) else text.replace("-", "")

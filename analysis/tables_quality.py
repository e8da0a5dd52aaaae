"""Tables about the scores themselves: how well they are known, where they are lost, what text they are of."""

from __future__ import annotations

import pandas as pd

from analysis.scores import interval_words, is_bound
from analysis.verdict import Standing
from analysis.words import MISSING, Cell, Table, missing, number, whole
from workbench.bottleneck_words import WHERE, lost
from workbench.records import Bottleneck


def precision_table(places: list[Standing]) -> Table:
    """How well the scores of the best runs are known, and from how much."""
    rows: list[list[Cell]] = []
    for place in places:
        best = place.best
        rows.append(
            [
                f"{place.name}, best",
                interval_words(best),
                MISSING if is_bound(best) else number(best["brierlm_se"], 3),
                number(best["bootstrap_se"], 3),
                MISSING if missing(best["weak_orders"]) else str(best["weak_orders"]) or "none",
                *[whole(best[name]) for name in ("num_windows", "rounds", "num_positions", "num_clusters")],
            ]
        )
    columns = ["", "BrierLM, 95 % interval", "s.e. (delta method)", "s.e. (resampled clusters)"]
    columns += ["orders near 0", "windows", "rounds of samples", "positions", "clusters"]
    caption = "How well the scores of these runs are known. Orders near 0 lie within three of their errors of it; "
    caption += "with any, the delta method fails and the interval is [0, upper bound]."
    return Table("precision", caption, columns, rows, frozenset(range(1, 9)))


def bottleneck_table(panels: dict[str, Bottleneck], noun: str = "K") -> Table:
    """One column a group, of its best run; rows as in ``workbench.bottleneck_words``, whose sentence
    (``WHERE``) stands above the table."""
    worded = {name: dict(lost(panel)) for name, panel in panels.items()}
    labels = list(dict.fromkeys(label for rows in worded.values() for label in rows))
    rows: list[list[Cell]] = [
        [label, *[words.get(label, MISSING) for words in worded.values()]] for label in labels if label != WHERE
    ]
    caption = f"Where the best run of each {noun} at the budget loses its quality: Brier-n of the first n tokens "
    caption += "of a chunk, and accuracies."
    return Table("bottleneck", caption, ["", *worded], rows)


def overlap_words(run: pd.Series) -> str:
    """How much of the text that a run is scored on it may have been trained on."""
    if missing(run["overlap_token_share"]):
        return "whether evaluated text also occurs in the training text was not checked"
    share, least = 100 * float(run["overlap_token_share"]), whole(run["overlap_span_bytes"])
    words = f"{number(share)} % of the evaluated tokens lie in stretches of about {least} bytes or more that also "
    words += "occur in the training text"
    quote = " ".join(str(run["overlap_longest"] or "").split())
    if quote:
        words += f"; the longest has {whole(run['overlap_longest_tokens'])} tokens and begins “{quote}”"
    return words

"""What an autoencoder's own figures say about the language model trained on it.

Autoencoders are compared through runs that agree in everything but the autoencoder (and the seed). Accuracy of
reconstruction is measured on held-out chunks without a language model; BrierLM is what counts. Where the two order
autoencoders differently, an autoencoder cannot be chosen by its reconstruction (paper, section on the latent
dimension: 32 and 256 are worse downstream than 128, although all reconstruct well).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter
from scipy.stats import permutation_test, rankdata

from analysis import style
from analysis.comparison import Comparison, cells
from analysis.plots import BRIERLM, from_zero
from analysis.scores import score_words
from analysis.stats import mean_over_seeds
from analysis.style import Picture
from analysis.table import RunTable
from analysis.words import Cell, Table, number, plain, plus_minus, short_of, value_words

MIN_AUTOENCODERS = 3
"""Fewer are not ordered against one another."""
NOISE = 0.3
"""Of the published criterion: accuracy with N(0, 0.3²) added to the posterior mean."""
FEW = 4
"""Below this many different accuracies a rank correlation says nothing."""
PREFIX = "autoencoder."
TECHNICAL = ("runtime.", "train.cache_targets")
"""What changes how a run is computed and not what is learnt (targets are looked up where a table of them fits)."""


@dataclass(frozen=True)
class Downstream:
    """Autoencoders with the score of the language models trained on each, best score first."""

    frame: pd.DataFrame
    """One row an autoencoder: what it differs in, token_accuracy and noise_accuracy (shares), num_collapsed,
    latent_dim, mean_kl (nats), brierlm, brierlm_se (over seeds where there are several), num_seeds, words."""
    columns: list[str]
    """Configuration columns in which the autoencoders differ."""
    rank: float | None
    """Spearman's correlation of accuracy under noise and BrierLM; None where it is not defined."""
    p_value: float | None
    """Of no relation, by permutation."""


def downstream(table: RunTable, comparison: Comparison) -> Downstream | None:
    """The largest group of CALM runs at the budget that differ in the autoencoder alone; None with fewer than
    ``MIN_AUTOENCODERS`` of them."""
    calm = comparison.calm
    calm = calm[calm["autoencoder_hash"].notna()] if len(calm) else calm
    others = [c for c in table.config_columns if not c.startswith((PREFIX, *TECHNICAL))]
    groups = [group for group in cells(calm, others) if group["autoencoder_hash"].nunique() >= MIN_AUTOENCODERS]
    if not groups:
        return None
    group = max(groups, key=lambda g: g["autoencoder_hash"].nunique())
    own = [c for c in table.config_columns if c.startswith(PREFIX) and group[c].map(plain).nunique() > 1]
    rows = [_row(table, runs, own) for _, runs in group.groupby("autoencoder_hash", sort=False)]
    frame = pd.DataFrame([row for row in rows if row]).sort_values(
        ["brierlm", "words"], ascending=[False, True], kind="stable"
    )
    if len(frame) < MIN_AUTOENCODERS:
        return None
    rank, p_value = _relation(frame)
    return Downstream(frame.reset_index(drop=True), own, rank, p_value)


def _row(table: RunTable, runs: pd.DataFrame, own: list[str]) -> dict[str, object] | None:
    first = runs.iloc[0]
    levels = table.autoencoders[table.autoencoders["hash"] == first["autoencoder_hash"]]
    if levels.empty:
        return None
    noisy = levels[np.isclose(levels["noise"], NOISE)]["accuracy"]
    kl = table.kl_per_dim[table.kl_per_dim["hash"] == first["autoencoder_hash"]]["kl"]
    score, error = mean_over_seeds(runs["brierlm"].tolist(), runs["brierlm_se"].tolist())
    return {
        **{name: first[name] for name in own},
        "words": ", ".join(value_words(name, first[name]) for name in own) or str(first["autoencoder_hash"]),
        "token_accuracy": float(levels["token_accuracy"].iloc[0]),
        "noise_accuracy": float(noisy.iloc[0]) if len(noisy) else np.nan,
        "num_collapsed": int(levels["num_collapsed"].iloc[0]),
        "latent_dim": int(levels["latent_dim"].iloc[0]),
        "mean_kl": float(kl.mean()) if len(kl) else np.nan,
        "brierlm": score,
        "brierlm_se": error,
        "num_seeds": len(runs),
        "score_words": score_words(first) if len(runs) == 1 else plus_minus(score, error),
    }


def _relation(frame: pd.DataFrame) -> tuple[float | None, float | None]:
    known = frame.dropna(subset=["noise_accuracy"])
    if known["noise_accuracy"].nunique() < FEW or known["brierlm"].nunique() < FEW:
        return None, None
    x, y = rankdata(known["noise_accuracy"]), rankdata(known["brierlm"])
    rank = float(np.corrcoef(x, y)[0, 1])
    centred = y - y.mean()
    found = permutation_test(
        (x,),
        lambda order, axis: np.tensordot(
            order, centred, axes=(axis, 0)
        ),  # in proportion to the correlation of ranks
        permutation_type="pairings",
        vectorized=True,
        n_resamples=9_999,  # exact where there are fewer pairings
        rng=np.random.default_rng(0),
    )
    return rank, float(found.pvalue)


def sentences(found: Downstream) -> list[str]:
    """What reconstruction does and does not say about the score."""
    frame = found.frame
    best = frame.iloc[0]
    words = [
        f"Best downstream: {best['words']} (BrierLM {best['score_words']}, {_percent(best['noise_accuracy'])} of "
        f"tokens right under noise of {NOISE})."
    ]
    known = frame.dropna(subset=["noise_accuracy"])
    if len(known):
        robust = known.sort_values(["noise_accuracy", "brierlm"], ascending=[False, False], kind="stable").iloc[0]
        if robust["words"] == best["words"]:
            words.append("It is also the one that reconstructs best under noise.")
        else:
            words.append(
                f"Best under noise: {robust['words']} ({_percent(robust['noise_accuracy'])}), BrierLM "
                f"{robust['score_words']}: reconstruction alone would have chosen another autoencoder."
            )
    if found.rank is None or found.p_value is None:
        words.append("Too few different autoencoders to say whether accuracy under noise and BrierLM go together.")
    else:
        clear = found.p_value < 0.05
        words.append(
            f"Accuracy under noise and BrierLM {'go together' if found.rank > 0 else 'run against each other'}"
            f"{'' if clear else ', but no more than by chance'}: Spearman {number(found.rank)} over {len(known)} "
            f"autoencoders (p = {number(found.p_value, 3)} by permutation)."
        )
    collapsed = frame[frame["num_collapsed"] > 0]
    if len(collapsed):
        named = "; ".join(
            f"{row['words']}: {row['num_collapsed']} of {row['latent_dim']}" for _, row in collapsed.iterrows()
        )
        words.append(f"Collapsed dimensions: {named}.")
    else:
        words.append("No dimension collapsed in any of them.")
    words.append("Each autoencoder was trained once: what another seed of it would give is in no error here.")
    return words


def _percent(share: object) -> str:
    return f"{number(100 * float(str(share)), 2)} %"


def downstream_table(found: Downstream) -> Table:
    rows: list[list[Cell]] = [
        [
            *[plain(row[name]) for name in found.columns],
            number(100 * row["token_accuracy"], 2),
            number(100 * row["noise_accuracy"], 2),
            f"{row['num_collapsed']} of {row['latent_dim']}",
            number(row["mean_kl"]),
            str(row["score_words"]),
            str(row["num_seeds"]),
        ]
        for _, row in found.frame.iterrows()
    ]
    columns = [*[short_of(name) for name in found.columns], "tokens right (%)", f"noise {NOISE}", "collapsed"]
    columns += ["mean KL a dimension (nats)", "BrierLM ± s.e.", "seeds"]
    caption = "Autoencoders and the language models trained on them, all else equal, best score first."
    return Table("downstream", caption, columns, rows, frozenset(range(len(columns))))


def downstream_figure(found: Downstream) -> Picture | None:
    """BrierLM against the share of tokens wrong under noise."""
    frame = found.frame.dropna(subset=["noise_accuracy"])
    if frame.empty:
        return None
    figure, axes = style.new_figure(style.SMALL)
    wrong = np.maximum(100 * (1 - frame["noise_accuracy"].to_numpy(dtype=float)), 1e-3)
    scores, errors = frame["brierlm"].to_numpy(dtype=float), frame["brierlm_se"].to_numpy(dtype=float)
    values = list(dict.fromkeys(sorted(frame["latent_dim"])))
    for i, size in enumerate(values):
        here = (frame["latent_dim"] == size).to_numpy()
        colour = style.ordinal(i, len(values))
        axes.errorbar(
            wrong[here],
            scores[here],
            yerr=errors[here],
            ls="",
            marker=style.marker(i),
            ms=6,
            color=colour,
            mec="white",
            mew=0.5,
            elinewidth=0.9,
            label=f"L = {size}",
        )
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    from_zero(axes)
    axes.set_xlabel(f"tokens wrong under noise of {NOISE} (%; better to the right)")
    axes.set_ylabel(BRIERLM)
    figure.legend(loc="outside upper center", ncols=4, handletextpad=0.1, columnspacing=0.8)
    return style.render(
        figure,
        "downstream",
        "Reconstruction and the language model",
        "One point an autoencoder: BrierLM of the language models trained on it, with one standard error (over "
        "seeds where there are several), against the held-out tokens it gets wrong when noise is added to its "
        "latent vectors (below 0.001 % drawn there).",
    )

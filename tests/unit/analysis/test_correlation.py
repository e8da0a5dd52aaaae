from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import style
from analysis.clustered import Coefficient
from analysis.correlation import LIMIT, PUBLISHED, Correlation, answer, correlate, criterion, details
from analysis.plots_correlation import bits_figure, coefficients_figure, correlation_figure, sizes_of
from analysis.sections import correlation_section
from analysis.tables_correlation import checkpoints_table, correlation_table
from studies.correlation import STUDY


def checkpoints(
    num_runs: int, *, per_run: int = 5, text: str = "shakespeare, byte", slope: float = -2.0, seed: int = 2
) -> pd.DataFrame:
    """Baselines of two sizes; BrierLM = 9 + slope * cross-entropy, and a little noise."""
    rng = np.random.default_rng(seed)
    corpus, tokenizer = text.split(", ")
    rows = []
    for run in range(num_runs):
        for i in range(per_run):
            x = 3.0 - 0.2 * i
            rows.append(
                {
                    "run_id": f"{text}-{run}",
                    "cross_entropy": x,
                    "brierlm": 9 + slope * x + 0.1 * rng.normal(),
                    "size": ("d64-l2", "d128-l2")[run % 2],
                    "train_flops": 1e9 * (i + 1),
                    "bits_per_byte": x * (1.44 if tokenizer == "byte" else 0.5),
                }
            )
    labels = {
        "kind": "baseline",
        "text": text,
        "corpus": corpus,
        "tokenizer": tokenizer,
        "fingerprint": f"f-{text}",
    }
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else None).assign(
        **labels, brierlm_se=0.1, brierlm_high=1.0, weak_orders=""
    )


def test_points_runs_sizes_and_the_line() -> None:
    (result,) = correlate(checkpoints(8))
    assert (result.text, result.num_points, result.num_runs, result.num_sizes) == ("shakespeare, byte", 40, 8, 2)
    assert result.num_left_out == 0
    assert result.fit is not None
    assert result.fit.slope.value == pytest.approx(-2.0, abs=0.2)
    assert result.fit.residual_sd == pytest.approx(0.1, abs=0.02)
    assert result.note == ""


def test_texts_are_never_pooled() -> None:
    # opposite slopes: pooled, they would cancel
    falling = checkpoints(4, text="kjv, byte")
    rising = checkpoints(4, text="kjv, bpe", slope=2.0)
    mixed = pd.concat([falling, rising]).sort_values("train_flops", kind="stable")
    found = {result.text: result for result in correlate(mixed)}
    assert list(found) == ["kjv, byte", "kjv, bpe"]
    assert set(found["kjv, byte"].points["text"]) == {"kjv, byte"}
    alone = correlate(falling)[0].fit
    assert found["kjv, byte"].fit is not None
    assert alone is not None
    assert found["kjv, byte"].fit.pearson == alone.pearson
    assert alone.pearson.value < -0.9
    assert found["kjv, bpe"].fit is not None
    assert found["kjv, bpe"].fit.pearson.value > 0.9


def test_two_evaluations_of_one_text_are_told_apart() -> None:
    again = checkpoints(3).assign(fingerprint="other")
    names = [result.text for result in correlate(pd.concat([checkpoints(3), again]))]
    assert names == ["shakespeare, byte (f-shakespeare, byte)", "shakespeare, byte (other)"]


def test_zeros_and_weak_orders_are_left_out_and_counted() -> None:
    frame = checkpoints(3)
    frame.loc[0, "brierlm"] = 0.0
    frame.loc[[1, 2], "weak_orders"] = "3, 4"
    frame.loc[0, "weak_orders"] = "4"  # counted once, as a zero
    (result,) = correlate(frame)
    assert (result.num_points, result.num_zero, result.num_weak) == (12, 1, 2)
    row = checkpoints_table([result]).rows[0]
    assert row[:6] == ["shakespeare, byte", "12", "3", "2", "1", "2"]


def test_calm_runs_and_missing_cross_entropy_do_not_count() -> None:
    frame = checkpoints(3)
    frame.loc[:4, "kind"] = "calm"
    frame.loc[5, "cross_entropy"] = np.nan
    assert correlate(frame)[0].num_points == 9
    assert correlate(frame[frame["kind"] == "calm"]) == []
    assert correlate(frame.head(0)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frame", "note"),
    [
        (checkpoints(1, per_run=2), "at least 3"),
        (checkpoints(2), "not independent"),
        (checkpoints(4), "only 4 runs"),
        (checkpoints(4).assign(brierlm=2.0), "same value"),
    ],
)
def test_what_is_missing_is_said(frame: pd.DataFrame, note: str) -> None:
    results = correlate(frame)
    assert note in results[0].note
    with style.house_style():
        section = correlation_section(results)
    assert any(note in words[0].lower() + words[1:] for words in section.notes)
    assert section.tables[0].rows[-1][:3] == ["published", "−0.966", "−0.991"]


def test_words_of_the_verdict() -> None:
    one = correlate(checkpoints(6))
    assert answer(one)[0].startswith("Correlation of BrierLM with cross-entropy within one text: Pearson −0.9")
    assert "published −0.966" in answer(one)[0]
    assert "30 checkpoints of 6 runs and 2 sizes" in details(one[0])
    # the noisier text is the weakest and is named
    noisy = checkpoints(6, text="kjv, byte")
    noisy["brierlm"] += np.random.default_rng(0).normal(size=len(noisy))
    assert "Pearson, at its weakest (kjv, byte)," in answer([*one, *correlate(noisy)])[0]
    assert "Too few checkpoints" in answer(correlate(checkpoints(1, per_run=2)))[0]
    assert "at least 3" in details(correlate(checkpoints(1, per_run=2))[0])


# ---- what would count against it ------------------------------------------------------------------------

STRONG, AROUND, WEAK, NONE = (-0.99, -0.95), (-0.96, -0.85), (-0.89, -0.7), (None, None)
Bounds = tuple[float | None, float | None]


def with_intervals(pearson: Bounds, spearman: Bounds) -> Correlation:
    """Both estimates are stronger than the limit, so only the intervals can decide."""
    (result,) = correlate(checkpoints(4))
    assert result.fit is not None
    r, rho = Coefficient(-0.95, *pearson), Coefficient(-0.95, *spearman)
    return replace(result, fit=replace(result.fit, pearson=r, spearman=rho))


def test_the_limit_is_the_one_stated_beforehand() -> None:
    # a limit changed in one place only would judge by what was not stated
    assert f"weaker than {LIMIT}" in STUDY.against
    assert f"contains {LIMIT}" in STUDY.against


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pearson", "spearman", "verdict", "words"),
    [
        (STRONG, STRONG, "criterion not met", "both intervals are wholly stronger than −0.9"),
        (
            WEAK,
            STRONG,
            "criterion met",
            "Pearson's interval is wholly weaker than −0.9 and Spearman's is wholly str",
        ),
        (STRONG, AROUND, "criterion met", "is wholly stronger than −0.9 and Spearman's contains −0.9"),
        (WEAK, AROUND, "criterion met", "is wholly weaker than −0.9 and Spearman's contains −0.9"),
        # beyond the limit is worse than around it
        (STRONG, WEAK, "criterion met", "and Spearman's is wholly weaker than −0.9"),
        # either coefficient suffices: what Pearson leaves open, Spearman's interval decides
        (AROUND, AROUND, "criterion met", "Pearson's interval contains −0.9 and Spearman's contains −0.9"),
        (AROUND, STRONG, "undecided", "Pearson's interval contains −0.9 and Spearman's is wholly stronger"),
        (NONE, NONE, "undecided", "Pearson's interval is missing and Spearman's is missing"),
        (STRONG, NONE, "undecided", "and Spearman's is missing"),
        (NONE, STRONG, "undecided", "Pearson's interval is missing and"),
        # the end itself belongs to the interval
        ((-0.99, LIMIT), STRONG, "undecided", "contains −0.9"),
        (STRONG, (-0.99, LIMIT), "criterion met", "Spearman's contains −0.9"),
    ],
)
def test_the_criterion_is_judged_by_the_intervals(
    pearson: Bounds, spearman: Bounds, verdict: str, words: str
) -> None:
    result = with_intervals(pearson, spearman)
    assert criterion(result.fit) == verdict
    sentence = answer([result])[-1]
    assert sentence.startswith(f"shakespeare, byte: {verdict}, ")
    assert words in sentence


def test_every_text_is_judged_for_itself() -> None:
    # one text's verdict for all, or the first text's alone, would pass with a single text
    strong = checkpoints(6)
    noisy = checkpoints(6, text="kjv, byte")
    noisy["brierlm"] += 3 * np.random.default_rng(0).normal(size=len(noisy)) + 10
    few = checkpoints(2, text="code, byte")
    none = checkpoints(1, per_run=2, text="code, bpe")
    _, stated, *each = answer(correlate(pd.concat([strong, noisy, few, none])))
    assert stated.startswith("It would count against BrierLM if, within one text, Pearson were weaker than −0.9")
    assert [sentence.split(", ")[:2] for sentence in each] == [
        ["shakespeare", "byte: criterion not met"],
        ["kjv", "byte: criterion met"],
        ["code", "byte: undecided"],
        ["code", "bpe: undecided"],
    ]
    assert "at least 3 baseline checkpoints" in each[3]
    only = answer(correlate(none))
    assert "Too few checkpoints" in only[0]
    assert "undecided" in only[-1]


def test_table_has_a_row_a_text_and_the_published_one() -> None:
    results = correlate(pd.concat([checkpoints(4), checkpoints(2, text="kjv, byte")]))
    table = correlation_table(results)
    assert [row[0] for row in table.rows] == ["shakespeare, byte", "kjv, byte", "published"]
    assert "(no interval)" in str(table.rows[1][1])
    assert "[" in str(table.rows[0][3])
    assert correlation_table([]).rows == []


def four_texts() -> pd.DataFrame:
    texts = ("shakespeare, byte", "shakespeare, bpe", "kjv, byte", "code, byte")
    return pd.concat([checkpoints(4, text=text, seed=i) for i, text in enumerate(texts)])


@pytest.mark.slow
def test_one_panel_a_text_with_ours_beside_the_published() -> None:
    with style.house_style():
        picture = correlation_figure(correlate(four_texts()))
    assert picture is not None
    for text in ("shakespeare, byte", "shakespeare, bpe", "kjv, byte", "code, byte"):
        assert text in picture.svg
    assert picture.svg.count("published −0.966") == 4
    assert picture.svg.count("published −0.991") == 4
    assert "One panel a text" in picture.text
    with style.house_style():
        alone = correlation_figure(correlate(checkpoints(4)))
    assert alone is not None
    assert "One panel a text" not in alone.text
    assert correlation_figure(correlate(checkpoints(1, per_run=1))) is None


@pytest.mark.slow
def test_coefficients_figure_shows_intervals_and_published_lines() -> None:
    with style.house_style():
        picture = coefficients_figure(correlate(four_texts()))
    assert picture is not None
    assert picture.small
    for value in PUBLISHED.values():
        assert f"published {value}".replace("-", "−") in picture.svg
    assert coefficients_figure(correlate(checkpoints(1, per_run=2))) is None


@pytest.mark.slow
def test_bits_are_shared_by_the_texts_of_one_corpus_only() -> None:
    with style.house_style():
        picture = bits_figure(correlate(four_texts()))
    assert picture is not None
    assert "shakespeare" in picture.svg
    assert "byte tokens" in picture.svg
    assert "bpe tokens" in picture.svg
    assert "kjv" not in picture.svg  # one tokenizer only: nothing to show side by side
    assert "nothing is fitted or correlated across them" in picture.text
    assert bits_figure(correlate(checkpoints(4))) is None
    assert bits_figure(correlate(four_texts().assign(bits_per_byte=np.nan))) is None


def test_sizes_are_in_their_own_order() -> None:
    frame = checkpoints(4)
    frame["size"] = np.resize(["d128-l4", "d96-l2", "d1024-l2", "d128-l2"], len(frame))
    assert sizes_of(correlate(frame)) == ["d96-l2", "d128-l2", "d128-l4", "d1024-l2"]

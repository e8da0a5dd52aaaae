from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import style
from analysis.plots_scores import draw_scores
from analysis.scores import bound_note, bound_text, bounds, interval_words, is_bound, score_words


def row(**changes: Any) -> pd.Series:
    values = {"brierlm": 4.1, "brierlm_se": 0.12, "brierlm_low": 3.86, "brierlm_high": 4.34, "weak_orders": ""}
    return pd.Series({**values, **changes})


WEAK = {"brierlm": 0.4, "brierlm_se": 0.3, "brierlm_low": 0.0, "brierlm_high": 1.3, "weak_orders": "3, 4"}


def test_a_weak_score_is_an_interval_and_no_error() -> None:
    assert score_words(row()) == "4.10 ± 0.12"
    assert interval_words(row()) == "[3.86, 4.34]"
    assert score_words(row(**WEAK)) == "[0, 1.30]"
    assert interval_words(row(**WEAK)) == "[0, 1.30]"


@pytest.mark.parametrize("nothing", [None, math.nan, pd.NA])
def test_without_weak_orders_or_without_a_bound_it_keeps_its_error(nothing: object) -> None:
    assert not is_bound(row(weak_orders=nothing))
    assert not is_bound(row(weak_orders=""))
    assert score_words(row(**{**WEAK, "brierlm_high": nothing})) == "0.40 ± 0.30"
    assert score_words(row(brierlm=math.nan)) == "–"
    assert interval_words(row(brierlm_low=None, brierlm_high=None)) == "–"


def test_captions_explain_it_only_where_it_occurs() -> None:
    both = pd.DataFrame([row(), row(**WEAK)])
    assert bounds(both).tolist() == [False, True]
    assert "95 % upper bound" in bound_note(one for _, one in both.iterrows())
    assert "arrow" in bound_text(both)
    assert bound_note([row()]) == bound_text(both.head(1)) == ""


def test_a_weak_score_is_drawn_as_an_arrow_from_its_bound() -> None:
    with style.house_style():
        figure, axes = style.new_figure()
        draw_scores(axes, [1.0, 2.0], pd.DataFrame([row(), row(**WEAK)]), marker="o", size=5, colour="#000000")
        figure.draw_without_rendering()
    # a symmetric error bar for the first only
    (bars,) = axes.collections
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [pytest.approx([3.98, 4.22])]
    (arrow,) = axes.texts
    assert arrow.xy == (2.0, 0.0)
    assert arrow.xyann == (2.0, 1.3)
    faces = {float(np.asarray(line.get_ydata())[0]): line.get_markerfacecolor() for line in axes.lines}
    assert faces[0.4] == "white"
    assert faces[4.1] != "white"
    assert axes.get_ylim()[1] > 4.22

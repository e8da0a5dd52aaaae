"""Labels of axes."""

from __future__ import annotations

import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D

from analysis import style


@pytest.mark.parametrize(("low", "high"), [(1.49e11, 1.71e11), (1.5e11, 1.52e11), (9e10, 1.2e11), (1e9, 3e13)])
def test_no_two_ticks_of_a_logarithmic_axis_have_one_label(low: float, high: float) -> None:
    figure, axes = pyplot.subplots()
    try:
        axes.plot([low, high], [1.0, 2.0])
        style.log_x(axes)
        figure.canvas.draw()
        left, right = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if left <= tick <= right]
        labels = [axes.xaxis.get_major_formatter()(tick) for tick in ticks]
        assert len(set(labels)) == len(labels) > 1, labels
    finally:
        pyplot.close(figure)


@pytest.mark.parametrize(
    "words", ["K = 4", "noise dimensions = 16", "a name that is as wide as the whole figure, or wider"]
)
def test_a_legend_has_as_many_columns_as_fit(words: str) -> None:
    with style.house_style():
        figure, axes = style.new_figure()
        handles = [Line2D([], [], ls="", marker="o", label=f"{words}{'.' * n}") for n in range(4)]
        axes.plot([1, 2], [1, 2])
        figure.legend(handles=handles, loc="outside upper center", ncols=4, columnspacing=1.2, handlelength=1.8)
        style.render(figure, "x", "x", "x")
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [handle.get_label() for handle in handles]
        columns = legend._ncols
        assert columns == {"K": 4, "n": 2, "a": 1}[words[0]]
        if columns > 1:
            renderer = FigureCanvasAgg(figure).get_renderer()
            assert legend.get_window_extent(renderer).width <= figure.bbox.width


@pytest.mark.parametrize(
    ("low", "high", "labels"), [(4.0, 60.0, ["5", "10", "20", "50"]), (0.04, 0.33, ["0.05", "0.1", "0.2"])]
)
def test_labels_of_a_logarithmic_height_are_words_and_several(low: float, high: float, labels: list[str]) -> None:
    figure, axes = pyplot.subplots()
    try:
        axes.plot([1.0, 2.0], [low, high])
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        style.label_log_y(axes, lambda value: f"{value:g}")
        figure.canvas.draw()
        shown = [label for label in axes.yaxis.get_ticklabels(which="both") if label.get_text()]
        within = [label.get_text() for label in shown if low <= label.get_position()[1] <= high]
        assert within == labels
    finally:
        pyplot.close(figure)

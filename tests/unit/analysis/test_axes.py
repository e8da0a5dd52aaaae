"""Labels of axes."""

from __future__ import annotations

import pytest
from matplotlib import pyplot

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

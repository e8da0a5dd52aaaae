"""The smooth score of a study: BrierLM where that is clear of 0, and a continuation of it below."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.uncertainty import smooth_score

MEANS = np.array([0.30, 0.12, 0.06, 0.04])


class TestSmoothScore:
    SE = np.array([0.02, 0.01, 0.01, 0.02])

    def score(self, *means: float) -> float:
        return smooth_score(np.array(means), self.SE)

    def test_is_brierlm_where_every_order_lies_above_two_errors(self) -> None:
        assert (MEANS >= 2 * self.SE).all()
        assert self.score(*MEANS) == pytest.approx(100 * np.prod(MEANS) ** 0.25)

    def test_follows_its_formula_below(self) -> None:
        means = np.array([0.05, 0.01, 0.0, -0.03])
        parts = [0.05, 0.02 * np.exp(-0.5), 0.02 * np.exp(-1.0), 0.04 * np.exp(-1.75)]
        assert self.score(*means) == pytest.approx(100 * np.prod(parts) ** 0.25)

    def test_has_neither_jump_nor_kink_at_two_errors(self) -> None:
        def at(b: float) -> float:
            return self.score(0.1, 0.1, 0.1, b)

        s, h = 2 * self.SE[3], 1e-6
        assert at(s - h) == pytest.approx(at(s + h), rel=1e-3)
        assert (at(s) - at(s - h)) / h == pytest.approx((at(s + h) - at(s)) / h, rel=1e-3)

    @pytest.mark.parametrize("order", range(4))
    def test_rises_with_every_order_and_stays_positive(self, order: int) -> None:
        means = np.array([0.1, -0.01, 0.003, -0.05])
        scores = []
        for shift in np.linspace(-0.3, 0.3, 25):
            shifted = means.copy()
            shifted[order] += shift
            scores.append(self.score(*shifted))
        assert scores[0] > 0
        assert (np.diff(scores) > 0).all()

"""The bottleneck panel's parts: scores of given samples, effective rank of given vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from workbench.bottleneck import Moments, agreement, sample_brier, sample_scores


class TestScores:
    def test_ties_of_the_mode_go_to_the_first_drawn(self) -> None:
        """2 and 1 twice each, 2 first; at n = 2 (1, 1) twice, the others once. Catches the mode of whole chunks
        used for all n, and ties that go to the smallest id."""
        samples = torch.tensor([[2, 3], [1, 1], [1, 1], [2, 2], [3, 3]])[:, None]
        for truth, right in (([2, 3], [1, 0]), ([1, 1], [0, 1])):
            found = sample_scores(samples, torch.tensor([truth]), torch.tensor([truth]), 2)
            assert found["mode"].tolist() == [right]

    def test_agreement_counts_prefixes(self) -> None:
        samples = torch.tensor([[1, 2, 1], [1, 2, 2], [1, 3, 1], [2, 2, 1]])[:, None]
        assert agreement(samples, 3)[:, 0].tolist() == [[3, 2, 1], [3, 2, 1], [3, 1, 1], [1, 1, 1]]

    def test_all_right_and_all_equal_is_one_all_different_and_wrong_is_zero(self) -> None:
        same = torch.full((5, 1, 2), 3)
        assert sample_brier(same, torch.tensor([[3, 3]]), 2).tolist() == [[1.0, 1.0]]
        assert sample_brier(same, torch.tensor([[1, 3]]), 2).tolist() == [[-1.0, -1.0]]
        different = torch.arange(1, 6)[:, None, None].expand(5, 1, 2)
        assert sample_brier(different, torch.tensor([[9, 9]]), 2).tolist() == [[0.0, 0.0]]


class TestEffectiveRank:
    @staticmethod
    def rank(vectors: Tensor, parts: int = 1) -> float:
        moments = Moments()
        for part in vectors.chunk(parts):
            moments.add(part)
        return moments.effective_rank()

    @staticmethod
    def with_variances(*variances: float, turn: bool = True) -> Tensor:
        """+- sqrt(variance) along each axis of an arbitrary rotation, far from 0."""
        axes = torch.diag(torch.tensor(variances, dtype=torch.float64).sqrt())
        if turn:
            noise = torch.randn(len(variances), len(variances), generator=torch.Generator().manual_seed(1))
            axes = axes @ torch.linalg.qr(noise.double()).Q
        return torch.cat([axes, -axes]) + 7

    @pytest.mark.parametrize(
        ("variances", "expected"),
        [
            ((1, 1, 1, 1, 1), 5.0),
            ((1, 0, 0), 1.0),
            ((1, 1, 0, 0), 2.0),
            ((3, 1), math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
            ((1e-6, 1e-6), 2.0),  # a share, not a size
        ],
    )
    def test_closed_forms(self, variances: tuple[float, ...], expected: float) -> None:
        """Catches singular values in place of eigenvalues ((3, 1) then gives 1.93 instead of 1.75), a mean that
        is not taken away, and the diagonal in place of eigenvalues (the axes are turned)."""
        assert self.rank(self.with_variances(*variances)) == pytest.approx(expected, rel=1e-6)

    def test_parts_are_one_set(self) -> None:
        """Catches a covariance within batches."""
        vectors = torch.randn(600, 5, generator=torch.Generator().manual_seed(0)).double()
        vectors = vectors * torch.arange(1, 6) + 10
        vectors = vectors[vectors[:, 0].argsort()]
        strength = np.linalg.svd((vectors - vectors.mean(0)).numpy(), compute_uv=False) ** 2
        by_svd = float(np.exp(stats.entropy(strength)))
        assert self.rank(vectors, 7) == pytest.approx(self.rank(vectors), rel=1e-9)
        assert self.rank(vectors) == pytest.approx(by_svd, rel=1e-9)

    def test_vectors_that_do_not_vary_have_none(self) -> None:
        """Catches 0/0, and a rank made of rounding."""
        constant = torch.full((1000, 8), 0.3)
        assert self.rank(constant) == 0
        assert self.rank(torch.zeros(4, 8)) == 0
        last_bits = torch.rand(1000, 8, generator=torch.Generator().manual_seed(0)) * 2e-7
        assert self.rank(constant + last_bits) == 0
        assert math.isnan(self.rank(torch.full((4, 8), math.nan)))

    def test_few_vectors_understate_it_as_the_docstring_says(self) -> None:
        """L exp(-L / 2m) for m = 768 independent vectors of L = 128 equal variances: 117.8."""
        vectors = torch.randn(768, 128, generator=torch.Generator().manual_seed(0))
        assert self.rank(vectors) == pytest.approx(128 * math.exp(-128 / (2 * 768)), rel=0.01)

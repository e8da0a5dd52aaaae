"""Shapes are checked anew in each test, whatever the one before has used up."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from tests.suites.shape_checks import CHECKED
from workbench.posterior import Posterior


@pytest.mark.parametrize("test", [1, 2])
def test_checked_at_the_beginning_of_each_test_and_no_more_after_many_checks(test: int) -> None:
    with pytest.raises(TypeCheckError):
        Posterior(torch.zeros(2, 3), torch.zeros(2, 4))
    for _ in range(CHECKED):
        Posterior(torch.zeros(2, 3), torch.zeros(2, 3))
    Posterior(torch.zeros(2, 3), torch.zeros(2, 4))

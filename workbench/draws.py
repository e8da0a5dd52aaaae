"""Random numbers of a part of a batch: those that it has in the whole one, whoever computes the rest.

All noise of a step is drawn for the whole batch, from one generator in one order, and every part takes its rows.
So ranks and micro-batches see the numbers of a single process, whose own bits are what they were before there were
parts. A generator for every sequence would draw only what is wanted, but change the bits of every run that there
is; what is drawn in vain costs little beside a step (tests/bench/devices_cost.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class PartGenerator(torch.Generator):
    """Draws for the sequences ``first`` ... ``last`` - 1 of a batch of ``total``."""

    first: int
    last: int
    total: int

    @classmethod
    def of(cls, rng: torch.Generator, first: int, last: int, total: int) -> PartGenerator:
        """In the state of ``rng``, which stays where it is."""
        part = cls(device=rng.device)
        part.set_state(rng.get_state())
        part.first, part.last, part.total = first, last, total
        return part


def uniform(shape: Sequence[int], *, axis: int, rng: torch.Generator) -> Tensor:
    """On [0, 1). The rows of ``axis`` belong to the batch's sequences, equally many to each, in order."""
    return _drawn(lambda whole: torch.rand(whole, generator=rng, device=rng.device), shape, axis, rng)


def normal(shape: Sequence[int], *, axis: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """N(0, 1), ``axis`` as in ``uniform``."""
    return _drawn(
        lambda whole: torch.randn(whole, generator=rng, device=rng.device, dtype=dtype), shape, axis, rng
    )


def whole_numbers(below: int, shape: Sequence[int], *, axis: int, rng: torch.Generator) -> Tensor:
    """Uniform on 0 ... ``below`` - 1, ``axis`` as in ``uniform``."""
    return _drawn(lambda whole: torch.randint(below, whole, generator=rng, device=rng.device), shape, axis, rng)


def _drawn(
    draw: Callable[[Sequence[int]], Tensor], shape: Sequence[int], axis: int, rng: torch.Generator
) -> Tensor:
    if not isinstance(rng, PartGenerator):
        return draw(shape)
    rows, rest = divmod(shape[axis], rng.last - rng.first)
    assert rest == 0, "an axis of the batch has equally many rows of every sequence"
    whole = [*shape[:axis], rows * rng.total, *shape[axis + 1 :]]
    return draw(whole).narrow(axis, rows * rng.first, shape[axis]).contiguous()

"""Parts of a batch draw what they have in the whole one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.suites.small import build_baseline, build_calm, rng, small_config, tokens
from workbench import draws
from workbench.data import training_blocks
from workbench.draws import PartGenerator
from workbench.rank_place import Place
from workbench.ranks import Ranks

HEADS = ["energy", "flow", "diffusion"]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("draw", [draws.uniform, draws.normal, lambda s, **how: draws.whole_numbers(9, s, **how)])
def test_parts_join_to_the_whole(draw: object, axis: int) -> None:
    shape = [5, 5]
    shape[axis] = 12  # 4 sequences of 3 rows
    whole = draw(shape, axis=axis, rng=rng(1))  # type: ignore[operator]
    parts = []
    for first, last in ((0, 1), (1, 3), (3, 4)):
        part = PartGenerator.of(rng(1), first, last, 4)
        own = [*shape]
        own[axis] = 3 * (last - first)
        parts.append(draw(own, axis=axis, rng=part))  # type: ignore[operator]
    assert torch.equal(torch.cat(parts, axis), whole)


def test_the_next_draw_is_in_step_as_well() -> None:
    part = PartGenerator.of(rng(1), 1, 2, 4)
    plain = rng(1)
    draws.normal((3, 2), axis=0, rng=part)
    draws.normal((12, 2), axis=0, rng=plain)
    assert torch.equal(torch.randn(7, generator=part), torch.randn(7, generator=plain)), "shared by all positions"


@pytest.mark.parametrize("kind", [*HEADS, "both", "baseline"])
def test_losses_of_parts_are_those_of_the_whole(kind: str) -> None:
    if kind == "baseline":
        model = build_baseline(small_config(baseline=True))
    else:
        more = {"head": {"kind": kind}} if kind in HEADS else {"input_mode": kind}
        model = build_calm(small_config(**more))
    batch = tokens(4, 32)
    whole = model.training_loss(batch, rng=rng(2))
    parts = [model.training_loss(batch[i : i + 2], rng=PartGenerator.of(rng(2), i, i + 2, 4)) for i in (0, 2)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_the_ranks_batches_make_up_the_batch_of_every_step(world: int) -> None:
    text = np.arange(500, dtype=np.uint16)
    for step in (0, 7, 1000):  # each from (seed, step) alone: any of them may be the first after an interruption
        whole = training_blocks(text, 6, 8, np.random.default_rng([3, step]))
        parts = [
            training_blocks(
                text, 6, 8, np.random.default_rng([3, step]), Ranks(Place(r, world, r, world)).part_of(6)
            )
            for r in range(world)
        ]
        assert np.array_equal(np.concatenate(parts), whole)
        assert {len(part) for part in parts} == {6 // world}

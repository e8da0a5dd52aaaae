"""Whether numbers are any: weights that an update has broken, and results that have overflowed, are seen before
they are scored, saved or put into the cache. The loss, which the training looks at, is that before the update."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from workbench.errors import NotFiniteError


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no element is nan or infinite. Reads every tensor once, copies none, and waits for the device once:
    the extremes of a tensor with a nan in it are nan."""
    found = [value.isfinite() for tensor in tensors if tensor.numel() for value in torch.aminmax(tensor)]
    return not found or bool(torch.stack(found).all())


def require_finite(what: str, tensor: Tensor) -> Tensor:
    """The tensor. Raises NotFiniteError, with ``what`` it holds, where an element is nan or infinite."""
    if not all_finite([tensor]):
        raise NotFiniteError(f"{what} are not finite")
    return tensor


@contextlib.contextmanager
def at_step(step: int) -> Iterator[None]:
    """Around an evaluation: its NotFiniteError says of which step."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(f"{error}, in the evaluation at step {step}") from None

"""The repeated blocks of a network, and how their training pass is carried out: plain, compiled, or computed again
in the backward pass. Evaluation and sampling, whose shapes vary, are left as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from workbench.backbone import Layer
from workbench.heads.adaln import AdaLNBlock
from workbench.heads.energy import EnergyBlock

logger = logging.getLogger(__name__)

Pass = Callable[..., Any]
COMPILER_ERRORS = ("torch._dynamo.exc", "torch._inductor.exc")
"""Modules of the exceptions that ``torch.compile`` raises where it cannot compile, a missing compiler included."""


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Layers of the backbone and blocks of the head, in order."""
    return [module for module in network.modules() if isinstance(module, Layer | EnergyBlock | AdaLNBlock)]


def prepare_blocks(network: nn.Module, *, compiled: bool, recomputed: bool) -> None:
    """Change how the blocks train, in place; weights and their names stay."""
    if not (compiled or recomputed):
        return
    compiler = Compiler() if compiled else None
    for block in blocks_of(network):
        block.forward = TrainingPass(block.forward, compiler, recomputed)


class TrainingPass:
    """A block's ``forward`` where gradients are wanted; elsewhere the plain one."""

    def __init__(self, plain: Pass, compiler: Compiler | None, recomputed: bool) -> None:
        self.plain, self.recomputed = plain, recomputed
        self.train = compiler.compile(plain) if compiler is not None else plain

    def __call__(self, *arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.plain(*arguments)
        if self.recomputed:  # with the random state of the first time, should a block ever draw
            return checkpoint(self.train, *arguments, use_reentrant=False)
        return self.train(*arguments)


class Compiler:
    """``torch.compile`` for fixed shapes, which gives up with a warning where the machine has no compiler."""

    def __init__(self) -> None:
        self.failed = False

    def compile(self, plain: Pass) -> Pass:
        made: Pass = torch.compile(plain, dynamic=False)

        def run(*arguments: Any) -> Any:
            if self.failed:
                return plain(*arguments)
            try:
                return made(*arguments)
            except Exception as error:
                if not _is_of_compiler(error):
                    raise
                result = plain(*arguments)  # an error of the block's own comes again
                self.failed = True
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                logger.warning("runtime.compile has no effect, blocks cannot be compiled here: %s", reason)
                return result

        return run


def _is_of_compiler(error: Exception) -> bool:
    """Whether Dynamo or Inductor says that it cannot compile; not where the memory was spent meanwhile, which it
    wraps as well."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | torch.OutOfMemoryError):
            return False
        cause = getattr(cause, "inner_exception", None) or cause.__cause__
    # each part has kinds of its own, some of no common base
    return any(kind.__module__ in COMPILER_ERRORS for kind in type(error).__mro__)

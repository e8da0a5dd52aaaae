"""Bytes of all tensors that are alive while something is computed, with the kernels that a GPU would use."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workbench import attention, device_memory
from workbench.energy_score import SLICE_ELEMENTS
from workbench.heads import adaln
from workbench.layers import LayerNorm, RMSNorm


class LiveBytes(TorchDispatchMode):
    """``parameters`` and their gradients, which are part of a training's state, are not counted, but for the one
    gradient that is being added."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.held: dict[int, int] = {}
        """Storages and their bytes."""
        self.own = set()
        for parameter in parameters:
            self.own.add(parameter.untyped_storage()._cdata)
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._forget_gradient)

    def _forget_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._forget(parameter.grad.untyped_storage()._cdata)

    def _forget(self, storage: int) -> None:
        self.now -= self.held.pop(storage, 0)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                key = storage._cdata
                if key not in self.held and key not in self.own:
                    self.held[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._forget, key)
        self.peak = max(self.peak, self.now)
        return out


class FusedRMSNorm(torch.autograd.Function):
    """Keeps its input and one number a row, as the kernel on a GPU does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, scale, weight)
        return x * scale * weight

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        x, scale, weight = ctx.saved_tensors
        normed = x * scale
        inner = upstream[0] * weight
        by_x = scale * (inner - normed * (inner * normed).mean(-1, keepdim=True))
        return by_x, (upstream[0] * normed).flatten(0, -2).sum(0), None


def use_gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused attention and RMSNorm; LayerNorm in float32 also inside autocast, and what is put together with its
    result too. The slices of the energy loss stay a processor's, in the plan too."""

    def layer_norm(self: LayerNorm, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return F.layer_norm(x.float(), self.normalized_shape, self.weight, self.bias, self.eps)

    def rms_norm(self: RMSNorm, x: Tensor) -> Tensor:
        out: Tensor = FusedRMSNorm.apply(x.float(), self.weight, self.eps)  # type: ignore[no-untyped-call]
        return out

    def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            normed = F.layer_norm(x.float(), x.shape[-1:], eps=adaln.EPS)
            return torch.addcmul(shift.float(), normed, (1 + scale).float())

    monkeypatch.setattr(adaln, "modulated", modulated)
    monkeypatch.setattr(attention, "MOST_WEIGHTS", 0)
    monkeypatch.setattr(LayerNorm, "forward", layer_norm)
    monkeypatch.setattr(RMSNorm, "forward", rms_norm)
    monkeypatch.setattr(device_memory, "LOSS_SLICE", SLICE_ELEMENTS["cpu"])

"""Attention by blocks of queries: the fused kernel's values and gradients, at every length around a block."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.suites.small import rng
from workbench import attention
from workbench.attention import BlockAttention, causal_attention


def case(length: int, dtype: torch.dtype = torch.float32, heads: int = 2) -> list[Tensor]:
    shape = (3, length, heads, 8)
    return [torch.randn(shape, generator=rng(i)).to(dtype).transpose(1, 2).requires_grad_() for i in range(3)]


def gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weight = torch.randn(out.shape, generator=rng(9)).to(out.dtype)
    return list(torch.autograd.grad((out * weight).sum(), inputs))


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 16, 29])
def test_it_is_the_fused_kernels_attention(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 8)
    inputs = case(length)
    ours = BlockAttention.apply(*inputs)
    fused = F.scaled_dot_product_attention(*inputs, is_causal=True)
    torch.testing.assert_close(ours, fused)
    for a, b in zip(gradients(ours, inputs), gradients(fused, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_its_gradient_is_that_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 4)
    inputs = [t.detach().double().requires_grad_() for t in case(6, heads=1)]
    assert torch.autograd.gradcheck(BlockAttention.apply, inputs)


def test_the_choice_depends_on_dtype_and_changes_little() -> None:
    inputs = case(20, torch.bfloat16)
    out = causal_attention(*inputs)
    assert "BlockAttention" in type(out.grad_fn).__name__
    fused = F.scaled_dot_product_attention(*[t.float() for t in inputs], is_causal=True)
    torch.testing.assert_close(out.float(), fused, rtol=0.02, atol=0.02)
    exact = gradients(fused, inputs)
    for a, b in zip(gradients(out, inputs), exact, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=0.05, atol=0.05)
    assert "BlockAttention" not in type(causal_attention(*case(20)).grad_fn).__name__


def test_fewer_key_heads_serve_groups_of_queries() -> None:
    q, _, _ = case(10, torch.bfloat16, heads=4)
    _, k, v = case(10, torch.bfloat16, heads=2)
    fused = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(causal_attention(q, k, v), fused)


def relative_error(found: Tensor, exact: Tensor) -> float:
    return ((found.float() - exact.float()).norm() / exact.float().norm()).item()


def test_rounding_does_not_add_up_over_blocks() -> None:
    """Scores are rounded to bfloat16, which costs 0.7 % here whatever the length is."""
    inputs = [t.detach().mul(1.5).requires_grad_() for t in case(640, torch.bfloat16)]
    wide = [t.detach().float().requires_grad_() for t in inputs]
    out, exact = BlockAttention.apply(*inputs), F.scaled_dot_product_attention(*wide, is_causal=True)
    assert relative_error(out, exact) < 0.009
    for a, b in zip(gradients(out, inputs), gradients(exact, wide), strict=True):
        assert relative_error(a, b) < 0.01


def test_above_so_many_weights_the_fused_kernel_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case(16, torch.bfloat16)  # 3 x 2 x 16 x 16 weights
    for most, name in ((1536, "BlockAttention"), (1535, "ScaledDotProduct")):
        monkeypatch.setattr(attention, "MOST_WEIGHTS", most)
        assert name in type(causal_attention(*inputs).grad_fn).__name__

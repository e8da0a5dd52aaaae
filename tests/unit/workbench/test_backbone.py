"""The backbone: parity with a reference, causality, the cache and side branches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.suites.small import backbone_config, rng
from workbench.backbone import Backbone, Branches, KVCache, rotary, rotate
from workbench.layers import initialise

KV_HEADS = [4, 2, 1]


def build(num_kv_heads: int = 4, num_layers: int = 2) -> Backbone:
    backbone = Backbone(backbone_config(num_kv_heads=num_kv_heads, num_layers=num_layers))
    initialise(backbone, "fan_in", rng=rng(0))
    return backbone


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=rng(seed))


def test_rotations_are_those_of_complex_numbers_and_depend_on_distance_alone() -> None:
    positions = torch.tensor([0, 3, 1000])
    cos, sin = rotary(positions, 8, 10_000.0)
    x = inputs(3, 8)
    turned = rotate(x, cos, sin)
    frequencies = torch.tensor([10_000.0 ** (-2 * j / 8) for j in range(4)])
    plane = torch.complex(x[:, :4], x[:, 4:]) * torch.exp(1j * positions[:, None] * frequencies)
    torch.testing.assert_close(turned, torch.cat([plane.real, plane.imag], -1), rtol=1e-4, atol=1e-4)

    def product(first: int, second: int) -> Tensor:
        q, k = (rotate(x[i : i + 1], *rotary(torch.tensor([p]), 8, 100.0)) for i, p in ((1, first), (2, second)))
        return (q * k).sum()

    torch.testing.assert_close(product(5, 2), product(13, 10), rtol=1e-4, atol=1e-5)
    assert not torch.isclose(product(5, 2), product(5, 3))


@pytest.mark.parametrize("num_kv_heads", KV_HEADS)
def test_the_future_does_not_change_the_past_and_the_past_changes_the_future(num_kv_heads: int) -> None:
    backbone, x = build(num_kv_heads), inputs(2, 9, 32)
    other = x.clone()
    other[:, 5] += 1
    before, after = backbone(x), backbone(other)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert ((before - after).abs().amax(-1) > 1e-4)[:, 5:].all()


def test_sequences_do_not_see_each_other() -> None:
    backbone, x = build(), inputs(2, 9, 32)
    torch.testing.assert_close(backbone(x)[:1], backbone(x[:1]))


@pytest.mark.parametrize("num_kv_heads", KV_HEADS)
@pytest.mark.parametrize("capacity", [0, 4, 30])
@pytest.mark.parametrize("parts", [[1] * 9, [9], [5, 4], [4, 1, 3, 1]])
def test_reading_in_parts_with_a_cache_equals_reading_at_once(
    num_kv_heads: int, capacity: int, parts: list[int]
) -> None:
    backbone, x = build(num_kv_heads), inputs(2, 9, 32)
    cache = KVCache(capacity)
    with torch.no_grad():
        hidden = torch.cat([backbone(part, cache) for part in x.split(parts, dim=1)], dim=1)
        torch.testing.assert_close(hidden, backbone(x))
    assert cache.length == 9
    assert cache.layer(1)[0].shape == (2, num_kv_heads, 9, 8)


@pytest.mark.parametrize("num_kv_heads", KV_HEADS)
def test_branches_equal_sequences_of_their_own(num_kv_heads: int) -> None:
    """Branches from several starts, three deep: branch r of sequence b is the main text up to its start,
    followed by its own entries."""
    backbone, x = build(num_kv_heads), inputs(2, 9, 32)
    start = torch.tensor([[0, 3, 8, 3], [5, 5, 1, 7]])
    own = inputs(3, 2, 4, 32, seed=2)
    with torch.no_grad():
        cache = KVCache(capacity=20)  # unused memory behind the text must not be seen
        backbone(x, cache)
        branches = Branches(cache, start)
        hidden = torch.stack([backbone.branch(step, branches) for step in own])
        for b in range(2):
            for r in range(4):
                main = x[b, : start[b, r] + 1]
                sequence = torch.cat([main, own[:, b, r]]).unsqueeze(0)
                torch.testing.assert_close(hidden[:, b, r], backbone(sequence)[0, -3:], rtol=1e-4, atol=1e-5)
    assert branches.depth == 3
    assert cache.length == 9


@pytest.mark.parametrize("num_kv_heads", KV_HEADS)
@pytest.mark.parametrize("steps_before", [0, 1, 2])
def test_kept_branches_go_on_as_if_the_others_had_never_been(num_kv_heads: int, steps_before: int) -> None:
    """In another order and one of them twice. Catches starts, keys or values of another branch."""
    backbone, x = build(num_kv_heads), inputs(2, 9, 32)
    start, kept = torch.tensor([[0, 3, 8, 3], [5, 5, 1, 7]]), torch.tensor([[3, 0, 0], [2, 3, 1]])
    own = inputs(3, 2, 4, 32, seed=2)
    chosen = own.take_along_dim(kept[None, ..., None], dim=2)
    with torch.no_grad():
        cache = KVCache()
        backbone(x, cache)
        some, few = Branches(cache, start), Branches(cache, start.gather(1, kept))
        for step in own[:steps_before]:
            backbone.branch(step, some)
        some.keep(kept)
        expected = [backbone.branch(step, few) for step in chosen]
        for step, hidden in zip(chosen[steps_before:], expected[steps_before:], strict=True):
            torch.testing.assert_close(backbone.branch(step, some), hidden)


def test_branches_leave_the_cache_as_it_was() -> None:
    backbone, x = build(), inputs(1, 9, 32)
    with torch.no_grad():
        cache = KVCache()
        backbone(x[:, :6], cache)
        backbone.branch(inputs(1, 2, 32, seed=2), Branches(cache, torch.tensor([[2, 5]])))
        torch.testing.assert_close(backbone(x[:, 6:], cache), backbone(x)[:, 6:])


def test_rotary_theta_is_used() -> None:
    x = inputs(1, 9, 32)
    first = build()
    second = Backbone(backbone_config(rope_theta=100.0))
    second.load_state_dict(first.state_dict())
    assert not torch.allclose(first(x), second(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_kv_heads", KV_HEADS)
def test_parity_with_the_llama_model_of_transformers(num_kv_heads: int) -> None:
    transformers = pytest.importorskip("transformers")
    ours = build(num_kv_heads, num_layers=3)
    config = transformers.LlamaConfig(
        vocab_size=3,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=num_kv_heads,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    reference = transformers.LlamaModel(config).eval()
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            if weight.ndim == 1:
                weight.copy_(1 + 0.3 * torch.randn(weight.shape, generator=rng(len(name))))
        reference.norm.weight.copy_(ours.norm.weight)
        for mine, theirs in zip(ours.layers, reference.layers, strict=True):
            q, k, v = mine.attention.qkv.weight.split([32, 8 * num_kv_heads, 8 * num_kv_heads])
            gate, up = mine.mlp.gate_up.weight.chunk(2)
            for target, weight in (
                (theirs.self_attn.q_proj, q),
                (theirs.self_attn.k_proj, k),
                (theirs.self_attn.v_proj, v),
                (theirs.self_attn.o_proj, mine.attention.out.weight),
                (theirs.mlp.gate_proj, gate),
                (theirs.mlp.up_proj, up),
                (theirs.mlp.down_proj, mine.mlp.down.weight),
                (theirs.input_layernorm, mine.attention_norm.weight),
                (theirs.post_attention_layernorm, mine.mlp_norm.weight),
            ):
                target.weight.copy_(weight)
        x = inputs(2, 50, 32)
        expected = reference(inputs_embeds=x).last_hidden_state
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)

"""The token baseline."""

from __future__ import annotations

import pytest
import torch

from tests.suites.small import VOCAB, build_baseline, rng, small_config, tokens
from workbench import flops
from workbench.baseline import TokenBaseline


def baseline(num_kv_heads: int = 4) -> TokenBaseline:
    return build_baseline(small_config(baseline=True, backbone={"num_kv_heads": num_kv_heads}))


def test_the_loss_is_the_cross_entropy_of_every_token_but_the_first() -> None:
    model, text = baseline(), tokens(3, 16)
    network = model.network
    hidden = network.backbone(network.embedding.weight[text])
    log_probs = (hidden @ network.output.weight.T).log_softmax(-1)
    expected = [-log_probs[b, t, text[b, t + 1]] for b in range(3) for t in range(15)]
    torch.testing.assert_close(model.training_loss(text, rng=rng()), torch.stack(expected))


def test_a_loss_depends_on_nothing_later() -> None:
    model, text = baseline(), tokens(1, 16)
    other = text.clone()
    other[:, 10] = other[:, 10] % (VOCAB - 1) + 1
    changed = ~torch.isclose(model.training_loss(text, rng=rng()), model.training_loss(other, rng=rng()))
    assert changed.tolist() == [False] * 9 + [True] * 6


def test_the_output_layer_is_not_the_embedding() -> None:
    network = baseline().network
    assert network.output.weight is not network.embedding.weight
    assert not torch.equal(network.output.weight, network.embedding.weight)
    assert network.output.bias is None


def test_all_parameters_are_trained() -> None:
    model = baseline()
    model.training_loss(tokens(3, 16), rng=rng()).mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.network.parameters())


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_counted_parameters_are_those_the_configuration_promises(num_kv_heads: int) -> None:
    config = small_config(baseline=True, backbone={"num_kv_heads": num_kv_heads})
    groups = build_baseline(config).parameter_groups()
    assert groups == flops.parameters(config, VOCAB)
    assert groups["total"] == groups["backbone"] + 2 * VOCAB * 32


def test_a_context_gives_the_log_probabilities_of_the_next_token() -> None:
    model, windows = baseline(), tokens(2, 16)
    index = torch.tensor([[0, 5, 15], [3, 3, 9]])
    log_probs = model.read(windows).log_probs(index)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 3))
    for b in range(2):
        for n in range(3):
            alone = model.network(windows[b : b + 1, : index[b, n] + 1])[0, -1]
            torch.testing.assert_close(log_probs[b, n], model.network.output(alone).log_softmax(-1))


def test_branches_give_the_log_probabilities_after_their_own_tokens() -> None:
    model, windows = baseline(num_kv_heads=2), tokens(2, 16)
    index, own = torch.tensor([[0, 5, 15], [3, 3, 9]]), tokens(3, 2, 3, seed=5)
    branches = model.read(windows).branch(index)
    for step in own:
        branches.extend(step)
    log_probs = branches.log_probs()
    for b in range(2):
        for r in range(3):
            text = torch.cat([windows[b, : index[b, r] + 1], own[:, b, r]]).unsqueeze(0)
            expected = model.network.log_probs(model.network(text)[0, -1])
            torch.testing.assert_close(log_probs[b, r], expected, rtol=1e-4, atol=1e-5)

"""CALM: input modes, what is predicted, sampling from contexts and branches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.suites.small import VOCAB, build_calm, decoded, rng, small_config, tokens
from workbench import flops
from workbench.config import RunConfig
from workbench.model import Calm, ChunkCompression

MODES = ["tokens", "latent", "both"]


def calm(**fields: Any) -> Calm:
    return build_calm(small_config(**fields))


def embeddings(model: Calm, chunks: Tensor, latents: Tensor) -> Tensor:
    return model.network.embed(chunks, latents)


def test_compression_is_its_formula() -> None:
    torch.manual_seed(0)
    compression = ChunkCompression(8, 3)
    x = torch.randn(2, 5, 3, 8, generator=rng())
    inner = torch.nn.functional.silu(compression.widen(x.reshape(2, 5, 24)))
    assert inner.shape == (2, 5, 16)
    expected = torch.nn.functional.layer_norm(compression.narrow(inner), (8,), eps=1e-6)
    torch.testing.assert_close(compression(x), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [1, 2, 4])
def test_hidden_states_and_losses_have_the_stated_shapes(mode: str, chunk_size: int) -> None:
    model, text = calm(input_mode=mode, chunk_size=chunk_size), tokens(3, 32)
    chunks = model.chunks(text)
    num_chunks = 32 // chunk_size
    assert chunks.shape == (3, num_chunks, chunk_size)
    assert torch.equal(chunks[1, 2], text[1, 2 * chunk_size : 3 * chunk_size])
    assert model.network(chunks, model.feedback(chunks)).shape == (3, num_chunks, 32)
    assert model.training_loss(text, rng=rng()).shape == (3 * (num_chunks - 1),)


def test_only_the_inputs_of_a_mode_have_parameters() -> None:
    parts = {mode: set(calm(input_mode=mode).parameter_groups()) for mode in MODES}
    common = {"backbone", "head", "total", "autoencoder"}
    assert parts["tokens"] == common | {"embedding", "compression"}
    assert parts["latent"] == common | {"latent_input"}
    assert parts["both"] == parts["tokens"] | parts["latent"]


def test_each_mode_reads_what_its_name_says() -> None:
    chunks, other = tokens(2, 5, 4), tokens(2, 5, 4, seed=1)
    latents, other_latents = torch.randn(2, 2, 5, 6, generator=rng())
    for mode in MODES:
        model = calm(input_mode=mode)
        plain = embeddings(model, chunks, latents)
        assert torch.equal(plain, embeddings(model, other, latents)) == (mode == "latent")
        assert torch.equal(plain, embeddings(model, chunks, other_latents)) == (mode == "tokens")


def test_both_is_the_sum_of_the_two_projections() -> None:
    network = calm(input_mode="both").network
    chunks, latents = tokens(2, 5, 4), torch.randn(2, 5, 6, generator=rng())
    expected = network.compression(network.embedding(chunks)) + network.latent_input(latents)
    torch.testing.assert_close(network.embed(chunks, latents), expected)


@pytest.mark.parametrize("mode", MODES)
def test_training_feeds_posterior_samples_and_feedback_the_posterior_mean(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = calm(input_mode=mode), tokens(3, 32)
    seen: list[Tensor | None] = []
    original = type(model.network).embed

    def spy(network: Any, chunks: Tensor, latents: Tensor | None) -> Tensor:
        seen.append(latents)
        return original(network, chunks, latents)

    monkeypatch.setattr(type(model.network), "embed", spy)
    model.training_loss(text, rng=rng(0))
    model.training_loss(text, rng=rng(1))
    chunks = model.chunks(text)
    posterior = model.autoencoder.encode(chunks)
    feedback = model.feedback(chunks)
    if mode == "tokens":
        assert seen == [None, None]
        assert feedback is None
        return
    first, second = seen
    assert first is not None
    assert second is not None
    assert feedback is not None
    assert torch.equal(feedback, posterior.mean)
    assert not torch.equal(first, second), "the same noise twice"
    standardised = (first - posterior.mean[:, :-1]) / posterior.std[:, :-1]
    assert standardised.std().item() == pytest.approx(1.0, abs=0.2)
    assert abs(standardised.mean().item()) < 0.2


def test_the_target_of_position_i_is_chunk_i_plus_1(monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = calm(), tokens(3, 32)
    seen: dict[str, Any] = {}

    def spy(head: Any, hidden: Tensor, target: Any, *, rng: torch.Generator) -> Tensor:
        seen.update(hidden=hidden, target=target)
        return hidden.sum(-1)

    monkeypatch.setattr(type(model.network.head), "loss", spy)
    model.training_loss(text, rng=rng())
    chunks = model.chunks(text)
    expected = model.autoencoder.encode(chunks[:, 1:])
    torch.testing.assert_close(seen["target"].mean.view(3, 7, 6), expected.mean)
    torch.testing.assert_close(seen["target"].log_std.view(3, 7, 6), expected.log_std)
    torch.testing.assert_close(seen["hidden"].view(3, 7, 32), model.network(chunks)[:, :-1])


@pytest.mark.parametrize("mode", MODES)
def test_a_loss_depends_on_its_context_and_target_and_on_nothing_later(mode: str) -> None:
    model, text = calm(input_mode=mode), tokens(1, 32)
    losses = model.training_loss(text, rng=rng())
    other = text.clone()
    other[:, 20] = other[:, 20] % (VOCAB - 1) + 1  # a token of chunk 5: the target of loss 4
    changed = model.training_loss(other, rng=rng()) != losses
    assert changed.tolist() == [False, False, False, False, True, True, True]


@pytest.mark.parametrize("mode", MODES)
def test_the_autoencoder_is_frozen_and_all_the_rest_is_trained(mode: str) -> None:
    model = calm(input_mode=mode)
    model.training_loss(tokens(3, 32), rng=rng()).mean().backward()
    assert all(not p.requires_grad and p.grad is None for p in model.autoencoder.parameters())
    assert not any(p is q for p in model.network.parameters() for q in model.autoencoder.parameters())
    untouched = [n for n, p in model.network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not untouched


def test_the_generator_decides_the_training_loss_and_the_mode_does_not() -> None:
    model, text = calm(input_mode="both"), tokens(3, 32)
    losses = model.training_loss(text, rng=rng(0))
    assert torch.equal(losses, model.training_loss(text, rng=rng(0)))
    assert not torch.equal(losses, model.training_loss(text, rng=rng(1)))
    model.network.eval()
    assert torch.equal(losses, model.training_loss(text, rng=rng(0)))


def test_held_out_loss_is_the_training_loss_where_nothing_random_is_fed() -> None:
    model, text = calm(), tokens(3, 32)
    true, other = model.held_out_loss(text, rng=rng())
    assert true.shape == other.shape == (3, 7)
    torch.testing.assert_close(true.flatten(), model.training_loss(text, rng=rng()))
    assert not true.requires_grad


def test_shuffled_held_out_loss_takes_the_hidden_states_of_the_neighbouring_window() -> None:
    model, text = calm(input_mode="both"), tokens(3, 32)
    _, other = model.held_out_loss(text, rng=rng())
    chunks = model.chunks(text)
    posterior = model.autoencoder.encode(chunks)
    hidden = model.network(chunks, posterior.mean)[[2, 0, 1], :-1].flatten(0, 1)
    expected = model.network.head.loss(hidden, posterior[:, 1:].flatten(), rng=rng())
    torch.testing.assert_close(other.flatten(), expected)


def test_a_head_that_ignores_its_context_has_equal_held_out_losses() -> None:
    model = calm()
    with torch.no_grad():
        model.network.head.embed_hidden.weight.zero_()
    true, other = model.held_out_loss(tokens(3, 32), rng=rng())
    torch.testing.assert_close(true, other)


def test_sampled_chunks_are_the_decoded_samples_of_the_head() -> None:
    model, hidden = calm(), torch.randn(2, 5, 32, generator=rng())
    chunks, latents = model.sample_chunks(hidden, 3, rng=rng(4))
    assert chunks.shape == (3, 2, 5, 4)
    assert latents.shape == (3, 2, 5, 6)
    expected = model.network.head.sample(hidden.flatten(0, 1), num_samples=3, rng=rng(4))
    assert torch.equal(latents, expected.view(3, 2, 5, 6))
    assert torch.equal(chunks, model.autoencoder.decode(latents))


def test_chunks_decoded_on_demand_are_those_of_the_same_latent_vectors() -> None:
    model, hidden = calm(), torch.randn(5, 32, generator=rng())
    chunks, _ = model.sample_chunks(hidden, 3, rng=rng(4))
    samples = model.draw(hidden, 3, rng=rng(4))
    assert (samples.num_samples, samples.num_places) == (3, 5)
    assert torch.equal(decoded(samples, 4), chunks)
    which = torch.tensor([14, 2, 5])  # sample 2 at place 4, 0 at 2, 1 at 0
    assert samples.tokens(3, which).tolist() == [chunks[2, 4, 3], chunks[0, 2, 3], chunks[1, 0, 3]]


def test_slices_of_hidden_states_get_noise_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches states assigned to other places, and one noise for all slices."""
    model, hidden = calm(), torch.randn(1, 32, generator=rng()).expand(6, -1)
    whole = decoded(model.draw(hidden, 200, rng=rng(4)), 4)
    sizes: list[int] = []
    draw = model.network.head.sample

    def spy(hidden: Tensor, *, num_samples: int, rng: torch.Generator) -> Tensor:
        sizes.append(len(hidden))
        return draw(hidden, num_samples=num_samples, rng=rng)

    monkeypatch.setattr(model.network.head, "sample", spy)
    monkeypatch.setattr("workbench.model.rows_at_once", lambda elements, device: 500)
    parts = decoded(model.draw(hidden, 200, rng=rng(4)), 4)
    assert sizes == [2, 2, 2]
    assert not torch.equal(parts[:, :2], parts[:, 2:4])
    shares = [(x == whole.flatten(0, 1).mode(0).values).float().mean((0, 1)) for x in (whole, parts)]
    torch.testing.assert_close(shares[0], shares[1], atol=0.08, rtol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [1, 4])
def test_samples_of_a_context_are_those_of_the_text_up_to_there(mode: str, chunk_size: int) -> None:
    model, windows = calm(input_mode=mode, chunk_size=chunk_size), tokens(2, 32)
    window, index = torch.tensor([0, 1, 0, 0, 1]), torch.tensor([0, 2, 3, 6, 1])
    sampled = decoded(model.read(windows).sample(window, index, 50, rng=rng(3)), chunk_size)
    assert sampled.shape == (50, 5, chunk_size)
    chunks = model.chunks(windows)
    hidden = []
    for b, i in zip(window.tolist(), index.tolist(), strict=True):
        text = chunks[b : b + 1, : i + 1]
        hidden.append(model.network(text, model.feedback(text))[0, -1])
    expected = model.sample_chunks(torch.stack(hidden), 50, rng=rng(3))[0]
    assert (sampled == expected).float().mean().item() > 0.999  # an argmax may flip on the last bit


@pytest.mark.parametrize("mode", MODES)
def test_branches_continue_with_their_own_chunks(mode: str) -> None:
    """The second step is of two of three branches only. Catches a branch that goes on with another's keys, start
    or hidden state."""
    model, windows = calm(input_mode=mode, chunk_size=2), tokens(2, 32)
    index = torch.tensor([[0, 3, 12], [2, 7, 1]])
    kept = torch.tensor([[2, 0], [1, 2]])
    own, second = tokens(2, 3, 2, seed=5), tokens(2, 2, 2, seed=6)  # B, R, K
    branches = model.read(windows).branch(index)
    branches.extend(own)
    branches.keep(kept)
    branches.extend(second)
    window, branch = torch.tensor([1, 0, 1]), torch.tensor([0, 1, 1])
    sampled = decoded(branches.sample(window, branch, 40, rng=rng(3)), 2)
    chunks, hidden = model.chunks(windows), []
    for b, r in zip(window.tolist(), branch.tolist(), strict=True):
        old = int(kept[b, r])
        text = torch.cat([chunks[b, : index[b, old] + 1], own[b, None, old], second[b, None, r]]).unsqueeze(0)
        hidden.append(model.network(text, model.feedback(text))[0, -1])
    expected = model.sample_chunks(torch.stack(hidden), 40, rng=rng(3))[0]
    assert (sampled == expected).float().mean().item() > 0.999


def test_branches_may_be_left_out_before_and_after_a_step() -> None:
    model, windows = calm(chunk_size=2), tokens(2, 32)
    index, own = torch.tensor([[0, 3, 12], [2, 7, 1]]), tokens(2, 3, 2, seed=5)
    kept = torch.tensor([[2, 0], [1, 2]])
    window, branch = torch.tensor([1, 0]), torch.tensor([0, 1])
    whole, before, after = (model.read(windows).branch(index) for _ in range(3))
    whole.extend(own)
    expected = decoded(whole.sample(window, kept[window, branch], 40, rng=rng(3)), 2)
    before.keep(kept)
    before.extend(own.take_along_dim(kept.unsqueeze(-1), 1))
    after.extend(own)
    after.keep(kept)
    for branches in (before, after):
        assert torch.equal(decoded(branches.sample(window, branch, 40, rng=rng(3)), 2), expected)


CONFIGS = [
    *[{"input_mode": mode, "chunk_size": k} for mode in MODES for k in (1, 4)],
    {"backbone": {"num_kv_heads": 2}},
    {"backbone": {"num_layers": 3}, "head": {"num_blocks": 3, "noise_dim": 5}},
]


@pytest.mark.parametrize("fields", CONFIGS, ids=str)
def test_counted_parameters_are_those_the_configuration_promises(fields: dict[str, Any]) -> None:
    config: RunConfig = small_config(**fields)
    model = build_calm(config)
    groups = model.parameter_groups()
    assert groups == flops.parameters(config, VOCAB)
    assert groups["total"] == sum(p.numel() for p in model.network.parameters())

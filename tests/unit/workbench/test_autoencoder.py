"""The autoencoder's architecture and loss (METHOD section 1)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.suites.small import VOCAB, build_autoencoder, rng, small_config, tokens
from workbench.autoencoder import PAD_ID, Autoencoder, drop_latents, drop_tokens
from workbench.config import AutoencoderConfig, RunConfig


def autoencoder(chunk_size: int = 4, **fields: object) -> Autoencoder:
    config = small_config(chunk_size=chunk_size)
    settings = config.autoencoder.model_copy(update=fields)
    return build_autoencoder(config.model_copy(update={"autoencoder": settings}))


def without_dropout(**fields: object) -> Autoencoder:
    return autoencoder(token_dropout=0.0, latent_dropout=0.0, **fields)


def test_the_papers_size_has_75_million_parameters() -> None:
    config = RunConfig(autoencoder=AutoencoderConfig(width=512, latent_dim=128)).resolved().autoencoder
    assert config.mlp_width == 1280
    network = Autoencoder(config, chunk_size=4, vocab_size=256)  # the rest of the embedding is counted only
    assert sum(p.numel() for p in network.parameters()) + (128_256 - 256) * 512 == pytest.approx(75e6, rel=0.02)


def test_encoder_and_decoder_are_their_formulas() -> None:
    network, chunks = autoencoder(), tokens(5, 4)
    x = network.encode_token(F.embedding(chunks, network.embedding.weight)).reshape(5, -1)
    x = network.encode_chunk(x @ network.squeeze.weight.T + network.squeeze.bias)
    mean, log_std = (network.latent_norm(x) @ network.to_latent.weight.T + network.to_latent.bias).split(6, -1)
    posterior = network.encode(chunks)
    torch.testing.assert_close(posterior.mean, mean)
    torch.testing.assert_close(posterior.log_std, log_std)

    x = network.decode_chunk(mean @ network.from_latent.weight.T + network.from_latent.bias)
    x = network.decode_token((x @ network.expand.weight.T + network.expand.bias).reshape(5, 4, 24))
    expected = network.output_norm(x) @ network.embedding.weight.T
    torch.testing.assert_close(network.logits(mean), expected)


def test_four_linear_maps_have_biases_and_the_mlps_none() -> None:
    biases = {name for name, _ in autoencoder().named_parameters() if name.endswith("bias")}
    assert biases == {"squeeze.bias", "to_latent.bias", "from_latent.bias", "expand.bias"}


def test_the_output_matrix_is_the_embedding() -> None:
    network = autoencoder()
    latents = torch.randn(3, 6, generator=rng())
    before = network.logits(latents)
    with torch.no_grad():
        network.embedding.weight[7] *= 2
    after = network.logits(latents)
    torch.testing.assert_close(after[..., 7], 2 * before[..., 7])
    torch.testing.assert_close(after[..., 8], before[..., 8])


def test_dropped_tokens_become_pad_at_the_given_rate() -> None:
    chunks = tokens(20_000, 4)
    dropped = drop_tokens(chunks, 0.15, rng=rng())
    changed = dropped != chunks
    assert (dropped[changed] == PAD_ID).all()
    assert changed.float().mean().item() == pytest.approx(0.15, abs=0.005)
    assert torch.equal(drop_tokens(chunks, 0.0, rng=rng()), chunks)


def test_latent_dropout_is_unbiased() -> None:
    latents = torch.tensor([1.0, -3.0]).expand(40_000, 2)
    dropped = drop_latents(latents, 0.15, rng=rng())
    assert (dropped == 0).float().mean().item() == pytest.approx(0.15, abs=0.005)
    torch.testing.assert_close(dropped.mean(0), latents[0], atol=0.03, rtol=0)
    assert torch.equal(drop_latents(latents, 0.0, rng=rng()), latents)


def test_decoding_is_argmax_and_never_yields_pad() -> None:
    network = autoencoder()
    latents = 3 * torch.randn(500, 6, generator=rng())
    assert (network.logits(latents).argmax(-1) == PAD_ID).any(), "the case is not tested"
    decoded = network.decode(latents)
    assert decoded.shape == (500, 4)
    assert (decoded != PAD_ID).all()
    logits = network.logits(latents)
    logits[..., PAD_ID] = -math.inf
    assert torch.equal(decoded, logits.argmax(-1))


def test_decoding_in_parts_changes_nothing_and_holds_few_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    network, latents = autoencoder(), torch.randn(3, 10, 6, generator=rng())
    whole = network.decode(latents)
    assert whole.shape == (3, 10, 4)
    sizes: list[int] = []
    original = Autoencoder.logits

    def spy(self: Autoencoder, part: Tensor) -> Tensor:
        logits = original(self, part)
        sizes.append(logits.numel())
        return logits

    monkeypatch.setattr(Autoencoder, "logits", spy)
    monkeypatch.setattr(Autoencoder, "rows_at_once", lambda self: 30)  # positions: seven chunks of four
    assert torch.equal(network.decode(latents), whole)
    assert sizes == [7 * 4 * VOCAB] * 4 + [2 * 4 * VOCAB]


@pytest.mark.parametrize("at_once", [3, 1000])
def test_positions_decoded_one_by_one_are_those_of_the_whole_chunk(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches the expanding matrix cut at a wrong row, its bias left out, and slices put together wrongly."""
    network, latents = autoencoder(), 3 * torch.randn(40, 6, generator=rng())
    with torch.no_grad():
        network.expand.bias.normal_(generator=rng(1))
    whole = network.decode(latents)
    assert all(len(column.unique()) > 2 for column in whole.T), "positions must differ"
    monkeypatch.setattr(Autoencoder, "rows_at_once", lambda self: at_once)
    which = torch.tensor([5, 0, 39, 5, 17, 2, 30])
    for t in range(4):
        assert torch.equal(network.decode_token_at(t, network.states(latents), which), whole[which, t])
        assert network.decode_token_at(t, network.states(latents), which[:0]).shape == (0,)


def test_rows_at_once_fit_into_a_cache_and_are_not_too_few() -> None:
    """Whatever the vocabulary: catches one that makes slices of a row or two, or logits without a bound."""
    config = small_config()
    sizes = {vocab: build_autoencoder(config, vocab).rows_at_once() for vocab in (100, 5000, 200_000)}
    inner = config.autoencoder.mlp_width
    assert inner is not None
    assert sizes == {100: 2**20 // max(100, 2 * inner), 5000: 2**20 // 5000, 200_000: 64}


def test_loss_without_dropouts_is_the_formula() -> None:
    network, chunks = without_dropout(kl_weight=0.3, kl_floor=0.1), tokens(50, 4)
    posterior = network.encode(chunks)
    eps = torch.randn((50, 6), generator=rng(7))
    log_probs = network.logits(posterior.mean + posterior.log_std.exp() * eps).log_softmax(-1)
    cross_entropy = -log_probs.gather(-1, chunks.unsqueeze(-1)).mean()
    kl = 0.5 * (posterior.mean**2 + posterior.std**2 - 1 - 2 * posterior.log_std)
    assert (kl < 0.1).any()
    assert (kl > 0.1).any()
    expected = 4 * cross_entropy + 0.3 * kl.clamp_min(0.1).mean(0).sum()
    torch.testing.assert_close(network.loss(chunks, rng=rng(7)), expected)


def test_the_target_of_dropped_tokens_is_the_clean_chunk() -> None:
    """With nearly every token dropped the loss still asks for the true ones: it depends on them."""
    network = autoencoder(token_dropout=0.999999, latent_dropout=0.0, kl_weight=0.0)
    losses = [network.loss(torch.full((8, 4), token), rng=rng()).item() for token in (3, 4)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(("field", "value"), [("token_dropout", 0.5), ("latent_dropout", 0.5)])
def test_each_dropout_acts_in_the_loss(field: str, value: float) -> None:
    chunks = tokens(50, 4)
    plain = without_dropout().loss(chunks, rng=rng())
    dropped = autoencoder(**{"token_dropout": 0.0, "latent_dropout": 0.0, field: value})
    assert dropped.loss(chunks, rng=rng()) != plain


def test_chunks_do_not_influence_each_other() -> None:
    network, chunks = autoencoder(), tokens(6, 4)
    other = chunks.clone()
    other[1:] = tokens(5, 4, seed=1)
    torch.testing.assert_close(network.encode(chunks).mean[0], network.encode(other).mean[0])
    latents = torch.randn(6, 6, generator=rng())
    torch.testing.assert_close(network.logits(latents)[:1], network.logits(latents[:1]))


def test_leading_axes_are_kept() -> None:
    network = autoencoder()
    assert network.encode(tokens(2, 3, 4)).mean.shape == (2, 3, 6)
    assert network.logits(torch.zeros(2, 3, 6)).shape == (2, 3, 4, VOCAB)


def test_train_and_eval_mode_give_the_same_loss() -> None:
    network, chunks = autoencoder(), tokens(20, 4)
    assert network.train().loss(chunks, rng=rng()) == network.eval().loss(chunks, rng=rng())


def test_the_seed_decides_the_initial_weights() -> None:
    def weights(seed: int) -> Tensor:
        return autoencoder(seed=seed).squeeze.weight

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_mixed_precision_leaves_posterior_and_loss_in_float32() -> None:
    network, chunks = autoencoder(), tokens(50, 4)
    with torch.autocast("cpu", torch.bfloat16):
        posterior, loss = network.encode(chunks), network.loss(chunks, rng=rng())
    assert posterior.mean.dtype == posterior.log_std.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(loss, network.loss(chunks, rng=rng()), rtol=0.02, atol=0)

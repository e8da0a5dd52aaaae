"""Training, evaluating and caching the autoencoder."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.suites.small import small_config
from workbench import train_autoencoder as subject
from workbench.config import RunConfig
from workbench.data import Corpus
from workbench.flops import autoencoder_train_flops
from workbench.train import NotFiniteError


def config_with(*, base: RunConfig | None = None, **autoencoder: Any) -> RunConfig:
    base = base or small_config()
    return base.model_copy(update={"autoencoder": base.autoencoder.model_copy(update=autoencoder)})


def test_a_short_training_learns_to_reconstruct(tiny_corpus: Corpus) -> None:
    config = config_with(steps=80, lr=5e-3, warmup_steps=5, latent_dim=16, width=32, mlp_width=64)
    untrained = subject.build_autoencoder(config, tiny_corpus.vocab_size)
    before = subject.evaluate_autoencoder(untrained, tiny_corpus, config)
    network, seconds = subject.train_autoencoder(config, tiny_corpus)
    after = subject.evaluate_autoencoder(network, tiny_corpus, config, key="k", train_seconds=seconds)
    assert before.token_accuracy < 0.1
    assert after.token_accuracy > 0.5
    assert after.hash == "k"
    assert after.train_seconds == seconds > 0
    assert after.train_flops == autoencoder_train_flops(config, tiny_corpus.vocab_size)


def test_evaluation_reports_what_can_be_computed_directly(tiny_corpus: Corpus) -> None:
    config = config_with(eval_chunks=700)
    network = subject.build_autoencoder(config, tiny_corpus.vocab_size)
    report = subject.evaluate_autoencoder(network, tiny_corpus, config)
    held_out = tiny_corpus.tokens["validation"]
    starts = np.linspace(0, len(held_out) - 4, 700).astype(np.int64)
    chunks = torch.from_numpy(np.stack([held_out[s : s + 4] for s in starts]).astype(np.int64))
    posterior = network.encode(chunks)
    assert report.num_chunks == 700
    assert report.token_accuracy * 2800 == (network.decode(posterior.mean) == chunks).sum().item()
    assert report.kl_per_dim == pytest.approx(posterior.kl_per_dim().mean(0).tolist(), rel=1e-4)
    assert report.std_per_dim == pytest.approx(posterior.std.square().mean(0).sqrt().tolist(), rel=1e-4)
    assert [point.noise for point in report.noise_accuracy] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert report.noise_accuracy[0].accuracy == report.token_accuracy


def test_noise_lowers_accuracy_and_posterior_sampling_is_its_own_noise(tiny_corpus: Corpus) -> None:
    config = config_with(steps=100, lr=5e-3, warmup_steps=10, latent_dim=4, width=32, mlp_width=64)
    network, _ = subject.train_autoencoder(config, tiny_corpus)
    with torch.no_grad():
        network.to_latent.bias[4:] = -20.0  # posterior without spread
        network.to_latent.weight[4:] = 0.0
    report = subject.evaluate_autoencoder(network, tiny_corpus, config)
    assert report.noise_accuracy[5].accuracy < report.token_accuracy - 0.005
    assert report.posterior_accuracy == pytest.approx(report.token_accuracy, abs=1e-3)
    assert max(report.std_per_dim) < 1e-6


def test_evaluation_is_held_out_whatever_split_the_language_model_is_scored_on(tiny_corpus: Corpus) -> None:
    config = small_config()
    on_test = config.model_copy(update={"eval": config.eval.model_copy(update={"split": "test"})})
    network = subject.build_autoencoder(config, tiny_corpus.vocab_size)
    reports = [subject.evaluate_autoencoder(network, tiny_corpus, c) for c in (config, on_test)]
    assert reports[0] == reports[1]
    assert subject.autoencoder_hash(config, tiny_corpus) == subject.autoencoder_hash(on_test, tiny_corpus)


def test_training_is_deterministic_and_follows_the_seed(tiny_corpus: Corpus) -> None:
    first, second, other = (
        subject.train_autoencoder(config_with(steps=5, seed=seed), tiny_corpus)[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first.squeeze.weight, second.squeeze.weight)
    assert not torch.equal(first.squeeze.weight, other.squeeze.weight)


def test_the_language_models_optimizer_changes_neither_weights_nor_hash(tiny_corpus: Corpus) -> None:
    config = config_with(steps=5)
    other = config.model_copy(update={"optim": config.optim.model_copy(update={"betas": (0.5, 0.5)})})
    first, second = (subject.train_autoencoder(c, tiny_corpus)[0] for c in (config, other))
    assert torch.equal(first.squeeze.weight, second.squeeze.weight)
    assert subject.autoencoder_hash(config, tiny_corpus) == subject.autoencoder_hash(other, tiny_corpus)


@pytest.mark.parametrize("change", [{"latent_dim": 5}, {"kl_floor": 0.2}, {"seed": 3}, {"steps": 31}])
def test_the_hash_follows_the_autoencoders_section(tiny_corpus: Corpus, change: dict[str, Any]) -> None:
    plain = subject.autoencoder_hash(small_config(), tiny_corpus)
    assert subject.autoencoder_hash(config_with(**change), tiny_corpus) != plain


def test_the_hash_follows_chunk_size_and_data(tiny_corpus: Corpus) -> None:
    plain = subject.autoencoder_hash(small_config(), tiny_corpus)
    assert subject.autoencoder_hash(small_config(chunk_size=2), tiny_corpus) != plain
    assert subject.autoencoder_hash(small_config(), dataclasses.replace(tiny_corpus, hash="other")) != plain


def test_the_hash_does_not_follow_the_language_model(tiny_corpus: Corpus) -> None:
    wider = small_config(backbone={"width": 64}, head={"alpha": 0.5})
    plain = subject.autoencoder_hash(small_config(), tiny_corpus)
    assert subject.autoencoder_hash(wider, tiny_corpus) == plain


def test_a_loss_that_is_not_finite_stops_training(tiny_corpus: Corpus) -> None:
    with pytest.raises(NotFiniteError, match="autoencoder's loss is nan at step 50"):
        subject.train_autoencoder(config_with(steps=60, lr=1e30, warmup_steps=0), tiny_corpus)


def test_a_cached_autoencoder_is_returned_frozen_and_equal(
    tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_with(steps=5)
    first, first_report = subject.trained_autoencoder(config, tiny_corpus, tmp_path)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(subject, "train_autoencoder", refuse)
    second, second_report = subject.trained_autoencoder(config, tiny_corpus, tmp_path)
    assert second_report == first_report
    assert all(not p.requires_grad for p in second.parameters())
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_a_failed_training_leaves_nothing_in_the_cache(tiny_corpus: Corpus, tmp_path: Path) -> None:
    config = config_with(steps=60, lr=1e30, warmup_steps=0)
    with pytest.raises(NotFiniteError):
        subject.trained_autoencoder(config, tiny_corpus, tmp_path)
    assert [p.name for p in (tmp_path / "autoencoders").iterdir() if not p.name.endswith(".lock")] == []


def _ask(config: RunConfig, corpus: Corpus, cache: Path, log: Path) -> None:
    """In a process of its own: ask for the autoencoder, and leave a line for every training."""
    real = subject.train_autoencoder

    def logged(*args: Any, **kwargs: Any) -> Any:
        with log.open("a") as file:
            file.write("trained\n")
        time.sleep(0.5)  # so that the other process surely asks meanwhile
        return real(*args, **kwargs)

    subject.train_autoencoder = logged
    _, report = subject.trained_autoencoder(config, corpus, cache)
    with log.open("a") as file:
        file.write(f"{report.token_accuracy}\n")


@pytest.mark.slow
def test_two_processes_that_ask_at_once_train_it_once(tiny_corpus: Corpus, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    arguments = (config_with(steps=5), tiny_corpus, tmp_path / "cache", tmp_path / "log")
    workers = [context.Process(target=_ask, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines.count("trained") == 1
    assert len(lines) == 3
    assert lines[1] == lines[2]


@pytest.mark.slow
def test_without_a_kl_floor_dimensions_collapse_and_are_found_and_with_it_none(tiny_corpus: Corpus) -> None:
    settings = {"steps": 400, "lr": 5e-3, "warmup_steps": 20, "latent_dim": 32, "width": 32, "mlp_width": 64}
    reports = []
    for kl_weight, kl_floor in ((0.3, 0.0), (0.001, 0.5)):
        config = config_with(**settings, kl_weight=kl_weight, kl_floor=kl_floor)
        network, _ = subject.train_autoencoder(config, tiny_corpus)
        reports.append(subject.evaluate_autoencoder(network, tiny_corpus, config))
    without, clipped = reports
    assert without.num_collapsed >= 5
    assert without.num_collapsed == sum(kl < subject.COLLAPSED_KL for kl in without.kl_per_dim)
    for kl, std in zip(without.kl_per_dim, without.std_per_dim, strict=True):
        if kl < 0.01:
            assert std == pytest.approx(1.0, abs=0.15), "a collapsed dimension is the prior"
    assert clipped.num_collapsed == 0
    assert min(clipped.kl_per_dim) > 0.4

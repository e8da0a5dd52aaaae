"""Training, evaluating and caching the autoencoder."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.suites.small import small_config
from workbench import batches, checkpoint, files
from workbench import train_autoencoder as subject
from workbench.config import RunConfig
from workbench.data import Corpus, training_blocks
from workbench.errors import NotFiniteError, UnreadableError
from workbench.flops import autoencoder_train_flops


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


@pytest.mark.slow
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


def weights(network: torch.nn.Module) -> list[bytes]:
    return [value.numpy().tobytes() for value in network.state_dict().values()]


def interrupted(config: RunConfig, corpus: Corpus, cache: Path) -> Path:
    """What a training has left in the cache that Ctrl-C ended at step 5."""
    with pytest.MonkeyPatch.context() as patch:
        steps = iter(range(6))

        def blocks(*arguments: Any) -> Any:
            if next(steps) == 5:
                raise KeyboardInterrupt
            return training_blocks(*arguments)

        patch.setattr(batches, "training_blocks", blocks)
        with pytest.raises(KeyboardInterrupt):
            subject.trained_autoencoder(config, corpus, cache)
    partial = cache / "autoencoders" / f".{subject.autoencoder_hash(config, corpus)}.partial"
    assert files.read_json(partial / "state.json")["step"] == 5
    return partial


def test_an_interrupted_training_goes_on_and_ends_the_same(
    tiny_corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_with(steps=9, eval_chunks=100)
    whole, report = subject.trained_autoencoder(config, tiny_corpus, tmp_path / "whole")
    partial = interrupted(config, tiny_corpus, tmp_path / "parts")
    with caplog.at_level(logging.INFO):
        resumed, same = subject.trained_autoencoder(config, tiny_corpus, tmp_path / "parts")
    assert "the autoencoder's training goes on at step 5" in caplog.text
    assert weights(resumed) == weights(whole)
    assert same.model_copy(update={"train_seconds": report.train_seconds}) == report
    assert not partial.exists(), "not needed any more"
    hidden = [p.name for p in (tmp_path / "parts" / "autoencoders").glob(".*")]
    assert [name for name in hidden if not name.endswith((".lock", ".verified"))] == []


@pytest.mark.parametrize("kind", ["killed", "killed while it saves"])
def test_a_killed_training_goes_on_from_its_last_checkpoint(
    tiny_corpus: Corpus, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_with(steps=12)
    config = config.model_copy(
        update={"train": config.train.model_copy(update={"checkpoint_every_seconds": 1e-9})}
    )
    whole, _ = subject.train_autoencoder(config, tiny_corpus)
    real, saves = checkpoint.save, 0

    def save(folder: Path, *rest: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == 7:
            if kind == "killed while it saves":
                os.rename(folder, folder.with_name(f"{folder.name}.previous"))
            raise SystemExit("killed")
        real(folder, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        with pytest.raises(SystemExit):
            subject.train_autoencoder(config, tiny_corpus, partial=tmp_path / "p")
    taken = []
    with monkeypatch.context() as patch:
        patch.setattr(batches, "training_blocks", lambda *a: taken.append(a) or training_blocks(*a))
        resumed, _ = subject.train_autoencoder(config, tiny_corpus, partial=tmp_path / "p")
    assert len(taken) == 6, "steps 6 to 11"
    assert weights(resumed) == weights(whole)


@pytest.mark.parametrize("damage", ["cut", "another's", "of the future"])
def test_a_part_that_does_not_fit_is_left_aside(
    tiny_corpus: Corpus, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_with(steps=9, eval_chunks=100)
    partial = interrupted(config, tiny_corpus, tmp_path)
    if damage == "cut":
        os.truncate(partial / "model.safetensors", 100)
    elif damage == "another's":
        other = interrupted(config_with(steps=9, seed=5), tiny_corpus, tmp_path)
        shutil.rmtree(partial)
        other.rename(partial)
    else:
        state = files.read_json(partial / "state.json")
        files.write_json(partial / "state.json", {**state, "format": 9})
    found, _ = subject.trained_autoencoder(config, tiny_corpus, tmp_path)
    assert "the autoencoder is trained from its beginning: " in caplog.text
    assert weights(found) == weights(subject.train_autoencoder(config, tiny_corpus)[0])
    assert not partial.exists()


def test_a_part_that_may_not_be_read_is_not_written_over(
    tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_with(steps=9, eval_chunks=100)
    partial = interrupted(config, tiny_corpus, tmp_path)

    def refused(_: Path) -> Path:
        raise UnreadableError("its owner alone may")

    monkeypatch.setattr(checkpoint, "find", refused)
    with pytest.raises(UnreadableError, match="its owner alone may"):
        subject.trained_autoencoder(config, tiny_corpus, tmp_path)
    assert files.read_json(partial / "state.json")["step"] == 5


@pytest.mark.parametrize("name", ["model.safetensors", "report.json"])
def test_a_damaged_autoencoder_is_trained_anew(
    tiny_corpus: Corpus, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_with(steps=5, eval_chunks=100)
    first, _ = subject.trained_autoencoder(config, tiny_corpus, tmp_path)
    path = tmp_path / "autoencoders" / subject.autoencoder_hash(config, tiny_corpus) / name
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    again, _ = subject.trained_autoencoder(config, tiny_corpus, tmp_path)
    assert weights(again) == weights(first)
    assert f"is not used: {name} was altered" in caplog.text


def test_an_autoencoder_of_another_shape_is_not_used(
    tiny_corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where its manifest was made to fit."""
    config, other = config_with(steps=5, eval_chunks=100), config_with(steps=5, eval_chunks=100, latent_dim=7)
    for each in (config, other):
        subject.trained_autoencoder(each, tiny_corpus, tmp_path)
    folder, source = (
        tmp_path / "autoencoders" / subject.autoencoder_hash(c, tiny_corpus) for c in (config, other)
    )
    for path in source.iterdir():
        shutil.copy(path, folder)
    manifest = files.read_json(folder / "manifest.json")
    files.write_json(folder / "manifest.json", {**manifest, "name": folder.name})
    found, report = subject.trained_autoencoder(config, tiny_corpus, tmp_path)
    assert found.config.latent_dim == report.latent_dim == 6
    assert "to_latent.weight has shape (14, 24), wanted is (12, 24)" in caplog.text


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

"""Compute counts: ``published`` against the paper's figures, ``executed`` against a counter of what runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.suites.small import VOCAB, build_autoencoder, build_baseline, build_calm, rng, small_config, tokens
from workbench import flops
from workbench.backbone import KVCache
from workbench.chunk_samplers import SamplerChoice
from workbench.config import RunConfig
from workbench.energy_score import PowerDistance, energy_loss
from workbench.head_flops import head_counts
from workbench.heads.energy import EnergyHead
from workbench.muon import matrices_of
from workbench.sampling import generate

LLAMA3_VOCAB = 128_256
TOLERANCE = 1e-9


def counted(work: Callable[[], Any]) -> float:
    """FLOPs of all matrix products; the counter knows no formula for the fused CPU attention."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def counted_step(loss: Callable[[], torch.Tensor]) -> float:
    return counted(lambda: loss().sum().backward())


def paper(kind: str, layers: int, width: int, inner: int) -> RunConfig:
    backbone = {"width": width, "num_layers": layers, "num_heads": 16, "mlp_width": inner}
    return RunConfig.model_validate(
        {
            "model": {"kind": kind, "backbone": backbone},
            "autoencoder": {"latent_dim": 128, "width": 512},
        }
    ).resolved()


ROWS = [
    (paper("baseline", 12, 768, 2048), 281e6, 6.6e20, 4.4e8),
    (paper("calm", 16, 1024, 2752), 371e6, 3.7e20, 2.9e8),
]


@pytest.mark.parametrize(("config", "parameters", "training", "inference"), ROWS, ids=["Transformer-S", "CALM-M"])
def test_published_counts_are_the_papers(
    config: RunConfig, parameters: float, training: float, inference: float
) -> None:
    assert flops.parameters(config, LLAMA3_VOCAB)["total"] == pytest.approx(parameters, rel=0.03)
    per_token = flops.train_flops_per_token_published(config, LLAMA3_VOCAB)
    assert 250_000 * 2.0e6 * per_token == pytest.approx(training, rel=0.03)
    assert flops.infer_flops_per_token_published(config, LLAMA3_VOCAB) == pytest.approx(inference, rel=0.03)


def test_published_counts_give_the_papers_savings() -> None:
    small, calm = ROWS[0][0], ROWS[1][0]
    training = [flops.train_flops_per_token_published(c, LLAMA3_VOCAB) for c in (calm, small)]
    inference = [flops.infer_flops_per_token_published(c, LLAMA3_VOCAB) for c in (calm, small)]
    assert 1 - training[0] / training[1] == pytest.approx(0.44, abs=0.02)
    assert 1 - inference[0] / inference[1] == pytest.approx(0.34, abs=0.02)


def test_the_papers_autoencoder_has_75_million_parameters() -> None:
    assert flops.parameters(ROWS[1][0], LLAMA3_VOCAB)["autoencoder"] == pytest.approx(75e6, rel=0.02)


def test_published_counts_follow_the_input_mode() -> None:
    counts = {
        mode: flops.infer_flops_per_token_published(small_config(input_mode=mode), VOCAB)
        for mode in ("tokens", "latent", "both")
    }
    latent_input = 2 * 6 * 32 / 4
    compression = 2 * (4 * 32 * 64 + 64 * 32) / 4
    assert counts["both"] - counts["tokens"] == latent_input
    assert counts["both"] - counts["latent"] == compression


CALMS: dict[str, dict[str, Any]] = {
    "K = 4": {},
    "K = 2": {"chunk_size": 2},
    "K = 1": {"chunk_size": 1},
    "grouped queries": {"backbone": {"num_kv_heads": 2}},
    "latent": {"input_mode": "latent"},
    "both": {"input_mode": "both"},
    "auxiliary": {"auxiliary_weight": 0.5},
    "predicted": {"input_mode": "both", "latent_feedback": "predicted"},
    "flow": {"head": {"kind": "flow", "num_draws": 3}},
    "flow, Euler": {"head": {"kind": "flow", "solver": "euler", "num_calls": 5, "num_draws": 1, "time_dim": 24}},
    "flow, Runge-Kutta": {"head": {"kind": "flow", "solver": "rk4", "num_calls": 9, "num_blocks": 3}},
    "diffusion": {"head": {"kind": "diffusion", "num_calls": 7}, "chunk_size": 2},
    "diffusion, DPM": {"head": {"kind": "diffusion", "num_calls": 3, "solver": "dpm2m", "num_blocks": 1}},
    "other sizes": {"backbone": {"num_layers": 3, "mlp_width": 80}, "head": {"num_blocks": 3, "num_samples": 5}},
}
each_calm = pytest.mark.parametrize("fields", CALMS.values(), ids=CALMS.keys())


@pytest.mark.slow
@each_calm
def test_a_training_step_executes_what_is_counted(fields: dict[str, Any]) -> None:
    config = small_config(**fields)
    model, text = build_calm(config), tokens(config.batch_sequences, config.train.block_len)
    real = counted_step(lambda: model.training_loss(text, rng=rng()))
    assert flops.train_step_flops(config, VOCAB) == pytest.approx(real, rel=TOLERANCE)


@pytest.mark.slow
@each_calm
def test_every_part_of_a_training_step_executes_what_is_counted(fields: dict[str, Any]) -> None:
    config = small_config(**fields)
    model, network = build_calm(config), build_calm(config).network
    chunks = model.chunks(tokens(config.batch_sequences, config.train.block_len))
    with torch.no_grad():
        posterior = model.autoencoder.encode(chunks)
    inputs, target = chunks[:, :-1], posterior[:, 1:].flatten()
    rows = inputs.shape[0] * inputs.shape[1]
    x = torch.randn(*inputs.shape[:2], 32, generator=rng(), requires_grad=True)
    head = network.head
    real = {
        "encoder": counted(lambda: model.autoencoder.encode(chunks)),
        "backbone": counted_step(lambda: network.backbone(x)),
    }
    if isinstance(head, EnergyHead):
        noise = head.noise(head.config.num_samples, x.flatten(0, 1), rng())
        samples = torch.randn(head.config.num_samples, rows, 6, generator=rng(), requires_grad=True)
        eps = torch.randn(head.config.num_targets, 6, generator=rng())
        real["head"] = counted_step(lambda: head.map(noise, x.flatten(0, 1)))
        real["loss"] = counted_step(lambda: energy_loss(samples, target, eps, distance=PowerDistance()))
    else:
        real["head"] = counted_step(lambda: head.loss(x.flatten(0, 1), target, rng=rng()))
    if hasattr(network, "compression"):
        embedded = network.embedding(inputs)
        real["compression"] = counted_step(lambda: network.compression(embedded))
    if hasattr(network, "auxiliary"):
        real["auxiliary"] = counted_step(lambda: network.auxiliary(x))
    if hasattr(network, "latent_input"):
        latents = posterior[:, :-1].mean
        real["latent_input"] = counted_step(lambda: network.latent_input(latents))
    costs = flops.train_step_costs(config, VOCAB)
    assert set(costs) == set(real)
    for part, cost in costs.items():
        assert cost.total == pytest.approx(real[part], rel=TOLERANCE), part


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_a_training_step_of_the_baseline_executes_what_is_counted(num_kv_heads: int) -> None:
    config = small_config(baseline=True, backbone={"num_kv_heads": num_kv_heads})
    model, text = build_baseline(config), tokens(config.batch_sequences, 32)
    network = model.network
    hidden = torch.randn(config.batch_sequences, 31, 32, generator=rng(), requires_grad=True)
    real = {
        "backbone": counted_step(lambda: network.backbone(hidden)),
        "output": counted_step(lambda: network.output(hidden)),
    }
    costs = flops.train_step_costs(config, VOCAB)
    assert set(costs) == set(real)
    for part, cost in costs.items():
        assert cost.total == pytest.approx(real[part], rel=TOLERANCE), part
    whole = counted_step(lambda: model.training_loss(text, rng=rng()))
    assert flops.train_step_flops(config, VOCAB) == pytest.approx(whole, rel=TOLERANCE)


@pytest.mark.parametrize("chunk_size", [1, 2, 4])
def test_an_autoencoders_training_executes_what_is_counted(chunk_size: int) -> None:
    config = small_config(chunk_size=chunk_size)
    network, settings = build_autoencoder(config), config.autoencoder
    text = tokens(settings.batch_chunks, chunk_size)
    real = settings.steps * counted_step(lambda: network.loss(text, rng=rng()))
    assert flops.autoencoder_train_flops(config, VOCAB) == pytest.approx(real, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [*CALMS.values(), {"baseline": True}], ids=[*CALMS.keys(), "baseline"])
def test_a_generated_token_executes_what_is_counted(fields: dict[str, Any]) -> None:
    """One more chunk with the cache at the context that the count supposes."""
    config = small_config(**fields)
    model = build_calm(config) if config.is_calm else build_baseline(config)
    k, context = config.chunk_size, config.eval.context_len
    prompt = tokens(context - k).numpy().astype(np.int64)

    def work(num_chunks: int) -> float:
        plain, num = SamplerChoice("plain"), num_chunks * k
        return counted(
            lambda: generate(model, [prompt], num_tokens=num, rng=rng(), sampler=plain, stop_at_end=False)
        )

    real = (work(2) - work(1)) / k
    assert flops.infer_flops_per_token(config, VOCAB) == pytest.approx(real, rel=TOLERANCE)


def test_the_count_of_attention_is_linear_in_the_context_of_a_cached_step() -> None:
    config = small_config(baseline=True)
    network = build_baseline(config).network

    def step_after(length: int) -> float:
        cache = KVCache()
        with torch.no_grad():
            network(tokens(1, length - 1), cache)
            return counted(lambda: network(tokens(1, 1), cache))

    assert step_after(40) - step_after(20) == 4 * 2 * 32 * 20  # 4 * layers * D a position


def test_the_description_of_a_run_agrees_with_its_parts() -> None:
    config = small_config()
    described = flops.describe(config, VOCAB)
    assert described["num_steps"] == 105  # 10,000 tokens in steps of 96
    assert described["train_tokens"] == 105 * 96
    assert described["train_flops"] == 105 * flops.train_step_flops(config, VOCAB)
    assert sum(described["train_flops_by_part"].values()) == pytest.approx(described["train_flops"])
    assert described["parameters"] == flops.parameters(config, VOCAB)
    assert described["autoencoder_train_flops"] == flops.autoencoder_train_flops(config, VOCAB)
    assert "autoencoder_train_flops" not in flops.describe(small_config(baseline=True), VOCAB)


def test_the_vocabulary_follows_the_tokenizer() -> None:
    def size(**tokenizer: Any) -> int:
        return flops.vocab_size(RunConfig.model_validate({"data": {"tokenizer": tokenizer}}))

    assert size(kind="byte") == 258
    assert size(kind="bpe", vocab_size=1000) == 1000
    assert size(kind="bpe") == 4096


@pytest.mark.parametrize("kind", ["diffusion", "flow", "energy"])
def test_the_comparison_by_network_calls_executes_what_is_counted(kind: str) -> None:
    config = small_config(head={"kind": kind})
    rules = {"network_calls": (1, 2, 5), "solvers": ("euler", "rk4", "ddim"), "num_windows": 3, "num_samples": 4}
    config = config.model_copy(update={"eval": config.eval.model_copy(update=rules)})
    model = build_calm(config)
    hidden = torch.randn(3 * 6, 32, generator=rng())  # positions 16, 24 ... 56 of windows of 64
    settings = {
        "flow": [("euler", 1), ("euler", 2), ("euler", 5), ("rk4", 4)],  # rk4 with 1 and 2 calls is Euler
        "diffusion": [("ddim", 1), ("ddim", 2), ("ddim", 5)],
        "energy": [],
    }[kind]

    def work() -> None:
        for solver, calls in settings:
            model.with_sampling(solver=solver, num_calls=calls).sample_chunks(hidden, 4, rng=rng())

    with torch.no_grad():
        real = counted(work)
    shared_time = sum(calls for _, calls in settings)  # one embedding of the time a call, not one a position
    head = model.network.head.config
    time = 2 * (head.time_dim * 32 + 32 * 32) * shared_time if kind != "energy" else 0
    assert flops.call_curve_flops(config, VOCAB) == pytest.approx(real + (len(hidden) - 1) * time, rel=TOLERANCE)


HEADS: dict[str, dict[str, Any]] = {name: fields for name, fields in CALMS.items() if "head" in fields}


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, *HEADS.values()], ids=["energy", *HEADS])
def test_samples_of_a_position_share_what_is_counted_once(fields: dict[str, Any]) -> None:
    config = small_config(**fields)
    head = build_calm(config).network.head
    hidden = torch.randn(5, 32, generator=rng())
    counts = head_counts(head.config, 32, 6)
    with torch.no_grad():
        real = counted(lambda: head.sample(hidden, num_samples=3, rng=rng()))
    assert counts.sampling(5, 3) == pytest.approx(real, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, *HEADS.values()], ids=["energy", *HEADS])
def test_a_sampler_that_draws_more_pays_for_head_and_decoder(fields: dict[str, Any]) -> None:
    config = small_config(**fields)
    model = build_calm(config)
    hidden = torch.randn(1, 32, generator=rng())

    def work(num: int) -> float:
        with torch.no_grad():
            return counted(lambda: model.sample_chunks(hidden, num, rng=rng()))

    more = flops.sample_flops_per_token(config, VOCAB, num_samples=9) - flops.infer_flops_per_token(config, VOCAB)
    assert more * config.chunk_size == pytest.approx(work(9) - work(1), rel=TOLERANCE)


@pytest.mark.parametrize("kind", ["energy", "diffusion", "flow"])
def test_parameters_of_a_head_are_those_it_has(kind: str) -> None:
    config = small_config(head={"kind": kind, "num_blocks": 3})
    model = build_calm(config)
    assert flops.parameters(config, VOCAB) == model.parameter_groups()
    matrices = [tuple(weight.shape) for weight, _ in matrices_of(model.network.head)]
    inner = head_counts(model.network.head.config, 32, 6).inner_matrices
    assert sum(a * b for a, b in inner) == sum(a * b for a, b in matrices)


def test_counting_imports_no_torch() -> None:
    code = "import sys, workbench.flops, workbench.schedule; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

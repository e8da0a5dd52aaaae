"""The bytes that are planned for, against those of real models' steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.suites.live_bytes import LiveBytes, use_gpu_kernels
from tests.suites.ranks import together
from tests.suites.small import build_baseline, build_calm, rng, small_config
from tests.suites.small import tokens as small_tokens
from workbench import device_memory, draws
from workbench.blocks import prepare_blocks
from workbench.config import RunConfig
from workbench.config_file import build_config
from workbench.energy_score import SLICE_ELEMENTS
from workbench.layers import generator
from workbench.model import Calm
from workbench.optim import autocast, build_optimizer
from workbench.ranks import Ranks
from workbench.speed import _untrained
from workbench.strategies import DataParallel, FullySharded
from workbench.train_autoencoder import build_autoencoder

VOCAB = 1000
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("baseline", {}),
    ("baseline", {"num_kv_heads": 2, "mlp_width": 512}),
    ("calm", {}),
    ("calm", {"width": 64, "num_layers": 8, "head": 4}),
    ("flow", {}),
    ("flow", {"width": 64, "num_layers": 8, "head": 4, "latent_dim": 128}),
    ("diffusion", {}),
    ("diffusion", {"width": 64, "num_layers": 8, "head": 4, "latent_dim": 128}),
]
DRAWS = [("flow", 1), ("flow", 12), ("diffusion", 12)]


def small(
    kind: str,
    dtype: str = "float32",
    *,
    head: int = 1,
    latent_dim: int = 32,
    num_draws: int | None = None,
    **backbone: int,
) -> RunConfig:
    """Two blocks of 256 tokens, of a CALM 128 chunks, in a step. ``kind``: that of a CALM's head, or ``calm`` for
    the energy head; ``head``: its blocks."""
    of_model = "baseline" if kind == "baseline" else "calm"
    sizes = {"width": 128, "num_layers": 3, "num_heads": 4, **backbone}
    model: dict[str, Any] = {"kind": of_model, "backbone": sizes}
    if of_model == "calm":
        model["head"] = {"kind": "energy" if kind == "calm" else kind, "num_blocks": head}
        model["head"] |= {} if num_draws is None else {"num_draws": num_draws}
    return build_config(
        {
            "model": model,
            "autoencoder": {"latent_dim": latent_dim},
            "runtime": {"dtype": dtype},
            "train": {
                "train_tokens": 100_000,
                "block_len": 256 if kind == "baseline" else 512,
                "cache_targets": False,
            },
            "optim": {"batch_positions": 512 if kind == "baseline" else 256},
        }
    ).resolved()


def peak_of_step(config: RunConfig, *, checkpointing: bool) -> int:
    """Live bytes, forward and backward, blocks that are computed again included."""
    model = _untrained(config, VOCAB)
    prepare_blocks(model.network, compiled=False, recomputed=checkpointing)
    frozen = list(model.autoencoder.parameters()) if isinstance(model, Calm) else []
    random = generator(0, "tokens")
    tokens = torch.randint(2, VOCAB, (2, config.train.block_len), generator=random)
    with LiveBytes([*model.network.parameters(), *frozen]) as live:
        with autocast("cpu", config.runtime.dtype):
            loss = model.training_loss(tokens, rng=random).mean()
        loss.backward()
    return live.peak


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "model"), MODELS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_within_a_tenth(
    monkeypatch: pytest.MonkeyPatch, kind: str, model: dict[str, int], dtype: str, checkpointing: bool
) -> None:
    use_gpu_kernels(monkeypatch)
    config = small(kind, dtype, **model)
    each = device_memory.activation_bytes(config, VOCAB, checkpointing=checkpointing)
    assert each is not None
    planned = 2 * each + device_memory.weight_copies(config, VOCAB, checkpointing=checkpointing)
    planned += device_memory.beside_bytes(config, 2, checkpointing=checkpointing)
    assert planned == pytest.approx(peak_of_step(config, checkpointing=checkpointing), rel=0.10)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "num_draws"), DRAWS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_draw_of_a_denoising_head_is_counted(
    monkeypatch: pytest.MonkeyPatch, kind: str, num_draws: int, checkpointing: bool
) -> None:
    test_activations_within_a_tenth(monkeypatch, kind, {"num_draws": num_draws}, "bfloat16", checkpointing)


def test_recomputation_does_not_keep_the_heads_blocks() -> None:
    """Width 128, 8 layers, 4 blocks of the head: once 26.5 MB a sequence were planned, and 6.5 are kept."""
    config = build_config(
        {
            "model": {"backbone": {"width": 128, "num_layers": 8}, "head": {"num_blocks": 4}},
            "runtime": {"dtype": "float32"},
            "train": {"train_tokens": 100_000, "block_len": 512},
        }
    ).resolved()
    planned = device_memory.activation_bytes(config, VOCAB, checkpointing=True)
    assert planned is not None
    assert planned < 12e6


@pytest.mark.parametrize("kind", ["baseline", "calm"])
def test_state_is_that_of_a_model_and_its_optimizer(kind: str) -> None:
    config = small(kind)
    model = _untrained(config, VOCAB)
    optimizer = build_optimizer(model.network, config.optim, dtype="float32")
    tokens = torch.randint(2, VOCAB, (2, config.train.block_len), generator=generator(0, "tokens"))
    model.training_loss(tokens, rng=generator(0, "x")).mean().backward()
    optimizer.step()
    parameters = list(model.network.parameters())
    sizes = [x.numel() * 4 for x in (*parameters, *(p.grad for p in parameters if p.grad is not None))]
    sizes += [x.nbytes for name, x in optimizer.tensors().items() if x.ndim]
    sizes += [x.nbytes for x in model.autoencoder.parameters()] if isinstance(model, Calm) else []
    assert sum(sizes) == pytest.approx(device_memory.state_bytes(config, VOCAB), rel=1e-3)


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_the_noise_of_the_whole_batch_is_counted_for_denoising_heads(kind: str) -> None:
    """Once: what the latent vectors are drawn by is gone when the noise is drawn."""
    config = build_config(
        {"model": {"head": {"kind": kind}}, "optim": {"batch_positions": 1024}, "train": {"train_tokens": 10**6}}
    ).resolved()
    head, sequences = config.model.head, config.batch_sequences  # type: ignore[union-attr]
    positions = config.train.block_len // config.chunk_size - 1
    shape = (head.num_draws, positions, config.autoencoder.latent_dim)
    part = draws.PartGenerator.of(rng(0), 0, 1, sequences)
    with LiveBytes([]) as live:
        own = [draws.normal(shape, axis=1, rng=part) for _ in range(2)]
    others = device_memory.beside_bytes(config, 1)
    assert others == live.peak - sum(one.nbytes for one in own)
    assert device_memory.beside_bytes(config, sequences) == 0


def test_the_noise_of_the_whole_batch_is_counted() -> None:
    config = build_config({"optim": {"batch_positions": 1024}, "train": {"train_tokens": 10**6}}).resolved()
    head, sequences = config.model.head, config.batch_sequences  # type: ignore[union-attr]
    positions = config.train.block_len // config.chunk_size - 1
    part = draws.PartGenerator.of(rng(0), 0, 1, sequences)
    with LiveBytes([]) as live:
        own = draws.uniform((head.num_samples, positions, head.noise_dim), axis=1, rng=part)
    others = device_memory.beside_bytes(config, 1, checkpointing=True)
    assert others == live.peak - own.nbytes
    assert device_memory.beside_bytes(config, sequences, checkpointing=True) == 0


def test_slices_of_the_loss_are_those_of_a_gpu() -> None:
    assert SLICE_ELEMENTS["cuda"] == device_memory.LOSS_SLICE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("autoencoder", [{}, {"width": 64, "encoder_layers": 4, "decoder_layers": 4}])
def test_autoencoders_within_a_tenth(
    monkeypatch: pytest.MonkeyPatch, dtype: str, autoencoder: dict[str, int]
) -> None:
    use_gpu_kernels(monkeypatch)
    config = build_config({"autoencoder": autoencoder, "runtime": {"autoencoder_dtype": dtype}}).resolved()
    network = build_autoencoder(config, VOCAB)
    chunks = torch.randint(1, VOCAB, (256, config.chunk_size), generator=rng(0))
    with LiveBytes(network.parameters()) as live:
        with autocast("cpu", dtype):
            loss = network.loss(chunks, rng=rng(1))
        loss.backward()
    state = 4 * sum(p.nbytes for p in network.parameters())
    planned = device_memory.autoencoder_state_bytes(config, VOCAB)
    planned += 256 * device_memory.autoencoder_chunk_bytes(config, VOCAB)
    assert planned == pytest.approx(state + live.peak, rel=0.10)
    assert planned - state == pytest.approx(live.peak, rel=0.10)


def units(ranks: Ranks, config: RunConfig) -> tuple[int, list[int]]:
    """Elements of FSDP's outermost unit, and of the others."""
    strategy = FullySharded((build_calm if config.is_calm else build_baseline)(config), config, ranks)
    strategy.begin(0)
    found: dict[bool, list[int]] = {True: [], False: []}
    for module in strategy.module.modules():
        if hasattr(module, "_get_fsdp_state"):
            group = module._get_fsdp_state()._fsdp_param_group
            found[module is strategy.module].append(sum(p._orig_size.numel() for p in group.fsdp_params))
    (root,) = found[True]
    return root, sorted(found[False])


def gradient_bytes(ranks: Ranks, config: RunConfig) -> tuple[int, int]:
    """Of gradients that DDP has not put into its buckets: between micro-batches, and after the last."""
    strategy = DataParallel((build_calm if config.is_calm else build_baseline)(config), config, ranks)
    strategy.begin(0)
    found = []
    for last in (False, True):
        with strategy._synchronised(last=last):
            strategy.module(small_tokens(2, 32), rng(1), 1.0).backward()
        found.append(_of_their_own(strategy.model.network))
    return found[0], found[1]


def _of_their_own(network: nn.Module) -> int:
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return sum(g.nbytes for g in gradients if g.untyped_storage().nbytes() == g.nbytes)


def look(ranks: Ranks, configs: list[RunConfig]) -> list[Any]:
    return [(units(ranks, config), gradient_bytes(ranks, config)) for config in configs]


@pytest.mark.slow
def test_units_and_buckets_are_those_of_the_strategies() -> None:
    configs = [small_config(), small_config(baseline=True), small_config(input_mode="both", auxiliary_weight=0.1)]
    configs += [small_config(head={"kind": kind}) for kind in ("flow", "diffusion")]
    for config, (found, gradients) in zip(configs, together(look, configs, world=2)[0], strict=True):
        root, others = found
        assert root == device_memory.outside(config, 23)
        assert others == sorted(size for size, num in device_memory.blocks(config) for _ in range(num))
        assert gradients == (device_memory.bucket_bytes(config, 23), 0)

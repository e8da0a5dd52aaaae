"""How well the compute account agrees with what runs: the largest deviation by part.

    python tests/bench/flops_agreement.py

Every head (energy with both distances, diffusion, flow), K = 1, 2, 4, 8, every input mode and the token baseline
at small sizes; then the presets that are trained here, at their real sizes. Prints a table for RESULTS.md."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from tests.suites.counted import counted_step, generated, inference_parts, training_parts
from tests.suites.small import VOCAB, build_autoencoder, build_baseline, build_calm, rng, small_config, tokens
from workbench import flops
from workbench.chunk_samplers import SamplerChoice
from workbench.compute_account import account, executed_step
from workbench.config import RunConfig
from workbench.config_file import load_config
from workbench.posterior import Posterior

HEADS = [
    {"kind": "energy"},
    {"kind": "energy", "distance": "quadric"},
    {"kind": "diffusion", "num_calls": 3, "num_draws": 2},
    {"kind": "flow", "num_calls": 4, "num_draws": 2},
]


def deviations(config: RunConfig, vocab: int) -> tuple[dict[str, float], int]:
    """Relative, by part; and parameters by which the count is wrong."""
    model = (build_calm if config.is_calm else build_baseline)(config, vocab_size=vocab)
    step = {k: v for k, v in executed_step(config, vocab).items() if v and k != "optimizer"}
    if config.is_calm and config.train.cache_targets:  # targets are looked up
        latent_dim = config.autoencoder.latent_dim
        model.targets = lambda chunks: Posterior(*torch.zeros(2, *chunks.shape[:-1], latent_dim))
    text = tokens(config.batch_sequences, config.train.block_len, vocab_size=vocab)
    cost = account(config, vocab=vocab).inference
    drawn = {name: getattr(cost, name) for name in ("per_round", "head_per_draw", "decoder_per_draw")}
    found = {f"training: {k}": v for k, v in step.items()} | {"training: whole step": sum(step.values())}
    found |= {f"inference: {k}": v for k, v in {**cost.parts, **drawn}.items() if v}
    found["inference: whole chunk"] = cost.flops_per_token()
    real = {f"training: {k}": v for k, v in training_parts(model, config, vocab).items() if v}
    real["training: whole step"] = counted_step(lambda: model.training_loss(text, rng=rng()))
    real |= {f"inference: {k}": v for k, v in inference_parts(model, config, vocab).items() if v}
    real["inference: whole chunk"] = generated(
        model, SamplerChoice("plain"), context=config.eval.context_len, vocab=vocab
    )
    groups, counts = model.parameter_groups(), flops.parameters(config, vocab)
    if config.is_calm:
        found["training: autoencoder"] = flops.autoencoder_train_flops(config, vocab) / config.autoencoder.steps
        chunks = tokens(config.autoencoder.batch_chunks, config.chunk_size, vocab_size=vocab)
        network = build_autoencoder(config, vocab)
        real["training: autoencoder"] = counted_step(lambda: network.loss(chunks, rng=rng()))
    assert found.keys() == real.keys(), found.keys() ^ real.keys()
    wrong = sum(abs(groups.get(k, 0) - counts.get(k, 0)) for k in groups | counts)
    return {name: abs(found[name] / real[name] - 1) for name in found}, wrong


def main() -> None:
    cases = [
        (small_config(head=dict(head), chunk_size=k, input_mode=mode, auxiliary_weight=0.5), VOCAB)
        for head in HEADS
        for k in (1, 2, 4, 8)
        for mode in ("tokens", "latent", "both")
    ]
    cases += [(small_config(baseline=True), VOCAB)]
    for preset in ("tuned-calm", "tuned-baseline"):
        config = load_config(preset).resolved()
        cases.append((config, flops.vocab_size(config)))
    worst: dict[str, float] = defaultdict(float)
    number: dict[str, int] = defaultdict(int)
    wrong = 0
    for config, vocab in cases:
        found, parameters = deviations(config, vocab)
        wrong += parameters
        for name, value in found.items():
            worst[name] = max(worst[name], value)
            number[name] += 1
    print("| part | configurations | largest deviation |\n|---|---|---|")
    for name in sorted(worst):
        print(f"| {name} | {number[name]} | {worst[name]:.1e} |")
    print(f"| parameters, every group | {len(cases)} | {wrong} |")


if __name__ == "__main__":
    main()

"""Counting compute from the configuration, in pure Python (METHOD section 7).

Two counts. ``published``: the paper's convention, for comparison with its figures. ``executed``: what our
code really does, with work shared between samples counted once and the frozen encoder and the loss
included; budgets and frontiers use it. One multiply-add is 2 FLOPs.

In ``executed``: every matrix product of forward and backward pass, attention over the full square of
positions (a fused causal kernel, or one by blocks, does half of that part), the optimizer's matrix products.
Targets that are looked up (train.cache_targets) cost nothing in a step; making their table is recorded apart,
beside the autoencoder's own training. Out: element-wise work, norms, softmax, embedding look-ups, the optimizer's
element-wise part, evaluation, data.

Letters: K chunk size, P positions of a block, D width, L latent dimension, V vocabulary, N, M samples.
"""

from __future__ import annotations

from typing import Any

from workbench.config import (
    AutoencoderConfig,
    BackboneConfig,
    BaselineConfig,
    CalmConfig,
    RunConfig,
)
from workbench.head_flops import Cost, HeadCounts, head_counts, linear
from workbench.head_sections import sampling_variants

ORTHOGONAL_STEPS = 5
"""Of Muon's iteration (``workbench.muon``)."""

PAPER_CONTEXT = 2048
"""Positions of context in the published inference counts."""


def vocab_size(config: RunConfig) -> int:
    """Vocabulary that the tokenizer will have (an upper bound for BPE on a small corpus)."""
    return config.data.tokenizer.num_ids


# Parameters


def _swiglu(width: int, inner: int) -> int:
    return 3 * width * inner


def _mlp_width(config: BackboneConfig | AutoencoderConfig) -> int:
    assert config.mlp_width is not None, "resolve the configuration first"
    return config.mlp_width


def layer_matrices(config: BackboneConfig) -> int:
    """Weights of one Transformer layer without its norms."""
    head = config.width // config.num_heads
    kv = (config.num_kv_heads or config.num_heads) * head
    return config.width * (2 * config.width + 2 * kv) + _swiglu(config.width, _mlp_width(config))


def _compression_matrices(width: int, chunk_size: int) -> int:
    return 2 * chunk_size * width * width + 2 * width * width


def input_matrices(model: CalmConfig, latent_dim: int) -> int:
    """Weights of the maps from a chunk to the backbone's input, by input mode."""
    width = model.backbone.width
    tokens = _compression_matrices(width, model.chunk_size) if model.input_mode != "latent" else 0
    return tokens + (latent_dim * width if model.input_mode != "tokens" else 0)


def calm_head_counts(config: RunConfig) -> HeadCounts:
    """Of a CALM's head."""
    assert isinstance(config.model, CalmConfig)
    return head_counts(config.model.head, config.model.backbone.width, config.autoencoder.latent_dim)


def parameters(config: RunConfig, vocab: int) -> dict[str, int]:
    """Number of parameters by part, as ``LanguageModel.parameter_groups`` counts them."""
    backbone, width = config.model.backbone, config.model.backbone.width
    groups = {"backbone": backbone.num_layers * (layer_matrices(backbone) + 2 * width) + width}
    if isinstance(config.model, BaselineConfig):
        groups |= {"embedding": vocab * width, "output": vocab * width}
        return {**groups, "total": sum(groups.values())}
    model, latent = config.model, config.autoencoder.latent_dim
    head = calm_head_counts(config)
    groups["head"] = head.num_matrix_weights + head.num_vector_weights
    if model.input_mode != "latent":
        groups["embedding"] = vocab * width
        groups["compression"] = _compression_matrices(width, model.chunk_size) + 2 * width + width + 2 * width
    if model.input_mode != "tokens":
        groups["latent_input"] = latent * width + width
    if model.auxiliary_weight:
        groups["auxiliary"] = (width + 1) * model.chunk_size * vocab
    total = sum(groups.values())
    return {**groups, "total": total, "autoencoder": _autoencoder_parameters(config, vocab)}


def _autoencoder_parameters(config: RunConfig, vocab: int) -> int:
    ae, k = config.autoencoder, config.chunk_size
    d, latent = ae.width, ae.latent_dim
    blocks = (ae.encoder_layers + ae.decoder_layers) * (_swiglu(d, _mlp_width(ae)) + d)
    linear = (k * d * d + d) + (d * 2 * latent + 2 * latent) + (latent * d + d) + (d * k * d + k * d)
    return vocab * d + blocks + linear + 2 * d


# Executed


def encoder_cost(config: RunConfig, chunks: float, *, trained: bool) -> Cost:
    """The autoencoder's encoder on so many chunks."""
    ae, k, d = config.autoencoder, config.chunk_size, config.autoencoder.width
    inner = ae.encoder_layers // 2 * _mlp_width(ae)
    per_token = linear(chunks * k, d, 3 * inner, trained=trained)
    return (
        per_token
        + linear(chunks, k * d, d, trained=trained)
        + linear(chunks, d, 3 * inner, trained=trained)
        + linear(chunks, d, 2 * ae.latent_dim, trained=trained)
    )


def decoder_cost(config: RunConfig, chunks: float, vocab: int, *, trained: bool) -> Cost:
    """The autoencoder's decoder with its output projection."""
    ae, k, d = config.autoencoder, config.chunk_size, config.autoencoder.width
    inner = ae.decoder_layers // 2 * _mlp_width(ae)
    return (
        linear(chunks, ae.latent_dim, d, trained=trained)
        + linear(chunks, d, 3 * inner, trained=trained)
        + linear(chunks, d, k * d, trained=trained)
        + linear(chunks * k, d, 3 * inner, trained=trained)
        + linear(chunks * k, d, vocab, trained=trained)
    )


def autoencoder_train_flops(config: RunConfig, vocab: int) -> float:
    """All steps of stage 1."""
    chunks = config.autoencoder.steps * config.autoencoder.batch_chunks
    cost = encoder_cost(config, chunks, trained=True) + decoder_cost(config, chunks, vocab, trained=True)
    return cost.total


def backbone_cost(config: BackboneConfig, sequences: float, positions: int) -> Cost:
    """The Transformer layers on whole sequences, attention over the full square."""
    linear = 2.0 * sequences * positions * config.num_layers * layer_matrices(config)
    attention = 4.0 * sequences * config.num_layers * config.width * positions**2
    return Cost(linear + attention, 2 * (linear + attention))


def inner_matrices(model: CalmConfig | BaselineConfig, latent_dim: int = 1) -> list[tuple[int, int]]:
    """Rows and columns of the maps inside the network, which Muon orthogonalises (``workbench.muon``).
    Of the workbench's own heads they are the same for every ``latent_dim``."""
    backbone, width = model.backbone, model.backbone.width
    inner = _mlp_width(backbone)
    kv = (backbone.num_kv_heads or backbone.num_heads) * (width // backbone.num_heads)
    square, layer = (width, width), [(kv, width)] * 2 + [(inner, width)] * 2 + [(width, inner)]
    matrices = backbone.num_layers * [square, square, *layer]
    if isinstance(model, BaselineConfig):
        return matrices
    if model.input_mode != "latent":
        matrices += [*(model.chunk_size * [(2 * width, width)]), (width, 2 * width)]
    return matrices + head_counts(model.head, width, latent_dim).inner_matrices


def muon_flops(model: CalmConfig | BaselineConfig, latent_dim: int) -> float:
    """Of one update: three matrix products a step of the iteration."""
    flops = 0.0
    for rows, columns in inner_matrices(model, latent_dim):
        short, long = min(rows, columns), max(rows, columns)
        flops += ORTHOGONAL_STEPS * (4.0 * short * short * long + 2.0 * short**3)
    return flops


def train_step_costs(config: RunConfig, vocab: int) -> dict[str, Cost]:
    """Executed FLOPs of one training step, part by part."""
    model, width = config.model, config.model.backbone.width
    sequences = config.batch_sequences
    optimizer = (
        {"optimizer": Cost(0.0, muon_flops(model, config.autoencoder.latent_dim) / config.optim.matrix_every)}
        if config.optim.kind == "muon"
        else {}
    )
    if isinstance(model, BaselineConfig):
        positions = config.train.block_len - 1
        return {
            "backbone": backbone_cost(model.backbone, sequences, positions),
            "output": linear(sequences * positions, width, vocab),
            **optimizer,
        }
    latent = config.autoencoder.latent_dim
    chunks = config.train.block_len // model.chunk_size
    positions = chunks - 1  # the last chunk of a block is only a target
    rows = sequences * positions
    encoded = 0 if config.train.cache_targets else sequences * chunks
    costs = {
        "encoder": encoder_cost(config, encoded, trained=False),
        "backbone": backbone_cost(model.backbone, sequences, positions),
        **calm_head_counts(config).training(rows),
        **optimizer,
    }
    if model.input_mode != "latent":
        costs["compression"] = linear(rows, model.chunk_size * width, 2 * width) + linear(rows, 2 * width, width)
    if model.input_mode != "tokens":
        costs["latent_input"] = linear(rows, latent, width, input_grad=False)
    if model.auxiliary_weight:
        costs["auxiliary"] = linear(rows, width, model.chunk_size * vocab)
    return costs


def train_step_flops(config: RunConfig, vocab: int) -> float:
    return sum(cost.total for cost in train_step_costs(config, vocab).values())


def tokens_per_step(config: RunConfig) -> int:
    return config.batch_sequences * config.train.block_len


def infer_flops_per_token(config: RunConfig, vocab: int) -> float:
    """Executed per generated token with a key/value cache, at a context of eval.context_len tokens; one sample a
    chunk, with the head's network calls."""
    return sample_flops_per_token(config, vocab, num_samples=1)


def sample_flops_per_token(config: RunConfig, vocab: int, *, num_samples: int) -> float:
    """The same for a sampler that draws and decodes so many samples for one chunk, of which one is kept
    (``workbench.temperature``); without effect for the token baseline."""
    model, width, k = config.model, config.model.backbone.width, config.chunk_size
    context = config.eval.context_len // k
    backbone = 2.0 * model.backbone.num_layers * layer_matrices(model.backbone)
    backbone += 4.0 * model.backbone.num_layers * width * context
    if isinstance(model, BaselineConfig):
        return backbone + 2.0 * width * vocab
    latent = config.autoencoder.latent_dim
    chunk = backbone + calm_head_counts(config).sampling(1, num_samples)
    chunk += decoder_cost(config, num_samples, vocab, trained=False).forward
    chunk += 2.0 * input_matrices(model, latent)
    if model.input_mode != "tokens" and model.latent_feedback == "reencoded":
        chunk += encoder_cost(config, 1, trained=False).forward
    return chunk / k


def call_curve_flops(config: RunConfig, vocab: int) -> float:
    """Head and decoder in the comparison by network calls after training (``eval.network_calls``): S samples of
    the chunk after each scored position. Without the continuations that K < 4 needs, so a lower bound there."""
    model, rules = config.model, config.eval
    if not isinstance(model, CalmConfig):
        return 0.0
    width, latent, samples = model.backbone.width, config.autoencoder.latent_dim, rules.num_samples
    decoder = decoder_cost(config, samples, vocab, trained=False).forward
    positions = rules.num_windows * ((rules.context_len - rules.min_context) // rules.grid_stride)
    variants = sampling_variants(model.head, rules.network_calls, rules.solvers)
    return positions * sum(head_counts(head, width, latent).sampling(1, samples) + decoder for head in variants)


# Published


def published_head(config: RunConfig) -> tuple[int, int]:
    """Weights of the embedding of h, and of the rest, which the paper counts for every draw or network call."""
    counts = calm_head_counts(config)
    return counts.shared_weights, counts.num_matrix_weights - counts.shared_weights


def infer_flops_per_token_published(config: RunConfig, vocab: int, *, context: int = PAPER_CONTEXT) -> float:
    """The paper's inference FLOPs per token with ``context`` positions."""
    model, width, k = config.model, config.model.backbone.width, config.chunk_size
    attention = 4.0 * model.backbone.num_layers * width * context
    blocks = model.backbone.num_layers * layer_matrices(model.backbone)
    if isinstance(model, BaselineConfig):
        return 2.0 * (blocks + width * vocab) + attention
    latent = config.autoencoder.latent_dim
    embed_hidden, rest = published_head(config)
    matrices = blocks + input_matrices(model, latent) + embed_hidden + model.head.network_calls * rest
    return (2.0 * matrices + attention + decoder_cost(config, 1, vocab, trained=False).forward) / k


def train_flops_per_token_published(config: RunConfig, vocab: int, *, context: int = PAPER_CONTEXT) -> float:
    """The paper's training FLOPs per token: 3 x the Transformer part, the head counted N times."""
    model, width = config.model, config.model.backbone.width
    if isinstance(model, BaselineConfig):
        return 3 * infer_flops_per_token_published(config, vocab, context=context)
    attention = 4.0 * model.backbone.num_layers * width * context
    blocks = model.backbone.num_layers * layer_matrices(model.backbone)
    latent = config.autoencoder.latent_dim
    embed_hidden, rest = published_head(config)
    matrices = blocks + input_matrices(model, latent) + embed_hidden + calm_head_counts(config).num_draws * rest
    return 3 * (2.0 * matrices + attention) / model.chunk_size


def describe(config: RunConfig, vocab: int | None = None) -> dict[str, Any]:
    """What a run will cost, for a dry run: parameters by group, steps, tokens, FLOPs. ``config`` must be
    resolved."""
    from workbench.schedule import plan

    vocab = vocab_size(config) if vocab is None else vocab
    schedule = plan(config, vocab)
    context = config.train.block_len // config.chunk_size
    described: dict[str, Any] = {
        "kind": config.model.kind,
        "chunk_size": config.chunk_size,
        "vocab_size": vocab,
        "parameters": parameters(config, vocab),
        "num_steps": schedule.num_steps,
        "tokens_per_step": schedule.tokens_per_step,
        "train_tokens": schedule.num_steps * schedule.tokens_per_step,
        "train_flops": schedule.num_steps * schedule.flops_per_step,
        "train_flops_by_part": {
            name: schedule.num_steps * cost.total for name, cost in train_step_costs(config, vocab).items()
        },
        "train_flops_published": schedule.num_steps
        * schedule.tokens_per_step
        * train_flops_per_token_published(config, vocab, context=context),
        "infer_flops_per_token": infer_flops_per_token(config, vocab),
        "infer_flops_per_token_published": infer_flops_per_token_published(config, vocab, context=context),
        "lr": config.optim.lr,
    }
    if config.is_calm:
        described["autoencoder_train_flops"] = autoencoder_train_flops(config, vocab)
        described["call_curve_flops"] = call_curve_flops(config, vocab)
    return described

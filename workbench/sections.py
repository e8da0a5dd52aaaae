"""The sections of a configuration, one a part of the workbench: frozen, validated when built. Imports no torch.

Fields that are ``None`` ("choose for me") are filled by ``RunConfig.resolved()`` (``workbench.config``).
Letters as in METHOD: K chunk size, D width, L latent dimension, N model samples, M target samples,
S samples when evaluating, alpha, beta, lambda_KL, T block length.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from workbench.head_sections import (
    EnergyHeadConfig,
    HeadConfig,
    NotHashed,
    Positive,
    Section,
    Seed,
    Since,
    Size,
    Solver,
    defaults,
    own_fields,
)

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Init = Literal["paper", "fan_in"]

FAN_IN_BELOW_WIDTH = 512
"""Widths below this are initialised by fan-in unless a configuration says otherwise: the published
N(0, 0.02) suits widths of 1,024 and more (at 128-256 the head hardly depends on the hidden state)."""


class AutoencoderConfig(Section):
    """Stage 1 (paper, section 2; METHOD section 1). The chunk size comes from the model."""

    latent_dim: Size = 32
    width: Size = 128
    mlp_width: Size | None = None
    """SwiGLU width; default 2.5 x width, as 1280 for 512 in the paper."""
    encoder_layers: Annotated[Size, Field(multiple_of=2), Since(2, before=2)] = 2
    """Residual blocks: one half sees tokens, the other the chunk."""
    decoder_layers: Annotated[Size, Field(multiple_of=2), Since(2, before=2)] = 2
    norm_eps: Annotated[float, Field(gt=0.0), Since(2, before=1e-6)] = 1e-6
    """Of its RMSNorms."""
    token_dropout: Probability = 0.15
    latent_dropout: Probability = 0.15
    kl_weight: Annotated[float, Field(ge=0.0)] = 0.001
    """beta."""
    kl_floor: Annotated[float, Field(ge=0.0)] = 0.5
    """lambda_KL per latent dimension; 0 switches KL clipping off."""
    init: Init | None = None
    steps: Positive = 1000
    batch_chunks: Positive = 512
    lr: Annotated[float, Field(gt=0.0)] = 2e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Last part of the steps over which the rate falls linearly to 0; 0 is the published constant."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    clip: Annotated[float, Field(gt=0.0)] = 1.0
    seed: Seed = 0
    eval_chunks: Positive = 16384
    """Held-out chunks for its evaluation."""


class BackboneConfig(Section):
    """A Llama-style causal Transformer (METHOD section 2)."""

    width: Size = 128
    num_layers: Size = 2
    num_heads: Size = 4
    num_kv_heads: Size | None = None
    """Grouped-query attention: fewer key/value heads; default as many as num_heads."""
    mlp_width: Size | None = None
    """SwiGLU width; default 8/3 x width, rounded up to a multiple of 32."""
    rope_theta: Annotated[float, Field(gt=0.0)] = 10_000.0
    norm_eps: Annotated[float, Field(gt=0.0), Since(2, before=1e-6)] = 1e-6
    """Of its RMSNorms."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        if (self.width // self.num_heads) % 2:
            raise ValueError(
                f"width / num_heads = {self.width // self.num_heads} must be even for rotary positions"
            )
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        return self


class CalmConfig(Section):
    """A CALM: predicts the latent vector of the next chunk of K tokens."""

    kind: Literal["calm"] = "calm"
    chunk_size: Size = 4
    """K."""
    input_mode: Literal["tokens", "latent", "both"] = "tokens"
    latent_feedback: Literal["reencoded", "predicted"] = "reencoded"
    """In generation, for input modes with latents: re-encode the decoded tokens (posterior mean), or
    feed the predicted vector back as it is."""
    backbone: BackboneConfig = BackboneConfig()
    head: HeadConfig = EnergyHeadConfig()
    auxiliary_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """In training, so many times the cross-entropy (nats a token, times K) of a linear layer that guesses each
    token of the next chunk from the hidden state is added to the loss. 0, as published: no likelihood anywhere."""
    init: Init | None = None

    @model_validator(mode="before")
    @classmethod
    def _own_fields(cls, given: Any) -> Any:
        """``model.head.kind`` alone changes the head: what was said of another head is dropped."""
        if isinstance(given, dict) and "head" in given:
            return {**given, "head": own_fields(given["head"])}
        return given


class BaselineConfig(Section):
    """The token Transformer with the same backbone."""

    kind: Literal["baseline"] = "baseline"
    backbone: BackboneConfig = BackboneConfig()
    init: Init | None = None


ModelConfig = Annotated[CalmConfig | BaselineConfig, Field(discriminator="kind")]


class OptimConfig(Section):
    """Optimizer and its rate: warm-up, constant, optional linear decay to 0.

    The rule across sizes and K, used where ``lr`` or ``batch_positions`` is None: the rate is
    ``base_lr * 128 / D`` (base_lr 1e-3 for CALM, 3e-3 for the token baseline) whatever K is, and a step
    has 256 positions (vectors) for CALM and 2,048 (tokens) for the baseline, so a step of a CALM
    covers 256 * K tokens.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    """``muon``: orthogonalised momentum for the maps inside the network, AdamW for embeddings, output layers,
    biases and norms (``workbench.muon``)."""
    lr: Annotated[float, Field(gt=0.0)] | None = None
    matrix_lr: Annotated[float, Field(gt=0.0)] | None = None
    """Of Muon's matrices; default: as ``lr``."""
    momentum: Probability = 0.95
    """Muon's."""
    matrix_every: Annotated[int, Field(ge=1, le=100)] = 1
    """Muon moves the matrices in every so many steps, that many times as far: the momentum is taken in every step,
    and orthogonalising it is what costs."""
    batch_positions: Positive | None = None
    betas: tuple[Probability, Probability] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    clip: Annotated[float, Field(gt=0.0)] = 1.0
    warmup_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.03
    decay_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Last part of the budget over which the rate falls linearly to 0."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_fraction + self.decay_fraction > 1.0:
            raise ValueError(
                f"warmup_fraction {self.warmup_fraction} + decay_fraction {self.decay_fraction} "
                "is more than the whole run"
            )
        return self

    def without_effect(self) -> dict[str, Any]:
        """Fields that only another optimizer uses, with their defaults."""
        return defaults(type(self), ("matrix_lr", "momentum", "matrix_every") if self.kind == "adamw" else ())


class TrainConfig(Section):
    """Exactly one budget: FLOPs as executed (workbench.flops), or tokens."""

    train_flops: Annotated[float, Field(gt=0.0)] | None = None
    train_tokens: Positive | None = None
    block_len: Positive = 256
    """T: tokens in a training block; blocks start at random token offsets."""
    num_evaluations: Positive = 6
    """At log-spaced points of compute; the last one at the end."""
    first_evaluation: Annotated[float, Field(gt=0.0, le=1.0)] = 0.05
    """Part of the budget at which the first evaluation lies."""
    checkpoint_every_seconds: Annotated[float, Field(gt=0.0)] = 30.0
    cache_targets: bool | None = None
    """Encode the distinct chunks of the training text once for an autoencoder and look the posteriors up, instead
    of encoding in every step (``workbench.targets``). Default: where chunks repeat often and a table of them is
    small, for bytes with K <= 4 and L <= 64, and for K = 1."""
    stop_diverged: Annotated[bool, Since(1, before=False, left_out=True)] = True
    """End a run whose loss or gradients have exploded, or whose autoencoder has collapsed
    (``workbench.divergence``). What is trained until then is the same."""
    init_from: Annotated[str | None, Since(2, before=None)] = None
    """Start from the weights, and keep the autoencoder, of this run (its folder, its name, id or STUDY/ID)
    instead of new ones (``workbench.initial``)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.train_flops is None) == (self.train_tokens is None):
            raise ValueError(
                "give exactly one budget: train.train_flops (e.g. 1e12) or train.train_tokens (e.g. 2000000)"
            )
        return self


Temperature = Annotated[float, Field(gt=0.0, le=1.0)]


class TradeoffConfig(Section):
    """Which samplers are compared by accuracy and collision rate of what they draw (METHOD section 6)."""

    temperatures: tuple[Temperature, ...] = (1.0, 0.75, 0.5, 0.4, 0.3)
    """tau of ``exact`` and ``batch``, and of the token baseline's softmax."""
    batch_sizes: tuple[Positive, ...] = (8, 32, 128)
    """N of ``batch``."""
    noise_scales: tuple[Annotated[float, Field(ge=0.0)], ...] = (1.0, 0.6, 0.4, 0.2, 0.1, 0.05, 0.0)
    """Of ``noise``."""
    exact_budget: Positive = 2000
    """Sampler calls for one chunk; what is not decided by then is drawn by ``batch`` with the largest of the batch
    sizes, and counted."""
    num_windows: Annotated[int, Field(ge=2)] = 24
    """First windows of the grid."""
    num_samples: Annotated[int, Field(ge=2)] = 4
    """S: draws of each sampler at each position."""
    num_tokens: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4,)
    """Lengths at which the token baseline is compared; a CALM by its chunk."""


class EvalConfig(Section):
    """BrierLM's rules of a fair comparison (DESIGN rule 2).

    The fingerprint holds everything that changes what is estimated or by which estimator: text, context,
    grid, S. It does not hold how much of it is drawn (``num_windows``, ``target_se``, ``max_positions``) nor the
    seed: windows are drawn in one fixed order, so the windows of a smaller evaluation are the first ones of a
    larger one, and pairs are compared on those they share."""

    split: Literal["validation", "test"] = "validation"
    context_len: Positive = 256
    """Tokens in an evaluation window; nothing outside it is seen. A window is one cluster of the
    standard error unless there are 30 or more documents."""
    min_context: Positive = 64
    """Positions with less context than this are not scored."""
    grid_stride: Positive = 8
    """Tokens between scored positions; a multiple of every K that is to be compared."""
    num_windows: Annotated[int, Field(ge=2)] = 96
    num_samples: Annotated[int, Field(ge=2)] = 16
    """S."""
    target_se: Annotated[float, Field(gt=0.0)] | None = None
    """Wished standard error of BrierLM. The last evaluation of a run (and ``calm evaluate``) then draws more
    windows, and where the split has no more of them more rounds of samples, until it is reached."""
    max_positions: Positive = 50_000
    """Budget of ``target_se``: scored positions, every round counted."""
    seed: Seed = 0
    """Of the model's samples."""
    network_calls: tuple[Positive, ...] = ()
    """After its last evaluation a CALM is scored with each of these budgets of network calls for a sample too (an
    energy head always takes one)."""
    solvers: tuple[Solver, ...] = ()
    """By which solvers that is done; those that the head does not have are passed over. Default: its own."""
    tradeoff: TradeoffConfig | None = None
    """After its last evaluation a run's samplers are compared: accuracy against collision."""
    sample_tokens: Annotated[int, Field(ge=0)] = 160
    """Of the text that is sampled at each evaluation, to look at; 0: none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_context % self.grid_stride or self.context_len % self.grid_stride:
            raise ValueError(
                f"min_context {self.min_context} and context_len {self.context_len} must be multiples of "
                f"grid_stride {self.grid_stride}"
            )
        longest = max(self.tradeoff.num_tokens) if self.tradeoff is not None else 0
        if longest > self.grid_stride:
            raise ValueError(
                f"tradeoff.num_tokens {longest} is more than grid_stride {self.grid_stride}, the tokens that a "
                "window has after its last position; use at most that"
            )
        if self.grid_stride < 4:
            raise ValueError(f"grid_stride must be at least 4 (n-grams up to n = 4), {self.grid_stride} given")
        if self.min_context + self.grid_stride > self.context_len:
            raise ValueError(
                f"no position has min_context {self.min_context} tokens before it in windows of "
                f"{self.context_len} tokens"
            )
        return self


class RuntimeConfig(Section):
    """Where and how fast; ``auto`` is replaced by what was probed."""

    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the language model's autocast regions; losses stay in float32."""
    autoencoder_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """The same for the autoencoder's training; apart, so that models of all widths share one."""
    threads: Positive | None = None
    """Of a run on one machine; its ranks there share them."""
    strategy: Annotated[Literal["ddp", "fsdp"], NotHashed] = "ddp"
    """Of several ranks (``calm train --ranks``, torchrun): each has the whole network (``ddp``), or a part of
    every weight, gradient and optimizer state (``fsdp``), for networks that do not fit."""
    micro_batch: Annotated[Positive | None, NotHashed] = None
    """Sequences that a rank takes through the network at a time; gradients add up to those of the whole batch.
    Default: all of its part."""
    micro_chunks: Annotated[Positive | None, NotHashed] = None
    """The same for the autoencoder's training: chunks that a rank takes at a time, of its part of
    ``autoencoder.batch_chunks``."""
    checkpoint_activations: Annotated[bool, NotHashed] = False
    """Keep of every block its input alone, and compute the rest again in the backward pass."""
    compile: Annotated[bool, NotHashed] = False
    """``torch.compile`` the blocks for training; without a compiler a warning, and training as it is."""

"""The whole compute account of a run before it trains: parameters, training FLOPs and inference FLOPs per token by
part, under a stated convention (METHOD section 7). In pure Python, from the configuration.

    account(config, Counting(count="published", causal=True, autoencoder="full", context=512))

*The two counts.* ``executed``: what our code does (``workbench.flops`` says what is in). ``published``: the
paper's convention, with the head counted once for every draw, and neither the frozen encoder, the loss, the
optimizer nor an auxiliary layer. Budgets and recorded figures are ``executed`` with the full square of
attention and the autoencoder apart, the defaults here; nothing asked of this module changes them.

*Causal attention.* In training, attention over P positions is counted as the full square, P^2 pairs, which is
what a kernel without a causal mask works through, or (``causal``) as the P (P + 1) / 2 pairs that a position and
what is before it make. The published inference count is that of a window of C positions read as a whole, C
pairs a position; with ``causal`` it is the mean over the window, (C + 1) / 2. Executed inference is a step with
a key/value cache at a context of C: it attends to exactly what is there, so ``causal`` changes nothing.

*What the paper does.* It counts the full square: its four figures (METHOD section 9) come out within 0.6 % with
it, and 5.6 to 8.0 % too low with half of it. Its cost ratios of N = 2 and N = 12 against N = 8 draws (0.82, 1.13)
do not follow from this convention, which gives 0.68 and 1.21 for CALM-M (executed: 0.71 and 1.19): they would
need a head of about a quarter of the training FLOPs, where it is 43 %.

*The autoencoder's share.* Its own training is always reported; it is left out of the total (``apart``), added
(``full``), or added in part (a share, such as 1 / n where n runs use the same one). Left out of every total: the
table of looked-up targets, evaluation, and reading a prompt.

*Context and length.* Inference is per generated token at a context of so many tokens that were read, or, with a
``length``, its mean over a text of that many tokens that is generated after the context.

Letters: K chunk size, P positions of a block, C of the context, D width, L latent dimension, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from workbench import flops
from workbench.config import CalmConfig, RunConfig, TradeoffConfig
from workbench.errors import ConfigError
from workbench.head_sections import sampling_variants
from workbench.schedule import plan

GROUPS = {
    "language_model": ("layers", "attention", "input", "output"),
    "head": ("head",),
    "loss": ("loss",),
    "target_encoder": ("target_encoder",),
    "auxiliary": ("auxiliary",),
    "optimizer": ("optimizer",),
}
"""Parts of training by group; ``autoencoder`` is a group of its own where it is charged."""


@dataclass(frozen=True)
class Counting:
    """How compute is counted; the defaults are what budgets and records use. Raises ConfigError."""

    count: Literal["executed", "published"] = "executed"
    causal: bool = False
    """Half the square of attention, as the module's docstring says."""
    autoencoder: Literal["apart", "full"] | float = "apart"
    """What of its training is added to a run's: nothing, all, or this share (0 to 1)."""
    context: int | None = None
    """Tokens read before what is generated; None: ``eval.context_len`` (published: the training block)."""
    length: int | None = None
    """Tokens generated, over which inference is averaged; None: the next chunk alone."""

    def __post_init__(self) -> None:
        if self.count not in ("executed", "published"):
            raise ConfigError(f"count must be executed or published, {self.count!r} given")
        if self.autoencoder not in ("apart", "full"):
            number = self.autoencoder
            if isinstance(number, (str, bool)) or not 0.0 <= number <= 1.0:
                raise ConfigError(
                    f"autoencoder must be apart, full or a share from 0 to 1 (0.25: four runs use it), "
                    f"{number!r} given"
                )
        for name, value in (("context", self.context), ("length", self.length)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1 token, {value} given")

    @property
    def autoencoder_share(self) -> float:
        """Of the autoencoder's training, charged to a run."""
        words = {"apart": 0.0, "full": 1.0}
        return words[self.autoencoder] if isinstance(self.autoencoder, str) else float(self.autoencoder)

    def words(self) -> str:
        """``published count, causal half of attention, autoencoder in full``."""
        charged = {0.0: "apart", 1.0: "in full"}.get(self.autoencoder_share, f"x {self.autoencoder_share:.3g}")
        half = "causal half" if self.causal else "full square"
        return f"{self.count} count, {half} of attention, autoencoder {charged}"


@dataclass(frozen=True)
class TrainingAccount:
    """FLOPs of a whole run."""

    num_steps: int
    tokens: int
    parts: Mapping[str, float]
    """By part of the step: layers, attention, input, output, head, loss, target_encoder, auxiliary, optimizer."""
    autoencoder: float
    """Its whole training; 0 for a token baseline."""
    autoencoder_share: float

    @property
    def groups(self) -> dict[str, float]:
        """By ``GROUPS``, and ``autoencoder`` as far as it is charged; what does not occur is left out."""
        charged = self.autoencoder_share * self.autoencoder
        return {**_grouped(self.parts), **({"autoencoder": charged} if charged else {})}

    @property
    def total(self) -> float:
        return sum(self.groups.values())

    @property
    def per_token(self) -> float:
        """Of training; the charged autoencoder is spread over the run's tokens."""
        return self.total / self.tokens

    @property
    def shares(self) -> dict[str, float]:
        """Of the total, by group; they add up to 1."""
        return {name: value / self.total for name, value in self.groups.items()}


@dataclass(frozen=True)
class InferenceAccount:
    """FLOPs of one generated token."""

    context: int
    """Tokens read."""
    length: int | None
    """Tokens generated, over which this is the mean."""
    positions: float
    """Attended to, in the mean."""
    parts: Mapping[str, float]
    """What a chunk costs however it is drawn: layers, attention, input, output, reencoding."""
    per_round: float
    """The head's work that all samples drawn in one go share."""
    head_per_draw: float
    decoder_per_draw: float
    batch_sizes: tuple[int, ...]
    by_calls: Mapping[tuple[str, int], float]
    """``plain`` with the solvers and network calls that ``eval.network_calls`` compares."""

    def flops_per_token(self, *, draws: float = 1, rounds: float = 1) -> float:
        """With so many samples drawn and decoded for a chunk, of which one is kept, in so many rounds. ``draws``
        has no meaning for a token baseline, whose whole cost is in ``parts``."""
        return (
            sum(self.parts.values())
            + rounds * self.per_round
            + draws * (self.head_per_draw + self.decoder_per_draw)
        )

    @property
    def is_calm(self) -> bool:
        return self.decoder_per_draw > 0

    @property
    def samplers(self) -> dict[str, float]:
        """Per token, by sampler. ``plain`` and ``noise`` (whose scale costs nothing) draw once; ``batch`` N times.
        The calls of ``exact`` depend on the distribution: what one call adds is ``exact, each call``, beyond the
        first that ``plain`` has; its rounds beyond the first (blocks of samples that it draws ahead) each add
        ``exact, each round``. A token baseline pays the same for ``softmax`` at any temperature."""
        if not self.is_calm:
            return {name: self.flops_per_token() for name in ("plain", "softmax")}
        return {
            **{name: self.flops_per_token() for name in ("plain", "noise")},
            **{f"batch, N = {num}": self.flops_per_token(draws=num) for num in self.batch_sizes},
            "exact, each call": self.head_per_draw + self.decoder_per_draw,
            "exact, each round": self.per_round,
        }


@dataclass(frozen=True)
class Account:
    """Of one run."""

    kind: Literal["calm", "baseline"]
    chunk_size: int
    head: str | None
    counting: Counting
    parameters: Mapping[str, int]
    """By group (``workbench.flops.parameters``)."""
    training: TrainingAccount
    inference: InferenceAccount

    def to_dict(self) -> dict[str, Any]:
        """For JSON: all fields, and what is derived of them."""
        training, inference = self.training, self.inference
        tree = asdict(self)
        tree["training"] |= {name: getattr(training, name) for name in ("groups", "shares", "total", "per_token")}
        tree["inference"]["by_calls"] = [
            {"solver": solver, "network_calls": calls, "flops_per_token": value}
            for (solver, calls), value in inference.by_calls.items()
        ]
        tree["inference"] |= {"flops_per_token": inference.flops_per_token(), "samplers": inference.samplers}
        return tree


def account(config: RunConfig, counting: Counting | None = None, *, vocab: int | None = None) -> Account:
    """What a run will cost. ``config`` must be resolved; ``vocab`` defaults to the tokenizer's. Raises ConfigError
    for a budget that gives no step."""
    counting = counting or Counting()
    vocab = flops.vocab_size(config) if vocab is None else vocab
    return Account(
        kind=config.model.kind,
        chunk_size=config.chunk_size,
        head=config.model.head.kind if isinstance(config.model, CalmConfig) else None,
        counting=counting,
        parameters=flops.parameters(config, vocab),
        training=training_account(config, vocab, counting),
        inference=inference_account(config, vocab, counting),
    )


# Training


def training_account(config: RunConfig, vocab: int, counting: Counting) -> TrainingAccount:
    """Of all steps that the run's budget gives."""
    schedule = plan(config, vocab)
    tokens = schedule.num_steps * schedule.tokens_per_step
    if counting.count == "executed":
        step = executed_step(config, vocab, causal=counting.causal)
        parts = {name: schedule.num_steps * value for name, value in step.items()}
    else:
        parts = {name: tokens * v for name, v in _published_token(config, vocab, causal=counting.causal).items()}
    return TrainingAccount(
        num_steps=schedule.num_steps,
        tokens=tokens,
        parts={name: value for name, value in parts.items() if value},
        autoencoder=flops.autoencoder_train_flops(config, vocab) if config.is_calm else 0.0,
        autoencoder_share=counting.autoencoder_share,
    )


def executed_step(config: RunConfig, vocab: int, *, causal: bool = False) -> dict[str, float]:
    """FLOPs of one training step by part, forward and backward. Without ``causal`` they add up to
    ``flops.train_step_flops``."""
    costs = {name: cost.total for name, cost in flops.train_step_costs(config, vocab).items()}
    positions = config.train.block_len // config.chunk_size - 1
    square = 12.0 * config.batch_sequences * _attention(config) * positions**2
    costs["layers"] = costs.pop("backbone") - square
    costs["attention"] = square * (positions + 1) / (2 * positions) if causal else square
    costs["target_encoder"] = costs.pop("encoder", 0.0)
    costs["input"] = costs.pop("compression", 0.0) + costs.pop("latent_input", 0.0)
    return costs


def step_groups(config: RunConfig, vocab: int) -> dict[str, float]:
    """Executed FLOPs of one training step by group, those that occur; what a run records."""
    return _grouped(executed_step(config, vocab))


def _grouped(parts: Mapping[str, float]) -> dict[str, float]:
    found = {name: sum(parts.get(part, 0.0) for part in of_group) for name, of_group in GROUPS.items()}
    return {name: value for name, value in found.items() if value}


def _attention(config: RunConfig) -> float:
    """Multiply-adds of two products (scores and values) for a pair of positions, halved: layers * D."""
    return float(config.model.backbone.num_layers * config.model.backbone.width)


def _published_token(config: RunConfig, vocab: int, *, causal: bool) -> dict[str, float]:
    """Training FLOPs of a token by part: 3 x inference, the head counted for every draw."""
    model, k = config.model, config.chunk_size
    context = config.train.block_len // k
    attended = (context + 1) / 2 if causal else context
    parts = {
        "layers": 6.0 * model.backbone.num_layers * flops.layer_matrices(model.backbone) / k,
        "attention": 12.0 * _attention(config) * attended / k,
    }
    if not isinstance(model, CalmConfig):
        return {**parts, "output": 6.0 * model.backbone.width * vocab}
    embed_hidden, rest = flops.published_head(config)
    draws = flops.calm_head_counts(config).num_draws
    parts["input"] = 6.0 * flops.input_matrices(model, config.autoencoder.latent_dim) / k
    parts["head"] = 6.0 * (embed_hidden + draws * rest) / k
    return parts


# Inference


def inference_account(config: RunConfig, vocab: int, counting: Counting) -> InferenceAccount:
    """Per token, at a context or over a length."""
    model, k = config.model, config.chunk_size
    published = counting.count == "published"
    context = counting.context or (config.train.block_len if published else config.eval.context_len)
    positions = _positions(context, k, counting, published=published)
    parts = {
        "layers": 2.0 * model.backbone.num_layers * flops.layer_matrices(model.backbone) / k,
        "attention": 4.0 * _attention(config) * positions / k,
    }
    per_round = head = decoder = 0.0
    if isinstance(model, CalmConfig):
        latent = config.autoencoder.latent_dim
        parts["input"] = 2.0 * flops.input_matrices(model, latent) / k
        if not published and model.input_mode != "tokens" and model.latent_feedback == "reencoded":
            parts["reencoding"] = flops.encoder_cost(config, 1, trained=False).forward / k
        per_round, head = (part / k for part in _head(config, published=published))
        decoder = flops.decoder_cost(config, 1, vocab, trained=False).forward / k
    else:
        parts["output"] = 2.0 * model.backbone.width * vocab
    return InferenceAccount(
        context=context,
        length=counting.length,
        positions=positions,
        parts=parts,
        per_round=per_round,
        head_per_draw=head,
        decoder_per_draw=decoder,
        batch_sizes=(config.eval.tradeoff or TradeoffConfig()).batch_sizes if config.is_calm else (),
        by_calls=_by_calls(config, vocab, counting),
    )


def _positions(context: int, chunk_size: int, counting: Counting, *, published: bool) -> float:
    """Attended to by the position that predicts a chunk: of the context, or in the mean over a length, where each
    chunk sees those that were generated before it."""
    read = max(1, context // chunk_size)
    if counting.length is not None:
        return read + (math.ceil(counting.length / chunk_size) - 1) / 2
    return (read + 1) / 2 if published and counting.causal else float(read)


def _head(config: RunConfig, *, published: bool) -> tuple[float, float]:
    """FLOPs for one chunk: what all samples share, and what each one adds."""
    assert isinstance(config.model, CalmConfig)
    if published:
        embed_hidden, rest = flops.published_head(config)
        return 2.0 * embed_hidden, 2.0 * config.model.head.network_calls * rest
    counts = flops.calm_head_counts(config)
    one, two = counts.sampling(1, 1), counts.sampling(1, 2)
    return 2 * one - two, two - one


def _by_calls(config: RunConfig, vocab: int, counting: Counting) -> dict[tuple[str, int], float]:
    model, rules = config.model, config.eval
    if not isinstance(model, CalmConfig) or not rules.network_calls:
        return {}
    alone = config.eval.model_copy(update={"network_calls": (), "solvers": ()})
    found = {}
    for head in sampling_variants(model.head, rules.network_calls, rules.solvers):
        variant = config.model_copy(update={"eval": alone, "model": model.model_copy(update={"head": head})})
        one = inference_account(variant, vocab, counting)
        found[head.solver_used, head.network_calls] = one.flops_per_token()
    return found

"""How fast trained runs write: seconds a token of one text, tokens a second of many, memory, by sampler, beside
the counted FLOPs.

Every measurement continues held-out text by a fixed number of tokens (end tokens do not end it), in float32.
Reading the prompt is timed apart. A first pass warms up and watches the memory; the others are timed, each with
random numbers of its own.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch

from workbench import flops
from workbench.chunk_samplers import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_NOISE_SCALE,
    DEFAULT_TEMPERATURE,
    SamplerChoice,
)
from workbench.clock import now
from workbench.config import CalmConfig, RunConfig
from workbench.errors import ConfigError
from workbench.layers import generator
from workbench.model import Calm
from workbench.progress import Display, NoDisplay
from workbench.sampling import Generated, Generation, prompt_chunks
from workbench.saved_runs import SavedRun

CALM_KINDS = ("plain", "noise", "batch", "exact")
BASELINE_KINDS = ("softmax",)
"""Measured unless others are asked for; at temperature 1 ``plain`` is a baseline's ``softmax``."""
DEFAULT_TOKENS = 64
WATCH_EVERY = 0.002
"""Seconds between looks at the process's memory."""


@dataclass(frozen=True)
class BenchSettings:
    """What is measured of every run. Raises ConfigError for numbers out of range."""

    samplers: tuple[str, ...] = ()
    """Those that a run cannot use are left out for it; empty: all that it can, without what is the same."""
    temperature: float = DEFAULT_TEMPERATURE
    """Of ``batch``, ``exact`` and ``softmax``."""
    batch_sizes: tuple[int, ...] = (DEFAULT_BATCH_SIZE,)
    """One measurement of ``batch`` each."""
    noise_scale: float = DEFAULT_NOISE_SCALE
    budget: int = 2000
    """Samples of ``exact`` for a chunk; where they do not decide it, ``batch`` does, and the share of such chunks
    is reported."""
    num_texts: int = 16
    """Of the throughput; the latency is one text's."""
    context: int | None = None
    """Tokens of the prompts; None: half a training block."""
    num_tokens: int | None = None
    """Tokens generated for each text; None: 64, or as many as fit into the training block."""
    repeats: int = 5
    seconds: float = 60.0
    """For all passes of one sampler, with one text and with many each: a pass that takes more than its share ends
    before its last token."""
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("num_texts", "context", "num_tokens", "repeats"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConfigError(f"{field} must be at least 1, {value} given")
        if not self.seconds > 0:
            raise ConfigError(f"seconds must be above 0, {self.seconds:g} given")
        for kind in CALM_KINDS + BASELINE_KINDS + self.samplers:
            self.choices(kind)

    def choices(self, kind: str) -> list[SamplerChoice]:
        """The samplers of one kind."""
        if kind == "batch":
            return [SamplerChoice(kind, self.temperature, batch_size=size) for size in self.batch_sizes]
        if kind == "exact":
            return [SamplerChoice(kind, self.temperature, budget=self.budget, on_spent="batch")]
        if kind == "noise":
            return [SamplerChoice(kind, noise_scale=self.noise_scale)]
        return [SamplerChoice(kind, self.temperature if kind == "softmax" else None)]


@dataclass(frozen=True)
class Spread:
    """Of the repeats."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: list[float]) -> Spread:
        return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class BenchRow:
    """One run with one sampler."""

    run: str
    kind: str
    chunk_size: int
    head: str | None
    network_calls: int | None
    """Of the head for one sample."""
    parameters: int
    sampler: str
    temperature: float | None
    batch_size: int | None
    noise_scale: float | None
    calls_per_chunk: float
    """Samples that a chunk took; a lower bound where ``fallback_share`` is above 0."""
    drawn_per_chunk: float
    """Samples that were computed for it."""
    fallback_share: float
    """Chunks of ``exact`` that its budget did not pay for."""
    seconds_per_token: Spread
    """One text."""
    tokens_per_second: Spread
    """All texts together."""
    read_seconds: float
    """To read one prompt, median."""
    flops_per_token: float
    """Executed, counted at the mean context, with one sample a chunk."""
    sampler_flops_per_token: float
    """With as many samples as were drawn."""
    flops_per_second: float
    """Achieved with one text: the counted FLOPs of the sampler over the median time."""
    batch_flops_per_second: float
    """With all texts."""
    peak_memory: int
    """Bytes: of the whole process on a CPU, of tensors on a GPU."""
    context: int
    """Tokens read before the first one is generated."""
    num_tokens: int
    """Generated of each text (``seconds`` may end a pass before)."""
    num_texts: int
    repeats: int
    threads: int
    device: str
    dtype: str
    complete: bool
    """Whether every pass came to its last token."""

    def flat(self) -> dict[str, Any]:
        """For one line of a table."""
        flat: dict[str, Any] = {}
        for name, value in dataclasses.asdict(self).items():
            flat |= (
                {f"{name}_{part}": x for part, x in value.items()} if isinstance(value, dict) else {name: value}
            )
        return flat


def bench(saved: SavedRun, settings: BenchSettings, *, display: Display | None = None) -> list[BenchRow]:
    """Measure one run with every sampler that it can use, on the threads that torch is set to.

    Raises ConfigError where no sampler is left or the held-out text is shorter than the prompts."""
    samplers, prompts, display = (
        usable_samplers(saved, settings),
        _prompts(saved, settings),
        display or NoDisplay(),
    )
    rows = []
    for sampler in samplers:
        display.stage(f"{saved.record.name}: {sampler}", 2 * (settings.repeats + 1))
        rows.append(_bench_one(saved, settings, sampler, prompts, display))
    return rows


def usable_samplers(saved: SavedRun, settings: BenchSettings) -> list[SamplerChoice]:
    """As resolved for the run's model. Raises the last one's ConfigError where it can use none."""
    usable, refused = [], None
    for kind in settings.samplers or (CALM_KINDS if isinstance(saved.model, Calm) else BASELINE_KINDS):
        try:
            usable += [choice.resolved(saved.model) for choice in settings.choices(kind)]
        except ConfigError as error:
            refused = error
    if not usable:
        raise ConfigError(f"{saved.record.name}: {refused}")
    return usable


def _prompts(saved: SavedRun, settings: BenchSettings) -> list[npt.NDArray[np.integer]]:
    """Held-out text from evenly spread places, one for each text."""
    tokens = saved.corpus.tokens[saved.config.eval.split]
    length = settings.context or max(saved.config.train.block_len // 2, saved.config.chunk_size)
    if length > len(tokens):
        raise ConfigError(f"a context of {length:,} tokens is longer than the held-out text ({len(tokens):,})")
    starts = np.linspace(0, len(tokens) - length, settings.num_texts).astype(int)
    return [np.asarray(tokens[start : start + length]) for start in starts]


def _bench_one(
    saved: SavedRun,
    settings: BenchSettings,
    sampler: SamplerChoice,
    prompts: list[npt.NDArray[np.integer]],
    display: Display,
) -> BenchRow:
    config, window = saved.config, saved.config.train.block_len
    context = int(prompt_chunks(prompts[0], config.chunk_size, window).size)
    num_tokens = settings.num_tokens or min(DEFAULT_TOKENS, max(window - context, config.chunk_size))
    measured = _Measured(saved, settings, sampler, num_tokens)

    def timed(texts: list[npt.NDArray[np.integer]], done: int) -> list[_Pass]:
        passes = []
        for turn in range(settings.repeats):
            passes.append(measured.once(texts, turn))
            display.advance(done + turn + 1)
        return passes

    with _memory(saved.model.device) as peak:
        measured.once(prompts, -1)
    many = timed(prompts, 1)
    measured.once(prompts[:1], -1)
    one = timed(prompts[:1], settings.repeats + 2)
    return _row(saved, settings, sampler, one, many, peak[0], context, num_tokens)


@dataclass(frozen=True)
class _Pass:
    read: float
    """Seconds for the prompts."""
    seconds: float
    """For the tokens."""
    num_tokens: int
    made: Generated
    complete: bool


@dataclass(frozen=True)
class _Measured:
    saved: SavedRun
    settings: BenchSettings
    sampler: SamplerChoice
    num_tokens: int

    def once(self, prompts: list[npt.NDArray[np.integer]], turn: int) -> _Pass:
        """One pass with all prompts together; it ends early when its share of the time is over."""
        model, config = self.saved.model, self.saved.config
        generation = Generation(
            model,
            prompts,
            num_tokens=self.num_tokens,
            rng=generator(self.settings.seed, "bench", len(prompts), turn, device=model.device),
            sampler=self.sampler,
            window=config.train.block_len,
            stop_at_end=False,
        )
        share = self.settings.seconds / (self.settings.repeats + 1)
        start = now(model.device)
        generation.read()
        read = now(model.device)
        complete = True
        for _ in generation:
            if time.perf_counter() - start > share:
                complete = generation.num_tokens_made == len(prompts) * self.num_tokens
                break
        seconds = now(model.device) - read
        return _Pass(read - start, seconds, generation.num_tokens_made, generation.result(), complete)


@contextmanager
def _memory(device: torch.device) -> Iterator[list[int]]:
    """The most that is held while the block runs, in bytes: the list's only element afterwards."""
    found = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found[0] = torch.cuda.max_memory_allocated(device)
        return
    process, done = psutil.Process(), threading.Event()

    def watch() -> None:
        while True:
            found[0] = max(found[0], process.memory_info().rss)
            if done.wait(WATCH_EVERY):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _row(
    saved: SavedRun,
    settings: BenchSettings,
    sampler: SamplerChoice,
    one: list[_Pass],
    many: list[_Pass],
    peak: int,
    context: int,
    num_tokens: int,
) -> BenchRow:
    config, passes = saved.config, one + many
    head = config.model.head if isinstance(config.model, CalmConfig) else None
    num_chunks = sum(each.made.num_chunks for each in passes)
    calls = sum(each.made.calls_per_chunk * each.made.num_chunks for each in passes) / num_chunks
    drawn = sum(each.made.drawn_per_chunk * each.made.num_chunks for each in passes) / num_chunks
    latency = Spread.of([each.seconds / each.num_tokens for each in one])
    throughput = Spread.of([each.num_tokens / each.seconds for each in many])
    plain, counted = counted_flops(saved, context + num_tokens / 2, drawn)
    return BenchRow(
        run=saved.record.name,
        kind=config.model.kind,
        chunk_size=config.chunk_size,
        head=head.kind if head else None,
        network_calls=head.network_calls if head else None,
        parameters=saved.model.parameter_groups()["total"],
        sampler=sampler.kind,
        temperature=sampler.effective_temperature(),
        batch_size=sampler.batch_size if sampler.kind == "batch" else None,
        noise_scale=sampler.noise_scale,
        calls_per_chunk=calls,
        drawn_per_chunk=drawn,
        fallback_share=sum(each.made.fallback_chunks for each in passes) / num_chunks,
        seconds_per_token=latency,
        tokens_per_second=throughput,
        read_seconds=statistics.median(each.read for each in one),
        flops_per_token=plain,
        sampler_flops_per_token=counted,
        flops_per_second=counted / latency.median,
        batch_flops_per_second=counted * throughput.median,
        peak_memory=peak,
        context=context,
        num_tokens=num_tokens,
        num_texts=settings.num_texts,
        repeats=settings.repeats,
        threads=torch.get_num_threads(),
        device=str(saved.model.device),
        dtype=str(next(saved.model.network.parameters()).dtype).removeprefix("torch."),
        complete=all(each.complete for each in passes),
    )


def counted_flops(saved: SavedRun, context: float, samples: float) -> tuple[float, float]:
    """Executed FLOPs a token at a context of so many tokens (at most a training block): with one sample a chunk,
    and with so many."""
    config, vocab = saved.config, saved.corpus.vocab_size
    seen = min(config.train.block_len, math.ceil(context))
    measured = _at_context(config, seen)
    return (
        flops.infer_flops_per_token(measured, vocab),
        flops.sample_flops_per_token(measured, vocab, num_samples=max(1, round(samples))),
    )


def _at_context(config: RunConfig, context: int) -> RunConfig:
    """For counting alone: inference FLOPs are counted at ``eval.context_len``."""
    return config.model_copy(update={"eval": config.eval.model_copy(update={"context_len": context})})

"""Text from a trained model: several prompts at a time, a step at a time, with a key/value cache.

*What is read of a prompt.* A CALM reads whole chunks. Training blocks start at random token offsets, so no
alignment of chunks is privileged: chunks are counted back from the end of the prompt, and its first ``len % K``
tokens are not read. A prompt shorter than K is filled up in front with end tokens: a stand-in for the beginning
of a document, before which the training text has one of them, not several. Nothing is ever put between the
prompt and its continuation: the model would take it for text.

*How far back is seen.* A model is trained on blocks of ``window`` tokens: what is predicted and all that is seen
before it fit into one. When a text outgrows that, the latter half of the window is read anew and generation goes
on; from then on between half a window and a whole one is seen.

*Prompts of different lengths* go in step: all are read up to the end of the shortest, and while that one is being
continued the others are still being read, a chunk a step. So all texts are equally long at any time and share one
cache without padding; a text's distribution does not depend on what it is batched with (its random numbers do).

Letters: B texts, P chunks, K chunk size, D width, L latent dimension, n texts that get a chunk in a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.backbone import KVCache
from workbench.baseline import TokenBaseline
from workbench.chunk_samplers import HiddenSource, SamplerChoice, feeds_predicted, next_chunks
from workbench.errors import ConfigError
from workbench.language_model import LanguageModel
from workbench.model import Calm
from workbench.temperature import Tempered, estimate_expected_calls
from workbench.tokenizer import END_ID

Tokens = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Generated:
    """Continuations, and what drawing them took."""

    texts: list[npt.NDArray[np.int64]]
    """Tokens of each, without its prompt; the end token, where it came to one, is the last."""
    finished: list[bool]
    """Whether it came to an end token."""
    unread: list[int]
    """Tokens at the beginning of each prompt that were not read."""
    sampler: SamplerChoice
    """As used: nothing is left open in it."""
    num_chunks: int
    """Drawn for all texts together."""
    calls_per_chunk: float
    """Samples of the model that the sampler used for one chunk, in the mean."""
    drawn_per_chunk: float
    """Samples that were computed for one; ``exact`` looks ahead."""
    fallback_chunks: int
    """Chunks of ``exact`` that its budget did not pay for, drawn by ``batch``."""


def generate(
    model: LanguageModel,
    prompts: Sequence[Tokens],
    *,
    num_tokens: int,
    rng: torch.Generator,
    sampler: SamplerChoice | None = None,
    window: int | None = None,
    stop_at_end: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Generated:
    """A ``Generation`` run to its end; ``progress`` is told how many tokens there are in all texts together."""
    generation = Generation(
        model,
        prompts,
        num_tokens=num_tokens,
        rng=rng,
        sampler=sampler,
        window=window,
        stop_at_end=stop_at_end,
    )
    for _ in generation:
        if progress is not None:
            progress(generation.num_tokens_made)
    return generation.result()


class Generation:
    """One continuation of each prompt (token ids, one array each; for several continuations of a prompt give it
    several times), at most ``num_tokens`` long. Iterating gives the new tokens of each step.

    ``sampler``: default temperature 0.5, by ``batch`` for a CALM and ``softmax`` for a token baseline. ``window``:
    the length of the model's training blocks in tokens; None: no limit. ``stop_at_end``: a text ends at its first
    end token while the others go on. Equal ``rng``, equal texts (on the same machine, on the CPU).

    Raises ConfigError for a sampler that the model cannot use, and SamplingError in a step where ``exact`` has
    spent its budget; what was made until then stays (``result``)."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Tokens],
        *,
        num_tokens: int,
        rng: torch.Generator,
        sampler: SamplerChoice | None = None,
        window: int | None = None,
        stop_at_end: bool = True,
    ) -> None:
        if num_tokens < 1 or not prompts:
            raise ConfigError(
                f"at least one prompt and one token are wanted, {len(prompts)} and {num_tokens} given"
            )
        self.sampler = (sampler or SamplerChoice()).resolved(model)
        self._model, self._rng, self._num_tokens, self._stop_at_end = model, rng, num_tokens, stop_at_end
        read = [prompt_chunks(prompt, model.chunk_size, window) for prompt in prompts]
        self._unread = [max(0, len(prompt) - chunks.size) for prompt, chunks in zip(prompts, read, strict=True)]
        self._context = _Context(model, read, math.ceil(num_tokens / model.chunk_size), window)
        self._active = list(range(len(prompts)))
        self._texts: list[list[int]] = [[] for _ in prompts]
        self._finished = [False] * len(prompts)
        self._num_chunks = self._calls = self._drawn = self._fallback = 0

    def __iter__(self) -> Iterator[dict[int, list[int]]]:
        while self._active:
            yield self.step()

    @property
    def num_tokens_made(self) -> int:
        return sum(map(len, self._texts))

    @torch.inference_mode()
    def read(self) -> None:
        """Read the prompts now, as far as the first step needs it; ``step`` does it otherwise."""
        self._context.hidden(self._active)

    @torch.inference_mode()
    def step(self) -> dict[int, list[int]]:
        """The next chunk of every text whose prompt has been read: new tokens by number of the text."""
        assert self._active, "all texts are finished"
        rows, hidden = self._context.hidden(self._active)
        drawn = next_chunks(self._model, hidden, self.sampler, rng=self._rng)
        self._context.append(rows, drawn)
        self._num_chunks += len(rows)
        self._calls += int(drawn.calls.sum())
        self._drawn += drawn.drawn
        self._fallback += int(drawn.fallback.sum())
        new = {row: self._keep(row, chunk) for row, chunk in zip(rows, drawn.chunks.tolist(), strict=True)}
        self._active = [row for row in self._active if not self._is_done(row)]
        return new

    def _is_done(self, row: int) -> bool:
        return self._finished[row] or len(self._texts[row]) == self._num_tokens

    def _keep(self, row: int, chunk: list[int]) -> list[int]:
        """What the text takes of a chunk."""
        text = self._texts[row]
        new = chunk[: self._num_tokens - len(text)]
        if self._stop_at_end and END_ID in new:
            new = new[: new.index(END_ID) + 1]
            self._finished[row] = True
        text += new
        return new

    def result(self) -> Generated:
        """What there is so far."""
        per_chunk = 1 / max(self._num_chunks, 1)
        return Generated(
            texts=[np.array(text, dtype=np.int64) for text in self._texts],
            finished=list(self._finished),
            unread=list(self._unread),
            sampler=self.sampler,
            num_chunks=self._num_chunks,
            calls_per_chunk=self._calls * per_chunk,
            drawn_per_chunk=self._drawn * per_chunk,
            fallback_chunks=self._fallback,
        )


@torch.inference_mode()
def expected_calls(
    model: Calm,
    prompt: Tokens,
    *,
    temperature: float,
    rng: torch.Generator,
    num_samples: int = 512,
    window: int | None = None,
) -> float:
    """Estimated calls of ``exact`` for the chunk after the prompt, from ``num_samples`` samples of it; inf where
    no chunk was seen often enough to tell (``temperature.estimate_expected_calls`` says how far to trust it)."""
    context = _Context(model, [prompt_chunks(prompt, model.chunk_size, window)], 1, window)
    source = HiddenSource(model, context.hidden([0])[1])
    return float(estimate_expected_calls(source, temperature=temperature, num_samples=num_samples, rng=rng)[0])


def prompt_chunks(prompt: Tokens, chunk_size: int, window: int | None = None) -> npt.NDArray[np.int64]:
    """(P, K): what a model reads of a prompt, as the module's docstring says; at least one chunk, and no more than
    leave one to be predicted within the window."""
    tokens = np.asarray(prompt, dtype=np.int64)
    if len(tokens) < chunk_size:
        tokens = np.concatenate([np.full(chunk_size - len(tokens), END_ID), tokens])
    chunks = tokens[len(tokens) % chunk_size :].reshape(-1, chunk_size)
    return chunks if window is None else chunks[-seen_chunks(window, chunk_size) :]


def seen_chunks(window: int, chunk_size: int) -> int:
    """Chunks that are seen at most: one of a training block's is only predicted."""
    return max(1, window // chunk_size - 1)


class _Context:
    """The chunks of all texts, (B, P, K), and hidden states after what has been read of them.

    A text's chunks begin in column 0, the prompt's first: texts that are read up to the same column are equally
    long. A longer prompt's chunks lie in its row already where a shorter one's continuation is being appended."""

    def __init__(
        self, model: LanguageModel, prompts: Sequence[npt.NDArray[np.int64]], num_chunks: int, window: int | None
    ) -> None:
        self.model = model
        self.lengths = [len(chunks) for chunks in prompts]
        longest, k = max(self.lengths), model.chunk_size
        chunks = np.full((len(prompts), longest + num_chunks, k), END_ID)
        for row, prompt in zip(chunks, prompts, strict=True):
            row[: len(prompt)] = prompt
        self.chunks = torch.from_numpy(chunks).to(model.device)
        self.latents: Tensor | None = None
        if isinstance(model, Calm) and model.uses_latents:
            known = model.feedback(self.chunks[:, :longest])
            assert known is not None
            self.latents = torch.cat([known, known.new_zeros(len(prompts), num_chunks, known.shape[-1])], 1)
        self.most = chunks.shape[1] if window is None else seen_chunks(window, k)
        self.kept = max(1, (window or 0) // k // 2)
        self.start = self.end = 0
        """The chunks [start, end) are seen."""
        self.rows: list[int] = []
        """Of the cache."""
        self.cache = KVCache()
        self.states: Tensor | None = None

    def hidden(self, active: Sequence[int]) -> tuple[list[int], Float[Tensor, "n d"]]:
        """Reads on; the texts that get their next chunk now and the hidden states to draw it from. Of the active
        texts at least one does."""
        self._read(active, max(self.end, min(self.lengths[row] for row in active)))
        assert self.states is not None
        wanted = {row for row in active if self.lengths[row] <= self.end}
        due = [i for i, row in enumerate(self.rows) if row in wanted]
        return [self.rows[i] for i in due], self.states[due]

    def _read(self, active: Sequence[int], end: int) -> None:
        """Up to column ``end``. The texts that are still active are read anew where the window is outgrown, or
        where half of those in the cache are finished."""
        if end - self.start > self.most or 2 * len(active) <= len(self.rows) or not self.rows:
            if end - self.start > self.most:
                self.start = end - self.kept
            self.rows = list(active)
            self.cache = KVCache(capacity=min(self.most, self.chunks.shape[1] - self.start))
        first = self.start + self.cache.length
        if first < end:
            latents = None if self.latents is None else self.latents[self.rows, first:end]
            self.states = _states(self.model, self.chunks[self.rows, first:end], latents, self.cache)
        self.end = end

    def append(self, rows: list[int], drawn: Tempered) -> None:
        """The next chunks of these texts; column ``end`` is read next time."""
        self.chunks[rows, self.end] = drawn.chunks
        if self.latents is not None:
            assert isinstance(self.model, Calm)
            fed = drawn.latents if feeds_predicted(self.model) else self.model.feedback(drawn.chunks)
            assert fed is not None
            self.latents[rows, self.end] = fed
        self.end += 1


def _states(
    model: LanguageModel, chunks: Int[Tensor, "b p k"], latents: Float[Tensor, "b p l"] | None, cache: KVCache
) -> Float[Tensor, "b d"]:
    """Hidden states after the last of these chunks, which continue what the cache holds."""
    if isinstance(model, Calm):
        hidden: Tensor = model.network(chunks, latents, cache)
    else:
        assert isinstance(model, TokenBaseline)
        hidden = model.network(chunks[:, :, 0], cache)
    return hidden[:, -1]

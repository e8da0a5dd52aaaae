"""A text sampled at an evaluation: the same beginning every time, to see what has been learnt."""

from __future__ import annotations

from workbench.chunk_samplers import SamplerChoice
from workbench.config import CalmConfig, RunConfig
from workbench.data import Corpus
from workbench.grid import evaluation_grid
from workbench.language_model import LanguageModel
from workbench.layers import generator
from workbench.model import Calm
from workbench.records import SampleText
from workbench.sampling import generate
from workbench.tokenizer import END_ID

PROMPT_TOKENS = 64
"""Beginning of the first window that is scored."""
LEAST_BATCH, MOST_BATCH = 8, 32
CALLS_AT_ONCE, CALLS_IN_TURN = 800, 2000
"""Network calls for one chunk by all samples of a batch, and those that follow one another in a whole text: a
diffusion head of 100 calls gets fewer samples and a shorter text, so that it takes about two seconds."""


def sample_text(
    model: LanguageModel, corpus: Corpus, config: RunConfig, *, step: int, tokens: int
) -> SampleText | None:
    """About ``eval.sample_tokens`` tokens after the beginning of the first scored window, at temperature 0.5, by
    ``batch`` for a CALM and ``softmax`` for a baseline; None where none are wanted. ``step`` and ``tokens`` say
    where in training the model stands. The random numbers depend on ``eval.seed`` and the step alone."""
    if not config.eval.sample_tokens:
        return None
    window = evaluation_grid(config.eval, corpus, num_windows=1).windows[0]
    prompt = window[: min(PROMPT_TOKENS, len(window))]
    batch_size, num_tokens = _affordable(config)
    made = generate(
        model,
        [prompt],
        num_tokens=num_tokens,
        rng=generator(config.eval.seed, "sample text", step, device=model.device),
        sampler=SamplerChoice(batch_size=batch_size),
        window=config.train.block_len,
    )
    assert made.sampler.temperature is not None
    text = made.texts[0]
    return SampleText(
        step=step,
        tokens=tokens,
        sampler=made.sampler.kind if not isinstance(model, Calm) else f"{made.sampler.kind}, N = {batch_size}",
        temperature=made.sampler.temperature,
        prompt=corpus.tokenizer.decode(prompt),
        text=corpus.tokenizer.decode(text[text != END_ID]),
    )


def _affordable(config: RunConfig) -> tuple[int, int]:
    """N of the batch, and tokens."""
    if not isinstance(config.model, CalmConfig):
        return 1, config.eval.sample_tokens
    calls, k = config.model.head.network_calls, config.chunk_size
    batch_size = min(MOST_BATCH, max(LEAST_BATCH, CALLS_AT_ONCE // calls))
    return batch_size, min(config.eval.sample_tokens, k * max(1, CALLS_IN_TURN // calls))

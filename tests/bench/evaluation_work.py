"""Evaluation and generation as repetitions: the workbench's own ``evaluate`` and ``generate``.

Untrained models get a random last layer of the head, so that their samples differ; how often samples agree, which
decides how much is continued for K < 4, is then not a trained model's. ``run_dir`` gives a trained one.
"""

from __future__ import annotations

from pathlib import Path

import torch

from tests.bench.our_training import random_corpus, untrained
from tests.bench.spans import Spans
from tests.bench.turns import Pace
from workbench import evaluate as evaluation
from workbench.chunk_samplers import SamplerChoice
from workbench.config import RunConfig
from workbench.data import Corpus
from workbench.home import open_home
from workbench.language_model import LanguageModel
from workbench.layers import generator
from workbench.model import Calm
from workbench.sampling import generate
from workbench.saved_runs import load_run

IMPORTS = ("torch", "tests.bench.evaluation_work")
"""What a process needs before it prepares either."""
PROMPT_TOKENS = 64


def evaluation_work(
    pace: Pace,
    *,
    config: RunConfig,
    vocab: int,
    run_dir: Path | None = None,
    home: str | None = None,
    profiled: bool = False,
) -> None:
    """One repetition evaluates ``eval.num_windows`` windows; with its parts where ``profiled``."""
    model, corpus = _model(config, vocab, run_dir, home)
    grid = evaluation.evaluation_grid(config.eval, corpus)
    spans = Spans(pace.now)
    if profiled:
        watch_evaluation(spans, model)
    while True:
        spans.start()
        evaluation.evaluate(model, config.eval, grid, corpus=corpus, phase="constant", step=0, tokens=0, flops=0.0)
        pace(spans.lap() if profiled else None)


def generation_work(pace: Pace, *, config: RunConfig, vocab: int, num_tokens: int, num_texts: int) -> None:
    """One repetition generates so many texts of so many tokens after a prompt."""
    model, corpus = _model(config, vocab, None, None)
    prompts, plain = num_texts * [corpus.tokens["validation"][:PROMPT_TOKENS]], SamplerChoice("plain")
    rng = generator(0, "growth")
    while True:
        generate(model, prompts, num_tokens=num_tokens, rng=rng, sampler=plain, stop_at_end=False)
        pace()


def watch_evaluation(spans: Spans, model: LanguageModel) -> None:
    """Name the parts of an evaluation. What a later design does not have is passed over, and its time goes to what
    calls it."""
    from workbench import baseline
    from workbench import model as calm

    for name in ("sampled_brier", "distribution_brier"):
        spans.watch(evaluation, name, "pairs")  # what is left of it: indicators, pairs, drawing one that agrees
    spans.watch(evaluation, "text_log_probs", "cross-entropy")
    spans.watch(evaluation, "cross_entropy", "cross-entropy")
    spans.watch(evaluation, "context_use", "use of context")
    spans.watch(evaluation, "summarise", "summary")
    spans.watch(model, "read", "read")
    for branches in (calm.CalmBranches, baseline.BaselineBranches):
        for name in ("extend", "keep"):
            spans.watch(branches, name, "branches")
    if isinstance(model, Calm):
        spans.watch(model.network.head, "sample", "head")
        for name in ("decode", "states", "decode_token_at"):
            spans.watch(model.autoencoder, name, "decode")
    else:
        spans.watch(model.network, "log_probs", "head")


def _model(config: RunConfig, vocab: int, run_dir: Path | None, home: str | None) -> tuple[LanguageModel, Corpus]:
    if run_dir is not None:
        assert home is not None
        run = load_run(run_dir, open_home(home))
        return run.model, run.corpus
    model = untrained(config, vocab)
    if isinstance(model, Calm):
        weight = getattr(getattr(model.network.head, "to_latent", None), "weight", None)
        if weight is not None:
            with torch.no_grad():
                weight.normal_(0.0, weight.shape[1] ** -0.5, generator=generator(0, "head"))
    return model, random_corpus(vocab)

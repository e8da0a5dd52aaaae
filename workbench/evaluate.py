"""Evaluation of a language model: BrierLM on the common grid, cross-entropy, use of context, floors.

Letters: W windows, T tokens of a window (eval.context_len), n positions of a window, O = 4 orders.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from workbench import files
from workbench.brier import distribution_brier, sampled_brier, text_log_probs
from workbench.cache import cached
from workbench.config import EvalConfig, content_hash
from workbench.data import Corpus
from workbench.errors import NotFiniteError
from workbench.finite import require_finite
from workbench.grid import Grid, evaluation_grid
from workbench.growth import Growth, grow
from workbench.language_model import DistributionModel, LanguageModel, SampledModel
from workbench.layers import generator
from workbench.model import Calm
from workbench.ngram import score_ngrams
from workbench.overlap import find_overlap
from workbench.positions import FLOORS, FloorScores, PositionScores, read_floors, write_floors
from workbench.records import Evaluation, Floor, Overlap, Phase
from workbench.tokenizer import END_ID
from workbench.uncertainty import cluster_residuals, cluster_se, summarise

__all__ = ["Grid", "Scored", "evaluate", "evaluation_grid", "floors", "identical_draws", "score_windows"]

FLOOR_ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3}
_BATCH_TOKENS = 4096
_FORMAT = 2


@dataclass(frozen=True)
class Scored:
    """Some windows scored once."""

    values: npt.NDArray[np.float32]
    """(W, n, O): unbiased estimates of Brier(P, y)."""
    log_probs: npt.NDArray[np.float32] | None = None
    """(W, T - least context): log probability of each true token with enough context; token models only."""


@dataclass(frozen=True)
class Scores:
    """Everything one evaluation found."""

    evaluation: Evaluation
    positions: PositionScores
    grid: Grid
    """What was scored: more than was asked for where a target error called for it."""


def evaluate(
    model: LanguageModel,
    config: EvalConfig,
    grid: Grid,
    *,
    corpus: Corpus,
    phase: Phase,
    step: int,
    tokens: int,
    flops: float,
    to_target: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score a model. With ``to_target`` and ``eval.target_se`` more windows, then more rounds of samples, are
    drawn until BrierLM's standard error is reached, the text or the budget is spent. ``progress(done, wanted)``
    counts windows. Raises NotFiniteError where what the model makes, or a number found, is not finite."""
    start = time.perf_counter()
    found = _draw(model, config, grid, corpus, to_target and config.target_se is not None, progress)
    grid = found.grid
    evaluation = Evaluation(
        step=step,
        tokens=tokens,
        train_flops=flops,
        phase=phase,
        fingerprint=grid.fingerprint,
        brier=summarise(found.growth.values, grid.clusters, rounds=found.growth.rounds),
        wanted_se=config.target_se if to_target else None,
        stopped_by=found.growth.stopped_by,
    )
    per_window = None
    if found.log_probs is not None:
        per_window = -found.log_probs.mean(1)
        text = cross_entropy(found.log_probs, grid, corpus, config.min_context)
        evaluation = evaluation.model_copy(update=text)
    if isinstance(model, Calm):
        how = head_sampling(model)
        evaluation = evaluation.model_copy(update={**context_use(model, config, grid), **how})
    _require_finite(evaluation)
    evaluation.seconds = time.perf_counter() - start
    positions = PositionScores(
        fingerprint=grid.fingerprint,
        values=found.growth.values.astype(np.float32),
        clusters=grid.clusters,
        starts=grid.starts,
        step=step,
        rounds=found.growth.rounds,
        cross_entropy=per_window,
    )
    return Scores(evaluation, positions, grid)


def _require_finite(evaluation: Evaluation) -> None:
    """Means of numbers may overflow all the same, and a line of the log has no word for what that makes."""
    numbers = {**evaluation.model_dump(exclude={"brier"}), **evaluation.brier.model_dump()}
    for name, value in numbers.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise NotFiniteError(f"{name} is {value:.4g}")


def head_sampling(model: Calm) -> dict[str, Any]:
    """Network calls for a sample, and the solver where the head has one."""
    head = model.network.head.config
    return {"network_calls": head.network_calls, "solver": getattr(head, "solver_used", None)}


@dataclass(frozen=True)
class _Drawn:
    growth: Growth
    grid: Grid
    log_probs: npt.NDArray[np.float32] | None


def _draw(
    model: LanguageModel,
    config: EvalConfig,
    grid: Grid,
    corpus: Corpus,
    adaptive: bool,
    progress: Callable[[int, int], None] | None,
) -> _Drawn:
    """The grid's windows once, or as many windows and rounds as the target asks for."""
    whole = evaluation_grid(config, corpus, num_windows=grid.capacity) if adaptive else grid
    log_probs: list[npt.NDArray[np.float32]] = []

    def draw(first: int, last: int, round_number: int) -> npt.NDArray[np.float32]:
        report = None if progress is None else lambda done: progress(first + done, last)
        scored = score_windows(model, config, whole, first, last, round_number=round_number, progress=report)
        if scored.log_probs is not None and round_number == 0:
            log_probs.append(scored.log_probs)
        return scored.values

    if adaptive:
        assert config.target_se is not None
        growth = grow(
            draw,
            whole.clusters,
            start=len(grid.windows),
            target_se=config.target_se,
            max_positions=config.max_positions,
            num_positions=len(grid.positions),
        )
        grid = evaluation_grid(config, corpus, num_windows=len(growth.values))
    else:
        growth = Growth(draw(0, len(grid.windows), 0), rounds=1, stopped_by=None)
    return _Drawn(growth, grid, np.concatenate(log_probs) if log_probs else None)


def score_windows(
    model: LanguageModel,
    config: EvalConfig,
    grid: Grid,
    first: int = 0,
    last: int | None = None,
    *,
    round_number: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Scored:
    """Brier-1..4 of every position of the windows ``first`` ... ``last`` - 1, in batches of about 4,096 tokens.

    The noise of a batch depends on the seed, its first window and the round alone."""
    device = model.device
    positions = torch.from_numpy(grid.positions).to(device)
    values, log_probs = [], []
    for start, batch in batches(grid, device, first, last):
        rng = generator(config.seed, "evaluation", start, round_number, device=device)
        if isinstance(model, SampledModel):
            estimate = sampled_brier(model, batch, positions, num_samples=config.num_samples, rng=rng)
        else:
            assert isinstance(model, DistributionModel)
            context = model.read(batch)
            estimate, _ = distribution_brier(model, batch, positions, rng=rng, context=context)
            if round_number == 0:
                found = text_log_probs(model, context, batch, config.min_context).float()
                log_probs.append(require_finite("the text's log probabilities", found).cpu().numpy())
        values.append(estimate.float().cpu().numpy())
        if progress is not None:
            progress(start - first + len(batch))
    return Scored(np.concatenate(values), np.concatenate(log_probs) if log_probs else None)


def cross_entropy(
    log_probs: npt.NDArray[np.float32], grid: Grid, corpus: Corpus, min_context: int
) -> dict[str, float | None]:
    """Nats per token with its clustered standard error, over every token that has the least context; and per UTF-8
    byte: nats of the tokens that spell something over the bytes they spell (end tokens are in neither). The
    perplexity is None where it is more than a float holds."""
    nats = -log_probs.astype(np.float64)  # (W, T - least context)
    per_window = nats.mean(1)
    residual = cluster_residuals(per_window - per_window.mean(), grid.clusters)
    tokens = grid.windows[:, min_context:]
    text = tokens != END_ID
    num_bytes = int(corpus.tokenizer.byte_lengths[tokens[text]].sum())
    bits = float(nats[text].sum()) / math.log(2) / max(num_bytes, 1)
    return {
        "cross_entropy": float(nats.mean()),
        "cross_entropy_se": float(cluster_se(residual)),
        "bits_per_byte": bits,
        "byte_perplexity": 2.0**bits if bits < sys.float_info.max_exp else None,
    }


CONTEXT_WINDOWS = 24
"""First windows of the grid on which the head's loss is measured, at every position of theirs. On all of them
it took longer than BrierLM, for a difference that is many times its error."""


def context_use(model: Calm, config: EvalConfig, grid: Grid) -> dict[str, float]:
    """The head's loss on held-out text with the true hidden states and with another window's, and the
    standard error of the difference over clusters."""
    device = model.device
    true, other = [], []
    first = config.min_context // model.chunk_size - 1  # only positions that the grid could score
    num = min(len(grid.windows), CONTEXT_WINDOWS)
    for start, batch in batches(grid, device, 0, num):
        rng = generator(config.seed, "context", start, device=device)
        losses = [loss[:, first:].mean(1) for loss in model.held_out_loss(batch, rng=rng)]
        right, wrong = require_finite("the head's losses on held-out text", torch.stack(losses)).cpu().numpy()
        true.append(right)
        other.append(wrong)
    right_mean, wrong_mean = np.concatenate(true), np.concatenate(other)
    gain = wrong_mean - right_mean
    residual = cluster_residuals(gain - gain.mean(), grid.clusters[:num])
    return {
        "head_loss": float(right_mean.mean()),
        "head_loss_shuffled": float(wrong_mean.mean()),
        "head_loss_gain_se": float(cluster_se(residual)),
    }


@dataclass(frozen=True)
class Background:
    """What stands beside every score on the same windows: it depends on the text, not on the model."""

    floors: dict[str, Floor]
    scores: FloorScores
    overlap: Overlap


def floors(corpus: Corpus, config: EvalConfig, grid: Grid, cache_dir: Path) -> Background:
    """Unigram, bigram and trigram tables of the training text on the same positions, and how much of the windows
    occurs in the training text; cached, computed once even if two workers ask at the same time."""
    key = content_hash([_FORMAT, grid.fingerprint, len(grid.windows)])
    folder = cache_dir / "floors" / key

    def build(temporary: Path) -> None:
        first = config.min_context
        tables = {
            name: score_ngrams(
                corpus.tokens["train"], corpus.vocab_size, order, grid.windows, grid.positions, text_from=first
            )
            for name, order in FLOOR_ORDERS.items()
        }
        values = {name: table.brier.astype(np.float32) for name, table in tables.items()}
        write_floors(temporary / FLOORS, FloorScores(grid.fingerprint, grid.starts, values))
        overlap = find_overlap(
            corpus.tokens["train"],
            grid.windows,
            corpus.tokenizer.byte_lengths,
            decode=corpus.tokenizer.decode,
        )
        stored = {"floors": {}, "overlap": overlap.model_dump()}
        for name, table in tables.items():
            summary = summarise(table.brier, grid.clusters)
            floor = Floor(brier=summary.brier, brierlm=summary.brierlm, cross_entropy=table.cross_entropy)
            stored["floors"][name] = floor.model_dump()
        files.write_json(temporary / "floors.json", stored)

    return cached(folder, build, lambda made: _load_background(made, grid))


def _load_background(folder: Path, grid: Grid) -> Background:
    """Raises ValueError, KeyError or RunError where the files are none of these windows'."""
    stored, scores = files.read_json(folder / "floors.json"), read_floors(folder / FLOORS)
    if scores.fingerprint != grid.fingerprint or len(scores.starts) != len(grid.windows):
        raise ValueError("it is of other windows")
    return Background(
        floors={name: Floor.model_validate(stored["floors"][name]) for name in FLOOR_ORDERS},
        scores=scores,
        overlap=Overlap.model_validate(stored["overlap"]),
    )


def identical_draws(model: Calm, config: EvalConfig, grid: Grid) -> bool:
    """Whether two "independent" samples of the head coincide everywhere (one noise used twice)."""
    batch = torch.from_numpy(grid.windows[:2]).to(model.device)
    with torch.no_grad():
        chunks = model.chunks(batch)
        hidden = model.network(chunks, model.feedback(chunks)).flatten(0, 1)
        rng = generator(config.seed, "draws", device=model.device)
        samples = model.network.head.sample(hidden, num_samples=2, rng=rng)
    return bool(torch.equal(samples[0], samples[1]))


def batches(
    grid: Grid, device: torch.device, first: int = 0, last: int | None = None
) -> list[tuple[int, torch.Tensor]]:
    """(number of its first window, windows) of about 4,096 tokens, at least two windows in each."""
    num = max(2, _BATCH_TOKENS // grid.windows.shape[1])
    last = len(grid.windows) if last is None else last
    starts = list(range(first, last, num))
    if len(starts) > 1 and last - starts[-1] == 1:
        starts.pop()
    ends = [*starts[1:], last]
    windows = torch.from_numpy(grid.windows)
    return [(a, windows[a:b].to(device)) for a, b in zip(starts, ends, strict=True)]

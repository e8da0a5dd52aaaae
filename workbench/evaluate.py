"""Evaluation of a language model: BrierLM on the common grid, cross-entropy, use of context, floors.

Letters: W windows, T tokens of a window (eval.context_len), n positions of a window, O = 4 orders.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from workbench import files
from workbench.brier import cluster_residuals, cluster_se, distribution_brier, sampled_brier, summarise
from workbench.config import EvalConfig, content_hash
from workbench.data import Corpus
from workbench.errors import DataError
from workbench.language_model import DistributionModel, LanguageModel, SampledModel
from workbench.layers import generator
from workbench.model import Calm
from workbench.ngram import score_ngrams
from workbench.records import Evaluation, Floor, Phase

FLOORS = {"unigram": 1, "bigram": 2, "trigram": 3}
MANY_DOCUMENTS = 30
"""From so many documents on, a document is a cluster of the standard error; below, a window is."""
_BATCH_TOKENS = 4096
_FORMAT = 1


@dataclass(frozen=True)
class Grid:
    """What is scored: the same for every model with the same fingerprint."""

    windows: npt.NDArray[np.int64]
    """(W, T)."""
    positions: npt.NDArray[np.int64]
    """(n,) token offsets in a window: multiples of the stride with enough context before and the stride's
    tokens of truth after them."""
    clusters: npt.NDArray[np.int64]
    """(W,) number of the document, or of the window."""
    fingerprint: str


def evaluation_grid(config: EvalConfig, corpus: Corpus) -> Grid:
    """Windows spread evenly over the split, without overlap, starting at token offsets of their own.

    Raises DataError where the split is too short."""
    tokens, length = corpus.tokens[config.split], config.context_len
    available = len(tokens) // length
    if available < config.num_windows:
        raise DataError(
            f"the {config.split} split of {corpus.name} has {len(tokens)} tokens, {config.num_windows} windows of "
            f"{length} need {config.num_windows * length}; set eval.num_windows to at most {available} or use a "
            "larger corpus"
        )
    starts = np.linspace(0, len(tokens) - length, config.num_windows).astype(np.int64)
    windows = np.asarray(tokens[starts[:, None] + np.arange(length)], dtype=np.int64)
    positions = np.arange(config.min_context, length - config.grid_stride + 1, config.grid_stride)
    documents = np.searchsorted(corpus.document_starts[config.split], starts, side="right")
    by_document = len(np.unique(documents)) >= MANY_DOCUMENTS
    clusters = documents if by_document else np.arange(len(starts))
    rules = config.model_dump(mode="json", exclude={"seed"})
    fingerprint = content_hash([_FORMAT, corpus.hash, rules])
    return Grid(windows, positions, clusters.astype(np.int64), fingerprint)


def evaluate(
    model: LanguageModel, config: EvalConfig, grid: Grid, *, phase: Phase, step: int, tokens: int, flops: float
) -> tuple[Evaluation, npt.NDArray[np.float32]]:
    """Score a model; also returns the estimates of every position, (W, n, O)."""
    start = time.perf_counter()
    values, log_truth = brier_values(model, config, grid)
    evaluation = Evaluation(
        step=step,
        tokens=tokens,
        train_flops=flops,
        phase=phase,
        fingerprint=grid.fingerprint,
        brier=summarise(values.astype(np.float64), grid.clusters),
    )
    if log_truth is not None:
        evaluation.cross_entropy = -float(log_truth.mean())
    if isinstance(model, Calm):
        evaluation = evaluation.model_copy(update=context_use(model, config, grid))
    evaluation.seconds = time.perf_counter() - start
    return evaluation, values


def brier_values(
    model: LanguageModel, config: EvalConfig, grid: Grid
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Brier-1..4 of every position (W, n, O) and, for token models, the log probability of the true next
    token (W, n)."""
    device = model.device
    positions = torch.from_numpy(grid.positions).to(device)
    values, log_truth = [], []
    for number, batch in enumerate(_batches(grid, device)):
        rng = generator(config.seed, "evaluation", number, device=device)
        if isinstance(model, SampledModel):
            estimate = sampled_brier(model, batch, positions, num_samples=config.num_samples, rng=rng)
        else:
            assert isinstance(model, DistributionModel)
            estimate, log_probs = distribution_brier(model, batch, positions, rng=rng)
            log_truth.append(log_probs.cpu().numpy())
        values.append(estimate.float().cpu().numpy())
    return np.concatenate(values), np.concatenate(log_truth) if log_truth else None


def context_use(model: Calm, config: EvalConfig, grid: Grid) -> dict[str, float]:
    """The head's loss on held-out text with the true hidden states and with another window's, and the
    standard error of the difference over clusters."""
    device = model.device
    true, other = [], []
    first = config.min_context // model.chunk_size - 1  # only positions that the grid could score
    for number, batch in enumerate(_batches(grid, device)):
        rng = generator(config.seed, "context", number, device=device)
        right, wrong = model.held_out_loss(batch, rng=rng)
        true.append(right[:, first:].mean(1).cpu().numpy())
        other.append(wrong[:, first:].mean(1).cpu().numpy())
    right_mean, wrong_mean = np.concatenate(true), np.concatenate(other)
    gain = wrong_mean - right_mean
    residual = cluster_residuals(gain - gain.mean(), grid.clusters)
    return {
        "energy_loss": float(right_mean.mean()),
        "energy_loss_shuffled": float(wrong_mean.mean()),
        "energy_loss_gain_se": float(cluster_se(residual)),
    }


def floors(corpus: Corpus, config: EvalConfig, grid: Grid, cache_dir: Path) -> dict[str, Floor]:
    """Unigram, bigram and trigram tables of the training text on the same positions; cached, computed
    once even if two workers ask at the same time."""
    folder = cache_dir / "floors" / content_hash([_FORMAT, grid.fingerprint])

    def build(temporary: Path) -> None:
        scored = {name: _floor(corpus, grid, order) for name, order in FLOORS.items()}
        files.write_json(temporary / "floors.json", {n: f.model_dump() for n, f in scored.items()})

    files.build_once(folder, build)
    stored = json.loads((folder / "floors.json").read_text(encoding="utf-8"))
    return {name: Floor.model_validate(value) for name, value in stored.items()}


def _floor(corpus: Corpus, grid: Grid, order: int) -> Floor:
    scores = score_ngrams(corpus.tokens["train"], corpus.vocab_size, order, grid.windows, grid.positions)
    summary = summarise(scores.brier, grid.clusters)
    return Floor(brier=summary.brier, brierlm=summary.brierlm, cross_entropy=scores.cross_entropy)


def identical_draws(model: Calm, config: EvalConfig, grid: Grid) -> bool:
    """Whether two "independent" samples of the head coincide everywhere (one noise used twice)."""
    batch = torch.from_numpy(grid.windows[:2]).to(model.device)
    with torch.no_grad():
        chunks = model.chunks(batch)
        hidden = model.network(chunks, model.feedback(chunks)).flatten(0, 1)
        rng = generator(config.seed, "draws", device=model.device)
        samples = model.network.head.sample(hidden, num_samples=2, rng=rng)
    return bool(torch.equal(samples[0], samples[1]))


def _batches(grid: Grid, device: torch.device) -> list[torch.Tensor]:
    """Windows in batches of about 4,096 tokens, at least two windows in each."""
    num = max(2, _BATCH_TOKENS // grid.windows.shape[1])
    parts = list(torch.from_numpy(grid.windows).to(device).split(num))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts

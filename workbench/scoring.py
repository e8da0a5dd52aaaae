"""BrierLM of any model, ours or not, given as a plain function: of samples, or of log probabilities.

The estimators are those of every run (``workbench.brier``): on the same windows, positions and number of samples
a score from here can be set beside a run's. The function is only ever asked to continue given texts; texts of
one length go to it together.

Letters: W windows, T tokens of a window, K chunk size, J = ceil(4 / K) chunks that hold four tokens, S samples,
V vocabulary, n positions of a window, R branches; b contexts of t tokens in one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workbench.brier import NUM_ORDERS, distribution_brier, sampled_brier
from workbench.callable_models import (
    CallableDistribution,
    LogProbs,
    Sampler,
    SamplerModel,
    describe,
    is_integer,
)
from workbench.errors import DataError
from workbench.layers import generator
from workbench.records import Brier
from workbench.uncertainty import summarise

MIN_CONTEXT, STRIDE = 64, 8
"""The grid of a run's evaluation: defaults of ``eval.min_context`` and ``eval.grid_stride``."""
Numbers: TypeAlias = Tensor | npt.NDArray[np.integer[Any]] | Sequence[int]


def score_sampler(
    sampler: Sampler,
    windows: Tensor | npt.NDArray[np.integer[Any]],
    *,
    chunk_size: int,
    positions: Numbers | None = None,
    num_samples: int = 16,
    clusters: Numbers | None = None,
    seed: int = 0,
    min_context: int = MIN_CONTEXT,
    stride: int = STRIDE,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Brier:
    """BrierLM, with its standard error, of a model known by its samples alone (METHOD section 5).

    ``sampler(contexts, num_samples, rng)`` gets contexts (b, t), int64, on the device of ``windows``, and returns
    token ids (s, b, k): for every context s = ``num_samples`` independent continuations of k = ``chunk_size``
    tokens, on that device. k is 1 for a model that samples token by token, and t is always a multiple of
    k. All randomness should come from ``rng`` (of that device); then the same ``seed`` gives the same score.

    ``windows``: (W, T) token ids. Nothing outside a window is seen. ``positions``: (n,) offsets in a window at
    which the scored n-grams start, multiples of k with at least k tokens before and four tokens (in whole chunks)
    after; by default every ``stride`` tokens from ``min_context`` on, as in a run's evaluation.
    ``clusters``: (W,) windows with the same number (say, of one document) are one unit of the standard error; by
    default each window is one. ``batch_size``: windows at a time, and so contexts in a call; at most
    W / batch_size * n * (2 J - 1) calls, fewer where no sample is right and no two agree. ``progress`` is told how
    many windows are done.

    Raises DataError for windows or positions that cannot be scored, and where the sampler does not keep
    to this: another shape, type or device, or samples that are all the same.

    A bigram table, as a complete example (``workbench.grid.evaluation_grid`` gives the windows, positions and
    clusters that runs are scored on)::

        >>> import torch
        >>> from workbench.scoring import score_sampler
        >>> words = [b"the ", b"king ", b"queen ", b"sleeps. ", b"and ", b"rides "]
        >>> order = torch.randint(len(words), (6000,), generator=torch.Generator().manual_seed(0))
        >>> text = torch.tensor(list(b"".join(words[i] for i in order.tolist())))
        >>> train, held_out = text[:20_000], text[20_000:24_096].view(32, 128)  # 32 windows of 128 bytes
        >>> counts = torch.full((256, 256), 1e-6)
        >>> _ = counts.index_put_((train[:-1], train[1:]), torch.tensor(1.0), accumulate=True)
        >>> def bigram(contexts, num_samples, rng):
        ...     followers = counts[contexts[:, -1]]  # (b, V)
        ...     drawn = torch.multinomial(followers, num_samples, replacement=True, generator=rng)  # (b, s)
        ...     return drawn.T.unsqueeze(-1)  # (s, b, 1)
        >>> score = score_sampler(bigram, held_out, chunk_size=1)
        >>> score.num_positions, score.num_clusters
        (256, 32)
        >>> 10 < score.brierlm < 20 and score.brierlm_se < 2  # about 14 ± 1
        True
    """
    if chunk_size < 1 or num_samples < 2:
        raise DataError(
            f"chunk_size must be at least 1 and num_samples at least 2 (pairs are compared), {chunk_size} and "
            f"{num_samples} given"
        )
    texts = _windows(windows)
    places = _positions(positions, texts, chunk_size, min_context=min_context, stride=stride)
    labels = _clusters(clusters, len(texts))
    model = SamplerModel(sampler, chunk_size)

    def estimate(batch: Tensor, rng: torch.Generator) -> Tensor:
        return sampled_brier(model, batch, places, num_samples=num_samples, rng=rng)

    return _score(estimate, texts, labels, seed=seed, batch_size=batch_size, progress=progress)


def score_distribution(
    log_probs: LogProbs,
    windows: Tensor | npt.NDArray[np.integer[Any]],
    *,
    positions: Numbers | None = None,
    clusters: Numbers | None = None,
    seed: int = 0,
    min_context: int = MIN_CONTEXT,
    stride: int = STRIDE,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Brier:
    """BrierLM, with its standard error, of a token model with explicit probabilities.

    ``log_probs(contexts)`` gets contexts (b, t), int64, on the device of ``windows``, and returns the log
    probabilities (b, V) of every next token, on that device. All else is as in ``score_sampler`` with k = 1. The
    same score as from samples of the same model, with less noise: P(y) is exact and only the continuations of
    the collision term are drawn (METHOD section 5). With a large V lower ``batch_size``: at least
    batch_size * 4 * V numbers are held, about three times over.

    Raises DataError for windows or positions that cannot be scored, for another shape, type or device, and for
    rows that are no log probabilities."""
    texts = _windows(windows)
    places = _positions(positions, texts, 1, min_context=min_context, stride=stride)
    labels = _clusters(clusters, len(texts))
    model = CallableDistribution(log_probs, least_vocab=int(texts.max()) + 1)

    def estimate(batch: Tensor, rng: torch.Generator) -> Tensor:
        return distribution_brier(model, batch, places, rng=rng)[0]

    return _score(estimate, texts, labels, seed=seed, batch_size=batch_size, progress=progress)


def _score(
    estimate: Callable[[Tensor, torch.Generator], Tensor],
    texts: Tensor,
    labels: npt.NDArray[np.int64],
    *,
    seed: int,
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> Brier:
    """Estimates (b, n, O) of every batch of windows, and their summary."""
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, {batch_size} given")
    values, done = [], 0
    for number, batch in enumerate(texts.split(batch_size)):
        rng = generator(seed, "scoring", number, device=texts.device)
        values.append(estimate(batch, rng).double().cpu().numpy())
        done += len(batch)
        if progress is not None:
            progress(done)
    return summarise(np.concatenate(values), labels)


# ---- what is scored ------------------------------------------------------------------------------------
# Checked here and not by annotations of shape: they come from the user, who is owed a message.


def _windows(windows: Tensor | npt.NDArray[np.integer[Any]]) -> Tensor:
    """(W, T), int64."""
    texts = _tensor(windows)
    if texts.ndim != 2 or len(texts) < 2 or not is_integer(texts):
        raise DataError(
            "windows must be token ids of shape (windows, tokens) with at least two windows (a standard error "
            f"needs them), {describe(texts)} given"
        )
    return texts.long()


def _positions(
    positions: Numbers | None, windows: Tensor, chunk_size: int, *, min_context: int, stride: int
) -> Tensor:
    """(n,), int64, on the windows' device."""
    length, ahead = windows.shape[1], math.ceil(NUM_ORDERS / chunk_size) * chunk_size
    if positions is None:
        if stride < 1:
            raise DataError(f"stride must be at least 1, {stride} given")
        places = torch.arange(min_context, max(min_context, length - ahead + 1), stride)
        source = f"the grid from min_context {min_context} on in steps of stride {stride}"
        remedy = f"set min_context and stride to multiples of {chunk_size}"
    else:
        places, source, remedy = _tensor(positions), "positions", f"use multiples of {chunk_size}"
        if places.ndim != 1 or not is_integer(places):
            raise DataError(f"positions must be a list of token offsets, {describe(places)} given")
        places = places.long()
    if not len(places):
        raise DataError(
            f"{source} has no position in windows of {length} tokens: the scored n-grams need {ahead} tokens "
            "after it; use longer windows or a smaller min_context"
        )
    if (places % chunk_size).any():
        raise DataError(f"n-grams start where a chunk of {chunk_size} tokens does, {source} does not: {remedy}")
    if int(places.min()) < chunk_size or int(places.max()) > length - ahead:
        raise DataError(
            f"positions must lie between {chunk_size} (a chunk of context before) and {length - ahead} ({ahead} "
            f"tokens of the window after), {source} runs from {int(places.min())} to {int(places.max())}"
        )
    return places.long().to(windows.device)


def _clusters(clusters: Numbers | None, num_windows: int) -> npt.NDArray[np.int64]:
    """(W,)."""
    labels = torch.arange(num_windows) if clusters is None else _tensor(clusters).cpu()
    if labels.shape != (num_windows,) or not is_integer(labels) or len(labels.unique()) < 2:
        raise DataError(
            f"clusters must be one whole number for each of the {num_windows} windows, with at least two "
            f"different ones, {describe(labels)} with {len(labels.unique())} different given"
        )
    return np.asarray(labels.long().numpy())


def _tensor(value: Numbers) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        return torch.from_numpy(np.array(value))  # a copy: what is given may be read-only
    except (TypeError, ValueError) as error:
        raise DataError(f"whole numbers are wanted, {type(value).__name__} given: {error}") from None

"""Plain functions as the models that BrierLM's estimators ask; every answer of theirs is checked.

Letters: B windows, T tokens, K chunk size, S samples, V vocabulary, R branches of a window, r texts to continue;
b contexts of t tokens in one call, m tokens of a branch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import DataError
from workbench.language_model import (
    DistributionBranches,
    DistributionContext,
    DistributionModel,
    KnownChunks,
    SampledBranches,
    SampledContext,
    SampledModel,
)

MANY_CONTEXTS = 64
"""After so many contexts without two different samples, the samples are taken not to be independent."""
NORMALISED = 0.05
"""How far the log of a row's sum of probabilities may be from 0 (log_softmax in bfloat16 reaches 0.034)."""

Sampler: TypeAlias = Callable[[Int[Tensor, "b t"], int, torch.Generator], Int[Tensor, "s b k"]]
LogProbs: TypeAlias = Callable[[Int[Tensor, "b t"]], Float[Tensor, "b v"]]


class SamplerModel(SampledModel):
    """A sampler of continuations as the model that ``sampled_brier`` asks. Every answer is checked."""

    def __init__(self, sampler: Sampler, chunk_size: int) -> None:
        self.sampler = sampler
        self.chunk_size = chunk_size
        self.row_elements = 2 * chunk_size  # of int64
        self._num_alike: int | None = 0
        """Contexts without two different samples so far; None once there were two."""

    def read(self, windows: Int[Tensor, "b t"]) -> _SampledTexts:
        return _SampledTexts(self, windows)

    def draw(
        self,
        windows: Int[Tensor, "b t"],
        window: Int[Tensor, " r"],
        lengths: Int[Tensor, " r"],
        own: Int[Tensor, "r m"],
        num_samples: int,
        rng: torch.Generator,
    ) -> KnownChunks:
        """(S, r, K) continuations of the texts of ``_contexts``."""
        samples = lengths.new_empty(num_samples, len(lengths), self.chunk_size)
        for contexts, rows in _contexts(windows, window, lengths, own):
            answer: object = self.sampler(contexts, num_samples, rng)
            samples[:, rows] = self._checked(answer, num_samples, contexts)
        return KnownChunks(samples)

    def _checked(self, answer: object, num_samples: int, contexts: Tensor) -> Tensor:
        wanted = (num_samples, len(contexts), self.chunk_size)
        if (
            not isinstance(answer, Tensor)
            or answer.shape != wanted
            or not is_integer(answer)
            or answer.device != contexts.device
        ):
            raise DataError(
                f"the sampler must return token ids, an integer tensor of shape {wanted} (num_samples, contexts, "
                f"chunk_size) on {contexts.device}; it returned {describe(answer)}"
            )
        if self._num_alike is not None:
            self._num_alike = self._num_alike + len(contexts) if bool((answer == answer[:1]).all()) else None
            _require_independent(self._num_alike or 0, num_samples)
        return answer.long()


def _require_independent(num_alike: int, num_samples: int) -> None:
    """``num_alike``: contexts in which all samples were the same, no other context having been seen."""
    if num_alike >= MANY_CONTEXTS:
        raise DataError(
            f"all {num_samples} samples were identical in each of the first {num_alike} contexts: one noise was "
            "used for all of them, and BrierLM would mean nothing. The sampler must draw every sample anew from "
            "rng; a model that really is deterministic can be given to score_distribution"
        )


class _SampledTexts(SampledContext):
    def __init__(self, model: SamplerModel, windows: Tensor) -> None:
        self.model, self.windows = model, windows

    def sample(self, window: Tensor, index: Tensor, num_samples: int, *, rng: torch.Generator) -> KnownChunks:
        lengths = (index + 1) * self.model.chunk_size
        own = self.windows.new_empty(len(window), 0)
        return self.model.draw(self.windows, window, lengths, own, num_samples, rng)

    def branch(self, index: Tensor) -> _SampledContinuations:
        return _SampledContinuations(self.model, self.windows, index)


class _SampledContinuations(SampledBranches):
    """Branches as texts of their own: the window up to where they leave it, then their own chunks."""

    def __init__(self, model: SamplerModel, windows: Tensor, index: Tensor) -> None:
        self.model, self.windows = model, windows
        self.lengths = (index + 1) * model.chunk_size
        self.own = windows.new_empty(*index.shape, 0)

    def keep(self, branch: Tensor) -> None:
        self.lengths = self.lengths.gather(1, branch)
        self.own = self.own.take_along_dim(branch.unsqueeze(-1), dim=1)

    def extend(self, chunks: Tensor) -> None:
        self.own = torch.cat([self.own, chunks], -1)

    def sample(self, window: Tensor, branch: Tensor, num_samples: int, *, rng: torch.Generator) -> KnownChunks:
        lengths, own = self.lengths[window, branch], self.own[window, branch]
        return self.model.draw(self.windows, window, lengths, own, num_samples, rng)


class CallableDistribution(DistributionModel):
    """A function of log probabilities as the model that ``distribution_brier`` asks. Every answer is checked."""

    def __init__(self, function: LogProbs, *, least_vocab: int) -> None:
        """``least_vocab``: ids that the text has."""
        self.function = function
        self.least_vocab = least_vocab
        self.row_elements = 3 * least_vocab  # answers, all in one, their squares; V once that is known
        self._vocab_size: int | None = None

    def read(self, windows: Int[Tensor, "b t"]) -> _DistributionTexts:
        return _DistributionTexts(self, windows)

    def ask(
        self, windows: Int[Tensor, "b t"], lengths: Int[Tensor, "b r"], own: Int[Tensor, "b r m"]
    ) -> Float[Tensor, "b r v"]:
        """(B, R, V) log probabilities after the texts of ``_contexts``."""
        window = torch.arange(len(windows), device=windows.device).repeat_interleave(lengths.shape[1])
        result: Tensor | None = None
        for contexts, rows in _contexts(windows, window, lengths.flatten(), own.flatten(0, 1)):
            answer = self._checked(self.function(contexts), contexts)
            if result is None:
                result = answer.new_empty(lengths.numel(), answer.shape[-1])
            result[rows] = answer
        assert result is not None, "no position"
        return result.view(*lengths.shape, -1)

    def _checked(self, answer: object, contexts: Tensor) -> Tensor:
        num, vocab = len(contexts), self._vocab_size
        if (
            not isinstance(answer, Tensor)
            or answer.ndim != 2
            or len(answer) != num
            or answer.shape[1] < self.least_vocab
            or answer.shape[1] != (vocab or answer.shape[1])
            or not answer.is_floating_point()
            or answer.device != contexts.device
        ):
            size = f"{vocab} as before" if vocab else f"V at least {self.least_vocab}"
            raise DataError(
                f"the function must return log probabilities, a floating-point tensor of shape ({num}, V) "
                f"(contexts, vocabulary; {size}) on {contexts.device}; it returned {describe(answer)}"
            )
        self._vocab_size = answer.shape[1]
        self.row_elements = 3 * self._vocab_size
        answer = answer.float()
        off = answer.logsumexp(-1).abs()
        if not bool((off <= NORMALISED).all()):  # not the other way round: nan counts
            raise DataError(
                "the function must return log probabilities; one row's probabilities add up to "
                f"exp({float(answer.logsumexp(-1)[off.argmax()]):.4g}), not 1. Logits? Apply log_softmax to them"
            )
        return answer


class _DistributionTexts(DistributionContext):
    def __init__(self, model: CallableDistribution, windows: Tensor) -> None:
        self.model, self.windows = model, windows

    def log_probs(self, index: Tensor) -> Tensor:
        return self.branch(index).log_probs()

    def branch(self, index: Tensor) -> _DistributionContinuations:
        return _DistributionContinuations(self.model, self.windows, index)


class _DistributionContinuations(DistributionBranches):
    def __init__(self, model: CallableDistribution, windows: Tensor, index: Tensor) -> None:
        self.model, self.windows = model, windows
        self.lengths = index + 1
        self.own = windows.new_empty(*index.shape, 0)

    def extend(self, tokens: Tensor) -> None:
        self.own = torch.cat([self.own, tokens.unsqueeze(-1)], -1)

    def log_probs(self) -> Tensor:
        return self.model.ask(self.windows, self.lengths, self.own)


def _contexts(windows: Tensor, window: Tensor, lengths: Tensor, own: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Texts of one length at a time, (b, t), with their numbers among all r: the first ``lengths`` (r,) tokens of
    the rows ``window`` (r,) of ``windows`` (B, T), followed by tokens (r, m) of their own."""
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        yield torch.cat([windows[window[rows], :length], own[rows]], -1), rows


def is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def describe(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"an object of type {type(value).__name__}"
    return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)} on {value.device}"

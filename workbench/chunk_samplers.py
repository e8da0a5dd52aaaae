"""The next chunk from hidden states: one table of samplers (METHOD section 6).

| sampler | model | draws |
|---|---|---|
| ``plain`` | any | the model's own distribution |
| ``exact`` | CALM | temperature by rejection, with a budget (``workbench.temperature``) |
| ``batch`` | CALM | temperature by the multiplicities of N samples; biased for finite N |
| ``noise`` | CALM | the head's noise scaled, a heuristic at constant cost |
| ``softmax`` | token baseline | temperature by its probabilities, exact |

Letters: n places, S samples, K chunk size, D width, L latent dimension, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.baseline import TokenBaseline
from workbench.errors import ConfigError
from workbench.language_model import LanguageModel
from workbench.model import Calm
from workbench.slices import rows_at_once
from workbench.temperature import BUDGET, Draws, Tempered, batch, exact

KINDS = ("auto", "plain", "exact", "batch", "noise", "softmax")
DEFAULT_TEMPERATURE = 0.5
"""At 1 text of small models reads as word salad; the authors advise at most this."""
DEFAULT_BATCH_SIZE = 32
DEFAULT_NOISE_SCALE = 0.5
TEMPERED = ("exact", "batch", "softmax")
"""Samplers that a temperature means something to."""


@dataclass(frozen=True)
class SamplerChoice:
    """Which sampler, at which settings. Raises ConfigError for values out of range or without meaning for it."""

    kind: str = "auto"
    """``auto``: ``batch`` for a CALM (at temperature 1 ``plain``), ``softmax`` for a token baseline."""
    temperature: float | None = None
    """tau of ``exact``, ``batch`` (0 < tau <= 1) and ``softmax`` (any above 0); None: 0.5."""
    batch_size: int = DEFAULT_BATCH_SIZE
    """N of ``batch``, and of ``exact`` where it falls back to it."""
    noise_scale: float | None = None
    """Of ``noise``: 1 is the model's own distribution, 0 always the same chunk; None: 0.5."""
    budget: int = BUDGET
    """Samples that ``exact`` may draw for one chunk."""
    on_spent: Literal["error", "batch"] = "error"
    """What ``exact`` does when they are spent: SamplingError, or ``batch`` decides that chunk."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"sampler must be one of {', '.join(KINDS)}; {self.kind!r} given")
        if self.temperature is not None:
            self._check_temperature(self.temperature)
        for name, number in (("batch_size", self.batch_size), ("budget", self.budget)):
            if number < 1:
                raise ConfigError(f"{name} must be at least 1, {number} given")
        if self.noise_scale is not None:
            self._check_noise_scale(self.noise_scale)

    def _check_temperature(self, temperature: float) -> None:
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ConfigError(
                f"temperature must be above 0 (0.5 is the default, 1 the model's own distribution), "
                f"{temperature:g} given. Greedy text, the limit at 0, is not available; a low temperature comes "
                "near to it, such as 0.1 (of a CALM, known by its samples alone, with a batch size of 200)"
            )
        if self.kind in ("exact", "batch") and temperature > 1:
            raise ConfigError(f"sampler {self.kind} takes temperatures in (0, 1], {temperature:g} given")
        if self.kind == "plain" and temperature != 1:
            raise ConfigError(
                f"sampler plain draws at temperature 1, {temperature:g} given; choose batch or exact for a CALM, "
                "softmax for a token baseline"
            )
        if self.kind == "noise":
            raise ConfigError(
                "sampler noise has no temperature; it is set by a noise scale (1: the model's own distribution)"
            )

    def _check_noise_scale(self, scale: float) -> None:
        if not (scale >= 0 and math.isfinite(scale)):
            raise ConfigError(f"noise_scale must be at least 0, {scale:g} given")
        if self.kind != "noise":
            raise ConfigError(f"noise_scale has no effect on sampler {self.kind}; choose sampler noise")

    def resolved(self, model: LanguageModel) -> SamplerChoice:
        """The same with nothing left open. Raises ConfigError for a sampler that the model cannot use."""
        kind = self.kind
        if kind == "auto" and isinstance(model, Calm):
            kind = "plain" if self.temperature == 1 else "batch"
        elif kind == "auto":
            kind = "softmax"
        if isinstance(model, Calm) and kind == "softmax":
            raise ConfigError(
                "sampler softmax needs a token model's probabilities and a CALM has none; choose batch, exact, "
                "noise or plain"
            )
        if not isinstance(model, Calm) and kind in ("exact", "batch", "noise"):
            raise ConfigError(
                f"sampler {kind} is for a CALM, which is known by its samples alone; choose softmax for a token "
                "baseline: it is exact, at any temperature and at no cost"
            )
        return replace(
            self,
            kind=kind,
            temperature=(self.temperature or DEFAULT_TEMPERATURE) if kind in TEMPERED else None,
            noise_scale=(DEFAULT_NOISE_SCALE if self.noise_scale is None else self.noise_scale)
            if kind == "noise"
            else None,
        )

    def effective_temperature(self) -> float | None:
        """tau of a resolved choice: 1 for ``plain``; None for ``noise``, which has none."""
        return 1.0 if self.kind == "plain" else self.temperature

    def __str__(self) -> str:
        """Of a resolved choice: ``batch N = 32 at temperature 0.5``."""
        words = self.kind + (f" N = {self.batch_size}" if self.kind == "batch" else "")
        if self.noise_scale is not None:
            words += f" scale {self.noise_scale:g}"
        if self.temperature is not None:
            words += f" at temperature {self.temperature:g}"
        return words


class HiddenSource:
    """A CALM's next chunks at hidden states: a ``temperature.ChunkSource``."""

    def __init__(self, model: Calm, hidden: Float[Tensor, "n d"], *, noise_scale: float = 1.0) -> None:
        """``noise_scale`` multiplies the head's noise. Predicted latent vectors are kept where the model feeds
        them back."""
        self.num_places, self.device = hidden.shape[0], hidden.device
        self._model, self._hidden, self._noise_scale = model, hidden, noise_scale

    @torch.no_grad()
    def draw(self, places: Int[Tensor, " m"], num_samples: int, *, rng: torch.Generator) -> Draws:
        """Samples (S, m, K) and their latent vectors (S, m, L) or None, computed in slices of places."""
        head, hidden = self._model.network.head, self._hidden[places]
        width = 4 * hidden.shape[-1]  # of the heads' joined inputs and gates
        parts = hidden.split(max(1, rows_at_once(width, self.device) // num_samples))
        drawn = [
            head.sample(part, num_samples=num_samples, rng=rng, noise_scale=self._noise_scale) for part in parts
        ]
        latents = torch.cat(drawn, dim=1)
        chunks = self._model.autoencoder.decode(latents)
        return Draws(chunks, latents if feeds_predicted(self._model) else None)


def feeds_predicted(model: Calm) -> bool:
    """Whether generation feeds the predicted latent vector back, not that of the decoded tokens."""
    return model.uses_latents and model.network.config.latent_feedback == "predicted"


@torch.no_grad()
def next_chunks(
    model: LanguageModel, hidden: Float[Tensor, "n d"], sampler: SamplerChoice, *, rng: torch.Generator
) -> Tempered:
    """One chunk after each hidden state by a resolved choice. Raises SamplingError where ``exact`` has spent its
    budget."""
    return SAMPLERS[sampler.kind](model, hidden, sampler, rng)


def _plain(model: LanguageModel, hidden: Tensor, sampler: SamplerChoice, rng: torch.Generator) -> Tempered:
    if isinstance(model, Calm):
        return _once(HiddenSource(model, hidden), rng)
    return _softmax(model, hidden, replace(sampler, kind="softmax", temperature=1.0), rng)


def _noise(model: LanguageModel, hidden: Tensor, sampler: SamplerChoice, rng: torch.Generator) -> Tempered:
    assert isinstance(model, Calm)
    assert sampler.noise_scale is not None
    return _once(HiddenSource(model, hidden, noise_scale=sampler.noise_scale), rng)


def _once(source: HiddenSource, rng: torch.Generator) -> Tempered:
    draws = source.draw(torch.arange(source.num_places, device=source.device), 1, rng=rng)
    return _one_call_each(draws.chunks[0], None if draws.latents is None else draws.latents[0])


def _one_call_each(chunks: Tensor, latents: Tensor | None) -> Tempered:
    calls = torch.ones(len(chunks), dtype=torch.long, device=chunks.device)
    return Tempered(chunks, latents, calls=calls, drawn=len(chunks), fallback=torch.zeros_like(calls).bool())


def _exact(model: LanguageModel, hidden: Tensor, sampler: SamplerChoice, rng: torch.Generator) -> Tempered:
    assert isinstance(model, Calm)
    assert sampler.temperature is not None
    return exact(
        HiddenSource(model, hidden),
        temperature=sampler.temperature,
        rng=rng,
        budget=sampler.budget,
        on_spent=sampler.on_spent,
        batch_size=sampler.batch_size,
    )


def _batch(model: LanguageModel, hidden: Tensor, sampler: SamplerChoice, rng: torch.Generator) -> Tempered:
    assert isinstance(model, Calm)
    assert sampler.temperature is not None
    source = HiddenSource(model, hidden)
    return batch(source, temperature=sampler.temperature, batch_size=sampler.batch_size, rng=rng)


def _softmax(model: LanguageModel, hidden: Tensor, sampler: SamplerChoice, rng: torch.Generator) -> Tempered:
    """p^(1/tau) renormalised, one token a place."""
    assert isinstance(model, TokenBaseline)
    assert sampler.temperature is not None
    log_probs = model.network.log_probs(hidden)  # (n, V)
    # double precision, from the largest: at a low temperature the others may vanish, but not all of them
    scaled = (log_probs - log_probs.amax(-1, keepdim=True)).double() / sampler.temperature
    return _one_call_each(torch.multinomial(scaled.softmax(-1), 1, generator=rng), None)


SAMPLERS: dict[str, Callable[[LanguageModel, Tensor, SamplerChoice, torch.Generator], Tempered]] = {
    "plain": _plain,
    "exact": _exact,
    "batch": _batch,
    "noise": _noise,
    "softmax": _softmax,
}
"""The table of alternatives; a choice is resolved before it is looked up."""

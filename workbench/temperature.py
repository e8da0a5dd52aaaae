"""Chunks at a temperature from samples alone: P_tau(x) ~ P(x)^(1/tau), 0 < tau <= 1 (METHOD section 6).

``exact`` is the paper's Algorithm 1, rejection by agreement; ``batch`` its Algorithm 2, how often each chunk
occurs among N samples, with weights that are consistent for every tau. Both work at many places (positions of
texts) at once. Throughout 1/tau = n + a with n = floor(1/tau).

Letters: n places, s samples of each of m listed ones, K chunk size, L latent dimension, V chunks that P knows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import ConfigError, SamplingError
from workbench.temperature_counts import Counts, Floats, Ints, labels_of, log_weights

BUDGET, BATCH_SIZE, LOOK_AHEAD = 10_000, 200, 64
MOST_CHUNKS = 2**18
"""Samples asked for at a time, over all places."""
WHOLE = 1e-9
"""1/tau within this, relatively, of a whole number is that number: 1/0.1 and 1/(1/3) need not be whole."""


@dataclass(frozen=True)
class Draws:
    """Samples of some places."""

    chunks: Int[Tensor, "s m k"]
    latents: Float[Tensor, "s m l"] | None = None
    """What belongs to each sample: the predicted latent vector. None if nothing does."""


@runtime_checkable
class ChunkSource(Protocol):
    """P at every place, known by its samples alone."""

    @property
    def num_places(self) -> int:
        """At least 1."""
        ...

    @property
    def device(self) -> torch.device: ...

    def draw(self, places: Int[Tensor, " m"], num_samples: int, *, rng: torch.Generator) -> Draws:
        """s = ``num_samples`` samples at each of the listed places, independent of each other and of all that were
        drawn before; ``places`` may be any subset. At most ``MOST_CHUNKS`` samples are asked for at a time, or one
        of each place, or all of one place."""
        ...


@dataclass(frozen=True)
class Tempered:
    """One chunk for each place."""

    chunks: Int[Tensor, "n k"]
    latents: Float[Tensor, "n l"] | None
    """Of a sample that was this chunk; given the chunk, it has the law that it has at tau = 1."""
    calls: Int[Tensor, " n"]
    """Samples that each place's result used, counted as in ``expected_calls``; after a fallback those of both."""
    drawn: int
    """Samples asked of the source over all places; look-ahead that was not used is in it."""
    fallback: Bool[Tensor, " n"]
    """Places that the batch approximation decided, because the budget was spent."""


def reciprocal(temperature: float) -> tuple[int, float]:
    """n and a of 1/tau = n + a, 0 <= a < 1. Raises ConfigError for a temperature outside (0, 1]."""
    if not 0.0 < temperature <= 1.0:
        raise ConfigError(
            f"temperature must be above 0 and at most 1 (1 samples from the model as it is), {temperature} given"
        )
    inverse = min(1.0 / temperature, 2.0**53)  # more agreeing samples than anybody draws; fits in int64
    nearest = round(inverse)
    if abs(inverse - nearest) <= WHOLE * nearest:
        return nearest, 0.0
    return math.floor(inverse), inverse - math.floor(inverse)


# ---- Algorithm 1 ---------------------------------------------------------------------------------------


@torch.no_grad()
def exact(
    source: ChunkSource,
    *,
    temperature: float,
    rng: torch.Generator,
    budget: int = BUDGET,
    on_spent: Literal["error", "batch"] = "error",
    batch_size: int = BATCH_SIZE,
    look_ahead: int = LOOK_AHEAD,
) -> Tempered:
    """One chunk of P_tau at every place (paper, Algorithm 1): n samples that agree, then, for a > 0, a coin of
    probability P(x)^a made of further samples. Stage 1 ends at the first sample that differs; the next one begins
    a new attempt. ``expected_calls`` is the mean number of calls.

    Every place reads a stream of independent samples in order, and when it stops depends only on what it has read:
    what is drawn ahead and never read can be dropped. Blocks of samples grow with what has been read, up to
    ``look_ahead`` for a place; with 1 nothing is drawn ahead.

    ``budget``: samples of one place. When it is spent, SamplingError is raised, or, with ``on_spent="batch"``,
    ``batch`` with ``batch_size`` decides the unfinished places. Then the whole is no longer exact: the fallback is
    an approximation, and for a > 0 a spent budget hits rare chunks more often, as their stage 2 takes longer.

    Raises ConfigError for a temperature outside (0, 1] or a number below 1."""
    whole, part = reciprocal(temperature)
    _check_at_least_one(budget=budget, batch_size=batch_size, look_ahead=look_ahead)
    least = whole + (part > 0)
    limit = budget if budget >= least else 0  # nothing could be decided: nothing is drawn
    active = torch.arange(source.num_places, device=source.device)
    attempts = _Attempts(whole, part)
    decided: list[_Decided] = []
    used = drawn = 0
    while len(active) and used < limit:
        size = min(look_ahead, max(least, used // 4), max(1, MOST_CHUNKS // len(active)), limit - used)
        draws = _draw(source, active, size, rng)
        drawn += size * len(active)
        when = attempts.feed(draws.chunks, rng)
        done, going = (when >= 0).nonzero()[:, 0], when < 0
        if len(done):
            number = when[done] * len(active) + done
            decided.append(_taken(draws, number, active[done], calls=when[done] + used + 1))
            active = active[going]
            attempts.keep(going)
        used += size
    if len(active):
        if on_spent == "error":
            raise SamplingError(
                f"exact sampling at temperature {temperature:g}: {len(active)} of {source.num_places} places are "
                f"unfinished after the budget of {budget:,} sampler calls each; set a larger budget or a higher "
                'temperature, use the batch sampler, or let it decide these places (on_spent="batch")'
            )
        decided += _batch(source, active, whole + part, batch_size, rng, after=used)
        drawn += batch_size * len(active)
    return _in_order(decided, drawn)


class _Attempts:
    """The attempts of the places that are still going, one sample of each at a time."""

    def __init__(self, whole: int, part: float) -> None:
        self.whole, self.part = whole, part
        self.candidate: Tensor | None = None
        """(m, K): the first sample of the attempt."""
        self.matched = self.tries = torch.empty(0, dtype=torch.long)
        """(m,): samples of stage 1 that agree, n in stage 2; samples of stage 2."""

    def keep(self, going: Tensor) -> None:
        assert self.candidate is not None
        self.candidate, self.matched, self.tries = self.candidate[going], self.matched[going], self.tries[going]

    def feed(self, block: Tensor, rng: torch.Generator) -> Tensor:
        """Read (s, m, K) samples. Returns (m,): which of them decided its place, -1 where none did; the result of
        the place is that sample. What a decided place reads afterwards is without consequence."""
        num, m = block.shape[:2]
        device = block.device
        if self.candidate is None:
            self.candidate = torch.zeros_like(block[0])
            self.matched = self.tries = torch.zeros(m, dtype=torch.long, device=device)
        coins = None
        if self.part > 0:  # double precision: a/i gets small
            coins = torch.rand(num, m, generator=rng, device=device, dtype=torch.float64)
        when = torch.full((m,), -1, device=device)
        for t, chunk in enumerate(block.unbind(0)):
            equal = (chunk == self.candidate).all(-1)
            first, second = self.matched == 0, self.matched == self.whole
            self.candidate = torch.where(first.unsqueeze(-1), chunk, self.candidate)
            matched = torch.where(equal | first, self.matched + 1, 0)
            if coins is None:
                accepted = matched == self.whole
            else:
                accepted = second & equal
                self.tries = torch.where(second, self.tries + 1, 0)
                rejected = coins[t] * self.tries < self.part
                matched = torch.where(second, torch.where(equal | ~rejected, self.whole, 0), matched)
            self.matched = matched
            when = torch.where(accepted & (when < 0), t, when)
        return when


# ---- Algorithm 2 ---------------------------------------------------------------------------------------


@torch.no_grad()
def batch(source: ChunkSource, *, temperature: float, batch_size: int, rng: torch.Generator) -> Tempered:
    """One chunk of about P_tau at every place from N = ``batch_size`` samples of it (paper, Algorithm 2; ours for
    a > 0). A chunk seen c times has weight Gamma(c+1) / Gamma(c+1-1/tau), for a = 0 C(c, n) up to a factor, among
    those with c >= 1/tau. Where there is none, the levels m = n, n-1, ..., 1 are tried in turn, weight C(c, m)
    among c >= m. The first level with a candidate holds the most frequent chunks alone, all with c = m.

    Biased for finite N, P itself for N = 1, and consistent for N to infinity. Memory is that of the samples.
    Raises ConfigError for a temperature outside (0, 1] or a batch_size below 1."""
    whole, part = reciprocal(temperature)
    _check_at_least_one(batch_size=batch_size)
    places = torch.arange(source.num_places, device=source.device)
    decided = _batch(source, places, whole + part, batch_size, rng)
    return _in_order(decided, batch_size * source.num_places)


def _batch(
    source: ChunkSource,
    places: Tensor,
    inverse: float,
    batch_size: int,
    rng: torch.Generator,
    *,
    after: int | None = None,
) -> list[_Decided]:
    """``after``: as a fallback, after so many samples of each place."""
    found = []
    for some in places.split(max(1, MOST_CHUNKS // batch_size)):
        draws = _draw(source, some, batch_size, rng)
        tickets = torch.rand(len(some), generator=rng, device=some.device, dtype=torch.float64)
        number = torch.from_numpy(_choose(labels_of(draws.chunks), inverse, tickets.cpu().numpy()))
        calls = torch.full_like(some, (after or 0) + batch_size)
        found.append(_taken(draws, number.to(some.device), some, calls=calls, fallback=after is not None))
    return found


def _choose(labels: Ints, inverse: float, tickets: Floats) -> Ints:
    """Of labels (m, s), and a uniform number for each place, the number (m,) of a sample with the chosen label:
    sample i at place j has the number i * m + j."""
    counts = Counts(labels)
    most = counts.most()
    level = np.minimum(most, math.ceil(inverse))  # (m,): candidates are seen so often, or more
    kept = np.flatnonzero(counts.count >= level.min())
    place, count = counts.start[kept] // labels.shape[1], counts.count[kept]
    log_weight = log_weights(inverse, labels.shape[1])
    weight = np.exp(log_weight[count] - log_weight[most[place]]) * (count >= level[place])
    upto = np.zeros(len(weight) + 1)  # over all places; each has at least the weight 1
    np.cumsum(weight, out=upto[1:])
    ends = np.searchsorted(place, np.arange(len(labels) + 1))
    below, above = upto[ends[:-1]], upto[ends[1:]]
    chosen = np.searchsorted(upto[1:], below + tickets * (above - below), side="right")
    chosen = np.minimum(chosen, ends[1:] - 1)  # where a ticket near 1 was rounded up
    label = counts.ordered[counts.start[kept[chosen]]]
    number: Ints = (labels == label[:, None]).argmax(1) * len(labels) + np.arange(len(labels))
    return number


# ---- the number of calls -------------------------------------------------------------------------------


def expected_calls(probs: Float[Tensor, "*batch v"], temperature: float) -> Float[Tensor, "*batch"]:
    """Mean number of sampler calls of ``exact`` for one chunk, given P (METHOD section 6, stage 1 ending at the
    first sample that differs):

        (1 + sum_{j=1}^{n-1} sum_x P(x)^j + 1[a > 0] sum_x P(x)^(1/tau - 1)) / sum_x P(x)^(1/tau)

    float64; inf where that is too large for it. Raises ConfigError for a temperature outside (0, 1]."""
    whole, part = reciprocal(temperature)
    p = probs.double()
    log_p = p.log()
    # sum_{j=1}^{n-1} p^j = p (1 - p^(n-1)) / (1 - p), and n - 1 for p = 1
    repeats = torch.where(p < 1, p * torch.expm1((whole - 1) * log_p) / torch.expm1(log_p), whole - 1.0)
    calls = 1 + (repeats.sum(-1) if whole > 1 else 0.0)
    if part > 0:
        calls = calls + p.pow(whole + part - 1).sum(-1)
    log_accepted = torch.logsumexp((whole + part) * log_p, dim=-1)
    found: Tensor = calls * log_accepted.neg().exp()
    return found


@torch.no_grad()
def estimate_expected_calls(
    source: ChunkSource, *, temperature: float, num_samples: int, rng: torch.Generator
) -> Float[Tensor, " n"]:
    """``expected_calls`` of every place from N = ``num_samples`` samples of it, float64: what to warn by
    beforehand. Each of its sums is estimated (``Counts.power_sum``), without bias where the power is whole.

    inf where no chunk was seen 1/tau times: the mean is unknown, and large. For tau <= 1/2 the estimate is
    consistent, and errs upwards where few chunks were seen so often. For 1/2 < tau < 1 it is a lower bound,
    perhaps by orders of magnitude: chunks too rare to be seen govern the mean, since stage 2 takes p^(a-1) calls
    with a candidate of probability p. They are taken for as few as the numbers of chunks seen once and twice allow
    (Chao 1984), with the share of samples seen once as their joint probability (Good 1953). Most chunks need far
    fewer calls than the mean there.

    Raises ConfigError for a temperature outside (0, 1] or num_samples below 1."""
    whole, part = reciprocal(temperature)
    _check_at_least_one(num_samples=num_samples)
    found = []
    for some in torch.arange(source.num_places, device=source.device).split(max(1, MOST_CHUNKS // num_samples)):
        counts = Counts(labels_of(_draw(source, some, num_samples, rng).chunks))
        calls = 1.0 + sum(counts.power_sum(float(j)) for j in range(1, min(whole, num_samples + 1)))
        if part > 0:
            calls = calls + counts.power_sum(whole + part - 1)
        if part > 0 and whole == 1:
            once, twice = counts.seen(1), counts.seen(2)
            calls = calls + (once * (once - 1) / (2 * (twice + 1))) ** (1 - part) * (once / num_samples) ** part
        with np.errstate(divide="ignore"):
            found.append(calls / counts.power_sum(whole + part))
    return torch.from_numpy(np.concatenate(found)).to(source.device)


# ---- draws and results ---------------------------------------------------------------------------------


def _draw(source: ChunkSource, places: Tensor, num_samples: int, rng: torch.Generator) -> Draws:
    draws = source.draw(places, num_samples, rng=rng)
    assert draws.chunks.shape[:2] == (num_samples, len(places)), draws.chunks.shape
    return draws


@dataclass(frozen=True)
class _Decided:
    """Results of some places, in ascending order."""

    places: Tensor
    chunks: Tensor
    latents: Tensor | None
    calls: Tensor
    fallback: bool


def _taken(draws: Draws, number: Tensor, places: Tensor, *, calls: Tensor, fallback: bool = False) -> _Decided:
    """The samples with these numbers, as the results of these places: sample i of column j of m has i * m + j."""
    latents = None if draws.latents is None else draws.latents.flatten(0, 1)[number]
    return _Decided(places, draws.chunks.flatten(0, 1)[number], latents, calls, fallback)


def _in_order(decided: list[_Decided], drawn: int) -> Tempered:
    if len(decided) == 1:
        (part,) = decided
        fallen = torch.full_like(part.places, part.fallback, dtype=torch.bool)
        return Tempered(part.chunks, part.latents, part.calls, drawn, fallen)
    order = torch.cat([part.places for part in decided]).argsort()
    latents = [part.latents for part in decided if part.latents is not None]
    fallback = [torch.full_like(part.places, part.fallback, dtype=torch.bool) for part in decided]
    return Tempered(
        chunks=torch.cat([part.chunks for part in decided])[order],
        latents=torch.cat(latents)[order] if latents else None,
        calls=torch.cat([part.calls for part in decided])[order],
        drawn=drawn,
        fallback=torch.cat(fallback)[order],
    )


def _check_at_least_one(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(f"{name} must be at least 1, {number} given")

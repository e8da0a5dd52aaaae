"""The parts of a study's preset that say what is searched and how. Imports no Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from workbench.sections import Positive, Section

Scalar = bool | int | float | str | None


class Choices(Section):
    """A categorical parameter."""

    choices: Annotated[tuple[Scalar, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.choices)) < len(self.choices):
            raise ValueError(f"choices must differ, {list(self.choices)} given")
        return self


class Range(Section):
    """A number between ``low`` and ``high``, both included; whole numbers where both ends are."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, {self.low} and {self.high} given")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must start above 0, low {self.low} given")
        return self

    @property
    def is_int(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


def _text_keys(value: Any) -> Any:
    """YAML reads the keys of ``follows`` as numbers, JSON as text."""
    if not isinstance(value, dict):
        return value
    return {
        name: {str(k): v for k, v in row.items()} if isinstance(row, dict) else row for name, row in value.items()
    }


Follows = Annotated[dict[str, dict[str, dict[str, Scalar]]], BeforeValidator(_text_keys)]


def check_follows(space: Mapping[str, Any], follows: Mapping[str, Mapping[str, Mapping[str, Scalar]]]) -> None:
    """Raises ValueError where something follows from what is not searched, or twice, or is searched itself."""
    owner: dict[str, str] = {}
    for name, rows in follows.items():
        dimension = space.get(name)
        if not isinstance(dimension, Choices):
            raise ValueError(f"follows: {name} must be in the space, with choices; known: {sorted(space)}")
        unknown = sorted(set(rows) - {str(choice) for choice in dimension.choices})
        if unknown:
            raise ValueError(f"follows: {', '.join(unknown)} is not a choice of {name} {list(dimension.choices)}")
        missing = [choice for choice in dimension.choices if str(choice) not in rows]
        if missing:
            raise ValueError(f"follows: {name} {missing[0]} has no row; every choice needs what follows from it")
        for follower in {key for row in rows.values() for key in row}:
            if follower in space or owner.setdefault(follower, name) != name:
                other = "is searched" if follower in space else f"follows from {owner[follower]} already"
                raise ValueError(f"follows: {follower} cannot follow from {name}: it {other}")


def _dimension_kind(value: Any) -> str:
    return "choices" if isinstance(value, Choices) or (isinstance(value, dict) and "choices" in value) else "range"


Dimension = Annotated[
    Annotated[Choices, Tag("choices")] | Annotated[Range, Tag("range")], Discriminator(_dimension_kind)
]


class SamplerSpec(Section):
    """``tpe`` models all parameters together and counts running trials as poor ones, so that workers
    spread out; its first ``startup_trials`` are random. Trial t draws with a seed made of (seed, t).
    ``grid`` runs every setting of the space once, in its order: an ablation, not a search."""

    kind: Literal["tpe", "random", "grid"] = "tpe"
    seed: Annotated[int, Field(ge=0)] = 0
    startup_trials: Annotated[int, Field(ge=0)] = 6


class PrunerSpec(Section):
    """``percentile`` stops a trial whose best score so far is not among the best ``keep_percent`` of the
    completed trials' scores at the same evaluation (equal compute). It acts once ``startup_trials`` have
    completed and after the first ``warmup_evaluations`` of a trial, so that slow starters get their time."""

    kind: Literal["percentile", "none"] = "percentile"
    keep_percent: Annotated[float, Field(gt=0.0, le=100.0)] = 70.0
    startup_trials: Annotated[int, Field(ge=1)] = 5
    warmup_evaluations: Annotated[int, Field(ge=0)] = 3


class HeartbeatSpec(Section):
    """Seconds between a worker's signs of life, and without one until its trial is given to another."""

    interval: Positive = 15
    grace: Positive = 120
    max_retries: Annotated[int, Field(ge=0)] = 3

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.grace < 2 * self.interval:
            raise ValueError(
                f"grace {self.grace} must be at least twice the interval {self.interval}, or living "
                "trials are declared dead"
            )
        return self


class CheckSpec(Section):
    """Sensitivity checks of the best setting found: its learning rate times each factor."""

    lr_factors: tuple[Annotated[float, Field(gt=0.0)], ...] = ()

"""Configuration of the generative heads, chosen by ``kind`` (METHOD section 3). Imports no torch.

A section may be given fields of another head: they are dropped, so that ``model.head.kind`` alone changes the head
of a configuration, and equal experiments have equal hashes. Fields that no head has are refused.

Letters: D width, L latent dimension, N draws of the model and M of the posterior per position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    SerializeAsAny,
    Tag,
    model_validator,
)

LARGEST_WHOLE = 2**53
"""Above it whole numbers are not exact everywhere they go: tables, JSON of others, the tracking server."""
Positive = Annotated[int, Field(gt=0, le=LARGEST_WHOLE)]
Size = Annotated[int, Field(gt=0, le=1_000_000)]
"""Of a network: wider or deeper ones can not even be counted."""
Seed = Annotated[int, Field(ge=-LARGEST_WHOLE, le=LARGEST_WHOLE)]
DiffusionSolver = Literal["ddpm", "ddim", "dpm2m"]
FlowSolver = Literal["euler", "midpoint", "adams", "rk4"]
Solver = DiffusionSolver | FlowSolver
SOLVERS: dict[str, tuple[str, ...]] = {"diffusion": get_args(DiffusionSolver), "flow": get_args(FlowSolver)}
"""Of the heads that have several."""


_AS_BEFORE = object()


@dataclass(frozen=True)
class Since:
    """Annotation of a field that older runs do not have: ``Annotated[Positive, Since(2, before=1)]``.

    While it says what was done before there was such a field it is left out of the hash, so that a run of an
    older format keeps the hash that its record and its folder's name hold."""

    number: int
    """``formats.RUN`` that the field came with."""
    before: Any
    """What runs of older formats did."""
    left_out: Any = _AS_BEFORE
    """The value that is left out of the hash, where that is a new default that trains the same bits."""

    @property
    def neutral(self) -> Any:
        """What a run says that has the hash of then."""
        return self.before if self.left_out is _AS_BEFORE else self.left_out


class NotHashed:
    """Annotation of a field that says how a run is carried out, and changes no more than rounding: runs that
    differ in it alone are one, and a checkpoint moves between them."""


class Section(BaseModel):
    """A frozen part of a configuration; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def hashed(self) -> dict[str, Any]:
        """As JSON, for hashes: without newer fields that change nothing (``Since``), and those ``NotHashed``."""
        tree = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            if NotHashed in field.metadata:
                del tree[name]
        for name, since, value in self._marked():
            if since is not None and value == since.neutral:
                del tree[name]
            elif isinstance(value, Section):
                tree[name] = value.hashed()
        return tree

    def as_before(self, number: int, *, going_on: bool = False) -> Self:
        """Read from format ``number``: fields that came later, and were not given, say what was done then.
        ``going_on``: of runs that are yet to come, they say what is ``neutral``."""
        update = {}
        for name, since, value in self._marked():
            if since is not None and since.number > number and name not in self.model_fields_set:
                update[name] = since.neutral if going_on else since.before
            elif isinstance(value, Section):
                update[name] = value.as_before(number, going_on=going_on)
        return self.model_copy(update=update)

    def _marked(self) -> list[tuple[str, Since | None, Any]]:
        """Every field with its ``Since``, if any, and value."""
        fields = type(self).model_fields.items()
        marks = [(name, next((m for m in of.metadata if isinstance(m, Since)), None)) for name, of in fields]
        return [(name, since, getattr(self, name)) for name, since in marks]

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, given: Any) -> Any:
        """pydantic reads true as 1."""
        for name, value in given.items() if isinstance(given, dict) else ():
            field = cls.model_fields.get(name) if isinstance(name, str) else None
            if isinstance(value, bool) and field is not None and not _may_be_bool(field.annotation):
                raise ValueError(f"{name}: {str(value).lower()} given where a number or text is wanted")
        return given


def _may_be_bool(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_may_be_bool(part) for part in get_args(annotation))


def defaults(section: type[Section], names: Iterable[str]) -> dict[str, Any]:
    """Default values of some fields."""
    return {name: section.model_fields[name].default for name in names}


class HeadSection(Section):
    """What the sections of all heads have."""

    sampling_fields: ClassVar[tuple[str, ...]] = ()
    """Used when sampling alone: a trained head may be evaluated with other values."""

    @property
    def network_calls(self) -> int:
        """Passes through the network for one sample."""
        return 1

    def without_effect(self) -> dict[str, Any]:
        """Fields that have no effect beside the others, with their defaults."""
        return {}

    def chosen(self, num_layers: int) -> dict[str, Any]:
        """Values of the fields that say "choose for me", for a backbone of so many layers."""
        return {}


class OwnHeadConfig(HeadSection):
    """Base of the section of a head that lives outside the package; ``kind`` is its name there, as
    ``kind: Literal["my_head"] = "my_head"`` (``workbench.own_heads``, docs/own-head.md)."""

    kind: str


class _HeadSection(HeadSection):
    num_blocks: Size | None = None
    """Residual blocks; default num_layers / 4 as published, but at least 2."""

    def chosen(self, num_layers: int) -> dict[str, Any]:
        return {"num_blocks": self.num_blocks or max(2, num_layers // 4)}


class EnergyHeadConfig(_HeadSection):
    """The single-step energy head (paper, section 3; METHOD section 3.1)."""

    kind: Literal["energy"] = "energy"
    noise_dim: Size = 64
    num_samples: Annotated[int, Field(ge=2)] = 8
    """N: model samples per position in the loss."""
    num_targets: Positive = 100
    """M: posterior samples per position in the loss."""
    distance: Literal["power", "quadric"] = "power"
    """Of the score: d^alpha as published, or 1 - (1 + d^2 / (L scale^2))^(-gamma), which weighs what is near
    (``workbench.energy_score``)."""
    alpha: float = 1.0
    quadric_scale: Annotated[float, Field(gt=0.0, le=100.0)] = 0.5
    """Per latent dimension, so that it means the same for every L."""
    quadric_gamma: Annotated[float, Field(gt=0.0, le=100.0)] = 0.5

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0.0 < self.alpha < 2.0:
            raise ValueError(
                f"alpha must lie in (0, 2), {self.alpha} given: at 2 only the mean matters and the "
                "energy score is no longer strictly proper; the published value is 1"
            )
        return self

    def without_effect(self) -> dict[str, Any]:
        """Fields that the distance does not use, with their defaults."""
        unused = ("alpha",) if self.distance == "quadric" else ("quadric_scale", "quadric_gamma")
        return defaults(type(self), unused)


class _DenoisingHeadConfig(_HeadSection):
    """What the heads that sample in many steps share: the AdaLN network and its use."""

    sampling_fields: ClassVar[tuple[str, ...]] = ("solver", "num_calls", "spacing")
    time_dim: Annotated[int, Field(ge=2, multiple_of=2)] = 256
    """Sinusoids that the time is embedded by."""
    num_draws: Positive = 4
    """N: noise draws (each with a time and a posterior sample of its own) per position in the loss."""
    num_calls: Positive
    """Budget of network calls for one sample; what a solver's whole steps cannot use of it is left."""
    spacing: Literal["uniform", "dense_start", "dense_end"] = "uniform"
    """Of the times at which the network is called when sampling: evenly spaced, or closer together near the noise
    (start) or near the sample (end)."""


class DiffusionHeadConfig(_DenoisingHeadConfig):
    """The diffusion head with learned variance (METHOD section 3.2)."""

    kind: Literal["diffusion"] = "diffusion"
    num_steps: Annotated[int, Field(ge=2)] = 1000
    """Of the chain that is trained on."""
    noise_schedule: Literal["cosine", "linear"] = "cosine"
    num_calls: Annotated[int, Field(gt=0)] = 100
    solver: DiffusionSolver = "ddpm"
    """``ddpm``: ancestral sampling on the respaced chain with the learned variance. ``ddim``: without noise.
    ``dpm2m``: of second order with one call a step (DPM-Solver++ multistep)."""

    @property
    def solver_used(self) -> str:
        return self.solver

    @property
    def network_calls(self) -> int:
        return min(self.num_calls, self.num_steps)


class FlowHeadConfig(_DenoisingHeadConfig):
    """The flow-matching head (METHOD section 3.3)."""

    kind: Literal["flow"] = "flow"
    num_calls: Annotated[int, Field(gt=0)] = 20
    solver: FlowSolver = "midpoint"
    """``euler``: order 1, one call a step. ``midpoint``: order 2, two calls. ``adams``: two-step Adams-Bashforth,
    order 2 with one call a step. ``rk4``: order 4, four calls. With fewer calls than one step needs, Euler."""

    @property
    def solver_used(self) -> str:
        """Euler where the budget does not pay one step of ``solver``."""
        return self.solver if self.num_calls >= CALLS_PER_STEP[self.solver] else "euler"

    @property
    def num_solver_steps(self) -> int:
        return self.num_calls // CALLS_PER_STEP[self.solver_used]

    @property
    def network_calls(self) -> int:
        return self.num_solver_steps * CALLS_PER_STEP[self.solver_used]


CALLS_PER_STEP = {"euler": 1, "midpoint": 2, "adams": 1, "rk4": 4}
"""Network calls of one step of the flow head's solvers."""

HEAD_SECTIONS: dict[str, type[_HeadSection]] = {
    "energy": EnergyHeadConfig,
    "diffusion": DiffusionHeadConfig,
    "flow": FlowHeadConfig,
}
"""The table of alternatives; their modules are in ``workbench.heads.HEADS``."""


def head_kind(value: Any) -> str | None:
    """Of a section or of the mapping that one is built from."""
    if isinstance(value, Mapping):
        kind = value.get("kind", "energy")
        return kind if isinstance(kind, str) else None
    return getattr(value, "kind", None)


def head_section(kind: str) -> type[HeadSection]:
    """Of a head of the workbench or from outside. Raises ConfigError for a kind that is not here."""
    from workbench.own_heads import section_of

    return HEAD_SECTIONS.get(kind) or section_of(kind)


OWN_HEAD = "own head"
"""Tag of what is not in ``HEAD_SECTIONS``."""


def _tag(value: Any) -> str | None:
    kind = head_kind(value)
    return kind if kind is None or kind in HEAD_SECTIONS else OWN_HEAD


def _own_section(value: Any) -> Any:
    """Validated by the section that the kind names."""
    if isinstance(value, OwnHeadConfig) and type(value) is not OwnHeadConfig:
        return value
    return head_section(head_kind(value) or "").model_validate(value)


BuiltinHeadConfig = EnergyHeadConfig | DiffusionHeadConfig | FlowHeadConfig
HeadConfig = Annotated[
    Annotated[EnergyHeadConfig, Tag("energy")]
    | Annotated[DiffusionHeadConfig, Tag("diffusion")]
    | Annotated[FlowHeadConfig, Tag("flow")]
    | Annotated[SerializeAsAny[OwnHeadConfig], PlainValidator(_own_section), Tag(OWN_HEAD)],
    Discriminator(
        _tag, custom_error_type="head_kind", custom_error_message="kind must be the name of a head, as energy"
    ),
]


def own_fields(head: Any) -> Any:
    """A mapping for a head without the fields that other heads have and it has not. Values of a shared name stay
    where they are valid for it: ``solver`` is dropped where it names another head's.

    Raises ConfigError for a kind that is not here."""
    kind = head_kind(head) if isinstance(head, Mapping) else None
    if kind is None:
        return head
    section = head_section(kind)
    unknown = set(head) - set(section.model_fields)
    kept = {name: value for name, value in head.items() if name not in unknown or not owners_of(name)}
    others = {solver for other, solvers in SOLVERS.items() if kind != other for solver in solvers}
    if kind in SOLVERS and isinstance(kept.get("solver"), str) and kept["solver"] in others:
        del kept["solver"]
    return kept


def owners_of(field: Any) -> list[str]:
    """Kinds of the heads that have a field: the workbench's, otherwise those from outside that are here."""
    found = [kind for kind, section in HEAD_SECTIONS.items() if field in section.model_fields]
    if found:
        return found
    from workbench.own_heads import sections

    return [str(section.model_fields["kind"].default) for section in sections() if field in section.model_fields]


def sampling_variants(
    head: HeadConfig, budgets: Iterable[int], solvers: Iterable[str]
) -> list[DiffusionHeadConfig | FlowHeadConfig]:
    """The head with each solver of its own among ``solvers`` (by default the one it has) and each budget of
    network calls, budgets that come to the same calls once. None for a head without such settings."""
    if not isinstance(head, DiffusionHeadConfig | FlowHeadConfig):
        return []
    known = [solver for solver in solvers if solver in SOLVERS[head.kind]] or [head.solver]
    found = [
        head.model_copy(update={"solver": solver, "num_calls": budget})
        for solver in known
        for budget in sorted(budgets)
    ]
    return list({(one.solver_used, one.network_calls): one for one in found}.values())

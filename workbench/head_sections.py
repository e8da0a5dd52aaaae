"""Configuration of the generative heads, chosen by ``kind`` (METHOD section 3). Imports no torch.

A section may be given fields of another head: they are dropped, so that ``model.head.kind`` alone changes the head
of a configuration, and equal experiments have equal hashes. Fields that no head has are refused.

Letters: D width, L latent dimension, N draws of the model and M of the posterior per position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Positive = Annotated[int, Field(gt=0)]
DiffusionSolver = Literal["ddpm", "ddim", "dpm2m"]
FlowSolver = Literal["euler", "midpoint", "adams", "rk4"]
Solver = DiffusionSolver | FlowSolver
SOLVERS: dict[str, tuple[str, ...]] = {"diffusion": get_args(DiffusionSolver), "flow": get_args(FlowSolver)}
"""Of the heads that have several."""


class Section(BaseModel):
    """A frozen part of a configuration; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def defaults(section: type[Section], names: Iterable[str]) -> dict[str, Any]:
    """Default values of some fields."""
    return {name: section.model_fields[name].default for name in names}


class _HeadSection(Section):
    sampling_fields: ClassVar[tuple[str, ...]] = ()
    """Used when sampling alone: a trained head may be evaluated with other values."""
    num_blocks: Positive | None = None
    """Residual blocks; default num_layers / 4 as published, but at least 2."""

    @property
    def network_calls(self) -> int:
        """Passes through the network for one sample."""
        return 1

    def without_effect(self) -> dict[str, Any]:
        """Fields that have no effect beside the others, with their defaults."""
        return {}


class EnergyHeadConfig(_HeadSection):
    """The single-step energy head (paper, section 3; METHOD section 3.1)."""

    kind: Literal["energy"] = "energy"
    noise_dim: Positive = 64
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


HeadConfig = Annotated[
    Annotated[EnergyHeadConfig, Tag("energy")]
    | Annotated[DiffusionHeadConfig, Tag("diffusion")]
    | Annotated[FlowHeadConfig, Tag("flow")],
    Discriminator(
        head_kind, custom_error_type="head_kind", custom_error_message="kind must be energy, diffusion or flow"
    ),
]


def own_fields(head: Any) -> Any:
    """A mapping for a head without the fields that other heads have and it has not. Values of a shared name stay
    where they are valid for it: ``solver`` is dropped where it names another head's."""
    section = HEAD_SECTIONS.get(head_kind(head) or "") if isinstance(head, Mapping) else None
    if section is None:
        return head
    foreign = {name for other in HEAD_SECTIONS.values() for name in other.model_fields} - set(section.model_fields)
    kept = {name: value for name, value in head.items() if name not in foreign}
    others = {
        solver
        for kind, solvers in SOLVERS.items()
        if kind != section.model_fields["kind"].default
        for solver in solvers
    }
    if kept.get("solver") in others:
        del kept["solver"]
    return kept


def sampling_variants(
    head: HeadConfig, budgets: Iterable[int], solvers: Iterable[str]
) -> list[DiffusionHeadConfig | FlowHeadConfig]:
    """The head with each solver of its own among ``solvers`` (by default the one it has) and each budget of
    network calls, budgets that come to the same calls once. None for a head without such settings."""
    if isinstance(head, EnergyHeadConfig):
        return []
    known = [solver for solver in solvers if solver in SOLVERS[head.kind]] or [head.solver]
    found = [
        head.model_copy(update={"solver": solver, "num_calls": budget})
        for solver in known
        for budget in sorted(budgets)
    ]
    return list({(one.solver_used, one.network_calls): one for one in found}.values())

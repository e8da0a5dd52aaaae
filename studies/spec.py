"""What a study is, its presets, and the specification frozen when it is launched. Imports no Optuna.

A ``Study`` (a module) holds the question; a ``Preset`` (YAML) the settings; ``freeze`` makes of both a
``StudySpec``: complete, validated, written to ``study.json`` and to the storage. Queued trials read
nothing but the ``StudySpec``, so editing a preset never changes them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import pydantic
import yaml
from pydantic import Field, model_validator

from studies.named_runs import Runs
from studies.run_presets import expanded
from studies.search_spec import (
    CheckSpec,
    Dimension,
    Follows,
    HeartbeatSpec,
    PrunerSpec,
    Range,
    SamplerSpec,
    Scalar,
    check_follows,
)
from studies.texts import Texts
from studies.words import suggestion
from workbench import formats
from workbench.config import content_hash
from workbench.config_file import build_config, config_from_stored, flatten, shortened
from workbench.errors import ConfigError, HeadError, RunError, StudyError
from workbench.given_files import read_text
from workbench.sections import Positive, Section
from workbench.yaml_reading import FloatLoader, in_words, read_yaml

PRESETS = Path(__file__).parent / "presets"


class Preset(Section):
    """The settings of a study: everything but its question.

    Without a ``space`` there is no search: the study is its baselines, and ``trials`` is 0."""

    description: str = ""
    question: str = ""
    against: str = ""
    """Instead of the study's, where the preset asks it of other texts or other sizes."""
    base: dict[str, Any]
    """Configuration shared by all runs. ``preset: calm-m`` in it starts from a run preset, as in a baseline
    (``studies.run_presets``)."""
    space: dict[str, Dimension] = {}
    """Dotted configuration name to what is searched."""
    follows: Follows = {}
    """Searched name, value of it, and the settings that this value brings with it: the latent dimension with K,
    the learning rate with the width. One stated rule instead of a dimension of the search."""
    start: tuple[dict[str, Scalar], ...] = ()
    """Settings the search begins with (the rest of each is sampled); of a grid all of them, filled in. One that
    stands here again is repeated with other seeds: that measures the noise between seeds."""
    baselines: dict[str, dict[str, Any]] = {}
    """Name of a token baseline to its dotted settings; model.kind is set. They may change anything of the
    base, the text too (data.*): scores are then compared within one text only. ``seed: 1`` repeats what is
    otherwise the same cell with the next seeds, ``seed: 2`` with those after."""
    checks: CheckSpec = CheckSpec()
    trials: Annotated[int, Field(ge=0)] = 0
    """CALM trials that are to complete; of a grid the number of its settings, filled in."""
    max_pruned: Positive | None = None
    """Pruned and failed trials that may come on top; default as many as trials."""
    seeds: Positive = 1
    """Runs per trial; its score is their mean."""
    sampler: SamplerSpec = SamplerSpec()
    pruner: PrunerSpec = PrunerSpec()
    heartbeat: HeartbeatSpec = HeartbeatSpec()

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_follows(self.space, self.follows)
        if self.sampler.kind == "grid":
            return self._check_grid()
        if self.space:
            if self.trials < 1:
                raise ValueError(f"trials must be at least 1 where a space is searched, {self.trials} given")
            return self
        for name, given in (
            ("trials", self.trials),
            ("max_pruned", self.max_pruned),
            ("start", self.start),
            ("checks.lr_factors", self.checks.lr_factors),
        ):
            if given:
                raise ValueError(f"{name} is about a search and space is empty; leave {name} out or give a space")
        if not self.baselines:
            raise ValueError("nothing to run: give a space to search, or baselines, or both")
        return self

    def _check_grid(self) -> Self:
        """A grid runs each of its settings to the end: nothing to sample and, as budgets may differ, to prune."""
        ranges = [name for name, dimension in self.space.items() if isinstance(dimension, Range)]
        if not self.space or ranges:
            given = f"{', '.join(ranges)} is a range" if ranges else "no space is given"
            raise ValueError(f"sampler.kind grid wants a space of choices only; {given}")
        if self.pruner.kind != "none":
            raise ValueError(f"sampler.kind grid wants pruner.kind none, {self.pruner.kind} given")
        every = self.num_settings()
        if self.trials not in (0, every) or len(self.start) not in (0, every):
            raise ValueError(f"a grid runs all of its {every} settings; leave trials and start out")
        return self

    def num_settings(self) -> int | None:
        """Distinct settings of the search space; None where it is continuous, 0 without a search."""
        sizes = []
        for dimension in self.space.values():
            if isinstance(dimension, Range):
                if not dimension.is_int:
                    return None
                sizes.append(int(dimension.high) - int(dimension.low) + 1)
            else:
                sizes.append(len(dimension.choices))
        return math.prod(sizes) if sizes else 0

    @property
    def searches(self) -> bool:
        """Whether there is a search, or cells only."""
        return bool(self.space)

    @property
    def may_grow(self) -> bool:
        """Whether more trials may be asked for: of a search that is no grid."""
        return self.searches and self.sampler.kind != "grid"


@dataclass(frozen=True)
class Study:
    """A question and what would count against the expected answer, stated before anything runs."""

    name: str
    summary: str
    question: str
    against: str
    objective: str
    presets: Mapping[str, Mapping[str, Any]] | None = None
    """Presets in the module itself; None reads presets/<name>.yaml."""

    def load_presets(self) -> dict[str, Mapping[str, Any]]:
        """By their names, not yet checked. Raises StudyError where there are none, or they cannot be read."""
        if self.presets is not None:
            return dict(self.presets)
        path = PRESETS / f"{self.name}.yaml"
        try:
            tree = read_yaml(read_text(path), FloatLoader)
        except FileNotFoundError:
            make = "/".join(path.parts[-3:])
            raise StudyError(
                f"study {self.name} has no presets; make {make} or give presets in the file"
            ) from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise StudyError(f"cannot read the presets of study {self.name}: {path}: {in_words(error)}") from None
        if not isinstance(tree, dict):
            raise StudyError(f"{path}: a mapping of presets is wanted (quick, cpu, ...)")
        return tree

    def preset(self, name: str) -> Preset:
        """With settings in place of the names of run presets. Raises StudyError where there is none of that name
        or it is not valid."""
        presets = self.load_presets()
        if name not in presets:
            raise StudyError(f"study {self.name} has no preset {name!r}; {suggestion(name, presets)}")
        tree: Any = presets[name]
        if isinstance(tree, Mapping):
            tree = expanded(tree, f"study {self.name}, preset {name}")
        try:
            return Preset.model_validate(tree)
        except pydantic.ValidationError as error:
            problems = "\n".join(_problem(item) for item in error.errors())
            raise StudyError(f"study {self.name}, preset {name}:\n{problems}") from None


class StudySpec(Preset):
    """The frozen specification of a launch."""

    name: str
    """Of the launch, its folder and its Optuna study."""
    study: str
    preset: str
    question: str
    against: str
    objective: str
    texts: Texts = {}
    """What names of texts stood for at the launch, where the search chooses among them (``studies.pins``)."""
    runs: Runs = {}
    """What names of runs in ``train.init_from`` stood for at the launch (``studies.named_runs``)."""

    @property
    def max_extra(self) -> int:
        """Pruned and failed trials allowed on top of ``trials``."""
        return self.max_pruned or self.trials

    @property
    def check_names(self) -> tuple[str, ...]:
        return tuple(f"lr-x{factor:g}" for factor in self.checks.lr_factors)

    def to_dict(self) -> dict[str, Any]:
        """Without empty tables of names, so that earlier versions read what has none."""
        tree = self.model_dump(mode="json")
        return {name: value for name, value in tree.items() if value or name not in ("texts", "runs")}

    def hash(self) -> str:
        """Of everything that may not change between a launch and its continuation."""
        return content_hash({k: v for k, v in self.to_dict().items() if k not in _MAY_CHANGE})


_MAY_CHANGE = ("trials", "max_pruned", "heartbeat", "description")


def numbered(spec: StudySpec) -> dict[str, Any]:
    """As it goes to the storage: with the number of its own format and of its base configuration's."""
    tree = spec.to_dict()
    return formats.SPEC.numbered({**tree, "base": formats.CONFIG.numbered(tree["base"])})


def from_stored(tree: Mapping[str, Any], where: str) -> StudySpec:
    """A specification from the storage, also of an older version: complete, so that it differs from one frozen now
    in nothing but what was asked for.

    Raises StudyError naming ``where`` and the field for what this version does not know, or a head that is not
    here."""
    tree = formats.SPEC.read(tree, where)
    try:
        base = config_from_stored(tree["base"], where).to_dict()
        return StudySpec.model_validate({**tree, "base": base})
    except pydantic.ValidationError as error:
        problems = "\n".join(_problem(item) for item in error.errors())
    except HeadError as error:
        raise StudyError(f"{where} cannot be read: base: {error}") from None
    except (ConfigError, RunError, KeyError) as error:
        problems = f"base: {error}"
    raise StudyError(
        f"{where} cannot be read: {problems}\na newer workbench may have written it: {formats.UPDATE}"
    ) from None


def freeze(
    study: Study,
    preset: str,
    *,
    name: str | None = None,
    trials: int | None = None,
    seeds: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> StudySpec:
    """The complete specification of a launch: defaults filled in, overrides applied, every configuration
    that can be reached checked. Raises StudyError or ConfigError."""
    chosen = study.preset(preset)
    spec = {
        **chosen.model_dump(mode="json"),
        **_counts(chosen, f"study {study.name}, preset {preset},", trials, seeds),
        "name": name or f"{study.name}-{preset}",
        "study": study.name,
        "preset": preset,
        "question": chosen.question or study.question,
        "against": chosen.against or study.against,
        "objective": study.objective,
    }
    return _complete(spec, overrides or {})


def amend(
    spec: StudySpec,
    *,
    trials: int | None = None,
    seeds: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> StudySpec:
    """A stored specification with what a continuation asks for on top."""
    return _complete({**spec.to_dict(), **_counts(spec, spec.name, trials, seeds)}, overrides or {})


def _counts(preset: Preset, what: str, trials: int | None, seeds: int | None) -> dict[str, int]:
    """The counts that were given. Raises StudyError for trials where nothing is searched, or fewer than one."""
    if trials is not None and not preset.searches:
        raise StudyError(
            f"--trials {trials}: {what} has no search, only {len(preset.baselines)} fixed cells; leave it out "
            "(--seeds N runs each cell N times)"
        )
    if trials is not None and preset.sampler.kind == "grid":
        raise StudyError(
            f"--trials {trials}: {what} is a grid and runs all of its {preset.num_settings()} settings; leave it "
            "out (--seeds N runs each setting N times)"
        )
    if trials is not None and trials < 1:
        raise StudyError(f"--trials must be at least 1, {trials} given")
    return {key: value for key, value in (("trials", trials), ("seeds", seeds)) if value is not None}


def _complete(tree: dict[str, Any], overrides: Mapping[str, Any]) -> StudySpec:
    followers = {key for rows in tree["follows"].values() for row in rows.values() for key in row}
    searched = sorted(set(overrides) & (set(tree["space"]) | followers))
    if searched:
        raise StudyError(
            f"{', '.join(searched)} cannot be set: study {tree['study']} searches over it, or over what it "
            "follows from; set something else, or use `calm train` for a single setting"
        )
    idle = [name for name in overrides if not tree["space"] and _set_by_every(tree["baselines"], name)]
    if idle:
        raise StudyError(
            f"{', '.join(idle)} cannot be set: every cell of study {tree['study']}, preset {tree['preset']}, "
            "has its own; set something else, or use `calm train` for a single setting"
        )
    tree = {**tree, "base": build_config(tree["base"], overrides).to_dict()}
    try:
        spec = StudySpec.model_validate(tree)
    except pydantic.ValidationError as error:
        raise StudyError("\n".join(_problem(item) for item in error.errors())) from None
    if spec.sampler.kind == "grid":
        from studies.space import settings  # the space module builds on this one

        every = tuple(settings(spec))
        spec = spec.model_copy(update={"start": every, "trials": len(every)})
    check(spec)
    return spec


def _set_by_every(cells: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    """Whether every cell sets the dotted ``name``, or a section that it lies in."""
    return all(any(f"{name}.".startswith(f"{own}.") for own in settings) for settings in cells.values())


def check(spec: StudySpec) -> None:
    """Build every configuration the study can reach (or the ends of each range where there are too many).

    Raises StudyError naming the setting that is not valid."""
    from studies.space import baseline_config, setting_config, settings  # the space module builds on this one

    for setting in itertools.chain(settings(spec), spec.start):
        unknown = sorted(set(setting) - set(spec.space))
        if unknown:
            raise StudyError(f"start: {', '.join(unknown)} is not in the search space {sorted(spec.space)}")
        try:
            setting_config(spec, setting)
        except ConfigError as error:
            raise StudyError(f"study {spec.study}, preset {spec.preset}, {describe(setting)}: {error}") from None
    for name in spec.baselines:
        try:
            config = baseline_config(spec, name)
        except ConfigError as error:
            raise StudyError(f"study {spec.study}, preset {spec.preset}, baseline {name}: {error}") from None
        if config.is_calm:
            raise StudyError(
                f"study {spec.study}, preset {spec.preset}, baseline {name}: a baseline is a token model; "
                "leave model.kind out"
            )


def differences(stored: StudySpec, asked: StudySpec) -> list[str]:
    """Lines ``dotted name: stored → asked`` of what may not change. More trials may be asked for."""
    a, b = flatten(stored.to_dict()), flatten(asked.to_dict())
    lines = [
        f"{key}: {_show(a, key)} → {_show(b, key)}"
        for key in dict.fromkeys([*a, *b])
        if key.split(".")[0] not in _MAY_CHANGE and a.get(key, _ABSENT) != b.get(key, _ABSENT)
    ]
    if asked.trials < stored.trials:
        lines.append(f"trials: {stored.trials} → {asked.trials} (they may be raised, not lowered)")
    return lines


_ABSENT = object()


def _show(flat: Mapping[str, Any], key: str) -> str:
    return "(absent)" if key not in flat else str(flat[key])


def describe(params: Mapping[str, Any]) -> str:
    """``chunk_size=4 latent_dim=32``: the last part of each dotted name."""
    return " ".join(
        f"{k.rpartition('.')[2]}={v:.4g}" if isinstance(v, float) else f"{k.rpartition('.')[2]}={v}"
        for k, v in params.items()
    )


def _problem(item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"] if part not in ("choices", "range"))
    message = str(item["msg"]).removeprefix("Value error, ")
    given = "" if item["type"] in ("value_error", "missing") else f"; given: {shortened(item.get('input'))}"
    return f"{field}: {message}{given}" if field else message

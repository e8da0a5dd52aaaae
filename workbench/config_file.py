"""Reading configurations: YAML files, dotted overrides, and messages that say what to do."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic import BaseModel

from workbench.config import BaselineConfig, CalmConfig, RunConfig
from workbench.errors import ConfigError
from workbench.head_sections import HEAD_SECTIONS, SOLVERS, FlowHeadConfig, head_kind

PRESETS = Path(__file__).parent / "presets"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted names: ``{"a": {"b": 1}}`` to ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def with_overrides(tree: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a nested mapping with dotted names set: ``{"model.chunk_size": 4}``."""
    result: dict[str, Any] = copy.deepcopy(dict(tree))
    for dotted, value in overrides.items():
        node = result
        *parents, leaf = dotted.split(".")
        for i, parent in enumerate(parents):
            child = node.setdefault(parent, {})
            if child is None:  # a section that may be left out
                child = node[parent] = {}
            if not isinstance(child, dict):
                where = ".".join(parents[: i + 1])
                raise ConfigError(f"{dotted}: {where} is a value ({child!r}), not a section")
            node = child
        node[leaf] = value
    return result


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """``["model.chunk_size=4"]`` to ``{"model.chunk_size": 4}``; values are read as YAML.

    Raises ConfigError for one without ``=``."""
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set wants NAME=VALUE (for example model.chunk_size=4), {assignment!r} given")
        overrides[name.strip()] = _yaml_value(value, name)
    return overrides


def _yaml_value(text: str, name: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {name}: {text!r} is not a YAML value") from error
    if isinstance(value, str):  # YAML 1.1 reads 1e12 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def build_config(tree: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Validate a nested mapping (plus dotted overrides).

    Raises ConfigError naming the field, the value and the remedy."""
    merged = with_overrides(tree, overrides or {})
    if isinstance(merged.get("model"), dict):
        merged["model"].setdefault("kind", "calm")
    if isinstance(merged.get("train"), dict):  # a budget set on the command line replaces the file's
        for budget, other in (("train.train_flops", "train_tokens"), ("train.train_tokens", "train_flops")):
            if overrides and overrides.get(budget) is not None and f"train.{other}" not in overrides:
                merged["train"].pop(other, None)
    try:
        return RunConfig.model_validate(merged)
    except pydantic.ValidationError as error:
        raise ConfigError(explain(error, merged)) from None


def with_head_sampling(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """A trained model's configuration with other settings of sampling (dotted, ``model.head.num_calls``).

    Raises ConfigError for anything that would need another training, and for values that are not valid."""
    if not overrides:
        return config
    fields = config.model.head.sampling_fields if isinstance(config.model, CalmConfig) else ()
    known = [f"model.head.{field}" for field in fields]
    foreign = [name for name in overrides if name not in known]
    if foreign:
        _refuse_training(config, foreign[0], known, overrides)
    changed = build_config(config.to_dict(), overrides)
    require_effect(changed, overrides)
    return changed


def _refuse_training(config: RunConfig, name: str, known: list[str], overrides: Mapping[str, Any]) -> None:
    """Raises ConfigError that says why ``name`` cannot be set of a trained model."""
    if not isinstance(config.model, CalmConfig):
        raise ConfigError(
            f"{name} cannot be changed without training anew; a token baseline has no settings of sampling"
        )
    build_config(config.to_dict(), overrides)  # refuses what is no field at all, and values that are not valid
    head = config.model.head
    if not known and name.removeprefix("model.head.") in FlowHeadConfig.sampling_fields:
        raise ConfigError(f"{name} has no effect: the {head.kind} head always makes one network call")
    can = f"can be sampled with another {', '.join(known)}" if known else "has no settings of sampling"
    raise ConfigError(f"{name} cannot be changed without training anew; head {head.kind} {can}")


def require_effect(config: RunConfig, overrides: Mapping[str, Any]) -> None:
    """Raises ConfigError for an override of another head's field or solver, which the head at hand drops: in a
    file it may stand beside its own, but who sets it by hand means something by it."""
    if not isinstance(config.model, CalmConfig):
        return
    head = config.model.head
    for name, value in overrides.items():
        section, _, field = name.rpartition(".")
        if section != "model.head":
            continue
        if field not in type(head).model_fields:
            owners = [kind for kind, other in HEAD_SECTIONS.items() if field in other.model_fields]
            raise ConfigError(
                f"{name} has no effect: model.head.kind is {head.kind}, this is a field of {' and '.join(owners)}"
            )
        if field == "solver" and getattr(head, field) != value:
            known = ", ".join(SOLVERS[head.kind])
            raise ConfigError(f"{name}: the {head.kind} head has the solvers {known}; {value!r} given")


def load_config(path: Path | str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a YAML configuration: a file, or the name of one in workbench/presets.

    Raises ConfigError where it is missing, unreadable or invalid."""
    path = _preset_or_file(Path(path))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path}: a mapping of sections is wanted (data, model, train, ...), found {type(tree).__name__}"
        )
    config = build_config(tree, overrides)
    require_effect(config, overrides or {})
    return config


def preset_names() -> list[str]:
    """Configurations that come with the workbench."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _preset_or_file(path: Path) -> Path:
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    preset = PRESETS / f"{path.name}.yaml"
    if not preset.exists():
        raise ConfigError(
            f"there is neither a file nor a preset {path.name!r}; presets: {', '.join(preset_names())}"
        )
    return preset


def explain(error: pydantic.ValidationError, given: Mapping[str, Any]) -> str:
    """One line per problem: dotted field, what is wrong, what was given, close names."""
    return "\n".join(_explain_one(dict(item), given) for item in error.errors())


def _explain_one(item: dict[str, Any], given: Mapping[str, Any]) -> str:
    # pydantic puts the tag of a discriminated union ("calm") into the location
    location = [str(p) for p in item["loc"] if p not in ("calm", "baseline", *HEAD_SECTIONS)]
    field = ".".join(location)
    if item["type"] == "extra_forbidden":
        known = _known_fields(location[:-1], given)
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = (
            f"did you mean {'.'.join([*location[:-1], close[0]])}?" if close else f"known here: {', '.join(known)}"
        )
        return f"unknown field {field}; {hint}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{field}: {message}" if field else message
    return f"{field}: {message[0].lower()}{message[1:]}; given: {item.get('input')!r}"


def _known_fields(path: list[str], given: Mapping[str, Any]) -> list[str]:
    """Names of the fields of the section at ``path``."""
    section: type[BaseModel] = RunConfig
    for name in path:
        if section is RunConfig and name == "model":
            model = given.get("model")
            kind = model.get("kind") if isinstance(model, dict) else None
            section = BaselineConfig if kind == "baseline" else CalmConfig
            continue
        if section is CalmConfig and name == "head":
            section = HEAD_SECTIONS[head_kind(given.get("model", {}).get("head", {})) or "energy"]
            continue
        field = section.model_fields.get(name)
        annotation = field.annotation if field else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
        else:
            return []
    return list(section.model_fields)

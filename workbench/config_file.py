"""Reading configurations: YAML files, dotted overrides, and messages that say what to do."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic import BaseModel

from workbench import formats
from workbench.config import BaselineConfig, CalmConfig, RunConfig, content_hash
from workbench.errors import ConfigError, RunError
from workbench.given_files import read_text
from workbench.head_sections import (
    HEAD_SECTIONS,
    OWN_HEAD,
    SOLVERS,
    FlowHeadConfig,
    head_kind,
    head_section,
    owners_of,
)
from workbench.records import IMPORTED
from workbench.yaml_reading import in_words, read_yaml

PRESETS = Path(__file__).parent / "presets"
UNKNOWN = "unknown field"
BUDGETS = (("train_flops", "train_tokens"), ("train_tokens", "train_flops"))
"""Fields of ``train``, each with the other one."""


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
    result = _copied(tree)
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


def _copied(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Every mapping of it anew, the values as they are: studies do this for hundreds of settings."""
    return {name: _copied(value) if isinstance(value, dict) else value for name, value in tree.items()}


def laid_over(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a nested mapping with another one over it, section by section. A section whose ``kind`` changes is
    replaced as a whole: the fields of the other kind mean nothing in it."""
    result: dict[str, Any] = copy.deepcopy(dict(tree))
    for name, value in changes.items():
        before = result.get(name)
        if not isinstance(value, Mapping) or not isinstance(before, dict):
            result[name] = copy.deepcopy(value)
        elif value.get("kind", before.get("kind")) != before.get("kind"):
            result[name] = copy.deepcopy(dict(value))
        else:
            result[name] = laid_over(before, value)
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
        value = read_yaml(text)
    except yaml.YAMLError as error:
        why = f": {error}" if type(error) is yaml.YAMLError else ""
        raise ConfigError(f"--set {name}: {shortened(text)} is not a YAML value{why}") from None
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
    if isinstance(merged.get("train"), dict):
        given = {name.removeprefix("train."): value for name, value in (overrides or {}).items()}
        merged["train"] = one_budget(merged["train"], given)
    try:
        return RunConfig.model_validate(merged)
    except pydantic.ValidationError as error:
        raise ConfigError(explain(error, merged)) from None


def one_budget(train: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``train`` without a budget that one in ``given``, fields of it, replaces."""
    replaced = [other for name, other in BUDGETS if given.get(name) is not None and other not in given]
    return {name: value for name, value in train.items() if name not in replaced}


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
    if name.startswith("data.") or isinstance(config.model, CalmConfig):
        build_config(config.to_dict(), overrides)  # refuses what is no field at all, and values that are not valid
    if name.startswith("data."):
        raise ConfigError(
            f"{name} cannot be changed of a run that is there: its text is a part of it; train another run with "
            "it, or, where its weights were imported, import them again with it"
        )
    if not isinstance(config.model, CalmConfig):
        raise ConfigError(
            f"{name} cannot be changed without training anew; a token baseline has no settings of sampling"
        )
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
            raise ConfigError(
                f"{name} has no effect: model.head.kind is {head.kind}, this is a field of "
                f"{' and '.join(owners_of(field))}"
            )
        if field == "solver" and head.kind in SOLVERS and getattr(head, field) != value:
            known = ", ".join(SOLVERS[head.kind])
            raise ConfigError(f"{name}: the {head.kind} head has the solvers {known}; {value!r} given")


def load_config(path: Path | str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a YAML configuration: a file, or the name of one in workbench/presets. One that says no format is
    somebody's own and means this version's.

    Raises ConfigError where it is missing, unreadable or invalid, or of imported weights that it does not start
    from, and RunError where a newer version wrote it."""
    path = _preset_or_file(Path(path))
    if not os.path.lexists(path):
        raise ConfigError(
            f"there is no configuration {path}; give a YAML file, or a preset: {', '.join(preset_names())}"
        )
    if os.path.isdir(path):
        raise ConfigError(
            f"{path} is a folder and no configuration; give a YAML file, or a preset: {', '.join(preset_names())} "
            f"(a text goes in --set data.corpus=text:{path})"
        )
    config = _of_format(_read_tree(path), path, formats.RUN, overrides)
    require_effect(config, overrides or {})
    _require_training(config, path)
    return config


def _require_training(config: RunConfig, path: Path) -> None:
    """Raises ConfigError for the configuration of imported weights as it is: their training is not known."""
    autoencoder = config.autoencoder
    placeholders = (autoencoder.steps, autoencoder.batch_chunks) == (1, 1)
    if placeholders and config.train.init_from is None and os.path.exists(path.parent / IMPORTED):
        raise ConfigError(
            f"{path} is of imported weights, of whose training nothing is known: start from them (--set "
            f"train.init_from={path.parent}), or, to train such a model from new weights, set autoencoder.steps "
            "and autoencoder.batch_chunks"
        )


def stored_config(path: Path | str) -> RunConfig:
    """The ``config.yaml`` of a run, also of an older version.

    Raises RunError where it is missing or damaged, or a newer version wrote it."""
    path = Path(path)
    try:
        return _of_format(_read_tree(path), path, 0)
    except ConfigError as error:
        hint = f"\na newer workbench may have written it: {formats.UPDATE}" if UNKNOWN in str(error) else ""
        raise RunError(f"{path} cannot be read: {error}{hint}") from None


def config_from_stored(tree: Mapping[str, Any], where: object) -> RunConfig:
    """Of a mapping that was stored in another file, for runs that are yet to come. Raises ConfigError for what is
    no field of this version, and RunError where a newer one wrote it."""
    return _of_format(tree, where, 0, going_on=True)


def verified_config(path: Path | str, config_hash: str) -> RunConfig:
    """``stored_config`` of the run whose record says ``config_hash``; the hash that it has now may be another, for
    before there were formats a field could come without keeping it.

    Raises RunError as well where the file was changed after the run had begun."""
    config = stored_config(path)
    if config.hash() != config_hash:
        ignored = {formats.KEY, "name"} if config.is_calm else {formats.KEY, "name", "autoencoder"}
        tree = _read_tree(Path(path))
        if content_hash({key: value for key, value in tree.items() if key not in ignored}) != config_hash:
            raise RunError(
                f"{path} is not the configuration that its run was made with (hash {config.hash()}, the record "
                f"says {config_hash}): it was changed afterwards; bring it back as it was"
            )
    return config


def is_same_run(path: Path | str, config_hash: str, config: RunConfig) -> bool:
    """Whether the run with the stored configuration ``path``, whose record says ``config_hash``, is one of
    ``config``. Raises RunError as ``verified_config``."""
    asked = config.hash()
    return asked == config_hash or verified_config(path, config_hash).hash() == asked


def _of_format(
    tree: Mapping[str, Any],
    where: object,
    unnumbered: int,
    overrides: Mapping[str, Any] | None = None,
    *,
    going_on: bool = False,
) -> RunConfig:
    """A parsed configuration; ``unnumbered`` is the format of one that says none."""
    config = build_config(formats.CONFIG.read(tree, where, unnumbered=unnumbered), overrides)
    number = tree.get(formats.KEY, unnumbered)
    return config.as_before(number, going_on=going_on) if number < formats.RUN else config


def _read_tree(path: Path) -> dict[str, Any]:
    """Raises ConfigError for what cannot be read or holds no mapping."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {in_words(error)}") from None
    try:
        tree = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {in_words(error)}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path}: a mapping of sections is wanted (data, model, train, ...), found {type(tree).__name__}"
        )
    return tree


def preset_names() -> list[str]:
    """Configurations that come with the workbench."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _preset_or_file(path: Path) -> Path:
    if os.path.exists(path) or path.suffix or len(path.parts) > 1:
        return path
    preset = PRESETS / f"{path.name}.yaml"
    if not os.path.exists(preset):
        raise ConfigError(
            f"there is neither a file nor a preset {path.name!r}; presets: {', '.join(preset_names())}"
        )
    return preset


def explain(error: pydantic.ValidationError, given: Mapping[str, Any]) -> str:
    """One line per problem: dotted field, what is wrong, what was given, close names."""
    return "\n".join(_explain_one(dict(item), given) for item in error.errors())


def _explain_one(item: dict[str, Any], given: Mapping[str, Any]) -> str:
    location = _without_tags([str(part) for part in item["loc"]])
    field = ".".join(location)
    if item["type"] == "extra_forbidden":
        known = _known_fields(location[:-1], given)
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = (
            f"did you mean {'.'.join([*location[:-1], close[0]])}?" if close else f"known here: {', '.join(known)}"
        )
        return f"{UNKNOWN} {field}; {hint}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{field}: {message}" if field else message
    return f"{field}: {message[0].lower()}{message[1:]}; given: {shortened(item.get('input'))}"


def _without_tags(location: list[str]) -> list[str]:
    """pydantic puts the tags of discriminated unions into the location: model, calm, head, energy, ..."""
    if location[:1] == ["model"] and location[1:2] in (["calm"], ["baseline"]):
        location = [location[0], *location[2:]]
        if location[1:2] == ["head"] and location[2:3] and location[2] in (*HEAD_SECTIONS, OWN_HEAD):
            location = [*location[:2], *location[3:]]
    return location


def shortened(value: object, most: int = 200) -> str:
    """For messages: a wrong value may be a whole section."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]} ... ({len(text):,} characters)"


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
            section = head_section(head_kind(given.get("model", {}).get("head", {})) or "energy")
            continue
        field = section.model_fields.get(name)
        annotation = field.annotation if field else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
        else:
            return []
    return list(section.model_fields)

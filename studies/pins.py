"""What the names of a launch stand for, pinned: commits of sets on the hub, files and special ids of tokenizers,
and runs that trainings start from.

Hosts may join a launch days later, when names on the hub stand for something else. So what they stand for is
looked up once, when the launch is created, and becomes a part of its specification; what the user had said is kept
beside it, so that the same command is known again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from studies import space
from studies.named_runs import find_places
from studies.search_spec import Choices, Scalar
from studies.spec import StudySpec
from studies.texts import find_texts
from workbench.config import DataConfig, RunConfig
from workbench.config_file import build_config, flatten
from workbench.errors import ConfigError, DataError
from workbench.home import Home

ATTRIBUTE = "pins"
"""Of the launch's study in the storage."""
_OF_TEXT = ("data.corpus", "data.hub", "data.tokenizer")
_SAME_NAMES = {
    *("config", "split", "validation", "test", "text_field", "document_start", "weight", "shuffle_buffer", "seed"),
    *("held_out_documents", "sample_documents", "workers", "attempts"),
}
"""Fields of a set that change nothing of which set, commit or file is meant."""


class Pin(NamedTuple):
    """A value of the specification that was left to the hub or to a file."""

    path: list[str]
    """Keys in the specification's tree."""
    asked: Any
    """None where nothing was said."""
    found: Any


def pin(spec: StudySpec, home: Home) -> tuple[StudySpec, list[Pin]]:
    """A specification that is to be launched, and how it differs from what was asked for.

    Where the search itself chooses among texts they cannot be pinned in the base that they share: a table holds
    what each of them stands for (``studies.texts``). Raises DataError for a tokenizer that cannot be had; of sets
    that cannot, the preparation says why."""
    base = build_config(spec.base)
    pins = [Pin(["base", "data", *name.split(".")], old, new) for name, old, new in _changes(base, home)]
    shared = [".".join(one.path[2:]) for one in pins]
    tried = list(_settings_of_text(spec))
    if not _hold_for_the_search(spec, pins, tried, home):
        texts = find_texts([base, *(config for _, config in tried)], home)
        pins, shared = [Pin(["texts"], None, texts)] if texts else [], []
    for cell, settings in spec.baselines.items():
        if any(name.partition(".")[0] == "data" for name in settings):
            pins += _of_cell(spec, cell, shared, home)
    runs = find_places(_beginners(spec), home)
    pins += [Pin(["runs"], None, runs)] if runs else []
    return pinned(spec, pins), pins


def _beginners(spec: StudySpec) -> Iterator[RunConfig]:
    """Configurations of the search and the baselines, where any starts from another run."""
    if spec.base["train"].get("init_from") is None and "train.init_from" not in space.varied(spec):
        return
    yield from (space.setting_config(spec, setting) for setting in (*space.settings(spec), *spec.start))
    yield from (space.baseline_config(spec, cell) for cell in spec.baselines)


def pinned(spec: StudySpec, pins: Iterable[Pin]) -> StudySpec:
    """The same, where it asks for what the launch was asked for."""
    tree = spec.to_dict()
    for path, asked, found in pins:
        node: Any = tree
        for key in path[:-1]:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and node.get(path[-1]) == asked:
            node[path[-1]] = found
    return StudySpec.model_validate(tree)


def _resolved(config: RunConfig, home: Home) -> DataConfig:
    from workbench.hub import with_revisions
    from workbench.pretrained_tokenizer import with_tokenizer

    return with_tokenizer(with_revisions(config, home.cache)).data


def _changes(config: RunConfig, home: Home) -> Iterator[tuple[str, Any, Any]]:
    """Dotted names below ``data`` with the values that are written and those that they stand for."""
    written, found = (flatten(one.model_dump(mode="json")) for one in (config.data, _resolved(config, home)))
    return ((name, written.get(name), value) for name, value in found.items() if written.get(name) != value)


Tried = tuple[dict[str, Scalar], RunConfig]
"""A setting, and what it makes of the base."""


def _hold_for_the_search(spec: StudySpec, pins: list[Pin], tried: Iterable[Tried], home: Home) -> bool:
    """Whether every setting has with the base pinned the text that it has by itself, and no name left open."""
    shared = pinned(spec, pins)
    for setting, config in tried:
        try:
            found = space.setting_config(shared, setting)
        except ConfigError:
            return False
        if found.data != _resolved(config, home):
            return False
    return True


def _settings_of_text(spec: StudySpec) -> Iterator[Tried]:
    """Each combination of the searched values that decide which text is meant, the rest as in the base. Other
    parameters of the text (parts held out, sizes of buffers) would only multiply them."""
    names = [name for name in spec.space if _is_of_text(name) or _brings_text(spec, name)]
    values = [d.choices if isinstance(d := spec.space[name], Choices) else (d.low, d.high) for name in names]
    for row in itertools.product(*values):
        setting = dict(zip(names, row, strict=True))
        try:
            config = space.setting_config(spec, setting)
        except ConfigError:  # which a trial would say
            continue
        yield setting, config


def _brings_text(spec: StudySpec, name: str) -> bool:
    return any(_is_of_text(key) for row in spec.follows.get(name, {}).values() for key in row)


def _is_of_text(name: str) -> bool:
    below = any(name == own or name.startswith(f"{own}.") for own in _OF_TEXT)
    return below and name.rpartition(".")[2] not in _SAME_NAMES


def _of_cell(spec: StudySpec, cell: str, shared: list[str], home: Home) -> Iterator[Pin]:
    """Of a baseline with text of its own; ``shared``: what is pinned in the base, and may be another set's."""
    config, settings = space.baseline_config(spec, cell), spec.baselines[cell]
    try:
        wanted = flatten(_resolved(config, home).model_dump(mode="json"))
        own = [name for name, _, _ in _changes(config, home)]
    except DataError as error:
        raise DataError(f"cell {cell}: {error}") from None
    for name in dict.fromkeys([*own, *shared]):
        if name in wanted:
            path = _place(settings, f"data.{name}")
            yield Pin(["baselines", cell, *path], _said(settings, path), wanted[name])


def _place(settings: Mapping[str, Any], dotted: str) -> list[str]:
    """Keys of a dotted name among a cell's settings, some of which may be whole sections."""
    if isinstance(settings.get("data.corpus"), Mapping) and dotted.startswith("data.hub."):
        return ["data.corpus", *dotted.split(".")[2:]]  # one mapping says both
    for own, value in settings.items():
        if isinstance(value, Mapping) and dotted.startswith(f"{own}."):
            return [own, *dotted.removeprefix(f"{own}.").split(".")]
    return [dotted]


def _said(settings: Mapping[str, Any], path: list[str]) -> Any:
    node: Any = settings
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node

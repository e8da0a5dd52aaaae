"""Presets of studies that start from presets of runs (``workbench/presets``). Imports no Optuna.

``base: {preset: calm-m, ...}``: the named configuration with the rest of ``base`` laid over it by sections.
``baselines: {NAME: {preset: transformer-m, ...}}``: all of the named configuration's settings, but for what
``base`` itself says of what the runs of a study share (``SHARED``), with the rest, dotted, over it.

What is made of them no longer names a preset, so that a frozen study does not depend on these files. A cell holds
only what sets it apart from the base: what is set of the base when a study is launched (``--set``) is then set of
its cells as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studies.words import suggestion
from workbench.config import RunConfig
from workbench.config_file import build_config, flatten, laid_over, load_config, one_budget, preset_names
from workbench.errors import ConfigError, StudyError

KEY = "preset"
SHARED = ("seed", "data", "train", "eval", "runtime")
"""Sections in which the base's own words hold for its baselines, too: text, budget, evaluation."""


def expanded(tree: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A study's preset as it was read, with the settings in place of the names of run presets.

    Raises StudyError that begins with ``where`` for a name that is none, and for settings that are not valid."""
    base, baselines = tree.get("base"), tree.get("baselines")
    if not isinstance(base, Mapping):
        return dict(tree)  # which is refused where presets are validated
    own = {name: value for name, value in base.items() if name != KEY}
    whole = _over(_named(base[KEY], f"{where}, base"), own) if KEY in base else dict(base)
    cells = dict(baselines) if isinstance(baselines, Mapping) else {}
    named = [name for name, cell in cells.items() if isinstance(cell, Mapping) and KEY in cell]
    if named:
        bare = build_config(baseline_tree(_valid(whole, f"{where}, base").to_dict()))
        cells |= {name: _cell(bare, own, cells[name], f"{where}, baseline {name}") for name in named}
    return {**tree, "base": whole, **({"baselines": cells} if cells else {})}


def _named(name: object, where: str) -> RunConfig:
    """Raises StudyError for a name that is no run preset's."""
    known = preset_names()
    if name not in known:
        raise StudyError(f"{where}: there is no run preset {name!r}; {suggestion(str(name), known)}")
    return load_config(str(name))


def _valid(tree: Mapping[str, Any], where: str) -> RunConfig:
    try:
        return build_config(tree)
    except ConfigError as error:
        raise StudyError(f"{where}: {error}") from None


def _over(preset: RunConfig, own: Mapping[str, Any]) -> dict[str, Any]:
    """A run preset's settings, but its name, with ``own`` laid over them."""
    tree = laid_over({k: v for k, v in preset.to_dict().items() if k != "name"}, own)
    given = own.get("train")
    if isinstance(given, Mapping) and isinstance(tree["train"], Mapping):
        tree["train"] = one_budget(tree["train"], given)
    return tree


def _cell(bare: RunConfig, own: Mapping[str, Any], cell: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Dotted settings of a baseline that names a run preset. ``bare``: one without any; ``own``: what the base
    says itself."""
    preset = _named(cell[KEY], where)
    if preset.is_calm:
        tokens = [name for name in preset_names() if not load_config(name).is_calm]
        raise StudyError(
            f"{where}: run preset {cell[KEY]!r} is a CALM, a baseline is a token model; known: {', '.join(tokens)}"
        )
    further = {name: value for name, value in cell.items() if name != KEY}
    for name in ("model", "model.kind"):
        if name in further:
            raise StudyError(f"{where}: {name} beside preset, which says it; leave one of them out")
    shared = {name: own[name] for name in SHARED if name in own}
    tree = _over(preset, shared)
    if "data" in shared:  # one text, not a mixture of two
        tree["data"] = bare.to_dict()["data"]
    apart = _apart(_valid(tree, where), bare)
    if {"train.train_flops", "train.train_tokens"} & set(further):
        apart = {name: value for name, value in apart.items() if not name.startswith("train.train_")}
    return {**{name: value for name, value in apart.items() if not _within(name, further)}, **further}


def _within(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting, or a section that the dotted ``name`` lies in, is among ``settings``."""
    return any(f"{name}.".startswith(f"{given}.") for given in settings)


def baseline_tree(base: Mapping[str, Any]) -> dict[str, Any]:
    """Of a complete configuration: the token baseline with its data, budget, evaluation and backbone."""
    model = {key: base["model"][key] for key in ("backbone", "init")}
    return {**base, "model": {**model, "kind": "baseline"}}


def _apart(wanted: RunConfig, bare: RunConfig) -> dict[str, Any]:
    """Dotted settings that make ``wanted`` of ``bare``, but for the autoencoder, which a baseline has none of."""
    new, old = flatten(wanted.to_dict()), flatten(bare.to_dict())
    return {
        name: value
        for name, value in new.items()
        if (name not in old or old[name] != value) and name != "name" and not name.startswith("autoencoder.")
    }

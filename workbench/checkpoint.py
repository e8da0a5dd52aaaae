"""Checkpoints: weights and optimizer state as safetensors, position as JSON; never a pickle.

A checkpoint folder is replaced whole: a crash or a power failure at any moment leaves the old or the new one. Its
``state.json`` holds a format, size and sha256 of the tensor files, and a checksum of its own, so that what is
truncated, altered or mixed from two checkpoints is refused. Weights that are not finite are no damage: a run that
diverges ends by its loss in the next step, resumed or not.

Kept are: of a running run one checkpoint, the last (the one before only while it is replaced); of a finished one
the weights. What killed processes have left goes at the next save.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from workbench import files, modes
from workbench.errors import RunError, UnreadableError
from workbench.optimizers import Optimizer
from workbench.saving import saving
from workbench.tensor_files import fill, read_tensors, unreadable, write_tensors

logger = logging.getLogger(__name__)

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
FORMAT = 1
"""0: state.json holds the position alone. It is still read."""
_WHAT = {WEIGHTS: "weights", OPTIMIZER: "optimizer state"}
_OURS = ("format", "files", "sha256")
"""Fields of state.json that are not the caller's."""


@saving()
def save(
    folder: Path, network: nn.Module, state: dict[str, Any], optimizer: Optimizer | Mapping[str, Tensor] | None
) -> None:
    """Write ``folder`` anew; without an optimizer (or its ``tensors()``) only the weights (a finished run).
    ``state``: names to finite numbers, truths and texts. Raises OutputError, with the old one as it was."""
    files.writable_folder(folder.parent)
    try:
        temporary = modes.new_folder(folder.parent, f".{folder.name}.")
        sums = {WEIGHTS: write_tensors(temporary / WEIGHTS, network.state_dict())}
        if optimizer is not None:
            tensors = optimizer.tensors() if isinstance(optimizer, Optimizer) else optimizer
            sums[OPTIMIZER] = write_tensors(temporary / OPTIMIZER, tensors)
        files.write_json(temporary / STATE, _described(state, temporary, sums))  # flushes the folder, too
        _replace(temporary, folder)
    except OSError as error:
        raise files.cannot_write(folder, error) from None
    finally:
        _remove_leftovers(folder)


def _described(state: dict[str, Any], folder: Path, sums: Mapping[str, str]) -> dict[str, Any]:
    listed = {name: {"size": (folder / name).stat().st_size, "sha256": found} for name, found in sums.items()}
    described = {**state, "format": FORMAT, "files": listed}
    return {**described, "sha256": _checksum(described)}


def _checksum(described: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _replace(new: Path, folder: Path) -> None:
    previous = _previous(folder)
    if folder.exists():
        if previous.exists() and _fault(folder) is not None:
            shutil.rmtree(folder)  # the previous one is all there is, until the new one stands in its place
        else:
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(folder, previous)
    os.replace(new, folder)
    files.sync_folder(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _previous(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.previous")


def _remove_leftovers(folder: Path) -> None:
    """Of a killed process, too."""
    for path in folder.parent.iterdir():
        if path.name.startswith(f".{folder.name}.") and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def remove(folder: Path) -> None:
    """With all that belongs to it."""
    for path in (folder, _previous(folder)):
        shutil.rmtree(path, ignore_errors=True)
    if folder.parent.is_dir():
        _remove_leftovers(folder)


def find(folder: Path) -> Path | None:
    """The checkpoint at ``folder``, or, where only that is whole, the one it was about to replace when the machine
    stopped; None where there is none. Raises RunError where none is whole, UnreadableError where that cannot be
    told."""
    found, faults = _look(folder)
    if faults:  # once more: a running process may just have replaced it
        found, faults = _look(folder)
    if faults and found is None:
        raise RunError(
            f"the checkpoint {folder} cannot be used: {faults[0]}; bring it back from a copy, or delete that "
            "folder to start the run from its beginning"
        )
    if faults:
        logger.warning("the checkpoint %s is not used: %s; %s is", folder, faults[0], found)
    return found


def _look(folder: Path) -> tuple[Path | None, list[str]]:
    """The first that is whole, and what is wrong with those before it."""
    faults: list[str] = []
    for candidate in (folder, _previous(folder)):
        if not _is_there(candidate):
            continue
        fault = _fault(candidate)
        if fault is None:
            return candidate, faults
        faults.append(fault)
    return None, faults


def _is_there(path: Path) -> bool:
    """``os.path.lexists`` would say no in a folder that may not be searched, and the run begin anew."""
    try:
        os.lstat(path)
    except OSError as error:
        files.raise_unreadable(path, error)
        return False
    return True


def _fault(folder: Path) -> str | None:
    """Why the checkpoint is not whole, if so. Raises UnreadableError where that cannot be told."""
    try:
        described = _read(folder)
        _state(folder, described, None)
        _check_files(folder, described)
    except UnreadableError:
        raise
    except RunError as error:
        return str(error)
    return None


def load(
    folder: Path, network: nn.Module, optimizer: Optimizer | None = None, *, like: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Fill the network (and optimizer) in place; returns the state, whose names and types must be among those of
    ``like`` where that is given. Raises RunError where anything is damaged or does not fit, UnreadableError where
    it may not be read."""
    described = _read(folder)
    state = _state(folder, described, like)
    _check_files(folder, described)
    load_weights(network, folder / WEIGHTS)
    if optimizer is not None:
        _load_optimizer(optimizer, folder / OPTIMIZER)
    return state


def read_step(folder: Path) -> int:
    """``step`` of the state. Raises RunError where there is none or the state is damaged."""
    state = _state(folder, _read(folder), None)
    if "step" not in state:
        raise RunError(f"{folder / STATE} is damaged: it has no step")
    return int(state["step"])


def reached(folder: Path) -> int | None:
    """The step of the checkpoint that would be gone on from, told without a look at its weights. None where there
    is none, or none with a sound state: ``find`` says why. Raises UnreadableError."""
    for candidate in (folder, _previous(folder)):
        try:
            return read_step(candidate)
        except UnreadableError:
            raise
        except RunError:
            continue
    return None


def _state(folder: Path, described: Mapping[str, Any], like: Mapping[str, Any] | None) -> dict[str, Any]:
    """The caller's part. Raises RunError where a value is none that he could have given."""
    state = {name: value for name, value in described.items() if name not in _OURS}
    for name, value in state.items():
        wanted = _wanted(name, value, like)
        if wanted is not None:
            raise RunError(f"{folder / STATE} is damaged: {name} is {value!r}, wanted is {wanted}")
    return state


def _wanted(name: str, value: object, like: Mapping[str, Any] | None) -> str | None:
    """What a value of the state should be, where it is something else."""
    if like is not None and name not in like:
        return f"one of {', '.join(like)}"
    kind = type(like[name]) if like is not None else int if name == "step" else type(value)
    if kind is int and not (type(value) is int and value >= 0):
        return "a whole number of at least 0"
    if kind is float and not (type(value) in (int, float) and math.isfinite(value)):  # type: ignore[arg-type]
        return "a finite number"
    if kind in (bool, str) and type(value) is not kind:
        return "true or false" if kind is bool else "a text"
    return None if kind in (bool, int, float, str) else "a number, a truth or a text"


def _read(folder: Path) -> dict[str, Any]:
    """state.json as it is. Raises RunError where it is missing, altered or of an unknown format."""
    path = folder / STATE
    try:
        found = files.read_json(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        files.raise_unreadable(path, error)
        raise RunError(f"{path} is damaged ({error})") from None
    if not isinstance(found, dict):
        raise RunError(f"{path} is damaged: wanted is an object, it holds {type(found).__name__}")
    if not any(name in found for name in _OURS):
        if "step" not in found:  # which would be taken for the beginning
            raise RunError(f"{path} is damaged: it has no step")
        return found
    if type(found.get("format")) is not int or found["format"] != FORMAT:
        raise RunError(
            f"{path} is of format {found.get('format')!r}, this version reads {FORMAT} and those without one; use "
            "the version that wrote it"
        )
    try:
        altered = found["sha256"] != _checksum({name: value for name, value in found.items() if name != "sha256"})
    except (KeyError, ValueError):
        altered = True
    if altered or not _is_list(found.get("files")):
        raise RunError(f"{path} was altered since it was written (its checksum differs)")
    return found


def _is_list(listed: object) -> bool:
    """Of the checkpoint's own files, with size and sha256."""
    return (
        isinstance(listed, dict)
        and {WEIGHTS} <= listed.keys() <= _WHAT.keys()
        and all(isinstance(entry, dict) and {"size", "sha256"} <= entry.keys() for entry in listed.values())
    )


def _check_files(folder: Path, described: Mapping[str, Any]) -> None:
    """Raises RunError where a tensor file is missing, truncated or altered."""
    if "files" not in described:  # format 0: what the files themselves say
        for name in (WEIGHTS, OPTIMIZER):
            if name == WEIGHTS or (folder / name).exists():
                read_tensors(folder / name, what=_WHAT[name])
        return
    for name, wanted in described["files"].items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != wanted["size"]:
                raise unreadable(path, _WHAT[name], f"it has {size:,} bytes, written were {wanted['size']:,}")
            if files.sha256(path) != wanted["sha256"]:
                raise unreadable(path, _WHAT[name], "it was altered since it was written (its checksum differs)")
        except FileNotFoundError:
            raise unreadable(path, _WHAT[name], "it is missing") from None
        except OSError as error:
            files.raise_unreadable(path, error)
            raise unreadable(path, _WHAT[name], error.strerror or str(error)) from None


@saving()
def save_weights(network: nn.Module, path: Path) -> None:
    """With a checksum; appears whole or not at all. Raises OutputError."""
    write_tensors(path, network.state_dict(), alone=True)


def load_weights(network: nn.Module, path: Path) -> None:
    """Raises RunError where the file is missing, damaged or of another architecture."""
    fill(network, read_tensors(path, what="weights", mapped=True), path)  # copied once, into the network


def _load_optimizer(optimizer: Optimizer, path: Path) -> None:
    tensors: dict[str, Tensor] = read_tensors(path, what="optimizer state")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():  # of whatever precision: an optimizer's own
            raise unreadable(path, "optimizer state", f"{name} is of {tensor.dtype}, wanted are fractions")
    try:
        optimizer.load(tensors)
    except ValueError as error:
        raise unreadable(path, "optimizer state", f"it is another model's: {error}") from None

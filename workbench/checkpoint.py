"""Checkpoints: weights and optimizer state as safetensors, position as JSON; never a pickle.

A checkpoint folder is replaced whole: a crash at any moment leaves the old or the new one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from workbench import files
from workbench.errors import RunError
from workbench.optimizers import Optimizer

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def save(folder: Path, network: nn.Module, state: dict[str, Any], optimizer: Optimizer | None) -> None:
    """Write ``folder`` anew; without an optimizer only the weights (a finished run)."""
    files.writable_folder(folder.parent)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        save_weights(network, temporary / WEIGHTS)
        if optimizer is not None:
            tensors = {name: value.contiguous() for name, value in optimizer.tensors().items()}
            save_file(tensors, temporary / OPTIMIZER)
        files.write_json(temporary / STATE, state)
        for path in temporary.iterdir():
            _to_disk(path)
        _replace(temporary, folder)
    finally:
        for unfinished in folder.parent.glob(f".{folder.name}.*"):  # of a killed process, too
            shutil.rmtree(unfinished, ignore_errors=True)


def _to_disk(path: Path) -> None:
    """A rename may otherwise reach the disk before the content does."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _replace(new: Path, folder: Path) -> None:
    previous = folder.with_name(f"{folder.name}.previous")
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(folder, previous)
    os.replace(new, folder)
    shutil.rmtree(previous, ignore_errors=True)


def find(folder: Path) -> Path | None:
    """The checkpoint at ``folder``, or the one it was about to replace when the machine stopped."""
    previous = folder.with_name(f"{folder.name}.previous")
    for candidate in (folder, previous):
        if (candidate / STATE).exists():
            return candidate
    return None


def load(folder: Path, network: nn.Module, optimizer: Optimizer | None = None) -> dict[str, Any]:
    """Fill the network (and optimizer) in place; returns the state. Raises RunError where it does not fit."""
    load_weights(network, folder / WEIGHTS)
    if optimizer is not None:
        _load_optimizer(optimizer, folder / OPTIMIZER)
    state: dict[str, Any] = files.read_json(folder / STATE)
    return state


def save_weights(network: nn.Module, path: Path) -> None:
    """Appears whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, temporary)
    os.replace(temporary, path)


def load_weights(network: nn.Module, path: Path) -> None:
    """Raises RunError where the file is missing, damaged or of another architecture."""
    device = next(network.parameters()).device
    try:
        network.load_state_dict(load_file(path, device=str(device)))
    except Exception as error:
        raise RunError(f"the weights {path} cannot be loaded: {error}") from None


def _load_optimizer(optimizer: Optimizer, path: Path) -> None:
    try:
        optimizer.load(load_file(path))
    except Exception as error:
        raise RunError(f"the optimizer state {path} cannot be loaded: {error}") from None

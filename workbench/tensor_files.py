"""Tensors in safetensors files: written whole, refused with the reason where they are damaged or of another shape.

A pickle is never opened, whatever its name: reading one runs what its author put into it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from workbench import files, modes
from workbench.errors import RunError

_CHECKSUM = "sha256"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, alone: bool = False) -> str:
    """The file appears whole or not at all, with its content on disk; returns its sha256. ``alone``: no manifest
    lists it, so it gets a checksum of its own, and its name is on disk, too. Raises OutputError."""
    content = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    metadata = {_CHECKSUM: digest(content)} if alone else None
    temporary = path.with_name(f".{path.name}")
    try:
        save_file(content, temporary, metadata=metadata)
        modes.as_new(temporary)  # the library's are for their owner alone
        with ThreadPoolExecutor(max_workers=1) as pool:
            written = pool.submit(files.sha256, temporary)  # while the disk is busy
            files.flush(temporary)
        os.replace(temporary, path)
        if alone:
            files.sync_folder(path.parent)
        return written.result()
    except SafetensorError as error:
        raise files.cannot_write(path, system_error(error)) from None
    except OSError as error:
        raise files.cannot_write(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def system_error(error: SafetensorError) -> OSError:
    """Of a file that could not be written or read: the library names the system's error in its text alone."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def read_tensors(path: Path, *, what: str = "tensors", mapped: bool = False) -> dict[str, Tensor]:
    """On the CPU; ``mapped``: in the file's own memory, which processes share and where a change of the file
    shows. ``what`` it holds is named in messages. Raises RunError where the file is missing, damaged or not a
    safetensors file, UnreadableError where it may not be read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) if mapped else file.get_tensor(name).clone() for name in names}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        files.raise_unreadable(path, system_error(error) if isinstance(error, SafetensorError) else error)
        raise unreadable(path, what, _reason(path, error)) from None
    if _CHECKSUM in metadata and metadata[_CHECKSUM] != digest(tensors):
        raise unreadable(path, what, "it was altered since it was written (its checksum differs)")
    return tensors


def unreadable(path: Path, what: str, reason: str) -> RunError:
    return RunError(f"the {what} {path} cannot be loaded: {reason}")


def _reason(path: Path, error: Exception) -> str:
    """In words, what is wrong with a file that cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        pickles = [p.name for p in sorted(path.parent.glob("*")) if p.suffix in _PICKLES]
        return "it is missing" + (f"; {pickles[0]} beside it is a pickle and never opened" if pickles else "")
    except OSError as failed:
        files.raise_unreadable(path, failed)
        return failed.strerror or str(failed)
    if start[:1] == b"\x80" or start == b"PK\x03\x04":
        return "it is a pickle, as torch.save writes, and never opened; only safetensors files are"
    return f"it is damaged ({error})"


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put weights read from ``path`` into the network. Raises RunError, with the network as it was, where a name,
    a shape or a type differs."""
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors:
            raise unreadable(path, "weights", f"they are another model's: {name} is missing")
        found = tensors[name]
        if found.shape != tensor.shape:
            shapes = f"{name} has shape {tuple(found.shape)}, wanted is {tuple(tensor.shape)}"
            raise unreadable(path, "weights", f"they are another model's: {shapes}")
        if found.dtype != tensor.dtype:
            raise unreadable(path, "weights", f"{name} is of {found.dtype}, wanted is {tensor.dtype}")
    for name in sorted(tensors.keys() - wanted.keys()):
        raise unreadable(path, "weights", f"they are another model's: there is no {name} in this one")
    network.load_state_dict(dict(tensors))

"""Folders of released weights opened: safetensors or ``pytorch_model.bin``, in one file or several.

A pickle is opened here and nowhere else, and only as far as it holds tensors (``torch.load(weights_only=True)``):
what its author may have put beside them is refused, not run.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from workbench import files
from workbench.errors import RunError
from workbench.given_files import require_regular
from workbench.released.names import NO_WEIGHT

FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""What is looked for, in this order."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_OF_SAFETENSORS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class Entry:
    """One stored tensor, not read yet."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]


class Source:
    """The tensors of a folder by name.

    Raises RunError where there are none, or a file is missing, damaged or holds more than tensors."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        first = next((self.folder / name for name in FILES if (self.folder / name).exists()), None)
        if first is None:
            raise RunError(f"{folder} holds no weights; one of {', '.join(FILES)} is wanted")
        self.index = first if first.name.endswith(".index.json") else None
        mapped = _read_index(first) if self.index else {}
        self.files = sorted({self.folder / name for name in mapped.values()}) if mapped else [first]
        self.entries: dict[str, Entry] = {}
        for path in self.files:
            found = _open_file(path)
            if mapped:
                _check_shard(path, found, {name for name, file in mapped.items() if file == path.name})
            self.entries |= {name: entry for name, entry in found.items() if not name.endswith(NO_WEIGHT)}

    def check(self, wanted: Mapping[str, tuple[int, ...]], optional: Iterable[str] = ()) -> None:
        """Raises RunError naming the tensors that are missing (but for ``optional`` ones), that nobody wants, or
        whose shape or type is another."""
        missing = [name for name in wanted if name not in self.entries and name not in set(optional)]
        unexpected = [name for name in self.entries if name not in wanted]
        problems = [f"missing {_named(missing)}"] * bool(missing)
        problems += [f"not wanted {_named(unexpected)}"] * bool(unexpected)
        wrong = [
            f"{name} has shape {self.entries[name].shape}, wanted is {shape}"
            for name, shape in wanted.items()
            if name in self.entries and self.entries[name].shape != tuple(shape)
        ]
        other = [
            f"{name} is of {entry.dtype}, wanted is one of {', '.join(DTYPES)}"
            for name, entry in self.entries.items()
            if entry.dtype not in DTYPES
        ]
        problems += [_listed(wrong)] * bool(wrong) + [_listed(other)] * bool(other)
        if problems:
            raise RunError(f"the weights in {self.folder} do not fit its config.json: {'; '.join(problems)}")

    def tensor(self, name: str) -> Tensor:
        """Read from the disk."""
        return self.entries[name].read()


def _named(names: Sequence[str]) -> str:
    return f"{len(names)} ({_listed(names, ', ')})"


def _listed(texts: Sequence[str], separator: str = "; ", most: int = 6) -> str:
    return separator.join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _read_index(path: Path) -> dict[str, str]:
    """Tensor to file name."""
    try:
        found = files.read_json(path)["weight_map"]
        if not found or not all(isinstance(name, str) and isinstance(file, str) for name, file in found.items()):
            raise ValueError("weight_map is no mapping of tensors to files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"the index {path} cannot be read: {error}") from None
    for file in found.values():
        if Path(file).name != file or file in (".", ".."):
            raise RunError(f"the index {path} names {file!r}; only files beside it are read")
    return dict(found)


def _check_shard(path: Path, found: Mapping[str, Entry], listed: set[str]) -> None:
    missing, unlisted = sorted(listed - found.keys()), sorted(found.keys() - listed)
    if missing:
        raise RunError(
            f"{path} lacks tensors that the index says it has: {_named(missing)}; copy the folder again"
        )
    if unlisted:
        raise RunError(f"{path} holds tensors that the index does not list: {_named(unlisted)}")


def _open_file(path: Path) -> dict[str, Entry]:
    try:
        require_regular(path)
        return _open_safetensors(path) if path.suffix == ".safetensors" else _of_tensors(open_pickle(path))
    except FileNotFoundError:
        raise RunError(f"{path} is missing, though the index beside it lists it; copy the folder again") from None
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def _open_safetensors(path: Path) -> dict[str, Entry]:
    file = safe_open(path, framework="pt", device="cpu")
    opened: Any = file.__enter__()  # stays open: tensors are read when they are wanted
    found = {}
    for name in opened.keys():  # noqa: SIM118  (no dictionary)
        part = opened.get_slice(name)
        dtype = _OF_SAFETENSORS.get(part.get_dtype())
        shown = str(dtype).removeprefix("torch.") if dtype is not None else str(part.get_dtype())
        found[name] = Entry(tuple(part.get_shape()), shown, lambda name=name: opened.get_tensor(name))  # type: ignore[misc]
    return found


def _of_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Entry]:
    return {
        name: Entry(
            tuple(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
            lambda tensor=tensor: tensor,  # type: ignore[misc]
        )
        for name, tensor in tensors.items()
    }


def open_pickle(path: Path) -> dict[str, Tensor]:
    """What ``torch.save`` wrote, where it is tensors by name and nothing else; mapped from the disk, not read.

    Raises RunError for anything else: nothing of it was run; also for tensors that are sparse, quantised, nested
    or without values (meta)."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"  # before 2020 it was no archive, and such files cannot be mapped
    try:
        with warnings.catch_warnings():  # of other protocols torch asks to be told; what matters is said below
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # the library's own kinds: of pickles, archives, numbers out of range
        raise RunError(f"{path} was not opened: {_refusal(error)}") from None
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in found.items()
    ):
        raise RunError(f"{path} holds something else than tensors by name (a {type(found).__name__})")
    for name, tensor in found.items():
        if kind := _special(tensor):
            raise RunError(f"{path} holds {name} as a {kind} tensor; wanted are plain ones, with all their values")
    return {name: tensor.detach().resolve_neg() for name, tensor in found.items()}


def _special(tensor: Tensor) -> str:
    """What kind of tensor it is that has no values in rows and columns; nothing for a plain one."""
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_nested:
        return "nested"
    if tensor.layout != torch.strided:
        return "sparse"
    return "" if tensor.device.type == "cpu" else tensor.device.type


def _refusal(error: Exception) -> str:
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    if asked:
        return (
            f"the pickle asks for {asked[1]}, which is no part of a tensor, and would run it; nothing was run. "
            "Get the weights from somebody you trust, as safetensors"
        )
    if type(error).__name__ == "UnpicklingError":
        return (
            "the pickle holds something else than tensors, is of a newer protocol than torch.save's own, or is "
            "damaged; nothing of it was run"
        )
    return f"it is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__})"

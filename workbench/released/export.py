"""A run written in the layout of the released weights: two folders of config.json and safetensors."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from workbench import checkpoint, files, modes, records
from workbench.config import RunConfig
from workbench.errors import ConfigError, DataError, OutputError, RunError
from workbench.pretrained_tokenizer import file_order, find_file
from workbench.progress import Display, NoDisplay
from workbench.released.bring import FORMAT
from workbench.released.names import COPY, EMBEDDING, HEAD, HEAD_AGAIN, TIED
from workbench.released.pair import parts_of
from workbench.released.settings import (
    CONFIG,
    TOKENIZER_SIZE,
    has_their_ids,
    released_settings,
    require_expressible,
)
from workbench.released.sources import DTYPES
from workbench.released.vocabulary import TOKENIZER, num_ids, of_bytes
from workbench.saved_runs import require_checkpoint, used_config
from workbench.tensor_files import read_tensors, system_error

AUTOENCODER, LANGUAGE_MODEL = "autoencoder", "language-model"
"""Folders that are written."""
AE_PATH = "ae_path"
"""Key of the language model's settings: where the released code finds the autoencoder. Import names both folders,
and does not read it."""
TYPE_KEYS = ("torch_dtype", "dtype")
"""Keys of the settings that say the weights' type, of older and of newer versions of transformers."""
SHARD_BYTES = 5_000_000_000
"""Of weights in one file, unless a tensor alone is larger."""


@dataclass(frozen=True)
class Exported:
    autoencoder: Path
    language_model: Path
    dtypes: dict[str, int]
    """Number of tensors by type."""
    notes: list[str]


def export_released(
    run_dir: Path,
    out: Path,
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    display: Display | None = None,
) -> Exported:
    """Write ``out / "autoencoder"`` and ``out / "language-model"``; ``out`` must be new or empty, and appears
    whole or not at all.

    ``dtype``: of all weights; None: as they were imported, float32 for a run that was trained here.

    Raises RunError for a run that the layout cannot express or that has no weights, ConfigError for another type,
    OutputError where ``out`` holds something or cannot be written."""
    run_dir, out, shown = Path(run_dir), Path(out), display or NoDisplay()
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"the type is one of {', '.join(DTYPES)}, or the weights' own; {dtype!r} given")
    record = records.read_record(run_dir)
    config = used_config(run_dir, record)
    require_expressible(config)
    found = require_checkpoint(run_dir, record)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} holds something already; give a folder that is new or empty")
    kept = _imported(run_dir)
    writing = _Writing(config, run_dir, found / checkpoint.WEIGHTS, kept, dtype, shard_bytes)
    files.writable_folder(out.absolute().parent)
    temporary = modes.new_folder(out.absolute().parent, f".{out.name}.")
    try:
        exported = writing.write(temporary, out, shown)
        if out.exists():
            out.rmdir()
        os.replace(temporary, out)
        files.sync_folder(out.absolute().parent)
    except OSError as error:
        raise files.cannot_write(out, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if record.status != "completed":
        left = f"the run is {record.status} at step {record.step} of {record.num_steps}"
        exported.notes.append(f"{left}: these are the weights of its last checkpoint")
    return exported


def _imported(run_dir: Path) -> dict[str, Any]:
    """What ``import_released`` left beside the weights, or a training that started from them (no tensors are
    listed then); nothing for a run that has nothing to do with released weights."""
    path = run_dir / records.IMPORTED
    try:
        found = files.read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        files.raise_unreadable(path, error)
        raise _damaged(path, str(error)) from None
    if isinstance(found, dict) and isinstance(found.get("format"), int) and found["format"] > FORMAT:
        raise RunError(f"{path} was written by a newer workbench; update this one")
    for which in ("autoencoder", "language_model"):
        if why := _damage(found.get(which) if isinstance(found, dict) else found):
            raise _damaged(path, f"{which}: {why}")
    return dict(found)


def _damage(entry: Any) -> str:
    """What is wrong with the part of one folder; nothing where it says what ``import_released`` writes."""
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict):
        return "its config.json is missing"
    listed = entry.get("tensors")
    if listed is None and "tensors" in entry:
        return ""
    if not isinstance(listed, dict):
        return "no tensors are listed by their types"
    if unknown := sorted(listed.keys() - DTYPES.keys()):
        return f"tensors are of {', '.join(DTYPES)}, {unknown[0]!r} is listed"
    if not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in listed.values()
    ):
        return "the tensors of a type are no list of names"
    names = [name for names in listed.values() for name in names]
    twice = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    return f"{twice[0]} is listed twice" if twice else ""


def _damaged(path: Path, why: str) -> RunError:
    return RunError(f"{path} is damaged: {why}; bring it back, or delete it to export as float32")


def _once(name: str) -> str:
    """Of the two names of a tensor the one that ``names`` lists."""
    if name == TIED:
        return EMBEDDING
    return name.replace(HEAD_AGAIN, HEAD, 1) if name.startswith(HEAD_AGAIN) else name


class _Writing:
    """One export: our tensors of both networks, by name, mapped from the disk."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: Path,
        weights: Path,
        kept: Mapping[str, Any],
        dtype: str | None,
        shard_bytes: int,
    ) -> None:
        self.config, self.run_dir, self.kept, self.dtype, self.shard_bytes = (
            config,
            run_dir,
            kept,
            dtype,
            shard_bytes,
        )
        ours = {
            "autoencoder": read_tensors(run_dir / records.AUTOENCODER_WEIGHTS, what="weights", mapped=True),
            "language_model": read_tensors(weights, what="weights", mapped=True),
        }
        embedding = ours["language_model"].get("embedding.weight")
        if embedding is None:
            raise RunError(f"{weights} is another model's: embedding.weight is missing")
        self.vocab = len(embedding)
        ids = config.data.tokenizer
        self.back: Tensor | None = None
        """(V,) where each released id stands in ours; None where the ids are ours."""
        if has_their_ids(ids):
            order = torch.from_numpy(file_order(self.vocab, end_id=ids.end_id, pad_id=ids.pad_id))
            self.back = order.argsort()
        self.by_token: set[str] = set()
        self.tokenizer = self._tokenizer()
        self.pieces = {which: self._pieces(which, tensors) for which, tensors in ours.items()}
        for which in kept.keys() & self.pieces.keys():
            self._require_names(which)

    def _require_names(self, which: str) -> None:
        """Raises RunError where other tensors were imported than this model has, or not all of them."""
        if self.kept[which]["tensors"] is None:
            return
        known = self._names(which)
        listed = [name for names in self.kept[which]["tensors"].values() for name in names]
        path = self.run_dir / records.IMPORTED
        if unknown := [name for name in listed if name not in known]:
            raise _damaged(path, f"{which}: this model has no {unknown[0]}")
        there = {_once(name) for name in listed}
        if missing := [name for name in self.pieces[which] if name not in there]:
            raise _damaged(path, f"{which}: {missing[0]} is not listed")

    def _pieces(self, which: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Released names to views of our tensors. Raises RunError where ours are another model's."""
        pieces: dict[str, Tensor] = {}
        for part in parts_of(self.config, self.vocab)[which]:
            tensor = tensors.get(part.ours)
            if tensor is None or tuple(tensor.shape) != (sum(part.rows), *part.tail):
                raise RunError(f"the weights of {self.run_dir} are another model's: {part.ours} does not fit")
            pieces |= dict(zip(part.theirs, tensor.split(list(part.rows)), strict=True))
            self.by_token |= set(part.theirs) if part.by_token else set()
        return pieces

    def write(self, temporary: Path, out: Path, display: Display) -> Exported:
        settings = released_settings(
            self.config,
            self.vocab,
            {which: self.kept.get(which, {}).get("config", {}) for which in ("autoencoder", "language_model")},
        )
        counts: dict[str, int] = {}
        for folder, which, tree in zip(
            (AUTOENCODER, LANGUAGE_MODEL), ("autoencoder", "language_model"), settings, strict=True
        ):
            target = temporary / folder
            target.mkdir()
            dtypes = self._dtypes(which)
            for name in dtypes.values():
                counts[name] = counts.get(name, 0) + 1
            kinds = set(dtypes.values())
            said = [key for key in TYPE_KEYS if key in tree] or TYPE_KEYS[:1]
            stored: dict[str, Any] = dict.fromkeys(said, kinds.pop()) if len(kinds) == 1 else {}
            if which == "language_model":
                stored |= self._padding() | {AE_PATH: f"../{AUTOENCODER}"}
            files.write_json(target / CONFIG, {**tree, **stored})
            self._write_weights(target, dtypes, display)
        return Exported(out / AUTOENCODER, out / LANGUAGE_MODEL, counts, self._write_tokenizer(temporary))

    def _dtypes(self, which: str) -> dict[str, str]:
        """Names of all tensors of a file, in their order, with their types."""
        listed = self.kept.get(which, {}).get("tensors")
        if listed is not None:
            return {name: self.dtype or kind for kind, names in listed.items() for name in names}
        return dict.fromkeys(self._names(which), self.dtype or "float32")

    def _names(self, which: str) -> list[str]:
        """Of all tensors that a file may hold."""
        own = [*self.pieces["autoencoder"], TIED]
        if which == "autoencoder":
            return own
        names = list(self.pieces["language_model"])
        again = [name.replace(HEAD, HEAD_AGAIN, 1) for name in names if name.startswith(HEAD)]
        return [*(COPY + name for name in own), *names, *again]

    def _piece(self, name: str) -> tuple[Tensor, bool]:
        """Our values under a released name, whichever of two that is, and whether their rows are ids."""
        own = _once(name.removeprefix(COPY))
        which = "autoencoder" if own in self.pieces["autoencoder"] else "language_model"
        return self.pieces[which][own], own in self.by_token

    def _write_weights(self, folder: Path, dtypes: Mapping[str, str], display: Display) -> None:
        shards = list(self._shards(dtypes))
        display.stage(f"writing {folder.name}", len(dtypes))
        weight_map: dict[str, str] = {}
        done = total = 0
        for number, names in enumerate(shards, start=1):
            tensors = {}
            for name in names:
                tensors[name] = self._rounded(name, dtypes[name])
                total += tensors[name].nbytes
                done += 1
                display.advance(done)
            single = len(shards) == 1
            file = "model.safetensors" if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            try:
                save_file(tensors, folder / file, metadata={"format": "pt"})
            except SafetensorError as error:
                raise system_error(error) from None
            modes.as_new(folder / file)
            files.flush(folder / file)
            weight_map |= dict.fromkeys(names, file)
        if len(shards) > 1:
            tree = {"metadata": {"total_size": total}, "weight_map": weight_map}
            files.write_json(folder / "model.safetensors.index.json", tree)

    def _rounded(self, name: str, dtype: str) -> Tensor:
        """In memory of its own. Raises RunError where a value does not fit into the type."""
        tensor, by_token = self._piece(name)
        if by_token and self.back is not None:
            tensor = tensor[self.back]
        rounded = tensor.to(DTYPES[dtype], copy=True, memory_format=torch.contiguous_format)
        if not torch.equal(rounded.isfinite(), tensor.isfinite()):
            raise RunError(f"{name} holds values that {dtype} cannot; export with --dtype float32")
        return rounded

    def _shards(self, dtypes: Mapping[str, str]) -> Iterator[list[str]]:
        """Names, file by file."""
        names: list[str] = []
        size = 0
        for name, dtype in dtypes.items():
            num = self._piece(name)[0].numel() * DTYPES[dtype].itemsize
            if names and size + num > self.shard_bytes:
                yield names
                names, size = [], 0
            names.append(name)
            size += num
        yield names

    def _tokenizer(self) -> Path | None:
        """Its file, if it has the ids of the run and can be had as it was."""
        tokenizer = self.config.data.tokenizer
        if not has_their_ids(tokenizer):
            return None
        places = [self.run_dir / TOKENIZER]
        with contextlib.suppress(DataError):
            places.append(find_file(tokenizer, offline=self.config.data.offline))
        fits = (path for path in places if path.is_file() and tokenizer.sha256 in (None, files.sha256(path)))
        return next(fits, None)

    def _padding(self) -> dict[str, int]:
        """For the language model's settings, where its vocabulary is larger than the tokenizer."""
        size = self.vocab if self.tokenizer is None else num_ids(self.tokenizer)
        return {TOKENIZER_SIZE: size} if size != self.vocab else {}

    def _write_tokenizer(self, temporary: Path) -> list[str]:
        """Beside the language model; returns what should be known where there is none."""
        if self.tokenizer is not None:
            files.write_atomic(temporary / LANGUAGE_MODEL / TOKENIZER, self.tokenizer.read_bytes())
            return []
        of = self.config.data.tokenizer
        if of.kind == "byte":
            files.write_atomic(temporary / LANGUAGE_MODEL / TOKENIZER, of_bytes())
            return []
        if not has_their_ids(of):
            return [f"no {TOKENIZER} was written: this run's ids are the workbench's own ({of.kind} tokenizer)"]
        return [f"no {TOKENIZER} was written: {of.name} is missing or another one; put it there by hand"]

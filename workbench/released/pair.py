"""The two folders of a release together: what must be there and what is there twice; our tensors made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.config import RunConfig
from workbench.errors import RunError
from workbench.pretrained_tokenizer import file_order
from workbench.progress import Display
from workbench.released.names import (
    COPY,
    EMBEDDING,
    HEAD,
    HEAD_AGAIN,
    TIED,
    Part,
    autoencoder_parts,
    language_model_parts,
)
from workbench.released.settings import CONFIG, LAYERS
from workbench.released.sources import DTYPES, Source


def parts_of(config: RunConfig, vocab: int) -> dict[str, list[Part]]:
    """Of both files."""
    return {"autoencoder": autoencoder_parts(config, vocab), "language_model": language_model_parts(config, vocab)}


def require_layers(source: Source, which: str, settings: Mapping[str, Any]) -> None:
    """Raises RunError where ``config.json`` counts other layers than the weights have: before all names of a model
    that may have a million of them are written out."""
    for key, prefixes in LAYERS[which].items():
        there = max(len(_numbers(source.entries, prefix)) for prefix in prefixes)
        if settings[key] != there:
            raise RunError(
                f"{source.folder / CONFIG}: {key} is {settings[key]}; the weights beside it have {there} "
                f"({prefixes[0]}N)"
            )


def _numbers(names: Iterable[str], prefix: str) -> set[str]:
    """What stands after the prefix, up to the next dot."""
    return {name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)}


class Pair:
    """Both folders' tensors. ``config`` must be resolved, with a pretrained tokenizer."""

    def __init__(self, autoencoder: Source, language_model: Source, config: RunConfig) -> None:
        self.autoencoder, self.language_model = autoencoder, language_model
        ids = config.data.tokenizer
        assert ids.end_id is not None
        assert ids.pad_id is not None
        self.vocab = ids.num_ids
        self.parts = parts_of(config, self.vocab)
        self.order = torch.from_numpy(file_order(self.vocab, end_id=ids.end_id, pad_id=ids.pad_id))

    def check(self, display: Display) -> None:
        """Raises RunError for tensors that are missing, too many or of another shape or type, and for copies that
        differ."""
        shapes = {name: shape for part in self.parts["autoencoder"] for name, shape in part.shapes()}
        own = {**shapes, TIED: shapes[EMBEDDING]}
        self.autoencoder.check(own, _tied(self.autoencoder, ""))
        model = {name: shape for part in self.parts["language_model"] for name, shape in part.shapes()}
        again = {
            name.replace(HEAD, HEAD_AGAIN, 1): shape for name, shape in model.items() if name.startswith(HEAD)
        }
        copies = {f"{COPY}{name}": shape for name, shape in own.items()}
        copied = any(name.startswith(COPY) for name in self.language_model.entries)
        optional = _tied(self.language_model, COPY) if copied else list(copies)
        self.language_model.check({**model, **again, **copies}, [*optional, *self._other_head()])
        self._compare(display)

    def _other_head(self) -> list[str]:
        """Of a head under two names, one may be missing as a whole."""
        entries = self.language_model.entries
        first, second = (any(name.startswith(prefix) for name in entries) for prefix in (HEAD, HEAD_AGAIN))
        names = [n for part in self.parts["language_model"] for n in part.theirs if n.startswith(HEAD)]
        if first == second:
            return []
        return [name.replace(HEAD, HEAD_AGAIN, 1) for name in names] if first else names

    def _compare(self, display: Display) -> None:
        """What is stored several times must be the same values, of which a narrower type may have rounded some.

        Raises RunError where it is not: nobody knows which are meant, and ``export`` could not give both back."""
        pairs = [
            (widest, other)
            for which, parts in self.parts.items()
            for part in parts
            for name in part.theirs
            for widest, *others in [self._stored(which, name)]
            for other in others
        ]
        display.stage("comparing what is stored twice", len(pairs))
        found = []
        for number, (widest, other) in enumerate(pairs):
            difference = _difference(widest.read(), other.read())
            if difference is not None:
                found.append(f"{other.name} in {other.source.folder.name} differs from {widest.name} in "
                             f"{widest.source.folder.name} {difference}")  # fmt: skip
            display.advance(number + 1)
        if found:
            more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
            raise RunError(
                f"the weights contradict each other: {'; '.join(found[:4])}{more}. Give folders of one release"
            )

    def _stored(self, which: str, name: str) -> list[_Place]:
        """Where a tensor is stored, the widest type first: tied matrices have two names, the autoencoder a copy
        with the language model, the head two names."""
        if which == "autoencoder":
            names = [name, TIED] if name == EMBEDDING else [name]
            places = [_Place(self.autoencoder, own) for own in names]
            places += [_Place(self.language_model, f"{COPY}{own}") for own in names]
        else:
            names = [name, name.replace(HEAD, HEAD_AGAIN, 1)] if name.startswith(HEAD) else [name]
            places = [_Place(self.language_model, own) for own in names]
        there = [place for place in places if place.name in place.source.entries]
        return sorted(there, key=lambda place: -place.dtype.itemsize)

    def ours(self, which: str, dtype: str | None) -> Iterator[tuple[str, Tensor]]:
        """Our tensors in float32, rounded to ``dtype`` before, one at a time. Raises RunError for values that are
        no finite numbers."""
        for part in self.parts[which]:
            pieces = [_widened(self._stored(which, name)[0], dtype) for name in part.theirs]
            tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            yield part.ours, tensor[self.order] if part.by_token else tensor


@dataclass(frozen=True)
class _Place:
    """A name in a folder."""

    source: Source
    name: str

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.source.entries[self.name].dtype]

    def read(self) -> Tensor:
        """Raises RunError for values that are no finite numbers."""
        tensor = self.source.tensor(self.name)
        if not bool(tensor.isfinite().all()):
            raise RunError(f"{self.name} in {self.source.folder} holds values that are no finite numbers")
        return tensor


def _tied(source: Source, prefix: str) -> list[str]:
    """Of a matrix under two names, either may be missing, not both."""
    names = [f"{prefix}{EMBEDDING}", f"{prefix}{TIED}"]
    return names if any(name in source.entries for name in names) else []


def _difference(wide: Tensor, narrow: Tensor) -> str | None:
    """Between two copies, the first in a type that is at least as wide; None where the second is the first,
    rounded to its type. Of bfloat16 and float16 neither holds the other: such copies must have equal values."""
    same = wide.to(narrow.dtype) if wide.dtype.itemsize > narrow.dtype.itemsize else wide
    if torch.equal(_bits(same), _bits(narrow)):
        return None
    largest = float((same.float() - narrow.float()).abs().max())
    if not largest:
        return "in the sign of zeros"
    types = f" ({_named(narrow)} beside {_named(wide)})" if narrow.dtype != wide.dtype else ""
    return f"by up to {largest:.3g}{types}"


def _bits(tensor: Tensor) -> Tensor:
    """Of the values in float32, which every other type fits into: -0.0 is not 0.0."""
    return tensor.float().view(torch.int32)


def _named(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _widened(place: _Place, dtype: str | None) -> Tensor:
    """In memory of its own."""
    tensor = place.read()
    rounded = tensor if dtype is None else tensor.to(DTYPES[dtype])
    wide = rounded.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not bool(wide.isfinite().all()):
        raise RunError(
            f"{place.name} in {place.source.folder} holds values that are no finite numbers once it is rounded to "
            f"{dtype}"
        )
    return wide

"""Rows of data sets on the hub, and of local copies of their repositories. Imports no torch.

What a repository holds is read, its code is never run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from workbench.errors import DataError
from workbench.hub import QUICK, commit_of, explained, folder_of, is_offline, unreachable, with_retries
from workbench.hub_damage import named
from workbench.hub_sections import HubSet


class SetShards:
    """The rows of one split, by shard (a file, mostly)."""

    def __init__(self, of: HubSet, *, streaming: bool, offline: bool = False) -> None:
        """Raises DataError where the set, configuration or split does not exist, or cannot be reached."""
        self.of, self._streams, self._offline = of, streaming, offline
        with explained(words_of(of), of.revision, offline=offline), named(words_of(of), of):
            self._rows = _open(of, streaming=streaming, offline=offline)
            columns = self._rows.column_names
        if columns is not None and of.text_field not in columns:
            raise DataError(
                f"{words_of(of)} has no field {of.text_field!r}; its fields: {', '.join(columns)}; set "
                "data.hub.text_field"
            )

    @property
    def name(self) -> str:
        return self.of.name

    @property
    def num_shards(self) -> int:
        return max(1, int(self._rows.num_shards)) if self._streams else 1

    def read(self, shard: int, skip: int) -> Iterator[str]:
        """Texts of the rows of one shard from row ``skip`` on. Raises DataError for a row without text."""
        rows = self._rows
        if self.num_shards > 1:
            rows = rows.shard(num_shards=self.num_shards, index=shard)
        what = words_of(self.of)
        with explained(what, self.of.revision, offline=self._offline), named(what, self.of):
            for row in rows.skip(skip) if skip else rows:
                text = row.get(self.of.text_field)
                if not isinstance(text, str):
                    raise DataError(
                        f"{words_of(self.of)}: a row holds {type(text).__name__} in the field "
                        f"{self.of.text_field!r}, text is wanted; its fields: {', '.join(row)}"
                    )
                yield text


def read_documents(of: HubSet, *, offline: bool = False) -> Iterator[str]:
    """All documents of a set, downloaded where it is on the hub. Raises DataError."""
    shards = SetShards(of, streaming=folder_of(of.name) is not None, offline=offline)
    rows = (row for shard in range(shards.num_shards) for row in shards.read(shard, 0))
    yield from joined(rows, of.document_start)


def joined(rows: Iterator[str], document_start: str | None) -> Iterator[str]:
    """Rows as they are, or joined to documents each of which begins with a row that matches."""
    if document_start is None:
        yield from rows
        return
    begins = re.compile(document_start)
    lines: list[str] = []
    for row in rows:
        if begins.match(row) and lines:
            yield as_document(lines)
            lines = []
        lines.append(row)
    if lines:
        yield as_document(lines)


def as_document(lines: list[str]) -> str:
    """Lines that may or may not have their line ends."""
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def words_of(of: HubSet) -> str:
    """``the data set 'owner/set', configuration main, split train``."""
    config = f", configuration {of.config}" if of.config else ""
    return f"the data set {of.name!r}{config}, split {of.split}"


def _open(of: HubSet, *, streaming: bool, offline: bool) -> Any:
    folder = folder_of(of.name)
    commit = None
    if folder is None:
        commit = commit_of(of.name, of.revision, "dataset", offline)
        if streaming and is_offline(offline):
            why = "offline, and streaming keeps nothing on this machine"
            raise unreachable(words_of(of), why, option=offline)
    elif any(folder.glob("*.py")) and not any(p.suffix != ".py" for p in folder.rglob("*") if p.is_file()):
        raise DataError(f"{folder} holds only a loading script, whose code is not run; give its data as files")
    datasets = _library(offline)

    def load() -> Any:
        return datasets.load_dataset(
            str(folder or of.name), name=of.config, split=of.split, revision=commit, streaming=streaming
        )

    return with_retries(load, words_of(of), QUICK)


def _library(offline: bool) -> Any:
    """The library reads whether it is offline when it is imported."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    if offline:
        import huggingface_hub.constants

        huggingface_hub.constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True
    return datasets

"""Which text a run was trained on and which it was scored on: ``data.json`` in the run folder.

Written when a run begins, or weights are imported, and mirrored to MLflow as its datasets. Imports no torch.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from workbench import files, stored
from workbench.config import RunConfig
from workbench.corpora import CORPORA
from workbench.data import Corpus
from workbench.errors import RunError
from workbench.hub import folder_of
from workbench.hub_sections import PREFIX

DATA = "data.json"
Context = Literal["training", "evaluation"]


class Part(BaseModel):
    """One split of a corpus and what it was used for."""

    model_config = ConfigDict(extra="ignore")

    context: Context
    split: str
    tokens: int
    """End tokens of documents among them."""
    bytes: int
    """UTF-8 bytes of the text."""
    documents: int


class DataUse(BaseModel):
    """A corpus as a run used it."""

    model_config = ConfigDict(extra="ignore")

    corpus: str
    """As in ``data.corpus``."""
    streams: bool = False
    """The training text is read while training; counted is the sample of it that is kept."""
    hash: str
    """Of text, tokenizer and splits (``workbench.data.Corpus``)."""
    vocabulary: int
    source: dict[str, str]
    """``kind`` is ``files`` (with ``uri``), ``hub`` (with ``path``), ``package`` (with ``package`` and
    ``version``) or ``machine``."""
    parts: list[Part]


def describe(corpus: Corpus, config: RunConfig, *, trained: bool = True) -> DataUse:
    """Training split and the split that is scored; this one alone of a model that was not ``trained`` on it."""
    used: list[tuple[Context, str]] = [("evaluation", config.eval.split)]
    if trained:
        used.insert(0, ("training", "train"))
    parts = [
        Part(
            context=context,
            split=split,
            tokens=len(corpus.tokens[split]),
            bytes=corpus.num_bytes[split],
            documents=len(corpus.document_starts[split]),
        )
        for context, split in used
    ]
    return DataUse(
        corpus=corpus.name,
        streams=config.data.streams,
        hash=corpus.hash,
        vocabulary=corpus.vocab_size,
        source=source_of(corpus.name),
        parts=parts,
    )


def source_of(name: str) -> dict[str, str]:
    """Where the text of a corpus comes from, as far as its name says."""
    prefix, colon, rest = name.partition(":")
    if colon and prefix in ("text", "json"):
        return {"kind": "files", "uri": str(Path(rest).expanduser().absolute())}
    if name.startswith(PREFIX):
        folder = folder_of(rest)
        return {"kind": "hub", "path": rest} if folder is None else {"kind": "files", "uri": str(folder)}
    registered = CORPORA.get(name)
    if registered is None or registered.package is None:
        return {"kind": "machine", "corpus": name}
    package = registered.package[1]
    try:
        return {"kind": "package", "package": package, "version": version(package)}
    except PackageNotFoundError:
        return {"kind": "package", "package": package, "version": ""}


def keep(run_dir: Path, corpus: Corpus, config: RunConfig, *, trained: bool = True) -> None:
    """Write ``data.json``. Raises OutputError."""
    use = describe(corpus, config, trained=trained)
    files.write_atomic(Path(run_dir) / DATA, use.model_dump_json(indent=1) + "\n")


def read(run_dir: Path | str) -> DataUse | None:
    """None for a run of an older version, which has none. Raises RunError where it is damaged."""
    path = Path(run_dir) / DATA
    try:
        return DataUse.model_validate(files.read_json(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        files.raise_unreadable(path, error)
        why = stored.reason(error)
        raise RunError(f"{path} cannot be read: {why}; bring it back from a copy, or delete it") from None

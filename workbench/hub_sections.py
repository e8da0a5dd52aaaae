"""Configuration of texts on the hub, or in local copies of data set repositories. Imports no torch.

``data.corpus: hub:NAME`` names the set; ``data.hub`` says the rest. A name is ``owner/set`` or a folder.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from workbench.head_sections import Positive, Section, Seed

PREFIX = "hub:"


class HubText(Section):
    """Which texts of a set."""

    config: str | None = None
    """Of the set's configurations; needed where it has several."""
    text_field: str = "text"
    document_start: str | None = None
    """Regular expression: rows are lines that are joined, and a row that it matches (at its beginning) starts a
    document. Without it each row is a document."""
    revision: str | None = None
    """Commit, branch or tag on the hub. A resolved configuration holds the commit where the hub could be asked."""

    @field_validator("document_start")
    @classmethod
    def _is_expression(cls, given: str | None) -> str | None:
        try:
            re.compile(given or "")
        except re.error as error:
            raise ValueError(f"document_start {given!r} is no regular expression ({error})") from None
        return given


class HubSet(HubText):
    """One of several sets that are interleaved."""

    name: str
    """On the hub, or a folder."""
    split: str = "train"
    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """A document comes from this set with a probability in proportion to it."""


class HubEvaluation(HubText):
    """Validation and test text from splits of their own; no document of theirs is trained on."""

    name: str | None = None
    """Default: the set that is trained on, with its ``config`` and ``revision`` where none are given."""
    validation: str = "validation"
    test: str = "test"


class HubConfig(HubText):
    """How the set of ``data.corpus`` is read."""

    split: str = "train"
    weight: Annotated[float, Field(gt=0.0)] = 1.0
    mix: tuple[HubSet, ...] = ()
    """Further sets, interleaved document by document (streaming only)."""
    evaluation: HubEvaluation | None = None
    """Default: documents are held out by their hashes."""
    streaming: bool = False
    """Tokenise while training, keeping nothing: for what does not fit on the disk. Otherwise the set is downloaded
    and tokenised once."""
    shuffle_buffer: Positive = 10_000
    """Documents: that many are read, put into random order and used up, then the next as many."""
    seed: Seed = 0
    """Of the order, with the run's seed."""
    held_out_documents: Positive = 2_000
    """When streaming without ``evaluation``: at most so many for validation and as many for testing. What is held
    out beyond them is not used."""
    sample_documents: Positive = 10_000
    """When streaming: of the training text, kept for n-gram tables, overlaps and a BPE."""
    workers: Positive = 1
    """Threads that tokenise ahead when streaming; the order does not depend on them."""
    offline: bool = False
    """Do not ask the hub; as with HF_HUB_OFFLINE=1."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 6
    """Before a network error ends the run (which the same command continues)."""

    WITHOUT_EFFECT: ClassVar[tuple[str, ...]] = ("workers", "offline", "attempts")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mix and not self.streaming:
            raise ValueError("mix interleaves while streaming; set data.hub.streaming=true, or leave mix out")
        return self

    def hashed(self) -> dict[str, Any]:
        """Without what changes nothing of the result."""
        return {name: value for name, value in super().hashed().items() if name not in self.WITHOUT_EFFECT}


def sets_of(corpus: str, hub: HubConfig) -> tuple[HubSet, ...]:
    """The set of ``data.corpus`` and those mixed in."""
    shared = {name: getattr(hub, name) for name in HubSet.model_fields if name != "name"}
    return HubSet(name=corpus.removeprefix(PREFIX), **shared), *hub.mix


def evaluation_sets(corpus: str, hub: HubConfig) -> tuple[HubSet, HubSet] | None:
    """Validation and test text, where they are splits of their own."""
    found = hub.evaluation
    if found is None:
        return None
    shared: dict[str, Any] = {name: getattr(found, name) for name in HubText.model_fields}
    if found.name is None:  # the same set
        shared["config"] = found.config or hub.config
        shared["revision"] = found.revision or hub.revision
        if "text_field" not in found.model_fields_set:
            shared["text_field"] = hub.text_field
    name = found.name or corpus.removeprefix(PREFIX)
    return (
        HubSet(name=name, split=found.validation, **shared),
        HubSet(name=name, split=found.test, **shared),
    )

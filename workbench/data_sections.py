"""The section of a configuration that says which text, and how it is cut into tokens. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from workbench.head_sections import Positive, Section, Since
from workbench.hub_sections import PREFIX, HubConfig

BYTE_VOCAB = 258
"""256 bytes, the id of padding and dropped tokens, the end of a document."""
DEFAULT_BPE_VOCAB = 4096


class TokenizerConfig(Section):
    """``byte`` has 256 bytes and two special ids; ``bpe`` is trained on the training split; ``pretrained`` is
    somebody else's byte-level BPE, on the hub or in a file (``workbench.pretrained_tokenizer``)."""

    kind: Literal["byte", "bpe", "pretrained"] = "byte"
    vocab_size: int | None = None
    name: Annotated[str | None, Since(2, before=None)] = None
    """Of ``pretrained``: a name on the hub, a folder, or a tokenizer.json. No part of an experiment where
    ``sha256`` is given."""
    revision: Annotated[str | None, Since(2, before=None)] = None
    sha256: Annotated[str | None, Since(2, before=None)] = None
    """Of that tokenizer.json, filled in when a run starts; another one is then refused."""
    end_id: Annotated[int | None, Since(2, before=None)] = None
    """Which of its special ids stands between documents; default: what it puts before a text."""
    pad_id: Annotated[int | None, Since(2, before=None)] = None
    """Which of its special ids stands for dropped tokens and never occurs in text; default: the last of them."""

    @property
    def num_ids(self) -> int:
        """Ids that the tokenizer will have (an upper bound for BPE on a small corpus)."""
        return BYTE_VOCAB if self.kind == "byte" else self.vocab_size or DEFAULT_BPE_VOCAB

    def hashed(self) -> dict[str, Any]:
        """The file's content counts, not its place."""
        place = ("name", "revision") if self.sha256 else ()
        return {name: value for name, value in super().hashed().items() if name not in place}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "byte" and self.vocab_size not in (None, BYTE_VOCAB):
            raise ValueError(
                f"the byte tokenizer always has {BYTE_VOCAB} ids, {self.vocab_size} given; "
                "leave vocab_size out or choose kind: bpe"
            )
        if self.kind == "bpe" and self.vocab_size is not None and self.vocab_size < 260:
            raise ValueError(
                f"a BPE vocabulary needs at least 260 ids (256 bytes, two special ids, merges), "
                f"{self.vocab_size} given"
            )
        if self.kind == "pretrained" and (self.name is None or self.vocab_size is None):
            raise ValueError(
                "a pretrained tokenizer wants name (on the hub, a folder or a tokenizer.json) and vocab_size, so "
                "that parameters can be counted without it, e.g. {kind: pretrained, "
                "name: meta-llama/Llama-3.1-8B, vocab_size: 128256}"
            )
        of_pretrained = ("name", "revision", "sha256", "end_id", "pad_id")
        given = [name for name in of_pretrained if getattr(self, name) is not None]
        if self.kind != "pretrained" and given:
            raise ValueError(f"{', '.join(given)}: of kind: pretrained alone, kind is {self.kind}")
        if self.end_id is not None and self.end_id == self.pad_id:
            raise ValueError(f"end_id and pad_id must differ, both are {self.end_id}")
        return self


class DataConfig(Section):
    """Which text, how it is cut into tokens and how documents are split."""

    corpus: str = "shakespeare"
    hub: Annotated[HubConfig | None, Since(2, before=None)] = None
    """Of a corpus ``hub:NAME``. A mapping for ``corpus``, with the name among these fields, says both."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    validation_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.1
    test_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.1
    max_documents: Positive | None = None
    """Use only the first so many documents (for tests and quick looks)."""

    @model_validator(mode="before")
    @classmethod
    def _one_mapping(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        corpus, hub = given.get("corpus"), given.get("hub")
        if isinstance(corpus, dict) and "name" not in corpus and list(corpus.values()) == [None]:
            # a word with a colon at its end is a mapping to YAML
            corpus = f"{next(iter(corpus))}:"
            given = {**given, "corpus": corpus}
        if isinstance(corpus, dict):
            if hub is not None or not isinstance(corpus.get("name"), str):
                raise ValueError("a mapping for corpus wants a name and no hub beside it: {name: owner/set, ...}")
            hub = {name: value for name, value in corpus.items() if name != "name"}
            return {**given, "corpus": PREFIX + corpus["name"], "hub": hub}
        if isinstance(corpus, str) and corpus.startswith(PREFIX) and hub is None:
            return {**given, "hub": {}}
        return given

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.corpus.startswith(PREFIX) and not self.corpus.removeprefix(PREFIX).strip():
            raise ValueError(
                "corpus: hub: wants a name: hub:owner/set on the hub, or hub:FOLDER of a data set on this machine"
            )
        if self.hub is not None and not self.corpus.startswith(PREFIX):
            raise ValueError(f"hub is about a corpus hub:NAME; the corpus is {self.corpus!r}")
        if self.streams and self.max_documents is not None:
            raise ValueError("max_documents has no meaning for a stream; leave it out or set hub.streaming=false")
        return self

    @property
    def streams(self) -> bool:
        """Whether the training text is read while training."""
        return self.hub is not None and self.hub.streaming

    @property
    def offline(self) -> bool:
        """Whether the hub must not be asked, for text or tokenizer."""
        return self.hub is not None and self.hub.offline

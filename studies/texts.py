"""What names of texts stood for when a study was launched whose search chooses among them. Imports no Optuna.

One commit in the base cannot be that of several sets. So the specification holds a table, of names as they are
asked for to what was found, and each configuration of the study is looked up in it, on whatever host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from workbench.config import RunConfig, TokenizerConfig
from workbench.home import Home
from workbench.hub import KnownCommits, with_commits

Texts = dict[str, dict[str, str | int | None]]
"""``dataset owner/set v1`` to its revision; ``tokenizer owner/model`` to its revision, sha256 and special ids."""
OF_TOKENIZER = ("revision", "sha256", "end_id", "pad_id")


def with_texts(config: RunConfig, texts: Texts) -> RunConfig:
    """With what its names stood for, where the table has them. Pure."""
    if not texts:
        return config

    def look_up(name: str, revision: str | None, kind: str, offline: bool) -> str | None:
        found = texts.get(_key(kind, name, {"revision": revision}), {}).get("revision", revision)
        return None if found is None else str(found)

    asked = config.data.tokenizer
    config = with_commits(config, look_up)
    found = texts.get(_tokenizer_key(asked))
    if found is None:
        return config
    data = config.data.model_copy(update={"tokenizer": asked.model_copy(update=found)})
    return config.model_copy(update={"data": data})


def find_texts(configs: Iterable[RunConfig], home: Home) -> Texts:
    """The table for these configurations: what the hub, or ``home``'s cache of it, and tokenizers' files say now.

    Raises DataError for a tokenizer that cannot be had; a set that cannot is not in the table."""
    from workbench.pretrained_tokenizer import with_tokenizer

    texts: Texts = {}
    known = KnownCommits(home.cache)

    def look_up(name: str, revision: str | None, kind: str, offline: bool) -> str | None:
        found = known.resolve(name, revision, kind, offline)
        if kind == "dataset" and found != revision:
            texts[_key(kind, name, {"revision": revision})] = {"revision": found}
        return found

    for config in configs:
        asked = config.data.tokenizer
        found = with_tokenizer(with_commits(config, look_up)).data.tokenizer
        if found != asked:
            texts[_tokenizer_key(asked)] = {name: getattr(found, name) for name in OF_TOKENIZER}
    return texts


def _tokenizer_key(asked: TokenizerConfig) -> str:
    return _key("tokenizer", asked.name or "", {name: getattr(asked, name) for name in OF_TOKENIZER})


def _key(kind: str, name: str, asked: Mapping[str, Any]) -> str:
    """Revisions as they are, so that a reader recognises them."""
    given = {field: value for field, value in asked.items() if value is not None}
    words = (value if field == "revision" else f"{field}={value}" for field, value in given.items())
    return " ".join([kind, name, *words])

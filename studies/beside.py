"""Whether a run that comes from elsewhere, such as imported weights, is on a text of a study's."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from studies import space
from studies.spec import StudySpec
from workbench.config import DataConfig, RunConfig
from workbench.config_file import flatten

_NAMED = ("corpus", "tokenizer.kind", "tokenizer.vocab_size", "tokenizer.sha256")
"""What is said of a text wherever it is named."""


class OtherText(NamedTuple):
    """In words that tell them apart."""

    run: str
    study: str
    tokenizer: bool
    """Whether they differ in the tokenizer."""


def other_text(spec: StudySpec, config: RunConfig) -> OtherText | None:
    """The run's text and tokenizer and the study's that are most like them; None where the study has these. Other
    ways to evaluate are another matter."""
    own = _facts(config.data)
    known = [_facts(other.data) for _, other in space.distinct_inputs(spec)]
    if not known:
        return None
    nearest = min(known, key=lambda facts: len(_apart(own, facts)))
    apart = _apart(own, nearest)
    if not apart:
        return None
    return OtherText(
        _words(own, apart), _words(nearest, apart), any(name.startswith("tokenizer.") for name in apart)
    )


def _apart(own: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    return [name for name in {**own, **facts} if _differ(own.get(name), facts.get(name), name)]


def _facts(data: DataConfig) -> dict[str, Any]:
    """Flattened: what decides about the text, with files of one's own by their full path."""
    facts = flatten(data.hashed())
    kind, colon, path = data.corpus.partition(":")
    if colon and kind in ("text", "json", "hub") and os.path.exists(os.path.expanduser(path)):
        facts["corpus"] = f"{kind}:{os.path.realpath(os.path.expanduser(path))}"
    return facts


def _differ(one: Any, other: Any, name: str) -> bool:
    """A revision that was left open may be the other."""
    open_revision = name.endswith("revision") and (one is None or other is None)
    return bool(one != other) and not open_revision


def _words(facts: dict[str, Any], apart: list[str]) -> str:
    """``kjv (tokenizer.kind byte, validation_fraction 0.2)``."""
    named = [*_NAMED[1:], *(name for name in apart if name not in _NAMED)]
    told = [f"{name} {str(facts[name])[:12]}" for name in named if facts.get(name) is not None]
    return f"{facts['corpus']} ({', '.join(told)})"

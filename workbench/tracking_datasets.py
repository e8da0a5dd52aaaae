"""The text of a run as MLflow's dataset inputs: a training split and a split that was scored.

Pure: reads the run folder, talks to nobody. MLflow knows a dataset by its name and digest, so each split has a
name of its own; the digest of both is the corpus's (``workbench.data``), which covers text, tokenizer and splits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import config_file, lineage, records

LONGEST_NAME, LONGEST_DIGEST = 500, 36
"""What MLflow's tables hold."""
SOURCE_TYPES = {"files": "local", "hub": "hugging_face"}
"""MLflow's words for a source where it has one."""
SCHEMA = json.dumps({"mlflow_colspec": [{"type": "string", "name": "text", "required": True}]})


@dataclass(frozen=True)
class DatasetUse:
    """A dataset and what a run used it for, in MLflow's terms."""

    name: str
    digest: str
    context: str
    source_type: str
    source: str
    """JSON."""
    schema: str | None = None
    """JSON."""
    profile: str | None = None
    """JSON: tokens, bytes, documents, vocabulary, source."""


def datasets(run_dir: Path, record: records.RunRecord, tree: dict[str, Any]) -> list[DatasetUse]:
    """Of a run folder; ``tree`` is its configuration. A run of an older version says no more than the name of
    its corpus, on which imported weights were scored: what they were trained on is not known. Raises RunError for
    a damaged folder."""
    digest = record.data_hash[:LONGEST_DIGEST]
    use = lineage.read(run_dir)
    if use is None:
        settings = {key: str(value) for key, value in config_file.flatten(tree["data"]).items()}
        name = str(tree["data"]["corpus"])[:LONGEST_NAME]
        context = "evaluation" if "imported" in record.environment else "training"
        return [DatasetUse(name, digest, context, "code", json.dumps({"tags": settings}))]
    kind = use.source["kind"]
    source = {key: value for key, value in use.source.items() if key != "kind"}
    return [
        DatasetUse(
            name=f"{_short(use)} {part.split}",
            digest=digest,
            context=part.context,
            source_type=SOURCE_TYPES.get(kind, kind),
            source=json.dumps(source),
            schema=SCHEMA,
            profile=json.dumps(
                {
                    **({"counted": "a sample of a stream"} if use.streams and part.context == "training" else {}),
                    "tokens": part.tokens,
                    "bytes": part.bytes,
                    "documents": part.documents,
                    "vocabulary": use.vocabulary,
                    "source": " ".join(source.values()),  # MLflow's pages show a source of its own kinds alone
                }
            ),
        )
        for part in use.parts
    ]


def _short(use: lineage.DataUse) -> str:
    """Of a user's files the last part of the path; the source has it whole."""
    name = Path(use.source["uri"]).name if use.source["kind"] == "files" else use.corpus
    return name[: LONGEST_NAME - 20]

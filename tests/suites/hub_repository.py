"""Local data set repositories, as they lie on the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def documents(count: int, word: str = "river") -> list[str]:
    """Different ones, of different lengths."""
    return [
        f"{word} {i}: " + " ".join(f"{word}{(7 * i + j) % 23}" for j in range(5 + i % 11)) for i in range(count)
    ]


def repository(
    folder: Path,
    splits: dict[str, Sequence[str]],
    *,
    num_shards: int = 3,
    kind: str = "jsonl",
    config: str = "main",
) -> Path:
    """A folder with a README.md that names the splits' files; rows go round the shards of the first split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True)
    lines = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for split, texts in splits.items():
        shards = num_shards if split == "train" else 1
        for shard in range(shards):
            path = folder / "data" / f"{split}-{shard:02}.{kind}"
            rows = [{"text": text, "number": i} for i, text in enumerate(texts) if i % shards == shard]
            if kind == "parquet":
                pq.write_table(pa.Table.from_pylist(rows), path)
            elif kind == "jsonl.zst":
                import zstandard

                packed = zstandard.ZstdCompressor().compress("".join(json.dumps(r) + "\n" for r in rows).encode())
                path.write_bytes(packed)
            else:
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        lines += [f"  - split: {split}", f"    path: data/{split}-*.{kind}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", "A text.\n"]), encoding="utf-8")
    return folder

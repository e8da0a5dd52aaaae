"""An entry of a cache that tests make."""

from __future__ import annotations

from pathlib import Path

CONTENT = b"0123456789" * 50


def build(folder: Path) -> None:
    (folder / "a.bin").write_bytes(CONTENT)
    (folder / "deeper").mkdir()
    (folder / "deeper" / "b.txt").write_text("b")


def refuse(folder: Path) -> None:
    raise AssertionError("made again")

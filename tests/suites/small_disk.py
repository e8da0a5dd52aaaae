"""A small file system of one's own, which can be filled and freed. Needs the right to mount (root on Linux)."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FILLER = "filler"


@dataclass(frozen=True)
class SmallDisk:
    path: Path

    def fill(self, *, left: int = 0) -> None:
        """Until nothing more can be written, but for ``left`` bytes."""
        with contextlib.suppress(OSError), open(self.path / FILLER, "ab", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        size = (self.path / FILLER).stat().st_size
        if left:
            with open(self.path / FILLER, "ab") as file:
                file.truncate(max(0, size - left))

    def free(self) -> None:
        (self.path / FILLER).unlink(missing_ok=True)

    def read_only(self, on: bool = True) -> None:
        _mount("-o", f"remount,{'ro' if on else 'rw'}", str(self.path))


@contextmanager
def small_disk(path: Path, kilobytes: int = 16_384) -> Iterator[SmallDisk | None]:
    """None where this user may not mount one."""
    path.mkdir()
    if not _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)):
        yield None
        return
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except OSError:
        return False

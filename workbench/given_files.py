"""Files that somebody gives us: read whole where they are files, never waited for where they are not.

Reading a named pipe without a writer, a terminal or a device such as /dev/zero would never end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MOST_BYTES = 2**28
"""Of a file that is read whole."""
_OPENED_BY_SHELL = ("/dev/fd/", "/proc/self/fd/", "/dev/stdin")
"""What ``<(command)`` and ``-`` stand for: somebody writes into them."""


def read_text(path: Path | str, most: int = MOST_BYTES) -> str:
    """The text of a UTF-8 file; a byte order mark is left out.

    Raises OSError where it is missing, no regular file or larger than ``most`` bytes, ValueError
    (UnicodeDecodeError) where it is not UTF-8."""
    require_regular(path, most)
    return Path(path).read_text(encoding="utf-8-sig")


def is_text(name: str) -> bool:
    """Whether it can be written: bytes of arguments and file names that are no UTF-8 arrive as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def require_regular(path: Path | str, most: int | None = None) -> None:
    """Raises OSError where ``path`` is missing, no file that ends, or larger than ``most`` bytes."""
    if str(path).startswith(_OPENED_BY_SHELL):
        return
    try:
        found = os.stat(path)
    except ValueError:  # a NUL in it
        raise FileNotFoundError(errno.ENOENT, "no file has such a name", str(path)) from None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "a pipe, socket or device, not a file", str(path))
    if most is not None and found.st_size > most:
        raise OSError(errno.EFBIG, f"{found.st_size:,} bytes, at most {most:,} are read", str(path))

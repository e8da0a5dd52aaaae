"""Which file of a data set is broken, in which line, and what to do. Imports no torch.

The libraries say neither: the name of a file stands in their log only, and lines are counted from somewhere within
it. So their log is listened to, and a file of JSON lines that lies on this machine is read again, up to the line.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import logging
import lzma
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, cast

from workbench.errors import DataError
from workbench.hub import folder_of, is_transient, said
from workbench.hub_sections import HubSet
from workbench.userfiles import json_records

_DAMAGE = {
    *("ArrowInvalid", "ArrowTypeError", "DatasetGenerationError", "JSONDecodeError", "UnicodeDecodeError"),
    *("ZstdError", "BadGzipFile", "LZMAError", "EOFError", "BadZipFile"),
}
"""Classes of errors about what a file holds."""
_NAMED = re.compile(r"^Failed to .*?'(?P<file>[^']+)' with error")
_LINES = {".json", ".jsonl"}
_DESCRIPTIONS = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""Files that the libraries read no rows from."""
MOST_SEARCHED = 2_000_000_000
"""Bytes of a folder in which a file is looked for that the libraries have not named."""
MOST_PARSED = 100_000_000
"""Bytes of a file that is read at once."""


@contextlib.contextmanager
def named(what: str, of: HubSet) -> Iterator[None]:
    """Errors about the content of a set as DataError, with the file and the line where they can be known."""
    log, quiet = _Log(of), _Quiet()
    library = logging.getLogger("datasets")
    library.addHandler(log)
    own = [handler for handler in library.handlers if not isinstance(handler, _Log)]
    for handler in own:  # one message is enough
        handler.addFilter(quiet)
    try:
        yield
    except StopIteration:
        raise DataError(
            f"{what} holds no rows; check its files, or choose another split (data.hub.split)"
        ) from None
    except Exception as error:
        cause = error.__cause__ or error
        kinds = {base.__name__ for base in type(error).__mro__}
        if isinstance(error, DataError) or is_transient(cause) or not kinds & _DAMAGE:
            raise
        raise DataError(f"{what} cannot be read: {_where(log.file, of, cause)}") from None
    finally:
        library.removeHandler(log)
        for handler in own:
            handler.removeFilter(quiet)


class _Log(logging.Handler):
    """The file of the set that the library named last. Sets are read in turn, and each log hears of all."""

    def __init__(self, of: HubSet) -> None:
        super().__init__()
        self.file, self._of = "", of

    def emit(self, record: logging.LogRecord) -> None:
        found = _NAMED.match(record.getMessage())
        file = found["file"].rpartition("::")[2] if found else ""  # of gzip://x.jsonl::x.jsonl.gz
        if file and _is_of(file, self._of):
            self.file = file


class _Quiet:
    """Leaves out what is said in our own message. One for each reader: the first that ends takes only its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _NAMED.match(record.getMessage()) is None


def _is_of(file: str, of: HubSet) -> bool:
    """Whether a file lies in the folder, or is one of the set on the hub, also where it was downloaded to."""
    folder = folder_of(of.name)
    if folder is not None:
        path = Path(file).absolute()
        return path.is_relative_to(folder) or path.resolve().is_relative_to(folder)
    name, whole = of.name.lower(), file.lower().replace("\\", "/")
    marks = (f"datasets/{name}@", f"datasets/{name}/", f"/datasets--{name.replace('/', '--')}/", "/downloads/")
    return any(mark in whole for mark in marks)


def _where(file: str, of: HubSet, error: BaseException) -> str:
    """File, line and reason as far as they are known, and the remedy."""
    folder = folder_of(of.name)
    here = (
        [Path(file)] if file and Path(file).is_file() else [] if file or folder is None else _searched(folder, of)
    )
    line = next((found for path in here if (found := _broken_line(path)) is not None), None)
    if line is None:
        line = (f"{file}: {said(error)}" if file else said(error)).rstrip(".")
    if folder is not None:
        return f"{line}. Mend or remove what is broken there, or take the file out of the folder"
    return (
        f"{line}. If a download was cut short, delete it from the hub's cache (HF_HOME) and run the same command "
        "again; if the set itself is broken, take another revision (data.hub.revision), or copy it to this "
        "machine, mend it and give the folder (hub:FOLDER)"
    )


def _searched(folder: Path, of: HubSet) -> list[Path]:
    """The split's files of JSON lines, up to the bytes that are looked through."""
    found, total = [], 0
    for path in _data_files(folder, of):
        if path.is_file() and set(path.suffixes) & _LINES:
            total += path.stat().st_size
            if total > MOST_SEARCHED:
                break
            found.append(path)
    return found


def _data_files(folder: Path, of: HubSet) -> list[Path]:
    """Those of the split (``train[:1%]+test`` reads two), as the library finds them; where it finds none, all but
    descriptions of the set."""
    splits = {part.partition("[")[0].strip() for part in of.split.split("+")}
    try:
        import datasets

        listed: Any = datasets.load_dataset_builder(str(folder), name=of.config).config.data_files
        own = [str(file) for split, given in listed.items() if splits & {str(split), "all"} for file in given]
    except Exception:  # the folder's own description may be what is broken
        own = []
    if own:
        return [Path(file.rpartition("::")[2]) for file in own]
    return [path for path in sorted(folder.rglob("*")) if path.name not in _DESCRIPTIONS]


def _broken_line(path: Path) -> str | None:
    """``FILE, line 4: not JSON: ...`` of the first record that cannot be read; None where there is none."""
    if not set(path.suffixes) & _LINES:
        return None
    first = True
    try:
        for where, record in json_records(str(path), _opened):
            if not isinstance(record, dict):
                return f"{where}: no object"
            first = False
    except DataError as error:
        return None if first and _is_whole(path) else str(error)
    except Exception as error:  # whatever a decompressor raises
        return f"{path}: {said(error)}"
    return None


def _is_whole(path: Path) -> bool:
    """Whether a file is one object over several lines, which the libraries read too. Of one that is too large
    to be read at once nothing is said."""
    try:
        with _opened(str(path)) as file:
            content = file.read(MOST_PARSED + 1)
        return len(content) > MOST_PARSED or isinstance(json.loads(content), dict)
    except Exception:  # whatever a decompressor raises
        return False


def _opened(path: str) -> AbstractContextManager[BinaryIO]:
    """Also a compressed one."""
    kinds: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _unpacked}
    opened = kinds.get(Path(path).suffix, open)
    return cast("AbstractContextManager[BinaryIO]", opened(path, "rb"))


def _unpacked(path: str, mode: str) -> BinaryIO:
    import zstandard

    return io.BufferedReader(zstandard.open(path, mode))  # which reads lines

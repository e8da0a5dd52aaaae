"""The reference that ``make docs`` makes from docstrings: every module is in it, and nothing is warned of. All
modules are read as pdoc does; pages, which take it a while, are made of the packages' faces alone."""

from __future__ import annotations

import inspect
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.suites.doc_pages import PACKAGES, ROOT

RENDERED = ("workbench.api", "studies.api", "analysis.api", "workbench.heads")
FLAGS = ["--no-show-source", "-o", "build/docs"]


def modules() -> list[str]:
    """All of the packages."""
    paths = [path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    named = (path.parent if path.name == "__init__.py" else path.with_suffix("") for path in paths)
    return sorted(path.as_posix().replace("/", ".") for path in named)


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What pdoc has to say."""
    monkeypatch.setenv("PDOC_ALLOW_EXEC", "1")
    monkeypatch.chdir(ROOT)
    said: list[str] = []

    def note(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        if category is UserWarning:  # others are of packages that are imported
            said.append(f"{filename}: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", note)
        yield said


def read(member: Any) -> None:
    """What its page shows: names in annotations are looked up, those of a class's fields and methods too."""
    from pdoc import doc, doc_types

    _ = member.docstring
    if member.kind == "class":
        inside, module = vars(member.obj), sys.modules[member.obj.__module__]
        doc_types.resolve_annotations(inside.get("__annotations__", {}), module, dict(inside), member.fullname)
        for name, method in inside.items():
            if inspect.isfunction(method) and method.__module__ == module.__name__:
                place = (member.modulename, f"{member.qualname}.{name}")
                str(doc.Function(*place, method, place).signature)
    elif member.kind == "function":
        str(member.signature)
    elif member.kind == "variable":
        _ = member.annotation_str, member.default_value_str


@pytest.mark.slow
def test_every_module_is_in_it_and_nothing_is_warned_of(warned: list[str]) -> None:
    from pdoc import doc, extract

    found = {name: doc.Module.from_name(name) for name in extract.walk_specs(PACKAGES)}
    missing = set(modules()) - set(found)
    assert {name for name in missing if not name.endswith("__main__")} == set()  # a program, no part of it
    for module in found.values():
        assert module.docstring, f"{module.fullname} says nothing of itself"
        for member in module.own_members:
            if member.kind != "module":
                read(member)
    assert warned == []


@pytest.mark.slow
def test_pages_are_made(tmp_path: Path, warned: list[str]) -> None:
    import pdoc

    pdoc.render.configure(show_source=False)
    pdoc.pdoc(*RENDERED, output_directory=tmp_path)
    assert warned == []
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert all(f"{name.replace('.', '/')}.html" in index for name in RENDERED)
    page = (tmp_path / "workbench" / "api.html").read_text(encoding="utf-8")
    assert "The commands as functions" in page
    assert (tmp_path / "workbench" / "heads" / "base.html").exists()


def test_a_name_that_means_nothing_is_warned_of(warned: list[str]) -> None:
    from pdoc import doc

    def wrong(x: Nothing) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    read(doc.Function("tests", "wrong", wrong, ("tests", "wrong")))
    assert any("Nothing" in said for said in warned)


def test_make_docs_asks_for_all_of_it() -> None:
    line = next(line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if "-m pdoc" in line)
    assert shlex.split(line) == ["PDOC_ALLOW_EXEC=1", "$(BIN)/python", "-m", "pdoc", *FLAGS, *PACKAGES]


def test_the_modules_are_found() -> None:
    assert {"workbench", "workbench.api", "workbench.heads.base", "studies.api", "analysis.api"} <= set(modules())

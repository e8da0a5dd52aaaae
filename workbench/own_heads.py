"""Heads that live outside the package, found by the ``kind`` that a configuration names (docs/own-head.md).

A head is offered in one of two ways, both of which are the user's own act on this machine: an installed
distribution with an entry point in the group ``calm.heads``, or a Python file that ``calm --heads FILE`` or
``CALM_HEADS`` names and that has a table ``HEADS``. A configuration never names code: one from a stranger can
choose among the heads that are here, and run nothing else. Imports no torch itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from workbench.errors import HeadError, RunError, UserError
from workbench.head_sections import HEAD_SECTIONS, OwnHeadConfig

GROUP = "calm.heads"
"""Of entry points: ``gaussian_mixture = "my_heads:GaussianMixtureHead"``."""
NOT_OWN = ("workbench", "torch", "abc", "typing", "builtins")
"""Packages of classes that a head inherits from, whose lines are not those to mend."""
VARIABLE = "CALM_HEADS"
"""Files, divided as in PATH. Worker processes inherit it."""
TABLE = "HEADS"
"""Of a file: kinds and their classes."""
FAILURES = (Exception, SystemExit)
"""Of a head's code. By ``sys.exit`` it would end the command, or a study's worker, without a word."""
HOW = f"offer it with calm --heads FILE.py ... (or {VARIABLE}=FILE.py), or install the package that has it"


@dataclass(frozen=True)
class OwnHead:
    """A head from outside. ``head``: a subclass of ``workbench.heads.base.Head``."""

    kind: str
    head: Any
    source: str
    """File name, or distribution with version and object."""
    code_hash: str
    """Of its Python sources, as they were loaded."""

    @property
    def section(self) -> type[OwnHeadConfig]:
        """Its part of the configuration."""
        found: type[OwnHeadConfig] = self.head.section
        return found

    def recorded(self) -> dict[str, str]:
        """What a run's record says of it."""
        return {"kind": self.kind, "source": self.source, "code_hash": self.code_hash}


def find(kind: str) -> OwnHead:
    """The head of that kind. Raises HeadError where none is offered, or what is offered cannot be used."""
    offered = _offered(kind)
    if len(offered) == 1:
        return offered[0]
    if offered:
        raise HeadError(
            f"model.head.kind {kind!r} is offered by {' and by '.join(one.source for one in offered)}; offer one"
        )
    known = [*HEAD_SECTIONS, *kinds()]
    raise HeadError(
        f"model.head.kind: one of {', '.join(known)} is wanted, {kind[:100]!r} given; a head of your own: {HOW}"
    )


def section_of(kind: str) -> type[OwnHeadConfig]:
    """The configuration section of an own head. Raises HeadError as ``find``."""
    return find(kind).section


def kinds() -> list[str]:
    """Of all own heads that are offered, without loading those of distributions."""
    names = {name for path in given_files() for name in _table(path)}
    return sorted(names | {point.name for point in entry_points(group=GROUP)})


def sections() -> list[type[OwnHeadConfig]]:
    """Of all own heads that are offered. Raises HeadError as ``find``."""
    return [section_of(kind) for kind in kinds()]


def recorded(kind: str | None) -> dict[str, str] | None:
    """For the environment of a run's record; None for a head of the workbench, or none."""
    return None if kind is None or kind in HEAD_SECTIONS else find(kind).recorded()


def require_same(kind: str, trained: Mapping[str, Any], what: str) -> None:
    """Raises RunError where the head of that kind that is here has other code than ``what`` was trained with, of
    which a record says ``trained``. Code that could not be read is not compared."""
    here, then = find(kind), str(trained.get("code_hash") or "")
    if here.code_hash and then and here.code_hash != then:
        raise RunError(
            f"{what} was trained with other code of the head {kind!r}: {trained.get('source')} with hash {then}, "
            f"{here.source} here has {here.code_hash}; offer that code, or train a run with this one"
        )


def failure_in_words(error: BaseException, kind: str | None) -> str:
    """The error, with the head's name and line where the code of an own head of that kind led to it."""
    said, place = in_words(error), _place_in_own(error, kind)
    return f"{named(str(kind), place)}: {said}" if place else said


def in_words(error: BaseException) -> str:
    """Its type, and its text where it has one."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place_in_own(error: BaseException, kind: str | None) -> str:
    """Empty for a head of the workbench and for what says itself what is to be mended."""
    if kind is None or kind in HEAD_SECTIONS or isinstance(error, UserError):
        return ""
    return place_of(error, find(kind).head)


@contextmanager
def blaming(kind: str | None, then: str = "") -> Iterator[None]:
    """Around what runs a head of that kind: an error that the code of an own head led to becomes a HeadError, and
    is its cause. ``then``: what to do about it."""
    try:
        yield
    except FAILURES as error:
        if _place_in_own(error, kind):
            raise HeadError(failure_in_words(error, kind) + then) from error
        raise


def blame(error: BaseException) -> str | None:
    """The error in words where the code of whatever own head is here and loaded led to it."""
    loaded = [path for path in given_files() if _module_name(path) in sys.modules]
    try:
        kinds = [kind for path in loaded for kind in _table(path)]
        kinds += [point.name for point in entry_points(group=GROUP) if point.module in sys.modules]
        return next((failure_in_words(error, kind) for kind in kinds if _place_in_own(error, kind)), None)
    except HeadError:  # two of one name, say: then none of them has run
        return None


def named(kind: str, place: str) -> str:
    """How messages about a head's code begin."""
    return f"the head {kind!r} ({place})"


def place_of(error: BaseException, head: Any) -> str:
    """File and line of a head's code that last led to the error, otherwise of a class that it inherits from; empty
    where none did."""
    packages = dict.fromkeys(each.__module__.partition(".")[0] for each in head.__mro__)
    frames = traceback.extract_tb(error.__traceback__)
    for package in packages:
        if package in NOT_OWN:
            continue
        modules = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
        files = {getattr(sys.modules[name], "__file__", None) for name in modules}
        if led := [frame for frame in frames if frame.filename in files]:
            return f"{Path(led[-1].filename).name}, line {led[-1].lineno}"
    return ""


def place_of_method(head: Any, name: str) -> str:
    """File and line where a head defines it; the file alone where that cannot be told."""
    code = getattr(inspect.unwrap(getattr(head, name)), "__code__", None)
    if code is None:
        return Path(getattr(sys.modules[head.__module__], "__file__", None) or head.__module__).name
    return f"{Path(code.co_filename).name}, line {code.co_firstlineno}"


def give(files: Iterable[Path | str], by: str = "own_heads.give") -> None:
    """Offer the heads of these files to this process and to those that it starts, beside those of ``CALM_HEADS``.
    ``by``: who names them, for messages. Raises HeadError for a file that cannot be used."""
    before = given_files()
    paths = list(dict.fromkeys([*before, *(Path(file).expanduser().resolve() for file in files)]))
    for path in paths:
        _table(path, VARIABLE if path in before else by)
    os.environ[VARIABLE] = os.pathsep.join(map(str, paths))


def given_files() -> list[Path]:
    """Of ``CALM_HEADS``, absolute."""
    return [Path(part).expanduser().resolve() for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]


def _offered(kind: str) -> list[OwnHead]:
    found = []
    for path in given_files():
        if kind in (table := _table(path)):
            found.append(OwnHead(kind, _checked(kind, table[kind], path.name), path.name, _loaded(path)[1]))
    for point in entry_points(group=GROUP):
        if point.name == kind:
            found.append(_installed(point))
    return found


# ---- files ---------------------------------------------------------------------------------------------


def _table(path: Path, by: str = VARIABLE) -> dict[str, Any]:
    """``HEADS`` of a file that ``by`` names."""
    try:
        table = getattr(_loaded(path)[0], TABLE, None)
    except OSError as error:
        raise HeadError(
            f"{by} names a file of heads that cannot be read: {path} ({error.strerror}); name one that is there"
        ) from None
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table):
        raise HeadError(
            f"{path}: a table {TABLE} of kinds and classes is wanted, "
            f'for example {TABLE} = {{"my_head": MyHead}}; {_given(table)}'
        )
    for name, head in table.items():
        _checked(name, head, path.name)
    return table


def _given(table: Any) -> str:
    return "there is none" if table is None else f"{table!r} given"


@lru_cache
def _loaded(path: Path) -> tuple[ModuleType, str]:
    """The module of a file and the hash of what was executed. Nothing is written beside the file. Raises OSError
    where it cannot be read, and HeadError where it cannot be executed."""
    source = path.read_bytes()
    name = _module_name(path)
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[name] = module  # what looks its annotations up by the module's name finds it
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # the user has named the file for that
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, FAILURES):
            raise
        raise HeadError(f"{path} cannot be loaded: {_where(error, str(path))}; mend it") from None
    return module, _short_hash(source)


def _module_name(path: Path) -> str:
    return f"calm_heads_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"


def _where(error: BaseException, path: str) -> str:
    """The error and the last line of the file that led to it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines = [error.lineno]
    place = f"line {lines[-1]}: " if lines else ""
    return place + in_words(error)


# ---- distributions -------------------------------------------------------------------------------------


@lru_cache
def _installed(point: EntryPoint) -> OwnHead:
    dist = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an installed distribution"
    source = f"{dist} ({point.value})"
    try:
        head = point.load()
    except FAILURES as error:
        raise HeadError(
            f"model.head.kind {point.name!r}: {source} cannot be loaded: {in_words(error)}; install it anew"
        ) from None
    return OwnHead(point.name, _checked(point.name, head, source), source, _package_hash(point.module))


def _package_hash(module: str) -> str:
    """Of all Python files of the top-level package, or of the one file that it is; empty where they cannot be
    read."""
    origin = getattr(sys.modules.get(module.partition(".")[0]), "__file__", None)
    if origin is None:
        return ""
    path = Path(origin)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    try:
        return _short_hash(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))
    except OSError:
        return ""


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


# ---- what is asked of a head ---------------------------------------------------------------------------


def _checked(kind: str, head: Any, source: str) -> Any:
    """The class. Raises HeadError where it is none, lacks what a head must have, or takes another's name."""

    def refuse(why: str) -> HeadError:
        return HeadError(f"the head {kind!r} of {source} cannot be used: {why} (docs/own-head.md)")

    if kind in HEAD_SECTIONS:
        raise refuse("the workbench has a head of that name; give it another")
    if not inspect.isclass(head):
        raise refuse(f"a subclass of workbench.heads.base.Head is wanted, {head!r} given")
    if missing := sorted(getattr(head, "__abstractmethods__", ())):
        raise refuse(f"{head.__name__} does not define {' and '.join(missing)}")
    section = getattr(head, "section", None)
    if not inspect.isclass(section) or not issubclass(section, OwnHeadConfig):
        raise refuse(
            f"{head.__name__}.section must be a subclass of workbench.head_sections.OwnHeadConfig, "
            f"{section!r} given"
        )
    field = section.model_fields["kind"]
    if field.default != kind:
        said = "has no default" if field.is_required() else f"says {field.default!r}"
        raise refuse(f'{section.__name__} must say kind: Literal["{kind}"] = "{kind}", it {said}')
    if not callable(getattr(head, "checked_counts", None)):
        raise refuse(f"{head.__name__} is no subclass of workbench.heads.base.Head")
    return head

"""The pages of docs/ and README: their blocks and the commands in their text, in the order of the page, and a
check of each that needs no run. ``tests.suites.doc_runs`` says how each is executed.

A block whose info string says ``file=NAME`` is written there before the page is executed.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from workbench.config import RunConfig
from workbench.config_file import build_config, flatten
from workbench.head_sections import HEAD_SECTIONS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("workbench", "studies", "analysis")
SHELL = {"console", "sh", "bash", "shell"}
OPERATORS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "(", ")"}

PROGRAMS = ("calm", "conda", "createdb", "createuser", "docker", "git", "make", "mlflow", "pip", "python", "srun")
PROGRAMS += ("torchrun",)
"""What a command in the running text begins with."""
BEGINS = re.compile(
    r"(?:\$ )?(?:[A-Z_]+=\S* )*(?:" + "|".join((*PROGRAMS, "cd", "cp", "echo", "export", "mkdir")) + r") \S"
)
"""A line that is a command."""


@dataclass(frozen=True)
class Block:
    """A fenced block. ``marks``: what its info string says after the language."""

    page: str
    line: int
    language: str
    marks: tuple[str, ...]
    body: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        return next((mark.removeprefix("file=") for mark in self.marks if mark.startswith("file=")), None)

    @property
    def is_shell(self) -> bool:
        told = any(BEGINS.match(line) for line in self.body.splitlines())
        return self.language in SHELL or (self.language == "" and told)


@dataclass(frozen=True)
class Told:
    """A command and what the page shows of its output."""

    command: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inline:
    """A command in the running text."""

    page: str
    line: int
    command: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path) -> list[Block]:
    text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
    found = []
    for match in re.finditer(r"^( *)```([^\n`]*)\n(.*?)^\1```[ ]*$", text, re.MULTILINE | re.DOTALL):
        language, *marks = match[2].split() or [""]
        line = text.count("\n", 0, match.start()) + 1
        body = re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)
        found.append(Block(name, line, language, tuple(marks), body))
    return found


def told(block: Block) -> list[Told]:
    """The commands of a shell block. With prompts, what has none is output."""
    lines = block.body.replace("\\\n", " ").splitlines()
    prompts = any(line.startswith("$ ") for line in lines)
    found: list[Told] = []
    for line in lines:
        if line.startswith("$ ") or (not prompts and line.strip() and not line.lstrip().startswith("#")):
            found.append(Told(line.removeprefix("$ ").strip()))
        elif prompts and found and line.strip():
            found[-1] = Told(found[-1].command, (*found[-1].shown, line))
    return found


def inline_commands(path: Path) -> list[Inline]:
    """Of the running text: what is set as code and begins with a program's name (and variables before it), with
    more words behind it."""
    name, found = path.relative_to(ROOT).as_posix(), []
    for match in re.finditer(r"`([^`]+)`", _without_blocks(path)):
        code = " ".join(match[1].split())
        words = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", code).split(" ")
        if words[0] in PROGRAMS and len(words) > 1:
            found.append(Inline(name, match.string.count("\n", 0, match.start()) + 1, code))
    return found


def steps(path: Path) -> list[Block | Inline]:
    """All that a page tells to do, in its order."""
    return sorted([*blocks(path), *inline_commands(path)], key=lambda step: step.line)


def indented(path: Path) -> list[str]:
    """Where a command or a configuration stands indented, which no check would see: it is to be fenced."""
    name, sections = path.relative_to(ROOT).as_posix(), "|".join(RunConfig.model_fields)
    found = []
    for number, line in enumerate(_without_blocks(path).split("\n"), 1):
        told = line.strip()
        if line.startswith((" ", "\t")) and (BEGINS.match(told) or re.match(rf"(?:{sections}):( |$)", told)):
            found.append(f"{name}:{number}: {told}")
    return found


def _without_blocks(path: Path) -> str:
    """With empty lines in their place."""
    text, fenced = path.read_text(encoding="utf-8"), r"^( *)```.*?^\1```[ ]*$"
    return re.sub(fenced, lambda match: "\n" * match[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)


def simple_commands(command: str) -> list[list[str]]:
    """Words of each command of a line; placeholders become 1."""
    filled = re.sub(r"<[^<>\n]*>|\$\{?[A-Za-z_0-9]+\}?|\$\([^()]*\)", "1", command)
    lexer = shlex.shlex(filled, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in OPERATORS:
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def check_line(command: str) -> None:
    """The syntax of a shell line, and each of its commands as far as it is ours. Raises AssertionError."""
    filled = re.sub(r"<([^<>\n]*)>", r"\1", command)  # <placeholder>
    done = subprocess.run(["bash", "-n"], input=filled, text=True, capture_output=True)
    assert done.returncode == 0, f"{command!r}: {done.stderr}"
    for words in simple_commands(command):
        check_words(words)


def check_words(words: list[str]) -> None:
    if words[0] in ("createdb", "createuser"):  # of whom, or for whom
        return
    if "calm" in words:
        start = words.index("calm") + 1
        parse(words[start + (words[start : start + 1] == ["calm"]) :])  # the service of compose.yaml, and in it
    elif words[0] == "make":
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert (wanted := {word for word in words[1:] if "=" not in word and word[0] != "-"}) <= targets, wanted
    elif "pip" in words and "install" in words:
        for extra in re.findall(r"\.\[([a-z,-]+)\]", " ".join(words)):
            assert set(extra.split(",")) <= extras(), f"{words}: the extras are {extras()}"
    elif words[0].startswith("python") and "-m" in words:
        module = words[words.index("-m") + 1]
        if module.split(".")[0] in (*PACKAGES, "tests"):
            assert importlib.util.find_spec(module) is not None, f"{words}: there is no module {module}"


def extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["optional-dependencies"])


@cache
def _command() -> Any:
    import typer

    from workbench.cli import app

    return typer.main.get_command(app)


def parse(words: list[str], *, whole: bool = True) -> None:
    """Parsed as ``calm`` does, without running it: commands, options, types of their values, names of fields.
    ``whole``: nothing may be missing. Raises AssertionError."""
    from typer._click.exceptions import MissingParameter, UsageError

    command, name, context, rest = _command(), "calm", None, list(words)
    try:
        while True:
            given = ["--help"] if not whole and not rest and hasattr(command, "commands") else rest
            if given == ["--help"]:
                return
            context = command.make_context(name, list(given), parent=context)
            if not hasattr(command, "commands"):
                break
            name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    except UsageError as error:
        if isinstance(error, MissingParameter) and not whole:
            return
        raise AssertionError(f"calm {shlex.join(words)}: {error.format_message()}") from None
    for assignment in [*(context.params.get("set_") or ()), *(context.params.get("sets") or ())]:
        field, equals, _ = assignment.partition("=")
        known = field in fields() or not re.fullmatch(r"[a-z_.]+", field)  # NAME=VALUE stands for any
        assert equals, f"calm {shlex.join(words)}: --set wants NAME=VALUE"
        assert known, f"calm {shlex.join(words)}: there is no field {field}"


@cache
def fields() -> set[str]:
    """Dotted names of all fields of all kinds of configurations."""
    trees: list[dict[str, Any]] = [{"model": {"kind": "baseline"}}, {"eval": {"tradeoff": {}}}]
    trees += [{"data": {"corpus": {"name": "x/y"}}}]
    trees += [{"model": {"head": {"kind": kind}}} for kind in HEAD_SECTIONS]
    return {name for tree in trees for name in flatten(build_config(tree).to_dict())} | {"eval.tradeoff"}


def check_python(source: str) -> None:
    """It compiles, and what it imports of our packages is there. Raises AssertionError."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                inside = hasattr(module, "__path__") and importlib.util.find_spec(f"{node.module}.{alias.name}")
                assert hasattr(module, alias.name) or inside, f"{node.module} has no {alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in PACKAGES:
                    assert importlib.util.find_spec(alias.name), alias.name


def check_yaml(source: str) -> None:
    """It is YAML, and a configuration where all its sections are those of one. Raises AssertionError."""
    tree = yaml.safe_load(source)
    if isinstance(tree, dict) and tree and set(tree) <= set(RunConfig.model_fields):
        build_config(tree)


def check_inline(step: Inline) -> None:
    """Of a command in the running text: ``...`` stands for anything, and something may be missing. Raises
    AssertionError that says where."""
    words = [word for word in simple_commands(step.command)[0] if word not in ("...", "…")]
    try:
        if "calm" in words:
            parse(words[words.index("calm") + 1 :], whole=False)
        else:
            check_words(words)
    except AssertionError as error:
        raise AssertionError(f"{step.where}: {error}") from error


def check(block: Block) -> None:
    """Of any block, without running it. Raises AssertionError that says where."""
    try:
        if block.is_shell:
            for one in told(block):
                check_line(one.command)
        elif block.language == "python":
            check_python(block.body)
        elif block.language in ("yaml", "yml"):
            check_yaml(block.body)
    except Exception as error:
        raise AssertionError(f"{block.where}: {error}") from error

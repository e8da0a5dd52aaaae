"""The lock file, environment.yml and pyproject.toml agree."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def pins(lines: list[str]) -> dict[str, str]:
    """``name==version`` lines to a mapping; anything else is an error."""
    found: dict[str, str] = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)", line)
        assert match, f"not pinned: {line!r}"
        name = canonicalize_name(match[1])
        assert name not in found, f"twice: {name}"
        found[name] = match[2]
    return found


def lock() -> dict[str, str]:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return pins([line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")])


def environment() -> list[Any]:
    found: list[Any] = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    return found


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements() -> list[Requirement]:
    extras = project()["optional-dependencies"]
    return [Requirement(r) for r in [*project()["dependencies"], *extras["dev"]]]


def test_environment_yml_has_the_same_pins() -> None:
    (pip,) = (entry["pip"] for entry in environment() if isinstance(entry, dict))
    assert [line for line in pip if line.startswith("-e")] == ["-e ."]
    assert pins([line for line in pip if not line.startswith("-e")]) == lock()


def test_the_python_version_is_admitted() -> None:
    (python,) = (entry for entry in environment() if str(entry).startswith("python="))
    assert python == "python=3.11"
    assert project()["requires-python"] == ">=3.11"
    assert "pip" in environment()


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_the_published_ranges_admit_the_pins(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    assert name in lock(), f"{name} is required but not pinned"
    assert requirement.specifier.contains(lock()[name])


def test_torch_is_pinned_to_a_version_that_any_index_has() -> None:
    """Without a local label such as +cpu, which PyPI does not know."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", lock()["torch"])


def test_no_pin_names_a_machine() -> None:
    text = (ROOT / "requirements.lock").read_text() + (ROOT / "environment.yml").read_text()
    assert not re.search(r"://|file:|--index|--extra-index|@ ", text)


def test_this_environment_is_the_locked_one() -> None:
    """What the tests run with is what the lock file says."""
    different = {}
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        try:
            installed = version(name).split("+")[0]
        except PackageNotFoundError:
            continue
        if installed != lock()[name]:
            different[name] = (installed, lock()[name])
    assert different == {}


def told() -> list[tuple[str, str]]:
    """What the product's files and pages tell to install, and where."""
    folders = [ROOT / name for name in ("workbench", "studies", "analysis", "examples", "docs")]
    paths = [p for folder in folders for p in folder.rglob("*") if p.suffix in (".py", ".md", ".ipynb", ".yaml")]
    paths += [ROOT / name for name in ("README.md", "CHANGELOG.md", "Makefile", "Containerfile", "compose.yaml")]
    return [
        (path.relative_to(ROOT).as_posix(), command)
        for path in paths
        for command in re.findall(PIP, re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8")))
    ]


PIP = r"pip3? install ([^\n`]+)"


def test_nobody_is_told_to_ask_an_index_for_the_workbench() -> None:
    """Its name is not this package's there: it is installed from a checkout."""
    assert len(told()) > 10
    assert [one for one in told() if re.search(r"calm[-_.]workbench", one[1])] == []
    assert re.findall(PIP, "`pip install 'calm-workbench[slurm]'`") == ["'calm-workbench[slurm]'"]


def test_packages_that_are_asked_for_have_the_versions_of_the_extras() -> None:
    wanted = {one for extra in project()["optional-dependencies"].values() for one in extra}
    named = [(where, name) for where, command in told() for name in re.findall(r"^'([^.'][^']*)'", command)]
    assert {name.split(">")[0] for _, name in named} >= {
        "psycopg[binary]",
        "submitit",
        "optuna-dashboard",
        "pytest",
    }
    assert [one for one in named if one[1] not in wanted] == []


def test_the_checks_can_fail() -> None:
    with pytest.raises(AssertionError, match="not pinned"):
        pins(["torch>=2"])
    with pytest.raises(AssertionError, match="twice"):
        pins(["Jinja2==1", "jinja2==1"])

"""Containerfile and compose.yaml as far as they can be checked without a container engine: what they name exists,
versions are pinned, nothing is published beyond this machine, no secret stands in them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from workbench.cli import app

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "CALM_POSTGRES_PASSWORD"
SERVICE_KEYS = {"image", "build", "command", "environment", "volumes", "ports", "depends_on", "healthcheck",
                "restart", "profiles", "init", "cap_drop", "security_opt", "shm_size",
                "stop_grace_period"}  # fmt: skip
"""Of the Compose Specification, those in use."""


def read() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return found


SERVICES: dict[str, dict[str, Any]] = read()["services"]


def filled(text: str, **values: str) -> str:
    """With defaults for variables, as compose fills them in; one without default must be given."""

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        assert name in values or default is not None, f"{name} has no default"
        return values.get(name, default or "")

    return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*)|:\?[^}]*)?\}", value, text)


def instructions() -> list[tuple[str, str]]:
    """Of the Containerfile: name and arguments, continued lines joined."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest) for name, rest in lines]


def of_kind(kind: str) -> list[str]:
    return [rest for name, rest in instructions() if name == kind]


@pytest.mark.parametrize("name", SERVICES)
class TestServices:
    def test_every_key_is_one_of_compose(self, name: str) -> None:
        assert SERVICES[name].keys() <= SERVICE_KEYS

    def test_its_image_is_ours_or_pinned_to_a_full_version(self, name: str) -> None:
        image = SERVICES[name]["image"]
        if "build" in SERVICES[name]:
            version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
            assert image == f"calm-workbench:{version}"
            assert (ROOT / SERVICES[name]["build"]["dockerfile"]).exists()
        else:
            assert re.fullmatch(r"[a-z]+:\d+\.\d+-\w+", image)

    def test_its_ports_are_of_the_loopback_address(self, name: str) -> None:
        for port in SERVICES[name].get("ports", []):
            assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", filled(port)), port

    def test_what_it_depends_on_and_where_it_writes_is_there(self, name: str) -> None:
        for other, condition in SERVICES[name].get("depends_on", {}).items():
            waits = condition["condition"]
            assert waits in ("service_healthy", "service_completed_successfully")
            assert waits != "service_healthy" or "healthcheck" in SERVICES[other]
        for volume in SERVICES[name].get("volumes", []):
            source, target = volume.split(":")
            assert source in read()["volumes"]
            if "build" in SERVICES[name]:
                assert f" {target}" in " ".join(of_kind("RUN")), "made for the user in the image"

    def test_its_password_comes_from_outside(self, name: str) -> None:
        for key, value in SERVICES[name].get("environment", {}).items():
            assert ("PASSWORD" in key) == (PASSWORD in value)
        assert PASSWORD not in str(SERVICES[name].get("command", ""))


def test_without_a_password_nothing_starts() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    uses = re.findall(rf"\$\{{{PASSWORD}[^}}]*\}}", text)
    assert uses
    assert all(":?" in use for use in uses)
    assert not re.search(r"://\w+:[^@\s]+@", text)
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_server_is_the_one_that_workers_are_told() -> None:
    worker, server = SERVICES["worker"]["environment"], SERVICES["mlflow"]["command"]
    assert worker["CALM_TRACKING_URI"] == "http://mlflow:5000"
    assert server[server.index("--port") + 1] == "5000"
    assert "mlflow:5000" in server[server.index("--allowed-hosts") + 1].split(",")
    assert worker["CALM_STORAGE"].startswith("postgresql://calm@postgres/")
    # both programs have a table alembic_version
    assert worker["CALM_STORAGE"] != server[server.index("--backend-store-uri") + 1]


def commands() -> list[list[str]]:
    found = [
        [filled(word) for word in service["command"]] for service in SERVICES.values() if "command" in service
    ]
    comment = [line.removeprefix("#") for line in (ROOT / "compose.yaml").read_text().splitlines()]
    typed = [line.partition("calm calm ")[2] for line in comment if "run --rm calm calm " in line]
    return [command for command in found if command[0] == "calm"] + [
        ["calm", *shlex.split(line)] for line in typed
    ]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_commands_are_understood(command: list[str]) -> None:
    """``--help`` at their end: options are read first, and unknown ones refused."""
    run = CliRunner()
    assert run.invoke(app, [*command[1:], "--help"]).exit_code == 0
    assert run.invoke(app, [*command[1:], "--bogus", "--help"]).exit_code == 2


@pytest.mark.slow
def test_mlflow_understands_its_command() -> None:
    command = [sys.executable, "-m", *SERVICES["mlflow"]["command"], "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class TestContainerfile:
    def test_its_base_is_pinned_and_has_our_python(self) -> None:
        (base,) = of_kind("FROM")
        assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)

    def test_what_it_copies_is_there_and_let_through(self) -> None:
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        assert ignored[0] == "*"
        copied = [word for line in of_kind("COPY") for word in line.split()[:-1]]
        packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
        assert {package.partition(".")[0] for package in packages} <= set(copied)
        for name in copied:
            assert (ROOT / name).exists()
            assert f"!{name}" in ignored

    def test_it_installs_the_locked_versions_and_leaves_root(self) -> None:
        names = [name for name, _ in instructions()]
        runs = of_kind("RUN")
        assert any("-r requirements.lock" in run for run in runs)
        assert any("--no-deps" in run for run in runs)
        assert of_kind("USER") == ["calm"]
        last_run = len(names) - 1 - names[::-1].index("RUN")
        assert names.index("USER") > last_run  # nothing runs as root after it, and everything before it may

    def test_no_secret_or_index_stands_in_it(self) -> None:
        text = (ROOT / "Containerfile").read_text()
        assert not re.search(r"://|PASSWORD|TOKEN|--trusted-host", text)

"""Names that are given to runs: a path is refused, since it would not be followed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from workbench import api
from workbench.cli import app
from workbench.errors import ConfigError, StudyError
from workbench.home import open_home

PATHS = ["../x", "/tmp/x", "a/b", "a\\b", "..", ".", "", " "]


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("command", [["train", "missing.yaml"], ["import", "encoder", "model"]])
def test_a_path_is_refused_and_nothing_is_made(tmp_path: Path, command: list[str], name: str) -> None:
    home = tmp_path / "runs"
    result = CliRunner().invoke(app, [*command, "--home", str(home), "--name", name])
    assert isinstance(result.exception, ConfigError)
    assert f"--name wants a run's name, for example tuned, and no path: {name!r} given" in str(result.exception)
    assert not home.exists()


def test_so_is_one_given_in_python(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no path: '\.\./x' given"):
        api.train("missing.yaml", name="../x", home=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["my run", "x.y", "größe", "[bold]", "…"])
def test_other_names_stay_as_they_are_given(name: str) -> None:
    assert api.require_name(name) == name


def test_a_study_of_another_home_is_none_of_this_one(tmp_path: Path) -> None:
    other = open_home(tmp_path / "other").study("joint-quick")
    other.mkdir()
    (other / "study.json").write_text("{}", encoding="utf-8")
    with pytest.raises(StudyError, match="there is no study"):
        api.import_weights("a", "b", name="theirs", study="../other/joint-quick", home=tmp_path / "runs")

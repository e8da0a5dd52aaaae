"""When Python looks for cyclic garbage."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.suites.tiny_runs import tree, write_text
from workbench import garbage

ENDED = """
import atexit, gc

@atexit.register  # first of all, so that it is called last
def say():
    print("at the end:", gc.get_threshold(), gc.get_freeze_count() > 1000)

from workbench.cli import program
program()
"""


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_seldom_until_it_is_settled() -> None:
    usual = gc.get_threshold()
    garbage.settle()
    assert gc.get_threshold() == usual, "nothing where a process is not ours"
    garbage.start()
    assert gc.get_threshold() == garbage.AT_START != usual
    with garbage.rare_collections():
        assert gc.get_threshold() == garbage.IN_REPORTS
    assert gc.get_threshold() == garbage.AT_START
    garbage.settle()
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count() > 0


def test_a_report_that_fails_leaves_the_collector_as_it_was() -> None:
    before = gc.get_threshold()
    with pytest.raises(ZeroDivisionError), garbage.rare_collections():
        raise ZeroDivisionError
    assert gc.get_threshold() == before


@pytest.mark.slow
def test_training_has_the_usual_collector_and_the_end_none(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree(write_text(tmp_path / "text.txt"))))
    command = [sys.executable, "-c", ENDED, "train", "config.yaml", "--tracking-uri", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"at the end: {gc.get_threshold()} True"


@pytest.mark.slow
def test_the_end_has_none_also_where_nothing_was_trained() -> None:
    command = [sys.executable, "-c", ENDED, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"at the end: {garbage.AT_START} True"

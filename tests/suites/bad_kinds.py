"""Every kind of bad input there is: what ``tests/chaos/bad_inputs.py`` counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.suites import bad_commands as commands
from tests.suites import bad_folders as folders
from tests.suites import bad_inputs as bad
from tests.suites import bad_resumed as resumed
from tests.suites import bad_tables
from tests.suites.bad_bench import Bench
from tests.suites.tiny_runs import tree

KINDS: tuple[tuple[Any, ...], ...] = (
    (
        "configuration",
        500,
        bad.yaml_texts({**tree(Path("text.txt")), "name": "x"}),
        commands.configuration,
        1,
        bad.YAML_TEXTS,
    ),
    ("assignment", 400, bad.assignments(commands.FIELDS), commands.assignment, 1),
    ("presets", 150, commands.preset_texts(), commands.presets, 1, bad.YAML_TEXTS[:40]),
    (
        "corpus",
        200,
        commands.corpora,
        commands.corpus,
        1,
        tuple(
            (text, ".txt" if i % 2 else ".jsonl", "text:{}" if i % 2 else "json:{}")
            for i, text in enumerate(bad.TEXTS)
        ),
    ),
    (
        "corpus path",
        80,
        commands.corpus_paths,
        commands.corpus_path,
        1,
        tuple((name, "text:{}") for name in commands.PATH_KINDS),
    ),
    (
        "table",
        240,
        commands.tables,
        commands.table,
        1,
        tuple((text, ".csv", False) for text in bad_tables.RAW_TABLES),
    ),
    ("parquet", 80, commands.parquets(), commands.parquet, 1),
    ("run name", 30, commands.run_names, commands.run_name, 1),
    ("launch name", 120, bad.names, commands.launch_name, 1),
    ("new launch", 6, bad.names, commands.new_launch, 1),
    ("path of run", 60, bad.names, commands.path_of_run, 1),
    ("prompt", 60, commands.prompts, commands.prompt, 1),
    ("home", 20, bad.names, commands.home, 1),
    ("number", 90, bad.numbers, commands.number, 1),
    (
        "damaged runs",
        160,
        st.lists(folders.one_damage, min_size=folders.NUM_DAMAGED, max_size=folders.NUM_DAMAGED),
        folders.damaged_runs,
        folders.NUM_DAMAGED,
    ),
    ("damaged trained", 40, folders.trained_damage, folders.damaged_trained, 1),
    ("damaged study", 24, folders.study_damage, folders.damaged_study, 1),
    ("damaged resumed", 80, resumed.resumed_damage, resumed.damaged_resumed, 1, resumed.RESUMED),
    (
        "damaged synchronised",
        30,
        resumed.synchronised_damage,
        resumed.damaged_synchronised,
        1,
        resumed.SYNCHRONISED,
    ),
)
"""Name, share of the inputs, the inputs, what is done with one, how many it is."""


def process_arguments(bench: Bench) -> list[list[str | bytes]]:
    """For processes of their own."""
    home = str(bench.place.home)
    names: list[str | bytes] = [
        b"\xff\xfe",
        "[/]",
        "🙂" * 100,
        "../../escaped",
        "<img src=x onerror=alert(1)>",
        "x" * 300,
    ]
    found: list[list[str | bytes]] = []
    for name in names:
        found += [
            ["sample", "--", name],
            ["train", "--dry-run", "--", name],
            ["study", "status", "--", name],
            ["report", "--home", home, "--", name],
            ["train", str(bench.config), "--tracking-uri", "none", "--name", name],
        ]
    return found

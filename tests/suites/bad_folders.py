"""Run folders and studies damaged in every way, given to the command line."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.suites import bad_inputs as bad
from tests.suites.bad_bench import Bench, Problems, good_run, good_study, pages
from tests.suites.synthetic_study import write_study_files

NUM_DAMAGED = 10
FILES = ("record.json", "config.yaml", "evaluations.jsonl", "metrics.jsonl", "positions.npz", "floors.npz")
FILES += ("samples.jsonl", "autoencoder.json")


def damaged_runs(bench: Bench, damages: list[Any]) -> Problems:
    """A study of three good runs and of others, each with one file that is not as it should be; a report on every
    fourth."""
    study = bench.place.home / "damaged"
    shutil.rmtree(study, ignore_errors=True)
    bench.place.reports.mkdir(exist_ok=True)
    shutil.rmtree(bench.place.reports, ignore_errors=True)
    write_study_files(study)
    for number in range(3):
        good_run(study / f"good{number}", number, study="damaged")
    for number, (name, how, *given) in enumerate(damages[:4] if bench.short else damages):
        run = good_run(study / f"bad{number}", number, study="damaged", kind=["calm", "baseline"][number % 4 == 3])
        damage(run / name, how, given)
    problems = bench.calm("plan", "--flops=1e14", "damaged")
    problems += bench.calm("study", "list")
    problems += bench.calm("compare", "good0", "bad0")
    bench.turns += 1
    if bench.short or bench.turns % 4:
        return problems
    ended, more = bench.ended("report", "damaged", "--no-mlflow")
    problems += more
    if not problems and ended.code:
        problems.append(f"no report for three good runs: {ended.err}")
    return problems + pages(bench)


def damage(path: Path, how: str, given: list[Any]) -> None:
    """One file of a run changed for the worse."""
    if how == "bytes":
        path.write_bytes(given[0])
    elif how == "json":
        path.write_text(json.dumps(given[0]) + "\n", encoding="utf-8")
    elif how == "mutated":
        mutate_file(path, given[0])
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: given[0]] if path.exists() else b"")
    elif how == "array":
        import numpy as np

        np.savez(path, **given[0])
    else:
        path.unlink(missing_ok=True)
        {
            "missing": lambda: None,
            "folder": path.mkdir,
            "fifo": lambda: os.mkfifo(path),
            "loop": lambda: path.symlink_to(path),
            "zeros": lambda: path.symlink_to("/dev/zero"),
        }[how]()


def mutate_file(path: Path, changes: list[tuple[int, str, Any]]) -> None:
    """Values of a JSON, JSON lines or YAML file replaced, left out or added."""
    if not path.exists():
        return
    if path.suffix == ".npz":
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("x.npy", b"no array")
        return
    text = path.read_text(encoding="utf-8")
    lines = path.suffix == ".jsonl"
    rows = [json.loads(line) for line in text.splitlines()] if lines else [yaml.safe_load(text)]
    for index, action, value in changes:
        known = bad.places(rows)
        if not known:
            break
        *parents, leaf = known[index % len(known)]
        node: Any = rows
        for key in parents:
            node = node[key]
        if action == "remove":
            del node[leaf]
        elif action == "add" and isinstance(node, dict):
            node[str(value)] = value
        else:
            node[leaf] = value
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")


def _arrays() -> st.SearchStrategy[Any]:
    import numpy as np

    arrays = st.sampled_from(
        [
            np.zeros(0),
            np.zeros(3),
            np.zeros((3, 4)),
            np.full((8, 4), np.nan),
            np.full((8, 4), np.inf),
            np.array("x"),
            np.array([{"a": 1}], dtype=object),
            np.arange(8),
            np.arange(8).astype(str),
            np.array(5),
            np.zeros((8, 3)),
            -np.ones(8, dtype=int),
            np.zeros((2, 2, 2)),
            np.array([2**62] * 8),
            np.zeros((8, 4), dtype=complex),
        ]
    )
    keys = st.sampled_from(["values", "starts", "clusters", "num_windows", "fingerprint", "unigram", "x", "step"])
    return st.dictionaries(keys, arrays, max_size=5)


changes = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.sampled_from(["replace", "replace", "replace", "remove", "add"]),
        bad.json_values,
    ),
    min_size=1,
    max_size=2,
)
one_damage = st.one_of(
    st.tuples(st.sampled_from(FILES), st.just("mutated"), changes),
    st.tuples(st.sampled_from(FILES), st.just("mutated"), changes),
    st.tuples(st.sampled_from(["record.json", "config.yaml", "evaluations.jsonl"]), st.just("mutated"), changes),
    st.tuples(st.sampled_from(FILES), st.just("json"), bad.json_values),
    st.tuples(st.sampled_from(FILES), st.just("bytes"), st.one_of(bad.texts, st.sampled_from(bad.YAML_TEXTS))),
    st.tuples(st.sampled_from(FILES), st.just("cut"), st.integers(0, 3000)),
    st.tuples(st.sampled_from(["positions.npz", "floors.npz"]), st.just("array"), _arrays()),
    st.tuples(st.sampled_from(FILES), st.sampled_from(["missing", "folder", "fifo", "loop"])),
)


def damaged_study(bench: Bench, given: Any) -> Problems:
    """study.json or summary.json."""
    name, how, *rest = given
    folder = bench.place.home / "good"
    good_study(bench)
    write_study_files(folder)
    if (folder / name).is_dir() or (folder / name).is_symlink() or (folder / name).is_fifo():
        return []
    damage(folder / name, how, rest)
    problems = [
        *bench.calm("study", "list"),
        *bench.calm("study", "status", "good"),
        *bench.calm("plan", "--flops=1e14", "good"),
    ]
    problems += bench.calm("study", "run", "good", "--tracking-uri=none")
    if not bench.short and len(str(given)) % 5 == 0:
        problems += bench.calm("report", "good", "--no-mlflow") + pages(bench)
        problems += bench.calm("sync", "--tracking-uri=none")
    return problems


study_damage = st.one_of(
    st.tuples(st.sampled_from(["study.json", "summary.json"]), st.just("mutated"), changes),
    st.tuples(st.sampled_from(["study.json", "summary.json"]), st.just("mutated"), changes),
    st.tuples(st.sampled_from(["study.json", "summary.json"]), st.just("json"), bad.json_values),
    st.tuples(st.sampled_from(["study.json", "summary.json"]), st.just("bytes"), bad.texts),
    st.tuples(st.sampled_from(["study.json", "summary.json"]), st.just("cut"), st.integers(0, 900)),
)


def damaged_trained(bench: Bench, given: Any) -> Problems:
    """A trained run with one damaged file, given to the commands that load it."""
    bench.train()
    name, how, *rest = given
    (source,) = (path.parent for path in (bench.place.home / "single").glob("tiny-*/record.json"))
    run = bench.place.path("-run")
    shutil.copytree(source, run)
    damage(run / name, how, rest)
    return [
        *bench.calm("sample", run, "--tokens=3"),
        *bench.calm("evaluate", run),
        *bench.calm("compare", "tiny", run),
        *bench.calm("bench", run, "--tokens=3", "--repeats=1"),
    ]


TRAINED = ("record.json", "config.yaml", "positions.npz", "evaluations.jsonl", "record.json", "config.yaml")
trained_damage = one_damage.map(lambda given: (given[0], *given[1:]))

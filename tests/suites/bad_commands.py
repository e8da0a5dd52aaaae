"""Bad configurations, texts, tables, names and numbers given to the command line."""

from __future__ import annotations

import json
import os
import shutil
import socket
from typing import Any
from unittest import mock

import yaml
from hypothesis import strategies as st

from studies import spec
from tests.suites import bad_inputs as bad
from tests.suites import bad_tables
from tests.suites.bad_bench import Bench, Problems, good_study, pages
from workbench.config import RunConfig
from workbench.config_file import flatten
from workbench.yaml_reading import FloatLoader, read_yaml

FIELDS = sorted(flatten(RunConfig().to_dict()))


def configuration(bench: Bench, content: bytes) -> Problems:
    return bench.calm("train", bench.place.write(content, ".yaml"), "--dry-run")


def assignment(bench: Bench, text: str) -> Problems:
    return bench.calm("train", bench.config, "--dry-run", f"--set={text}")


def trained_configuration(bench: Bench, changed: dict[str, Any]) -> Problems:
    """What a dry run lets pass is trained."""
    path = bench.place.write(yaml.safe_dump(changed).encode("utf-8", "surrogatepass"), ".yaml")
    return bench.calm("train", path, "--tracking-uri", "none")


def presets(bench: Bench, content: bytes) -> Problems:
    path = bench.place.write(content, ".yaml")
    path.rename(path.with_name("chunk_size.yaml"))
    for other in spec.PRESETS.glob("*.yaml"):
        if other.stem != "chunk_size":
            shutil.copy(other, path.parent)
    with mock.patch("studies.spec.PRESETS", path.parent):
        return [
            *bench.calm("study", "show", "chunk_size"),
            *bench.calm("study", "list"),
        ]


def preset_texts() -> st.SearchStrategy[bytes]:
    path = spec.PRESETS / "chunk_size.yaml"
    quick = {"quick": read_yaml(path.read_text(encoding="utf-8"), FloatLoader)["quick"]}
    return st.one_of(bad.yaml_texts(quick), bad.yaml_texts(quick["quick"]).map(lambda text: b"quick:\n" + text))


# ---- texts -------------------------------------------------------------------------------------


def corpus(bench: Bench, given: tuple[bytes, str, str]) -> Problems:
    content, suffix, form = given
    path = bench.place.write(content, suffix)
    return _train_on(bench, form.format(path))


def _train_on(bench: Bench, name: str) -> Problems:
    return bench.calm(
        "train", bench.config, "--tracking-uri", "none", f"--set=data.corpus={json.dumps(name)}", "--name=c"
    )


FORMS = ("text:{}", "text:{}", "json:{}", "json:{}", "json:{}:text", "json:{}:other", "json:{}:", "{}", "hf:{}")
corpora = st.tuples(
    bad.texts,
    st.sampled_from([".txt", ".jsonl", ".json", ".gz", "", ".TXT", ".a:b", "[x].txt"]),
    st.sampled_from(FORMS),
)


def corpus_path(bench: Bench, given: tuple[str, str]) -> Problems:
    """What is no file."""
    what, form = given
    path = bench.place.path()
    {
        "missing": lambda: None,
        "empty folder": path.mkdir,
        "folder": lambda: (path.mkdir(), (path / "a.txt").write_text("x"), (path / "b.txt").mkdir()),
        "folder of names": lambda: (path.mkdir(), (path / "a\udcff.txt").write_bytes(b"x" * 9000)),
        "fifo": lambda: os.mkfifo(path),
        "folder with fifo": lambda: (
            path.mkdir(),
            os.mkfifo(path / "a.txt"),
            (path / "b.txt").write_text("x" * 9000),
        ),
        "socket": lambda: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path)),
        "loop": lambda: path.symlink_to(path),
        "folder loop": lambda: (
            path.mkdir(),
            (path / "a").symlink_to(path),
            (path / "a.txt").write_text("x" * 9000),
        ),
        "dangling": lambda: path.symlink_to("nowhere"),
        "device": lambda: path.symlink_to("/dev/zero"),
        "null": lambda: path.symlink_to("/dev/null"),
        "unreadable": lambda: path.symlink_to("/proc/self/mem"),
        "growing": lambda: path.symlink_to("/proc/self/status"),
        "unreadable folder": lambda: path.symlink_to("/proc/1"),
        "sparse": lambda: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 0),
        "pattern": lambda: (path.mkdir(), (path / "[a].txt").write_text("x")),
    }[what]()
    return _train_on(bench, form.format(path))


PATH_KINDS = (
    "missing",
    "empty folder",
    "folder",
    "folder of names",
    "fifo",
    "folder with fifo",
    "socket",
    "loop",
    "folder loop",
    "dangling",
    "device",
    "null",
    "unreadable",
    "growing",
    "unreadable folder",
    "sparse",
    "pattern",
)
corpus_paths = st.one_of(
    st.tuples(
        st.sampled_from(PATH_KINDS), st.sampled_from(["text:{}", "json:{}", "text:{}/*", "json:{}/**:text"])
    ),
    st.tuples(st.just("missing"), bad.names.map(lambda name: name.replace("{", "(").replace("}", ")"))),
    st.tuples(
        st.just("missing"),
        bad.names.map(lambda name: "text:" + name.replace("{", "(").replace("}", ")")),
    ),
)


# ---- tables ------------------------------------------------------------------------------------


def table(bench: Bench, given: tuple[bytes, str, bool]) -> Problems:
    content, suffix, reported = given
    path = bench.place.write(content, suffix)
    problems = bench.calm("plan", "--flops", "1e16", "--data", path)
    if reported:
        good_study(bench)
        problems += bench.calm("report", "good", "--data", path, "--no-mlflow")
        problems += pages(bench)
    return problems


tables = st.tuples(
    bad_tables.tables(),
    st.sampled_from([".csv"] * 8 + [".CSV", ".parquet", ".txt", ""]),
    st.integers(0, 29).map(lambda i: i == 7),
)


def parquet(bench: Bench, given: Any) -> Problems:
    import pandas as pd

    path = bench.place.path(".parquet")
    columns, cut = given
    try:
        pd.DataFrame(columns).to_parquet(path)
    except Exception:  # not every mixture can be written
        path.write_bytes(b"PAR1")
    if cut is not None:
        path.write_bytes(path.read_bytes()[:cut])
    return bench.calm("plan", "--flops", "1e16", "--data", path)


def parquets() -> st.SearchStrategy[Any]:
    cell = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=4),
        st.dates(),
        st.datetimes(),
        st.timedeltas(),
        st.decimals(allow_nan=False, places=2, min_value=-9, max_value=9),
        st.lists(st.integers(0, 3), max_size=2),
        st.dictionaries(st.sampled_from("ab"), st.integers(0, 3), min_size=1),
    )
    good = {
        "model": ["a", "b", "c"],
        "brierlm": [1.0, 2.0, 3.0],
        "K": [1, 2, 4],
        "train_flops": [1e15, 2e15, 3e15],
    }
    column = st.one_of(cell.map(lambda value: [value] * 3), st.lists(cell, min_size=3, max_size=3))
    changed = st.dictionaries(
        st.sampled_from([*good, "seed", "phase", "dataset", "note", "tokens"]), column, max_size=3
    )
    return st.tuples(
        changed.map(lambda new: {**good, **new}), st.one_of(st.none(), st.none(), st.integers(0, 600))
    )


# ---- names -------------------------------------------------------------------------------------


def run_name(bench: Bench, given: tuple[str, str]) -> Problems:
    name, how = given
    if how == "file":
        tree = {**bench.tree, "name": name}
        path = bench.place.write(yaml.safe_dump(tree).encode("utf-8", "surrogatepass"), ".yaml")
        return bench.calm("train", path, "--tracking-uri", "none")
    problems = bench.calm("train", bench.config, "--dry-run", f"--name={name}")
    arguments = [] if how == "tracked" else ["--tracking-uri", "none"]
    return problems + bench.calm("train", bench.config, f"--name={name}", *arguments)


run_names = st.tuples(
    bad.names, st.sampled_from(["argument", "argument", "argument", "file", "file", "file", "tracked"])
)


def launch_name(bench: Bench, name: str) -> Problems:
    commands: tuple[list[str], ...] = (
        ["study", "run", "--", name],
        ["study", "status", "--", name],
        ["study", "retry", "--", name],
        ["study", "show", "--", name],
        ["study", "show", "chunk_size", f"--preset={name}"],
        ["study", "run", "chunk_size", f"--preset={name}"],
        ["report", "--no-mlflow", "--", name],
        ["report", "--together", "--", name, name],
        ["plan", "--flops=1e15", "--", name],
        ["study", "run", "chunk_size", f"--storage={name}", "--name=stored"],
        ["study", "status", "chunk_size", f"--storage={name}"],
        ["study", "run", "chunk_size", f"--workers={name}"],
        ["sync", f"--tracking-uri={name}"],
        ["train", str(bench.config), f"--tracking-uri={name}"],
        ["train", "--dry-run", "--", name],
        [name],
        ["study", name],
        ["train", str(bench.config), f"--seeds={name}"],
    )
    return bench.calm(*bench.turn(commands))


def new_launch(bench: Bench, name: str) -> Problems:
    """Launches whose name is taken run at once, with nothing trained."""
    return bench.calm(
        "study",
        "run",
        "chunk_size",
        f"--name={name}",
        "--workers=1",
        "--seeds=1",
        "--tracking-uri=none",
        "--execute=tests.suites.fake_runner:execute",
    )


def path_of_run(bench: Bench, name: str) -> Problems:
    bench.train()
    commands: tuple[list[str], ...] = (
        ["sample", "--tokens=4", "--", name],
        ["evaluate", "--", name],
        ["compare", "--", "tiny", name],
        ["bench", "--tokens=4", "--repeats=1", "--", name],
        ["sample", "--tokens=4", f"--prompt-file={name}", "--", "tiny"],
        ["sample", "--tokens=4", f"--sampler={name}", "--", "tiny"],
        ["evaluate", f"--split={name}", "--", "tiny"],
        ["evaluate", f"--set={name}", "--", "tiny"],
        ["compare", f"--difference={name}", "--", "tiny", "tiny"],
    )
    return bench.calm(*bench.turn(commands))


def prompt(bench: Bench, given: tuple[str | bytes, bool]) -> Problems:
    content, as_json = given
    bench.train()
    if isinstance(content, bytes):
        option = f"--prompt-file={bench.place.write(content, '.txt')}"
    else:
        option = f"--prompt={content}"
    return bench.calm("sample", "tiny", option, "--tokens=3", *(["--json"] if as_json else []))


prompts = st.tuples(st.one_of(bad.names, bad.texts), st.booleans())


def home(bench: Bench, name: str) -> Problems:
    inside = bench.place.path()
    inside.mkdir()
    before = bench.place.here
    bench.place.here = inside / "x" / "y"
    bench.place.here.mkdir(parents=True)
    commands: tuple[list[str], ...] = (
        ["report", "--no-mlflow"],
        ["study", "list"],
        ["study", "status", "chunk_size"],
        ["train", str(bench.config), "--dry-run"],
        ["plan", "--flops=1e15"],
        ["sync", "--tracking-uri=none"],
        ["sample", "tiny"],
        ["study", "show", "chunk_size"],
    )
    try:
        relative = name if not name.startswith(("/", "~")) else f"x{name}"
        return bench.calm(*bench.turn(commands), f"--home={relative}")
    finally:
        bench.place.here = before


def number(bench: Bench, value: Any) -> Problems:
    bench.train()
    text = bad.shown(value).replace("\0", "")[:4000]
    commands: tuple[list[str], ...] = (
        ["plan", f"--flops={text}"],
        ["plan", "--flops=1e15", f"--inference-flops-per-token={text}"],
        ["sample", "tiny", "--tokens=3", f"--temperature={text}"],
        ["sample", "tiny", "--tokens=3", f"--seed={text}"],
        ["sample", "tiny", "--tokens=3", f"--noise-scale={text}"],
        ["sample", "tiny", "--tokens=3", "--sampler=exact", f"--budget={text}"],
        ["sample", "tiny", "--tokens=3", "--sampler=batch", f"--batch-size={text}"],
        ["sample", "tiny", "--tokens=3", f"--num={text}"] if abs(_small(value)) < 100 else ["--help"],
        ["evaluate", "tiny", f"--target-se={text}"],
        ["evaluate", "tiny", f"--set=eval.num_windows={text}"],
        ["evaluate", "tiny", f"--set=eval.context_len={text}"],
        ["bench", "tiny", "--tokens=3", "--repeats=1", f"--temperature={text}"],
        ["bench", "tiny", "--tokens=3", "--repeats=1", f"--seconds={text}"],
        ["bench", "tiny", "--tokens=3", "--repeats=1", f"--context={text}"],
        ["bench", "tiny", "--tokens=3", "--repeats=1", f"--threads={text}"] if _small(value) < 8 else ["--help"],
        ["train", str(bench.config), "--dry-run", f"--context={text}"],
        ["train", str(bench.config), "--dry-run", f"--length={text}"],
        ["train", str(bench.config), "--dry-run", f"--seeds={text}"],
        ["study", "show", "chunk_size", f"--trials={text}"],
        ["study", "show", "chunk_size", f"--seeds={text}"],
        ["study", "show", "chunk_size", f"--threads={text}"],
        ["study", "show", "chunk_size", f"--workers={text}"],
        ["report", "none", f"--every={text}"],
    )
    return bench.calm(*bench.turn(commands))


def _small(value: Any) -> float:
    return value if isinstance(value, (int, float)) and abs(value) < 1e6 else 1e6

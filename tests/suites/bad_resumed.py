"""A run whose folder was damaged is taken up again, and a home with a damaged study is delivered to a database."""

from __future__ import annotations

import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from hypothesis import strategies as st

from tests.suites import bad_folders as folders
from tests.suites import bad_inputs as bad
from tests.suites.bad_bench import Bench, Problems, good_run
from tests.suites.synthetic_study import write_study_files
from tests.suites.tiny_runs import tree
from workbench import files, records, yaml_reading
from workbench.api import run_folder
from workbench.config_file import build_config
from workbench.errors import StudyError
from workbench.home import open_home
from workbench.runner import execute, resolve

NAME = "resumed"
LOGS = ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl")
READ = (*LOGS, *LOGS, "autoencoder.json", "record.json", "system.jsonl", "data.json", "mlflow.json")
BESIDE = ("step-foo.txt", "step-.txt", "step-00000099.txt", "step-0.txt", "step-٣.txt", "x", ".step-1.txt")


def damaged_resumed(bench: Bench, given: Any) -> Problems:
    """``calm train`` of a run that was interrupted, or is finished, with one damaged file; where that is refused,
    the record is as it was."""
    finished, again, (name, how, *rest) = given
    run_dir = _restored(bench, finished)
    if how == "beside":
        (run_dir / records.SAMPLE_TEXTS / name).write_text("x")
    else:
        folders.damage(run_dir / name, how, rest)
    before = _status(run_dir)
    tracked = [] if again and how in ("bytes", "mutated") else ["--tracking-uri=none"]
    with mock.patch("workbench.tracking_sync.deliver_left_aside"):  # it goes on in this process afterwards
        ended, problems = bench.ended("train", _config(bench), *tracked)
    if ended.code == 2 and before in ("interrupted", "completed") and _status(run_dir) != before:
        problems.append(f"the run was {before} and is {_status(run_dir)}: {ended.err}")
    if "pydantic" in ended.err:
        problems.append(ended.err)
    if again and finished:
        problems += bench.calm("rerun", run_dir, "--compare-only", f"--out={bench.place.path('-rerun')}")
    return problems


def _restored(bench: Bench, finished: bool) -> Path:
    """The run's folder, as it was when it was saved."""
    home = open_home(bench.place.home)
    saved = bench.place.home / ".saved"
    config = resolve(build_config(yaml_reading.read_yaml(_config(bench).read_text(encoding="utf-8"))), home)
    run_dir = run_folder(NAME, config, home)
    if not saved.exists():

        def stop(_: records.Evaluation) -> None:
            raise KeyboardInterrupt

        try:
            execute(config, run_dir, home=home, on_evaluation=stop)
        except KeyboardInterrupt:
            shutil.copytree(run_dir, saved / "False")
        assert execute(config, run_dir, home=home).status == "completed"
        shutil.copytree(run_dir, saved / "True")
    shutil.rmtree(run_dir)
    shutil.copytree(saved / str(finished), run_dir)
    return run_dir


def _config(bench: Bench) -> Path:
    path = bench.place.home / ".resumed.yaml"
    if not path.exists():
        asked = {**tree(bench.texts / "text.txt"), "name": NAME}
        asked["train"] |= {"train_tokens": 8 * 128, "num_evaluations": 2}
        path.write_text(yaml.safe_dump(asked), encoding="utf-8")
    return path


def _status(run_dir: Path) -> str | None:
    """None where nobody can tell."""
    try:
        return str(files.read_json(run_dir / records.RECORD)["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


resumed_damage = st.tuples(
    st.booleans(),
    st.booleans(),
    st.one_of(
        st.tuples(st.sampled_from(READ), st.just("mutated"), folders.changes),
        st.tuples(st.sampled_from(READ), st.just("mutated"), folders.changes),
        st.tuples(st.sampled_from(READ), st.just("json"), bad.json_values),
        st.tuples(st.sampled_from(READ), st.just("bytes"), bad.texts),
        st.tuples(st.sampled_from(READ), st.just("cut"), st.integers(0, 3000)),
        st.tuples(st.sampled_from(READ), st.sampled_from(["missing", "folder", "fifo", "loop"])),
        st.tuples(st.sampled_from(BESIDE), st.just("beside")),
    ),
)
RESUMED: tuple[Any, ...] = (
    (False, False, ("metrics.jsonl", "bytes", b"{}\n")),
    (False, False, ("samples.jsonl", "mutated", [(1, "remove", None)])),
    (False, False, ("step-foo.txt", "beside")),
    (False, True, ("system.jsonl", "bytes", b"{}\n{}\n")),
    (True, False, ("autoencoder.json", "bytes", b"{}")),
)
"""What once ended in a traceback."""


def damaged_synchronised(bench: Bench, given: Any) -> Problems:
    """``calm sync`` to a database of a home with a damaged study and two sound runs elsewhere, which arrive.
    Reports, which take most of the time, every fourth time."""
    known, (name, how, *rest) = given
    home = bench.place.path("-home")
    shutil.copytree(_synchronised(bench, known), home)
    folders.damage(home / "good" / name, how, rest)
    bench.turns += 1
    with nullcontext() if not (bench.short or bench.turns % 4) else _without_reports():
        ended, problems = bench.ended("sync", f"--home={home}")
    if not problems and not known:
        found = re.search(r"(\d+) delivered", ended.out)
        if found is None or int(found[1]) < 2:
            problems.append(f"others are not delivered: {ended.out}{ended.err}")
    return problems


def _without_reports() -> Any:
    return mock.patch("workbench.cli.study_report.build_study_report", side_effect=StudyError("not now"))


def _synchronised(bench: Bench, known: bool) -> Path:
    """A home that is to be copied: its database has MLflow's tables, and with ``known`` the runs already."""
    folder = bench.place.home / f".synchronised-{known}"
    if not folder.exists():
        write_study_files(folder / "good")
        write_study_files(folder / "other")
        for number in range(2):
            good_run(folder / "good" / f"r{number}", number, study="good")
        good_run(folder / "other" / "r0", study="other")
        good_run(folder / "single" / "r0")
        if known:
            with _without_reports():
                bench.ended("sync", f"--home={folder}")
        else:
            from workbench.tracking import open_tracker

            open_tracker(None, experiment="calm", home=open_home(folder)).close()
    return folder


_part = st.sampled_from(["study.json", "summary.json"])
synchronised_damage = st.tuples(
    st.booleans(),
    st.one_of(
        st.tuples(_part, st.just("mutated"), folders.changes),
        st.tuples(_part, st.just("json"), bad.json_values),
        st.tuples(_part, st.just("bytes"), bad.texts),
        st.tuples(_part, st.just("cut"), st.integers(0, 900)),
        st.tuples(_part, st.sampled_from(["missing", "folder", "fifo", "loop"])),
    ),
)
SYNCHRONISED: tuple[Any, ...] = (
    (False, ("study.json", "bytes", b"{broken")),
    (False, ("study.json", "bytes", b"[1]")),
    (True, ("summary.json", "bytes", b"{broken")),
)

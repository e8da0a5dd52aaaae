"""``calm rerun``: a run made again from what it stored, and whether it comes out the same.

    outcome = rerun("tiny-50215e2e", home)
    outcome.results.identical

The configuration is the stored, resolved one, checked against the record's hash. Code and data have to be the
same (``any_code`` lifts the former); other packages or another processor are named and allowed. A run that a study
ended early is not ended again: its rerun goes to the end of its budget, and what both have is compared.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import checkpoint, code_state, files, machine, records
from workbench.build import Inputs, prepare_inputs
from workbench.config import RunConfig
from workbench.config_file import build_config, verified_config
from workbench.errors import ConfigError, OutputError, RunError
from workbench.home import Home
from workbench.initial import initial_run
from workbench.pretrained_tokenizer import with_kept
from workbench.progress import Display
from workbench.records import FINISHED, RunRecord
from workbench.rerun_results import Results, compare_results, require_comparable
from workbench.rerun_state import Side, State, compare_state
from workbench.run_names import find_run
from workbench.runner import Identity, execute, resolve
from workbench.saved_runs import require_same_text

if TYPE_CHECKING:
    from workbench.tracking import Tracker

FRESH = ".fresh"
"""In the folder of a rerun while it trains: a cache of its own."""
MAY_CHANGE = "runtime."


@dataclass(frozen=True)
class Rerun:
    """What came of it."""

    run_dir: Path
    folder: Path
    """Of the rerun."""
    state: State
    """Then and now; where the rerun was finished before, as it was when that was made."""
    before: bool
    """Whether it was finished before."""
    results: Results | None
    """None where there is no rerun to compare with."""


def rerun(
    run: str | Path,
    home: Home,
    *,
    out: Path | None = None,
    any_code: bool = False,
    overrides: Mapping[str, Any] | None = None,
    fresh: bool = False,
    compare_only: bool = False,
    tracker: Tracker | None = None,
    display: Display | None = None,
    on_state: Callable[[State], None] = lambda state: None,
) -> Rerun:
    """Run the run called ``run`` again in ``out`` (by default a folder beside runs outside studies), or go on with
    an interrupted rerun, and compare. ``on_state`` hears what is the same before anything trains.

    ``overrides`` may say ``runtime.*`` only. ``fresh``: read the text and train the autoencoder anew instead of
    taking them from the cache. ``compare_only``: train nothing.

    Raises RunError where the code or the text is not the same or the run's configuration was changed, ConfigError
    for other overrides and a device that is not there, OutputError where ``out`` is taken."""
    run_dir = find_run(str(run), home)
    record = records.read_record(run_dir)
    if "imported" in record.environment:
        raise RunError(
            f"{run_dir} holds imported weights, whose training cannot be repeated here; evaluate it, or start a "
            "run from it (train.init_from)"
        )
    stored = verified_config(run_dir / records.CONFIG, record.config_hash)
    config = with_kept(_on_this_machine(stored, overrides or {}, home), home, run_dir)
    folder = out or home.single_runs() / _name(run_dir, record, stored, config)
    _require_own(folder, run_dir, record)
    inputs = prepare_inputs(config, home)
    made = records.read_record(folder) if (folder / records.RECORD).exists() else None
    before = made is not None and made.status in FINISHED
    state = _state(record, run_dir, stored, config, inputs, (folder, made) if made and before else None)
    on_state(state)
    if not (compare_only or before):
        require_same_text(record, inputs.corpus, run_dir)
        require_comparable(run_dir)
        begun = checkpoint.find(folder / records.CHECKPOINT) is not None
        initial = None if begun else initial_run(config, home, run_dir)  # in the run's home, and as it was then
        if not any_code:
            _require_same_code(state, record)
        files.writable_folder(folder)
        files.write_json(folder / records.RERUN, _mark(run_dir, record))
        if display is not None and not fresh:
            display.note("what the cache holds of text and autoencoder is taken from there; --fresh makes it anew")
        place, identity = Home(folder / FRESH) if fresh else home, Identity(name=f"{record.name} rerun")
        execute(config, folder, home=place, identity=identity, tracker=tracker, display=display, initial=initial)
        shutil.rmtree(folder / FRESH, ignore_errors=True)
    there = (folder / records.RECORD).exists()
    return Rerun(run_dir, folder, state, before, compare_results(run_dir, folder) if there else None)


def _on_this_machine(stored: RunConfig, overrides: Mapping[str, Any], home: Home) -> RunConfig:
    foreign = [name for name in overrides if not name.startswith(MAY_CHANGE)]
    if foreign:
        raise ConfigError(
            f"{foreign[0]} cannot be set of a rerun, it would be another run: only {MAY_CHANGE}* can (threads, "
            "dtype, device); for another run use calm train"
        )
    return resolve(build_config(stored.to_dict(), overrides) if overrides else stored, home)


def _name(run_dir: Path, record: RunRecord, stored: RunConfig, config: RunConfig) -> str:
    """Runs of several studies have one name (t003-s0), and other settings of the machine make another rerun."""
    whose = f"{record.study}-" if record.study else ""
    other = "" if config.hash() == stored.hash() else f"-{config.hash()[:8]}"
    return f"{whose}{run_dir.resolve().name}-rerun{other}"


def _mark(run_dir: Path, record: RunRecord) -> dict[str, str]:
    return {"of": record.run_id, "created": record.created, "config_hash": record.config_hash, "run": str(run_dir)}


def _require_own(folder: Path, run_dir: Path, record: RunRecord) -> None:
    """Raises OutputError where ``folder`` holds anything but a rerun of this run."""
    if run_dir.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise OutputError(
            f"{folder} is the run's own folder, which a rerun leaves alone; choose another with --out"
        )
    if folder.is_file():
        raise OutputError(f"{folder} is a file; a folder for the rerun is wanted: choose another with --out")
    try:
        mark = files.read_json(folder / records.RERUN)
        same = all(mark.get(key) == value for key, value in _mark(run_dir, record).items() if key != "run")
    except FileNotFoundError:
        same = not folder.is_dir() or all(path.name == ".lock" for path in folder.iterdir())
    except (OSError, ValueError, AttributeError) as error:
        files.raise_unreadable(folder / records.RERUN, error)
        same = False
    if not same:
        raise OutputError(f"{folder} holds something else than a rerun of {run_dir}; choose another with --out")


def _state(
    record: RunRecord,
    run_dir: Path,
    stored: RunConfig,
    config: RunConfig,
    inputs: Inputs,
    made: tuple[Path, RunRecord] | None,
) -> State:
    """The run beside this process, or beside the rerun ``made`` that is finished."""
    if made is not None:
        folder, other = made
        now = Side(
            config, other.environment, other.data_hash, other.eval_fingerprint, code_state.read_kept(folder)
        )
    else:
        now = Side(
            config,
            machine.environment(config),
            inputs.corpus.hash,
            inputs.grid.fingerprint,
            code_state.uncommitted(),
        )
    kept = code_state.read_kept(run_dir)
    return compare_state(Side(stored, record.environment, record.data_hash, record.eval_fingerprint, kept), now)


def _require_same_code(state: State, record: RunRecord) -> None:
    """Raises RunError where it is not, or nobody knows."""
    same = state.same("code")
    if same:
        return
    commit = str(record.environment.get("git_commit") or "")
    how = "is not the same as" if same is False else "cannot be said to be the same as"
    back = f"bring it back (git checkout {commit[:12]}{_patch(record)})" if commit else "bring it back"
    raise RunError(
        f"the workbench's code {how} when {record.name} was trained; {back}, or run it with the code of today: "
        "--any-code"
    )


def _patch(record: RunRecord) -> str:
    unchanged = record.environment.get("git_diff_hash") in (None, "", code_state.UNKNOWN)
    return "" if unchanged else f" and git apply {code_state.DIFF} of the run's folder"

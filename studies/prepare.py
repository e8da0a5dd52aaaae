"""From what the user asked for to a launch: a new one frozen and created, or an old one found again.

A launch is continued under its stored specification when it is named itself (``calm study run
joint-quick``), or compared with the preset's when the study is named (``calm study run joint``): another
specification is refused with the differences. Only ``trials`` may be raised.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna

from studies import find_studies, space, storage
from studies.objective import DEFAULT_RUNNER
from studies.search_spec import HeartbeatSpec
from studies.spec import StudySpec, amend, differences, freeze, suggestion
from studies.staffing import Staffing, check_numbers
from studies.storage import Launch
from workbench import files
from workbench.errors import DataError, StudyError
from workbench.home import Home
from workbench.tracking_schema import without_password

SPEC = "study.json"
DEFAULT_PRESET = "quick"


@dataclass(frozen=True)
class Options:
    """What the user asked for; None where nothing was said."""

    name: str
    """A study, or an existing launch to be continued."""
    preset: str | None = None
    launch: str | None = None
    """Name of the launch; default STUDY-PRESET."""
    trials: int | None = None
    seeds: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    storage: str | None = None
    tracking_uri: str | None = None
    workers: int | None = None
    """Processes; None lets a short probe choose (``studies.staffing``)."""
    threads: int | None = None
    """Of each worker; None shares the cores out."""
    execute: str = DEFAULT_RUNNER


def prepare(
    options: Options, home: Home, before_create: Callable[[str], None] = lambda name: None
) -> tuple[Launch, dict[str, Any] | None]:
    """The launch to run, created if it is new, and what its study.json said before.

    ``before_create`` is called with the name of a new launch once everything else has been found in order.
    Raises StudyError and ConfigError; nothing is created then."""
    check_numbers(options.workers, options.threads)
    if options.seeds is not None and options.seeds < 1:
        raise StudyError(f"--seeds must be at least 1, {options.seeds} given")
    asked = _asked(options)
    name = asked.name if asked else options.name
    stored_file = read_study_file(home, name)
    if asked is None:
        _check_continuation(options, home, stored_file)
    url = _url(options.storage, home, stored_file, name)
    heartbeat = asked.heartbeat if asked else _heartbeat(stored_file)
    with files.locked(home.root / ".launch.lock"):
        database = storage.open_storage(url, home, heartbeat)
        if storage.load(name, database) is not None:
            return _continue(options, home, name, asked, url, database), stored_file
        if asked is None or stored_file is not None:
            raise StudyError(
                f"storage {storage.masked(url)} does not know the launch {name} (folder {home.study(name)}); "
                "give the --storage it was started with, or move its folder away, or choose another --name"
            )
        before_create(name)
        if options.execute == DEFAULT_RUNNER:
            check_inputs(asked, home)
        search, cells = storage.create(asked, database)
        return Launch(home, url, asked, search, cells), None


def check_inputs(spec: StudySpec, home: Home) -> None:
    """Read every text that a run of the study will use and lay out its evaluation before anything is created.

    Raises DataError: a launch frozen with a corpus that is missing or too small could never be mended; and
    ConfigError for a device that this machine does not have."""
    from workbench.build import prepare_inputs
    from workbench.runner import resolve

    inputs = list(space.distinct_inputs(spec))
    for cell, config in inputs:
        try:
            prepare_inputs(config.resolved(), home)  # what the machine has changes none of them
        except DataError as error:
            raise DataError(f"cell {cell}: {error}" if cell else str(error)) from None
    for _, config in inputs:
        resolve(space.with_seed(config, 0, name=spec.name, threads=1), home)


def _asked(options: Options) -> StudySpec | None:
    """The specification asked for where a study was named; None where it was something else."""
    study = find_studies().get(options.name)
    if study is None:
        return None
    if options.launch is not None:
        _check_name(options.launch)
    return freeze(
        study,
        options.preset or DEFAULT_PRESET,
        name=options.launch,
        trials=options.trials,
        seeds=options.seeds,
        overrides=options.overrides,
    )


def _continue(
    options: Options,
    home: Home,
    name: str,
    asked: StudySpec | None,
    url: str,
    database: optuna.storages.RDBStorage,
) -> Launch:
    """An existing launch, with more trials where they were asked for."""
    loaded = storage.load(name, database)
    assert loaded is not None
    search, cells = loaded
    stored = storage.stored_spec(search)
    if asked is None:
        asked = amend(stored, trials=options.trials, seeds=options.seeds, overrides=options.overrides)
    elif options.trials is None:
        asked = asked.model_copy(update={"trials": stored.trials})
    _refuse_differences(stored, asked)
    spec = stored.model_copy(update={"trials": asked.trials})
    if spec != stored:
        storage.store_spec(search, spec)
    return Launch(home, url, spec, search, cells)


def _check_continuation(options: Options, home: Home, stored: Mapping[str, Any] | None) -> None:
    """Raises StudyError where ``options.name`` is neither a study nor a launch, or contradicts the latter."""
    if stored is None:
        if options.storage is not None:
            return  # perhaps a launch of another machine; the storage knows
        known = find_studies()
        hint = suggestion(options.name, [*known, *launches(home)])
        raise StudyError(f"there is no study or launch {options.name!r}; {hint}")
    if options.preset not in (None, stored["preset"]):
        raise StudyError(
            f"{options.name} was launched with preset {stored['preset']}, not {options.preset}; "
            f"launch the other with: calm study run {stored['study']} --preset {options.preset}"
        )
    if options.launch not in (None, options.name):
        raise StudyError(
            f"{options.name} is a launch already; for another one: "
            f"calm study run {stored['study']} --name {options.launch}"
        )


def _heartbeat(stored_file: Mapping[str, Any] | None) -> HeartbeatSpec:
    return StudySpec.model_validate(stored_file["spec"]).heartbeat if stored_file else HeartbeatSpec()


def _check_name(name: str) -> None:
    if not name or name.startswith(".") or "/" in name or os.sep in name or name in ("single", "mlartifacts"):
        raise StudyError(f"--name wants a plain name for a folder (for example joint-wide), {name!r} given")


def _url(asked: str | None, home: Home, stored: Mapping[str, Any] | None, name: str) -> str:
    """The storage asked for, else the one the launch was started with, else the home's own."""
    before = stored.get("storage") if stored and asked is None else None
    if before is None:
        return storage.storage_url(asked, home)
    if "***" in before:
        raise StudyError(f"{name} was launched with --storage {before}; give it again, with its password")
    return str(before)


def _refuse_differences(stored: StudySpec, asked: StudySpec) -> None:
    lines = differences(stored, asked)
    if lines:
        listed = "\n".join(f"  {line}" for line in lines)
        raise StudyError(
            f"{stored.name} was launched with another specification (stored → asked):\n{listed}\n"
            f"continue it as it was launched with: calm study run {stored.name}\n"
            f"or start a new one with: calm study run {stored.study} --preset {asked.preset} --name NEW …"
        )


def read_study_file(home: Home, name: str) -> dict[str, Any] | None:
    path = home.study(name) / SPEC
    try:
        content: dict[str, Any] = files.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} cannot be read: {error}") from None
    return content


def write_study_file(launch: Launch, tracking_uri: str | None, staffing: Staffing | None = None) -> None:
    """study.json: the question and the frozen specification, for the report and for resuming; and with how many
    workers it was run last."""
    spec = launch.spec
    before = read_study_file(launch.home, launch.name) or {}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    files.write_json(
        launch.folder / SPEC,
        {
            "name": spec.name,
            "study": spec.study,
            "preset": spec.preset,
            "question": spec.question,
            "against": spec.against,
            "objective": spec.objective,
            "parameters": {name: d.model_dump(mode="json") for name, d in spec.space.items()},
            "spec": spec.to_dict(),
            "spec_hash": spec.hash(),
            "created": before.get("created", now),
            "seeds": spec.seeds,
            "trials": spec.trials if spec.searches else None,
            "staffing": staffing.to_dict() if staffing else before.get("staffing"),
            "storage": storage.masked(launch.url),
            "tracking_uri": None if tracking_uri is None else without_password(tracking_uri),
        },
    )


def launches(home: Home) -> list[str]:
    """Names of the launches in a home."""
    return sorted(path.parent.name for path in home.root.glob(f"*/{SPEC}"))


def find_launch(home: Home, name: str, url: str | None = None) -> Launch:
    """An existing launch by its name, or by its study's name where that has one launch only."""
    known = launches(home)
    if name not in known:
        of_study = [other for other in known if (read_study_file(home, other) or {}).get("study") == name]
        if len(of_study) > 1:
            raise StudyError(f"study {name} has several launches in {home.root}: {', '.join(of_study)}; name one")
        if not of_study:
            raise StudyError(f"no launch {name!r} in {home.root}; {suggestion(name, known)}")
        name = of_study[0]
    stored = read_study_file(home, name)
    assert stored is not None
    url = _url(url, home, stored, name)
    loaded = storage.load(name, storage.open_storage(url, home, _heartbeat(stored)))
    if loaded is None:
        raise StudyError(
            f"storage {storage.masked(url)} does not know {name}; give the --storage it was started with"
        )
    return Launch(home, url, storage.stored_spec(loaded[0]), loaded[0], loaded[1])


def retry(launch: Launch) -> list[str]:
    """Queue every failed trial and cell again; what was queued."""
    queued = []
    with launch.claim_lock():
        for study in (launch.search, launch.cells):
            for trial in storage.failed(study):
                storage.requeue(study, trial.number)
                queued.append(storage.cell_of(trial) or f"trial {trial.number}")
    return queued

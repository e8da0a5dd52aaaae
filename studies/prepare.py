"""From what the user asked for to a launch: a new one frozen and created, or an old one found again.

A launch is continued under its stored specification when it is named itself (``calm study run
joint-quick``), or compared with the preset's when the study is named (``calm study run joint``): another
specification is refused with the differences. Only ``trials`` may be raised. What names on the hub stood for at
the launch is part of it (``studies.pins``).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pydantic

from studies import database, find_studies, recovery, space, storage, why_none
from studies.address import ELSEWHERE, address, is_of, to_stored, without_file
from studies.address import KEY as STORAGE
from studies.beginnings import check_beginnings
from studies.claim import claim
from studies.left import require_texts, require_texts_left
from studies.objective import DEFAULT_RUNNER
from studies.pins import ATTRIBUTE, Pin, pin, pinned
from studies.room import require_room_for_study
from studies.search_spec import HeartbeatSpec
from studies.spec import Study, StudySpec, amend, differences, freeze
from studies.staffing import Staffing, check_numbers
from studies.storage import Launch
from studies.words import suggestion
from workbench import files, formats
from workbench.config_file import shortened
from workbench.errors import ConfigError, DataError, StudyError, UserError
from workbench.home import Home
from workbench.tracking import require_answer
from workbench.tracking_schema import without_password
from workbench.tracking_targets import ADDRESS as TRACKING

SPEC = "study.json"
DEFAULT_PRESET = "quick"
_PLAIN_NAME = re.compile(r"[^\W_][\w .,+=()-]*")
_LONGEST_NAME = 100
_MEND = "bring back an intact copy, or move its folder away"


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
    """Processes; None: as asked for in the last session, or as a short probe says (``studies.staffing``)."""
    threads: int | None = None
    """Of each worker; None: as in the last session, or OMP_NUM_THREADS, or the cores shared out."""
    anew: bool = False
    """Whatever the last session had."""
    execute: str = DEFAULT_RUNNER
    only_queued: bool = False
    """Run what is queued and nothing new: what ``retry`` queued."""
    first_worker: int = 0
    """Number of the first worker, where several launchers share a folder of logs."""
    elsewhere: bool = False
    """The runs are made on other machines, so this one need not have their devices."""


def prepare(
    options: Options, home: Home, before_create: Callable[[str], None] = lambda name: None
) -> tuple[Launch, dict[str, Any] | None]:
    """The launch to run, created if it is new, and what its study.json said before.

    ``before_create`` is called with the name of a new launch once everything else has been found in order.
    Raises StudyError and ConfigError; nothing is created then, no database either."""
    check_numbers(options.workers, options.threads)
    if options.seeds is not None and options.seeds < 1:
        raise StudyError(f"--seeds must be at least 1, {options.seeds} given")
    known = find_studies()
    asked = _asked(options, known)
    name = asked.name if asked else options.name
    stored_file = read_study_file(home, name)
    if asked is None:
        _check_continuation(options, home, stored_file, known)
    url = address(options.storage, home, stored_file, name)
    heartbeat = asked.heartbeat if asked else _heartbeat(stored_file, home.study(name) / SPEC)
    with files.locked(home.root / ".launch.lock"):
        ready = None
        if not database.is_there(url):
            if asked is None or stored_file is not None:
                raise _unknown(name, home, url, stored_file)
            database.require_place(url)
            ready = _ready(asked, options, home, before_create)
        connected = database.open_storage(url, home, heartbeat)
        with claim(url, name) as claimed:
            if storage.load(name, connected) is not None:
                return _continue(options, home, name, asked, url, connected), stored_file
            try:
                if asked is None or stored_file is not None:
                    raise _unknown(name, home, url, stored_file)
                spec, pins = ready or _ready(asked, options, home, before_create)
            except UserError:
                claimed.forget()
                raise
            search, cells = storage.create(spec, connected, pins)
            return Launch(home, url, spec, search, cells), None


def _unknown(name: str, home: Home, url: str, stored: Mapping[str, Any] | None) -> StudyError:
    if stored and is_of(url, home, stored):
        return database.forgotten(url, name, home.study(name))
    return StudyError(
        f"storage {database.masked(url)} does not know the launch {name} (folder {home.study(name)}); give the "
        "--storage it was started with, or move its folder away, or choose another --name"
    )


def _ready(
    asked: StudySpec, options: Options, home: Home, before_create: Callable[[str], None]
) -> tuple[StudySpec, list[Pin]]:
    """The specification to launch, with everything that it needs found in order, and what was pinned in it."""
    require_answer(options.tracking_uri)
    spec, pins = pin(asked, home)
    if options.execute == DEFAULT_RUNNER:
        require_room_for_study(spec, home, workers=options.workers)
        check_inputs(spec, home, elsewhere=options.elsewhere)
    before_create(spec.name)
    return spec, pins


def storage_of(options: Options, home: Home) -> tuple[str, dict[str, Any] | None]:
    """The database that ``prepare`` would use, and what study.json says. Raises StudyError and ConfigError."""
    asked = _asked(options, find_studies())
    name = asked.name if asked else options.name
    stored = read_study_file(home, name)
    return address(options.storage, home, stored, name), stored


def spec_to_show(options: Options, home: Home) -> StudySpec:
    """What a launch would be, or what one that is there was launched with, and what is asked for on top; named as
    for ``prepare``. Creates nothing. Raises StudyError and ConfigError."""
    known = find_studies()
    asked = _asked(options, known)
    if asked is not None:
        return asked
    _check_continuation(replace(options, storage=None), home, read_study_file(home, options.name), known)
    spec = find_launch(home, options.name, options.storage).spec
    return amend(spec, trials=options.trials, seeds=options.seeds, overrides=options.overrides)


def check_inputs(spec: StudySpec, home: Home, *, elsewhere: bool = False) -> None:
    """Read every text that a run of the study will use and lay out its evaluation before anything is created.

    Raises DataError: a launch frozen with a corpus that is missing or too small could never be mended; StudyError
    where a run cannot start from the one that its ``train.init_from`` names; and, unless the runs are made
    ``elsewhere``, ConfigError for a device that this machine does not have."""
    from workbench.build import prepare_inputs
    from workbench.initial import initial_run, require_same_vocabulary
    from workbench.machine import check_device
    from workbench.pretrained_tokenizer import with_kept
    from workbench.runner import resolve

    inputs = list(space.distinct_inputs(spec))
    for device in set() if elsewhere else {config.runtime.device for _, config in inputs}:
        check_device(device)  # before texts are read for long
    check_beginnings(spec, home)
    for cell, config in inputs:
        resolved = config.resolved()  # what the machine has changes none of them
        try:
            initial = initial_run(resolved, home)
            found = prepare_inputs(with_kept(resolved, home, initial), home)
            if initial is not None:
                require_same_vocabulary(resolved, found.corpus, initial)
        except (ConfigError, DataError) as error:
            raise type(error)(f"cell {cell}: {error}" if cell else str(error)) from None
    for _, config in [] if elsewhere else inputs:
        resolve(space.with_seed(config, 0, name=spec.name, threads=1), home)


def _asked(options: Options, known: Mapping[str, Study]) -> StudySpec | None:
    """The specification asked for where a study was named; None where it was something else."""
    study = known.get(options.name)
    if study is None:
        return None
    if options.launch is not None:
        _check_name(options.launch)
    return freeze(
        study,
        DEFAULT_PRESET if options.preset is None else options.preset,
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
    connected: database.PatientStorage,
) -> Launch:
    """An existing launch, with more trials where they were asked for. Raises StudyError for other differences, and
    DataError where a text of what is left to run is not there; nothing is changed then."""
    loaded = storage.load(name, connected)
    assert loaded is not None
    search, cells = loaded
    stored = storage.stored_spec(search)
    if asked is None:
        asked = amend(stored, trials=options.trials, seeds=options.seeds, overrides=options.overrides)
    elif options.trials is None and asked.may_grow and stored.may_grow:
        asked = asked.model_copy(update={"trials": stored.trials})
    asked = pinned(asked, [Pin(*one) for one in search.user_attrs.get(ATTRIBUTE, [])])
    _refuse_differences(stored, asked, home)
    spec = stored.model_copy(update={"trials": asked.trials})
    if options.execute == DEFAULT_RUNNER:
        require_texts_left(spec, search, cells, only_queued=options.only_queued)
    if spec != stored:
        storage.store_spec(search, spec)
    return Launch(home, url, spec, search, cells)


def _check_continuation(
    options: Options, home: Home, stored: Mapping[str, Any] | None, known: Mapping[str, Study]
) -> None:
    """Raises StudyError where ``options.name`` is neither a study nor a launch, or contradicts the latter."""
    if stored is None:
        if options.storage is not None:
            return  # perhaps a launch of another machine; the storage knows
        hint = suggestion(options.name, [*known, *launches(home)])
        none = f"there is no study or launch {options.name!r}{why_none(options.name)}; {hint}"
        raise StudyError(without_file(home, options.name) or none)
    if options.preset not in (None, stored.get("preset")):
        raise StudyError(
            f"{options.name} was launched with preset {stored.get('preset')}, not {options.preset}; "
            f"launch the other with: calm study run {home.named(str(stored.get('study')))} "
            f"--preset {options.preset}"
        )
    if options.launch not in (None, options.name):
        raise StudyError(
            f"{options.name} is a launch already; for another one: "
            f"calm study run {home.named(str(stored.get('study')))} --name {options.launch}"
        )


def _heartbeat(stored_file: Mapping[str, Any] | None, path: Path) -> HeartbeatSpec:
    """Raises StudyError where the stored specification does not say it."""
    if stored_file is None:
        return HeartbeatSpec()
    spec = stored_file.get("spec")
    try:
        return HeartbeatSpec.model_validate(spec.get("heartbeat") if isinstance(spec, dict) else None)
    except pydantic.ValidationError:
        raise StudyError(f"{path} holds no specification; {_MEND}") from None


def _check_name(name: str) -> None:
    """Raises StudyError for a name that is no folder's, or that a shell, a spreadsheet or a reader trips over."""
    plain = _PLAIN_NAME.fullmatch(name) and not name.endswith((".", " ")) and len(name.encode()) <= _LONGEST_NAME
    if name in ("single", "mlartifacts"):
        raise StudyError(f"--name {name} is taken: the home has a folder of that name; choose another")
    if not plain:
        raise StudyError(
            f"--name wants a plain name for a folder (for example joint-wide): letters, digits, spaces and "
            f"-_.,+=(), at most {_LONGEST_NAME} bytes; {shortened(name)} given"
        )


def _refuse_differences(stored: StudySpec, asked: StudySpec, home: Home) -> None:
    lines = differences(stored, asked)
    if lines:
        listed = "\n".join(f"  {line}" for line in lines)
        raise StudyError(
            f"{stored.name} was launched with another specification (stored → asked):\n{listed}\n"
            f"continue it as it was launched with: calm study run {home.named(stored.name)}\n"
            f"or start a new one with: calm study run {home.named(stored.study)} --preset {asked.preset} "
            "--name NEW …"
        )


def read_study_file(home: Home, name: str) -> dict[str, Any] | None:
    """None where there is none. Raises StudyError for one that cannot be read, a newer version's among them."""
    if name in ("", ".", "..") or "/" in name:  # nothing outside the home is a launch of it
        return None
    path = home.study(name) / SPEC
    try:
        content = files.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path} cannot be read: a mapping is wanted, found {type(content).__name__}; {_MEND}")
    return formats.STUDY_FILE.read(content, path)


def write_study_file(launch: Launch, tracking_uri: str | None, staffing: Staffing | None = None) -> None:
    """study.json: the question and the frozen specification, for the report and for resuming; and with how many
    workers it was run last."""
    spec = launch.spec
    before = read_study_file(launch.home, launch.name) or {}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    files.write_json(
        launch.folder / SPEC,
        {
            formats.KEY: formats.STUDY,
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
            STORAGE: (stored := to_stored(launch.url, launch.home)),
            ELSEWHERE: stored is not None,
            TRACKING: None if tracking_uri is None else without_password(tracking_uri),
        },
    )


def launches(home: Home) -> list[str]:
    """Names of the launches in a home."""
    return sorted(path.parent.name for path in home.root.glob(f"*/{SPEC}"))


def find_launch(home: Home, name: str, url: str | None = None) -> Launch:
    """An existing launch by its name, or by its study's name where that has one launch only."""
    known = launches(home)
    if name not in known:
        of_study = [other for other in known if _study_of(home, other) == name]
        if len(of_study) > 1:
            raise StudyError(f"study {name} has several launches in {home.root}: {', '.join(of_study)}; name one")
        if not of_study:
            none = f"no launch {name!r} in {home.root}; {suggestion(name, known)}"
            raise StudyError(without_file(home, name) or none)
        name = of_study[0]
    stored = read_study_file(home, name)
    if stored is None:
        raise StudyError(f"no launch {name!r} in {home.root}: its {SPEC} is no file; {_MEND}")
    url = address(url, home, stored, name)
    loaded = None
    if database.is_there(url):
        with database.said_plainly(url, "the same command does it"):
            loaded = storage.load(
                name, database.open_storage(url, home, _heartbeat(stored, home.study(name) / SPEC))
            )
    if loaded is None:
        if is_of(url, home, stored):
            raise database.forgotten(url, name, home.study(name))
        raise StudyError(
            f"storage {database.masked(url)} does not know {name}; give the --storage it was started with"
        )
    return Launch(home, url, storage.stored_spec(loaded[0]), loaded[0], loaded[1])


def _study_of(home: Home, launch: str) -> object:
    """None where it cannot be told: a damaged launch is no reason to refuse another."""
    try:
        return (read_study_file(home, launch) or {}).get("study")
    except StudyError:
        return None


def retry(launch: Launch, execute: str | None = None) -> list[str]:
    """Queue every failed trial and cell again, and what lost its worker; the failed ones. ``execute``: by what
    they are run at once.

    Raises DataError where that is the workbench and a text of theirs is not there; nothing is queued then."""
    with database.said_plainly(launch.url, "the same command does it"), launch.claim():
        for study in (launch.search, launch.cells):  # an earlier retry may have been killed
            recovery.recover(study, launch.spec.heartbeat, launch.folder)
        trials, cells = recovery.failed(launch.search), recovery.failed(launch.cells)
        names = [storage.cell_of(trial) for trial in cells]
        if execute == DEFAULT_RUNNER:
            require_texts(launch.spec, search=bool(trials), cells=names)
        for study, failed in ((launch.search, trials), (launch.cells, cells)):
            for trial in failed:
                recovery.requeue(study, trial.number, forgive=True)
        if trials or cells:
            launch.search.set_user_attr("abort", "")  # what ended the last session
    return [*(f"trial {recovery.number_of(trial)}" for trial in trials), *names]

"""Data sets and tokenizers on the hub: names, commits, and what is said without a network. Imports no torch.

A name is ``owner/set`` or a folder. A network error is tried again with growing pauses, within bounds; without a
network the message says so after a few seconds. Rows are read by ``workbench.hub_reading``.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from workbench import files
from workbench.config import RunConfig
from workbench.errors import DataError, OutputError
from workbench.hub_sections import HubEvaluation, sets_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
OPTION = "data.hub.offline"
BUILDERS = {"json": "json:PATH[:FIELD]", "text": "text:PATH", "parquet": "hub:FOLDER", "csv": "hub:FOLDER"}
"""Names that the library takes for kinds of files, and what is wanted for them."""
ANSWER_SECONDS = 4.0
KNOWN = "hub-commits.json"
"""Below the cache; without it names are resolved anew."""
_COMMIT = re.compile("[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TRANSIENT = {
    "ConnectionError",
    "TimeoutError",
    "TransportError",
    "ClientError",
    "IncompleteRead",
    "LocalEntryNotFoundError",
}
"""Classes (or bases of them) of the network libraries that ``datasets`` uses."""
_MISSING = {"RepositoryNotFoundError", "DatasetNotFoundError", "RevisionNotFoundError", "EntryNotFoundError"}


class HubUnreachableError(DataError):
    """The network, or the hub, has failed for longer than is waited; nothing is wrong with the run."""


@dataclass(frozen=True)
class Patience:
    """Pauses between attempts double from ``first`` to ``most`` seconds."""

    attempts: int = 6
    first: float = 0.5
    most: float = 30.0

    def pauses(self) -> list[float]:
        """One fewer than attempts."""
        return [min(self.most, self.first * 2**i) for i in range(self.attempts - 1)]


QUICK = Patience(attempts=3)
"""Before anything has begun: whoever has no network wants to know it soon."""


def with_retries(
    action: Callable[[], T],
    what: str,
    patience: Patience,
    *,
    kind: str = "dataset",
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """``action()``, again after a network error. Raises HubUnreachableError naming ``what`` when patience ends;
    every other error at once."""
    began = time.monotonic()
    for pause in [*patience.pauses(), None]:
        try:
            return action()
        except Exception as error:
            if not is_transient(error):
                raise
            if pause is None:
                seconds = time.monotonic() - began
                raise unreachable(
                    what, f"{said(error)}; {patience.attempts} attempts in {seconds:.1f} s", kind
                ) from None
            logger.warning("%s: %s; tried again in %.1f s", what, said(error), pause)
            sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def is_transient(error: BaseException) -> bool:
    """Whether it is of the network or of a server's bad day."""
    names = {base.__name__ for base in type(error).__mro__}
    if "OfflineModeIsEnabled" in names:
        return False
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in (408, 429)
    return bool(names & _TRANSIENT)


_INSTEAD = {
    "dataset": "copy its repository to this machine and give the folder (hub:FOLDER), or use json:PATH[:FIELD] or "
    "text:PATH",
    "model": "give a tokenizer.json or its folder on this machine (data.tokenizer.name=PATH)",
}
"""By the kind of repository; of models tokenizers alone are read."""


def unreachable(what: str, why: str, kind: str = "dataset", *, option: bool = False) -> HubUnreachableError:
    """The message without a network. ``option``: the configuration says to stay offline, whatever the environment
    says (which is then set for the libraries)."""
    states = ", ".join(f"{name}: {os.environ.get(name, 'not set')}" for name in OFFLINE)
    remedy = "Check the network"
    if option:
        states, remedy = f"{OPTION}: true", f"Set {OPTION}=false"
    elif is_offline():
        remedy = f"Unset {' and '.join(name for name in OFFLINE if _is_on(name))}"
    again = " (what was downloaded once is used offline, streams excepted)" if option or is_offline() else ""
    return HubUnreachableError(
        f"{what} cannot be had from the hub ({why}; {states}). {remedy} and run the same command again{again}, or "
        f"{_INSTEAD[kind]}"
    )


def is_offline(option: bool = False) -> bool:
    """By the option or the libraries' environment variables."""
    return option or any(map(_is_on, OFFLINE))


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")


def folder_of(name: str) -> Path | None:
    """Where the name is a folder on this machine."""
    path = Path(os.path.expanduser(name))
    return path.resolve() if path.is_dir() else None


def require_name(name: str) -> None:
    """Raises DataError for what can be neither a folder nor a name on the hub."""
    if folder_of(name) is not None:
        return
    if name in BUILDERS:
        raise DataError(f"hub:{name}: {name!r} is a kind of file, not a data set; write {BUILDERS[name]}")
    close = difflib.get_close_matches(name, BUILDERS, n=1, cutoff=0.75)
    if "/" not in name and close:
        raise DataError(f"hub:{name}: no folder has that name; did you mean {BUILDERS[close[0]]}?")
    if not _NAME.fullmatch(name):
        raise DataError(
            f"hub:{name}: there is no such folder (looked from {Path.cwd()}), and names on the hub are like "
            "owner/set; check the name or the path"
        )


# ---- revisions ---------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def commit_of(name: str, revision: str | None, kind: str = "dataset", offline: bool = False) -> str:
    """The commit on the hub, asked once in a process; offline the one that was downloaded last.

    Raises HubUnreachableError where neither is known, and DataError for a set that does not exist."""
    require_name(name)
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    if is_offline(offline):
        kept = _downloaded(name, revision, kind)
        if kept is None:
            why = "offline, and it was not downloaded before"
            raise unreachable(f"the {kind} {name!r}", why, kind, option=offline)
        return kept

    def ask() -> str:
        from huggingface_hub import HfApi

        info = HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=ANSWER_SECONDS)
        return str(info.sha)

    with explained(f"the {kind} {name!r}", revision):
        try:
            return with_retries(ask, f"the {kind} {name!r}", QUICK, kind=kind)
        except HubUnreachableError as error:
            kept = _downloaded(name, revision, kind)
            if kept is None and "/" not in name:  # perhaps a folder was meant
                raise HubUnreachableError(f"there is no {name} in {Path.cwd()}, and {error}") from None
            if kept is None:
                raise
            return kept


def _downloaded(name: str, revision: str | None, kind: str) -> str | None:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"
    try:
        return (folder / "refs" / (revision or "main")).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def with_revisions(config: RunConfig, cache: Path) -> RunConfig:
    """Branches, tags and nothing replaced by the commits that they stand for, as far as the hub can be asked; a
    pretrained tokenizer's too. What was resolved is kept in ``cache``, so that the same command continues a run
    although the hub has moved on. What cannot be resolved stays: reading it says why."""
    return with_commits(config, KnownCommits(cache).resolve)


LookUp = Callable[[str, str | None, str, bool], str | None]
"""Of name, revision, kind of repository and whether to stay offline: the revision to take."""


def with_commits(config: RunConfig, look_up: LookUp) -> RunConfig:
    """Every revision of the configuration's texts and tokenizer replaced by what is looked up."""
    data, tokenizer = config.data, config.data.tokenizer
    if data.hub is None and tokenizer.kind != "pretrained":
        return config
    if tokenizer.kind == "pretrained":
        found = look_up(tokenizer.name or "", tokenizer.revision, "model", data.offline)
        tokenizer = tokenizer.model_copy(update={"revision": found})
    hub = data.hub
    if hub is not None:
        own, *mixed = (
            one.model_copy(update={"revision": look_up(one.name, one.revision, "dataset", hub.offline)})
            for one in sets_of(data.corpus, hub)
        )
        update: dict[str, Any] = {"revision": own.revision, "mix": tuple(mixed)}
        if isinstance(hub.evaluation, HubEvaluation) and (hub.evaluation.name or hub.evaluation.revision):
            name = hub.evaluation.name or own.name
            found = look_up(name, hub.evaluation.revision, "dataset", hub.offline)
            update["evaluation"] = hub.evaluation.model_copy(update={"revision": found})
        hub = hub.model_copy(update=update)
    data = data.model_copy(update={"hub": hub, "tokenizer": tokenizer})
    return config.model_copy(update={"data": data})


class KnownCommits:
    """Commits that names stood for when they were first used with this cache."""

    def __init__(self, cache: Path) -> None:
        self._path = cache / KNOWN

    def resolve(self, name: str, revision: str | None, kind: str, offline: bool) -> str | None:
        """The revision as it is for what lies on this machine, is a commit already, or cannot be asked for."""
        here = os.path.exists(os.path.expanduser(name)) if kind == "model" else folder_of(name) is not None
        if here or (revision is not None and _COMMIT.fullmatch(revision)):
            return revision
        key = f"{kind} {name} {revision or ''}".strip()
        found = self._read().get(key)
        if found is not None:
            return found
        try:
            found = commit_of(name, revision, kind, offline)
        except DataError:
            return revision
        with contextlib.suppress(OutputError):
            files.writable_folder(self._path.parent)
            with files.locked(self._path.with_suffix(".lock")):
                files.write_json(self._path, {**self._read(), key: found})
        return found

    def _read(self) -> dict[str, str]:
        try:
            found = files.read_json(self._path)
        except (OSError, ValueError) as error:
            files.raise_unreadable(self._path, error)  # other commits would be used, and these written over
            return {}
        return (
            {k: v for k, v in found.items() if isinstance(v, str) and _COMMIT.fullmatch(v)}
            if isinstance(found, dict)
            else {}
        )


@contextlib.contextmanager
def explained(what: str, revision: str | None, *, offline: bool = False) -> Iterator[None]:
    """Errors of the libraries as DataError; those of the network as they are. ``offline``: by the option."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        names = {base.__name__ for base in type(error).__mro__}
        if is_transient(error):
            raise
        if "GatedRepoError" in names:
            raise DataError(
                f"{what} is gated: accept its terms on its page and log in (hf auth login, or the environment "
                "variable HF_TOKEN)"
            ) from None
        if "OfflineModeIsEnabled" in names:
            raise unreachable(what, "offline", option=offline) from None
        if names & _MISSING:
            at = f" at revision {revision!r}" if revision else ""
            raise DataError(
                f"{what} is not on the hub{at}, or is private; check the name (owner/set), or log in "
                "(hf auth login)"
            ) from None
        if isinstance(error, (ValueError, RuntimeError, OSError, KeyError, ImportError)):
            raise DataError(f"{what} cannot be read: {said(error)}") from None
        raise


def said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__

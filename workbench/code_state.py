"""Which code runs: the commit of the workbench's own checkout, what is not committed there, a hash of its sources.

The checkout is the folder that the package lies in, never the user's current one; installed from a wheel there is
none, and the version and the hash of the sources say what runs. Asked once a process (two git processes, tens of
milliseconds) and never fatal: what git does not answer is ``UNKNOWN``. Imports no torch.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from workbench import files
from workbench.errors import OutputError

PACKAGE = Path(__file__).resolve().parent
DIFF = "code.diff"
"""Of a run folder: tracked files as ``git diff HEAD`` shows them, then the untracked ones named and hashed."""
LARGEST = 1_000_000
"""Bytes of a diff that are kept."""
MOST_UNTRACKED = 1000
"""Untracked files that are hashed; the others are counted."""
UNKNOWN = "unknown"
PATIENCE = 10.0
"""Seconds for one answer of git."""
UNTRACKED = "# untracked"
_PLAIN = ("color.ui=false", "core.fsmonitor=false", "core.quotePath=true", "diff.noprefix=false")
_PLAIN_DIFF = ("--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", "-U3", "-M")
"""Whatever the user's git is set to: equal differences are to be equal texts."""


@dataclass(frozen=True)
class CodeState:
    """What is recorded of the code beside a run."""

    git_commit: str
    """Empty without a checkout."""
    git_diff_hash: str
    """Of what is not committed: empty where nothing is, ``UNKNOWN`` where git does not say."""
    code_hash: str
    """Of the package's source files, committed or not."""
    code_version: str
    """Of the installed package; empty where it is not installed."""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@lru_cache
def present() -> CodeState:
    """Of this process, as it was when it was first asked."""
    text = uncommitted()
    digest = UNKNOWN if text is None else difference_hash(text)
    return CodeState(commit(checkout()), digest, sources_hash(PACKAGE), _version())


@lru_cache
def uncommitted() -> str | None:
    """What is not committed in the workbench's checkout, as it was when it was first asked; empty without a
    checkout, None where git does not say."""
    root = checkout()
    return "" if root is None else difference(root)


def checkout() -> Path | None:
    """The repository that the package is used from, if any."""
    root = PACKAGE.parent
    return root if (root / ".git").exists() else None


def keep(run_dir: Path) -> None:
    """Put the difference into a run's folder, or take away one of an earlier session that is no more; an earlier
    one that was another stays as ``code-HASH.diff``."""
    text = uncommitted() or ""
    path = run_dir / DIFF
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = shortened(text)
        if before and before != after:
            os.replace(path, path.with_name(f"code-{difference_hash(before)}.diff"))
        if after and before != after:
            files.write_atomic(path, after)
    except (OSError, UnicodeDecodeError, OutputError):  # the run itself says so where it cannot write
        return


def read_kept(run_dir: Path) -> str | None:
    """The difference in a run's folder; None where there is none."""
    try:
        return (run_dir / DIFF).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def session(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The environment ``now`` of a run that is taken up again, with those of earlier sessions that ran on other
    code, packages or another processor in ``earlier``."""
    earlier = list(before.get("earlier", []))
    kept = {key: before[key] for key in _COMPARED if key in before}
    if kept and kept != {key: now.get(key) for key in kept}:
        earlier.append(kept)
    return {**now, "earlier": earlier} if earlier else now


_COMPARED = (
    "git_commit",
    "git_diff_hash",
    "code_hash",
    "code_version",
    "python",
    "versions",
    "cpu",
    "threads",
    "ranks",
    "own_head",
)


# ---- what is asked of git ------------------------------------------------------------------------------


def commit(root: Path | None) -> str:
    """Of HEAD, read without git where its references are files; empty without a repository or before its first
    commit."""
    if root is None:
        return ""
    try:
        found = _resolve("HEAD", _git_folder(root))
    except (OSError, ValueError):
        found = ""
    return found or (git(root, "rev-parse", "HEAD") or "").strip()


def _git_folder(root: Path) -> Path:
    """``.git``, or where the file of that name in a linked worktree points to."""
    folder = root / ".git"
    if folder.is_file():
        return (root / folder.read_text(encoding="utf-8").removeprefix("gitdir:").strip()).resolve()
    return folder


def _resolve(name: str, folder: Path, depth: int = 0) -> str:
    """The commit that a reference leads to."""
    shared = folder / "commondir"  # a linked worktree has its own HEAD, but not its own branches
    common = (folder / shared.read_text(encoding="utf-8").strip()).resolve() if shared.exists() else folder
    for place in (folder, common):
        path = place / name
        if path.is_file():
            text = path.read_text(encoding="utf-8").strip()
            if text.startswith("ref:") and depth < 5:
                return _resolve(text.removeprefix("ref:").strip(), folder, depth + 1)
            return text if re.fullmatch(r"[0-9a-f]{40,64}", text) else ""
    packed = common / "packed-refs"
    for line in packed.read_text(encoding="utf-8").splitlines() if packed.exists() else ():
        found, _, of = line.partition(" ")
        if of == name:
            return found
    return ""


def difference(root: Path) -> str | None:
    """Tracked files against HEAD, and untracked Python files by name and hash; None where git does not say."""
    tracked = git(root, "diff", *_PLAIN_DIFF, "HEAD")
    listed = git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", "*.py")
    if tracked is None or listed is None:
        return None
    names = sorted(name for name in listed.split("\0") if name)
    lines = [f"{UNTRACKED} {name} {_file_hash(root / name)}" for name in names[:MOST_UNTRACKED]]
    if len(names) > MOST_UNTRACKED:
        lines.append(f"{UNTRACKED}: {len(names) - MOST_UNTRACKED} more files, not hashed")
    return tracked + "".join(f"{line}\n" for line in lines)


def commits_between(first: str, last: str) -> tuple[int, int] | None:
    """How many commits ``last`` has that ``first`` has not, and the other way round; None where the workbench's
    checkout does not know both."""
    root = checkout()
    counted = git(root, "rev-list", "--left-right", "--count", f"{last}...{first}", "--") if root else None
    numbers = (counted or "").split()
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else None


def same_sources(first: str, last: str) -> bool | None:
    """Whether the package is the same in two commits; None where the checkout does not know both."""
    root = checkout()
    names = git(root, "diff", "--name-only", first, last, "--", PACKAGE.name) if root else None
    return None if names is None else not names.strip()


def git(root: Path, *arguments: str) -> str | None:
    """What git prints; None where it is missing, refuses (no repository, another owner's) or does not answer."""
    settings = [part for setting in (*_PLAIN, f"safe.directory={root}") for part in ("-c", setting)]
    # of a hook, for example, whose repository is another; and no lock that would be in the way of a commit
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *settings, *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=True,
            env=environment,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", errors="replace")


# ---- hashes --------------------------------------------------------------------------------------------


def difference_hash(text: str) -> str:
    """Empty for no difference."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16] if text.strip() else ""


def shortened(text: str) -> str:
    """As it is kept: at most ``LARGEST`` bytes, with a note where that is not all."""
    data = text.encode()
    if len(data) <= LARGEST:
        return text
    kept = data[:LARGEST].decode("utf-8", errors="ignore")
    return f"{kept}\n# cut here: {len(data):,} bytes in all, hash {difference_hash(text)}\n"


def sources_hash(package: Path) -> str:
    """Of names and contents of a package's Python files and presets; empty where they cannot be read."""
    digest = hashlib.sha256()
    found = sorted(path for ending in ("*.py", "*.yaml") for path in package.rglob(ending))
    try:
        for path in found:
            digest.update(f"{path.relative_to(package).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    except OSError:
        return ""
    return digest.hexdigest()[:16] if found else ""


def _file_hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return UNKNOWN


def _version() -> str:
    try:
        return version("calm-workbench")
    except PackageNotFoundError:
        return ""

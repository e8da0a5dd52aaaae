"""The state of the code is what git says of the workbench's own folder, and never stops a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from workbench import code_state
from workbench.errors import OutputError

ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
    "GIT_CONFIG_GLOBAL": os.devnull,
}  # fmt: skip


def git(root: Path, *arguments: str) -> str:
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(
        ["git", "-C", root, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.strip()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a package of one module, one commit."""
    root = tmp_path / "checkout"
    (root / "workbench").mkdir(parents=True)
    (root / "workbench" / "a.py").write_text("a = 1\n", encoding="utf-8")
    (root / "notes.txt").write_text("notes\n", encoding="utf-8")
    git(root.parent, "init", "-q", "-b", "main", str(root))
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    monkeypatch.setattr(code_state, "PACKAGE", root / "workbench")
    forget()
    yield root
    forget()


def forget() -> None:
    code_state.present.cache_clear()
    code_state.uncommitted.cache_clear()


def present() -> code_state.CodeState:
    forget()
    return code_state.present()


class TestTheDifference:
    def test_a_clean_checkout(self, root: Path) -> None:
        state = present()
        assert state.git_commit == git(root, "rev-parse", "HEAD")
        assert (state.git_diff_hash, code_state.uncommitted()) == ("", "")
        assert len(state.code_hash) == 16
        assert state.to_dict()["code_version"] == state.code_version != ""

    def test_tracked_files_of_any_kind_and_untracked_python_files_count(self, root: Path) -> None:
        clean = present()
        (root / "notes.txt").write_text("other notes\n", encoding="utf-8")
        noted = present()
        assert noted.git_diff_hash not in ("", clean.git_diff_hash)
        assert noted.code_hash == clean.code_hash, "the sources of the package are what they were"
        (root / "data.csv").write_text("1,2\n", encoding="utf-8")
        assert present() == noted
        (root / "workbench" / "new ü.py").write_text("b = 2\n", encoding="utf-8")
        grown = present()
        assert grown.git_diff_hash != noted.git_diff_hash
        assert grown.code_hash != clean.code_hash
        lines = (code_state.uncommitted() or "").splitlines()
        assert "+other notes" in lines
        (untracked,) = [line for line in lines if line.startswith(code_state.UNTRACKED)]
        assert untracked.startswith("# untracked workbench/new ü.py ")
        (root / "workbench" / "new ü.py").write_text("b = 3\n", encoding="utf-8")
        assert present().git_diff_hash != grown.git_diff_hash

    def test_it_is_that_of_earlier_versions_where_nothing_is_untracked(self, root: Path) -> None:
        import hashlib

        (root / "workbench" / "a.py").write_text("a = 2\n", encoding="utf-8")
        plain = hashlib.sha256(git(root, "diff", "HEAD").encode()).hexdigest()[:16]
        assert present().git_diff_hash == plain

    def test_the_users_settings_do_not_matter(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (root / "workbench" / "a.py").write_text("a = 2\n", encoding="utf-8")
        plain = present()
        settings = {"color.ui": "always", "diff.noprefix": "true", "diff.context": "9", "core.fsmonitor": "x"}
        for name, value in {**settings, "diff.mnemonicPrefix": "true", "diff.external": "false"}.items():
            git(root, "config", name, value)
        monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook of another repository
        assert present() == plain

    def test_the_current_folder_does_not_matter(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        here = present()
        monkeypatch.chdir("/")
        assert present() == here

    def test_it_is_asked_once(self, root: Path) -> None:
        before = present()
        (root / "workbench" / "a.py").write_text("a = 2\n", encoding="utf-8")
        assert code_state.present() is before


class TestTheCommit:
    def test_without_a_git_process(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        commit = git(root, "rev-parse", "HEAD")
        monkeypatch.setattr(code_state.subprocess, "run", None)
        assert code_state.commit(root) == commit

    def test_packed_detached_and_in_a_linked_worktree(self, root: Path) -> None:
        first = git(root, "rev-parse", "HEAD")
        git(root, "pack-refs", "--all")
        assert code_state.commit(root) == first
        linked = root.parent / "linked"
        git(root, "worktree", "add", "-q", "-b", "side", str(linked))
        assert code_state.commit(linked) == first
        (linked / "workbench" / "a.py").write_text("a = 5\n", encoding="utf-8")
        git(linked, "commit", "-q", "-am", "second")
        assert code_state.commit(linked) == git(linked, "rev-parse", "HEAD") != first
        assert code_state.commit(root) == first
        git(root, "checkout", "-q", "--detach")
        assert code_state.commit(root) == first

    def test_a_repository_without_one(self, tmp_path: Path) -> None:
        git(tmp_path, "init", "-q")
        assert code_state.commit(tmp_path) == ""

    def test_between_two(self, root: Path) -> None:
        first = git(root, "rev-parse", "HEAD")
        (root / "notes.txt").write_text("more\n", encoding="utf-8")
        git(root, "commit", "-q", "-am", "notes")
        second = git(root, "rev-parse", "HEAD")
        assert code_state.commits_between(first, second) == (1, 0)
        assert code_state.commits_between(second, first) == (0, 1)
        assert code_state.same_sources(first, second) is True
        (root / "workbench" / "a.py").write_text("a = 2\n", encoding="utf-8")
        git(root, "commit", "-q", "-am", "code")
        assert code_state.same_sources(first, git(root, "rev-parse", "HEAD")) is False
        assert code_state.commits_between("0" * 40, second) is None
        assert code_state.same_sources("0" * 40, second) is None


class TestWhatCannotBeSaid:
    def test_no_repository(self, root: Path) -> None:
        """As installed from a wheel."""
        with_it = present()
        shutil.rmtree(root / ".git")
        state = present()
        assert (state.git_commit, state.git_diff_hash, code_state.uncommitted()) == ("", "", "")
        assert state.code_hash == with_it.code_hash
        assert code_state.commits_between("a", "b") is None

    def test_no_git(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        commit = present().git_commit
        monkeypatch.setenv("PATH", "/nowhere")
        state = present()
        assert (state.git_commit, state.git_diff_hash) == (commit, code_state.UNKNOWN)
        assert code_state.uncommitted() is None

    @pytest.mark.parametrize("content", ["", "nonsense", "gitdir: /nowhere"])
    def test_something_that_is_no_repository(self, root: Path, content: str) -> None:
        shutil.rmtree(root / ".git")
        (root / ".git").write_text(content, encoding="utf-8")
        state = present()
        assert (state.git_commit, state.git_diff_hash) == ("", code_state.UNKNOWN)

    def test_git_hangs(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        slow = tmp_path / "bin" / "git"
        slow.parent.mkdir()
        slow.write_text("#!/bin/sh\nexec /bin/sleep 30\n", encoding="utf-8")
        slow.chmod(0o755)
        monkeypatch.setenv("PATH", str(slow.parent))
        monkeypatch.setattr(code_state, "PATIENCE", 0.1)
        start = time.monotonic()
        assert present().git_diff_hash == code_state.UNKNOWN
        assert time.monotonic() - start < 5

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_another_owners_folder(self, root: Path) -> None:
        (root / "workbench" / "a.py").write_text("a = 2\n", encoding="utf-8")
        mine = present()
        for path in (root, *root.rglob("*")):
            os.chown(path, 12345, 12345)
        assert present() == mine != code_state.UNKNOWN


class TestKeeping:
    def keep(self, run_dir: Path) -> None:
        forget()
        code_state.keep(run_dir)

    def test_no_file_where_nothing_is_uncommitted(self, root: Path, tmp_path: Path) -> None:
        self.keep(tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_the_difference_applies(self, root: Path, tmp_path: Path) -> None:
        (root / "workbench" / "a.py").write_text("a = 2\n", encoding="utf-8")
        (root / "workbench" / "b.py").write_text("b = 2\n", encoding="utf-8")
        self.keep(tmp_path / "run")
        git(root, "checkout", "-q", ".")
        git(root, "apply", str(tmp_path / "run" / "code.diff"))
        assert (root / "workbench" / "a.py").read_text() == "a = 2\n"

    def test_that_of_an_earlier_session_stays(self, root: Path, tmp_path: Path) -> None:
        run_dir = tmp_path / "run"
        (root / "workbench" / "a.py").write_text("a = 2\n", encoding="utf-8")
        for _ in range(2):
            self.keep(run_dir)
        first = (run_dir / "code.diff").read_text()
        assert [path.name for path in run_dir.iterdir()] == ["code.diff"]
        (root / "workbench" / "a.py").write_text("a = 3\n", encoding="utf-8")
        self.keep(run_dir)
        (earlier,) = run_dir.glob("code-*.diff")
        assert earlier.read_text() == first
        assert "+a = 3" in (run_dir / "code.diff").read_text()
        git(root, "checkout", "-q", ".")
        self.keep(run_dir)
        assert code_state.read_kept(run_dir) is None
        assert len(list(run_dir.glob("code-*.diff"))) == 2

    def test_a_huge_one_is_cut(self, root: Path, tmp_path: Path) -> None:
        (root / "notes.txt").write_text("ü" * 600_000, encoding="utf-8")
        self.keep(tmp_path / "run")
        text = (tmp_path / "run" / "code.diff").read_text(encoding="utf-8")
        assert len(text.encode()) < code_state.LARGEST + 200
        assert text.endswith(f"bytes in all, hash {code_state.present().git_diff_hash}\n")

    def test_a_folder_that_cannot_be_written_stops_nothing(self, root: Path, tmp_path: Path) -> None:
        (root / "workbench" / "a.py").write_text("a = 2\n", encoding="utf-8")
        (tmp_path / "run" / "code.diff").mkdir(parents=True)
        self.keep(tmp_path / "run")

    def test_a_full_disk_stops_nothing(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(path: Path, content: str) -> None:
            raise OutputError(f"cannot write {path}: No space left on device")

        (root / "workbench" / "a.py").write_text("a = 2\n", encoding="utf-8")
        monkeypatch.setattr(code_state.files, "write_atomic", full)
        self.keep(tmp_path / "run")

    def test_many_untracked_files_are_counted(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(code_state, "MOST_UNTRACKED", 2)
        for number in range(5):
            (root / f"{number}.py").write_text("", encoding="utf-8")
        forget()
        lines = (code_state.uncommitted() or "").splitlines()
        assert len(lines) == 3
        assert lines[-1] == "# untracked: 3 more files, not hashed"


def test_sessions_on_other_code_are_remembered() -> None:
    first = {"git_commit": "a", "code_hash": "1", "pid": 7}
    same = code_state.session(first, {**first, "pid": 8})
    assert same == {**first, "pid": 8}
    second = code_state.session(same, {**first, "code_hash": "2"})
    assert second["earlier"] == [{"git_commit": "a", "code_hash": "1"}]
    third = code_state.session(second, {**first, "code_hash": "3"})
    assert [one["code_hash"] for one in third["earlier"]] == ["1", "2"]
    assert code_state.session({}, first) == first


def test_of_this_package() -> None:
    state = code_state.CodeState(**code_state.present().to_dict())
    assert len(state.code_hash) == 16

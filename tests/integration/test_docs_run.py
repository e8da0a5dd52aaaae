"""All commands and all Python of the documentation, executed page by page at small sizes. What is not is in
``NOT_RUN`` with the reason."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.suites import doc_folders, doc_runs, warm
from tests.suites.doc_pages import PACKAGES, ROOT, Block, Inline, Told, blocks, pages
from tests.suites.doc_reader import Reader, require_shown
from workbench import own_heads

TOGETHER = (
    ("docs/tutorial.md", "docs/own-analysis.md", "docs/external-results.md"),
    ("docs/mlflow.md", "docs/never-lose-a-run.md", "README.md", "docs/index.md", "docs/estimators.md"),
)
"""Pages that use the same study, in one folder; each of the others has its own."""
TRACKED = ("docs/mlflow.md",)
"""Pages whose runs go to MLflow."""
DRAWN = ("docs/tutorial.md",)
"""Pages whose pictures are drawn; those of others are blank."""
ELSEWHERE = ("docs/cluster.md",)
"""In tests/integration/test_docs_cluster.py, which has the servers."""
NAMES = [path.relative_to(ROOT).as_posix() for path in pages()]
APART = [(name,) for name in NAMES if name not in {*TOGETHER[0], *TOGETHER[1], *ELSEWHERE}]


@pytest.fixture
def folder(tmp_path: Path, tracking_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As a fresh checkout, with a small text; nothing outside it is written."""
    for name in ("CALM_HOME", "CALM_STORAGE", own_heads.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "checkout"
    doc_folders.prepare(folder)
    (folder / "runs").mkdir()
    shutil.copy(tracking_database, folder / "runs" / "mlflow.db")
    monkeypatch.chdir(folder)
    yield folder
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)


@pytest.mark.slow
@pytest.mark.parametrize("names", [*TOGETHER, *APART], ids=lambda names: Path(names[0]).stem)
def test_pages_do_what_they_say(names: tuple[str, ...], folder: Path, checkout: warm.Checkout) -> None:
    reader = Reader(folder, {}, doc_folders.VALUES)
    for name in names:
        doc_folders.PREPARE.get(name, lambda folder: None)(folder)
    for name in names:
        tracked = {} if name in TRACKED else {"CALM_TRACKING_URI": "none"}
        drawn = {warm.DRAWS: "yes"} if name in DRAWN else {}
        reader.variables = {**checkout.variables, **tracked, **drawn}
        with added(name, folder, checkout.code):
            reader.read(ROOT / name)
        left = set(doc_runs.commands(ROOT / name)) - reader.executed - reader.listed
        assert not left, f"{name}: neither executed nor in NOT_RUN: {left}"


@contextlib.contextmanager
def added(name: str, folder: Path, code: Path) -> Iterator[None]:
    """Files that the page adds to the packages get into the checkout, and out of it at the end."""
    files = [block.file for block in blocks(ROOT / name) if (block.file or "").startswith(PACKAGES)]
    for package in PACKAGES if files else ():
        (folder / package).symlink_to(code / package)
    try:
        yield
    finally:
        for file in files:
            (code / str(file)).unlink(missing_ok=True)


class TestTheChecks:
    """They can fail, and make small only what trains."""

    def test_a_word_that_is_not_printed_is_found(self) -> None:
        with pytest.raises(AssertionError, match="prints no \\['finished'\\]"):
            require_shown(Told("x", ("finished: 2",)), "running: 1", "page.md:1")
        with pytest.raises(AssertionError, match="prints no \\['finished'\\]"):
            require_shown(Told("x", ("finished: 2",)), "", "page.md:1")
        require_shown(Told("x", ("finished: 12/12",)), "finished: 1/1", "page.md:1")

    def test_a_command_that_fails_is_found(self, tmp_path: Path) -> None:
        reader = Reader(tmp_path, {}, {})
        with pytest.raises(AssertionError, match=r"page\.md:1: false: exit code 1"):
            reader.carry_out(Told("false"), Inline("page.md", 1, "false"))
        with pytest.raises(AssertionError, match=r"page\.md:1: nothing-of-the-kind"):
            reader.carry_out(Told("nothing-of-the-kind 1"), Block("page.md", 1, "", (), ""))

    def test_what_is_exported_is_there_for_the_next_command(self, tmp_path: Path) -> None:
        reader = Reader(tmp_path, {}, {})
        reader.run("export CALM_SEEN=1", "page.md:1")
        assert reader.run("echo $CALM_SEEN", "page.md:2") == "1\n"

    def test_what_the_page_says_is_kept(self, tmp_path: Path) -> None:
        found = doc_runs.smaller("calm study run joint --workers 2 --set data.corpus=text:mine", tmp_path)
        assert found.startswith("calm study run joint --workers 1 --set data.corpus=text:mine --set=")
        assert "--set=autoencoder.steps=30" in found
        assert "--set=data.corpus" not in found
        assert doc_runs.smaller("calm report joint-quick", tmp_path) == "calm report joint-quick"
        assert "--set=train.train_tokens" in doc_runs.smaller("calm --heads x.py train small-calm", tmp_path)

    def test_the_name_of_a_command_is_asked_for_its_help(self) -> None:
        assert doc_runs.whole("calm study retry") == "calm study retry --help"
        assert doc_runs.whole("calm doctor") == "calm doctor"


def test_what_is_not_executed_is_on_the_pages_and_all_others_are() -> None:
    told = {command for path in pages() for command in doc_runs.commands(path)}
    for pattern in [*doc_runs.NOT_RUN, *doc_runs.SERVERS, doc_runs.BEGUN]:
        assert any(re.fullmatch(pattern, command) for command in told), f"{pattern} is on no page"
    passed = {command for command in told if doc_runs.reason(command) is not None}
    ours = {command for command in passed if re.search(r"\bcalm ", command)}
    assert all("srun" in command for command in ours if not command.startswith("docker")), ours
    assert len(told - passed) > 2 * len(passed)


def test_what_stands_for_a_placeholder_is_asked_for() -> None:
    for name, values in doc_folders.VALUES.items():
        text = " ".join((ROOT / name).read_text(encoding="utf-8").split())
        missing = [value for value in values if value not in text]
        assert missing == [], f"{name}: nothing is to be replaced there"

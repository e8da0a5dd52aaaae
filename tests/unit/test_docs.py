"""Everything that docs/ and README tell to do is right as far as it can be told without doing it; links lead
somewhere. ``tests/integration/test_docs_run.py`` does it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.suites import doc_pages
from tests.suites.doc_pages import ROOT, Block, Told, pages

NAMES = [path.relative_to(ROOT).as_posix() for path in pages()]


@pytest.mark.parametrize("name", NAMES)
class TestEveryPage:
    def test_every_block_is_right(self, name: str) -> None:
        for block in doc_pages.blocks(ROOT / name):
            doc_pages.check(block)

    def test_commands_in_the_running_text_are_right(self, name: str) -> None:
        for step in doc_pages.inline_commands(ROOT / name):
            doc_pages.check_inline(step)

    def test_no_command_stands_indented(self, name: str) -> None:
        assert doc_pages.indented(ROOT / name) == [], "fence them"

    def test_no_block_with_commands_is_passed_over(self, name: str) -> None:
        """Whatever its language is said to be."""
        for block in doc_pages.blocks(ROOT / name):
            if block.language == "python":  # a variable may be called so
                continue
            if any(doc_pages.BEGINS.match(line) for line in block.body.splitlines()):
                assert block.is_shell, f"{block.where}: a block of commands is to be marked console"
            known = block.language in ("yaml", "toml", "csv") or block.is_shell
            assert known, f"{block.where}: nothing is done with a block of this kind"
        fences = len(re.findall(r"^ *```", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
        assert fences == 2 * len(doc_pages.blocks(ROOT / name)), f"{name}: a fence that is not closed"

    def test_links_lead_somewhere(self, name: str) -> None:
        text = re.sub(
            r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
        )
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            if path.startswith(("http:", "https:", "../build/")):
                continue
            file = (ROOT / name).parent / path if path else ROOT / name
            assert file.exists(), f"{name}: {target}"
            if anchor and file.suffix == ".md":
                assert anchor in _anchors(file), f"{name}: {target}"

    def test_variables_and_tests_that_it_names_are_there(self, name: str) -> None:
        text = (ROOT / name).read_text(encoding="utf-8")
        sources = "".join(path.read_text(encoding="utf-8") for path in _sources())
        for variable in set(re.findall(r"\bCALM_[A-Z_]+\b", text)):
            assert variable in sources, f"{name}: {variable} means nothing"
        for path in set(
            re.findall(r"\b(?:tests|workbench|studies|analysis|examples)/[a-z0-9_/]+\.(?:py|yaml)\b", text)
        ):
            assert (ROOT / path).exists() or f"file={path}" in text, f"{name}: there is no {path}"


def _sources() -> list[Path]:
    """What reads environment variables."""
    code = [path for package in doc_pages.PACKAGES for path in (ROOT / package).rglob("*.py")]
    return [*code, ROOT / "compose.yaml", ROOT / "Containerfile"]


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_of_docs_is_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [
        path.name for path in pages() if path.name not in ("README.md", "index.md") and path.name not in index
    ]
    assert missing == [], "docs/index.md leaves pages out"


def block(body: str, language: str = "console", *marks: str) -> Block:
    return Block("page.md", 7, language, marks, body)


class TestTheChecks:
    """They can fail."""

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("$ calm trian x\n", "No such command 'trian'"),
            ("$ calm train x --sets 1\n", "No such option: --sets"),
            ("$ calm train\n", "Missing argument 'config'"),
            ("$ calm train x --seeds many\n", "Input should be a valid integer"),
            ("$ calm train x --set model.chunksize=4\n", "no field model.chunksize"),
            ("$ calm evaluate x --set model\n", "--set wants NAME=VALUE"),
            ("$ cd x && CALM_HOME=y calm nope\n", "No such command 'nope'"),
            ("$ srun --ntasks 2 calm nope\n", "No such command 'nope'"),
            ("$ make studies\n", "studies"),
            ("$ pip install '.[everything]'\n", "the extras are"),
            ("$ python -m studies.wroker\n", "there is no module studies.wroker"),
            ("$ echo 'open\n", "unexpected EOF"),
        ],
    )
    def test_a_wrong_command_is_found(self, body: str, message: str) -> None:
        with pytest.raises(AssertionError, match=rf"page.md:7: (?s:.*){re.escape(message)}"):
            doc_pages.check(block(body))

    @pytest.mark.parametrize(
        ("language", "body", "message"),
        [
            ("python", "from workbench.config import Nothing\n", "workbench.config has no Nothing"),
            ("python", "import workbench.nothing\n", "workbench.nothing"),
            ("python", "x = = 1\n", "invalid syntax"),
            ("yaml", "model: {chunk_sizes: 4}\n", "unknown field model.chunk_sizes"),
            ("yaml", "a: [\n", "expected the node content"),
        ],
    )
    def test_other_wrong_blocks_are_found(self, language: str, body: str, message: str) -> None:
        with pytest.raises(AssertionError, match=message):
            doc_pages.check(block(body, language))

    @pytest.mark.parametrize(
        "line", ["    calm study list", "  $ make docs", "\tCALM_HEADS=x calm ui", "    data:", "    echo x > y"]
    )
    def test_an_indented_command_is_found(
        self, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(doc_pages, "ROOT", tmp_path)
        page = tmp_path / "page.md"
        page.write_text(f"Words:\n\n{line}\n\n    calm bench RUN\n\n```\n  calm ui\n```\n", encoding="utf-8")
        assert [found.split(":")[1] for found in doc_pages.indented(page)] == ["3", "5"]

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("calm trian x", "No such command 'trian'"),
            ("CALM_HEADS=x.py calm study ran x", "No such command 'ran'"),
            ("python -m tests.chaos.nothing", "there is no module"),
            ("make studies", "studies"),
        ],
    )
    def test_a_wrong_command_in_the_text_is_found(
        self, code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(doc_pages, "ROOT", tmp_path)
        (tmp_path / "Makefile").write_text("study:\n", encoding="utf-8")
        page = tmp_path / "page.md"
        page.write_text(f"As `calm` and `x` say:\n`{code}` does.\n", encoding="utf-8")
        (found,) = doc_pages.inline_commands(page)
        assert found.line == 2
        with pytest.raises(AssertionError, match=rf"page.md:2: (?s:.*){re.escape(message)}"):
            doc_pages.check_inline(found)

    def test_placeholders_and_wrappers_are_let_through(self) -> None:
        for line in (
            "calm train my.yaml --seeds $SEEDS --set model.chunk_size=2  # a comment",
            "HOME_DIR=/x srun -n 2 calm study run joint --workers <number> | tail -1",
            "calm study run joint --threads ${THREADS}; ls *.csv > list.txt",
        ):
            doc_pages.check(block(line, "sh"))

    def test_prompts_divide_commands_from_what_they_print(self) -> None:
        found = doc_pages.told(block("$ calm ui \\\n    --port 1\nline one\n\n$ make test\n"))
        assert found == [Told("calm ui      --port 1", ("line one",)), Told("make test")]
        assert doc_pages.told(block("# first\ncalm ui\n", "sh")) == [Told("calm ui")]

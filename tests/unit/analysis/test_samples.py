"""Sampled texts on the page: whose, and harmless whatever is in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from analysis.comparison import compare
from analysis.report import write_reports
from analysis.samples import EARLIER, MAX_CHARS, MAX_LINES, MAX_SAMPLES, choose, visible
from analysis.sections_sampling import samples_section
from analysis.table import RunTable, load_runs
from analysis.texts import parts_of
from tests.suites.run_folders import make_run_folder
from tests.suites.synthetic_heads import HOSTILE_TEXT, make_heads_study
from workbench import files, records


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a  b\tc\n\nd", "a  b\tc\n\nd"),
        ("one\r\ntwo\rthree", "one\ntwo[U+000D]three"),
        ("\x00\x1b[31m\x7f\x85", "[U+0000][U+001B][31m[U+007F][U+0085]"),
        ("\u202eevil\u2066", "[U+202E]evil[U+2066]"),
        ("\ufffd é 日本 👩\u200d🔬", "\ufffd é 日本 👩\u200d🔬"),
        ("a\u00a0b\u2028c", "a b c"),
        ("\ud800", "[U+D800]"),
        ("", ""),
    ],
)
def test_everything_is_visible_and_whitespace_stays(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_long_texts_are_cut_and_say_so() -> None:
    assert visible("x" * MAX_CHARS) == "x" * MAX_CHARS
    assert visible("x" * (MAX_CHARS + 1)) == "x" * MAX_CHARS + "…"
    assert visible("\n" * 100) == "\n" * (MAX_LINES - 1) + "…"


class Blocks(HTMLParser):
    """The texts in ``pre`` and all tags of the section of samples."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = ""
        self.blocks: list[str] = []
        self.tags: list[str] = []
        self.depth = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self.depth = dict(attrs).get("id") == "samples"
        if self.depth:
            self.tags.append(tag)
            if tag == "pre":
                self.blocks.append("")
                self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == "pre" else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.blocks[-1] += data


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("samples") / "runs"
    make_heads_study(
        home, "s", seeds=2, heads=("energy-quadric", "energy-power", "flow"), calls=False, tradeoff=False
    )
    return home


@pytest.fixture(scope="module")
def table(study: Path) -> RunTable:
    return load_runs(study, ["s"])


@pytest.mark.slow
def test_the_page_shows_texts_as_they_are(
    study: Path, tmp_path: Path, without_figures: Callable[[pytest.MonkeyPatch], None]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        (written,) = write_reports(study, ["s"], tmp_path / "out")
    html = written.html.read_text(encoding="utf-8")
    page = Blocks()
    page.feed(html)
    assert set(page.tags) == {"section", "h2", "h3", "p", "article", "div", "span", "pre", "details", "summary"}
    prompt, text, first, second = page.blocks[:4]
    # the line end after <pre> is the page's own: a browser drops it, and so the text's first one is kept
    assert prompt == "\nFirst Citizen:\nBefore we proceed <b>any</b> further,\n"
    assert text == "\n" + visible(HOSTILE_TEXT)
    assert "<script>alert('x')</script></pre> &amp; [U+0000][U+001B][31m" in text
    assert first == "\n  hear me\tspeak & 0.\n\nAll:\nSpeak, speak."
    assert second != first
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", html)
    assert html.count("<details>") == 4  # collapsed
    samples = pd.read_csv(tmp_path / "out" / "data" / "samples.csv")
    assert len(samples) == len(load_runs(study, ["s"]).samples)
    assert samples["text"].str.endswith("long").any()  # uncut
    assert not samples["text"].str.contains("\x00").any()


@pytest.mark.slow
def test_the_best_run_of_each_group_then_other_settings(table: RunTable) -> None:
    chosen = choose(compare(table), table.samples)
    settings = ["energy, quadric", "flow", "energy, power", "D 128, layers 2, muon"]
    assert [run["setting"] for run in chosen] == settings
    assert len(chosen) <= MAX_SAMPLES
    assert [run["run_id"] for run in chosen][:2] == ["s1-k4-energy-quadric", "s1-k4-flow"]  # the better seed


def test_how_it_developed_comes_with_scores(table: RunTable) -> None:
    section = samples_section(table, parts_of(table))
    assert section is not None
    first = section.samples[0]
    assert first.title == "Energy, quadric"
    assert re.fullmatch(
        r"s1-k4-energy-quadric: after [\d,]+ training tokens, BrierLM \d\.\d\d ± \d\.\d\d; "
        "drawn by batch, N = 32 at τ\u00a0=\u00a00.5",
        first.about,
    )
    assert [when.split(",")[-1].strip()[:7] for when, _ in first.earlier] == ["BrierLM", "BrierLM"]
    assert all(len(text) <= MAX_CHARS // EARLIER + 1 for _, text in first.earlier)
    baseline = section.samples[-1]
    assert baseline.title == "Token baseline, D 128, layers 2, muon"


def test_only_the_best_that_kept_texts_are_chosen(table: RunTable) -> None:
    kept = table.samples[table.samples["run_id"].isin(("s0-k4-energy-quadric", "baseline-2-s0"))]
    assert [run["run_id"] for run in choose(compare(table), kept)] == ["s0-k4-energy-quadric", "baseline-2-s0"]
    section = samples_section(replace(table, samples=kept), parts_of(table))
    assert section is not None
    assert len(section.samples) == 2


def test_texts_of_runs_that_are_not_compared_are_better_than_none(table: RunTable) -> None:
    kept = table.samples[table.samples["run_id"] == "pruned"]
    section = samples_section(replace(table, samples=kept), parts_of(table))
    assert section is not None
    assert "No run that is compared kept a text" in section.notes[1]
    (sample,) = section.samples
    assert sample.about.startswith("K=4 L=32 seed=0, pruned: low: after ")


def test_no_texts_no_section(table: RunTable) -> None:
    assert samples_section(replace(table, samples=table.samples.iloc[:0]), parts_of(table)) is None


@pytest.mark.parametrize("content", [b'{"step": 1}\n', b"not json\n{}\n", b"\xff\xfe\n{}\n"])
def test_texts_that_cannot_be_read_cost_no_run(tmp_path: Path, content: bytes) -> None:
    run = make_run_folder(tmp_path / "s" / "r", num_points=2)
    (run / records.SAMPLES).write_bytes(content)
    table = load_runs(tmp_path, ["s"])
    assert table.runs["run_id"].tolist() == ["r"]
    assert table.samples.empty
    assert any("s/r: its sampled texts are left out" in warning for warning in table.warnings)


def test_a_text_without_its_evaluation_is_shown(tmp_path: Path) -> None:
    run = make_run_folder(tmp_path / "s" / "r", num_points=2)
    text = {"step": 999, "tokens": 5, "sampler": "exact", "temperature": 1.0, "prompt": "", "text": ""}
    files.rewrite_json_lines(run / records.SAMPLES, [text])
    table = load_runs(tmp_path, ["s"])
    section = samples_section(table, parts_of(table))
    assert section is not None
    (sample,) = section.samples
    assert (sample.title, sample.text, sample.earlier) == ("K = 4", "", [])
    assert "after 5 training tokens; drawn by exact" in sample.about

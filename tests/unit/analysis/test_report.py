"""What a reader of the report sees: the page, its words, tables and figures."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import plots, sections, style
from analysis.comparison import compare
from analysis.report import _reproduce, write_reports
from analysis.sections import importance_section
from analysis.table import RunTable, StudyInfo, load_runs
from analysis.texts import parts_of
from tests.suites.run_folders import make_run_folder
from tests.suites.synthetic_study import AGAINST, QUESTION, make_study, make_texts_study, write_study_files


class Page(HTMLParser):
    """Collects what a browser would load, run or show."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.references: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        """Rows of cells, the head first, by the table's name."""
        self.inside_cell = False
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = {name: value or "" for name, value in attrs}
        if tag == "table":
            self.tables[values["class"].removeprefix("t-")] = []
        elif tag == "tr":
            list(self.tables.values())[-1].append([])
        elif tag in ("td", "th"):
            list(self.tables.values())[-1][-1].append("")
            self.inside_cell = True
        if "id" in values:
            self.ids.append(values["id"])
        for name in ("src", "srcset", "data", "poster", "action"):
            if name in values:
                self.loads.append(values[name])
        for name in ("href", "xlink:href"):
            if name in values:
                (self.links if tag == "a" else self.references).append(values[name])
        for value in values.values():
            self.references += [f"#{name}" for name in re.findall(r"url\(#([^)]+)\)", value)]

    def handle_endtag(self, tag: str) -> None:
        self.inside_cell = False if tag in ("td", "th") else self.inside_cell

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.inside_cell:
            list(self.tables.values())[-1][-1][-1] += data

    def column(self, table: str, name: str) -> list[str]:
        head, *rows = self.tables[table]
        return [row[head.index(name)] for row in rows]


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    parser = Page()
    parser.feed((report / "report.html").read_text(encoding="utf-8"))
    return parser


@pytest.mark.slow
def test_page_is_self_contained_and_runs_its_own_script_only(report: Path, page: Page) -> None:
    assert page.loads == []
    text = (report / "report.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert page.tags.count("script") == 1
    assert f"default-src &#39;none&#39;; script-src &#39;sha256-{digest}&#39;;" in text
    assert not re.search(r"\son[a-z]+=|javascript:", re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    assert "foreignobject" not in page.tags
    assert all(reference.startswith("#") or reference == "data:," for reference in page.references)
    assert "@import" not in (report / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_ids_are_unique_and_references_resolve(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    wanted = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert len(wanted) > 50
    assert wanted <= set(page.ids)


def test_hostile_names_are_shown_as_they_are(report: Path, page: Page) -> None:
    assert "<script>alert(1)</script> & $x_1$ 100% \\o/" in page.text
    assert "ValueError: <b>bad</b>" in page.text
    latex = (report / "tables" / "runs.tex").read_text(encoding="utf-8")
    assert r"\textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{} \& \$x\_1\$ 100\%" in latex


def test_question_verdict_and_all_sections(page: Page) -> None:
    assert QUESTION in page.text
    assert AGAINST in page.text
    assert "The best setting has K = 4" in page.text
    wanted = {"verdict", "key-numbers", "parameters", "autoencoder", "correlation", "orders", "cost", "open"}
    assert wanted | {"differences", "bottleneck", "checks", "runs", "rules", "environment"} <= set(page.ids)
    assert "By the additive, unpaired fit over all settings that completed, chunk size K" in page.text
    assert "controlled pairs that differ in it alone (under “Settings compared”)" in page.text
    assert "Withheld: 14 complete trials" in page.text
    assert "pruned: pruned: below the median" not in page.text


def test_links_lead_to_mlflow(page: Page) -> None:
    outward = [link for link in page.links if "://" in link]
    assert len(outward) == 22
    assert all(
        re.fullmatch(
            r"http://127\.0\.0\.1:5000/#/experiments/3/runs/[0-9a-f]{32}\?workflowType=machine_learning", link
        )
        for link in outward
    )


def test_links_within_the_report_lead_somewhere(report: Path, page: Page) -> None:
    inward = {link for link in page.links if "://" not in link and not link.startswith("#")}
    assert sum(link.startswith("runs/") for link in inward) == 22
    assert sum(link.startswith("data/") for link in inward) > 3
    assert [link for link in sorted(inward) if not (report / link).is_file()] == []
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    assert len(anchors) > 15
    assert anchors <= set(page.ids)


def test_files_beside_the_page(report: Path) -> None:
    names = {path.stem for path in (report / "figures").glob("*.svg")}
    assert names == {path.stem for path in (report / "figures").glob("*.png")}
    assert {"frontier", "orders", "correlation", "noise-k4", "by-model-chunk-size", "cost", "kl"} <= names
    assert {"correlation-coefficients", "bottleneck"} <= names
    assert "importance" not in names
    for name in ("runs", "evaluations", "autoencoders", "bottlenecks"):
        as_csv = pd.read_csv(report / "data" / f"{name}.csv")
        as_parquet = pd.read_parquet(report / "data" / f"{name}.parquet")
        assert list(as_csv.columns) == list(as_parquet.columns)
        assert len(as_csv) == len(as_parquet) > 0
    key = (report / "tables" / "key_numbers.tex").read_text(encoding="utf-8")
    assert r"$\pm$" in key
    assert r"\bottomrule" in key
    for svg in (report / "figures").glob("*.svg"):
        assert "dc:date" not in svg.read_text(encoding="utf-8")


def test_colours_of_k_are_distinct_and_fixed() -> None:
    assert len({style.k_colour(k) for k in (None, 1, 2, 4, 8)}) == 5
    assert len({style.k_marker(k) for k in (None, 1, 2, 4, 8)}) == 5
    assert style.k_colour(4) == "#20a386"


def test_labels_are_moved_apart_in_order() -> None:
    wanted = [0.50, 0.51, 0.10, 0.505, 0.99, 1.0]
    places = style.spread(wanted, 0.06, 0.0, 1.0)
    ordered = [place for _, place in sorted(zip(wanted, places, strict=True))]
    assert all(b - a > 0.06 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert max(places) <= 1.0
    assert places[2] == pytest.approx(0.10)


@pytest.mark.slow
def test_drawing_leaves_matplotlib_as_it_was(table: RunTable) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    with style.house_style():
        picture = plots.main_figure(compare(table), table.floors)
    assert picture is not None
    assert dict(matplotlib.rcParams) == before


def test_an_empty_study_says_so(tmp_path: Path) -> None:
    write_study_files(tmp_path / "runs" / "empty")
    (written,) = write_reports(tmp_path / "runs")
    assert written.html == tmp_path / "reports" / "empty" / "report.html"
    text = written.html.read_text(encoding="utf-8")
    assert "Nothing can be concluded" in text
    assert "<svg" not in text
    assert len(pd.read_csv(written.html.parent / "data" / "runs.csv")) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "runs",
    [
        [{"kind": "baseline"}],
        [{"status": "failed", "reason": "x"}],
        [{"brierlm": 0.0}],
        [{"decayed": False}, {"num_evaluations": 1}],
    ],
)
def test_odd_studies_do_not_fail(tmp_path: Path, runs: list[dict[str, Any]]) -> None:
    for i, options in enumerate(runs):
        make_run_folder(tmp_path / "runs" / "odd" / f"r{i}", num_points=2, **options)
    (written,) = write_reports(tmp_path / "runs")
    assert "Verdict" in written.html.read_text(encoding="utf-8")
    assert any("has no study.json" in warning for warning in written.warnings)


@pytest.mark.slow
def test_mixed_fingerprints_are_said_loudly(tmp_path: Path, no_figures: None) -> None:
    for i, fingerprint in enumerate(("aaaa", "aaaa", "<b>")):
        make_run_folder(tmp_path / "runs" / "s" / f"r{i}", num_points=2, seed=i, fingerprint=fingerprint)
    (written,) = write_reports(tmp_path / "runs")
    text = written.html.read_text(encoding="utf-8")
    assert "Several evaluations are mixed here" in text
    assert "&lt;b&gt; (1 run)" in text


def test_importance_is_withheld_below_twenty_trials() -> None:
    def section(complete: int | None) -> sections.Section:
        summary = {"importance": {"model.chunk_size": 0.7, "optim.lr": 0.3}, "num_complete": complete}
        with style.house_style():
            return importance_section(StudyInfo("s", {}, summary))

    assert section(19).pictures == []
    assert "Withheld: 19 complete trials" in section(19).notes[0]
    assert section(None).pictures == []
    assert [picture.name for picture in section(20).pictures] == ["importance"]
    with style.house_style():
        assert "no summary" not in importance_section(StudyInfo("s")).notes[0]
        assert "has not written a summary" in importance_section(StudyInfo("s")).notes[0]


@pytest.mark.slow
def test_broken_folders_are_named_in_the_report(home: Path, tmp_path: Path, no_figures: None) -> None:
    shutil.copytree(home / "joint-quick", tmp_path / "runs" / "s")
    (tmp_path / "runs" / "s" / "trial-003" / "record.json").write_text("{")
    (written,) = write_reports(tmp_path / "runs")
    assert "s/trial-003 was left out" in written.html.read_text(encoding="utf-8")
    assert str(tmp_path) not in written.html.read_text(encoding="utf-8")


@pytest.mark.slow
def test_importance_figure_is_in_a_large_study(tmp_path: Path) -> None:
    table = load_runs(make_study(tmp_path, "big", complete=24).parent)
    with style.house_style():
        (picture,) = importance_section(table.studies["big"]).pictures
    assert "chunk size K" in picture.svg


# ---------------------------------------------------------------------------- texts, bounds, overlap, bottleneck


@pytest.fixture(scope="module")
def texts_page(
    tmp_path_factory: pytest.TempPathFactory, without_figures: Callable[[pytest.MonkeyPatch], None]
) -> Page:
    """The report on token baselines of four texts, without its figures."""
    home = tmp_path_factory.mktemp("texts") / "runs"
    make_texts_study(home, num_evaluations=5)
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        (written,) = write_reports(home)
    page = Page()
    page.feed(written.html.read_text(encoding="utf-8"))
    return page


@pytest.mark.slow
def test_several_texts_get_a_row_group_each_and_no_warning(texts_page: Page) -> None:
    page = texts_page
    assert "Several evaluations are mixed" not in page.text
    assert "Several texts, each compared with its own runs only" in page.text
    assert "on purpose: shakespeare, byte (4 runs); shakespeare, bpe (4 runs); kjv, byte (4 runs)" in page.text
    assert "instead of" not in page.text  # no run is left out for being on another text
    texts = ["shakespeare, byte", "shakespeare, bpe", "kjv, byte", "kjv, bpe"]
    assert page.column("key_numbers", "text") == texts
    assert "with autoencoder" not in page.tables["key_numbers"][0]  # there is none
    bits = page.column("key_numbers", "bits per byte (perplexity)")
    assert all(re.fullmatch(r"\d\.\d{3} ± 0\.\d{3} \(\d\.\d\d\)", cell) for cell in bits)
    settings = page.column("settings", "text")
    assert ([text for text in settings if text], len(settings)) == (texts, 16)
    assert page.column("correlation", "text") == [*texts, "published"]
    assert len(page.column("runs", "text")) == 16
    assert "Runs on shakespeare, byte only." in page.text
    assert "Evaluation fingerprints: shakespeare, byte: shbyte" in page.text
    assert "Text seen in training, kjv, bpe: 0.40 % of the evaluated tokens" in page.text


@pytest.mark.slow
def test_a_study_of_baselines_answers_whether_the_scores_agree(texts_page: Page) -> None:
    text = texts_page.text
    assert "Correlation of BrierLM with cross-entropy within each of 4 texts: Pearson, at its weakest" in text
    assert "It would count against BrierLM if" in text
    assert len(re.findall(r"(?:shakespeare|kjv), (?:byte|bpe): (?:criterion (?:not )?met|undecided), ", text)) == 4
    assert "nothing can be said about K" not in text
    assert "kjv, bpe: Pearson" in text
    # a study without a search refuses to be told a number of trials
    assert "calm study run correlation --preset cpu --seeds 1" in text


@pytest.mark.slow
def test_several_evaluations_of_one_of_several_texts_are_a_warning(tmp_path: Path, no_figures: None) -> None:
    folder = make_texts_study(tmp_path / "runs", num_evaluations=5)
    options = {"num_points": 2, "kind": "baseline", "fingerprint": "<b>", "role": "baseline"}
    make_run_folder(folder / "other", **options)
    (written,) = write_reports(tmp_path / "runs")
    text = written.html.read_text(encoding="utf-8")
    assert text.count("Several evaluations are mixed here") == 1
    assert "The runs on shakespeare, byte were evaluated in 2 different ways" in text
    assert "&lt;b&gt; (1 run)" in text


@pytest.mark.parametrize(("share", "warned"), [(0.004, False), (0.02, False), (0.06, True)])
def test_text_seen_in_training_is_warned_of_from_two_per_cent(table: RunTable, share: float, warned: bool) -> None:
    # one run of the largest share is enough: runs differ in how many windows they drew
    shares = table.runs["overlap_token_share"].where(table.runs["run_id"] != "baseline-0", share)
    parts = parts_of(replace(table, runs=table.runs.assign(overlap_token_share=shares)))
    words = sections.seen_words(parts)
    assert bool(words) == warned
    if warned:
        assert words[0].startswith(
            "shakespeare, byte: 6.00 % of the evaluated tokens lie in stretches of about 50"
        )


@pytest.mark.slow
def test_the_warning_of_seen_text_is_on_the_page(tmp_path: Path, no_figures: None) -> None:
    make_texts_study(tmp_path / "runs", num_evaluations=2, seen=0.06)
    (written,) = write_reports(tmp_path / "runs")
    text = written.html.read_text(encoding="utf-8")
    assert text.count("Evaluated text occurs in the training text.</strong> kjv, bpe: 6.00 %") == 1
    assert "begins “And it came to pass”" in text


def test_quoted_text_is_escaped_and_missing_checks_are_said(
    home: Path, tmp_path: Path, no_figures: None, page: Page
) -> None:
    assert "begins “Exeunt <b>all</b> but”" in page.text
    make_run_folder(tmp_path / "runs" / "s" / "r", num_points=2)
    (written,) = write_reports(tmp_path / "runs")
    text = written.html.read_text(encoding="utf-8")
    assert "whether evaluated text also occurs in the training text was not checked" in text
    assert "recorded no bottleneck panel" in text


def test_where_quality_is_lost_by_k(report: Path, page: Page) -> None:
    assert "K = 4: Brier-4 lacks" in page.text
    assert page.tables["bottleneck"][0] == ["", "K = 1", "K = 2", "K = 4"]
    rows = {row[0]: row[1:] for row in page.tables["bottleneck"][1:]}
    assert rows["autoencoder alone"][1] == "99.9 / 99.7 %"
    assert "where it is lost" not in rows  # a sentence above the table
    svg = (report / "figures" / "bottleneck.svg").read_text(encoding="utf-8")
    for words in ("autoencoder alone", "with the head's noise", "the model", "with another window's context"):
        assert words in svg


def test_a_score_that_cannot_be_told_from_0_is_shown_as_a_bound(page: Page, table: RunTable) -> None:
    zero = table.runs.set_index("run_id").loc["trial-013"]
    assert f"[0, {zero['brierlm_high']:.2f}]" in page.column("runs", "BrierLM ± s.e.")
    assert "0.00 ± " not in " ".join(page.column("runs", "BrierLM ± s.e."))
    assert "x is a 95 % upper bound" in page.text
    assert "A hollow point with an arrow" in page.text
    assert page.column("precision", "windows") == ["96"] * 4


@pytest.mark.parametrize(
    ("study", "spec", "command"),
    [
        (
            "joint-quick",
            {"trials": 9, "spec": {"sampler": {"kind": "tpe"}}},
            "joint --preset quick --trials 9 --seeds 2",
        ),
        (
            "mine",
            {"trials": 4, "spec": {"sampler": {"kind": "grid"}}},
            "joint --preset quick --seeds 2 --name mine",
        ),
        ("a b", {"trials": 0}, "joint --preset quick --seeds 2 --name 'a b'"),
    ],
)
def test_the_commands_that_reproduce_it_make_a_launch_of_that_name(
    study: str, spec: dict[str, Any], command: str
) -> None:
    """Of a grid without trials, which it refuses."""
    info = StudyInfo(study, spec={"study": "joint", "preset": "quick", "seeds": 2, **spec})
    said = [f"calm study run {command}", f"calm report {shlex.quote(study)}"]
    assert _reproduce(study, info) == said

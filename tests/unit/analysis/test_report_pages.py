"""Pages of runs, the comparison of studies, dark colours, files for papers, sorting."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import pytest
from py_mini_racer import MiniRacer

from analysis import page, paper_figures, style
from analysis.differences import differences_table
from analysis.pages import curve, page_names, run_pages
from analysis.report import write_reports
from analysis.table import RunTable
from analysis.together import write_together
from analysis.words import latex_escape
from tests.suites.run_folders import make_run_folder
from tests.suites.synthetic_study import QUESTION, write_study_files
from workbench.errors import StudyError

# ---------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "run_id",
    ["a/b", "../../etc/passwd", "quote\"'", "<b>", "😀", "x" * 300, "nul", "CON.txt", "", ".hidden", "a b\n"],
)
def test_names_of_pages_are_safe(run_id: str) -> None:
    (name,) = page_names([run_id])
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.html", name)
    assert len(name) < 110
    assert name.split(".")[0].lower() not in ("nul", "con")
    assert page_names(["other", run_id])[1] == name  # it depends on nothing but the id


def test_names_of_pages_are_kept_where_they_can_be_and_never_collide() -> None:
    assert page_names(["run-0001", "K4_seed.1"]) == ["run-0001.html", "K4_seed.1.html"]
    alike = ["a/b", "a?b", "a-b", "A-B", "x" * 300, "x" * 301, "same", "same"]
    names = page_names(alike)
    assert len({name.casefold() for name in names}) == len(alike)


# ---------------------------------------------------------------------------- pages


def test_what_stands_between_backticks_is_code() -> None:
    assert page.with_code("(`--seeds 3` measures it)") == "(<code>--seeds 3</code> measures it)"
    assert page.with_code("`a<b>` & <i>`c`") == "<code>a&lt;b&gt;</code> &amp; &lt;i&gt;<code>c</code>"
    for name in ("a`b`c", "``x``", "`", "`open", "two\n`lines\n`"):
        assert page.with_code(name) == name


def test_no_page_shows_a_backtick(tmp_path: Path, no_figures: None) -> None:
    make_run_folder(tmp_path / "runs" / "a" / "run", num_points=2)
    spec = {"question": "Is `K = 4` <b>enough</b>?", "against": "`K = 1` is."}
    (tmp_path / "runs" / "a" / "study.json").write_text(json.dumps(spec))
    (written,) = write_reports(tmp_path / "runs")
    text = written.html.read_text(encoding="utf-8")
    assert "`" not in re.sub(r"<script>.*?</script>|<style>.*?</style>", "", text, flags=re.DOTALL)
    assert "Is <code>K = 4</code> &lt;b&gt;enough&lt;/b&gt;?" in text
    assert "training noise is unknown (<code>--seeds 3</code> measures it)" in text
    assert "<code>--seeds 3</code> trains every setting three times." in text


def test_every_run_has_a_page_with_its_differences_first(table: RunTable) -> None:
    pages = run_pages(table, "joint-quick")
    assert len(pages) == len(table.runs)
    text = pages["trial-004.html"]  # K = 2, L = 16
    assert text.index('id="differences"') < text.index('id="checkpoints"') < text.index('id="configuration"')
    differing = text[text.index('id="table-differences"') : text.index('id="checkpoints"')]
    assert "<td>model.chunk_size</td><td>2</td><td>4</td>" in differing
    assert "model.init" not in differing
    assert "/#/experiments/3/runs/" in text
    assert 'id="autoencoder"' in text
    assert "&lt;script&gt;alert(1)" in pages["trial-000.html"]
    assert "ValueError: &lt;b&gt;bad" in pages["trial-015.html"]
    assert 'id="autoencoder"' not in pages["baseline-0.html"]
    assert "BrierLM is indistinguishable from 0" in pages["trial-013.html"]


def test_pages_are_small_and_the_same_again(table: RunTable) -> None:
    pages = run_pages(table, "joint-quick")
    assert pages == run_pages(table, "joint-quick")
    assert max(map(len, pages.values())) < 40_000


def test_a_curve_needs_two_points() -> None:
    assert curve(points((1e9, 1.0, 0.1))) is None
    assert curve(points((1e9, 1.0, 0.1), (1e9, 2.0, 0.1))) is None
    assert curve(points((0.0, 1.0, 0.1), (1e9, float("nan"), 0.1))) is None
    drawn = curve(points((1e9, 0.0, 0.1), (1e10, 0.0, float("nan"))))
    assert drawn is not None
    assert "nan" not in drawn
    assert "Band: one standard error." in drawn


def points(*given: tuple[float, float, float]) -> list[dict[Hashable, Any]]:
    return [dict(zip(("train_flops", "brierlm", "brierlm_se"), one, strict=True)) for one in given]


def test_the_band_of_a_curve_is_what_the_table_says() -> None:
    """Not a standard error where only a bound is known."""
    rows = points((1e9, 0.0, 5.0), (1e10, 0.0, 5.0), (1e11, 1.0, 0.5))
    for row, high in zip(rows[:2], (0.0, 1.5), strict=True):
        row |= {"weak_orders": "4", "brierlm_high": high}
    drawn = str(curve(rows))
    (band,) = re.findall(r'class="band" points="([^"]*)"', drawn)
    heights = [float(point.split(",")[1]) for point in band.split()]
    base, top = max(heights), min(heights)
    shares = [round((base - height) / (base - top), 2) for height in heights]
    assert shares == [0.0, 1.0, 1.0, 0.33, 0.0, 0.0]
    assert ">1.5<" in drawn.replace("1.50<", "1.5<")
    assert "Band: one standard error, or up to the bound where an order cannot be told from 0." in drawn


def test_only_what_differs_is_listed(table: RunTable) -> None:
    rows = {str(row[1]): row for row in differences_table(table).rows}
    assert rows["model.chunk_size"][2] == "1 (5), 2 (5), 4 (7)"
    assert rows["model.backbone.num_layers"][2:] == ["2 (17)", "2 (3), 4 (1)"]
    assert "data.corpus" not in rows
    assert not any(name.startswith(("eval.", "runtime.")) for name in rows)


# ---------------------------------------------------------------------------- several studies


@pytest.mark.slow
def test_studies_together(tmp_path: Path, no_figures: None) -> None:
    home = tmp_path / "runs"
    for study, fingerprint in (("a", "1111"), ("b", "1111"), ("c", "2222")):
        write_study_files(home / study)
        for k in (2, 4):
            make_run_folder(
                home / study / f"{study}{k}", study=study, chunk_size=k, fingerprint=fingerprint, num_points=2
            )
    written = write_together(home, None, tmp_path / "out")
    text = written.html.read_text(encoding="utf-8")
    assert text.count(QUESTION) == 3
    assert "Side by side: a and b" in text
    assert "c: evaluated in a way that no other of these studies shares" in text
    joint = text[text.index('id="table-joint_1"') :]
    joint = joint[: joint.index("</table>")]
    assert [joint.count(f"<td>{study}</td>") for study in "abc"] == [2, 2, 0]
    first = written.html.read_bytes()
    assert write_together(home, None, tmp_path / "out").html.read_bytes() == first
    with pytest.raises(StudyError, match="name at least two"):
        write_together(home, ["a"], tmp_path / "out")


# ---------------------------------------------------------------------------- looks


def _contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colours_of_figures_can_be_read_on_a_dark_page() -> None:
    ground = page.dark("ffffff")
    colours = [style.k_colour(k) for k in (None, 1, 2, 4, 8, 16)] + [style.category(i) for i in range(6)]
    colours += [style.head_colour(head) for head in ("energy", "diffusion", "flow")]
    shown = [page.dark(colour.removeprefix("#")) for colour in [*colours, style.INK, style.GREY]]
    assert min(_contrast(colour, ground) for colour in shown) > 4.5
    assert len({page.dark(style.k_colour(k)[1:]) for k in (None, 1, 2, 4, 8)}) == 5
    assert _contrast(page.dark("e6e6e6"), ground) < 2.5  # grid lines stay behind


def test_drawings_take_their_colours_from_the_page() -> None:
    assert page.themed('<path style="fill: #440154; stroke: #ffffff"/>') == (
        '<path style="fill: var(--f440154,#440154); stroke: var(--fffffff,#ffffff)"/>'
    )
    assert page.themed('<use xlink:href="#abcdef"/>') == '<use xlink:href="#abcdef"/>'


@pytest.fixture
def widths() -> Iterator[None]:
    """Files for papers are left out of all other tests."""
    with paper_figures.paper():
        yield


@pytest.mark.slow
def test_figures_for_a_paper_have_its_widths_and_the_same_bytes(widths: None) -> None:
    def draw() -> style.Picture:
        with style.house_style():
            figure, axes = style.new_figure()
            axes.errorbar([1, 2], [1, 2], yerr=[0.1, 0.2], label="K = 4")
            axes.legend()
            return style.render(figure, "x", "X", "a figure")

    first, second = draw(), draw()
    assert set(first.paper) == {"column.pdf", "column.svg", "page.pdf", "page.svg"}
    assert first == second
    for name, inches in (("column", 3.3), ("page", 6.9)):
        box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", first.paper[f"{name}.pdf"])
        assert box is not None
        assert float(box[1]) == pytest.approx(72 * inches, abs=0.1)
        assert b"/CreationDate" not in first.paper[f"{name}.pdf"]
        sizes = [float(size) for size in re.findall(rb"font-size: ([\d.]+)px", first.paper[f"{name}.svg"])]
        assert min(sizes) >= 7 - 1e-6
        assert max(sizes) < 8


def test_latex_knows_what_its_fonts_lack() -> None:
    assert latex_escape("“K” ≈ 4…") == r"``K'' $\approx$ 4\dots{}"
    assert latex_escape("é😀漢") == "é[U+1F600][U+6F22]"


# ---------------------------------------------------------------------------- sorting

_CASES = {
    "errors": ["3.2 ± 0.1", "–", "10.1 ± 0.2", "−4.0 ± 0.1", "3.2 ± 0.9"],
    "powers": ["1.20×10¹²", "9.00×10¹¹", "", "1.2e13", "10¹⁰"],
    "whole": ["12,345", "999", "1,000,000", "–", "0"],
    "bounds": ["[0, 1.30]", "0.50 ± 0.1", "2.00 ± 0.1", "–", "[0, 0.10]"],
    "words": ["run 10", "run 9", "Run 1", "", "abc"],
    "differences": ["+0.42 [0.10, 0.74]", "−1.00 [−2.0, 0.1]: worse", "–", "0.00 (no interval)", "+3.00"],
}
_WANTED = {
    "errors": ([3, 0, 4, 2, 1], [2, 0, 4, 3, 1]),
    "powers": ([4, 1, 0, 3, 2], [3, 0, 1, 4, 2]),
    "whole": ([4, 1, 0, 2, 3], [2, 0, 1, 4, 3]),
    "bounds": ([4, 1, 0, 2, 3], [2, 0, 1, 4, 3]),
    "words": ([4, 2, 1, 0, 3], [0, 1, 2, 4, 3]),
    "differences": ([1, 3, 0, 4, 2], [4, 0, 3, 1, 2]),
}


def test_tables_sort_by_number_keep_ties_and_put_missing_last() -> None:
    """The page's own script, run by V8 without a browser, asked for its order of rows."""
    source = Path(page.__file__).with_name("templates").joinpath("page.js").read_text(encoding="utf-8")
    document = "var document = {documentElement: {removeAttribute() {}}, addEventListener() {}};\n"
    cut = source.rindex("document.addEventListener")
    engine = MiniRacer()
    engine.eval(document + source[:cut] + "globalThis.order = order;\n" + source[cut:])
    asked = "JSON.stringify([false, true].map(down => order(%s.map(text => ({textContent: text})), down)))"
    for name, cells in _CASES.items():
        found = json.loads(str(engine.eval(asked % json.dumps(cells))))
        assert tuple(found) == _WANTED[name], name


@pytest.mark.slow
def test_a_watched_page_reloads_itself_and_a_final_one_does_not(tmp_path: Path, no_figures: None) -> None:
    make_run_folder(tmp_path / "runs" / "s" / "r", num_points=2)
    (written,) = write_reports(tmp_path / "runs", reload=7)
    assert '<meta http-equiv="refresh" content="7">' in written.html.read_text(encoding="utf-8")
    assert "this page loads itself again every 7 s" in written.html.read_text(encoding="utf-8")
    (written,) = write_reports(tmp_path / "runs")
    assert 'http-equiv="refresh"' not in written.html.read_text(encoding="utf-8")


@pytest.mark.slow
def test_results_of_others_stand_in_a_section_of_their_own(tmp_path: Path, no_figures: None) -> None:
    make_run_folder(tmp_path / "runs" / "s" / "r", num_points=2)
    theirs = tmp_path / "theirs.csv"
    theirs.write_text("model,K,brierlm,train_flops\n<b>X</b>,4,3.1,1e12\n")
    (written,) = write_reports(tmp_path / "runs", external=[theirs])
    text = written.html.read_text(encoding="utf-8")
    assert 'id="external"' in text
    assert "&lt;b&gt;X&lt;/b&gt;" in text
    (written,) = write_reports(tmp_path / "runs")
    assert 'id="external"' not in written.html.read_text(encoding="utf-8")

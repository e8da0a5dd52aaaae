"""A whole report on a study of heads: sections, files, verdict; and that they are absent without their data."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import plots, plots_calls, plots_samplers
from analysis.files_written import FORMAT
from analysis.report import build, write_reports
from analysis.rows_sampling import CALL_COLUMNS, TRADEOFF_COLUMNS
from analysis.table import load_runs
from tests.suites.synthetic_heads import make_heads_study
from tests.suites.synthetic_study import make_texts_study
from workbench import files, records

SECTIONS = ("network-calls", "samplers", "samples")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, without_figures: Callable[..., None]) -> Path:
    """With the main figure and those of these sections."""
    home = tmp_path_factory.mktemp("heads") / "runs"
    make_heads_study(home, seeds=2)
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch, keep=(plots, plots_calls, plots_samplers))
        (written,) = write_reports(home, None, home.parent / "out")
    assert written.warnings == []
    return home.parent / "out"


def present(html: str) -> list[str]:
    return [name for name in SECTIONS if f'<section id="{name}"' in html]


@pytest.mark.slow
def test_sections_figures_and_data(report: Path) -> None:
    html = (report / "report.html").read_text(encoding="utf-8")
    assert present(html) == list(SECTIONS)
    for name in ("network-calls", "network-calls-flops", "samplers", "sampler-time"):
        assert (report / "figures" / f"{name}.svg").exists()
        assert (report / "figures" / f"{name}.png").exists()
    for name, columns in (("calls", CALL_COLUMNS), ("tradeoffs", TRADEOFF_COLUMNS)):
        as_csv = pd.read_csv(report / "data" / f"{name}.csv")
        as_parquet = pd.read_parquet(report / "data" / f"{name}.parquet")
        assert list(as_csv.columns) == list(as_parquet.columns) == [*columns, FORMAT]
        assert len(as_csv) == len(as_parquet) > 50
    wanted = {"head", "setting", "K", "seed", "solver", "network_calls", "infer_flops_per_token", "brierlm_se"}
    assert wanted | {f"brier_{n}_se" for n in (1, 2, 3, 4)} <= set(CALL_COLUMNS)
    runs = pd.read_csv(report / "data" / "evaluations.csv")
    assert set(runs["head"].dropna()) == {"energy", "flow", "diffusion"}
    for name in ("network_calls", "call_points", "equal_collision", "sampler_cost"):
        latex = (report / "tables" / f"{name}.tex").read_text(encoding="utf-8")
        assert r"\bottomrule" in latex
        assert "τ" not in latex


@pytest.mark.slow
def test_the_verdict_answers_by_calls_and_samplers(report: Path) -> None:
    html = (report / "report.html").read_text(encoding="utf-8")
    verdict = html[html.index('id="verdict"') : html.index('<section id="frontier"')]
    assert "The best setting has head energy (quadric)" in verdict
    assert "scores highest" in verdict
    assert "reaches its score with about" in verdict
    assert "where two draws agree in" in verdict
    assert "K = 4" not in verdict


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "there"),
    [
        ({"calls": False, "tradeoff": False, "samples": False}, []),
        ({"calls": False}, ["samplers", "samples"]),
        ({"tradeoff": False, "samples": False, "seeds": 1}, ["network-calls"]),
        ({"heads": (), "samples": False}, ["samplers"]),
    ],
)
def test_sections_appear_only_with_their_data(
    tmp_path: Path, no_figures: None, options: dict[str, Any], there: list[str]
) -> None:
    make_heads_study(tmp_path, "s", **{"seeds": 1, "heads": ("energy-quadric", "flow"), **options})
    assert present(build(load_runs(tmp_path, ["s"]), "s").html) == there


@pytest.mark.slow
def test_records_of_before_make_no_sections(tmp_path: Path, no_figures: None) -> None:
    make_texts_study(tmp_path, num_evaluations=2)
    assert present(build(load_runs(tmp_path), "correlation-cpu").html) == []


@pytest.mark.slow
def test_on_several_texts_each_is_compared_with_its_own(tmp_path: Path, no_figures: None) -> None:
    folder = make_heads_study(tmp_path, "s", seeds=1, heads=("energy-quadric", "flow"))
    other = make_heads_study(tmp_path / "more", "s", seeds=1, heads=("flow",))
    for run in sorted(other.glob("*s0*")):
        record = records.read_record(run)
        record.eval_fingerprint = "bbbb"
        assert record.final is not None
        record.final.fingerprint = "bbbb"
        evaluations = [e.model_copy(update={"fingerprint": "bbbb"}) for e in records.read_evaluations(run)]
        files.rewrite_json_lines(run / records.EVALUATIONS, [e.model_dump() for e in evaluations])
        record.run_id = f"kjv-{record.run_id}"
        records.write_record(run, record)
        config = (run / records.CONFIG).read_text(encoding="utf-8").replace("corpus: shakespeare", "corpus: kjv")
        (run / records.CONFIG).write_text(config, encoding="utf-8")
        run.rename(folder / f"kjv-{run.name}")
    html = build(load_runs(tmp_path, ["s"]), "s").html
    assert present(html) == list(SECTIONS)
    assert "Runs on shakespeare, byte only." in html
    assert re.search(r"<li>shakespeare, byte: [^<]*, where two draws agree in", html)
    assert "<h3>kjv, byte: " in html

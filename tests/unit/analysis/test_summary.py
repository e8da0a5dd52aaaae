"""The summary and the sections about budgets, growth and laws, on a study of sizes, budgets and K."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.report import build
from analysis.table import RunTable, load_runs
from tests.suites.run_folders import make_run_folder
from workbench import files, records

BUDGETS = (1e12, 4e12, 1.6e13)
WIDTHS = (64, 96, 128)
LEVEL = {None: 4.0, 1: 2.0, 2: 1.6}
"""BrierLM at the smallest budget and best size, by K (None: baseline)."""


def score(k: int | None, width: int, budget: float) -> float:
    """Grows as a power of compute; larger models are worse at small budgets and catch up; K = 2 grows faster."""
    growth = {None: 0.35, 1: 0.45, 2: 0.55}[k]
    late = 1 + 0.25 * (width / 64 - 1) * (1e12 / budget) ** 0.3
    return float(LEVEL[k] * (budget / 1e12) ** growth / late)


def make_scaling_study(home: Path, budgets: tuple[float, ...] = BUDGETS) -> RunTable:
    number = 0
    for k in LEVEL:
        for width in WIDTHS:
            for budget in budgets:
                number += 1
                kind: dict[str, Any] = (
                    {"kind": "baseline"} if k is None else {"chunk_size": k, "latent_dim": 16 * k}
                )
                folder = make_run_folder(
                    home / "s" / f"r{number:02d}",
                    **kind,
                    width=width,
                    train_flops=budget,
                    brierlm=score(k, width, budget),
                    num_points=2,
                    num_evaluations=2,
                    plots=False,
                    num_windows=None,
                    created=f"2026-01-01T00:{number:02d}:00+00:00",
                )
                record = records.read_record(folder)
                record.parameters = {"backbone": 24 * width**2, "output": 258 * width}
                records.write_record(folder, record)
    files.write_json(home / "s" / "study.json", {"name": "s", "study": "scaling", "question": "?", "against": "-"})
    return load_runs(home, ["s"])


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory, without_figures: Callable[[pytest.MonkeyPatch], None]) -> str:
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        return build(make_scaling_study(tmp_path_factory.mktemp("home")), "s").html


def findings(html: str) -> list[str]:
    block = re.search(r'<ul class="findings">(.*?)</ul>', html, re.DOTALL)
    return re.findall(r"<li>(.*?)</li>", block.group(1), re.DOTALL) if block else []


@pytest.mark.slow
def test_the_sections_are_there_and_in_the_contents(html: str) -> None:
    for name in ("budgets", "frontiers", "growth", "scaling"):
        assert f'<section id="{name}"' in html
        assert f'href="#{name}"' in html


@pytest.mark.slow
def test_the_summary_says_what_each_budget_the_ratio_and_the_law_say(html: str) -> None:
    said = findings(html)
    assert said[0].startswith("Best CALM by budget: K = 1 at 1.00×10¹²")
    assert any("the training compute of the token baseline" in line for line in said)
    assert any("the law recommends K = " in line for line in said)
    assert not any("no ratio of" in line and "since" in line for line in said)  # the section has the reasons


@pytest.mark.slow
def test_one_budget_gives_neither_table_nor_law_and_the_question_stays_open(
    tmp_path: Path, no_figures: None
) -> None:
    html = build(make_scaling_study(tmp_path, BUDGETS[:1]), "s").html
    assert '<section id="budgets"' not in html
    assert '<section id="growth"' not in html
    assert not any("law" in line for line in findings(html))
    assert "each size was trained on one only" in html

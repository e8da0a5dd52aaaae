from __future__ import annotations

import math

import pandas as pd
import pytest

from analysis.words import Link, Table, flops, latex_escape, mlflow_url, number, plus_minus, to_latex, whole


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.234, "1.23"),
        (-0.5, "−0.50"),
        (-0.001, "0.00"),
        (None, "–"),
        (pd.NA, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
    ],
)
def test_numbers(value: object, text: str) -> None:
    assert number(value) == text


def test_units_and_errors() -> None:
    assert plus_minus(3.1, 0.126) == "3.10 ± 0.13"
    assert plus_minus(3.1, None) == "3.10"
    assert flops(1.5e12) == "1.50×10¹²"
    assert flops(0) == "0"
    assert flops(None) == "–"
    assert whole(20123.4) == "20,123"


def test_latex_escapes_every_special_character() -> None:
    assert latex_escape(r"a_b & 100% #1 {x} $y$ ~ ^ \z") == (
        r"a\_b \& 100\% \#1 \{x\} \$y\$ \textasciitilde{} \textasciicircum{} \textbackslash{}z"
    )
    assert latex_escape("<script>|") == r"\textless{}script\textgreater{}\textbar{}"
    assert latex_escape("3.10 ± 0.13, −1, 10¹²") == r"3.10 $\pm$ 0.13, $-$1, 10$^{12}$"
    assert latex_escape("K′, C_½") == r"K$'$, C\_$\frac{1}{2}$"


def test_latex_table_rows_and_alignment() -> None:
    table = Table("x", "100% of K_4", ["a", "b"], [["n & m", Link("x_1", "http://h")]], frozenset({1}))
    text = to_latex(table)
    assert r"\begin{tabular}{lr}" in text
    assert r"n \& m & x\_1 \\" in text
    assert r"\caption{100\% of K\_4}" in text
    assert "http" not in text


TRAINING = "?workflowType=machine_learning"


def test_links_lead_to_the_server_or_to_the_local_pages() -> None:
    assert mlflow_url("sqlite:///x.db", "3", "abc") == f"http://127.0.0.1:5000/#/experiments/3/runs/abc{TRAINING}"
    assert mlflow_url("https://host/m/", "3", "abc") == f"https://host/m/#/experiments/3/runs/abc{TRAINING}"
    assert (
        mlflow_url("javascript:alert(1)//", "3", "a") == f"http://127.0.0.1:5000/#/experiments/3/runs/a{TRAINING}"
    )
    assert (
        mlflow_url("http://h", "1/../2", '"><b') == f"http://h/#/experiments/1%2F..%2F2/runs/%22%3E%3Cb{TRAINING}"
    )
    assert mlflow_url("http://h", None, "a") is None

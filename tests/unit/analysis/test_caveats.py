"""Diagnostics in sentences."""

from __future__ import annotations

import inspect

import pandas as pd
import pytest

from analysis.caveats import WORDS, caveats
from workbench import records


def runs(*rows: tuple[str, int | None, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["kind", "K", "diagnostics"])
    return frame.astype({"K": "Int64"})


def test_how_many_runs_and_which() -> None:
    frame = runs(
        ("calm", 4, "collapse, below_floor"), ("calm", 4, "below_floor"), ("calm", 1, ""), ("baseline", None, "")
    )
    assert caveats(frame) == [
        "2 of 4 compared runs have a score not above the best n-gram table's (K = 4: 2).",
        "1 of 4 compared runs has an autoencoder with collapsed latent dimensions (K = 4: 1).",
    ]


def test_all_runs() -> None:
    frame = runs(("calm", 2, "seen_text"), ("baseline", None, "seen_text"))
    where = "(token baseline: 1 and K = 2: 1)"
    assert caveats(frame) == [f"All 2 compared runs have evaluated text that occurs in the training text {where}."]


@pytest.mark.parametrize("frame", [runs(), runs(("calm", 4, ""), ("calm", 2, None))])
def test_without_diagnostics_nothing_is_said(frame: pd.DataFrame) -> None:
    assert caveats(frame) == []


def test_every_code_has_its_words() -> None:
    """The codes are listed where they are made: a new one must not appear in a report as its bare name."""
    listed = inspect.getsource(records.Diagnostic).split("stable:")[1].split('."')[0]
    codes = {word.strip(" .\n") for word in listed.replace('"""', "").split(",")}
    assert codes == set(WORDS)

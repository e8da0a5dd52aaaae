"""Tables of a report say their format, and one of a newer version is refused where it is read back."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.digest import read_digest
from analysis.external import read_external
from analysis.files_written import FORMAT, Content, require_format, write_content
from workbench import formats
from workbench.errors import OutputError

FRAME = pd.DataFrame({"model": ["a", "b"], "K": [4, 4], "train_flops": [1e9, 2e9], "brierlm": [1.0, 2.0]})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    empty = FRAME.iloc[:0]
    content = Content(html="", pictures=[], tables=[], frames={"evaluations": FRAME, "runs": FRAME, "none": empty})
    return write_content(content, tmp_path / "report").parent / "data"


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_every_table_says_it(data: Path, ending: str) -> None:
    found = read(data / f"evaluations.{ending}")
    assert list(found.columns) == [*FRAME.columns, FORMAT]
    assert set(found[FORMAT]) == {formats.TABLE}
    pd.testing.assert_frame_equal(require_format(found, "x")[list(FRAME.columns)], FRAME)
    assert list(read(data / f"none.{ending}").columns) == list(found.columns)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_our_own_tables_are_read_as_anybodys(data: Path, ending: str) -> None:
    found = read_external(data / f"evaluations.{ending}")
    assert found["brierlm"].tolist() == [1.0, 2.0]
    assert FORMAT not in found


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_newer_one_is_refused(data: Path, ending: str) -> None:
    newer = read(data / f"runs.{ending}").assign(**{FORMAT: formats.TABLE + 1})
    if ending == "csv":
        newer.to_csv(data / "runs.csv", index=False)
    else:
        newer.to_parquet(data / "runs.parquet", index=False)
    message = r"column table_format was written by a newer workbench \(format 2, this one reads up to 1\); update"
    with pytest.raises(OutputError, match=message):
        read_external(data / f"runs.{ending}")
    if ending == "parquet":
        with pytest.raises(OutputError, match=message):
            read_digest(data.parent)


@pytest.mark.parametrize(
    ("values", "message"),
    [([1, 7], r"format 7, "), (["x", "1"], r"table_format: format is 'x'"), ([1.5, 1], r"format is .*1\.5")],
)
def test_one_row_is_enough(values: list[object], message: str) -> None:
    with pytest.raises(OutputError, match=message):
        require_format(FRAME.assign(**{FORMAT: values}), "t.csv")


@pytest.mark.parametrize("values", [["1", ""], [1, None], [0, 0], ["0", "1"]])
def test_rows_that_say_none_or_an_older_one_are_taken(values: list[object]) -> None:
    pd.testing.assert_frame_equal(require_format(FRAME.assign(**{FORMAT: values}), "t.csv"), FRAME)
    assert require_format(FRAME, "t.csv") is FRAME

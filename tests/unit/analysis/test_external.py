from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import style
from analysis.external import COLUMNS, EXTRA_COLUMNS, published, read_external
from analysis.frontier import DOMINATED, ON, UNKNOWN, select, with_status
from analysis.frontier_bands import bands
from analysis.plots_frontier import external_figure, frontier_figure
from analysis.rows import EVALUATION_COLUMNS
from analysis.scaling_points import choose_points
from analysis.sections_frontier import sections_external
from workbench.errors import StudyError

HEAD = "model,K,train_flops,brierlm"


def write(folder: Path, *lines: str, name: str = "theirs.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def ladder() -> pd.DataFrame:
    """Three sizes at three budgets, of K = 4 and a token model, as a file would hold them."""
    rows = []
    for k, height in ((4, 3.0), (None, 4.0)):
        for size in (1e6, 3e6, 1e7):
            for tokens in (1e8, 1e9, 1e10):
                flops = 6 * size * tokens / (k or 1)
                score = height + 0.8 * np.log10(flops / 1e14) - 0.1 * abs(np.log10(tokens / size / 20))
                rows.append(
                    {"model": f"{k or 'token'}-{size:.0e}-{tokens:.0e}", "K": k, "train_flops": flops,
                     "infer_flops_per_token": 2 * size / (k or 1), "model_parameters": size, "tokens": tokens,
                     "brierlm": score, "brierlm_se": 0.05}
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_a_file_becomes_evaluations_with_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "Model,k,TRAIN_FLOPS,BrierLM,brierlm_se,seed,mine,head",
        "small,4,1e17,1.90,0.05,0,x,flow",
        "small,4,1e17,1.97,,1,y,flow",
        "token,,2e17,1.55,-,,z,",
    )
    frame = read_external(path)
    assert list(frame.columns) == [*EVALUATION_COLUMNS, *EXTRA_COLUMNS, "mine"]
    assert set(frame["fingerprint"]) == {"external: theirs"}
    assert frame["kind"].tolist() == ["calm", "calm", "baseline"]
    assert frame["run_id"].tolist() == [
        "external: theirs/small, seed 0",
        "external: theirs/small, seed 1",
        "external: theirs/token",
    ]
    assert frame["train_flops"].tolist() == [1e17, 1e17, 2e17]
    assert frame["brierlm_se"].isna().tolist() == [False, True, True]
    assert frame["K"].isna().tolist() == [False, False, True]
    assert set(frame["phase"]) == {"decayed"}
    assert frame["mine"].tolist() == ["x", "y", "z"]


def test_parquet_gives_the_same_and_a_name_can_be_given(tmp_path: Path) -> None:
    table = ladder()
    table.to_csv(tmp_path / "runs.csv", index=False)
    table.to_parquet(tmp_path / "runs.parquet")
    text, binary = (read_external(tmp_path / f"runs.{ending}") for ending in ("csv", "parquet"))
    pd.testing.assert_frame_equal(text, binary)
    assert set(read_external(tmp_path / "runs.csv", "lab")["fingerprint"]) == {"external: lab"}


@pytest.mark.parametrize("column", ["seed", "train_flops", "K"])
@pytest.mark.parametrize("cell", [[0, 0], [1], []], ids=str)
def test_lists_in_a_parquet_file_are_no_numbers(tmp_path: Path, column: str, cell: list[int]) -> None:
    table = ladder().assign(seed=0)
    table[column] = [cell] * len(table)
    table.to_parquet(tmp_path / "runs.parquet")
    with pytest.raises(StudyError, match=rf"{column}.*{re.escape(str(cell))}"):
        read_external(tmp_path / "runs.parquet")


def test_checkpoints_are_numbered_by_cost_and_datasets_have_fingerprints(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD, "a,4,3e9,3", "a,4,1e9,1", "a,4,2e9,2")
    assert read_external(path)["step"].tolist() == [3, 1, 2]
    path = write(tmp_path, f"{HEAD},dataset", "a,4,3e9,3,wiki", "b,4,1e9,1,code")
    assert read_external(path)["fingerprint"].tolist() == ["external: theirs, wiki", "external: theirs, code"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEAD, "a,4,1e9,2", "", "b,4,1e9,abc"], r"row 2 \(line 4\), column 'brierlm'.*got 'abc'; correct it"),
        ([HEAD, "a,4,1e9,nan"], "column 'brierlm': a number of at least 0 and at most 100 wanted, got nothing"),
        ([HEAD, "a,4,1e9,101"], "at most 100 wanted, got '101'"),
        ([HEAD, "a,4,-3,1"], "column 'train_flops': a number above 0 wanted, got '-3'"),
        ([HEAD, "a,4,inf,1"], "column 'train_flops'.*got 'inf'"),
        ([HEAD, "a,2.5,1e9,1"], "column 'K': a whole number of at least 1 wanted, got '2.5'"),
        ([HEAD, ",4,1e9,1"], "column 'model': a value wanted, got nothing"),
        ([HEAD, "a,4,,1"], "a cost .one of train_flops,"),
        ([HEAD, "a,4,1e9,2", "a,4,1e9,2"], r"row 2 \(line 3\) repeats row 1 \(line 2\).*remove one"),
        ([f"{HEAD},kind", "a,4,1e9,2,baseline"], "an empty cell for a baseline"),
        ([f"{HEAD},kind", "a,,1e9,2,calm"], "the chunk size of a calm wanted"),
        ([f"{HEAD},kind", "a,4,1e9,2,gpt"], "calm or baseline wanted, got 'gpt'"),
        ([f"{HEAD},phase", "a,4,1e9,2,warmup"], "constant or decayed wanted, got 'warmup'"),
        ([f"{HEAD},brierlm_low", "a,4,1e9,2,3"], "a score within its interval"),
        (["model,K,brierlm", "a,4,2"], "missing column: one of train_flops,"),
        (["model,train_flops", "a,2"], "missing columns: brierlm; K or kind. Given: model, train_flops"),
        (["model,K,train_flop,brierlm", "a,4,1,1"], "unknown column 'train_flop'; did you mean 'train_flops'"),
        (["model;K;train_flops;brierlm", "a;4;1;1"], "separated by commas"),
        ([HEAD + ",K", "a,4,1,1,4"], "column 'K' is there twice; keep one"),
        ([HEAD, "a,4,1e9,2,7,8"], "more cells than there are column names"),
        ([HEAD], "has no rows"),
        ([HEAD, ",,,"], "has no rows"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        read_external(write(tmp_path, *lines))


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="there is no such file"):
        read_external(tmp_path / "none.csv")
    with pytest.raises(StudyError, match=r"a \.csv or a \.parquet, got '\.xlsx'"):
        read_external(write(tmp_path, HEAD, name="a.xlsx"))
    (tmp_path / "empty.csv").touch()
    with pytest.raises(StudyError, match=r"empty.csv is empty"):
        read_external(tmp_path / "empty.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00model,K\n")
    with pytest.raises(StudyError, match="cannot be read as CSV"):
        read_external(tmp_path / "binary.csv")
    with pytest.raises(StudyError, match="cannot be read as Parquet"):
        read_external(write(tmp_path, HEAD, name="a.parquet"))


def test_the_published_rows() -> None:
    rows = published().set_index("model")
    assert rows.loc["Transformer-S", "brierlm"] == 6.05
    assert rows.loc["CALM-M", "brierlm"] == 5.72
    ratio = rows.loc["CALM-M"] / rows.loc["Transformer-S"].where(rows.loc["Transformer-S"].map(np.isreal))
    assert ratio["train_flops_published"] == pytest.approx(0.56, abs=0.005)  # 44 % fewer
    assert ratio["infer_flops_per_token_published"] == pytest.approx(0.66, abs=0.005)  # 34 % fewer
    assert rows["K"].isna().tolist() == [True, False]
    assert rows["source"].str.contains("2510.27688").all()
    status = with_status(select(published(), cost="train_flops_published").points, cost="train_flops_published")
    assert set(status["status"]) == {ON}  # each better in one of the two
    worse = published().assign(brierlm=[5.0, 5.72])
    points = select(worse, cost="train_flops_published").points
    assert with_status(points, cost="train_flops_published")["status"].tolist() == [ON, UNKNOWN]


@pytest.mark.slow
def test_a_table_of_others_is_analysed_without_a_study(tmp_path: Path) -> None:
    ladder().to_csv(tmp_path / "runs.csv", index=False)
    frame = read_external(tmp_path / "runs.csv")
    points = select(frame).points
    assert len(points) == 18
    assert {ON, DOMINATED} <= set(with_status(points)["status"])
    assert [band.family for band in bands(points)] == ["K = 4", "token baseline", "all models"]
    chosen = choose_points(frame)
    assert len(chosen.points) == 18
    assert chosen.points.chunk_sizes == [4]
    for cost in ("train_flops", "infer_flops_per_token"):
        picture = frontier_figure(frame, cost=cost)
        assert picture is not None
        assert "K = 4" in picture.svg
    nothing = frontier_figure(frame.head(0))
    assert nothing is None


@pytest.mark.slow
def test_the_section_keeps_sources_apart(tmp_path: Path) -> None:
    ladder().to_csv(tmp_path / "runs.csv", index=False)
    with style.house_style():
        section = sections_external([read_external(tmp_path / "runs.csv")], None, None)
    names = [picture.name for picture in section.pictures]
    assert "external-train-flops-published" in names
    assert "external-train-flops" in names
    tables = {table.name: table for table in section.tables}
    slopes = {(str(row[0]), str(row[1])): float(str(row[4])) for row in tables["slopes-train-flops"].rows}
    assert slopes["external: runs", "K = 4"] == pytest.approx(0.8, abs=0.08)
    assert slopes["external: runs", "token baseline"] == pytest.approx(0.8, abs=0.08)
    assert "slopes-train-flops-published" not in tables  # two published points carry no line
    sources = {str(row[tables["external"].columns.index("source")]) for row in tables["external"].rows}
    assert sources == {"external: runs", "arXiv 2510.27688"}


def test_scores_of_others_never_share_a_frontier_with_ours(tmp_path: Path) -> None:
    theirs = read_external(write(tmp_path, HEAD, "a,4,1e9,2"))
    both = pd.concat([theirs, theirs.assign(fingerprint="ours", run_id="r")])
    with pytest.raises(ValueError, match="fingerprints"):
        select(both)
    assert external_figure(theirs, None, cost="train_flops_published") is None  # it has none in that count


def test_every_column_is_documented() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "external-results.md").read_text(encoding="utf-8")
    for column in COLUMNS:
        wanted = column.wanted if column.is_number else "text"
        assert f"| `{column.name}` | {'yes' if column.required else ''} | {wanted} | {column.meaning} |" in text


@pytest.mark.parametrize("column", ["K", "seed", "step"])
def test_whole_numbers_that_cannot_be_counted_with_are_refused(tmp_path: Path, column: str) -> None:
    row = {"model": "X", "K": 4, "seed": 0, "step": 1, "brierlm": 3.1, "train_flops": 1e12}
    path = tmp_path / "theirs.csv"
    pd.DataFrame([{**row, column: 2**53}]).to_csv(path, index=False)
    assert len(read_external(path)) == 1
    pd.DataFrame([{**row, column: "1e30"}]).to_csv(path, index=False)
    with pytest.raises(StudyError, match=rf"column '{column}': a whole number of at least .* and at most 2\^53"):
        read_external(path)


def test_a_folder_is_named_in_the_message() -> None:
    with pytest.raises(StudyError, match=r"^\.: a file of runs is a \.csv"):
        read_external(".")

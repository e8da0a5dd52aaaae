from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.table import RunTable, choose_studies, known_studies, load_runs
from tests.suites.run_folders import make_run_folder
from tests.suites.synthetic_study import HOSTILE, write_study_files
from workbench import files, records
from workbench.errors import StudyError


def test_one_row_a_run_with_its_parameters_and_last_scores(table: RunTable) -> None:
    assert len(table.runs) == 22
    first = table.runs.iloc[0]
    assert (first["name"], first["K"], first["autoencoder.latent_dim"], first["status"]) == (
        HOSTILE,
        1,
        8,
        "completed",
    )
    assert first["train_flops_with_autoencoder"] == first["train_flops"] + 4e11
    assert first["brier_1"] > first["brier_4"] > 0
    baseline = table.runs[table.runs["kind"] == "baseline"].iloc[0]
    assert pd.isna(baseline["K"])
    assert baseline["autoencoder_train_flops"] == 0
    assert pd.isna(baseline["autoencoder.latent_dim"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_complete": {}}, "num_complete is {}, a whole number is wanted"),
        ({"num_complete": "many"}, "num_complete is 'many'"),
        ({"importance": [1]}, "importance is [1], a share of 1 for every parameter is wanted"),
        ({"importance": {"model.chunk_size": "x"}}, "importance is {'model.chunk_size': 'x'}"),
        ({"importance": {"model.chunk_size": 10**400}}, "importance is {'model.chunk_size': 1000"),
    ],
)
def test_a_summary_that_no_study_writes_is_a_warning(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """A report takes it for numbers."""
    write_study_files(tmp_path / "s", complete=20)
    make_run_folder(tmp_path / "s" / "run", num_points=2, num_evaluations=2, num_windows=8)
    path = tmp_path / "s" / "summary.json"
    assert load_runs(tmp_path, ["s"]).warnings == []
    files.write_json(path, {**files.read_json(path), **changes})
    table = load_runs(tmp_path, ["s"])
    assert any(f"s/summary.json cannot be read: {words}" in warning for warning in table.warnings), table.warnings
    assert table.studies["s"].summary == {}


@pytest.mark.parametrize("parameters", [5, "x", None, [["a"]]])
def test_parameters_that_are_none(tmp_path: Path, parameters: Any) -> None:
    write_study_files(tmp_path / "s")
    make_run_folder(tmp_path / "s" / "run", num_points=2, num_evaluations=2, num_windows=8)
    path = tmp_path / "s" / "study.json"
    files.write_json(path, {**files.read_json(path), "parameters": parameters})
    info = load_runs(tmp_path, ["s"]).studies["s"]
    assert (info.parameters, info.dimensions) == (["['a']"] if isinstance(parameters, list) else [], {})


def test_unfinished_runs_keep_their_last_evaluation_but_not_the_budget(table: RunTable) -> None:
    by_id = table.runs.set_index("run_id")
    assert by_id.loc["trial-014", "status"] == "pruned"
    assert by_id.loc["trial-014", "brierlm"] > 0
    assert not by_id.loc[["trial-014", "trial-015", "trial-016"], "at_budget"].any()
    assert pd.isna(by_id.loc["trial-015", "brierlm"])
    assert by_id.loc["trial-015", "reason"] == "ValueError: <b>bad</b>"


def test_evaluations_are_in_order_and_carry_their_run(table: RunTable) -> None:
    rows = table.evaluations[table.evaluations["run_id"] == "trial-000"]
    assert len(rows) == 6
    assert rows["train_flops"].is_monotonic_increasing
    assert rows["phase"].tolist() == ["constant"] * 5 + ["decayed"]
    assert rows["cross_entropy"].isna().all()


def test_scores_come_with_bounds_bits_and_what_they_rest_on(table: RunTable) -> None:
    by_id = table.runs.set_index("run_id")
    baseline = by_id.loc["baseline-0"]
    assert baseline["brierlm_low"] < baseline["brierlm"] < baseline["brierlm_high"]
    assert baseline["weak_orders"] == ""
    assert (baseline["num_windows"], baseline["rounds"]) == (96, 1)
    assert baseline["bits_per_byte"] == pytest.approx(1.44 * baseline["cross_entropy"])
    assert baseline["byte_perplexity"] == pytest.approx(2 ** baseline["bits_per_byte"])
    assert baseline["cross_entropy_se"] == 0.01
    assert baseline["bootstrap_se"] == pytest.approx(1.05 * baseline["brierlm_se"])
    assert by_id.loc["trial-013", "weak_orders"] == "3, 4"
    assert by_id["bits_per_byte"].dtype == by_id["brierlm_high"].dtype == "float64"
    assert by_id["num_windows"].dtype == "Int64"
    first = table.evaluations[table.evaluations["run_id"] == "trial-000"].iloc[0]
    assert (first["text"], first["size"], first["weak_orders"]) == ("shakespeare, byte", "d128-l2", "3, 4")


def test_records_from_before_weak_orders_are_judged_by_the_same_rule(tmp_path: Path) -> None:
    run = make_run_folder(tmp_path / "s" / "old", num_points=2)
    record = records.read_record(run)
    assert record.final is not None
    assert record.final.brier.num_windows is None
    brier = record.final.brier.model_copy(
        update={"brier": [9.0, 3.0, 0.31, 0.29], "brier_se": [0.1, 0.1, 0.1, 0.1]}
    )
    record.final = record.final.model_copy(update={"brier": brier})
    records.write_record(run, record)
    row = load_runs(tmp_path, ["s"]).runs.iloc[0]
    assert row["weak_orders"] == "4"  # within three of its errors; order 3 is just outside
    assert pd.isna(row["brierlm_high"])


def test_overlap_and_bottleneck_are_kept_where_they_were_recorded(table: RunTable, tmp_path: Path) -> None:
    row = table.runs.iloc[0]
    assert (row["overlap_token_share"], row["overlap_longest_tokens"]) == (0.004, 63)
    panel = table.bottlenecks[table.bottlenecks["run_id"] == "trial-004"]
    assert panel["order"].tolist() == [1, 2]  # K = 2
    assert panel["autoencoder_brier"].tolist() == pytest.approx([99.9, 99.7])
    assert table.panels["trial-004"].latent_dim == 32
    assert not table.bottlenecks["run_id"].str.startswith("baseline").any()
    make_run_folder(tmp_path / "s" / "old", num_points=2)
    old = load_runs(tmp_path, ["s"])
    assert pd.isna(old.runs["overlap_token_share"].iloc[0])
    assert (len(old.bottlenecks), old.panels) == (0, {})


def test_autoencoders_once_each_however_many_runs_share_them(table: RunTable) -> None:
    rows = table.autoencoders[(table.autoencoders["K"] == 1) & (table.autoencoders["latent_dim"] == 8)]
    assert rows["noise"].tolist() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert rows["num_runs"].tolist() == [2] * 6
    kl = table.kl_per_dim[table.kl_per_dim["hash"] == rows["hash"].iloc[0]]
    assert kl["dimension"].tolist() == list(range(8))


def test_a_final_that_is_missing_among_the_lines_still_counts(tmp_path: Path) -> None:
    run = make_run_folder(tmp_path / "s" / "a", num_points=2)
    rows = files.read_json_lines(run / records.EVALUATIONS)
    files.rewrite_json_lines(run / records.EVALUATIONS, rows[:-1])
    assert len(load_runs(tmp_path, ["s"]).evaluations) == len(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (records.RECORD, "{"),
        (records.RECORD, '{"run_id": 3}'),
        (records.CONFIG, "- a\n- b\n"),
        (records.CONFIG, None),
        (records.CONFIG, "a: [\n"),
        (records.EVALUATIONS, "not json\n"),
        (records.AUTOENCODER, "{}"),
        (records.RECORD, None),
    ],
)
def test_a_broken_folder_is_left_out_and_named(tmp_path: Path, name: str, content: str | None) -> None:
    make_run_folder(tmp_path / "s" / "good", num_points=2)
    bad = make_run_folder(tmp_path / "s" / "bad", num_points=2)
    if content is None:
        (bad / name).unlink()
    else:
        (bad / name).write_text(content)
    table = load_runs(tmp_path, ["s"])
    assert table.runs["run_id"].tolist() == ["good"]
    assert any("s/bad was left out" in warning for warning in table.warnings)


def test_a_broken_summary_is_a_warning(tmp_path: Path) -> None:
    write_study_files(tmp_path / "s")
    (tmp_path / "s" / "summary.json").write_text("{")
    table = load_runs(tmp_path)
    assert table.runs.empty
    assert any("s/summary.json cannot be read" in warning for warning in table.warnings)
    assert table.studies["s"].parameters[0] == "model.chunk_size"


def test_unknown_and_missing_studies(tmp_path: Path, home: Path) -> None:
    with pytest.raises(StudyError, match=r"no study 'jiont'.*known: joint-quick"):
        load_runs(home, ["jiont"])
    with pytest.raises(StudyError, match="no study under"):
        load_runs(tmp_path / "nowhere")
    make_run_folder(tmp_path / "single" / "a", num_points=2)
    with pytest.raises(
        StudyError, match=rf"calm report single --home {tmp_path}`\).*calm study run NAME --home {tmp_path}"
    ):
        load_runs(tmp_path)
    assert len(load_runs(tmp_path, ["single"]).runs) == 1


def test_caches_and_databases_are_not_studies(tmp_path: Path, home: Path) -> None:
    shutil.copytree(home / "joint-quick", tmp_path / "a")
    (tmp_path / ".cache" / "x").mkdir(parents=True)
    (tmp_path / ".cache" / "x" / "record.json").write_text("{}")
    (tmp_path / "mlartifacts" / "0").mkdir(parents=True)
    assert known_studies(tmp_path) == ["a"]


def test_a_launch_is_found_by_its_studys_name_where_that_has_one(tmp_path: Path) -> None:
    for name in ("joint-quick", "quick-joint"):
        write_study_files(tmp_path / name)
        assert choose_studies(tmp_path, [name, name]) == [name]
        if name == "joint-quick":
            assert choose_studies(tmp_path, ["joint", "joint-quick"]) == ["joint-quick"]
            assert load_runs(tmp_path, ["joint"]).studies.keys() == {"joint-quick"}
            with pytest.raises(
                StudyError, match=r"no study 'joit' under .*; did you mean joint\? known: joint-quick;"
            ):
                choose_studies(tmp_path, ["joit"])
    with pytest.raises(StudyError, match=r"joint has several launches in .*: joint-quick, quick-joint; name one"):
        choose_studies(tmp_path, ["joint"])
    (tmp_path / "quick-joint" / "study.json").write_text("{")  # one that is damaged is no reason to refuse another
    assert choose_studies(tmp_path, ["joint"]) == ["joint-quick"]

"""``calm plan`` on run folders made by a known law, with the costs of real configurations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.table import load_runs
from tests.suites.command_line import Command
from tests.suites.synthetic_scaling import make_scaling_study


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    make_scaling_study(folder / "runs", widths=(48, 80, 128), chunks=(1, 2), budgets=(9e11, 2.7e12, 8.1e12))
    return folder


@pytest.fixture
def calm(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(made, monkeypatch, capsys)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_a_recommendation_in_words(calm: Command) -> None:
    done = calm("plan", "--flops", "8e12", "scaling-made")
    assert done.code == 0, done.err
    for words in ("K = 1", "K = 2", "token baseline", "best in", "With 8.00×10¹² training FLOPs: K = ", "steps ="):
        assert words in done.out
    assert "16 for each of the K tokens" in done.out
    assert "costs" not in done.out  # the shape is made from the study's own configuration: same cost


@pytest.mark.slow
def test_everything_as_json(calm: Command) -> None:
    done = calm("plan", "--flops", "8e13", "--json")
    assert done.code == 0, done.err
    tree = json.loads(done.out)
    best, others = tree["recommended"], tree["alternatives"]
    assert sum(c["probability"] for c in (best, *others)) == pytest.approx(1.0)
    shape = best["shape"]
    assert shape["tokens"] * shape["flops_per_token"] == pytest.approx(8e13, rel=0.01)
    assert shape["flops_per_token"] == pytest.approx(best["flops_per_token"], rel=0.25)
    assert shape["reference"] == ""
    assert any("decades above the trained budgets" in line for line in tree["warnings"])


@pytest.mark.slow
def test_limits_from_the_command_line(calm: Command) -> None:
    done = calm("plan", "--flops", "8e12", "--inference-flops-per-token", "6e5", "--with-autoencoder", "--json")
    assert done.code == 0, done.err
    tree = json.loads(done.out)
    assert tree["limits"] == {"infer_flops_per_token": 6e5, "with_autoencoder": True}
    best = tree["recommended"]
    assert best["infer_flops_per_token"] <= 6e5 * (1 + 1e-9)
    assert best["tokens"]["value"] * best["flops_per_token"] == pytest.approx(8e12 - 4e11, rel=1e-6)


@pytest.mark.slow
def test_a_table_of_anybody(calm: Command, made: Path, tmp_path: Path) -> None:
    frame = load_runs(made / "runs").evaluations
    columns = ["run_id", "kind", "K", "head", "seed", "tokens", "train_flops", "infer_flops_per_token"]
    columns += ["model_parameters", "phase", "latent_dim", "brierlm", "brierlm_se"]
    frame[columns].assign(model=frame["run_id"]).to_csv(tmp_path / "runs.csv", index=False)
    alone = calm("plan", "--flops", "8e12", "--data", tmp_path / "runs.csv", "--json")
    assert alone.code == 0, alone.err
    own = calm("plan", "--flops", "8e12", "scaling-made", "--json")
    one, other = json.loads(alone.out), json.loads(own.out)
    assert one["recommended"]["family"] == other["recommended"]["family"]
    assert one["recommended"]["score"]["value"] == pytest.approx(other["recommended"]["score"]["value"], rel=0.01)
    assert one["recommended"]["shape"]["reference"] == "tuned-calm"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--flops", "-3"], "--flops wants a number of FLOPs above 0, -3 given"),
        (["--flops", "1e12", "--inference-flops-per-token", "0"], "--inference-flops-per-token wants"),
        (["--flops", "1e12", "--inference-flops-per-token", "3"], "no size of any K keeps to 3 inference FLOPs"),
        (["--flops", "1e12", "other"], "no study 'other'"),
    ],
)
def test_what_cannot_be_answered(calm: Command, arguments: list[str], words: str) -> None:
    done = calm("plan", *arguments)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_no_studies(empty: Command) -> None:
    done = empty("plan", "--flops", "1e12")
    assert done.code == 2
    assert "no study" in done.err


def test_a_study_with_too_little(empty: Command) -> None:
    make_scaling_study(empty.folder / "runs", widths=(48,), chunks=(2,), budgets=(9e11, 2.7e12), baseline=False)
    done = empty("plan", "--flops", "1e12")
    assert done.code == 2
    assert "at least two model sizes" in done.err
    assert "calm study run scaling" in done.err


def test_a_study_that_learnt_nothing(empty: Command) -> None:
    make_scaling_study(empty.folder / "runs", widths=(48, 80), chunks=(2,), budgets=(9e11, 2.7e12), brierlm=0.0)
    done = empty("plan", "--flops", "1e12")
    assert done.code == 2
    assert "there are none" in done.err
    assert "0 or only a bound" in done.err

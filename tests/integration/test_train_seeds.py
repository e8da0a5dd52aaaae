"""``calm train --seeds n``: one run folder a seed, nothing repeated, what is printed, a seed that diverges."""

from __future__ import annotations

import io
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from tests.suites.run_folders import make_run_folder
from tests.suites.tiny_runs import traces, tree, write_text
from workbench import records
from workbench.bottleneck_words import lost
from workbench.cli.run import _print_seeds
from workbench.errors import NotFiniteError
from workbench.records import RunRecord
from workbench.train import Trainer

Done = tuple[int, str, str]
"""Exit code, output, errors."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a text and ``tiny.yaml``, whose seed is 5: an offset that is forgotten shows."""
    folder = tmp_path_factory.mktemp("seeds")
    content = {**tree(write_text(folder / "text.txt")), "seed": 5}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


@pytest.fixture
def train(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """``calm train tiny.yaml ...`` in this process, as the entry point does."""

    def run(*arguments: str, tracked: bool = False) -> Done:
        from workbench.cli import main

        untracked = () if tracked else ("--tracking-uri", "none")
        monkeypatch.setattr(sys, "argv", ["calm", "train", str(folder / "tiny.yaml"), *untracked, *arguments])
        monkeypatch.setenv("CALM_HOME", str(folder / "runs"))
        monkeypatch.setenv("COLUMNS", "300")
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return int(code or 0), captured.out, captured.err

    return run


def folders(folder: Path, name: str) -> dict[int, Path]:
    """Seed to run folder."""
    found = [p.parent for p in (folder / "runs" / "single").glob(f"{name}-*/record.json")]
    assert len({p.name for p in found}) == len(found)
    return {records.read_record(p).seed: p for p in found}


@pytest.fixture
def pair(train: Any, folder: Path) -> dict[int, Path]:
    """Seeds 5 and 6, trained without a disturbance, once: whichever test asks first finds what training prints."""
    assert train("--name", "pair", "--seeds", "2")[0] == 0
    return folders(folder, "pair")


def fail_at(monkeypatch: pytest.MonkeyPatch, seed: int, error: BaseException) -> None:
    """Raise ``error`` in the tenth step of the run with ``seed``."""
    real = Trainer._step

    def step(self: Trainer, tokens: Any, number: int) -> Any:
        if self.config.seed == seed and number == 9:
            raise error
        return real(self, tokens, number)

    monkeypatch.setattr(Trainer, "_step", step)


@pytest.mark.slow
def test_one_run_a_seed_and_their_mean_and_scatter(train: Any, folder: Path) -> None:
    code, out, err = train("--name", "shown", "--seeds", "2")
    assert code == 0, err
    runs = folders(folder, "shown")
    assert sorted(runs) == [5, 6]
    made = [records.read_record(runs[seed]) for seed in (5, 6)]
    assert [r.status for r in made] == ["completed"] * 2
    assert [r.name for r in made] == ["shown s5", "shown s6"]
    scores = [r.final.brier.brierlm for r in made if r.final is not None]
    weights = {(runs[seed] / records.CHECKPOINT / "model.safetensors").read_bytes() for seed in runs}
    assert len(weights) == 2, "equal weights: one seed was trained twice"
    autoencoders = [records.read_autoencoder_report(run) for run in runs.values()]
    assert len({a.hash for a in autoencoders if a is not None}) == 1, "the seed is the language model's"
    for number, seed in enumerate((5, 6), start=1):
        assert f"seed {seed}: run {number} of 2, folder {runs[seed]}" in out
        assert f"seed {seed}: training 24/24" in out
        assert f"seed {seed}: step 24" in out
    assert f"mean BrierLM of 2 completed seed(s): {statistics.mean(scores):.2f}" in out
    assert f"standard deviation between seeds: {statistics.stdev(scores):.2f};" in out


@pytest.mark.slow
def test_one_seed_is_as_without_the_option(train: Any, folder: Path) -> None:
    code, out, _ = train("--name", "single", "--seeds", "1")
    assert code == 0
    (run,) = folders(folder, "single").values()
    assert records.read_record(run).name == "single"
    for word in ("Brier-4 %", "tokens/s", "inference FLOPs/token"):
        assert word in out
    record = records.read_record(run)
    assert record.bottleneck is not None
    for label, value in lost(record.bottleneck)[:4]:
        assert label in out
        assert value in out
    assert record.overlap is not None
    assert f"{record.overlap.token_share:.2%} of the evaluated tokens" in out
    assert "seed 5" not in out
    code, out, _ = train("--name", "single", "--json")
    assert RunRecord.model_validate_json(out) == records.read_record(run)


@pytest.mark.slow
def test_finished_seeds_are_not_repeated(train: Any, folder: Path) -> None:
    """A single run counts as its seed's, and more seeds only add to those that are there."""
    train("--name", "more")
    (first,) = folders(folder, "more").values()
    before = traces(first), (first / records.RECORD).read_bytes()
    code, out, _ = train("--name", "more", "--seeds", "2")
    assert code == 0
    assert sorted(folders(folder, "more")) == [5, 6]
    assert "seed 5: training" not in out
    assert "seed 6: training 24/24" in out
    assert (traces(first), (first / records.RECORD).read_bytes()) == before


@pytest.mark.slow
def test_json_is_a_list_of_the_records_and_nothing_else(train: Any, pair: dict[int, Path]) -> None:
    code, out, err = train("--name", "pair", "--seeds", "2", "--json")
    assert code == 0
    found = [RunRecord.model_validate(item) for item in json.loads(out)]
    assert found == [records.read_record(pair[seed]) for seed in (5, 6)]
    assert "seed 6: run 2 of 2" in err


@pytest.mark.slow
def test_an_interruption_is_continued_where_it_was(
    train: Any, folder: Path, pair: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_at(patch, 6, KeyboardInterrupt())
        code, _, err = train("--name", "broken", "--seeds", "2")
    assert code == 130
    assert "interrupted; the same command continues" in err
    statuses = {seed: records.read_record(run).status for seed, run in folders(folder, "broken").items()}
    assert statuses == {5: "completed", 6: "interrupted"}
    first = traces(folders(folder, "broken")[5])
    assert train("--name", "broken", "--seeds", "2")[0] == 0
    broken = folders(folder, "broken")
    assert sorted(broken) == [5, 6]
    assert traces(broken[5]) == first
    assert traces(broken[6]) == traces(pair[6])


@pytest.mark.slow
def test_a_seed_that_diverges_does_not_stop_the_others(
    train: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown, left out of the mean, and the exit code tells."""
    with monkeypatch.context() as patch:
        fail_at(patch, 6, NotFiniteError("loss is nan at step 10"))
        code, out, _ = train("--name", "nan", "--seeds", "3")
    assert code == 1
    made = {seed: records.read_record(run) for seed, run in folders(folder, "nan").items()}
    assert {seed: r.status for seed, r in made.items()} == {5: "completed", 6: "not_finite", 7: "completed"}
    assert "not_finite: loss is nan at step 10" in out
    scores = [made[seed].final.brier.brierlm for seed in (5, 7)]
    assert f"mean BrierLM of 2 completed seed(s): {statistics.mean(scores):.2f}" in out
    code, out, _ = train("--name", "nan", "--seeds", "3", "--json")  # finished: still told
    assert code == 1
    assert [item["status"] for item in json.loads(out)] == ["completed", "not_finite", "completed"]


@pytest.mark.slow
def test_every_seed_is_tracked_by_one_tracker(train: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finals: list[Path] = []
    closed: list[bool] = []

    class Recorder:
        def deliver(self, run_dir: Path, *, parent: str | None = None, final: bool = False) -> None:
            if final:
                finals.append(run_dir)

        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr("workbench.tracking.open_tracker", lambda uri, **given: Recorder())
    monkeypatch.setattr("workbench.tracking_sync.deliver_left_aside", lambda *_: None)
    assert train("--name", "tracked", "--seeds", "2", tracked=True)[0] == 0
    runs = folders(folder, "tracked")
    assert finals == [runs[5], runs[6]]
    assert closed == [True]


def test_a_dry_run_says_what_all_seeds_cost(train: Any, folder: Path) -> None:
    one = json.loads(train("--dry-run", "--json")[1])
    code, out, _ = train("--dry-run", "--json", "--seeds", "3")
    three = json.loads(out)
    assert code == 0
    assert "seeds" not in one
    assert three["train_flops"] == one["train_flops"]
    assert three["train_flops_all_seeds"] == pytest.approx(3 * one["train_flops"])
    assert three["estimated_training_seconds_all_seeds"] == pytest.approx(3 * three["estimated_training_seconds"])
    assert "train flops all seeds" in train("--dry-run", "--seeds", "3")[1]


@pytest.mark.parametrize("seeds", ["0", "-1", "two"])
def test_a_count_that_is_none_is_refused(train: Any, folder: Path, seeds: str) -> None:
    code, _, err = train("--name", "refused", "--seeds", seeds)
    assert code == 2
    assert "--seeds" in err
    assert folders(folder, "refused") == {}


class TestSummary:
    def printed(self, tmp_path: Path, *changes: dict[str, Any]) -> str:
        made, run_dirs = [], []
        for seed, change in enumerate(changes):
            run_dir = make_run_folder(tmp_path / f"run-{seed}", seed=seed, brierlm=2.0 + seed)
            record = records.read_record(run_dir)
            assert record.final is not None
            brier = record.final.brier.model_copy(update=change.pop("brier", {}))
            final = record.final.model_copy(update={"brier": brier})
            made.append(record.model_copy(update={"final": final, "name": f"pair s{seed}", **change}))
            run_dirs.append(run_dir)
        console = Console(file=io.StringIO(), width=200)
        _print_seeds(console, made, run_dirs)
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]

    def test_mean_and_standard_deviation_by_hand(self, tmp_path: Path) -> None:
        """Of 1, 2 and 6: mean 3, standard deviation sqrt((4 + 1 + 9) / 2) = 2.65; 2.16 would divide by n."""
        changes = [{"brier": {"brierlm": value, "brierlm_se": 0.125}} for value in (1.0, 2.0, 6.0)]
        text = self.printed(tmp_path, *changes)
        assert "6.00 ± 0.12" in text
        assert "pair s2" in text, "what calm sample takes"
        assert "mean BrierLM of 3 completed seed(s): 3.00; standard deviation between seeds: 2.65;" in text

    def test_a_score_that_cannot_be_told_from_0_is_an_interval(self, tmp_path: Path) -> None:
        weak = {"brierlm": 0.4, "weak_orders": [4], "brierlm_low": 0.0, "brierlm_high": 1.3}
        text = self.printed(tmp_path, {"brier": weak}, {})
        assert "[0, 1.30]" in text
        assert "0.40 ±" not in text

    def test_one_completed_seed_has_no_scatter_and_none_no_mean(self, tmp_path: Path) -> None:
        failed = {"status": "not_finite", "reason": "loss is nan [at] step 3"}
        text = self.printed(tmp_path / "a", {}, dict(failed))
        assert "mean BrierLM of 1 completed seed(s): " in text
        assert "between seeds: not known from one run" in text
        assert "loss is nan [at] step 3" in text
        text = self.printed(tmp_path / "b", {**failed, "final": None})
        assert "no seed completed, so there is no mean" in text

    def test_diagnostics_are_shown_with_their_seed(self, tmp_path: Path) -> None:
        found = [records.Diagnostic(code="collapse", message="3 of 8 dimensions [collapsed]")]
        text = self.printed(tmp_path, {"diagnostics": []}, {"diagnostics": found})
        assert "seed 1: collapse: 3 of 8 dimensions [collapsed]" in text

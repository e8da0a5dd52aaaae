"""How a study ends in which something failed: exit code 1 where nothing completed, else 0 with a warning."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from studies import prepare, progress
from studies import worker as worker_process
from studies.display import ending_text
from studies.status import status, status_lines
from studies.storage import Launch
from tests.suites import fake_runner
from tests.suites.cells_only import CELLS
from tests.suites.study_launch import FAKE, create, invoke, steps, tiny_spec
from workbench.home import Home

GRID = {
    "space": {"model.chunk_size": {"choices": [2, 4]}},
    "sampler": {"kind": "grid"},
    "trials": 2,
    "baselines": {},
}
WHY = "RuntimeError: a failure for the test"


def ended(folder: Path, **preset: Any) -> Launch:
    launch = create(folder, tiny_spec(**preset))
    prepare.write_study_file(launch, "none")
    steps(launch)
    return launch


def run_again(launch: Launch, *, command: str = "run") -> Result:
    given = ["--home", str(launch.home.root), "--tracking-uri", "none", "--execute", FAKE]
    return invoke("study", command, launch.name, *given)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "failing", "said"),
    [
        (GRID, "t0", "none of the 2 trials of tiny-quick completed (2 failed, 0 were pruned)"),
        ({"trials": 2}, "t0", "none of the 2 trials of tiny-quick completed (2 failed, 0 were pruned)"),
        (CELLS, "-s0", "none of the 2 cells of tiny-quick completed (2 failed)"),
    ],
)  # fmt: skip
def test_a_study_in_which_nothing_completed_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: dict[str, Any], failing: str, said: str
) -> None:
    """A search that failed has no answer, whatever becomes of its baselines."""
    monkeypatch.setenv("FAKE_FAIL", failing)
    launch = ended(tmp_path, **preset)
    result, where = run_again(launch), f"--home {launch.home.root}"
    assert result.exit_code == 1
    line = next(line for line in result.stderr.splitlines() if line.startswith("calm: "))
    assert line == (
        f"calm: {said}, most often (2 times): {WHY}; all of them: calm study status tiny-quick "
        f"{where}; the failed ones again, when it is mended: calm study retry tiny-quick {where}"
    )


def test_one_with_an_answer_ends_well_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL", "small")
    launch = ended(tmp_path, trials=1, checks={})
    result = run_again(launch)
    assert result.exit_code == 0
    warning = f"warning: 1 of 3 trials and cells of tiny-quick failed, most often (once): {WHY}; all of them:"
    assert warning in result.output
    assert "calm study retry tiny-quick" in result.output


@pytest.mark.filterwarnings("error:Heartbeat of storage")  # Optuna's, of trials that nothing keeps alive
def test_without_a_failure_nothing_is_said(tmp_path: Path) -> None:
    launch = ended(tmp_path, **CELLS)
    assert ending_text(launch.name, progress.snapshot(launch), launch.home) == ""
    assert "warning" not in run_again(launch).output


def test_bad_numbers_alone_are_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruned, so that there is nothing for ``retry``."""
    real = fake_runner.execute

    def diverges(config: Any, run_dir: Path, **options: Any) -> Any:
        record = real(config, run_dir, **options)
        return record.model_copy(update={"status": "diverged", "reason": "diverged at step 40"})

    monkeypatch.setattr(fake_runner, "execute", diverges)
    launch = ended(tmp_path, trials=2, baselines={})
    result = run_again(launch)
    assert result.exit_code == 1
    said = "(0 failed, 2 were pruned), most often (2 times): diverged at step 40; all of them: calm study status"
    assert said in result.stderr
    assert "retry" not in result.output
    assert progress.write_summary(launch)["in_vain"]
    told = [text for text in status_lines(status(launch)) if text.startswith("pruned: trial")]
    assert [text.endswith(": diverged at step 40") for text in told] == [True, True]


def test_the_commonest_reason_is_told_whatever_the_runs_are_called() -> None:
    rows = [
        progress.TrialRow(f"trial {i}", "fail", None, "", 1.0, run, reason)
        for i, (run, reason) in enumerate(
            [("t0", "no heap"), ("t1", "t1: no room; free 3 GB"), ("t2", "t2: no room; free 2 GB"), ("t3", "")]
        )
    ]
    none = progress.Counts(complete=0, pruned=0, running=0, waiting=0, failed=4)
    state = progress.Snapshot(4, none, 0, none, tuple(rows), None, None, finished=True)
    assert "most often (2 times): t1: no room; free 3 GB; all of them" in ending_text(
        "x", state, Home(Path("runs"))
    )


@pytest.mark.slow
@pytest.mark.parametrize(("failing", "code"), [("-s0", 1), ("small", 0)])
def test_a_worker_that_joined_by_itself_ends_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, code: int
) -> None:
    """One of a launcher leaves it to that, which takes 1 for a crash."""
    monkeypatch.setenv("FAKE_FAIL", failing)
    launch = ended(tmp_path, **CELLS)
    given = ["--home", str(tmp_path), "--launch", launch.name, "--tracking-uri", "none", "--execute", FAKE]
    monkeypatch.setattr(worker_process.logging, "basicConfig", lambda **_: sys.stderr)
    assert worker_process.main(given) == code
    monkeypatch.setattr(worker_process.Stop, "follow_parent", lambda self: None)
    monkeypatch.setattr(worker_process.Stop, "__call__", lambda self: False)
    assert worker_process.main([*given, "--parent", "1"]) == 0

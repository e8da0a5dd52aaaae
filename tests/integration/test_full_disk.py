"""No room at any moment: one message, nothing corrupted, and with room again the result of an undisturbed run."""

from __future__ import annotations

import json
import os
import pkgutil
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.suites.run_folders import make_run_folder
from tests.suites.small_disk import SmallDisk, small_disk
from tests.suites.study_launch import create, steps, tiny_spec, worker
from tests.suites.tiny_runs import leftovers, tiny_config, traces
from workbench import files, records
from workbench.cli import app
from workbench.errors import OutputError
from workbench.home import open_home
from workbench.released.export import export_released
from workbench.runner import execute


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as made:
        if made is None:
            pytest.skip("this user may not mount a file system; test_a_limit_of_file_size needs none")
        yield made


def before(monkeypatch: pytest.MonkeyPatch, where: str, action: Callable[[], None], call: int = 1) -> None:
    """Do ``action`` at the beginning of the given call of a function."""
    owner, _, name = where.rpartition(".")
    target: Any = pkgutil.resolve_name(owner)
    real, calls = getattr(target, name), [0]

    def replaced(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            action()
        return real(*args, **kwargs)

    monkeypatch.setattr(target, name, replaced)


MOMENTS = {
    "preparing the text": ("workbench.build.prepare", 1),
    "the autoencoder's weights": ("workbench.train_autoencoder.evaluate_autoencoder", 1),
    "a step": ("workbench.train.Trainer._advance", 11),
    "an evaluation": ("workbench.runner.evaluate", 2),
    "the end": ("workbench.runner.bottleneck", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run(disk: SmallDisk, whole: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    config, home = tiny_config(disk.path, {"train.checkpoint_every_seconds": 0.001})
    undisturbed, _ = tiny_config(whole, {"train.checkpoint_every_seconds": 0.001})
    where, call = MOMENTS[moment]
    run_dir = home.root / "run"
    with monkeypatch.context() as patch:
        before(patch, where, disk.fill, call)
        with pytest.raises(
            OutputError, match="no room left on its disk; free some, then the same command continues"
        ):
            execute(config, run_dir, home=home)
    for record in run_dir.glob(records.RECORD):
        assert json.loads(record.read_text())["status"] in ("interrupted", "running")
    disk.free()
    assert execute(config, run_dir, home=home).status == "completed"
    if not (whole / "runs" / "undisturbed").exists():
        execute(undisturbed, whole / "runs" / "undisturbed", home=open_home(whole / "runs"))
    assert traces(run_dir) == traces(whole / "runs" / "undisturbed")
    assert leftovers(run_dir) == []


def test_a_run_is_refused_where_it_will_not_fit(disk: SmallDisk) -> None:
    config, home = tiny_config(disk.path)
    disk.fill(left=500_000)
    with pytest.raises(
        OutputError, match=r"the run needs about \d+\.\d MB in .*, \d+ kB are free; free some or choose"
    ):
        execute(config, home.root / "run", home=home)
    assert not (home.root / "run").exists()


@pytest.mark.slow
def test_a_study_ends_with_one_message_and_goes_on(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    from studies import plan
    from studies.worker import work

    launch = create(disk.path / "runs", tiny_spec(trials=3, checks={}))
    with monkeypatch.context() as patch:
        before(patch, "tests.suites.fake_runner.evaluation", disk.fill, 6)
        this = worker(launch)
        this.identity = {**this.identity, "ticks": 1}  # by then its process is gone
        with pytest.raises(OutputError, match="no room left on its disk"):
            work(this, lambda: False)
    disk.free()
    launch.search.set_user_attr("abort", "")
    assert steps(launch)[-1] == "done"
    assert plan.is_finished(launch.spec, launch.search, launch.cells)
    counts = plan.count(launch.search.get_trials(deepcopy=False))
    assert (counts.complete, counts.failed) == (3, 0)
    for run_dir in records.find_runs(launch.folder):
        assert records.read_record(run_dir).status == "completed"
        assert [e.step for e in records.read_evaluations(run_dir)] == [10, 20, 30, 40]


@pytest.mark.slow
def test_a_report_is_whole_or_not_there(disk: SmallDisk, tmp_path: Path) -> None:
    from analysis.report import write_reports

    home = tmp_path / "home"
    make_run_folder(home / "s" / "r1", study="s", plots=False, num_points=2, num_windows=None)
    files.write_json(home / "s" / "study.json", {"name": "s", "question": "?", "against": "-"})
    disk.fill(left=20_000)
    with pytest.raises(OutputError):
        write_reports(home, ["s"], disk.path / "out")
    assert [path.name for path in disk.path.iterdir()] == ["filler"]


@pytest.mark.slow
def test_an_export_is_whole_or_not_there(disk: SmallDisk, whole: Path) -> None:
    disk.fill(left=100_000)
    with pytest.raises(OutputError, match=r"cannot write .*/out: no room left on its disk"):
        export_released(whole / "runs" / "whole", disk.path / "out")
    assert [path.name for path in disk.path.iterdir()] == ["filler"]


@pytest.mark.slow
def test_an_export_under_a_limit_of_file_size(whole: Path, tmp_path: Path) -> None:
    """Needs no rights."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)  # Python ignores the signal that goes with it
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*/out: the file would be larger than is allowed"):
            export_released(whole / "runs" / "whole", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_tracking_database_is_not_left_half_made(disk: SmallDisk) -> None:
    from workbench.tracking import open_tracker

    home = open_home(disk.path)
    disk.fill(left=200_000)
    with pytest.raises(OutputError, match=r"mlflow.db: no room left on its disk"):
        open_tracker(None, experiment="x", home=home)
    assert not (disk.path / "mlflow.db").exists()
    disk.free()
    open_tracker(None, experiment="x", home=home).close()


def test_a_read_only_home(disk: SmallDisk) -> None:
    disk.read_only()
    try:
        with pytest.raises(OutputError, match="its file system is read-only; choose another folder"):
            open_home(disk.path / "runs")
    finally:
        disk.read_only(False)


@pytest.mark.slow
def test_runs_of_a_read_only_home_can_be_compared(disk: SmallDisk, whole: Path) -> None:
    shutil.copytree(whole / "runs" / "whole", disk.path / "runs" / "whole")
    config, home = tiny_config(whole, {"train.train_tokens": 256})
    execute(config, disk.path / "runs" / "other", home=home)
    disk.read_only()
    try:
        asked = ["compare", "whole", "other", "--no-seeds", "--home", str(disk.path / "runs")]
        done = CliRunner().invoke(app, asked)
    finally:
        disk.read_only(False)
    assert done.exit_code == 0, done.output
    assert "train.train_tokens" in done.output


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
from pathlib import Path
from tests.suites.tiny_runs import tiny_config
from workbench.errors import OutputError
from workbench.runner import execute
config, home = tiny_config(Path(sys.argv[1]))
try:
    execute(config, home.root / "run", home=home)
except OutputError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "what"), [(100_000, "autoencoders"), (200_000, "checkpoint")])
def test_a_limit_of_file_size(whole: Path, tmp_path: Path, limit: int, what: str) -> None:
    """Stands in for a quota; needs no rights."""
    config, home = tiny_config(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "the file would be larger than is allowed; raise the limit" in done.stdout
    assert what in done.stdout
    assert records.read_record(home.root / "run").status == "interrupted"
    assert execute(config, home.root / "run", home=home).status == "completed"
    assert traces(home.root / "run") == traces(whole / "runs" / "whole")

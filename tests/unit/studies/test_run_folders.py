"""After a study's database has fallen back: whose folder is whose."""

import shutil

import pytest
import yaml
from optuna.trial import TrialState

from analysis.api import table
from studies import prepare, recovery, run_folders, space
from studies.worker import run_trial, take
from tests.suites import fake_runner
from tests.suites.study_launch import create, steps, tiny_spec, worker
from workbench import files, records
from workbench.config_file import stored_config
from workbench.errors import RunError

K = {"model.chunk_size": {"choices": [1, 2, 4]}}
REST = 0.25
"""What the fake runner gives for the base's latent dimension and floor, on top of 2, 4 or 3 for K = 1, 2 or 4."""


def spec_of(order, **preset):
    """A search that tries these chunk sizes, in this order."""
    start = [{"model.chunk_size": k} for k in order]
    return tiny_spec(**{"space": K, "baselines": {}, "checks": {}, "trials": len(order), "start": start, **preset})


def fallen_back(home, order, **preset):
    """The launch of a database in which no trial is known, over the folders of one in which all were."""
    for path in home.glob("optuna.db*"):
        path.unlink()
    return create(home, spec_of(order, **preset))


def settings_of_runs(launch):
    return {p.name: stored_config(p / records.CONFIG).chunk_size for p in records.find_runs(launch.folder)}


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_no_trial_takes_the_result_of_another_setting(tmp_path, caplog):
    first = create(tmp_path, spec_of([1, 2, 4]))
    prepare.write_study_file(first, "none")
    steps(first)
    assert settings_of_runs(first) == {"t000-s0": 1, "t001-s0": 2, "t002-s0": 4}
    before = content(first.folder / "t000-s0") | content(first.folder / "t001-s0")
    launch = fallen_back(tmp_path, [2, 1, 4])
    steps(launch)
    trials = launch.search.get_trials()
    assert [t.user_attrs["runs"] for t in trials] == [["t000-s0-2"], ["t001-s0-2"], ["t002-s0"]]
    assert [t.value for t in trials] == [4.0 + REST, 2.0 + REST, 3.0 + REST]
    assert len(files.read_json_lines(launch.folder / "t002-s0" / fake_runner.ATTEMPTS)) == 1  # found finished
    assert content(first.folder / "t000-s0") | content(first.folder / "t001-s0") == before
    told = [r.getMessage() for r in caplog.records if r.name == "studies.run_folders"]
    assert len(told) == 2
    assert "t000-s0 holds a run of other settings (model.chunk_size 1, asked 2)" in told[0]

    again = fallen_back(tmp_path, [4, 2, 1])
    steps(again)
    runs = [t.user_attrs["runs"] for t in again.search.get_trials()]
    assert runs == [["t000-s0-3"], ["t001-s0"], ["t002-s0-2"]]

    rows = table("tiny-quick", home=tmp_path).runs
    assert sorted(zip(rows["run_id"], rows["K"], strict=True)) == sorted(settings_of_runs(again).items())
    assert set(rows["role"]) == {"trial"}


@pytest.mark.slow
def test_a_check_of_another_best_setting_gets_its_own_folder(tmp_path):
    checks = {"lr_factors": [2.0]}
    steps(create(tmp_path, spec_of([1], checks=checks)))
    launch = fallen_back(tmp_path, [2], checks=checks)
    steps(launch)
    (cell,) = launch.cells.get_trials()
    assert (cell.state, cell.user_attrs["runs"]) == (TrialState.COMPLETE, ["lr-x2-t000-s0-2"])
    assert settings_of_runs(launch)["lr-x2-t000-s0"] == 1
    assert settings_of_runs(launch)["lr-x2-t000-s0-2"] == 2


def test_a_folder_that_became_another_trials_later_is_refused(tmp_path):
    """It was free when the trial was given its name, as for a worker of the lost history that lived on."""
    launch = create(tmp_path, spec_of([1]))
    this = worker(launch)
    this.stopping = lambda: True
    with pytest.raises(KeyboardInterrupt):
        take(this)
    path = launch.folder / "t000-s0" / records.CONFIG
    tree = yaml.safe_load(path.read_text())
    tree["model"]["chunk_size"] = 4
    path.write_text(yaml.safe_dump(tree))
    before = content(path.parent)
    run_trial(worker(launch), "search", lambda: None)
    (failed,) = recovery.failed(launch.search)
    assert "holds a run of other settings (model.chunk_size 4, asked 1)" in failed.user_attrs["reason"]
    assert f"calm study retry tiny-quick --home {launch.home.root}" in failed.user_attrs["reason"]
    assert content(path.parent) == before
    shutil.move(path.parent, tmp_path / "elsewhere")
    assert prepare.retry(launch) == ["trial 0"]
    steps(launch)
    assert launch.search.get_trials()[-1].state == TrialState.COMPLETE


def test_what_another_machine_or_version_chose_is_no_other_setting(tmp_path):
    """A run that was begun there goes on with what was chosen there."""
    spec = spec_of([2], baselines={"small": {"model.backbone.num_layers": 1}}, checks={"lr_factors": [2.0]})
    config = space.suggest(_Fixed({"model.chunk_size": 2}), spec)
    begun = config.resolved(device="cuda:1", dtype="bfloat16", autoencoder_dtype="bfloat16", threads=7)
    files.write_atomic(tmp_path / "run" / records.CONFIG, begun.to_yaml())
    assert run_folders.require_own(tmp_path / "run", spec, config) == begun
    tree = yaml.safe_load(begun.to_yaml())
    del tree["train"]["stop_diverged"]  # of before it was there: false was done then, and is now said of that run
    files.write_atomic(tmp_path / "run" / records.CONFIG, yaml.safe_dump({**tree, "format": 0}))
    assert not run_folders.require_own(tmp_path / "run", spec, config).train.stop_diverged
    assert run_folders.free_run_id(tmp_path, "run", spec, config) == "run"
    for change in ({"seed": 1}, {"optim": config.optim.model_copy(update={"lr": 0.5})}):
        other = config.model_copy(update=change)
        assert run_folders.free_run_id(tmp_path, "run", spec, other) == "run-2"
        with pytest.raises(RunError, match="holds a run of other settings"):
            run_folders.require_own(tmp_path / "run", spec, other)


class _Fixed:
    def __init__(self, values):
        self.values = values

    def suggest_categorical(self, name, choices):
        return self.values[name]

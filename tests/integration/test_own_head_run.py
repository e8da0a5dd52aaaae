"""A whole run with a head from outside the package: recorded, loaded, scored, refused without it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from studies.objective import DEFAULT_RUNNER, load_runner
from studies.worker import Stop, work
from tests.suites.command_line import Command
from tests.suites.own_head import EXAMPLE, KIND, write_head
from tests.suites.study_launch import create, tiny_spec, worker
from tests.suites.tiny_runs import tiny_config, traces, tree, write_text
from workbench import checkpoint, files, own_heads, records, served_model, tracking_schema
from workbench.call_curve import call_curve
from workbench.errors import ConfigError, RunError
from workbench.evaluate import evaluation_grid
from workbench.initial import initial_run
from workbench.model import Calm
from workbench.runner import Identity, execute
from workbench.saved_runs import load_run

OVERRIDES: dict[str, Any] = {"model.head.kind": KIND, "model.head.num_components": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run ``mixture``."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(own_heads.VARIABLE, str(EXAMPLE))
        config, home = tiny_config(folder, OVERRIDES)
        execute(config, home.single_runs() / "mixture", home=home, identity=Identity(name="mixture"))
    return folder


@pytest.fixture(autouse=True)
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own_heads.VARIABLE, str(EXAMPLE))


@pytest.mark.slow
def test_the_record_names_the_head_and_its_code(folder: Path) -> None:
    record = records.read_record(folder / "runs" / "single" / "mixture")
    assert record.status == "completed"
    assert record.head == KIND
    own = record.environment["own_head"]
    assert own == {"kind": KIND, "source": EXAMPLE.name, "code_hash": own_heads.find(KIND).code_hash}
    assert record.final is not None
    assert record.final.network_calls == 1
    assert record.compute["head_train_flops"] > 0


@pytest.mark.slow
def test_equal_seeds_equal_runs(folder: Path) -> None:
    config, home = tiny_config(folder, OVERRIDES)
    execute(config, home.root / "again", home=home)
    assert traces(home.root / "again") == traces(home.single_runs() / "mixture")


@pytest.mark.slow
def test_it_is_loaded_and_scored_by_network_calls_under_its_own_name(folder: Path) -> None:
    config, home = tiny_config(folder, OVERRIDES)
    saved = load_run(home.single_runs() / "mixture", home)
    assert isinstance(saved.model, Calm)
    asked = config.model_copy(update={"eval": config.eval.model_copy(update={"network_calls": (1, 4)})})
    points = call_curve(
        saved.model, asked, evaluation_grid(asked.eval, saved.corpus), vocab=saved.corpus.vocab_size
    )
    assert [(point.solver, point.network_calls) for point in points] == [(KIND, 1)]


def test_without_the_head_it_is_refused_in_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(own_heads.VARIABLE, "")
    _, home = tiny_config(folder)
    with pytest.raises(RunError, match=rf"{KIND!r} given; a head of your own: offer it with calm --heads"):
        load_run(home.single_runs() / "mixture", home)
    calm = Command(folder, monkeypatch, capsys)
    for arguments in (["evaluate", "mixture"], ["sample", "mixture"]):
        done = calm(*arguments)
        assert done.code == 2
        assert f"one of energy, diffusion, flow is wanted, {KIND!r} given" in done.err
    offered = calm("--heads", EXAMPLE, "sample", "mixture", "--tokens", "8", "--prompt", "the king")
    assert (offered.code, offered.out[:8]) == (0, "the king")


@pytest.mark.parametrize(("field", "value", "there"), [("num_components", 5, 4), ("smallest_std", 0.1, 0.05)])
def test_weights_that_mean_something_else_are_no_beginning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: float, there: float
) -> None:
    """The workbench does not know which fields of the head say that, so all do but those of sampling."""
    going_on = {**OVERRIDES, "train.init_from": "mixture"}
    config, home = tiny_config(folder, going_on)
    assert initial_run(config, home) == home.single_runs() / "mixture"
    config, home = tiny_config(folder, {**going_on, f"model.head.{field}": value})
    with pytest.raises(ConfigError, match=rf"model.head.{field} is {value} here and {there} there"):
        initial_run(config, home)
    monkeypatch.setattr(own_heads.find(KIND).section, "sampling_fields", (field,))
    assert initial_run(config, home) == home.single_runs() / "mixture"


@pytest.mark.slow
def test_weights_trained_with_other_code_are_a_beginning_that_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    then = own_heads.find(KIND).code_hash
    config, home = tiny_config(folder, {**OVERRIDES, "train.init_from": "mixture", "train.train_tokens": 128})
    same = execute(config, home.root / "same", home=home)
    assert "other_head_code" not in [one.code for one in same.diagnostics]
    edited = tmp_path / EXAMPLE.name
    edited.write_text(EXAMPLE.read_text(encoding="utf-8") + "\nMORE = 1\n", encoding="utf-8")
    monkeypatch.setenv(own_heads.VARIABLE, str(edited))
    here = own_heads.find(KIND).code_hash
    (tmp_path / "on.yaml").write_text(config.to_yaml(), encoding="utf-8")
    calm = Command(folder, monkeypatch, capsys)
    for _ in range(2):  # the second time it is finished
        done = calm("train", tmp_path / "on.yaml", "--tracking-uri", "none")
        assert done.code == 0
        said = " ".join(done.out.replace("│", " ").split())
        codes = f"{EXAMPLE.name} with hash {then}, {EXAMPLE.name} here has {here}; "
        assert f"from which this run starts, were trained with other code of the head {KIND!r}: {codes}" in said


@pytest.mark.slow
def test_a_served_model_wants_the_code_that_it_was_trained_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, home = tiny_config(folder)
    run_dir = home.single_runs() / "mixture"
    saved = load_run(run_dir, home)
    served_model.export(saved, run_dir, tmp_path / "model")
    about = files.read_json(tmp_path / "model" / served_model.ABOUT)
    assert about["own_head"] == saved.record.environment["own_head"]
    assert len(served_model.load(tmp_path / "model").predict("the king", {"max_tokens": 8})) == 1
    edited = tmp_path / EXAMPLE.name
    edited.write_text(EXAMPLE.read_text().replace("(raw)", "(raw + 1)"))
    monkeypatch.setenv(own_heads.VARIABLE, str(edited))
    here, then = own_heads.find(KIND).code_hash, about["own_head"]["code_hash"]
    message = (
        rf"was trained with other code of the head {KIND!r}: {EXAMPLE.name} with hash {then}, .* has {here}; "
    )
    with pytest.raises(RunError, match=message):
        served_model.load(tmp_path / "model")
    with pytest.raises(RunError, match=message):
        served_model.export(load_run(run_dir, home), run_dir, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    monkeypatch.setenv(own_heads.VARIABLE, "")
    with pytest.raises(RunError, match="a head of your own: offer it with calm --heads"):
        served_model.load(tmp_path / "model")


def test_its_name_in_mlflow(folder: Path) -> None:
    config, _ = tiny_config(folder, OVERRIDES)
    assert tracking_schema.family(config.to_dict()["model"]) == f"K=4 {KIND}"


def test_one_that_breaks_the_contract_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_head(tmp_path / "mine.py", (".sum(-1)", ".mean()"))
    monkeypatch.setenv(own_heads.VARIABLE, "")
    config, home = tiny_config(tmp_path)
    (tmp_path / "tiny.yaml").write_text(config.to_yaml(), encoding="utf-8")
    calm = Command(tmp_path, monkeypatch, capsys)
    asked = ["--set", "model.head.kind=constant", "--tracking-uri", "none"]
    done = calm("--heads", path, "train", tmp_path / "tiny.yaml", *asked)
    assert done.code == 2
    assert done.err.endswith(
        "the head 'constant' (mine.py, line 17): loss must return (n,), gave () for n = 2 (docs/own-head.md)\n"
    )
    assert not list(home.root.rglob("record.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("raise KeyError('thirteen')", "KeyError: 'thirteen'"),
        ("self.mean.register_hook(lambda _: {}['thirteen'])", "KeyError: 'thirteen'"),
        ("raise SystemExit", "SystemExit"),
    ],
    ids=["loss", "backward", "exit"],
)
def test_where_one_fails_later_one_message_names_the_line_and_the_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: str, said: str
) -> None:
    line = "        return (self.mean * hidden.mean(-1, True) - target.mean).square().sum(-1)"
    later = (
        f"        if len(hidden) > 9 and not CALLS.append(1) and len(CALLS) == 13:\n            {fails}\n{line}"
    )
    path = write_head(tmp_path / "mine.py", (line, later), ("\nclass Config", "\nCALLS = []\n\nclass Config"))
    monkeypatch.setenv(own_heads.VARIABLE, "")
    config, home = tiny_config(tmp_path)
    (tmp_path / "tiny.yaml").write_text(config.to_yaml(), encoding="utf-8")
    calm = Command(tmp_path, monkeypatch, capsys)
    command = ["train", tmp_path / "tiny.yaml", "--set", "model.head.kind=constant", "--tracking-uri", "none"]
    done = calm("--heads", path, *command)
    reason = f"the head 'constant' (mine.py, line 21): {said}"
    assert (done.code, done.err.splitlines()[-1]) == (
        2,
        f"calm: {reason}; mend it: the run goes on from its last checkpoint",
    )
    (run_dir,) = home.single_runs().iterdir()
    record = records.read_record(run_dir)
    assert (record.status, record.reason) == ("failed", reason)
    found = checkpoint.find(run_dir / records.CHECKPOINT)
    assert found is not None
    assert checkpoint.read_step(found) == 7
    write_head(path)
    own_heads._loaded.cache_clear()
    monkeypatch.setenv(own_heads.VARIABLE, "")
    assert calm("--heads", path, *command).code == 0
    assert records.read_record(run_dir).status == "completed"


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["raise SystemExit(3)", "raise ValueError('three')"])
def test_where_one_fails_in_a_study_the_trial_fails_for_that_reason_and_the_worker_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    line = "        return (self.mean * hidden"
    path = write_head(tmp_path / "mine.py", (line, f"        if len(hidden) > 9: {fails}\n{line}"))
    monkeypatch.setenv(own_heads.VARIABLE, str(path))
    base = tree(write_text(tmp_path / "text.txt"))
    base["model"]["head"] = {"kind": "constant"}
    one = {"model.chunk_size": {"choices": [4]}}
    launch = create(tmp_path / "home", tiny_spec(base=base, space=one, baselines={}, checks={}, trials=2))
    work(dataclasses.replace(worker(launch), runner=load_runner(DEFAULT_RUNNER)), Stop())
    kind, text = ("SystemExit", "3") if "Exit" in fails else ("ValueError", "three")
    said = f"the head 'constant' (mine.py, line 18): {kind}: {text}"
    trials = launch.search.get_trials()
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 2
    assert [trial.user_attrs["reason"].partition(";")[0] for trial in trials] == [said] * 2
    found = [records.read_record(run_dir) for run_dir in records.find_runs(launch.folder)]
    assert [(record.status, record.reason) for record in found] == [("failed", said)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ValueError", "SystemExit"])
def test_where_one_fails_in_sampling_a_message_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Not when it is tried, but by and by, and for many positions."""
    edited = tmp_path / EXAMPLE.name
    later = """

CALLS = []
_sample = GaussianMixtureHead.sample


def _fails(self, hidden, **given):
    CALLS.append(1)
    if len(CALLS) > 12 or len(hidden) > 9:
        raise ValueError("no more")
    return _sample(self, hidden, **given)


GaussianMixtureHead.sample = _fails
"""
    later = later.replace("ValueError", kind)
    edited.write_text(EXAMPLE.read_text(encoding="utf-8") + later, encoding="utf-8")
    line = edited.read_text(encoding="utf-8").split("\n").index(f'        raise {kind}("no more")') + 1
    calm = Command(folder, monkeypatch, capsys)
    sample = ["sample", "mixture", "--tokens", "400"]
    for command in (sample, [*sample, "--json"], ["evaluate", "mixture"]):
        monkeypatch.setenv(own_heads.VARIABLE, "")
        own_heads._loaded.cache_clear()
        done = calm("--heads", edited, *command)
        said = f"the head {KIND!r} ({EXAMPLE.name}, line {line}): {kind}: no more"
        assert (done.code, done.err.splitlines()[-1]) == (2, f"calm: {said}")
        if "--json" in command:
            assert json.loads(done.out)["error"] == said

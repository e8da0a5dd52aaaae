"""Runs in MLflow's registry: registered, loaded back in a fresh process, and broken off at every step."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.suites.command_line import Command
from tests.suites.mlflow_shown import Faulty
from tests.suites.released_weights import settings, write_folders
from tests.suites.tiny_runs import BASELINE, tiny_config, write_text
from tests.suites.tracker_suite import set_record
from workbench import records, served_model, tracking_registry
from workbench.errors import ConfigError, RunError, TrackingError
from workbench.home import Home, open_home
from workbench.tracking import link, open_tracker
from workbench.tracking_mlflow import MlflowTracker
from workbench.tracking_registry import default_name, register, registered_models
from workbench.tracking_server import serve

pytestmark = pytest.mark.slow

NAMES = ("energy", "diffusion", "flow", "baseline")
FEW = {"train.num_evaluations": 1}
HEADS: dict[str, dict[str, Any]] = {
    "energy": {"data.tokenizer.kind": "bpe", "data.tokenizer.vocab_size": 300},
    "diffusion": {"model.head.kind": "diffusion", "model.head.num_calls": 4},
    "flow": {"model.head.kind": "flow", "model.head.num_calls": 4},
    "baseline": {},
}
ASKED = {"max_tokens": 24, "seed": 5, "temperature": 0.7, "num_samples": 2}
LOAD = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
found = {}
for name in sys.argv[3:]:
    model = mlflow.pyfunc.load_model(f"models:/tiny-{name}@champion")
    found[name] = model.predict(["the king", "a"], params=json.loads(sys.argv[2]))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tracking_database: Path) -> Path:
    """One run of each head, and a token baseline."""
    from workbench.runner import Identity, execute

    folder = tmp_path_factory.mktemp("registry")
    write_text(folder / "text.txt", num_words=24_000)  # of word pieces it has few
    for name in NAMES:
        sections = BASELINE if name == "baseline" else {}
        config, home = tiny_config(folder, {**FEW, **HEADS[name]}, **sections)
        execute(config, home.single_runs() / name, home=home, identity=Identity(name=name))
    shutil.copy(tracking_database, home.root / "mlflow.db")
    return folder


@pytest.fixture
def calm(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(folder, monkeypatch, capsys)


@pytest.fixture
def fresh(tmp_path: Path, folder: Path, tracking_database: Path) -> Home:
    """A home with the run ``energy`` and an empty database."""
    home = open_home(tmp_path / "home")
    shutil.copytree(folder / "runs" / "single" / "energy", home.single_runs() / "energy")
    shutil.copy(tracking_database, home.root / "mlflow.db")
    return home


def test_a_fresh_process_writes_what_calm_sample_writes(
    calm: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    home = folder / "runs"
    for name in NAMES:
        done = calm("register", name, "--name", f"tiny-{name}", "--alias", "champion")
        assert (done.code, done.err) == (0, ""), done
        assert f"{name} registered as tiny-{name} version 1 (champion)" in done.out
    command = [sys.executable, "-c", LOAD, f"sqlite:///{home / 'mlflow.db'}", json.dumps(ASKED), *NAMES]
    loaded = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert loaded.returncode == 0, loaded.stderr
    found = json.loads(loaded.stdout)
    asked = ("--tokens", "24", "--seed", "5", "--temperature", "0.7", "--num", "2", "--json")
    for name in NAMES:
        sampled = calm("sample", name, "--prompt", "the king", "--prompt", "a", *asked)
        texts = [row["text"] for row in json.loads(sampled.out)["texts"]]
        assert found[name] == texts
        assert len(texts) == 4
    assert len({texts[0] for texts in found.values()}) > 1
    assert list(tmp_path.iterdir()) == []  # MLflow makes a database where it stands, if it is let
    check_files(home)
    shown = json.loads(calm("models", "--json").out)
    assert [row["uri"] for row in shown] == [f"models:/tiny-{name}/1" for name in sorted(NAMES)]


def test_imported_weights(
    tmp_path: Path, tracking_database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Import, evaluate, register: the model writes what ``calm sample`` writes, and nobody is told that it was
    trained on the text that it is scored on."""
    calm, home, folders = (
        Command(tmp_path, monkeypatch, capsys),
        open_home(tmp_path / "runs"),
        write_folders(tmp_path),
    )
    shutil.copy(tracking_database, home.root / "mlflow.db")
    chosen = [part for name, value in settings(tmp_path).items() for part in ("--set", f"{name}={value}")]
    for arguments in (
        ("import", *folders.arguments(), "--name", "theirs", *chosen),
        ("evaluate", "theirs"),
        ("register", "theirs", "--name", "tiny-theirs", "--alias", "champion"),
    ):
        done = calm(*arguments)
        assert done.code == 0, done.err
    client, run_dir = mlflow.MlflowClient(home.mlflow_uri), home.single_runs() / "theirs"
    record, place = records.read_record(run_dir), link(run_dir)
    assert place is not None
    inputs = client.get_run(place.run_id).inputs.dataset_inputs
    shown = [(given.dataset.name, given.dataset.digest, given.tags[0].value) for given in inputs]
    assert shown == [("text.txt validation", record.data_hash, "evaluation")]
    (model,) = models_of(client, run_dir)
    scores = {metric.key: metric for metric in model.metrics if metric.key.startswith("eval/")}
    assert record.final is not None
    assert scores["eval/brierlm"].value == pytest.approx(record.final.brier.brierlm)
    assert {(m.dataset_name, m.dataset_digest) for m in scores.values()} == {shown[0][:2]}
    loaded = mlflow.pyfunc.load_model(model.artifact_location)
    sampled = calm("sample", "theirs", "--prompt", "the king", "--tokens", "24", "--seed", "5", "--json")
    texts = [row["text"] for row in json.loads(sampled.out)["texts"]]
    assert loaded.predict(["the king"], params={"max_tokens": 24, "seed": 5}) == texts
    assert len(texts[0]) > 0


def check_files(home: Path) -> None:
    """Safetensors and texts, no pickle."""
    models = sorted(home.glob("mlartifacts/single/models/*/artifacts"))
    assert len(models) == len(NAMES)
    for model in models:
        names = {path.name for path in model.rglob("*") if path.is_file()}
        assert {"MLmodel", "requirements.txt", "input_example.json", "model.safetensors", "config.yaml"} <= names
        assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]
        assert not [
            p for p in model.rglob("*") if p.is_file() and p.read_bytes()[:2] in (b"\x80\x04", b"\x80\x05")
        ]
        assert "loader_module: workbench.served_model" in (model / "MLmodel").read_text()
        pins = (model / "requirements.txt").read_text().split()
        assert {pin.partition("==")[0] for pin in pins} >= {"calm-workbench", "torch", "mlflow", "safetensors"}
        assert all("==" in pin and "+" not in pin for pin in pins)


def test_what_mlflow_shows_of_it(fresh: Home) -> None:
    run_dir = fresh.single_runs() / "energy"
    made = register(run_dir, home=fresh, alias="champion")
    record = records.read_record(run_dir)
    assert (made.name, made.version, made.aliases, made.new) == ("calm-text", "1", ("champion",), True)
    client = mlflow.MlflowClient(fresh.mlflow_uri)
    version = client.get_model_version("calm-text", "1")
    assert version.tags["calm.config_hash"] == record.config_hash
    assert version.tags["calm.data_hash"] == record.data_hash
    assert (version.tags["calm.chunk_size"], version.tags["calm.head"]) == ("4", "energy")
    (model,) = models_of(client, run_dir)
    assert str(model.status) == "READY"
    final = record.final
    assert final is not None
    shown = {metric.key: metric for metric in model.metrics}
    assert shown["eval/brierlm"].value == pytest.approx(final.brier.brierlm)
    assert shown["eval/brier_4_se"].value == pytest.approx(final.brier.brier_se[3])
    assert shown["eval/brierlm"].dataset_name == "text.txt validation"
    history = client.get_metric_history(made.run_id, "eval/brierlm")
    assert len(history) == len(records.read_evaluations(run_dir))  # the model's are the run's own
    assert [output.model_id for output in client.get_run(made.run_id).outputs.model_outputs] == [model.model_id]
    loaded = mlflow.pyfunc.load_model(f"{model.artifact_location}")
    assert [spec.name for spec in loaded.metadata.signature.params] == list(served_model.PARAMS)
    assert loaded.predict(["To be"], params={"max_tokens": 8}) == loaded.predict(
        ["To be"], params={"max_tokens": 8}
    )


def models_of(client: Any, run_dir: Path) -> list[Any]:
    place = link(run_dir)
    assert place is not None
    return list(client.search_logged_models([place.experiment_id]))


def test_registering_twice_makes_nothing_twice(fresh: Home) -> None:
    run_dir = fresh.single_runs() / "energy"
    first = register(run_dir, home=fresh)
    same = register(run_dir, home=fresh, alias="champion")
    assert (same.version, same.new, same.aliases) == (first.version, False, ("champion",))
    assert register(run_dir, home=fresh, alias="champion").alias_was is same.alias_was is None
    other = register(run_dir, home=fresh, again=True, alias="champion")
    assert (other.version, other.new, other.aliases) == ("2", True, ("champion",))
    assert other.alias_was == first.version
    assert [(row.version, row.aliases) for row in registered_models(fresh)] == [("2", ("champion",)), ("1", ())]
    assert len(models_of(mlflow.MlflowClient(fresh.mlflow_uri), run_dir)) == 1


STEPS = (
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "log_outputs",
    "log_batch",
    "create_registered_model",
    "create_model_version",
    "set_logged_model_tags",
    "set_registered_model_alias",
)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_server_that_goes_away_leaves_nothing_half_done(
    fresh: Home, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    """At each step, before the server has done it or when nobody heard the answer; the same command goes on."""
    run_dir = fresh.single_runs() / "energy"
    client = mlflow.MlflowClient(fresh.mlflow_uri)
    real: Callable[[MlflowTracker], Any] = MlflowTracker.client
    monkeypatch.setattr(mlflow.pyfunc, "save_model", a_small_package)
    for number, step in enumerate(STEPS):
        name = f"model {number}"
        run = Path(shutil.copytree(run_dir, fresh.single_runs() / f"run {number}"))
        (run / "mlflow.json").unlink(missing_ok=True)
        assert open_tracker(None, home=fresh).deliver(run, final=True)  # so that the faults are the registry's
        with monkeypatch.context() as patch:
            patch.setattr(MlflowTracker, "client", lambda tracker, s=step: Faulty(real(tracker), s, after=after))
            with pytest.raises(TrackingError, match="what has arrived is kept"):
                register(run, home=fresh, name=name, alias="best")
        versions = client.search_model_versions(f"name = '{name}'")
        made = step == "create_model_version" and after
        assert len(versions) == (made or STEPS.index(step) > STEPS.index("create_model_version"))
        for version in versions:
            assert str(client.get_logged_model(version.source.split("/")[-2]).status) == "READY"
        done = register(run, home=fresh, name=name, alias="best")
        assert (done.version, done.aliases) == ("1", ("best",))
        assert len(client.search_model_versions(f"name = '{name}'")) == 1
        place = link(run)
        assert place is not None
        assert len(client.get_run(place.run_id).outputs.model_outputs) == 1
        ours = [model for model in models_of(client, run) if model.source_run_id == place.run_id]
        assert [str(model.status) for model in ours] == ["READY"]


def a_small_package(path: str, **_: Any) -> None:
    """In the place of MLflow's, which takes a second."""
    Path(path).mkdir()
    (Path(path) / "MLmodel").write_text("flavors: {}\n")


def test_with_a_server(fresh: Home, tmp_path: Path, tracking_database: Path) -> None:
    """And afterwards without it: MLflow alone does not know where the server has put things."""
    run_dir, place = fresh.single_runs() / "energy", open_home(tmp_path / "place")
    shutil.copy(tracking_database, place.root / "mlflow.db")
    with serve(place, port=free_port()) as (url, _):
        made = register(run_dir, home=fresh, name="served", alias="champion", tracking_uri=url)
        assert (made.version, made.new) == ("1", True)
        assert not register(run_dir, home=fresh, name="served", tracking_uri=url).new
        before = mlflow.get_tracking_uri()
        try:
            mlflow.set_tracking_uri(url)
            model = mlflow.pyfunc.load_model("models:/served@champion")
        finally:
            mlflow.set_tracking_uri(before)
    texts = model.predict(["the king"], params={"max_tokens": 24, "seed": 5})
    assert texts == served_model.load(exported(run_dir, fresh)).predict(
        ["the king"], {"max_tokens": 24, "seed": 5}
    )
    late = Path(shutil.copytree(fresh.single_runs() / "energy", place.single_runs() / "late"))
    (late / "mlflow.json").unlink()
    assert register(late, home=place, name="late").version == "1"
    client = mlflow.MlflowClient(place.mlflow_uri)
    for name in ("served", "late"):
        version = client.get_model_version(name, "1")
        assert version.run_id is not None
        assert "config.yaml" in {item.path for item in client.list_artifacts(version.run_id)}
        found = mlflow.artifacts.download_artifacts(version.source, tracking_uri=place.mlflow_uri)
        assert (Path(found) / "MLmodel").is_file()


def exported(run_dir: Path, home: Home) -> Path:
    from workbench.saved_runs import load_run

    served_model.export(load_run(run_dir, home), run_dir, run_dir / "exported")
    return run_dir / "exported"


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_list_of_models_makes_no_home(calm: Command, tmp_path: Path) -> None:
    done = calm("models", "--home", tmp_path / "mistyped")
    assert done.code == 0
    assert f"no models are registered yet ({tmp_path / 'mistyped'} does not exist)" in done.words
    (tmp_path / "empty").mkdir()
    assert "no models are registered yet; calm register" in calm("models", "--home", tmp_path / "empty").words
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


class TestRefusals:
    @pytest.mark.parametrize("status", ["running", "interrupted", "pruned", "diverged"])
    def test_a_run_that_is_not_completed(self, fresh: Home, status: records.Status) -> None:
        set_record(fresh.single_runs() / "energy", status=status)
        with pytest.raises(RunError, match=f"is {status} at step .*only a completed run"):
            register(fresh.single_runs() / "energy", home=fresh)
        assert registered_models(fresh) == []

    def test_an_unknown_run(self, calm: Command) -> None:
        done = calm("register", "nobody")
        assert done.code == 2
        assert "no run 'nobody'" in done.err

    @pytest.mark.parametrize("name", ["", "a/b", "a:b", " a", "x" * 201])
    def test_names(self, fresh: Home, name: str) -> None:
        with pytest.raises(TrackingError, match="is no name of a model"):
            register(fresh.single_runs() / "energy", home=fresh, name=name)

    @pytest.mark.parametrize("alias", ["", "latest", "v3", "a b", "é/"])
    def test_aliases(self, fresh: Home, alias: str) -> None:
        with pytest.raises(TrackingError, match="cannot be used; wanted: letters"):
            register(fresh.single_runs() / "energy", home=fresh, alias=alias)

    def test_no_tracking(self, fresh: Home) -> None:
        with pytest.raises(TrackingError, match="with a server or database"):
            register(fresh.single_runs() / "energy", home=fresh, tracking_uri="none")

    def test_a_server_that_is_away(self, fresh: Home) -> None:
        with pytest.raises(TrackingError, match="does not answer"):
            register(fresh.single_runs() / "energy", home=fresh, tracking_uri=f"http://127.0.0.1:{free_port()}")


class TestServed:
    @pytest.fixture
    def model(self, fresh: Home) -> served_model.ServedModel:
        return served_model.load(exported(fresh.single_runs() / "energy", fresh))

    def test_takes_a_table_a_list_and_a_text(self, model: served_model.ServedModel) -> None:
        import pandas as pd

        few = {"max_tokens": 6}
        texts = model.predict(["the king"], few)
        assert model.predict("the king", few) == texts
        assert model.predict(pd.DataFrame({"prompt": ["the king"], "note": [1]}), few) == texts
        assert model.predict([], few) == []

    @pytest.mark.parametrize(
        ("params", "words"),
        [
            ({"warmth": 1}, "unknown parameter 'warmth'"),
            ({"max_tokens": 0}, "max_tokens must be at least 1"),
            ({"num_samples": -1}, "num_samples must be at least 1"),
            ({"sampler": "softmax"}, "softmax needs a token model"),
            ({"temperature": 2.0, "sampler": "batch"}, "takes temperatures in"),
        ],
    )
    def test_refuses(self, model: served_model.ServedModel, params: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            model.predict(["a"], params)

    def test_refuses_what_is_no_text(self, model: served_model.ServedModel) -> None:
        with pytest.raises(ConfigError, match="prompts are texts; number 2 is int"):
            model.predict(["a", 1])

    def test_a_server_says_what_is_wrong(self, fresh: Home) -> None:
        """MLflow's own, without a port: 400 and our words, no stack trace."""
        from fastapi.testclient import TestClient
        from mlflow.pyfunc.scoring_server import init

        run_dir = fresh.single_runs() / "energy"
        register(run_dir, home=fresh)
        (made,) = models_of(mlflow.MlflowClient(fresh.mlflow_uri), run_dir)
        client = TestClient(init(mlflow.pyfunc.load_model(made.artifact_location)))
        for params, words in (
            ({"max_tokens": 0}, "max_tokens must be at least 1, 0 given"),
            (
                {"temperature": 0.5, "sampler": "exact", "budget": 1},
                "unfinished after the budget of 1 sampler calls",
            ),
        ):
            answer = client.post("/invocations", json={"inputs": ["the king"], "params": params})
            assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), (
                answer.text
            )
            assert words in answer.json()["message"]
            assert "Traceback" not in answer.text
        few = client.post("/invocations", json={"inputs": ["the king"], "params": {"max_tokens": 6, "seed": 5}})
        assert few.json() == {
            "predictions": served_model.load(exported(run_dir, fresh)).predict(
                ["the king"], {"max_tokens": 6, "seed": 5}
            )
        }

    def test_damage_is_seen(self, fresh: Home) -> None:
        made = exported(fresh.single_runs() / "energy", fresh)
        weights = made / served_model.WEIGHTS
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(bytes(content))
        with pytest.raises(RunError, match="altered since it was written"):
            served_model.load(made)
        (made / served_model.ABOUT).unlink()
        with pytest.raises(RunError, match="holds no model of this workbench"):
            served_model.load(made)


@pytest.mark.parametrize(
    ("corpus", "name"),
    [("shakespeare", "calm-shakespeare"), ("text:/a/my notes.txt", "calm-my-notes"), ("text:/", "calm-text")],
)
def test_the_default_name(corpus: str, name: str) -> None:
    assert default_name(corpus) == name
    tracking_registry.check_names(name, None)

"""``calm import`` and ``calm export``: released weights as runs, and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.suites.released_weights import (
    BEGIN,
    LANGUAGE_MODEL,
    PAD,
    VOCAB,
    Folders,
    same_bits,
    settings,
    weights_of,
    write_folders,
    write_weights,
)
from tests.suites.tiny_runs import leftovers
from workbench import records, room
from workbench.config_file import stored_config
from workbench.errors import OutputError, RunError
from workbench.files import sha256
from workbench.home import Home, open_home
from workbench.records import IMPORTED, RunRecord
from workbench.released.bring import Released, import_released
from workbench.released.export import Exported, export_released
from workbench.room import Free
from workbench.tensor_files import read_tensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

ROUNDED: dict[str, tuple[str, ...]] = {
    "the autoencoder": ("0 ",),
    "its copy": ("1 ae_model.",),
    "one file, the embedding": ("0 encoder.embed_tokens.",),
    "one file, the output layer": ("0 decoder.lm_head_weight",),
    "the autoencoder and the copy's decoder": ("0 ", "1 ae_model.decoder."),
    "the autoencoder and the copy's encoder": ("0 ", "1 ae_model.encoder."),
    "the head": ("1 mlp_generator.",),
    "the head under its other name": ("1 generative_head.",),
}
"""Number of the folder and beginning of the names of what is stored in a narrower type than its twin."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Its cache is shared: the text is prepared once."""
    return open_home(tmp_path_factory.mktemp("released") / "runs")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "theirs"


@pytest.fixture(scope="module")
def imported(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, to be left as it is."""
    root = tmp_path_factory.mktemp("imported")
    bring(write_folders(root), home, root / "run")
    return root / "run"


def bring(folders: Folders, home: Home, run_dir: Path, **options: Any) -> RunRecord:
    return bring_again(Released(folders.autoencoder, folders.language_model), home, run_dir, **options)


def bring_again(released: Released, home: Home, run_dir: Path, **options: Any) -> RunRecord:
    return import_released(released, run_dir, home=home, overrides=settings(home.root.parent), **options)


def test_weights_that_do_not_fit_on_the_disk_are_refused_before_anything_is_written(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = write_folders(tmp_path)
    monkeypatch.setattr(room, "free_room", lambda folder: Free(bytes=100_000, files=None))
    with pytest.raises(OutputError, match=r"the import needs about .* in .*, 100 kB are free; free some"):
        bring(folders, open_home(tmp_path / "new"), tmp_path / "new" / "theirs")
    assert list((tmp_path / "new").iterdir()) == []
    monkeypatch.setattr(room, "free_room", lambda folder: Free(bytes=2_000_000, files=None))
    assert bring(folders, home, tmp_path / "theirs").status == "completed"


def again(done: Exported) -> Released:
    return Released(done.autoencoder, done.language_model)


class TestThereAndBack:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("dtype", "layout"), [("float32", "safetensors"), ("bfloat16", "sharded bin"), ("float16", "bin")]
    )
    def test_bit_for_bit(self, tmp_path: Path, home: Home, run_dir: Path, dtype: str, layout: str) -> None:
        """Import, export, import: the released tensors and our own are the same bits, in the stored type."""
        folders = write_folders(tmp_path, dtype=DTYPES[dtype], layout=layout)
        bring(folders, home, run_dir)
        done = export_released(run_dir, tmp_path / "out")
        same_bits(weights_of(done.autoencoder), folders.autoencoder_weights)
        same_bits(weights_of(done.language_model), folders.language_model_weights)
        assert done.dtypes == {dtype: len(folders.autoencoder_weights) + len(folders.language_model_weights)}
        config = json.loads((done.language_model / "config.json").read_text())
        assert config.items() >= {**LANGUAGE_MODEL, "ae_path": "../autoencoder"}.items()
        assert (done.language_model / config["ae_path"]).resolve() == done.autoencoder.resolve()
        assert config["torch_dtype"] == dtype
        assert (done.language_model / "tokenizer.json").read_bytes() == folders.tokenizer.read_bytes()
        second_dir = tmp_path / "again"
        bring_again(again(done), home, second_dir)
        for file in ("autoencoder.safetensors", "checkpoint/model.safetensors"):
            same_bits(read_tensors(second_dir / file), read_tensors(run_dir / file))
        configs = [stored_config(folder / "config.yaml") for folder in (run_dir, second_dir)]
        assert configs[0].hash() == configs[1].hash(), "where the tokenizer lies is no part of it"

    def test_settings_as_newer_versions_of_transformers_write_them(
        self, tmp_path: Path, home: Home, run_dir: Path
    ) -> None:
        """The base of the rotary positions stands in ``rope_parameters`` alone."""
        folders = write_folders(tmp_path)
        path = folders.language_model / "config.json"
        tree = {key: value for key, value in LANGUAGE_MODEL.items() if key != "rope_theta"}
        parameters = {"rope_type": "default", "rope_theta": 500_000.0}
        path.write_text(json.dumps({**tree, "rope_parameters": parameters}))
        bring(folders, home, run_dir)
        done = export_released(run_dir, tmp_path / "out")
        same_bits(weights_of(done.language_model), folders.language_model_weights)
        config = json.loads((done.language_model / "config.json").read_text())
        assert (config["rope_theta"], config["rope_parameters"]) == (500_000.0, parameters)
        bring_again(again(done), home, tmp_path / "again")
        configs = [stored_config(folder / "config.yaml") for folder in (run_dir, tmp_path / "again")]
        assert configs[0].hash() == configs[1].hash()
        assert configs[1].to_dict()["model"]["backbone"]["rope_theta"] == 500_000.0
        for file in ("autoencoder.safetensors", "checkpoint/model.safetensors"):
            same_bits(read_tensors(tmp_path / "again" / file), read_tensors(run_dir / file))

    @pytest.mark.slow
    @pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("rounded", ROUNDED)
    def test_of_two_copies_one_may_be_rounded(
        self, tmp_path: Path, home: Home, run_dir: Path, rounded: str, narrow: torch.dtype
    ) -> None:
        """The other one is read, whichever it is: both come back as they were, also the sign of a zero."""
        folders = write_folders(tmp_path, drop=("ae_model.",) if rounded.startswith("one file") else ())
        parts = [folders.autoencoder_weights, folders.language_model_weights]
        for tensor in {id(tensor): tensor for part in parts for tensor in part.values()}.values():
            tensor.view(-1)[0] = -0.0
        stored = [
            {name: t.to(narrow) if f"{i} {name}".startswith(ROUNDED[rounded]) else t for name, t in part.items()}
            for i, part in enumerate(parts)
        ]
        for folder, part in zip((folders.autoencoder, folders.language_model), stored, strict=True):
            write_weights(folder, part)
        bring(folders, home, run_dir)
        done = export_released(run_dir, tmp_path / "out")
        for folder, part in zip((done.autoencoder, done.language_model), stored, strict=True):
            same_bits(weights_of(folder), part)
        assert len(done.dtypes) == 2

    def test_two_narrow_types_of_equal_values(self, tmp_path: Path, home: Home, run_dir: Path) -> None:
        """float16 beside bfloat16: neither holds the other's values, but those of both."""
        folders = write_folders(tmp_path)
        both = [
            {name: t.to(torch.float8_e5m2).to(torch.bfloat16) for name, t in part.items()}
            for part in (folders.autoencoder_weights, folders.language_model_weights)
        ]
        both[1] = {name: t.half() if name.startswith("ae_model.") else t for name, t in both[1].items()}
        for folder, part in zip((folders.autoencoder, folders.language_model), both, strict=True):
            write_weights(folder, part)
        bring(folders, home, run_dir)
        done = export_released(run_dir, tmp_path / "out")
        for folder, part in zip((done.autoencoder, done.language_model), both, strict=True):
            same_bits(weights_of(folder), part)

    @pytest.mark.parametrize("dropped", ["ae_model.", "generative_head.", "mlp_generator."])
    def test_without_what_is_there_twice(self, tmp_path: Path, home: Home, run_dir: Path, dropped: str) -> None:
        folders = write_folders(tmp_path, drop=(dropped,))
        bring(folders, home, run_dir)
        done = export_released(run_dir, tmp_path / "out")
        same_bits(weights_of(done.language_model), folders.language_model_weights)

    @pytest.mark.parametrize("dropped", ["encoder.embed_tokens.weight", "decoder.lm_head_weight"])
    def test_one_name_of_the_tied_matrix(self, tmp_path: Path, home: Home, run_dir: Path, dropped: str) -> None:
        folders = write_folders(tmp_path)
        weights = {name: tensor for name, tensor in folders.autoencoder_weights.items() if name != dropped}
        write_weights(folders.autoencoder, weights)
        bring(folders, home, run_dir)
        same_bits(weights_of(export_released(run_dir, tmp_path / "out").autoencoder), weights)

    def test_shards(self, tmp_path: Path, home: Home, run_dir: Path) -> None:
        folders = write_folders(tmp_path)
        bring(folders, home, run_dir)
        done = export_released(run_dir, tmp_path / "out", shard_bytes=60_000)
        files = sorted(path.name for path in done.language_model.glob("*.safetensors"))
        assert len(files) > 3
        assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
        largest = max(tensor.nbytes for tensor in folders.language_model_weights.values())
        assert all(sum(t.nbytes for t in load_file(p).values()) <= max(60_000, largest)
                   for p in done.language_model.glob("*.safetensors"))  # fmt: skip
        same_bits(weights_of(done.language_model), folders.language_model_weights)
        bring_again(again(done), home, tmp_path / "again")

    def test_rounding_is_said_and_done_once(self, tmp_path: Path, home: Home, run_dir: Path) -> None:
        folders = write_folders(tmp_path)
        bring(folders, home, run_dir, dtype="bfloat16")
        kept = json.loads((run_dir / IMPORTED).read_text())
        assert list(kept["language_model"]["tensors"]) == ["bfloat16"]
        done = export_released(run_dir, tmp_path / "out")
        rounded = {name: tensor.bfloat16() for name, tensor in folders.language_model_weights.items()}
        same_bits(weights_of(done.language_model), rounded)
        wide = export_released(run_dir, tmp_path / "wide", dtype="float32")
        same_bits(weights_of(wide.language_model), {name: tensor.float() for name, tensor in rounded.items()})

    @pytest.mark.slow
    @pytest.mark.parametrize("keys", [("dtype",), ("torch_dtype",), ("torch_dtype", "dtype"), ()], ids=str)
    def test_settings_say_the_type_that_was_written(
        self, tmp_path: Path, home: Home, run_dir: Path, keys: tuple[str, ...]
    ) -> None:
        """Under the names that were there: newer versions of transformers read ``dtype`` first."""
        said = dict.fromkeys(keys, "float32")
        bring(write_folders(tmp_path, autoencoder=said, language_model=said), home, run_dir)
        for dtype in ("bfloat16", None):
            done = export_released(run_dir, tmp_path / str(dtype), dtype=dtype)
            for folder in (done.autoencoder, done.language_model):
                config = json.loads((folder / "config.json").read_text())
                found = {key: config[key] for key in ("torch_dtype", "dtype") if key in config}
                assert found == dict.fromkeys(keys or ("torch_dtype",), dtype or "float32")

    @pytest.mark.parametrize("narrow", ["bfloat16", "float16"])
    def test_values_that_a_type_cannot_hold(self, tmp_path: Path, home: Home, run_dir: Path, narrow: str) -> None:
        """float32 has values above the largest bfloat16."""
        folders = write_folders(tmp_path)
        largest = torch.full((32,), torch.finfo(torch.float32).max)
        write_weights(
            folders.language_model, {**folders.language_model_weights, "transformer.norm.weight": largest}
        )
        bring(folders, home, run_dir)
        with pytest.raises(
            RunError, match=f"transformer.norm.weight holds values that {narrow} cannot; .*float32"
        ):
            export_released(run_dir, tmp_path / "out", dtype=narrow)
        assert not (tmp_path / "out").exists()
        export_released(run_dir, tmp_path / "out")


DAMAGE: dict[str, tuple[Any, str]] = {
    "no json": ("{", "is damaged: "),
    "a list": ([], "autoencoder: its config.json is missing"),
    "a number": ({"language_model": 3}, "language_model: its config.json is missing"),
    "a part is missing": ({"autoencoder": None}, "autoencoder: its config.json is missing"),
    "settings": ({"language_model": {"config": 3}}, "language_model: its config.json is missing"),
    "no tensors": ({"autoencoder": {"tensors": 3}}, "autoencoder: no tensors are listed by their types"),
    "another type": ({"language_model": {"tensors": {"int8": ["x"]}}}, "'int8' is listed"),
    "no list": ({"language_model": {"tensors": {"float32": 3}}}, "no list of names"),
    "no names": ({"language_model": {"tensors": {"float32": [3]}}}, "no list of names"),
    "another name": ({"language_model": {"tensors": {"float32": ["nope"]}}}, "this model has no nope"),
    "of the other": ({"autoencoder": {"tensors": {"float32": ["embed_proj.0.bias"]}}}, "has no embed_proj.0.bias"),
    "no names at all": ({"autoencoder": {"tensors": {}}}, "encoder.embed_tokens.weight is not listed"),
    "twice": (
        {"autoencoder": {"tensors": {"float32": ["encoder.norm.weight"], "float16": ["encoder.norm.weight"]}}},
        "encoder.norm.weight is listed twice",
    ),
    "newer": ({"format": 99}, "was written by a newer workbench"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_account_of_the_import(imported: Path, tmp_path: Path, damage: str) -> None:
    change, message = DAMAGE[damage]
    path = imported / IMPORTED
    whole = path.read_text()
    tree = json.loads(whole)
    for key, value in change.items() if isinstance(change, dict) else ():
        tree[key] = {**tree[key], **value} if isinstance(value, dict) else value
    path.write_text(
        change if isinstance(change, str) else json.dumps(tree if isinstance(change, dict) else change)
    )
    try:
        with pytest.raises(RunError) as refused:
            export_released(imported, tmp_path / "out")
    finally:
        path.write_text(whole)
    assert str(refused.value).startswith(str(path))
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_a_run_that_has_not_ended_are_said_to_be(imported: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(imported, tmp_path / "run")
    assert not any("last checkpoint" in note for note in export_released(run_dir, tmp_path / "whole").notes)
    record = records.read_record(run_dir).model_copy(update={"status": "interrupted", "step": 7, "num_steps": 9})
    records.write_record(run_dir, record)
    said = "the run is interrupted at step 7 of 9: these are the weights of its last checkpoint"
    assert said in export_released(run_dir, tmp_path / "out").notes


class TestTheRun:
    def test_record(self, tmp_path: Path, home: Home, run_dir: Path) -> None:
        folders = write_folders(tmp_path, layout="bin")
        record = bring(folders, home, run_dir, trained_tokens=10_000)
        assert records.read_record(run_dir) == record
        assert (record.status, record.kind, record.head) == ("completed", "calm", "energy")
        assert 10_000 <= record.tokens < 10_000 + 32 * 1024
        assert record.step == record.num_steps > 0
        assert record.compute["train_flops"] > 0
        unique = [t for n, t in folders.language_model_weights.items() if not n.startswith(("ae_", "generative_"))]
        assert record.parameters["total"] == sum(t.numel() for t in unique)
        kept = json.loads((run_dir / IMPORTED).read_text())
        for which, folder in (("autoencoder", folders.autoencoder), ("language_model", folders.language_model)):
            listed = {file["name"]: file["sha256"] for file in kept[which]["files"]}
            assert listed == {name: sha256(folder / name) for name in ("config.json", "pytorch_model.bin")}
            assert kept[which]["folder"] == str(folder)
        assert kept["tokenizer"]["sha256"] == sha256(folders.tokenizer)
        assert kept["versions"]["torch"] == torch.__version__
        assert set(record.environment["imported"]) == {"autoencoder", "language_model"}
        tokenizer = stored_config(run_dir / "config.yaml").data.tokenizer
        assert (tokenizer.kind, tokenizer.num_ids) == ("pretrained", VOCAB)
        assert (tokenizer.end_id, tokenizer.pad_id) == (BEGIN, PAD)
        assert leftovers(run_dir) == []

    def test_nothing_known_of_the_training(self, tmp_path: Path, home: Home, run_dir: Path) -> None:
        record = bring(write_folders(tmp_path), home, run_dir)
        assert (record.step, record.tokens) == (0, 0)
        assert "train_flops" not in record.compute
        assert record.compute["infer_flops_per_token"] > 0


@pytest.mark.slow
def test_where_the_same_tokenizer_lies_is_no_difference(tmp_path: Path, home: Home) -> None:
    from workbench.compare import compare_runs
    from workbench.rescore import rescore

    folders, runs = write_folders(tmp_path), [tmp_path / "first", tmp_path / "second"]
    for run_dir in runs:
        bring(folders, home, run_dir)
        rescore(run_dir, home, {})
    names = [stored_config(run_dir / "config.yaml").data.tokenizer.name for run_dir in runs]
    assert names == [str(run_dir / "tokenizer.json") for run_dir in runs]
    assert compare_runs(runs, home, with_seeds=False).differences == []
    config = (runs[1] / "config.yaml").read_text()
    (runs[1] / "config.yaml").write_text(config.replace(sha256(folders.tokenizer), "ab" * 32))
    differences = compare_runs(runs, home, with_seeds=False).differences
    assert [name for name, _ in differences] == ["data.tokenizer.name", "data.tokenizer.sha256"]


class TestBesideAStudy:
    def test_in_its_table_and_report(self, tmp_path: Path) -> None:
        from analysis.table import load_runs
        from tests.suites.run_folders import make_run_folder
        from workbench.rescore import rescore

        folders, home = write_folders(tmp_path), open_home(tmp_path / "runs")
        make_run_folder(home.root / "study" / "a", study="study")
        run_dir = home.root / "study" / "theirs"
        import_released(
            Released(folders.autoencoder, folders.language_model),
            run_dir,
            home=home,
            study="study",
            trained_tokens=10_000,
            overrides=settings(tmp_path),
        )
        rescore(run_dir, home, {})
        table = load_runs(home.root, ["study"])
        row = table.runs.set_index("run_id").loc["theirs"]
        assert (row["kind"], row["at_budget"], row["status"]) == ("calm", True, "completed")
        assert row["train_flops"] > 0
        points = table.evaluations[table.evaluations["run_id"] == "theirs"]
        assert len(points) == 1
        assert points["phase"].item() == "constant"

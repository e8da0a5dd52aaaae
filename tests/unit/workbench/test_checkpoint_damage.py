"""Checkpoints that are damaged or another's: refused with the reason, never unpickled."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.suites.checkpoints import NAMES, load, of_step, save
from workbench import checkpoint, files
from workbench.errors import RunError


def rewrite_state(folder: Path, **changes: Any) -> None:
    """As somebody would who knows how the checksum is made."""
    state = {**files.read_json(folder / "state.json"), **changes}
    state.pop("sha256", None)
    if "format" in state:
        state["sha256"] = checkpoint._checksum(state)
    (folder / "state.json").write_text(json.dumps(state))


def make_old(folder: Path) -> None:
    """As written before there were formats."""
    state = files.read_json(folder / "state.json")
    position = {name: value for name, value in state.items() if name not in ("format", "files", "sha256")}
    (folder / "state.json").write_text(json.dumps(position))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "c", 7)


# ---- every kind of damage ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_cut_at_any_length(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    whole, into = len(content) - (name == "state.json"), of_step(0)  # the newline at its end
    for length in range(whole):
        (folder / name).write_bytes(content[:length])
        with pytest.raises(RunError, match=name):
            load(folder, into)
    (folder / name).unlink()
    with pytest.raises(RunError, match=f"{name}.* is missing"):
        load(folder)


@pytest.mark.parametrize("name", NAMES)
def test_any_byte_altered(folder: Path, name: str) -> None:
    content, into = (folder / name).read_bytes(), of_step(0)
    refused = 0
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        (folder / name).write_bytes(altered)
        if name == "state.json" and content[place : place + 1].isspace() and altered.isascii():
            continue  # one blank for another says the same
        with pytest.raises(RunError, match=name):
            load(folder, into)
        refused += 1
    assert refused > 0.8 * len(content)


def test_files_of_two_checkpoints_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other", 8)
    shutil.copy(other / "optimizer.safetensors", folder)
    with pytest.raises(RunError, match=r"optimizer\.safetensors cannot be loaded: it was altered"):
        load(folder)


def test_the_checkpoint_before_is_taken_where_only_that_is_whole(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.rename(folder, tmp_path / "c.previous")
    save(tmp_path / "new", 8)
    os.rename(tmp_path / "new", folder)
    assert checkpoint.find(folder) == folder
    (folder / "model.safetensors").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert checkpoint.find(folder) == tmp_path / "c.previous"
    assert "has 0 bytes, written were" in caplog.text
    assert load(tmp_path / "c.previous") == 7
    (tmp_path / "c.previous" / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"0 bytes.*; bring it back from a copy, or delete that folder to start"):
        checkpoint.find(folder)


def test_the_only_whole_one_is_kept_until_another_stands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.rename(folder, tmp_path / "c.previous")
    save(tmp_path / "new", 8)
    os.rename(tmp_path / "new", folder)
    (folder / "model.safetensors").write_bytes(b"")
    with monkeypatch.context() as patch:
        real = os.replace

        def crash(source: Path, target: Path) -> None:
            if Path(target) == folder:
                raise SystemExit("crash")
            real(source, target)

        patch.setattr(os, "replace", crash)
        with pytest.raises(SystemExit):
            save(folder, 9)
    found = checkpoint.find(folder)
    assert found is not None
    assert load(found) == 7
    save(folder, 9)
    assert os.listdir(tmp_path) == ["c"]
    assert load(folder) == 9


# ---- formats -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 0, -1, "1", None, 1.0, True])
def test_an_unknown_format_is_refused(folder: Path, number: object) -> None:
    rewrite_state(folder, format=number)
    with pytest.raises(RunError, match=r"is of format .*, this version reads 1 .*; use the version that wrote it"):
        checkpoint.find(folder)


def test_a_checkpoint_from_before_there_were_formats(folder: Path, tmp_path: Path) -> None:
    make_old(folder)
    assert checkpoint.find(folder) == folder
    assert load(folder) == 7
    shutil.copytree(folder, tmp_path / "c.previous")
    content = (folder / "optimizer.safetensors").read_bytes()
    (folder / "optimizer.safetensors").write_bytes(content[:-1])
    assert checkpoint.find(folder) == tmp_path / "c.previous"


def test_checksums_are_not_given_up_by_taking_the_format_out(folder: Path) -> None:
    state = files.read_json(folder / "state.json")
    del state["format"]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(RunError, match="is of format None"):
        load(folder)


@pytest.mark.parametrize("listed", [None, {}, {"model.safetensors": 3}, {"../x": {"size": 1, "sha256": ""}}])
def test_a_list_of_files_that_is_none(folder: Path, listed: object) -> None:
    rewrite_state(folder, files=listed)
    with pytest.raises(RunError, match="was altered"):
        load(folder)


# ---- the state ---------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"step": -1}, "step is -1, wanted is a whole number of at least 0"),
        ({"step": 1.5}, "step is 1.5, wanted is a whole number"),
        ({"step": True}, "step is True, wanted is a whole number"),
        ({"step": "7"}, "step is '7', wanted is a whole number"),
        ({"step": None}, "step is None, wanted is a whole number"),
        ({"loss_sum": [1]}, r"loss_sum is \[1\], wanted is a finite number"),
        ({"loss_sum": "x"}, "loss_sum is 'x', wanted is a finite number"),
        ({"pending": 1}, "pending is 1, wanted is true or false"),
        ({"name": 3}, "name is 3, wanted is a text"),
        ({"lr": 0.1}, "lr is 0.1, wanted is one of step, loss_sum, pending, name"),
    ],
)
def test_a_tampered_state(folder: Path, changes: dict[str, Any], wanted: str, old: bool) -> None:
    rewrite_state(folder, **changes)
    if old:
        make_old(folder)
    like = {"step": 0, "loss_sum": 0.0, "pending": False, "name": ""}
    with pytest.raises(RunError, match=rf"state\.json is damaged: {wanted}"):
        checkpoint.load(folder, *of_step(0), like=like)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(folder: Path, value: str) -> None:
    make_old(folder)
    (folder / "state.json").write_text(f'{{"step": 7, "loss_sum": {value}}}')
    with pytest.raises(RunError, match=r"loss_sum is .*, wanted is a finite number"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "7", "null", "\x00\x00", '{"step": ', "Ä"])
def test_a_state_that_is_none(folder: Path, text: str) -> None:
    (folder / "state.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"state\.json is damaged"):
        checkpoint.find(folder)


def test_the_step_alone(folder: Path) -> None:
    assert checkpoint.read_step(folder) == 7
    (folder / "state.json").write_text("{}")
    with pytest.raises(RunError, match="it has no step"):
        checkpoint.read_step(folder)


# ---- others' tensors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"weight": torch.zeros(2, 4)}, r"weight has shape \(2, 4\), wanted is \(2, 3\)"),
        ({"weight": torch.zeros(2, 3, dtype=torch.int64)}, "weight is of torch.int64, wanted is torch.float32"),
        ({"weight": None}, "weight is missing"),
        ({"other": torch.zeros(1)}, "there is no other in this one"),
    ],
)
def test_anothers_weights(tmp_path: Path, change: dict[str, Any], wanted: str) -> None:
    network, _ = of_step(7)
    tensors = {name: value for name, value in {**network.state_dict(), **change}.items() if value is not None}
    save_file(tensors, tmp_path / "w.safetensors")
    target, _ = of_step(0)
    with pytest.raises(RunError, match=rf"the weights .*w\.safetensors cannot be loaded: .*{wanted}") as raised:
        checkpoint.load_weights(target, tmp_path / "w.safetensors")
    assert len(str(raised.value)) < 100 + len(str(tmp_path)) + 80
    assert all(bool((p == 0).all()) for p in target.parameters()), "left as it was"


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"0.exp_avg": torch.zeros(2, 4)}, r"exp_avg of parameter 0 has shape \(2, 4\), wanted is \(2, 3\)"),
        ({"0.exp_avg": torch.zeros(())}, r"exp_avg of parameter 0 has shape \(\), wanted is \(2, 3\)"),
        ({"0.step": torch.zeros(2, 3)}, r"step of parameter 0 has shape \(2, 3\), wanted is \(\)"),
        ({"0.exp_avg": torch.zeros(2, 3, dtype=torch.int32)}, "0.exp_avg is of torch.int32"),
        ({"0.exp_avg": None}, "parameter 0 has"),
        ({"5.step": torch.zeros(())}, "state of 3 parameters found, of 2 wanted"),
        ({"strange": torch.zeros(())}, "it is another model's"),
    ],
)
def test_anothers_optimizer_state(folder: Path, change: dict[str, Any], wanted: str) -> None:
    make_old(folder)  # no checksum that would tell
    path = folder / "optimizer.safetensors"
    tensors = {name: value for name, value in {**load_file(path), **change}.items() if value is not None}
    save_file(tensors, path)
    with pytest.raises(RunError, match=rf"optimizer\.safetensors cannot be loaded: .*{wanted}"):
        load(folder)


class _Harmful:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path, name: str, how: str, old: bool) -> None:
    trap, path = tmp_path / "harm", folder / name
    if how == "pickle":
        path.write_bytes(pickle.dumps(_Harmful(trap)))
    else:
        torch.save(_Harmful(trap), path, _use_new_zipfile_serialization=how == "torch")
    if old:
        make_old(folder)
    else:
        listed = files.read_json(folder / "state.json")["files"]
        listed[name] = {"size": path.stat().st_size, "sha256": files.sha256(path)}
        rewrite_state(folder, files=listed)
    with pytest.raises(RunError, match=f"{name} cannot be loaded: it is a pickle, .* and never opened"):
        load(folder)
    assert not trap.exists()
    pickle.loads(pickle.dumps(_Harmful(trap)))
    assert trap.exists(), "it would have been harmful"


def test_a_pickle_beside_what_is_missing(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(_Harmful(tmp_path / "harm"), folder / "pytorch_model.bin")
    with pytest.raises(RunError, match=r"is missing; pytorch_model\.bin beside it is a pickle and never opened"):
        checkpoint.load_weights(of_step(0)[0], folder / "model.safetensors")
    assert not (tmp_path / "harm").exists()


def test_weights_on_their_own_have_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    checkpoint.save_weights(of_step(7)[0], path)
    content, network = path.read_bytes(), of_step(0)[0]
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        path.write_bytes(altered)
        try:
            checkpoint.load_weights(network, path)
        except RunError:
            continue
        assert all(bool((p == 7).all()) for p in network.parameters()), place
    path.write_bytes(content[:-1] + b"\x01")
    with pytest.raises(RunError, match="it was altered since it was written"):
        checkpoint.load_weights(of_step(0)[0], path)


def test_weights_that_are_not_finite_are_what_was_saved(tmp_path: Path) -> None:
    """The next step's loss says so, resumed or not."""
    network, optimizer = of_step(7)
    with torch.no_grad():
        network.bias.fill_(float("nan"))  # type: ignore[union-attr, operator]
    checkpoint.save(tmp_path / "c", network, {"step": 7}, optimizer)
    target, target_optimizer = of_step(0)
    assert checkpoint.load(tmp_path / "c", target, target_optimizer)["step"] == 7
    assert bool(target.bias.isnan().all())  # type: ignore[union-attr, operator]

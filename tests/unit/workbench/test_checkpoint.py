"""Checkpoints: exact, replaced whole, never a pickle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from workbench import checkpoint
from workbench.errors import OutputError, RunError
from workbench.optim import build_adamw
from workbench.optimizers import AdamW, Optimizer


def trained(seed: int = 0, steps: int = 3) -> tuple[nn.Module, AdamW]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    optimizer = build_adamw(network, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    train(network, optimizer, steps)
    return network, optimizer


def train(network: nn.Module, optimizer: Optimizer, steps: int) -> None:
    for step in range(steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        network.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()


def weights(network: nn.Module) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in network.parameters())


def test_going_on_from_a_checkpoint_is_exact(tmp_path: Path) -> None:
    network, optimizer = trained()
    checkpoint.save(tmp_path / "c", network, {"step": 3, "loss_sum": 0.1 + 0.2}, optimizer)
    copy, copy_optimizer = trained(seed=1, steps=1)
    state = checkpoint.load(tmp_path / "c", copy, copy_optimizer)
    assert state == {"step": 3, "loss_sum": 0.1 + 0.2}
    assert weights(copy) == weights(network)
    for each in ((network, optimizer), (copy, copy_optimizer)):
        train(*each, 5)
    assert weights(copy) == weights(network)


def test_the_optimizer_state_matters_above(tmp_path: Path) -> None:
    network, optimizer = trained()
    checkpoint.save(tmp_path / "c", network, {}, optimizer)
    copy, _ = trained(seed=1, steps=0)
    checkpoint.load(tmp_path / "c", copy)
    train(network, optimizer, 1)
    train(copy, build_adamw(copy, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1), 1)
    assert weights(copy) != weights(network)


def test_files_are_safetensors_and_json(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", *_one(), trained()[1])
    assert sorted(os.listdir(tmp_path)) == ["c"]
    assert sorted(os.listdir(tmp_path / "c")) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    for path in (tmp_path / "c").glob("*.safetensors"):
        header = int.from_bytes(path.read_bytes()[:8], "little")
        assert path.read_bytes()[8:9] == b"{"
        assert header < path.stat().st_size


def _one() -> tuple[nn.Module, dict[str, int]]:
    return trained()[0], {"step": 1}


def test_without_an_optimizer_only_weights_are_kept(tmp_path: Path) -> None:
    network, optimizer = trained()
    checkpoint.save(tmp_path / "c", network, {"step": 1}, optimizer)
    checkpoint.save(tmp_path / "c", network, {"step": 2}, None)
    assert sorted(os.listdir(tmp_path / "c")) == ["model.safetensors", "state.json"]
    with pytest.raises(RunError, match="optimizer state"):
        checkpoint.load(tmp_path / "c", *trained())


@pytest.mark.parametrize("renames", [0, 1])
def test_a_crash_while_replacing_leaves_the_old_one(
    tmp_path: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first rename, and between the two."""
    network, optimizer = trained()
    checkpoint.save(tmp_path / "c", network, {"step": 1}, optimizer)
    real, done = os.replace, 0

    def crash(source: str, target: str) -> None:
        nonlocal done
        if Path(target).name not in ("c", "c.previous"):  # files inside the new folder
            return real(source, target)
        if done == renames:
            raise SystemExit("crash")
        done += 1
        return real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(SystemExit):
            checkpoint.save(tmp_path / "c", network, {"step": 2}, optimizer)
    assert (tmp_path / "c").exists() == (renames == 0)
    found = checkpoint.find(tmp_path / "c")
    assert found is not None
    assert checkpoint.load(found, *trained(seed=3))["step"] == 1
    checkpoint.save(tmp_path / "c", network, {"step": 3}, optimizer)
    assert os.listdir(tmp_path) == ["c"], "the next one tidies up"
    found = checkpoint.find(tmp_path / "c")
    assert found is not None
    assert checkpoint.load(found, *trained())["step"] == 3


def test_none_yet(tmp_path: Path) -> None:
    assert checkpoint.find(tmp_path / "c") is None


@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "text"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: str) -> None:
    checkpoint.save(tmp_path / "c", trained()[0], {}, trained()[1])
    path = tmp_path / "c" / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"no weights"}[damage])
    with pytest.raises(RunError, match=name):
        checkpoint.load(tmp_path / "c", *trained())


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", trained()[0], {}, None)
    with pytest.raises(RunError, match="cannot be loaded"):
        checkpoint.load_weights(nn.Linear(4, 6), tmp_path / "c" / checkpoint.WEIGHTS)


def test_no_folder_to_write_into(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another folder"):
        checkpoint.save(tmp_path / "file" / "run" / "c", *_one(), None)

from __future__ import annotations

import json
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.suites.released_weights import write_weights
from workbench.errors import RunError
from workbench.released.sources import FILES, Source, open_pickle

LAYOUTS = ["safetensors", "sharded safetensors", "bin", "sharded bin"]


def weights(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {name: torch.randn(3, i + 1, generator=rng).to(dtype) for i, name in enumerate("abcd")}


def shapes() -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights().items()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_layout_gives_the_same_bits(tmp_path: Path, layout: str, dtype: torch.dtype) -> None:
    stored = weights(dtype)
    write_weights(tmp_path, stored, layout)
    source = Source(tmp_path)
    source.check(shapes())
    assert source.entries.keys() == stored.keys()
    assert (source.index is not None) == layout.startswith("sharded")
    assert len(source.files) == (2 if layout.startswith("sharded") else 1)
    for name, tensor in stored.items():
        assert source.entries[name].dtype == str(dtype).removeprefix("torch.")
        assert torch.equal(source.tensor(name), tensor)


def test_old_pickles_that_are_no_archives(tmp_path: Path) -> None:
    torch.save(OrderedDict(weights()), tmp_path / FILES[2], _use_new_zipfile_serialization=False)
    assert torch.equal(Source(tmp_path).tensor("b"), weights()["b"])


def test_buffers_of_older_libraries_are_passed_over(tmp_path: Path) -> None:
    write_weights(tmp_path, {**weights(), "transformer.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)})
    Source(tmp_path).check(shapes())


class _Evil:
    """What unpickling it would run."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


class TestPickles:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_one_that_would_run_something_is_refused_and_not_run(self, tmp_path: Path, zipped: bool) -> None:
        marker, path = tmp_path / "was-run", tmp_path / FILES[2]
        content = {**weights(), "e": _Evil(marker)}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(RunError) as refused:
            Source(tmp_path)
        assert not marker.exists()
        message = str(refused.value)
        assert "was not opened: the pickle asks for" in message
        assert "mkdir" in message
        assert "nothing was run" in message
        assert "safetensors" in message
        torch.load(path, weights_only=False)  # it would have run
        assert marker.exists()

    @pytest.mark.parametrize("zipped", [True, False])
    def test_of_a_newer_protocol_our_message_is_all_that_is_said(self, tmp_path: Path, zipped: bool) -> None:
        path = tmp_path / FILES[2]
        torch.save(weights(), path, _use_new_zipfile_serialization=zipped, pickle_protocol=4)
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            with pytest.raises(RunError, match=r"was not opened: .* of a newer protocol than torch.save's own"):
                Source(tmp_path)
        assert [str(warning.message) for warning in shown] == []

    def test_of_a_protocol_that_can_be_read_nothing_is_said(self, tmp_path: Path) -> None:
        torch.save(weights(), tmp_path / FILES[2], pickle_protocol=3)
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            assert torch.equal(Source(tmp_path).tensor("b"), weights()["b"])
        assert [str(warning.message) for warning in shown] == []

    @pytest.mark.parametrize("content", [[1, 2], {"a": 3}, {1: torch.ones(2)}, torch.ones(3)])
    def test_something_else_than_named_tensors(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "x.bin")
        with pytest.raises(RunError, match="holds something else than tensors by name"):
            open_pickle(tmp_path / "x.bin")

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(
        ("kind", "make"),
        [
            ("sparse", lambda: torch.eye(3).to_sparse()),
            ("sparse", lambda: torch.eye(3).to_sparse_csr()),
            ("meta", lambda: torch.empty(3, 3, device="meta")),
            ("quantised", lambda: torch.quantize_per_tensor(torch.ones(3, 3), 0.1, 0, torch.qint8)),
            ("nested", lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
            ("nested", lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)),
        ],
        ids=["coo", "csr", "meta", "quantised", "nested", "jagged"],
    )
    def test_tensors_that_are_not_plain(self, tmp_path: Path, kind: str, make: Callable[[], Tensor]) -> None:
        write_weights(tmp_path, {**weights(), "odd": make()}, "bin")
        with pytest.raises(RunError, match=rf"pytorch_model.bin holds odd as a {kind} tensor; wanted are plain"):
            Source(tmp_path)

    def test_views_are_plain(self, tmp_path: Path) -> None:
        """Transposed, expanded, negated without being written: the values that they stand for."""
        views = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(1).expand(4)}
        views["c"] = torch._neg_view(torch.ones(2))
        write_weights(tmp_path, views, "bin")
        source = Source(tmp_path)
        for name, tensor in views.items():
            assert source.tensor(name).contiguous().view(torch.int32).tolist() == (
                tensor.resolve_neg().contiguous().view(torch.int32).tolist()
            )

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x02 no pickle", b"plain text"])
    def test_damaged(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x.bin").write_bytes(content)
        with pytest.raises(RunError, match=r"x.bin was not opened: "):
            open_pickle(tmp_path / "x.bin")

    def test_cut_off(self, tmp_path: Path) -> None:
        write_weights(tmp_path, weights(), "bin")
        path = tmp_path / FILES[2]
        path.write_bytes(path.read_bytes()[:-300])
        with pytest.raises(RunError, match="was not opened: it is damaged"):
            Source(tmp_path)


class TestWhatDoesNotFit:
    def test_no_weights(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match=r"holds no weights; one of model.safetensors, .*pytorch_model.bin"):
            Source(tmp_path)

    def test_missing_unexpected_and_wrong_shapes_are_named(self, tmp_path: Path) -> None:
        stored = weights()
        del stored["b"]
        write_weights(tmp_path, {**stored, "more": torch.ones(1), "a": torch.ones(2, 2)})
        with pytest.raises(RunError) as refused:
            Source(tmp_path).check(shapes())
        message = str(refused.value)
        assert "missing 1 (b)" in message
        assert "not wanted 1 (more)" in message
        assert "a has shape (2, 2), wanted is (3, 1)" in message

    def test_many_are_counted(self, tmp_path: Path) -> None:
        write_weights(tmp_path, weights())
        wanted = {**shapes(), **{f"x{i}": (1,) for i in range(20)}}
        with pytest.raises(RunError, match=r"missing 20 \(x0, x1, x2, x3, x4, x5 and 14 more\)"):
            Source(tmp_path).check(wanted)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.int32])
    @pytest.mark.parametrize("layout", ["safetensors", "bin"])
    def test_other_types(self, tmp_path: Path, dtype: torch.dtype, layout: str) -> None:
        write_weights(tmp_path, {**weights(), "a": torch.ones(3, 1, dtype=dtype)}, layout)
        with pytest.raises(RunError, match=r"a is of \w+, wanted is one of float32, bfloat16, float16"):
            Source(tmp_path).check(shapes())

    def test_a_damaged_safetensors_file(self, tmp_path: Path) -> None:
        write_weights(tmp_path, weights())
        path = tmp_path / FILES[0]
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(RunError, match=r"model.safetensors cannot be read"):
            Source(tmp_path)


class TestIndex:
    def write(self, folder: Path, index: object) -> Path:
        write_weights(folder, weights(), "sharded safetensors")
        path = folder / FILES[1]
        path.write_text(index if isinstance(index, str) else json.dumps(index))
        return path

    @pytest.mark.parametrize("index", ["{", {}, {"weight_map": {}}, {"weight_map": {"a": 3}}, [1]])
    def test_unreadable(self, tmp_path: Path, index: object) -> None:
        self.write(tmp_path, index)
        with pytest.raises(RunError, match=r"the index .*index.json cannot be read"):
            Source(tmp_path)

    @pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", ".."])
    def test_files_elsewhere_are_not_read(self, tmp_path: Path, file: str) -> None:
        self.write(tmp_path, {"weight_map": {"a": file}})
        with pytest.raises(RunError, match="only files beside it are read"):
            Source(tmp_path)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        write_weights(tmp_path, weights(), "sharded safetensors")
        (tmp_path / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(RunError, match=r"model-00002-of-00002.safetensors is missing.*copy the folder again"):
            Source(tmp_path)

    def test_a_file_of_another_copy(self, tmp_path: Path) -> None:
        write_weights(tmp_path, weights(), "sharded safetensors")
        save_file({"a": torch.ones(3, 1), "z": torch.ones(1)}, tmp_path / "model-00001-of-00002.safetensors")
        with pytest.raises(RunError, match=r"lacks tensors that the index .*: 1 \(b\)"):
            Source(tmp_path)
        save_file(
            {**dict(list(weights().items())[:2]), "z": torch.ones(1)},
            tmp_path / "model-00001-of-00002.safetensors",
        )
        with pytest.raises(RunError, match=r"holds tensors that the index does not list: 1 \(z\)"):
            Source(tmp_path)

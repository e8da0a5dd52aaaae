"""The table of posteriors: the same as encoding, made once, refused where it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from tests.suites.small import VOCAB, build_autoencoder, build_calm, rng, small_config
from workbench import files, flops, targets
from workbench.data import training_blocks
from workbench.errors import ConfigError
from workbench.targets import PosteriorTable, build_table, cached_table, distinct_codes


def text(num: int = 3000) -> npt.NDArray[np.uint16]:
    return np.random.default_rng(0).integers(1, 6, size=num).astype(np.uint16)


def table(chunk_size: int) -> tuple[Any, PosteriorTable]:
    autoencoder = build_autoencoder(small_config(chunk_size=chunk_size))
    return autoencoder, build_table(autoencoder, distinct_codes(text(), chunk_size, VOCAB))


@pytest.mark.parametrize("chunk_size", [1, 2, 4])
def test_every_chunk_at_every_alignment_has_the_posterior_that_encoding_gives(chunk_size: int) -> None:
    autoencoder, found = table(chunk_size)
    windows = np.lib.stride_tricks.sliding_window_view(text(), chunk_size).astype(np.int64)
    chunks = torch.from_numpy(windows.copy()).unflatten(0, (-1, 1))
    with torch.no_grad():
        encoded = autoencoder.encode(chunks)
    torch.testing.assert_close(found(chunks).mean, encoded.mean)
    torch.testing.assert_close(found(chunks).log_std, encoded.log_std)
    assert len(found) == len(np.unique(windows, axis=0))


def test_pieces_of_the_text_do_not_lose_chunks_across_their_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = distinct_codes(text(), 4, VOCAB)
    monkeypatch.setattr(targets, "_COUNTED_AT_ONCE", 7)
    np.testing.assert_array_equal(distinct_codes(text(), 4, VOCAB), whole)


def test_a_chunk_that_the_text_does_not_have_is_refused() -> None:
    _, found = table(2)
    with pytest.raises(KeyError, match="not in the table"):
        found(torch.tensor([[3, 7]]))
    with pytest.raises(KeyError, match="not in the table"):
        found(torch.tensor([[VOCAB - 1, VOCAB - 1]]))


@pytest.mark.parametrize("mode", ["tokens", "both"])
def test_training_with_the_table_is_training_with_the_encoder(mode: str) -> None:
    config = small_config(input_mode=mode)
    model = build_calm(config)
    blocks = torch.from_numpy(training_blocks(text(), 3, 32, np.random.default_rng(1)))
    encoded = model.training_loss(blocks, rng=rng())
    model.targets = build_table(model.autoencoder, distinct_codes(text(), 4, VOCAB))
    torch.testing.assert_close(model.training_loss(blocks, rng=rng()), encoded)


def test_a_step_with_the_table_executes_what_is_counted() -> None:
    config = small_config(cache_targets=True)
    model = build_calm(config)
    model.targets = build_table(model.autoencoder, distinct_codes(text(), 4, VOCAB))
    blocks = torch.from_numpy(training_blocks(text(), config.batch_sequences, 32, np.random.default_rng(1)))
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        model.training_loss(blocks, rng=rng()).mean().backward()
    assert flops.train_step_flops(config, VOCAB) == pytest.approx(counter.get_total_flops(), rel=1e-4)


def test_the_cache_is_made_once_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder = build_autoencoder(small_config())
    first = cached_table(autoencoder, text(), tmp_path)
    monkeypatch.setattr(targets, "build_table", lambda *_: pytest.fail("made again"))
    again = cached_table(autoencoder, text(), tmp_path)
    assert torch.equal(first.mean, again.mean)
    assert torch.equal(first.codes, again.codes)


@pytest.mark.parametrize("damage", ["cut", "altered", "another's", "pickle"])
def test_a_table_that_is_no_table_of_ours_is_made_anew(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    autoencoder = build_autoencoder(small_config())
    first = cached_table(autoencoder, text(), tmp_path)
    mean, codes = first.mean.clone(), first.codes.clone()
    (folder,) = (tmp_path / "posteriors").glob("[0-9a-f]*")
    path = folder / "table.safetensors"
    content = path.read_bytes()
    if damage == "another's":
        save_file({"codes": codes, "mean": mean[:, :-1].clone(), "log_std": mean}, path)
    else:
        altered = {"cut": content[:-5], "altered": content[:-1] + b"\x7f", "pickle": b"\x80\x04K\x01."}[damage]
        path.write_bytes(altered)
    if damage in ("another's", "pickle"):  # and a manifest that fits
        manifest = files.read_json(folder / "manifest.json")
        manifest["files"][path.name] = {"size": path.stat().st_size, "sha256": files.sha256(path)}
        files.write_json(folder / "manifest.json", manifest)
    again = cached_table(autoencoder, text(), tmp_path)
    assert torch.equal(again.mean, mean)
    assert torch.equal(again.codes, codes)
    assert path.read_bytes() == content
    reason = {"another's": "names, shapes or types are not a table's", "pickle": "it is a pickle"}.get(damage, "")
    assert "is not used: " in caplog.text
    assert reason in caplog.text


def test_other_weights_and_other_text_have_tables_of_their_own(tmp_path: Path) -> None:
    autoencoder = build_autoencoder(small_config())
    cached_table(autoencoder, text(), tmp_path)
    cached_table(autoencoder, text(2000), tmp_path)
    with torch.no_grad():
        autoencoder.to_latent.bias.add_(1.0)
    moved = cached_table(autoencoder, text(), tmp_path)
    assert len(list((tmp_path / "posteriors").glob("[0-9a-f]*"))) == 3
    chunks = torch.from_numpy(text()[:4].astype(np.int64))[None]
    with torch.no_grad():
        torch.testing.assert_close(moved(chunks).mean, autoencoder.encode(chunks).mean)


def test_what_does_not_fit_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"chunks of 8 tokens of 300 .* set it to false"):
        distinct_codes(text(), 8, 300)
    monkeypatch.setattr(targets, "LARGEST_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"more than \d+ distinct chunks, .* set it to false"):
        cached_table(build_autoencoder(small_config()), text(), tmp_path)
    assert list((tmp_path / "posteriors").glob("[0-9a-f]*")) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"chunk_size": 4}, True),
        ({"chunk_size": 8}, False),
        ({"chunk_size": 4, "latent": 65}, False),
        ({"chunk_size": 1, "bpe": True}, True),
        ({"chunk_size": 2, "bpe": True}, False),
    ],
)
def test_the_default_is_where_chunks_repeat(fields: dict[str, Any], expected: bool) -> None:
    config = small_config(chunk_size=fields["chunk_size"])
    update: dict[str, Any] = {"train": config.train.model_copy(update={"cache_targets": None})}
    if "latent" in fields:
        update["autoencoder"] = config.autoencoder.model_copy(update={"latent_dim": fields["latent"]})
    if "bpe" in fields:
        tokenizer = config.data.tokenizer.model_copy(update={"kind": "bpe"})
        update["data"] = config.data.model_copy(update={"tokenizer": tokenizer})
    assert config.model_copy(update=update).resolved().train.cache_targets is expected

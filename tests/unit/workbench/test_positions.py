"""Files of per-position scores: written whole, read without pickle, refused when damaged."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from workbench.errors import RunError
from workbench.positions import (
    FloorScores,
    PositionScores,
    read_floors,
    read_positions,
    write_floors,
    write_positions,
)


def scores(*, cross_entropy: bool = False) -> PositionScores:
    rng = np.random.default_rng(0)
    return PositionScores(
        fingerprint="0123abc",
        values=rng.normal(size=(5, 3, 4)).astype(np.float32),
        clusters=np.array([4, 2, 2, 7, 1]),
        starts=np.array([0, 512, 256, 768, 128]),
        step=37,
        rounds=2,
        cross_entropy=rng.normal(size=5).astype(np.float32) if cross_entropy else None,
    )


@pytest.mark.parametrize("cross_entropy", [False, True])
def test_round_trip(tmp_path: Path, cross_entropy: bool) -> None:
    written = scores(cross_entropy=cross_entropy)
    write_positions(tmp_path / "p.npz", written)
    found = read_positions(tmp_path / "p.npz")
    assert (found.fingerprint, found.step, found.rounds) == ("0123abc", 37, 2)
    for name in ("values", "clusters", "starts", "cross_entropy"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))


def test_floors_round_trip(tmp_path: Path) -> None:
    written = FloorScores("f", np.arange(5), {"bigram": scores().values, "trigram": scores().values + 1})
    write_floors(tmp_path / "f.npz", written)
    found = read_floors(tmp_path / "f.npz")
    assert found.fingerprint == "f"
    assert list(found.tables) == ["bigram", "trigram"]
    np.testing.assert_array_equal(found.tables["trigram"], written.tables["trigram"])


def test_equal_scores_are_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_positions(tmp_path / name, scores())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no positions\.npz.*calm evaluate RUN"):
        read_positions(tmp_path / "positions.npz")


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_a_damaged_file_is_refused(tmp_path: Path, keep: int) -> None:
    write_positions(tmp_path / "p.npz", scores())
    content = (tmp_path / "p.npz").read_bytes()
    (tmp_path / "p.npz").write_bytes(content[:keep])
    with pytest.raises(RunError, match="cannot be read"):
        read_positions(tmp_path / "p.npz")


@pytest.mark.slow
def test_any_byte_altered_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """A few bytes of an archive say nothing, such as the time; the rest has checksums."""
    path, written = tmp_path / "p.npz", scores()
    write_positions(path, written)
    content = path.read_bytes()
    refused = 0
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        path.write_bytes(altered)
        try:
            found = read_positions(path)
        except RunError:
            refused += 1
            continue
        assert (found.fingerprint, found.step, found.rounds) == ("0123abc", 37, 2)
        for name in ("values", "clusters", "starts"):
            np.testing.assert_array_equal(getattr(found, name), getattr(written, name))
    assert refused > 0.6 * len(content)


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 4), (0, 3, 4)])
def test_scores_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, dtype=np.float32)
    write_positions(tmp_path / "p.npz", dataclasses.replace(scores(), values=values))
    with pytest.raises(RunError, match=r"cannot be read \(values has shape"):
        read_positions(tmp_path / "p.npz")
    write_floors(tmp_path / "f.npz", FloorScores("f", np.arange(5), {"bigram": values}))
    with pytest.raises(RunError, match=r"cannot be read \(bigram has shape"):
        read_floors(tmp_path / "f.npz")


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", values=np.array([print], dtype=object))
    with pytest.raises(RunError, match="cannot be read"):
        read_positions(tmp_path / "p.npz")


def test_another_archive_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", values=np.zeros(3))
    with pytest.raises(RunError, match="lacks clusters, starts"):
        read_positions(tmp_path / "p.npz")


@pytest.mark.parametrize("kind", ["a text", "a single array"])
def test_what_is_no_archive_is_said_without_advice_to_load_it_unsafely(tmp_path: Path, kind: str) -> None:
    with (tmp_path / "p.npz").open("wb") as file:
        if kind == "a text":
            file.write(b"hi")
        else:
            np.save(file, np.zeros(3))
    with pytest.raises(RunError, match=r"cannot be read \(it is no archive of arrays\)"):
        read_positions(tmp_path / "p.npz")

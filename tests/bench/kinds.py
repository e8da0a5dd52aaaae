"""The models that the profiles compare: the token baseline, and a CALM for each K and head, at two sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.bench.our_training import training_config
from workbench.config import RunConfig
from workbench.heads import HEADS

CHUNK_SIZES = (1, 2, 4, 8)
SIZES = ("small", "512")
"""As the presets small-calm and small-baseline; D = 512 with 4 layers."""


@dataclass(frozen=True)
class Kind:
    """The token baseline where ``chunk_size`` is None."""

    chunk_size: int | None = None
    head: str = ""

    @property
    def name(self) -> str:
        return "baseline" if self.chunk_size is None else f"K = {self.chunk_size}, {self.head}"


def all_kinds() -> list[Kind]:
    return [Kind(), *(Kind(k, head) for head in HEADS for k in CHUNK_SIZES)]


def kinds_of(names: str | None) -> list[Kind]:
    """Those whose chunk size (or "baseline") is in a comma-separated list; all without one."""
    kinds = all_kinds()
    if names is None:
        return kinds
    wanted = names.split(",")
    known = {"baseline", *map(str, CHUNK_SIZES)}
    if unknown := sorted(set(wanted) - known):
        raise SystemExit(f"--kinds: {', '.join(unknown)} given, wanted are some of {', '.join(sorted(known))}")
    return [kind for kind in kinds if str(kind.chunk_size or "baseline") in wanted]


def config_of(
    kind: Kind, size: str, *, dtype: str, threads: int, evaluation: dict[str, Any] | None = None
) -> RunConfig:
    """Resolved, with blocks and batch as the workbench's rule has them."""
    layers = 4 if size == "512" or kind.chunk_size is None else 2
    width, heads = (512, 8) if size == "512" else (128, 4)
    backbone = {"width": width, "num_layers": layers, "num_heads": heads}
    if kind.chunk_size is None:
        return training_config(
            kind="baseline", dtype=dtype, threads=threads, backbone=backbone, evaluation=evaluation
        )
    return training_config(
        chunk_size=kind.chunk_size,
        dtype=dtype,
        threads=threads,
        backbone=backbone,
        head={"kind": kind.head},
        autoencoder={"latent_dim": 8 * kind.chunk_size, "width": width},
        evaluation=evaluation,
    )

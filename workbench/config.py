"""The configuration of a run. Imports no torch.

A ``RunConfig`` is the only input of a run. Fields that are ``None`` ("choose for me") are filled by
``RunConfig.resolved()``; what is stored beside a run and hashed is the resolved configuration. Its sections are in
``workbench.sections``.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

import yaml
from pydantic import model_validator

from workbench import formats
from workbench.data_sections import BYTE_VOCAB, DEFAULT_BPE_VOCAB, DataConfig, TokenizerConfig
from workbench.head_sections import (
    SOLVERS,
    DiffusionHeadConfig,
    EnergyHeadConfig,
    FlowHeadConfig,
    HeadConfig,
    Section,
    Seed,
)
from workbench.sections import (
    FAN_IN_BELOW_WIDTH,
    AutoencoderConfig,
    BackboneConfig,
    BaselineConfig,
    CalmConfig,
    EvalConfig,
    Init,
    ModelConfig,
    OptimConfig,
    RuntimeConfig,
    TradeoffConfig,
    TrainConfig,
)

__all__ = [
    "BYTE_VOCAB",
    "DEFAULT_BPE_VOCAB",
    "FAN_IN_BELOW_WIDTH",
    "AutoencoderConfig",
    "BackboneConfig",
    "BaselineConfig",
    "CalmConfig",
    "DataConfig",
    "DiffusionHeadConfig",
    "EnergyHeadConfig",
    "EvalConfig",
    "FlowHeadConfig",
    "HeadConfig",
    "Init",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "RuntimeConfig",
    "Section",
    "TokenizerConfig",
    "TradeoffConfig",
    "TrainConfig",
    "content_hash",
]


class RunConfig(Section):
    """Everything a run depends on."""

    name: str | None = None
    seed: Seed = 0
    data: DataConfig = DataConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    model: ModelConfig = CalmConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig(train_tokens=2_000_000)
    eval: EvalConfig = EvalConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        k = self.chunk_size
        if self.train.block_len % k:
            raise ValueError(
                f"train.block_len {self.train.block_len} is not a multiple of model.chunk_size {k}; "
                f"nearest lengths: {_multiples(self.train.block_len, k)}"
            )
        if self.train.block_len < 2 * k:
            raise ValueError(f"train.block_len {self.train.block_len} holds fewer than two chunks of {k}")
        if self.train.cache_targets and self.data.streams:
            raise ValueError("train.cache_targets wants a text that is kept; the corpus streams: set it to false")
        ids = self.data.tokenizer.num_ids
        if self.is_calm and self.train.cache_targets and ids**k >= 2**63:
            raise ValueError(
                f"train.cache_targets: chunks of {k} tokens of {ids} cannot be numbered in 63 bits; "
                "set it to false"
            )
        if self.eval.grid_stride % k:
            raise ValueError(
                f"eval.grid_stride {self.eval.grid_stride} is not a multiple of model.chunk_size {k}, so the "
                f"scored positions would not be chunk boundaries; nearest: {_multiples(self.eval.grid_stride, k)}"
            )
        return self

    @property
    def chunk_size(self) -> int:
        """K; 1 for the token baseline."""
        return self.model.chunk_size if isinstance(self.model, CalmConfig) else 1

    @property
    def is_calm(self) -> bool:
        return isinstance(self.model, CalmConfig)

    def resolved(
        self,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        autoencoder_dtype: str = "float32",
        threads: int = 1,
    ) -> RunConfig:
        """The same configuration with every "choose for me" replaced by its value, and fields that have no effect
        by their default, so that equal experiments have equal hashes.

        The arguments are what the machine was found to have; they fill only what was left open."""
        width = self.model.backbone.width
        init: Init = self.model.init or ("fan_in" if width < FAN_IN_BELOW_WIDTH else "paper")
        layers = self.model.backbone.num_layers
        backbone = self.model.backbone.model_copy(
            update={
                "num_kv_heads": self.model.backbone.num_kv_heads or self.model.backbone.num_heads,
                "mlp_width": self.model.backbone.mlp_width or _round_up(round(8 * width / 3), 32),
            }
        )
        model_update: dict[str, Any] = {"backbone": backbone, "init": init}
        if isinstance(self.model, CalmConfig):
            head = self.model.head
            model_update["head"] = head.model_copy(update={**head.chosen(layers), **head.without_effect()})
        ae = self.autoencoder
        ae_update: dict[str, Any] = {
            "mlp_width": ae.mlp_width or round(2.5 * ae.width),
            "init": ae.init or ("fan_in" if ae.width < FAN_IN_BELOW_WIDTH else "paper"),
        }
        base_lr, positions = (1e-3, 256) if self.is_calm else (3e-3, 2048)
        lr = self.optim.lr or base_lr * 128 / width
        optim_update = {
            "lr": lr,
            "matrix_lr": self.optim.matrix_lr or (lr if self.optim.kind == "muon" else None),
            "batch_positions": self.optim.batch_positions or positions,
            **self.optim.without_effect(),
        }
        runtime_update = {
            "device": device if self.runtime.device == "auto" else self.runtime.device,
            "dtype": dtype if self.runtime.dtype == "auto" else self.runtime.dtype,
            "autoencoder_dtype": autoencoder_dtype
            if self.runtime.autoencoder_dtype == "auto"
            else self.runtime.autoencoder_dtype,
            "threads": self.runtime.threads or threads,
        }
        train_update = {"cache_targets": self._caches_targets()}
        eval_update: dict[str, Any] = {}
        if not isinstance(self.model, CalmConfig):  # the comparison by network calls is about a CALM's head ...
            eval_update = {"network_calls": (), "solvers": ()}
        elif self.model.head.kind not in SOLVERS:  # ... and this one has no solver
            eval_update = {"solvers": ()}
        return self.model_copy(
            update={
                "model": self.model.model_copy(update=model_update),
                "train": self.train.model_copy(update=train_update),
                "eval": self.eval.model_copy(update=eval_update),
                "autoencoder": ae.model_copy(update=ae_update),
                "optim": self.optim.model_copy(update=optim_update),
                "runtime": self.runtime.model_copy(update=runtime_update),
            }
        )

    def _caches_targets(self) -> bool:
        if not self.is_calm or self.data.streams:
            return False
        byte = self.data.tokenizer.kind == "byte"
        few = self.chunk_size == 1 or (byte and self.chunk_size <= 4 and self.autoencoder.latent_dim <= 64)
        return few if self.train.cache_targets is None else self.train.cache_targets

    @property
    def batch_sequences(self) -> int:
        """Blocks in a step (resolved configurations only)."""
        assert self.optim.batch_positions is not None, "call resolved() first"
        return max(1, round(self.optim.batch_positions * self.chunk_size / self.train.block_len))

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """As stored, with its format's number."""
        return yaml.safe_dump(formats.CONFIG.numbered(self.to_dict()), sort_keys=False)

    def hash(self) -> str:
        """Of everything the result depends on: equal hash, equal experiment."""
        ignored = {"name"} if self.is_calm else {"name", "autoencoder"}
        return content_hash({k: v for k, v in self.hashed().items() if k not in ignored})


def content_hash(value: object, length: int = 16) -> str:
    """Hash of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _multiples(value: int, k: int) -> str:
    below = value // k * k
    return " or ".join(str(m) for m in (below, below + k) if m > 0)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple

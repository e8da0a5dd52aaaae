"""From a number of parameters to a model that can be built: width, layers, and what it costs exactly.

The shape follows the presets: 64 of width for each layer (small 128 x 2, Transformer-S 768 x 12, CALM-M 1024 x
16), at least 2 layers and at most 16, beyond which models grow in width (CALM-XL 2560 x 16); where all runs
that a law was fitted to have one depth, that depth, so that the shape is of the fitted family. All else is as
in a configuration of reference: that of a run of the study, or else the tuned preset. Counts are those of
``workbench.flops``, so that steps x FLOPs of a step is the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench import flops
from workbench.config import RunConfig
from workbench.config_file import build_config, load_config
from workbench.errors import ConfigError

WIDTH_PER_LAYER = 64
MIN_LAYERS, MAX_LAYERS = 2, 16
FINE, COARSE, COARSE_FROM = 16, 64, 512
"""Widths are multiples of the first, from the third on of the second."""
WIDEST = 16384
PRESETS = {"calm": "tuned-calm", "baseline": "tuned-baseline"}


@dataclass(frozen=True)
class Shape:
    """A model of about the wanted size, and a run of it that spends the budget."""

    width: int
    num_layers: int
    num_heads: int
    num_parameters: int
    """N: without look-up embeddings and autoencoder."""
    flops_per_token: float
    """Executed, training."""
    infer_flops_per_token: float
    """Executed."""
    tokens: float
    """Whole steps that the budget pays, times the tokens of a step."""
    num_steps: int
    train_flops: float
    """Of these steps."""
    autoencoder_flops: float
    """Of training the autoencoder; 0 for a baseline."""
    latent_dim: int | None
    reference: str
    """Preset that the rest comes from; empty: a run of the study."""

    def command(self, chunk_size: int, budget: float) -> str:
        """``calm train ...`` for it; empty where the rest is not a preset's."""
        if not self.reference:
            return ""
        sets = [
            f"model.backbone.width={self.width}",
            f"model.backbone.num_layers={self.num_layers}",
            f"model.backbone.num_heads={self.num_heads}",
            f"train.train_flops={budget:.4g}",
        ]
        if self.latent_dim is not None:
            sets = [f"model.chunk_size={chunk_size}", f"autoencoder.latent_dim={self.latent_dim}", *sets]
        return f"calm train {self.reference} " + " ".join(f"--set {s}" for s in sets)


def layers_for(width: int) -> int:
    """By the presets' rule."""
    return min(MAX_LAYERS, max(MIN_LAYERS, round(width / WIDTH_PER_LAYER)))


def heads_for(width: int) -> int:
    """32 of width a head, 64 in wide models, at most 16 as in the presets; the nearest number that divides."""
    wanted = min(16, max(1, width // (64 if width >= COARSE_FROM else 32)))
    return next(h for h in range(wanted, 0, -1) if width % h == 0 and (width // h) % 2 == 0)


def reference_tree(kind: str, tree: Mapping[str, Any] | None) -> tuple[dict[str, Any], str]:
    """The configuration to start from as a mapping, and the preset's name where it is one."""
    if tree is not None:
        return dict(tree), ""
    return load_config(PRESETS[kind]).to_dict(), PRESETS[kind]


def find_shape(
    chunk_size: int,
    num_parameters: float,
    budget: float,
    *,
    latent_dim: int | None = None,
    num_layers: int | None = None,
    tree: Mapping[str, Any] | None = None,
    infer_limit: float | None = None,
) -> Shape | None:
    """The shape whose size is nearest (in ratio) to ``num_parameters``, and its run at ``budget`` FLOPs.

    ``chunk_size`` 0: the token baseline. ``num_layers``: that all runs of the law have, None: by the presets'
    rule. ``infer_limit``: of its executed inference FLOPs a token. None where the configuration of reference
    cannot have this K, no width keeps to the limit, or the budget does not pay one step."""
    start, preset = reference_tree("calm" if chunk_size else "baseline", tree)
    ladder = [*range(FINE, COARSE_FROM, FINE), *range(COARSE_FROM, WIDEST + 1, COARSE)]
    try:
        first, last = 0, len(ladder) - 1
        while last - first > 1:  # sizes grow with the width
            middle = (first + last) // 2
            tried = _config(start, chunk_size, ladder[middle], latent_dim, num_layers, budget)
            small = _size(tried) <= num_parameters and _within(tried, infer_limit)
            first, last = (middle, last) if small else (first, middle)
        configs = [_config(start, chunk_size, ladder[i], latent_dim, num_layers, budget) for i in (first, last)]
    except ConfigError:
        return None
    configs = [config for config in configs if _within(config, infer_limit)]
    if not configs:
        return None
    config = min(configs, key=lambda c: abs(math.log(_size(c) / num_parameters)))
    return _shape(config, budget, preset)


def _config(
    start: Mapping[str, Any],
    chunk_size: int,
    width: int,
    latent_dim: int | None,
    num_layers: int | None,
    budget: float,
) -> RunConfig:
    backbone = "model.backbone"
    layers = num_layers or layers_for(width)
    sets: dict[str, Any] = {
        f"{backbone}.width": width,
        f"{backbone}.num_layers": layers,
        f"{backbone}.num_heads": heads_for(width),
        f"{backbone}.num_kv_heads": None,
        f"{backbone}.mlp_width": None,
        "train.train_flops": budget,
        "train.train_tokens": None,
        "train.cache_targets": None,
    }
    if chunk_size:
        head = (start.get("model") or {}).get("head") or {}
        blocks = head.get("num_blocks")
        sets["model.chunk_size"] = chunk_size
        sets["model.head.num_blocks"] = None if blocks is None else max(int(blocks), layers // 4)
        if latent_dim is not None:
            sets["autoencoder.latent_dim"] = latent_dim
    return build_config(start, sets).resolved()


def _size(config: RunConfig) -> int:
    parts = flops.parameters(config, flops.vocab_size(config))
    return sum(num for name, num in parts.items() if name not in ("total", "autoencoder", "embedding"))


def _within(config: RunConfig, infer_limit: float | None) -> bool:
    return infer_limit is None or flops.infer_flops_per_token(config, flops.vocab_size(config)) <= infer_limit


def _shape(config: RunConfig, budget: float, preset: str) -> Shape | None:
    vocab = flops.vocab_size(config)
    per_step, tokens = flops.train_step_flops(config, vocab), flops.tokens_per_step(config)
    steps = int(budget / per_step)
    if steps < 1:
        return None
    backbone = config.model.backbone
    return Shape(
        width=backbone.width,
        num_layers=backbone.num_layers,
        num_heads=backbone.num_heads,
        num_parameters=_size(config),
        flops_per_token=per_step / tokens,
        infer_flops_per_token=flops.infer_flops_per_token(config, vocab),
        tokens=float(steps * tokens),
        num_steps=steps,
        train_flops=steps * per_step,
        autoencoder_flops=flops.autoencoder_train_flops(config, vocab) if config.is_calm else 0.0,
        latent_dim=config.autoencoder.latent_dim if config.is_calm else None,
        reference=preset,
    )

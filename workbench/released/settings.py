"""The released ``config.json`` as a configuration of ours, and back. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workbench import files
from workbench.config import CalmConfig, EnergyHeadConfig, RunConfig, TokenizerConfig
from workbench.errors import RunError
from workbench.released.names import HEAD, HEAD_AGAIN
from workbench.tokenizer import END_ID, PAD_ID

CONFIG = "config.json"
TOKENIZER_SIZE = "tokenizer_size"
"""Key of ours: ids of the tokenizer, where the vocabulary is padded beyond them."""
SHARED = ("patch_size", "latent_size", "vocab_size")
"""Keys that both folders must agree in."""

_SIZES = ("hidden_size", "intermediate_size", *SHARED)
_WANTED = {
    "autoencoder": _SIZES,
    "language model": (*_SIZES, "num_hidden_layers", "num_attention_heads", "num_mlp_layers"),
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "autoencoder": {
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "ae_dropout": 0.15,
        "kl_clamp": 0.5,
        "kl_weight": 1e-3,
        "rms_norm_eps": 1e-6,
    },
    "language model": {
        "num_key_value_heads": None,
        "noise_size": 64,
        "num_samples": 8,
        "beta": 1.0,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
    },
}
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "attention_dropout": (0.0, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1.0, None),
}
"""Keys that may only say so: the architecture has nothing else."""
_ROTARY = ("rope_parameters", "rope_scaling")
"""Objects about rotary positions, of newer and of older versions of transformers."""
_ROTARY_TYPES = ("rope_type", "type")
_ROTARY_NEUTRAL = ("attention_factor", "factor", "partial_rotary_factor")
"""Keys in them that change nothing where they are 1; any key may be null."""
_OTHER_HEADS = ("diffusion", "flow")
LAYERS: dict[str, dict[str, tuple[str, ...]]] = {
    "autoencoder": {
        "num_encoder_layers": ("encoder.encoder_layers.",),
        "num_decoder_layers": ("decoder.decoder_layers.",),
    },
    "language_model": {
        "num_hidden_layers": ("transformer.layers.",),
        "num_mlp_layers": tuple(f"{head}mlp_blocks." for head in (HEAD, HEAD_AGAIN)),
    },
}
"""Keys that count layers, and what the names of their tensors begin with."""


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _count(value: Any, least: int = 1, step: int = 1) -> bool:
    return type(value) is int and least <= value <= LARGEST and value % step == 0


LARGEST = 1_000_000
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{key: (_count, "a whole number above 0") for keys in _WANTED.values() for key in keys},
    "num_encoder_layers": (lambda value: _count(value, 2, 2), "an even whole number above 0"),
    "num_decoder_layers": (lambda value: _count(value, 2, 2), "an even whole number above 0"),
    "num_key_value_heads": (lambda value: value is None or _count(value), "a whole number above 0, or null"),
    TOKENIZER_SIZE: (_count, "a whole number above 0"),
    "noise_size": (_count, "a whole number above 0"),
    "num_samples": (lambda value: _count(value, 2), "a whole number of at least 2"),
    "ae_dropout": (lambda value: _number(value) and 0 <= value < 1, "a number from 0 to below 1"),
    "kl_clamp": (lambda value: _number(value) and value >= 0, "a number of at least 0"),
    "kl_weight": (lambda value: _number(value) and value >= 0, "a number of at least 0"),
    "rms_norm_eps": (lambda value: _number(value) and value > 0, "a number above 0"),
    "rope_theta": (lambda value: _number(value) and value > 0, "a number above 0"),
    "beta": (lambda value: _number(value) and 0 < value < 2, "a number above 0 and below 2"),
}
"""Of every key that means a field of ours: what its values may be."""


def read_settings(folder: Path, what: str) -> dict[str, Any]:
    """``config.json`` of a folder, ``what`` being "autoencoder" or "language model", with defaults filled in.

    Raises RunError where it is missing, incomplete or describes something else."""
    path = Path(folder) / CONFIG
    try:
        found = files.read_json(path)
    except FileNotFoundError:
        raise RunError(f"{folder} is no folder of released weights ({what}): it has no {CONFIG}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise RunError(f"{path}: an object is wanted, found {type(found).__name__}")
    kind = str(found.get("model_type", ""))
    if what == "language model" and kind in _OTHER_HEADS:
        raise RunError(
            f"{path} is of a CALM with the {kind} head (model_type); only the energy head's layout is known here"
        )
    found |= _rope_theta(found, path)
    for key, values in _ONLY.items():
        if key in found and found[key] not in values:
            raise RunError(f"{path}: {key} is {found[key]!r}; the architecture here has {values[0]!r} alone")
    missing = [key for key in _WANTED[what] if key not in found]
    if missing:
        swapped = what == "language model" and "num_encoder_layers" in found
        hint = "; this looks like the autoencoder's folder: the autoencoder comes first" if swapped else ""
        raise RunError(f"{path} lacks {', '.join(missing)}, which a released {what} has{hint}")
    filled = {**_DEFAULTS[what], **found}
    for key in (*_WANTED[what], *_DEFAULTS[what], *({TOKENIZER_SIZE} & found.keys())):
        valid, wanted = _RULES[key]
        if not valid(filled[key]):
            large = f" (at most {LARGEST:,})" if type(filled[key]) is int and filled[key] > LARGEST else ""
            raise RunError(f"{path}: {key} is {filled[key]!r}; {wanted} is wanted{large}")
    return filled


def _rope_theta(found: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """``rope_theta``, wherever it stands; nothing where it does not. Raises RunError where the settings contradict
    each other or are of other than plain rotary positions, with which the weights compute something else."""
    thetas = {} if found.get("rope_theta") is None else {"rope_theta": found["rope_theta"]}
    for name in _ROTARY:
        rope = found.get(name)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise RunError(f"{path}: {name} is {rope!r}; an object or null is wanted")
        for key, value in rope.items():
            if key == "rope_theta":
                thetas[f"{name}.{key}"] = value
            elif not (_plain_type(value) if key in _ROTARY_TYPES else _neutral(key, value)):
                raise RunError(f"{path}: {name} has {key} {value!r}; only plain rotary positions are known here")
    for name, value in thetas.items():
        valid, wanted = _RULES["rope_theta"]
        if not valid(value):
            raise RunError(f"{path}: {name} is {value!r}; {wanted} is wanted")
    if len(set(thetas.values())) > 1:
        said = " and ".join(f"{name} is {value!r}" for name, value in thetas.items())
        raise RunError(
            f"{path}: {said}; one value is wanted: keep the one that the model was trained with, delete the other"
        )
    return {"rope_theta": next(iter(thetas.values()))} if thetas else {}


def _plain_type(value: Any) -> bool:
    return value in ("default", None)


def _neutral(key: str, value: Any) -> bool:
    """Whether a further setting of rotary positions changes nothing."""
    return value is None or (key in _ROTARY_NEUTRAL and _number(value) and value == 1)


def sections(autoencoder: Mapping[str, Any], language_model: Mapping[str, Any]) -> dict[str, Any]:
    """``model`` and ``autoencoder`` of a run's configuration. Raises RunError where the two disagree."""
    for key in SHARED:
        if autoencoder[key] != language_model[key]:
            raise RunError(
                f"{key} is {autoencoder[key]!r} in the autoencoder's {CONFIG} and {language_model[key]!r} in the "
                "language model's; give the autoencoder that the language model was trained on"
            )
    width, heads = language_model["hidden_size"], language_model["num_attention_heads"]
    kv_heads = language_model["num_key_value_heads"] or heads
    if width % (2 * heads) or heads % kv_heads:
        raise RunError(
            f"the language model's {CONFIG}: hidden_size {width} must be a multiple of 2 x num_attention_heads "
            f"{heads}, and that a multiple of num_key_value_heads {kv_heads}"
        )
    head_dim = language_model.get("head_dim")
    if head_dim is not None and head_dim * heads != width:
        raise RunError(f"head_dim {head_dim} times {heads} heads is not hidden_size {width}: not known here")
    return {
        "model": {
            "kind": "calm",
            "chunk_size": language_model["patch_size"],
            "backbone": {
                "width": width,
                "num_layers": language_model["num_hidden_layers"],
                "num_heads": heads,
                "num_kv_heads": kv_heads,
                "mlp_width": language_model["intermediate_size"],
                "rope_theta": language_model["rope_theta"],
                "norm_eps": language_model["rms_norm_eps"],
            },
            "head": {
                "kind": "energy",
                "num_blocks": language_model["num_mlp_layers"],
                "noise_dim": language_model["noise_size"],
                "num_samples": language_model["num_samples"],
                "alpha": language_model["beta"],
            },
            "init": "paper",
        },
        "autoencoder": {
            "latent_dim": autoencoder["latent_size"],
            "width": autoencoder["hidden_size"],
            "mlp_width": autoencoder["intermediate_size"],
            "encoder_layers": autoencoder["num_encoder_layers"],
            "decoder_layers": autoencoder["num_decoder_layers"],
            "norm_eps": autoencoder["rms_norm_eps"],
            "token_dropout": autoencoder["ae_dropout"],
            "latent_dropout": autoencoder["ae_dropout"],
            "kl_weight": autoencoder["kl_weight"],
            "kl_floor": autoencoder["kl_clamp"],
            "init": "paper",
        },
    }


def require_expressible(config: RunConfig) -> None:
    """Raises RunError for what the released layout has no place for, with the reason."""
    model = config.model
    if not isinstance(model, CalmConfig):
        raise RunError("a token baseline cannot be exported: the released layout is a CALM's")
    head, ae = model.head, config.autoencoder
    reasons = []
    if not isinstance(head, EnergyHeadConfig):
        reasons.append(f"model.head.kind is {head.kind}, the released layout has the energy head alone")
    elif head.distance != "power":
        reasons.append(f"model.head.distance is {head.distance}, the released layout has d^beta alone")
    if model.input_mode != "tokens":
        reasons.append(f"model.input_mode is {model.input_mode}, the released layout reads tokens alone")
    if model.auxiliary_weight:
        reasons.append("model.auxiliary_weight has a layer of its own, which the released layout has no place for")
    if ae.token_dropout != ae.latent_dropout:
        reasons.append(
            f"autoencoder.token_dropout {ae.token_dropout:g} and latent_dropout {ae.latent_dropout:g} differ, the "
            "released layout has one ae_dropout"
        )
    if reasons:
        raise RunError("this run cannot be exported: " + "; ".join(reasons))


def has_their_ids(tokenizer: TokenizerConfig) -> bool:
    """Whether both reserved ids are special ones of the tokenizer's file, so that ids can be put back."""
    return tokenizer.end_id is not None and tokenizer.pad_id is not None


def released_settings(
    config: RunConfig, vocab: int, kept: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """``config.json`` of the autoencoder and of the language model; ``kept``: what was imported, whose further
    keys stay. ``config`` must be resolved and expressible."""
    model, ae = config.model, config.autoencoder
    assert isinstance(model, CalmConfig)
    assert isinstance(model.head, EnergyHeadConfig)
    backbone, head = model.backbone, model.head
    tokenizer = config.data.tokenizer
    end, pad = (tokenizer.end_id, tokenizer.pad_id) if has_their_ids(tokenizer) else (END_ID, PAD_ID)
    shared = {"patch_size": model.chunk_size, "latent_size": ae.latent_dim, "vocab_size": vocab}
    ids = {"pad_token_id": pad, "bos_token_id": end, "eos_token_id": end}
    plain = {**ids, "hidden_act": "silu", "mlp_bias": False}
    autoencoder = {
        "architectures": ["Autoencoder"],
        "model_type": "autoencoder",
        **plain,
        **kept.get("autoencoder", {}),
        **shared,
        "hidden_size": ae.width,
        "intermediate_size": ae.mlp_width,
        "num_encoder_layers": ae.encoder_layers,
        "num_decoder_layers": ae.decoder_layers,
        "ae_dropout": ae.token_dropout,
        "kl_clamp": ae.kl_floor,
        "kl_weight": ae.kl_weight,
        "rms_norm_eps": ae.norm_eps,
    }
    language_model = {
        "architectures": ["EnergyTransformer"],
        "model_type": "energy",
        "attention_bias": False,
        **plain,
        **kept.get("language_model", {}),
        **_rotary_keys(backbone.rope_theta, kept.get("language_model", {})),
        **shared,
        "hidden_size": backbone.width,
        "intermediate_size": backbone.mlp_width,
        "num_hidden_layers": backbone.num_layers,
        "num_attention_heads": backbone.num_heads,
        "num_key_value_heads": backbone.num_kv_heads,
        "rms_norm_eps": backbone.norm_eps,
        "num_mlp_layers": head.num_blocks,
        "noise_size": head.noise_dim,
        "num_samples": head.num_samples,
        "beta": head.alpha,
    }
    return autoencoder, language_model


def _rotary_keys(theta: float, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Keys about rotary positions: what the weights are used with, whatever an older import kept."""
    keys: dict[str, Any] = {"rope_theta": theta, "rope_scaling": None}
    if kept.get("rope_parameters") is not None:  # transformers 5 reads this one
        keys["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    if kept.get("partial_rotary_factor") is not None:
        keys["partial_rotary_factor"] = 1.0
    return keys

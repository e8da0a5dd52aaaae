"""The presets of the paper's sizes, scaled down: widths, layers, steps, vocabulary; all else as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.suites.hub_repository import documents, repository
from workbench.config import CalmConfig, RunConfig
from workbench.config_file import load_config

PRESETS = ("transformer-s", "transformer-m", "transformer-l", "calm-m", "calm-l", "calm-xl")
VOCAB = 310


def tokenizer_file(path: Path) -> Path:
    """A byte-level BPE with special tokens, as Llama 3's."""
    import tokenizers

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(documents(50), trainer)
    bpe.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    path.write_text(bpe.to_str(), encoding="utf-8")
    return path


def hub_in(folder: Path) -> None:
    """Folders in place of the names on the hub: ``pile``, ``wiki`` and ``tokenizer.json``, made once."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    repository(folder / "pile", {"train": documents(400)}, config="default", kind="jsonl.zst")
    articles = [
        line
        for i, text in enumerate(documents(120, "wiki"))
        for line in ("", f" = Article {i} = \n", "", f" {text} \n", " = = Part = = \n", f" {text[::-1]} \n")
    ]
    splits = {"validation": articles[:360], "test": articles[360:]}
    repository(folder / "wiki", splits, config="wikitext-103-raw-v1", kind="parquet")
    tokenizer_file(folder / "tokenizer.json")


FEW: dict[str, Any] = {
    "eval.context_len": 32,
    "eval.min_context": 16,
    "eval.num_windows": 8,
    "eval.num_samples": 4,
    "eval.sample_tokens": 0,
}
"""Of an evaluation: places, samples."""


def small_copy(preset: str, folder: Path) -> RunConfig:
    """Offline: folders in place of the names on the hub."""
    full = load_config(preset)
    hub_in(folder)
    layers = max(2, full.model.backbone.num_layers // 8)
    changes = {
        "data.corpus": f"hub:{folder / 'pile'}",
        "data.hub.shuffle_buffer": 64,
        "data.hub.evaluation.name": str(folder / "wiki"),
        "data.tokenizer.name": str(folder / "tokenizer.json"),
        "data.tokenizer.vocab_size": VOCAB,
        "model.backbone.width": full.model.backbone.width // 32,
        "model.backbone.num_layers": layers,
        "model.backbone.num_heads": 4,
        "model.backbone.mlp_width": full.model.backbone.mlp_width // 32,
        "optim.batch_positions": 64,
        "train.block_len": full.train.block_len // 64,
        "train.train_tokens": 6 * 64 * full.chunk_size,
        "train.num_evaluations": 2,
        "train.stop_diverged": False,  # twelve steps make no autoencoder
        **FEW,
    }
    if isinstance(full.model, CalmConfig):
        changes |= {
            "autoencoder.width": full.autoencoder.width // 16,
            "autoencoder.mlp_width": 80,
            "autoencoder.latent_dim": full.autoencoder.latent_dim // 8,
            "autoencoder.steps": 12,
            "autoencoder.batch_chunks": 32,
            "autoencoder.warmup_steps": 2,
            "autoencoder.eval_chunks": 64,
        }
    return load_config(preset, changes)

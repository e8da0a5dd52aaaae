"""What the pages of docs/ and README take for granted: files in the folder, names of runs, addresses."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import yaml

from tests.suites.hub_repository import documents, repository
from tests.suites.released_weights import write_folders
from tests.suites.synthetic_scaling import make_scaling_study
from tests.suites.synthetic_study import make_study
from tests.suites.tiny_runs import tree, write_text

TINY = """{
    "data": {"corpus": "text:text.txt"},
    "autoencoder": {"latent_dim": 6, "width": 24, "steps": 30, "batch_chunks": 32, "lr": 1e-2, "warmup_steps": 3},
    "model": {"kind": "calm", "chunk_size": 4, "backbone": {"width": 32}},
    "train": {"train_tokens": 3072, "block_len": 32, "num_evaluations": 1},
    "optim": {"batch_positions": 32},
    "eval": {"context_len": 32, "min_context": 16, "num_windows": 16, "num_samples": 4},
}"""
HEAD = "examples/gaussian_mixture_head.py"
RUN, OTHER = "t000-s0", "baseline-d128-l1-s0"
VALUES: dict[str, dict[str, str]] = {
    "README.md": {
        '{"model": {"kind": "calm", "chunk_size": 4}, "train": {"train_flops": 1e12}}': TINY,
        "joint-quick": "joint-small",
        "1e14 scaling-cpu": "1e14 scaling-cpu --home known",
        "calm doctor": "calm doctor || true",
        "calm compare RUN RUN …": f"calm compare {RUN} {OTHER}",
        "calm evaluate RUN --set model.head.num_calls=4": "calm evaluate flow --set model.head.num_calls=2",
        "head.kind=flow": "head.kind=flow --name flow",
        "calm bench RUN …": f"calm bench {RUN} --tokens 8 --texts 2",
        "--target-se 0.1": "--target-se 1000",
        "calm train CONFIG": "calm train small.yaml --tracking-uri none",
        "AUTOENCODER MODEL --name NAME": "CALM-Autoencoder CALM-M --name theirs",
        "calm export RUN FOLDER": "calm export theirs written",
        "dashboard NAME": "dashboard joint-small --port 0",
        "my_head.py": HEAD,
        "kind=my_head": "kind=gaussian_mixture",
        "heads check my_head": "heads check --help",
        "RUN": RUN,
    },
    "docs/external-results.md": {"STUDY --data FILE": "joint-quick --data theirs.csv"},
    "docs/mlflow.md": {
        "dashboard NAME": "dashboard joint-small --port 0",
        "dashboard joint-small": "dashboard joint-small --port 0",
        "RUN": RUN,
        "calm-shakespeare": "calm-text",
        '"max_tokens": 100': '"max_tokens": 8',
    },
    "docs/never-lose-a-run.md": {"calm doctor": "calm doctor || true", "NAME": "joint-small", "RUN": RUN},
    "docs/own-head.md": {
        "calm heads check KIND --set model.head.NAME=VALUE": "calm heads check --help",  # one in earnest is enough
        "calm evaluate RUN --set model.head.NAME=VALUE": f"calm --heads {HEAD} evaluate mixture --split test",
        "FILE.py train ...": f"{HEAD} train small-calm --set model.head.kind=gaussian_mixture",
    },
    "docs/released-weights.md": {
        "STUDY": "theirs",
        # Their weights are random.
        "train.init_from=calm-m": "train.init_from=calm-m --set train.stop_diverged=false",
    },
    "docs/many-devices.md": {
        "CONFIG.yaml": "CONFIG.yaml --tracking-uri none",
        "--nproc-per-node 2 -m": "--standalone --nproc-per-node 2 -m",
    },
    "docs/hub-data.md": {"hub:NAME": "hub:notes || true"},
}
"""For each page: what stands there, and what is executed in its place."""


def prepare(folder: Path) -> None:
    """As a fresh checkout, with a small text."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(Path(__file__).resolve().parents[2] / "examples", folder / "examples")
    write_text(folder / "text.txt")


def prepare_devices(folder: Path) -> None:
    (folder / "CONFIG.yaml").write_text(yaml.safe_dump(tree(folder / "text.txt")), encoding="utf-8")


def prepare_released(folder: Path) -> None:
    """Of word pieces a text has few."""
    write_text(folder / "text.txt", num_words=24_000)
    made = write_folders(folder)
    (folder / "llama3_tokenizer").mkdir()
    shutil.copy(made.tokenizer, folder / "llama3_tokenizer" / "tokenizer.json")
    os.rename(made.autoencoder, folder / "CALM-Autoencoder")
    os.rename(made.language_model, folder / "CALM-M")


def prepare_beside(folder: Path) -> None:
    """A study, too, which their weights are put beside."""
    prepare_released(folder)
    make_study(folder / "runs", "theirs")


def prepare_corpus(folder: Path) -> None:
    rows = [json.dumps({"body": line}) for line in documents(400)]
    (folder / "articles.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def prepare_hub(folder: Path) -> None:
    lines = [line for i, text in enumerate(documents(300)) for line in (f" = {i} = ", f" {text} ")]
    repository(folder / "Salesforce" / "wikitext", {"train": lines}, config="wikitext-103-raw-v1")


def prepare_readme(folder: Path) -> None:
    """Weights of others, a configuration, and runs of which a law is known."""
    prepare_released(folder)
    (folder / "small.yaml").write_text(yaml.safe_dump(tree(folder / "text.txt")), encoding="utf-8")
    budgets = (9e11, 2.7e12, 8.1e12)
    make_scaling_study(folder / "known", "scaling-cpu", widths=(48, 80, 128), chunks=(1, 2), budgets=budgets)


PREPARE = {
    "README.md": prepare_readme,
    "docs/many-devices.md": prepare_devices,
    "docs/released-weights.md": prepare_beside,
    "docs/own-corpus.md": prepare_corpus,
    "docs/hub-data.md": prepare_hub,
}

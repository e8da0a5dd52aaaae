"""How the commands of docs/ and README are executed: all of them, at small sizes, but for those of ``NOT_RUN``."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from tests.suites.doc_pages import Block, Inline, blocks, parse, steps, told
from tests.suites.study_launch import FAKE

NOT_RUN = {
    r"make (setup|study|test|check|fast)": "an installation, or all tests; otherwise the tutorial's commands",
    r"make chaos|python -m tests\.chaos\.\w+": "takes half an hour; tests/integration/test_chaos.py is short",
    r"make docs": "tests/integration/test_reference.py does what it does",
    r"python -m tests\.bench\.\w+": "a measurement of minutes to hours, in no page's course",
    r"pip install .*|conda env create .*|\. \.venv/bin/activate": "installs what the tests are run in",
    r"(\w+=\S+ )*docker compose .*": "a container engine; its commands: tests/unit/test_containers.py",
    r"createuser .*": "asks for a password at the terminal",
    r".*torchrun --nnodes 2 .*|.*\bsrun .*": "wants several hosts",
    r"mlflow models serve .*": "names an option; the model is loaded and asked on the page",
}
"""What no test can execute, and why. It is parsed all the same (tests/unit/test_docs.py)."""

SERVERS = {
    r"calm ui\b.*": "MLflow shows the runs at",
    r"calm study dashboard .*": "optuna-dashboard shows the trials at",
    r"mlflow server .*": "Application startup complete",
}
"""What does not end by itself, and what it says when it serves. Ended at the end of the page."""

BEGUN = r"calm study run (scaling|recipe|correlation|heads)\b.*|calm study run joint --preset cpu .*"
"""Launches of dozens of runs on pages that use none of them: interrupted, as by Ctrl-C, after the first. Their
runs are stand-ins that train nothing."""

SMALL_SETS = {
    "autoencoder.width": 24,
    "autoencoder.steps": 30,
    "autoencoder.batch_chunks": 32,
    "autoencoder.warmup_steps": 3,
    "autoencoder.lr": 1e-2,
    "autoencoder.eval_chunks": 256,
    "model.backbone.width": 32,
    "model.backbone.num_layers": 1,
    "optim.batch_positions": 32,
    "train.block_len": 32,
    "train.num_evaluations": 1,
    "eval.context_len": 32,
    "eval.min_context": 16,
    "eval.num_windows": 16,
    "eval.num_samples": 4,
    "eval.sample_tokens": 8,
}
SMALL: dict[str, dict[str, Any]] = {
    "train": {**SMALL_SETS, "train.train_tokens": 3072},
    "study run": {**SMALL_SETS, "train.train_flops": 2e8},
    "begin": {name: value for name, value in SMALL_SETS.items() if name.startswith(("eval.", "train.block"))},
    "import": {name: value for name, value in SMALL_SETS.items() if name.startswith(("eval.", "train.block"))},
}
"""Appended, so that a training takes a second; the last one given counts."""
COUNTS = {"--trials": 1, "--workers": 1, "--tokens": 20, "--ranks": 2, "--cpus-per-worker": 1}
"""At most, where a page says more."""


def reason(command: str) -> str | None:
    """Why it is not executed; None where it is."""
    return next((why for pattern, why in NOT_RUN.items() if re.fullmatch(pattern, command)), None)


def commands(path: Path) -> list[str]:
    """All of a page, as they stand there."""
    found = []
    for step in steps(path):
        if isinstance(step, Inline):
            found.append(step.command)
        elif step.is_shell:
            found += [one.command for one in told(step)]
    return [without_comment(command) for command in found]


def without_comment(command: str) -> str:
    return " ".join(re.sub(r"\s#.*", "", command).split())


def python_blocks(path: Path) -> list[Block]:
    return [block for block in blocks(path) if block.language == "python"]


def whole(command: str) -> str:
    """A command of which the text names no more than the words is asked for its help."""
    words = shlex.split(command)
    try:
        parse(words[words.index("calm") + 1 :])
    except AssertionError:
        return f"{command} --help"
    return command


def smaller(command: str, text: Path, *, begun: bool = False) -> str:
    """With options that make it small, where something is trained or sampled. ``begun``: it is interrupted."""
    words = shlex.split(command, comments=True)
    if "calm" not in words or "--help" in words:
        return command
    counts = rf"({'|'.join(COUNTS)}) (\d+)"
    command = re.sub(counts, lambda said: f"{said[1]} {min(int(said[2]), COUNTS[said[1]])}", command)
    names = [word for word in words[words.index("calm") + 1 :] if not word.startswith("-")]
    kind = next((kind for kind in ("train", "import") if kind in names[:2]), None)
    kind = "study run" if names[:2] == ["study", "run"] else kind
    if kind is None or "--dry-run" in words or (kind == "study run" and "slurm" in words):
        return command
    sets = dict(SMALL["begin" if begun else kind])
    if any(name.endswith(".yaml") for name in names):  # its architecture is that of a file
        sets = {name: value for name, value in sets.items() if name.startswith(("train.", "eval.", "optim.batch"))}
    if "data.corpus" not in command and "correlation" not in names:  # which has texts of its own
        sets["data.corpus"] = f"text:{text}"
    elif "kjv" in command:
        sets["data.max_documents"] = 3
    more = [f"--set={name}={value}" for name, value in sets.items()]
    if kind == "study run":
        more += [] if "--workers" in command else ["--workers=1", "--threads=1"]
        more += [f"--execute={FAKE}"] if begun else []
        more += ["--trials=1"] if names[2].startswith("joint") and "--trials" not in command else []
    return " ".join([command, *more])


def filled(text: str, values: dict[str, str]) -> str:
    """With what a page's placeholders stand for here, the longest first."""
    for name in sorted(values, key=len, reverse=True):
        text = text.replace(name, values[name])
    return text

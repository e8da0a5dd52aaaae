"""Switches and fixtures of all tests.

Shapes: every jaxtyping annotation of the tensor modules is enforced at run time (STYLE item 5), so the
hook must be installed before any of them is imported."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jaxtyping import install_import_hook

from tests.suites import pictures, shape_checks
from workbench import garbage

if TYPE_CHECKING:
    from workbench.data import Corpus

garbage.start()  # as our own programs do, until all is collected
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; worker processes inherit it
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the hub, whether the machine has a network or not

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: tests must hear Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

TENSOR_MODULES = [
    "workbench.posterior",
    "workbench.layers",
    "workbench.attention",
    "workbench.autoencoder",
    "workbench.backbone",
    "workbench.energy_score",
    "workbench.heads",
    "workbench.targets",
    "workbench.muon",
    "workbench.language_model",
    "workbench.model",
    "workbench.baseline",
    "workbench.bottleneck",
    "workbench.brier",
    "workbench.callable_models",
    "workbench.optim",
    "workbench.chunk_samplers",
    "workbench.sampling",
    "workbench.temperature",
    "workbench.temperature_counts",
]
install_import_hook(TENSOR_MODULES, "tests.suites.shape_checks.checked")


os.fsync = lambda descriptor: None
"""No test cuts the power, and flushing to disk is what hand-made run folders take longest for. Tests of what is
flushed, and when, watch the calls; processes that tests start flush as ever."""


def pytest_configure(config: pytest.Config) -> None:
    """A warning that one of our packages causes is an error."""
    config.addinivalue_line("filterwarnings", "error:::(workbench|studies|analysis)")
    pictures.leave_blank()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks are ours: the suite of heads is part of the package, for projects that have other marks."""
    if item.name.startswith("test_a_short_training"):
        item.add_marker("slow")
    if item.nodeid.startswith("tests/unit/analysis/"):  # reports are there to be looked at
        item.add_marker("draws")


def pytest_collection_finish() -> None:
    """What was imported and collected stays; looking through it for garbage takes some percent of the time."""
    gc.collect()
    garbage.settle()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before the fixtures of a test, which may train and report."""
    shape_checks.begin()
    pictures.draw(item.get_closest_marker("draws") is not None)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One thread for torch, whatever the code of the previous test has set; torch is not imported for it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def tracking_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's, migrated: migrating takes seconds, copying does not."""
    from workbench.home import open_home
    from workbench.tracking import open_tracker

    home = open_home(tmp_path_factory.mktemp("tracking"))
    open_tracker(None, home=home).close()
    return home.root / "mlflow.db"


@pytest.fixture(scope="session")
def tiny_corpus() -> Corpus:
    """Bytes of a made-up language: a dozen words in a Markov chain, 12 documents, no file behind it."""
    import numpy as np

    from workbench.data import SPLITS, Corpus
    from workbench.tokenizer import END_ID, ByteTokenizer

    rng = np.random.default_rng(0)
    words = ["the ", "king ", "queen ", "sleeps ", "rides ", "at ", "night. ", "and ", "crown ", "falls. "]
    follows = rng.dirichlet(np.full(len(words), 0.3), size=len(words))
    tokenizer = ByteTokenizer()

    def document(num_words: int) -> list[int]:
        state, text = 0, []
        for _ in range(num_words):
            text.append(words[state])
            state = int(rng.choice(len(words), p=follows[state]))
        return [*tokenizer.encode("".join(text)), END_ID]

    tokens, starts, num_bytes = {}, {}, {}
    for split, num_documents in zip(SPLITS, (8, 2, 2), strict=True):
        documents = [document(1200) for _ in range(num_documents)]
        lengths = [len(d) for d in documents]
        tokens[split] = np.concatenate(documents).astype(np.uint16)
        starts[split] = np.cumsum([0, *lengths[:-1]])
        num_bytes[split] = sum(lengths) - num_documents
    return Corpus(
        name="tiny",
        hash="tiny",
        tokenizer=tokenizer,
        vocab_size=tokenizer.vocab_size,
        tokens=tokens,
        document_starts=starts,
        num_bytes=num_bytes,
    )

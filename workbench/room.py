"""Room on the disk: what a run needs, what is free, and the message where the one is more than the other.

The need is estimated from the configuration before anything is written: checkpoints from the parameters, the cache
from the size of the text, small files from what they hold. It is meant to be a little too high. Quotas cannot be
asked for in general; one that is spent shows when a file is written (``workbench.files``). Imports no torch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import flops
from workbench.config import CalmConfig, RunConfig, content_hash
from workbench.corpora import find_source
from workbench.errors import DataError, OutputError
from workbench.hub_sizes import DOCUMENT_BYTES, Known, kept_text

logger = logging.getLogger(__name__)

NUMBER = 4
"""Bytes of a weight: they are kept in float32, whatever the number type of the products."""
LINES = 200
"""Logged points of a run (``workbench.schedule``); up to twice as many where the steps do not divide evenly."""
POINT_BYTES, EVALUATION_BYTES, PLOT_BYTES, TEXT_BYTES = 250, 1_500, 90_000, 10
TRACKED_BYTES = 200_000
"""Of a run in the databases of the studies and of MLflow: rows of points, parameters and tags."""
RUN_FILES = 60
"""Files and folders that a run makes, MLflow's copies counted."""
PREPARED = 2.2
"""Bytes of the prepared text for one of the source: ids of two bytes, starts of documents."""
DISTINCT = {1: 0.0001, 2: 0.001, 3: 0.008}
"""Distinct chunks of so many bytes for one byte of the source; in three texts of 5 to 12 MB at most 0.00002,
0.0007 and 0.006."""
DISTINCT_BYTES, DISTINCT_WORDS = 0.03, 0.25
"""The same of longer chunks (four bytes: at most 0.022), and of tokens of several bytes."""
DATABASES = 6_000_000
"""Empty databases of MLflow and Optuna with a write-ahead log of the latter."""


@dataclass(frozen=True)
class Need:
    """Bytes that runs need."""

    kept: int
    """By finished runs: weights, scores, logs, plots, and their copies for the tracking server."""
    working: int
    """On top while one is trained: the optimizer's state, and everything twice while a checkpoint is replaced."""
    cache: int
    """Prepared texts, autoencoders, tables of targets and databases, were none there yet."""
    num_files: int = RUN_FILES
    unknown: tuple[str, ...] = ()
    """Sets on the hub whose text comes on top of the caches, and of which nobody has said how large they are."""
    bound: int = 0
    """Of the caches: what comes of sets of whose size only an upper bound is known. Nothing is refused for it."""
    bounded: tuple[str, ...] = ()
    """Those sets."""

    @property
    def total(self) -> int:
        return self.kept + self.working + self.cache


@dataclass(frozen=True)
class Free:
    """What a file system has left for this user."""

    bytes: int
    files: int | None
    """None where the file system does not number its files in advance."""


def run_need(config: RunConfig) -> Need:
    """Of one run of a resolved configuration."""
    return runs_need([config])


def runs_need(
    configs: Iterable[RunConfig], *, times: float = 1.0, at_once: int = 1, cache: Path | None = None
) -> Need:
    """Of resolved configurations, each run so many times (rounded up) and ``at_once`` of them at a time; what they
    share in the cache is counted once, and no text that ``cache`` has already."""
    kept, working, num = 0, 0, 0
    shared, surely = dict[str, int](), dict[str, int]()
    texts: dict[str, Known] = {}
    for config in configs:
        num += 1
        kept += _kept_bytes(config)
        working = max(working, _working_bytes(config))
        data = content_hash(config.data.model_dump(mode="json"))
        if data not in texts:
            texts[data] = text_of(config, cache)
        text = texts[data]
        shared |= _cache_bytes(config, text, text.num_bytes)
        surely |= _cache_bytes(config, text, text.num_bytes - text.bound)
    many = max(1.0, times)
    return Need(
        round(kept * many),
        at_once * working,
        sum(shared.values()) + DATABASES,
        round(num * many) * RUN_FILES,
        tuple(dict.fromkeys(name for text in texts.values() for name in text.unknown)),
        sum(shared.values()) - sum(surely.values()),
        tuple(dict.fromkeys(name for text in texts.values() for name in text.bounded)),
    )


def _kept_bytes(config: RunConfig) -> int:
    sizes = flops.parameters(config, flops.vocab_size(config))
    weights = NUMBER * (sizes["total"] + sizes.get("autoencoder", 0))
    logs = 2 * LINES * POINT_BYTES + config.train.num_evaluations * (EVALUATION_BYTES + _sampled_bytes(config))
    plots = 4 * PLOT_BYTES  # of the run and as copies, autoencoder's and training's
    return weights + _score_bytes(config) + logs + plots + TRACKED_BYTES


def _sampled_bytes(config: RunConfig) -> int:
    return 3 * TEXT_BYTES * config.eval.sample_tokens  # a line, a text file, its copy


def _score_bytes(config: RunConfig) -> int:
    """Of positions.npz and floors.npz: four orders of the model and of three tables at every position."""
    rules = config.eval
    positions = rules.num_windows * ((rules.context_len - rules.min_context) // rules.grid_stride)
    if rules.target_se is not None:
        positions = max(positions, rules.max_positions)
    return positions * 4 * NUMBER * (1 + 3)


def _working_bytes(config: RunConfig) -> int:
    """A checkpoint in training holds the weights and two moments of each; the new one is written beside it."""
    sizes = flops.parameters(config, flops.vocab_size(config))
    model, autoencoder = sizes["total"], sizes.get("autoencoder", 0)
    return NUMBER * max(2 * 3 * model - model, 2 * 3 * autoencoder)


def _cache_bytes(config: RunConfig, text: Known, source: int) -> dict[str, int]:
    """By what they depend on; ``source``: bytes of the text that are counted."""
    data = content_hash(config.data.model_dump(mode="json"))
    found = {data: 0 if text.prepared else round(PREPARED * source)}
    if not isinstance(config.model, CalmConfig):
        return found
    autoencoder = content_hash([data, config.autoencoder.model_dump(mode="json"), config.chunk_size])
    weights = NUMBER * flops.parameters(config, flops.vocab_size(config))["autoencoder"]
    found[autoencoder] = weights
    if config.train.cache_targets:
        entry = 2 * NUMBER * config.autoencoder.latent_dim + 8
        found[f"{autoencoder}-targets"] = round(_distinct_chunks(config, source)) * entry
    return found


def _distinct_chunks(config: RunConfig, source: int) -> float:
    k = config.chunk_size
    share = DISTINCT.get(k, DISTINCT_BYTES) if config.data.tokenizer.kind == "byte" else DISTINCT_WORDS
    return min(float(config.data.tokenizer.num_ids) ** k, share * source)


def text_of(config: RunConfig, cache: Path | None = None) -> Known:
    """Of the files that a corpus is read from, or what is kept of a set on the hub, or what ``cache`` has of it.
    Nothing where files are missing, which is said when they are read."""
    from workbench.data import prepared_bytes

    data = config.data
    prepared = None if cache is None else prepared_bytes(data, cache)
    if prepared is not None:
        return Known(prepared, prepared=True)
    if data.hub is not None:
        return kept_text(data)
    try:
        total = sum(path.stat().st_size for path in find_source(data.corpus).files)
    except (DataError, OSError, ValueError):
        return Known(0)
    if data.max_documents is not None and data.corpus.startswith("json:"):
        total = min(total, DOCUMENT_BYTES * data.max_documents)  # elsewhere a file may be a document, of any size
    return Known(total)


def free_room(folder: Path | str) -> Free | None:
    """At ``folder`` or the nearest one above it that exists; None where the system does not say."""
    path = Path(folder).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        found = os.statvfs(path)
    except (OSError, AttributeError):  # no statvfs on Windows
        return None
    return Free(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def require_room_for_run(config: RunConfig, run_dir: Path, cache: Path) -> None:
    """Before anything of a resolved configuration's run is written. What lies in the caches counts as its own.

    Raises OutputError where it will not fit."""
    need = runs_need([config], cache=cache)
    require_room(run_dir, need, "the run", there=folder_bytes(run_dir) + cached_bytes(need, cache))


def require_room_for_weights(config: RunConfig, run_dir: Path, cache: Path) -> None:
    """Before weights that were trained elsewhere are made a run of a resolved configuration.

    Raises OutputError where they will not fit."""
    text = text_of(config, cache)
    share = 0 if text.prepared else PREPARED
    need = Need(
        kept=_kept_bytes(config),
        working=0,
        cache=round(share * text.num_bytes),
        bound=round(share * text.bound),
        bounded=text.bounded,
    )
    require_room(run_dir, need, "the import")


def cached_bytes(need: Need, cache: Path) -> int:
    """As much of the need as may lie in the caches already; databases are made with the first of them."""
    return min(need.cache - need.bound, folder_bytes(cache) + DATABASES) if cache.exists() else 0


def require_room(folder: Path | str, need: Need | int, what: str, *, there: int = 0) -> None:
    """Raises OutputError where ``what`` (``the run``) needs more than is free; a warning says where it only may.
    ``there``: bytes of it that lie in the folder already."""
    free = free_room(folder)
    if free is None:
        return
    most, bound = (need, 0) if isinstance(need, int) else (need.total, need.bound)
    wanted = max(0, most - bound - there)
    if wanted > free.bytes:
        raise OutputError(
            f"{what} needs about {bytes_words(wanted)} in {folder}, {bytes_words(free.bytes)} are free; {_REMEDY}"
        )
    if not isinstance(need, int) and wanted + bound > free.bytes:
        logger.warning(
            "%s may need up to %s in %s, %s are free: of the text of %s only an upper bound is known",
            *(what, bytes_words(wanted + bound), folder, bytes_words(free.bytes), ", ".join(need.bounded)),
        )
    num_files = 0 if isinstance(need, int) or there else need.num_files
    if free.files is not None and num_files > free.files:
        raise OutputError(
            f"{what} makes about {num_files} files in {folder}, where {free.files} more are possible (inodes); "
            f"{_REMEDY}"
        )


_REMEDY = "free some or choose another --home; finished work stays and the same command continues"


def folder_bytes(folder: Path | str) -> int:
    """Of all files below; 0 where there is no folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:  # gone meanwhile
                continue
    return total


def bytes_words(number: float) -> str:
    """``1.2 GB``, ``34 MB``, ``5 kB``."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}" if number < 10 * size else f"{number / size:.0f} {unit}"
    return f"{number:.0f} bytes"


def need_fields(need: Need) -> dict[str, Any]:
    """For JSON; with the sets of unknown size, and those of whose size only a bound is known, where there are
    any."""
    unknown = {"disk_unknown": list(need.unknown)} if need.unknown else {}
    bounded = {"disk_bounded": list(need.bounded), "disk_bounded_bytes": need.bound} if need.bounded else {}
    return {"disk_bytes": need.total, **unknown, **bounded}


def need_words(need: Need) -> str:
    """For a dry run: ``about 12 MB: 3.1 MB kept, 6.0 MB while training, 2.9 MB of caches``."""
    parts = (
        (need.kept, "kept"),
        (need.working, "more while training"),
        (need.cache, "of caches and databases where none are there yet"),
    )
    said = ", ".join(f"{bytes_words(size)} {what}" for size, what in parts if size)
    more = f"; on top the text of {', '.join(need.unknown)}, size unknown" if need.unknown else ""
    if need.bounded:
        more += f"; {bytes_words(need.bound)} of this for {', '.join(need.bounded)} are an upper bound"
    return f"about {bytes_words(need.total)}: {said}{more}"

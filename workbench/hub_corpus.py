"""A text on the hub as a corpus: what is held out, what is kept of a stream, and the stream for training.

Held out are the splits that ``data.hub.evaluation`` names, and every training document that equals one of theirs
is left out; or else documents by their hashes, in the parts that ``data.validation_fraction`` and
``data.test_fraction`` say, whichever set, shard or epoch they come from. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from workbench.config import DataConfig
from workbench.corpora import Source, clean
from workbench.errors import DataError
from workbench.hub import QUICK, Patience, commit_of, folder_of, require_name
from workbench.hub_reading import SetShards, read_documents, words_of
from workbench.hub_sections import HubConfig, HubSet, evaluation_sets, sets_of
from workbench.hub_stream import Documents, SetReader, TokenStream
from workbench.splits import digest
from workbench.tokenizer import Tokenizer

LANGUAGE_MODEL, AUTOENCODER, SAMPLE = 0, 1, 2
"""What a stream is for: each has an order of its own."""
_IN_HASH = 15
"""Hexadecimal digits of a hash that decide on the split."""


def hub_source(data: DataConfig) -> Source:
    """Of a corpus ``hub:NAME``. Raises DataError for a name that can be none, and HubUnreachableError where the
    hub would have to be asked and does not answer."""
    hub = _hub(data)
    files: list[Path] = []
    identity: list[str] = []
    for one in (*sets_of(data.corpus, hub), *(evaluation_sets(data.corpus, hub) or ())):
        require_name(one.name)
        folder = folder_of(one.name)
        if folder is None:
            identity.append(f"{one.name}@{commit_of(one.name, one.revision, 'dataset', hub.offline)}")
        else:
            files += [path for path in folder.rglob("*") if path.is_file()]
    if hub.streaming:
        return Source(
            data.corpus, sorted(set(files)), lambda _: _sample(data), tuple(identity), lambda: _held_out(data)
        )
    held_out = (lambda: _evaluation(data)) if hub.evaluation is not None else None
    own = sets_of(data.corpus, hub)[0]
    return Source(
        data.corpus,
        sorted(set(files)),
        lambda _: read_documents(own, offline=hub.offline),
        tuple(identity),
        held_out,
    )


def split_of(text: str, data: DataConfig) -> str:
    """Of a document, by its hash alone."""
    part = int(digest(text)[:_IN_HASH], 16) / 16**_IN_HASH
    if part < data.validation_fraction:
        return "validation"
    return "test" if part < data.validation_fraction + data.test_fraction else "train"


def training_filter(data: DataConfig, held_out: Collection[str]) -> Callable[[str], bool]:
    """Whether a document may be trained on. ``held_out``: hashes of the evaluation's documents."""
    if _hub(data).evaluation is None:
        return lambda text: split_of(text, data) == "train"
    return lambda text: digest(text) not in held_out


def open_stream(
    data: DataConfig,
    tokenizer: Tokenizer,
    held_out: Collection[str],
    *,
    purpose: int,
    seed: int,
    num_blocks: int,
    block_len: int,
) -> TokenStream:
    """Global batches of training tokens. Raises DataError where a set cannot be read."""
    hub = _hub(data)
    keep = training_filter(data, held_out)
    documents = _documents(data, keep, [abs(hub.seed), abs(seed), purpose], Patience(attempts=hub.attempts))
    return TokenStream(documents, tokenizer, num_blocks=num_blocks, block_len=block_len, workers=hub.workers)


def _hub(data: DataConfig) -> HubConfig:
    assert data.hub is not None
    return data.hub


def _documents(
    data: DataConfig, keep: Callable[[str], bool], seed: Sequence[int], patience: Patience, size: int | None = None
) -> Documents:
    hub = _hub(data)
    sets = sets_of(data.corpus, hub)
    readers = [_reader(one, hub, keep, [*seed, number], patience) for number, one in enumerate(sets)]
    weights = [one.weight for one in sets]
    return Documents(readers, weights, shuffle_buffer=size or hub.shuffle_buffer, seed=seed)


def _reader(
    of: HubSet, hub: HubConfig, keep: Callable[[str], bool], seed: Sequence[int], patience: Patience
) -> SetReader:
    shards = SetShards(of, streaming=True, offline=hub.offline)
    return SetReader(shards, seed=seed, keep=keep, document_start=of.document_start, patience=patience)


# ---- what is kept of a stream --------------------------------------------------------------------


def _sample(data: DataConfig) -> Iterator[str]:
    """Different training documents, by the weights of the sets; fewer where the sets hold fewer."""
    hub = _hub(data)
    held_out = {digest(text) for texts in _evaluation(data).values() for text in texts}
    return _different(data, training_filter(data, held_out), hub.sample_documents)


def _held_out(data: DataConfig) -> dict[str, list[str]]:
    hub = _hub(data)
    if hub.evaluation is not None:
        return _evaluation(data)
    return {
        split: list(_different(data, _is_of(split, data), hub.held_out_documents))
        for split in ("validation", "test")
    }


def _is_of(split: str, data: DataConfig) -> Callable[[str], bool]:
    return lambda text: split_of(text, data) == split


def _different(data: DataConfig, keep: Callable[[str], bool], most: int) -> Iterator[str]:
    """Documents of the sets in turn as their weights say, each once, none twice read over: a set that has come to
    its end gives no more."""
    hub = _hub(data)
    sets = sets_of(data.corpus, hub)
    total = sum(one.weight for one in sets)
    known: set[str] = set()
    for number, one in enumerate(sets):
        reader = _reader(one, hub, keep, [abs(hub.seed), SAMPLE, number], QUICK)
        wanted = max(1, round(most * one.weight / total))
        while wanted:
            text = reader.next_of_epoch()
            if text is None:
                break
            key = digest(text)
            wanted -= 1
            if key not in known:
                known.add(key)
                yield text


def _evaluation(data: DataConfig) -> dict[str, list[str]]:
    """Cleaned documents of the evaluation's splits; empty without one. Raises DataError where a split has none."""
    hub = _hub(data)
    sets = evaluation_sets(data.corpus, hub)
    if sets is None:
        return {}
    found: dict[str, list[str]] = {}
    for split, one in zip(("validation", "test"), sets, strict=True):
        found[split] = [text for text in map(clean, read_documents(one, offline=hub.offline)) if text]
        if not found[split]:
            raise DataError(
                f"{words_of(one)}, which is the {split} text, holds no document with text; name another with "
                f"data.hub.evaluation.{split}, or leave data.hub.evaluation out: documents are then held out of "
                "the training text"
            )
    return found

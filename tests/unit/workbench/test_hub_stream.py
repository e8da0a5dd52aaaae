"""The stream of training tokens: order, resuming anywhere, sets that fail for a while."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests.suites.hub_repository import documents
from workbench.ahead import MOMENT_SECONDS, Ahead, ClosedError
from workbench.errors import DataError, RunError
from workbench.hub import HubUnreachableError, Patience
from workbench.hub_stream import Documents, Place, SetReader, TokenStream
from workbench.tokenizer import END_ID, ByteTokenizer

BLOCKS, LENGTH = 3, 40


@dataclass
class Rows:
    """Shards in memory; ``fails`` says how often each read of a row fails before it succeeds."""

    shards: list[list[str]]
    name: str = "rows"
    failures: int = 0
    error: type[Exception] = ConnectionError
    every: int = 3
    opened: list[tuple[int, int]] = field(default_factory=list)

    @property
    def num_shards(self) -> int:
        return len(self.shards)

    def read(self, shard: int, skip: int) -> Iterator[str]:
        self.opened.append((shard, skip))
        for number, row in enumerate(self.shards[shard][skip:], skip):
            if self.failures and number % self.every == self.every - 1:
                self.failures -= 1
                raise self.error("the line is dead")
            yield row


def sharded(texts: list[str], num: int) -> Rows:
    return Rows([texts[i::num] for i in range(num)])


def stream(
    *sets: Rows, buffer: int = 7, seed: int = 0, workers: int = 1, blocks: int = BLOCKS, start: str | None = None
) -> TokenStream:
    readers = [
        SetReader(one, seed=[seed, i], sleep=lambda _: None, document_start=start) for i, one in enumerate(sets)
    ]
    return TokenStream(
        Documents(readers, [1.0] * len(sets), shuffle_buffer=buffer, seed=[seed]),
        ByteTokenizer(),
        num_blocks=blocks,
        block_len=LENGTH,
        workers=workers,
    )


def drawn(of: TokenStream, first: int, last: int) -> np.ndarray:
    return np.concatenate([of.next_batch(step) for step in range(first, last)])


def texts_of(tokens: np.ndarray) -> list[str]:
    """Whole documents among the tokens."""
    return ByteTokenizer().decode(tokens.ravel()).split("\n")[:-1]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return documents(40)


class TestOrder:
    def test_an_epoch_has_every_document_once(self, texts: list[str]) -> None:
        num_tokens = sum(len(text) + 1 for text in texts)
        found = texts_of(drawn(stream(sharded(texts, 3), blocks=1, buffer=8), 0, num_tokens // LENGTH))
        assert len(found) > 35
        assert set(found) <= set(texts)
        assert max(Counter(found).values()) == 1

    def test_blocks_follow_each_other_without_a_gap(self, texts: list[str]) -> None:
        one = drawn(stream(sharded(texts, 3)), 0, 6).ravel()
        other = drawn(stream(sharded(texts, 3), blocks=1), 0, 6 * BLOCKS).ravel()
        assert np.array_equal(one, other)
        assert (one == END_ID).sum() > 5

    def test_it_is_shuffled_anew_in_every_epoch_and_by_the_seed(self, texts: list[str]) -> None:
        many = texts_of(drawn(stream(sharded(texts, 3), buffer=40), 0, 60))
        first, second = many[:40], many[40:80]
        assert sorted(first) == sorted(second) == sorted(texts)
        assert first != second
        assert first != texts
        assert texts_of(drawn(stream(sharded(texts, 3), buffer=40, seed=1), 0, 30))[:40] != first

    @pytest.mark.parametrize("workers", [2, 5])
    def test_threads_change_nothing(self, texts: list[str], workers: int) -> None:
        one, other = stream(sharded(texts, 3)), stream(sharded(texts, 3), workers=workers)
        assert np.array_equal(drawn(one, 0, 15), drawn(other, 0, 15))

    def test_sets_are_interleaved_by_their_weights(self) -> None:
        sets = [sharded(documents(30, word), 2) for word in ("river", "mountain")]
        readers = [SetReader(one, seed=[0, i]) for i, one in enumerate(sets)]
        found = Documents(readers, [3.0, 1.0], shuffle_buffer=400, seed=[0]).next_buffer().documents
        share = sum(text.startswith("river") for text in found) / 400
        assert share == pytest.approx(0.75, abs=0.08)  # 3.7 standard deviations


class TestResuming:
    @pytest.mark.parametrize("at", [0, 1, 4, 5, 11, 23])
    def test_goes_on_as_if_nothing_had_happened(self, texts: list[str], at: int) -> None:
        whole = drawn(stream(sharded(texts, 3), sharded(documents(9, "hill"), 1)), 0, 30)
        broken = stream(sharded(texts, 3), sharded(documents(9, "hill"), 1))
        before = [broken.next_batch(step) for step in range(at)]
        state = json.loads(json.dumps(broken.state_dict(at)))
        again = stream(sharded(texts, 3), sharded(documents(9, "hill"), 1), workers=3)
        again.load_state_dict(state)
        assert np.array_equal(np.concatenate([*before, drawn(again, at, 30)]), whole)

    def test_the_state_before_a_batch_that_was_drawn_ahead(self, texts: list[str]) -> None:
        ahead = stream(sharded(texts, 3))
        batches = [ahead.next_batch(step) for step in range(8)]
        again = stream(sharded(texts, 3))
        again.load_state_dict(ahead.state_dict(6))
        assert np.array_equal(drawn(again, 6, 8), np.concatenate(batches[6:]))

    def test_documents_of_several_rows(self) -> None:
        rows = [line for i in range(20) for line in (f"# {i}", f"first of {i}", "", f"second of {i}")]
        whole = drawn(stream(Rows([rows[:44], rows[44:]]), start="# "), 0, 12)
        assert "first of 3\n\nsecond of 3" in ByteTokenizer().decode(whole.ravel())
        for at in (2, 7):
            broken, again = (stream(Rows([rows[:44], rows[44:]]), start="# ") for _ in range(2))
            drawn(broken, 0, at)
            again.load_state_dict(broken.state_dict(at))
            assert np.array_equal(drawn(again, at, 12), whole[at * BLOCKS :])

    def test_where_an_epoch_of_joined_rows_ends(self) -> None:
        """Its last document was given, its end was not."""
        rows = [line for i in range(5) for line in (f"# {i}", f"text of {i}")]
        reader, again = (SetReader(Rows([rows]), seed=[0], document_start="# ") for _ in range(2))
        assert [reader.next_document() for _ in range(5)][-1] == "# 4\ntext of 4"
        assert reader.place == Place(epoch=1, ended=True)
        again.go_to(Place(**json.loads(json.dumps(asdict(reader.place)))))
        assert reader.next_of_epoch() is again.next_of_epoch() is None
        assert reader.place == Place(epoch=1)
        assert reader.next_document() == again.next_document() == "# 0\ntext of 0"

    def test_a_buffer_that_begins_where_an_epoch_ends(self) -> None:
        rows = [line for i in range(7) for line in (f"# {i}", f"first of {i}", f"second of {i}")]
        whole = drawn(stream(Rows([rows]), start="# ", buffer=7), 0, 8)
        broken, again = (stream(Rows([rows]), start="# ", buffer=7) for _ in range(2))
        at, state = 0, broken.state_dict(0)
        while state["buffer"] != 1:
            broken.next_batch(at)
            at, state = at + 1, json.loads(json.dumps(broken.state_dict(at + 1)))
        assert state["places"] == [asdict(Place(epoch=1, ended=True))]
        again.load_state_dict(state)
        assert np.array_equal(drawn(again, at, 8), whole[at * BLOCKS :])

    def test_a_state_of_the_first_format_goes_on(self, texts: list[str]) -> None:
        whole, broken, again = (stream(sharded(texts, 3)) for _ in range(3))
        drawn(broken, 0, 4)
        state = {**broken.state_dict(4), "format": 1}
        state["places"] = [{k: v for k, v in place.items() if k != "ended"} for place in state["places"]]
        again.load_state_dict(state)
        assert np.array_equal(drawn(again, 4, 9), drawn(whole, 0, 9)[4 * BLOCKS :])
        with pytest.raises(RunError, match="another version"):
            again.load_state_dict({**state, "format": 3})

    def test_of_something_else_is_refused(self, texts: list[str]) -> None:
        of_two = stream(sharded(texts, 3), sharded(texts, 2))
        with pytest.raises(RunError, match="start the run anew"):
            stream(sharded(texts, 3)).load_state_dict(of_two.state_dict(0))
        with pytest.raises(RunError, match="start the run anew"):
            stream(sharded(texts, 3)).load_state_dict({})


class TestFailing:
    def test_a_row_that_fails_for_a_while_changes_nothing(self, texts: list[str]) -> None:
        calm, flaky = sharded(texts, 3), sharded(texts, 3)
        flaky.failures = 4
        assert np.array_equal(drawn(stream(flaky), 0, 10), drawn(stream(calm), 0, 10))
        assert flaky.failures == 0
        assert (flaky.opened[0][0], 2) in flaky.opened  # opened anew where it failed

    def test_pauses_grow_within_bounds_and_end(self, texts: list[str]) -> None:
        dead = sharded(texts, 1)
        dead.failures, pauses = 100, []
        reader = SetReader(dead, seed=[0], patience=Patience(attempts=5, first=1.0, most=3.0), sleep=pauses.append)
        for _ in range(2):
            reader.next_document()
        with pytest.raises(HubUnreachableError, match=r"'rows' cannot be had.*the line is dead; 5 attempts"):
            reader.next_document()
        assert pauses == [1.0, 2.0, 3.0, 3.0]
        assert reader.place == Place(row=2)

    def test_the_state_is_there_after_a_failure(self, texts: list[str]) -> None:
        dead = sharded(texts, 3)
        dying = stream(dead)
        drawn(dying, 0, 5)
        dead.failures, dead.every = 1000, 1
        with pytest.raises(HubUnreachableError):
            drawn(dying, 5, 50)
        failed_at = max(dying._states)
        again = stream(sharded(texts, 3))
        again.load_state_dict(dying.state_dict(failed_at))
        whole = drawn(stream(sharded(texts, 3)), 0, failed_at + 3)
        assert np.array_equal(drawn(again, failed_at, failed_at + 3), whole[failed_at * BLOCKS :])

    def test_other_errors_are_not_tried_again(self, texts: list[str]) -> None:
        bad = sharded(texts, 1)
        bad.failures, bad.error = 1, DataError
        reader = SetReader(bad, seed=[0], sleep=lambda _: pytest.fail("waited"))
        for _ in range(2):
            reader.next_document()
        with pytest.raises(DataError, match="the line is dead"):
            reader.next_document()

    @pytest.mark.parametrize("start", [None, "river"])
    def test_nothing_to_train_on_is_said(self, texts: list[str], start: str | None) -> None:
        reader = SetReader(sharded(texts, 2), seed=[0], keep=lambda text: False, document_start=start)
        with pytest.raises(DataError, match="no document that may be trained on"):
            reader.next_document()
        assert reader.next_of_epoch() is None


LEFT_OPEN = """
from tests.unit.workbench.test_hub_stream import Stuck, stream
rows = Stuck([[f"some words of the text {{i}}" for i in range(1000)]], at=400, pause={pause})
stream(rows, buffer=400).next_batch(0)
rows.waits.wait()
print("taken", flush=True)
"""


@dataclass
class Stuck(Rows):
    """Rows come at once, until ``at`` of them; then one does not come for a minute, or each takes ``pause``."""

    at: int = 10
    pause: float = 60.0
    came: int = 0
    waits: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)

    def read(self, shard: int, skip: int) -> Iterator[str]:
        for row in super().read(shard, skip):
            self.came += 1
            if self.came > self.at:
                self.waits.set()
                self.gate.wait(self.pause)
            yield row


class TestLeaving:
    @pytest.mark.parametrize("pause", [0.02, 60.0])
    def test_a_stream_that_reads_is_closed_at_once(self, texts: list[str], pause: float) -> None:
        """With rows that come slowly, and with one that does not come."""
        rows = Stuck([texts], at=10, pause=pause)
        opened = stream(rows, buffer=10)
        opened.next_batch(0)
        assert rows.waits.wait(5)  # the next buffer is being read
        start = time.monotonic()
        opened.close()
        assert time.monotonic() - start < MOMENT_SECONDS + 0.5
        came = rows.came
        rows.gate.set()
        time.sleep(0.05)
        assert rows.came <= came + 1
        with pytest.raises(ClosedError):
            drawn(opened, 1, 50)

    def test_whoever_waits_for_a_batch_is_told(self, texts: list[str]) -> None:
        rows = Stuck([texts], at=10)
        opened = stream(rows, buffer=10)
        ahead = Ahead()
        coming = ahead.submit(lambda: [opened.next_batch(step) for step in range(50)])
        assert rows.waits.wait(5)
        opened.close()
        with pytest.raises(ClosedError):
            coming.result(timeout=2)
        ahead.close()
        rows.gate.set()

    def test_a_state_is_there_while_a_batch_is_made(self, texts: list[str]) -> None:
        rows = Stuck([texts], at=10)
        opened, again = stream(rows, buffer=10), stream(Rows([texts]), buffer=10)
        made: list[np.ndarray] = []
        ahead = Ahead()
        coming = ahead.submit(lambda: made.extend(opened.next_batch(step) for step in range(50)))
        assert rows.waits.wait(5)
        time.sleep(0.05)
        asking = ThreadPoolExecutor(max_workers=1)
        state = asking.submit(opened.state_dict, len(made)).result(timeout=30)
        asking.shutdown()
        assert not coming.done()
        opened.close()
        rows.gate.set()
        ahead.close()
        again.load_state_dict(state)
        at = state["step"]
        wanted = drawn(stream(Rows([texts]), buffer=10), 0, at + 3)[at * BLOCKS :]
        assert np.array_equal(drawn(again, at, at + 3), wanted)

    @pytest.mark.parametrize("pause", [0.02, 60.0])
    @pytest.mark.slow
    def test_a_process_that_closes_nothing_ends_soon(self, pause: float) -> None:
        root = str(Path(__file__).resolve().parents[3])
        process = subprocess.Popen(
            [sys.executable, "-c", LEFT_OPEN.format(pause=pause)], stdout=subprocess.PIPE, text=True, cwd=root
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        start = time.monotonic()
        assert process.wait(timeout=60) == 0
        assert time.monotonic() - start < MOMENT_SECONDS + 2

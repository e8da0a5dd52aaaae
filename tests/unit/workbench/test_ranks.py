"""What a rank is told, over a stand-in for the store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workbench import interruption
from workbench.rank_place import Place
from workbench.rank_watch import Watch
from workbench.ranks import PeerLostError, Ranks


class Store(dict[str, bytes]):
    """In memory; ``get`` is interrupted the first ``torn`` times."""

    torn = 0
    patience = 20
    """So often a key may be asked for that is not there."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def check(self, keys: list[str]) -> bool:
        found = all(key in self for key in keys)
        self.patience -= not found
        assert self.patience, f"{keys} will not come"
        return found

    def get(self, key: str) -> Any:  # type: ignore[override]
        if self.torn:
            self.torn -= 1
            raise KeyboardInterrupt
        return self[key]

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self[key] for key in keys]


def test_a_signal_while_a_post_is_read_does_not_skip_one() -> None:
    store = Store()
    first, second = Ranks(Place(0, 2, 0, 2), store), Ranks(Place(1, 2, 1, 2), store)
    for word in ("run", "model", "end"):
        first.post(word, f"text of {word}")
    store.torn = 2
    assert [second.await_post() for _ in range(3)] == [
        (word, f"text of {word}") for word in ("run", "model", "end")
    ]


class TestWatch:
    """Its rounds, without the threads."""

    def watches(self) -> tuple[Watch, Watch]:
        store = Store()
        return Watch(Place(0, 2, 0, 1), store), Watch(Place(1, 2, 0, 1), store)

    def round(self, watch: Watch) -> None:
        watch._say()
        watch._listen()

    def test_who_says_something_is_heard(self) -> None:
        first, second = self.watches()
        self.round(first)
        first._silent[1] = 50.0
        self.round(first)
        assert first._silent == {1: 50.0}, "nothing was said yet"
        for _ in range(2):
            self.round(second)
            self.round(first)
            assert first._silent == {1: 0.0}
            first._silent[1] = 50.0
        self.round(first)
        assert first._silent == {1: 50.0}, "nothing new"
        assert second._silent == {0: 0.0}

    def test_what_rank_0_says_of_a_lost_one_is_read_by_the_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []
        monkeypatch.setattr("os.kill", lambda *which: asked.append(which))
        monkeypatch.setattr(interruption, "requested", lambda: False)
        first, second = self.watches()
        first.lost = "rank 2 on b has not been heard of"
        self.round(first)
        self.round(second)
        assert second.lost == first.lost
        ranks = Ranks(second.place, second.store, second)
        with pytest.raises(PeerLostError, match="rank 2 on b has not been heard of"):
            ranks.await_post()
        assert ranks.has_failed()
        assert asked == []

    def test_rank_0_is_asked_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []
        monkeypatch.setattr("os.kill", lambda *which: asked.append(which))
        first, _ = self.watches()
        Ranks(Place(1, 2, 0, 1), first.store).ask_to_stop()
        for _ in range(3):
            self.round(first)
        assert len(asked) == 1
        assert json.loads(first.store["alive/0"])[0] == 3

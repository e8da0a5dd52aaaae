"""Whether the other ranks are still there: asked in threads, which go on while a step waits for them.

Every rank says again and again in the store that it is there; rank 0 listens to all others, these to rank 0. One
that has not been heard of for SILENCE_SECONDS is lost: its machine or its network has gone, or its process stands
still. A slow one is not, for its thread goes on saying so. A step that waits for a lost rank hears neither signals
nor exceptions, so this process is asked to end as by SIGTERM, and after a moment ended. Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from workbench import interruption
from workbench.rank_place import EXIT_PEER_LOST, PARENT, Place

SILENCE_SECONDS = 60.0
"""After which a rank is lost. The time in which this process itself stood still does not count."""
WATCH_SECONDS = 0.5
_GRACE_SECONDS = 10.0
"""What rank 0 gets to save and to end by itself; the others have nothing to save."""
_GRACE_OF_OTHERS_SECONDS = 2.0


class Watch:
    """Of one rank. ``store``: torch's, by a connection of its own, which no waiting step holds up."""

    def __init__(self, place: Place, store: Any) -> None:
        self.place, self.store = place, store
        self.lost = ""
        """Says which rank is, and what to do; empty while all are there."""
        self.watched = list(range(1, place.world)) if place.rank == 0 else [0]
        self._silent = dict.fromkeys(self.watched, 0.0)
        """Seconds."""
        self._heard: dict[int, tuple[int, str]] = {}
        """The last count and the host of each."""
        self._count = 0
        self._asked = False
        self._announced, self._leaving, self._closed = threading.Event(), threading.Event(), threading.Event()

    def start(self) -> None:
        for target in (self._exchange, self._attend):
            threading.Thread(target=target, name="ranks", daemon=True).start()

    def leave(self) -> None:
        """From here on nobody asks this process to stop, only a lost rank ends it."""
        self._leaving.set()

    def close(self) -> None:
        self._closed.set()

    # ---- what is said in the store: may hang with it -----------------------------------------------

    def _exchange(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(RuntimeError):  # rank 0 has gone, and the store with it
                self._say()
                self._listen()
            self._closed.wait(WATCH_SECONDS)

    def _say(self) -> None:
        self._count += 1
        self.store.set(f"alive/{self.place.rank}", json.dumps([self._count, socket.gethostname()]))
        if self.place.rank == 0 and self.lost:
            self.store.set("lost", self.lost)
            self._announced.set()

    def _listen(self) -> None:
        keys = [f"alive/{rank}" for rank in self.watched]
        if self.store.check(keys):
            for rank, said in zip(self.watched, self.store.multi_get(keys), strict=True):
                count, host = json.loads(said)
                if self._heard.get(rank, (0, ""))[0] != count:
                    self._heard[rank] = count, host
                    self._silent[rank] = 0.0
        if self.place.rank == 0:
            if self.store.check(["stop"]) or self.store.check(["failed"]):
                self._ask_to_stop()
        elif not self.lost and self.store.check(["lost"]):
            self.lost = self.store.get("lost").decode()

    # ---- what comes of it: never hangs -------------------------------------------------------------

    def _attend(self) -> None:
        parent = int(os.environ.get(PARENT, "0"))
        before = time.monotonic()
        while not self._closed.wait(WATCH_SECONDS):
            now = time.monotonic()
            passed, before = min(now - before, 2 * WATCH_SECONDS), now
            if parent and os.getppid() != parent:
                self._ask_to_stop()
            for rank in self.watched:
                self._silent[rank] += passed
            if self.lost or max(self._silent.values()) > SILENCE_SECONDS:
                self._end()
                return

    def _end(self) -> None:
        """Where the main thread can be reached it ends by itself."""
        leads = self.place.rank == 0
        if not self.lost:
            self.lost = self._describe()
            # rank 0 alone, or where it is lost itself, the first rank of every host
            if leads or self.place.local == 0 or self.place.rank == 1:
                print(f"calm: {self.lost}", file=sys.stderr, flush=True)
        if leads and self._announced.wait(2 * WATCH_SECONDS):
            time.sleep(2 * WATCH_SECONDS)  # until the others have read it
        self._ask_to_stop()
        if not self._closed.wait(_GRACE_SECONDS if leads else _GRACE_OF_OTHERS_SECONDS):
            os._exit(EXIT_PEER_LOST)

    def _describe(self) -> str:
        silent = [rank for rank in self.watched if self._silent[rank] > SILENCE_SECONDS - 2 * WATCH_SECONDS]
        names = ", ".join(f"rank {rank} on {self._heard.get(rank, (0, 'an unknown host'))[1]}" for rank in silent)
        return (
            f"{names} {'has' if len(silent) == 1 else 'have'} not been heard of for {SILENCE_SECONDS:g} s: the "
            "machine, its network or the process stands still; the same command continues from the last checkpoint"
        )

    def _ask_to_stop(self) -> None:
        """As SIGTERM does, once."""
        if not (self._asked or self._leaving.is_set() or interruption.requested()):
            self._asked = True
            os.kill(os.getpid(), signal.SIGTERM)

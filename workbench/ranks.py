"""Several processes that train one model: what they tell each other.

Rank 0 leads: it alone writes the run's folder, the cache, MLflow and the display, evaluates, and tells the others
by numbered ``post``s what comes next. Those wait for them with an open ear for signals
(``await_post``). Steps are taken together; at the end of each all ``agree``, in one exchange of a few numbers, on
the loss, whether a signal has come to any of them, and whether a checkpoint is due. ``ALONE`` is a process of its
own, to which all of this costs nothing.

Posts, signals, failures and signs of life (``workbench.rank_watch``) go through the launcher's key-value store,
numbers through gloo, gradients (and tensors on a CUDA device) through NCCL.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workbench import interruption
from workbench.errors import RunError, UserError
from workbench.rank_place import LISTENER, Place
from workbench.rank_watch import WATCH_SECONDS, Watch

LONGEST_STEP = datetime.timedelta(hours=2)
"""How long a rank waits in the middle of a step for others that are there but do not come to it."""
_POLL_SECONDS = 0.05
_FAREWELL_SECONDS = 5.0
_MEETING_SECONDS = 600.0


class PeerLostError(RunError):
    """Another rank has ended, and said why where it could."""


class OtherPostError(Exception):
    """Rank 0 goes on with something else than was expected."""


@dataclass
class Ranks:
    """One rank's end of the line."""

    place: Place
    store: Any = None
    """torch's; None for a process of its own."""
    watch: Watch | None = None
    _posts: int = field(default=0, init=False)

    @property
    def world(self) -> int:
        return self.place.world

    @property
    def leads(self) -> bool:
        return self.place.rank == 0

    @property
    def lost(self) -> str:
        """The message where another rank is not heard of any more; else empty."""
        return self.watch.lost if self.watch is not None else ""

    def threads(self, of_run: int) -> int:
        """Of this rank, where the run has so many on a machine."""
        return max(1, of_run // self.place.local_world)

    @contextlib.contextmanager
    def others_wait(self, of_run: int) -> Iterator[None]:
        """Around what rank 0 does by itself: it has all threads that the run has on a machine."""
        if self.world == 1:
            yield
            return
        torch.set_num_threads(of_run)
        try:
            yield
        finally:
            torch.set_num_threads(self.threads(of_run))

    def part_of(self, num_rows: int) -> slice:
        """This rank's sequences or chunks of a batch: equally many, or one more or less; perhaps none."""
        rank = self.place.rank
        return slice(num_rows * rank // self.world, num_rows * (rank + 1) // self.world)

    # ---- in step -----------------------------------------------------------------------------------

    def agree(self, *numbers: float) -> tuple[float, ...]:
        """The sum of each over the ranks, on all of them. Raises PeerLostError."""
        if self.world == 1:
            return numbers
        shared = torch.tensor(numbers, dtype=torch.float64)
        with self.together():
            torch.distributed.all_reduce(shared)
        return tuple(shared.tolist())

    def add_up(self, tensors: list[Tensor]) -> None:
        """The sum of each over the ranks, in place, on all of them; of one dtype. Raises PeerLostError."""
        if self.world == 1:
            return
        shared = torch.cat([tensor.flatten() for tensor in tensors])  # one exchange: small ones cost a wait each
        with self.together():
            torch.distributed.all_reduce(shared)
        for tensor, part in zip(tensors, shared.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def spread(self, tensor: Tensor) -> Tensor:
        """Rank 0's values on all ranks, in place. Raises PeerLostError."""
        if self.world > 1:
            with self.together():
                torch.distributed.broadcast(tensor, src=0)
        return tensor

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Around what needs all ranks: an error because another has gone raises PeerLostError."""
        try:
            yield
        except RuntimeError as error:
            if self.world > 1 and (self.lost or _is_lost(error)):
                raise self.peer_lost() from None
            raise

    # ---- out of step -------------------------------------------------------------------------------

    def post(self, word: str, text: str = "") -> None:
        """Of rank 0, to all others."""
        if self.world > 1:
            with self.together():
                self.store.set(f"post/{self._posts}", json.dumps([word, text]))
            self._posts += 1

    @contextlib.contextmanager
    def occupied(self, word: str, text: str) -> Iterator[None]:
        """Around what the others take part in from a post of ``word`` on, until they are told to leave."""
        self.post(word, text)
        try:
            yield
        finally:
            with contextlib.suppress(PeerLostError):
                self.post("leave")

    def await_post(self) -> tuple[str, str]:
        """The next of rank 0's, whenever it comes. A signal meanwhile is passed on to rank 0, which ends the run
        and says so. Raises PeerLostError where rank 0 has gone."""
        key, asked = f"post/{self._posts}", False
        while True:
            if self.lost:
                raise self.peer_lost()
            try:
                if not asked and interruption.requested():
                    self.ask_to_stop()
                    asked = True
                with self.together():
                    if self.store.check([key]):
                        word, text = json.loads(self.store.get(key))
                        self._posts += 1  # not before: a signal may have torn the reading
                        return word, text
                time.sleep(_POLL_SECONDS)
            except KeyboardInterrupt:
                continue

    def expect_post(self, word: str) -> str:
        """The text of the next post. Raises OtherPostError where it is of another word: rank 0 has given up."""
        found, text = self.await_post()
        if found != word:
            raise OtherPostError(found)
        return text

    def ask_to_stop(self) -> None:
        """Rank 0 hears it wherever it is (``workbench.rank_watch``)."""
        with contextlib.suppress(RuntimeError):
            self.store.set("stop", "1")

    def fail(self, message: str) -> bool:
        """Tell the others why this rank ends; whether it is the first to say anything, and so the one to show
        it."""
        try:
            first = bool(self.store.add("failures", 1) == 1)
            if first:
                self.store.set("failed", f"rank {self.place.rank} on {socket.gethostname()}: {message}")
        except RuntimeError:  # rank 0 has gone, and the store with it
            return True
        return first

    def has_failed(self) -> bool:
        """Whether one of the others has said that it ends, or is lost."""
        if self.lost:
            return True
        with contextlib.suppress(RuntimeError):
            return bool(self.store.check(["failed"]))
        return False

    def peer_lost(self) -> PeerLostError:
        if self.lost:
            return PeerLostError(self.lost)
        said = ""
        with contextlib.suppress(RuntimeError):
            time.sleep(WATCH_SECONDS)  # it may be about to say so
            said = self.store.get("failed").decode() if self.has_failed() else ""
        why = f"another rank ended ({said})" if said else "another rank ended without a word"
        return PeerLostError(f"{why}; the same command continues from the last checkpoint")

    def require_same(self, own: Mapping[str, str]) -> None:
        """Raises RunError on all ranks where one differs from rank 0 in ``own``: names to values, such as
        versions."""
        if self.world == 1:
            return
        host = socket.gethostname()
        with self.together():
            self.store.set(f"hello/{self.place.rank}", json.dumps({**own, "host": host}))
        if self.leads:
            with self.together():
                differences = "; ".join(self._differences(own))
            self.post("met", differences)
        else:
            differences = self.expect_post("met")
        if differences:
            raise RunError(
                f"all ranks of a run must have the same code, packages and configuration: {differences}; update "
                "the hosts, and give every rank the same command"
            )

    def _differences(self, own: Mapping[str, str]) -> list[str]:
        found = []
        for rank in range(1, self.world):
            self._meet(rank)
            other = json.loads(self.store.get(f"hello/{rank}"))
            found += [
                f"{name} of rank {rank} on {other['host']} is {other.get(name)}, of rank 0 {value}"
                for name, value in own.items()
                if other.get(name) != value
            ]
        return found

    def _meet(self, rank: int) -> None:
        """Raises PeerLostError where it does not come."""
        end = time.monotonic() + _MEETING_SECONDS
        while not self.store.check([f"hello/{rank}"]):
            if self.has_failed() or time.monotonic() > end:
                raise self.peer_lost()
            time.sleep(_POLL_SECONDS)

    def part(self) -> None:
        """At the end: rank 0, which may hold the store, leaves last."""
        if self.lost:
            return
        with contextlib.suppress(RuntimeError):
            if not self.leads:
                self.store.add("left", 1)
                return
            self.post("end")
            end = time.monotonic() + _FAREWELL_SECONDS
            while self.store.add("left", 0) < self.world - 1 and time.monotonic() < end:
                time.sleep(_POLL_SECONDS)


ALONE = Ranks(Place(0, 1, 0, 1))
"""No other ranks."""


@contextlib.contextmanager
def joined(place: Place) -> Iterator[Ranks]:
    """The other ranks, once all are there. Raises RunError where they do not come.

    What ends this rank is told to the others. Those that it was not told by raise it silently: an exception has
    the attribute ``shown_elsewhere``."""
    from torch.distributed.distributed_c10d import PrefixStore

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(place.local % torch.cuda.device_count())
    with interruption.heard_at_once(), contextlib.ExitStack() as stack:
        try:
            store = _open_store(place)
            watch = stack.enter_context(contextlib.closing(Watch(place, PrefixStore("calm", store.clone()))))
            watch.start()
            torch.distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                store=PrefixStore("group", store),
                rank=place.rank,
                world_size=place.world,
                timeout=LONGEST_STEP,
            )
        except RuntimeError as error:
            address = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise RunError(
                f"rank {place.rank} of {place.world} did not find the others at {address} ({_first_line(error)}); "
                "start all of them, with the same MASTER_ADDR and a free MASTER_PORT"
            ) from None
        with _taking_part(Ranks(place, PrefixStore("calm", store), watch)) as ranks:
            yield ranks


def _open_store(place: Place) -> Any:
    """On the socket that the launcher has bound to the loopback address; else, as torchrun's environment says, on
    all addresses of rank 0's host. Raises RuntimeError where not all ranks come."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    timeout = datetime.timedelta(seconds=_MEETING_SECONDS)
    os.environ.update(RANK=str(place.rank), WORLD_SIZE=str(place.world))
    listener = os.environ.pop(LISTENER, None)
    if listener is None:
        store, _, _ = next(iter(rendezvous("env://", timeout=timeout)))
        return store
    os.set_inheritable(int(listener), False)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, place.world, is_master=True, timeout=timeout, master_listen_fd=int(listener))


@contextlib.contextmanager
def _taking_part(ranks: Ranks) -> Iterator[Ranks]:
    assert ranks.watch is not None
    try:
        yield ranks
    except PeerLostError:
        raise
    except KeyboardInterrupt:
        if ranks.lost or (ranks.leads and ranks.has_failed()):
            raise ranks.peer_lost() from None
        if not ranks.leads:
            ranks.ask_to_stop()
        raise
    except Exception as error:
        what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        error.shown_elsewhere = not ranks.fail(what)  # type: ignore[attr-defined]
        raise
    finally:
        ranks.watch.leave()
        ranks.part()
        with contextlib.suppress(RuntimeError):
            torch.distributed.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    """Whether it says that a connection was closed: torch has no exception for gloo's."""
    words = ("gloo", "Connection closed", "Connection reset", "Broken pipe", "NCCL", "recvValue", "Timed out")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in words)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

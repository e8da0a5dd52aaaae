"""A rank that stands still is lost, one that is slow is not; signals while a step waits for another rank."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from tests.suites.ranks import apart, together
from tests.suites.waiting import wait_for
from workbench import interruption, rank_watch
from workbench.rank_place import EXIT_PEER_LOST
from workbench.ranks import Ranks

pytestmark = pytest.mark.slow

SILENCE = 2.0
LONGER_SILENCE = 6.0
"""Where nobody is to be lost: threads of a busy machine may wait for seconds."""
GRACE = 1.0


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the ranks, which are forked."""
    monkeypatch.setattr(rank_watch, "SILENCE_SECONDS", SILENCE)
    monkeypatch.setattr(rank_watch, "_GRACE_SECONDS", GRACE)


def stand_still(ranks: Ranks, which: int, wait: Callable[[Ranks], object]) -> None:
    """The process of ``which`` is suspended, and killed when the other one has ended."""
    own = ranks.place.rank
    ranks.store.set(f"pid/{own}", str(os.getpid()))
    other = psutil.Process(int(ranks.store.get(f"pid/{1 - own}")))
    wait_for(lambda: ranks.watch is not None and ranks.watch._heard)
    ranks.agree(1.0)
    if own == which:
        pid = os.getpid()
        if not os.fork():
            wait_for(lambda: not other.is_running() or other.status() == psutil.STATUS_ZOMBIE)
            os.kill(pid, signal.SIGKILL)
            os._exit(0)
        os.kill(pid, signal.SIGSTOP)
    wait(ranks)


def in_a_step(ranks: Ranks) -> None:
    ranks.agree(1.0)


def in_an_evaluation(ranks: Ranks) -> None:
    time.sleep(60)


def for_a_post(ranks: Ranks) -> None:
    ranks.await_post()


@pytest.mark.parametrize(
    ("which", "wait", "end"),
    [
        (1, in_a_step, "died"),
        (1, in_an_evaluation, "raised"),
        (0, for_a_post, "died"),
    ],
)
def test_a_rank_that_stands_still_is_lost(
    capfd: pytest.CaptureFixture[str], which: int, wait: Callable[[Ranks], object], end: str
) -> None:
    found = apart(stand_still, which, wait)
    assert found[which] == ("died", -signal.SIGKILL)
    how, said = found[1 - which]
    assert how == end, said
    if how == "died":
        assert said == EXIT_PEER_LOST
    else:
        assert "PeerLostError" in said
    shown = capfd.readouterr().err
    assert shown.count("has not been heard of for 2 s") == 1, shown
    assert f"calm: rank {which} on {os.uname().nodename} has not been heard of for 2 s" in shown
    assert shown.count("the same command continues from the last checkpoint") == 1


@pytest.fixture
def longer(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_watch, "SILENCE_SECONDS", LONGER_SILENCE)


def be_slow(ranks: Ranks) -> list[float]:
    """Rank 0 evaluates while the others wait for it out of step; then rank 1 is long in a step."""
    if ranks.leads:
        time.sleep(1.5 * LONGER_SILENCE)
        ranks.post("train")
    else:
        assert ranks.await_post() == ("train", "")
        time.sleep(1.5 * LONGER_SILENCE)
    return list(ranks.agree(1.0))


@pytest.mark.usefixtures("longer")
def test_a_slow_rank_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    assert together(be_slow) == [[2.0], [2.0]]
    assert capfd.readouterr().err == ""


def stand_still_together(ranks: Ranks) -> list[float]:
    """As after Ctrl-Z: all are suspended at once, and go on after longer than the time that makes one lost."""
    wait_for(lambda: ranks.watch is not None and ranks.watch._heard)
    pids = [os.getpid(), int(ranks.agree(0.0 if ranks.leads else os.getpid())[0])]
    if ranks.leads and not os.fork():
        for sign in (signal.SIGSTOP, signal.SIGCONT):
            for pid in pids:
                os.kill(pid, sign)
            if sign == signal.SIGSTOP:
                time.sleep(1.5 * LONGER_SILENCE)
        os._exit(0)
    time.sleep(LONGER_SILENCE)
    return list(ranks.agree(1.0))


@pytest.mark.usefixtures("longer")
def test_ranks_that_stand_still_together_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    assert together(stand_still_together) == [[2.0], [2.0]]
    assert capfd.readouterr().err == ""


def signalled(ranks: Ranks) -> None:
    """Rank 0 waits in a step for rank 1, which is alive and does not come; two signals a second apart."""
    if not ranks.leads:
        time.sleep(60)

    def press() -> None:
        for _ in range(2):
            time.sleep(1.0)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    ranks.agree(1.0)


def test_a_second_signal_ends_a_step_that_waits(capfd: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    found = apart(signalled, seconds=15.0)
    assert found[0] == ("died", interruption.EXIT_INTERRUPTED)
    assert time.monotonic() - began < 30.0
    assert "left at once" in capfd.readouterr().err

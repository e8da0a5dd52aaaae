"""A call that does not come back: who waits for it, and how long."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from studies import database, hanging
from studies.database import is_outage, patiently
from studies.hanging import HangingError, begin_anew, bounded, connect_arguments, hurry
from workbench.errors import StudyError


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set at the end, so that no thread stays."""
    monkeypatch.setattr(hanging, "HANGING_SECONDS", 0.05)
    begin_anew()
    event = threading.Event()
    yield event
    event.set()
    begin_anew()


def test_what_it_returns_and_raises() -> None:
    assert bounded(lambda: threading.current_thread().name, 30) == "storage"
    with pytest.raises(KeyError):
        bounded(lambda: {}["missing"], 30)


def test_nobody_waits_longer_than_stated(answer: threading.Event) -> None:
    with pytest.raises(HangingError):
        bounded(lambda: answer.wait(60), 0.05)
    assert bounded(lambda: 7, 30) == 7, "another call is tried"


@pytest.mark.parametrize("now", [False, True])
def test_who_was_asked_to_leave_gives_up_once(answer: threading.Event, now: bool) -> None:
    hurry(now=now)
    assert bounded(lambda: 7, 30) == 7, "a server that answers is told"
    with pytest.raises(HangingError):
        bounded(lambda: answer.wait(60), 3600)
    with pytest.raises(HangingError):
        bounded(lambda: pytest.fail("a second call"), 3600)
    begin_anew()
    assert bounded(lambda: 7, 30) == 7


def test_a_signal_is_heard(answer: threading.Event) -> None:
    def action() -> bool:
        signal.raise_signal(signal.SIGINT)
        return answer.wait(60)

    with pytest.raises(KeyboardInterrupt):
        bounded(action, 3600)
    assert not answer.is_set()


def test_it_is_an_outage_of_its_own(answer: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose patience is spent in one call; what is called inside runs in the same thread."""
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 0.05)
    calls = []

    def action() -> bool:
        calls.append(1)
        return patiently(lambda: answer.wait(60), served=True)

    with pytest.raises(database.UNAVAILABLE) as raised:
        patiently(action, served=True)
    assert calls == [1]
    assert is_outage(raised.value)
    said = database.unusable("postgresql://calm:secret@host/calm", raised.value, "come again")
    assert isinstance(said, StudyError)
    assert str(said) == (
        "storage postgresql://calm:***@host/calm does not answer (it takes calls and answers none); when it does, "
        "come again"
    )


def test_connections_notice_a_lost_network(tmp_path: Path) -> None:
    given = connect_arguments("postgresql://calm@host/calm?connect_timeout=99")
    assert "connect_timeout" not in given, "the address says so itself"
    assert given["tcp_user_timeout"] == 60_000
    assert "-c tcp_keepalives_idle=30" in given["options"]
    assert "-c timezone=UTC" in given["options"]
    for other in (f"sqlite:///{tmp_path}/optuna.db", "mysql://calm@host/calm"):
        assert connect_arguments(sqlalchemy.make_url(other)) == {}

# ruff: noqa: PT012 - a signal arrives within a block
"""Real signals to this process, and to one of our own where the process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from workbench import interruption
from workbench.interruption import held, listening, obey, released, requested


def ask(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # the handler runs between two bytecodes of the main thread


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_outside_of_held_it_comes_at_once(number: signal.Signals) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), listening():
        ask(number)
        done.append("after")
    assert done == []


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_what_is_held_is_finished(number: signal.Signals) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), listening():
        with held():
            ask(number)
            with held():
                done.append("inner")
            done.append("step")
        done.append("next step")
    assert done == ["inner", "step"]


def test_released_inside_held() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), listening(), held():
        ask()
        done.append("claimed")
        with released():
            done.append("ran")
    assert done == ["claimed"]


def test_released_can_be_interrupted_and_the_rest_is_held_again() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), listening(), held():
        try:
            with released():
                ask()
        finally:
            done.append("given back")
    assert done == ["given back"]


def test_it_is_raised_once() -> None:
    """The save after the interruption holds up nothing any more."""
    with listening():
        with pytest.raises(KeyboardInterrupt), held():
            ask()
        with held():
            pass
        assert requested()
    assert not requested()


def test_an_exception_of_the_step_comes_first_and_the_signal_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt), listening():
        with pytest.raises(ValueError, match="step"), held():
            ask()
            raise ValueError("step")
        assert requested()
        with held():
            pass


def test_a_step_that_takes_too_long_is_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "PATIENCE_SECONDS", 0.05)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), listening(), held():
        ask()
        time.sleep(20)
    assert time.monotonic() - begin < 10


class Dies:
    """Hears the signal where Python swallows what is raised."""

    def __del__(self) -> None:
        ask()


def test_swallowed_by_a_destructor_it_comes_again() -> None:
    with pytest.raises(KeyboardInterrupt), listening():
        Dies()
        time.sleep(5)
        pytest.fail("not interrupted")


def test_swallowed_it_tears_no_step_that_has_begun_since() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), listening():
        Dies()
        with held():
            time.sleep(0.1)
            done.append("step")
        done.append("next step")
    assert done == ["step"]


def test_what_else_is_swallowed_is_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda said: told.append(said.exc_type))
    before = sys.unraisablehook

    class Fails:
        def __del__(self) -> None:
            raise ValueError("no")

    with listening():
        Fails()
    assert told == [ValueError]
    assert sys.unraisablehook is before


def test_an_echo_is_no_second_signal() -> None:
    with pytest.raises(KeyboardInterrupt), listening(), held():
        ask(signal.SIGINT)
        ask(signal.SIGTERM)


def test_the_echo_of_anothers_signal_does_not_tear_what_follows() -> None:
    """All have agreed to stop; then the one that had the signal passes it on."""
    done = []
    with listening():
        assert not requested()
        with pytest.raises(KeyboardInterrupt):
            obey()
        assert requested()
        ask(signal.SIGTERM)
        done.append("saved")
    assert done == ["saved"]


def test_twice_in_an_interactive_session_raises_and_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setattr(interruption, "ECHO_SECONDS", 0.0)
    done = []
    with pytest.raises(KeyboardInterrupt), listening(), held():
        ask()
        done.append("held")
        ask()
        done.append("after")
    assert done == ["held"]


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (*interruption.SIGNALS, signal.SIGALRM)]
    with listening():
        assert signal.getsignal(signal.SIGINT) is not before[0]
        with listening():
            pass
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (*interruption.SIGNALS, signal.SIGALRM)] == before


def test_without_listening_and_in_other_threads_nothing_is_held() -> None:
    with held(), released():
        assert not requested()
    done = []

    def work() -> None:
        with listening(), held():
            done.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [before]


STUBBORN = """
import sys, time
from pathlib import Path
from workbench.interruption import held, listening
with listening(), held():
    Path(sys.argv[1]).touch()
    time.sleep(60)
"""


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_twice_means_now(tmp_path: Path, number: signal.Signals) -> None:
    ready = tmp_path / "ready"
    process = subprocess.Popen([sys.executable, "-c", STUBBORN, str(ready)], stderr=subprocess.PIPE, text=True)
    try:
        while not ready.exists():
            time.sleep(0.01)
            assert process.poll() is None
        process.send_signal(number)
        time.sleep(interruption.ECHO_SECONDS + 0.2)
        begin = time.monotonic()
        process.send_signal(number)
        _, words = process.communicate(timeout=5)
    finally:
        process.kill()
    assert time.monotonic() - begin < 2
    assert process.returncode == interruption.EXIT_INTERRUPTED
    assert "last checkpoint is kept" in words


IN_NATIVE_CODE = """
import ctypes, os, signal, time
from workbench.interruption import heard_at_once, held, listening
native, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
native.pthread_mutex_lock(mutex)
with listening(), held():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.6)
    with heard_at_once():
        print("waits", flush=True)
        native.pthread_mutex_lock(mutex)  # no signal ends that, and no handler runs meanwhile
"""


@pytest.mark.slow
def test_twice_means_now_where_the_first_came_before_a_wait_in_native_code() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", IN_NATIVE_CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    try:
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == interruption.EXIT_INTERRUPTED
    assert "left at once" in said

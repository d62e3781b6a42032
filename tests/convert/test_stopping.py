from __future__ import annotations

import os
import signal

import pytest

from convert.stopping import Interrupted, is_stopping, native_call, stopping_signals


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@stopping_signals()
def call_back(heard: list[bool]) -> None:
    with native_call():
        heard.append(is_stopping())
        with native_call():
            terminate()
            heard.append(is_stopping())
        heard.append(is_stopping())
    heard.append(False)


@stopping_signals()
def clear_up(cleared: list[bool]) -> None:
    try:
        terminate()
    finally:
        terminate()
        cleared.append(True)


@stopping_signals()
def fail_in_native_code() -> None:
    with native_call():
        terminate()
        raise ValueError("a fault")


def test_a_signal_raises_at_once() -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), stopping_signals():
        terminate()


def test_a_signal_during_native_code_raises_when_that_has_returned() -> None:
    heard: list[bool] = []
    with pytest.raises(Interrupted, match="SIGTERM"):
        call_back(heard)
    assert heard == [False, True, True]


def test_a_second_signal_does_not_disturb_the_clearing_up() -> None:
    cleared: list[bool] = []
    with pytest.raises(Interrupted, match="SIGTERM"):
        clear_up(cleared)
    assert cleared == [True]


def test_what_waited_when_an_earlier_run_ended_is_forgotten() -> None:
    with pytest.raises(ValueError, match="a fault"):
        fail_in_native_code()
    with stopping_signals(), native_call():
        assert not is_stopping()

from __future__ import annotations

import os
import signal

import pytest

from convert.stopping import StoppedError, is_stop_waiting, stop_deferred, stop_on_signals


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@stop_on_signals()
def call_back(heard: list[bool]) -> None:
    with stop_deferred():
        heard.append(is_stop_waiting())
        with stop_deferred():
            terminate()
            heard.append(is_stop_waiting())
        heard.append(is_stop_waiting())
    heard.append(False)


@stop_on_signals()
def clear_up(cleared: list[bool]) -> None:
    try:
        terminate()
    finally:
        terminate()
        cleared.append(True)


@stop_on_signals()
def fail_in_native_code() -> None:
    with stop_deferred():
        terminate()
        raise ValueError("a fault")


def test_a_signal_raises_at_once() -> None:
    with pytest.raises(StoppedError, match="SIGTERM"), stop_on_signals():
        terminate()


def test_a_signal_during_native_code_raises_when_that_has_returned() -> None:
    heard: list[bool] = []
    with pytest.raises(StoppedError, match="SIGTERM"):
        call_back(heard)
    assert heard == [False, True, True]


def test_a_second_signal_does_not_disturb_the_clearing_up() -> None:
    cleared: list[bool] = []
    with pytest.raises(StoppedError, match="SIGTERM"):
        clear_up(cleared)
    assert cleared == [True]


def test_a_signal_of_an_earlier_run_is_forgotten() -> None:
    with pytest.raises(ValueError, match="a fault"):
        fail_in_native_code()
    with stop_on_signals(), stop_deferred():
        assert not is_stop_waiting()

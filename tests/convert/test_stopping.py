import os
import signal

import pytest

from convert.stopping import StoppedError, is_stop_pending, stop_deferred, stop_on_signals


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_raises_at_once() -> None:
    with pytest.raises(StoppedError, match="SIGTERM"), stop_on_signals():
        terminate()
    assert not is_stop_pending()


def test_an_error_that_a_stop_causes_is_the_stop() -> None:
    @stop_on_signals()
    def run() -> None:
        try:
            terminate()
        finally:
            raise RuntimeError("release unlocked lock")

    with pytest.raises(StoppedError, match="SIGTERM"):
        run()


def test_a_signal_during_native_code_raises_when_that_has_returned() -> None:
    heard: list[bool] = []

    @stop_on_signals()
    def call_back() -> None:
        with stop_deferred():
            heard.append(is_stop_pending())
            terminate()
            heard.append(is_stop_pending())
        heard.append(False)

    with pytest.raises(StoppedError, match="SIGTERM"):
        call_back()
    assert heard == [False, True]


def test_a_second_signal_does_not_disturb_the_clearing_up() -> None:
    cleared: list[bool] = []

    @stop_on_signals()
    def clear_up() -> None:
        try:
            terminate()
        finally:
            with stop_deferred():
                terminate()
            cleared.append(True)

    with pytest.raises(StoppedError, match="SIGTERM"):
        clear_up()
    assert cleared == [True]


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)

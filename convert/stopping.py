"""The signals that end a program, heard as an exception, so that `finally` clears up."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked us to stop; not an Exception, so that no handler of errors takes it for one."""


class _State:
    """Of the main thread, where signals are heard."""

    native_calls = 0
    waiting: str | None = None


@contextmanager
def stopping_signals() -> Iterator[None]:
    """While it lasts, the signals that end a program raise Interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.waiting = None

    def stop(number: int, _frame: FrameType | None) -> None:
        for stopping in SIGNALS:  # a second one must not interrupt the clearing up
            signal.signal(stopping, signal.SIG_IGN)
        name = signal.Signals(number).name
        if _State.native_calls:
            _State.waiting = name
        else:
            raise Interrupted(name)

    # What nohup or a shell's background job had us ignore stays ignored.
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def native_call() -> Iterator[None]:
    """Around native code that calls back: there an exception would be printed and lost, so it is raised at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.native_calls += 1
    try:
        yield
    finally:
        _State.native_calls -= 1
    if _State.waiting is not None and not _State.native_calls:
        name, _State.waiting = _State.waiting, None
        raise Interrupted(name)


def is_stopping() -> bool:
    """Whether a signal waits for the end of a native call."""
    return _State.waiting is not None

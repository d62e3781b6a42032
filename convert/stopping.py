"""The signals that end a program, as an exception, so that `finally` clears up."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(BaseException):
    """A signal asked to stop. No Exception, so that no handler of errors catches it."""


class _State:
    """Signal handlers are global, and so is this."""

    deferred = 0
    waiting: str | None = None


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise StoppedError in the main thread while this lasts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.waiting = None

    def stop(number: int, _frame: FrameType | None) -> None:
        for other in _SIGNALS:  # a second signal must not interrupt the clearing up
            signal.signal(other, signal.SIG_IGN)
        name = signal.Signals(number).name
        if not _State.deferred:
            raise StoppedError(name)
        _State.waiting = name

    # What nohup or a shell's background job ignores stays ignored.
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_deferred() -> Iterator[None]:
    """Raises StoppedError only at the end: for renames, and for native code that calls back.

    An exception inside of a native callback would be printed and lost.
    """
    _State.deferred += 1
    try:
        yield
    finally:
        _State.deferred -= 1
    if _State.waiting is not None and not _State.deferred:
        name, _State.waiting = _State.waiting, None
        raise StoppedError(name)


def is_stop_waiting() -> bool:
    """Whether a signal waits for the end of `stop_deferred`."""
    return _State.waiting is not None

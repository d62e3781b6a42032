"""The signals that end a program, as an exception, so that `finally` cleans up."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(BaseException):
    """A signal asked to stop. It is not an Exception, so that no error handler catches it."""


class _State:
    """Signal handlers are global, and so is this."""

    is_deferred = False
    pending: str | None = None


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise StoppedError while this lasts."""

    def stop(number: int, _frame: FrameType | None) -> None:
        for other in _SIGNALS:  # a second signal must not interrupt the cleanup
            signal.signal(other, signal.SIG_IGN)
        _State.pending = signal.Signals(number).name
        if not _State.is_deferred:
            raise StoppedError(_State.pending)

    # What nohup or a shell's background job ignores stays ignored.
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    except Exception as error:  # StoppedError can break a lock of the standard library, whose error then replaces it
        if _State.pending is not None:
            raise StoppedError(_State.pending) from error
        raise
    finally:
        _State.pending = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_deferred() -> Iterator[None]:
    """Raises StoppedError only at the end: for renames, and native code that calls back. Not to be nested."""
    was_pending, _State.is_deferred = _State.pending, True
    try:
        yield
    finally:
        _State.is_deferred = False
    if _State.pending is not None and was_pending is None:
        raise StoppedError(_State.pending)


def is_stop_pending() -> bool:
    """Whether a signal has come, which `stop_deferred` raises at its end."""
    return _State.pending is not None

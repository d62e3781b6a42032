"""One process at a time uses a `state_dir`."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


class StateInUseError(Exception):
    """Another process has the folder."""


def is_locked(state_dir: Path) -> bool:
    """Whether a process uses the folder now; False where that cannot be told."""
    try:
        folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(folder)
    return False


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """One agent per `state_dir`: a second one would answer, and forget, the requests of the first.

    Holds a lock on the folder until the body or the process ends; the worker does not inherit it.

    A folder that cannot be made or opened is used without a lock: nothing is kept there either. Raises StateInUseError.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        log.warning("%s cannot be locked, another agent could use it too: %s", state_dir, error.strerror)
        yield
        return
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"state_dir {state_dir} is in use by another process: each agent needs its own"
            raise StateInUseError(message) from None
        yield
    finally:
        os.close(folder)

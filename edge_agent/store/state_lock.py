"""One agent per `state_dir`: a second one would answer, and forget, the requests of the first."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

# An agent that is ending may need a moment.
WAIT_S = 3.0
_RETRY_S = 0.1


class StateInUseError(Exception):
    """Another process has the folder."""


@contextmanager
def locked(state_dir: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Holds a lock on the folder until the body or the process ends; the worker does not inherit it.

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
        give_up_at = time.monotonic() + wait_s
        while not _is_locked(folder):
            if time.monotonic() >= give_up_at:
                raise StateInUseError(f"state_dir {state_dir} is in use by another process: each agent needs its own")
            time.sleep(_RETRY_S)  # noqa: TID251 - no event tells that a lock is free
        yield
    finally:
        os.close(folder)


def _is_locked(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

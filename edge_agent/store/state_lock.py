"""One agent per `state_dir`: a second one would answer, and forget, the requests of the first."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path

log = logging.getLogger(__name__)

FILE = "lock"
# An agent that is ending may need a moment.
WAIT_S = 3.0
_RETRY_S = 0.1
_MAX_NUMBER = 20


class StateInUseError(Exception):
    """The message names the folder and, where it is known, the process that has it."""


@contextmanager
def locked(state_dir: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Holds the lock of the folder until the body or the process ends.

    A folder that cannot be locked (read-only, another account) is used without a lock: nothing is kept there either.
    Raises StateInUseError.
    """
    with ExitStack() as opened:
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            # Not inherited by the worker, which may outlive this process for a moment.
            file = opened.enter_context(FileIO(state_dir / FILE, "a+", opener=_open))
            _lock(file, state_dir, wait_s)
        except OSError as error:
            log.warning("%s cannot be locked, another agent could use it too: %s", state_dir, error.strerror)
        yield


def _open(path: str, flags: int) -> int:
    # Root must not write where a link of the service's account leads.
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _lock(file: FileIO, state_dir: Path, wait_s: float) -> None:
    give_up_at = time.monotonic() + wait_s
    while not _is_locked(file):
        if time.monotonic() >= give_up_at:
            file.seek(0)
            holder = file.read(_MAX_NUMBER).decode(errors="replace").strip()
            user = f"process {holder}" if holder.isdecimal() else "another process"
            raise StateInUseError(f"state_dir {state_dir} is in use by {user}: each agent needs its own")
        time.sleep(_RETRY_S)  # noqa: TID251 - no event tells that a lock is free
    with suppress(OSError):
        # Otherwise the service could not lock a file that root created in a trial.
        owner = state_dir.stat()
        os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
    # The number is for the error message of another process: on a full disk it may be missing.
    with suppress(OSError):
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())


def _is_locked(file: FileIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""Runs each case in its own forked process, which may die, hang or ask for all memory."""

import faulthandler
import json
import os
import resource
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from time import monotonic

# How a case ended, and why.
Outcome = tuple[str, str]
# What no input may cause. A driver says why a case `failed`.
ENDED, HUNG, RAISED, FAILED = "ended", "hung", "raised", "failed"
BAD = (ENDED, HUNG, RAISED, FAILED)
_KEPT_CHARACTERS = 400


def try_in_child(work: Callable[[], Outcome], *, cpu_s: int, memory_bytes: int, patience_s: float = 60.0) -> Outcome:
    """The result of `work` in a child process, or how the child ended.

    It may take `cpu_s` of CPU time, `patience_s` of wall time, and addresses of `memory_bytes` beyond those of this
    process.
    """
    with tempfile.TemporaryFile() as result, tempfile.TemporaryFile() as log:
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            _work_and_end(work, result.fileno(), log.fileno(), cpu_s, memory_bytes)
        status = _waited(child, patience_s)
        result.seek(0)
        log.seek(0)
        if status == 0:
            outcome, why = json.loads(result.read())
            return outcome, why
        words = " ".join(log.read().decode(errors="replace").split())[-_KEPT_CHARACTERS:]
        if status is None:
            return HUNG, f"after {patience_s:g} s: {words}"
        if status == -signal.SIGXCPU:
            return HUNG, f"after {cpu_s} s of CPU time: {words}"
        return ENDED, f"{signal.Signals(-status).name if status < 0 else status}: {words}"


def _work_and_end(work: Callable[[], Outcome], result: int, log: int, cpu_s: int, memory_bytes: int) -> None:
    try:
        os.setsid()
        os.dup2(log, 2)
        faulthandler.enable(log)
        limit = int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
        try:
            outcome = work()
        except Exception as error:  # noqa: BLE001 - an unexpected error is the finding
            place = traceback.extract_tb(error.__traceback__)[-1]
            outcome = RAISED, f"{error!r} at {Path(place.filename).name}:{place.lineno}"
        sys.stdout.flush()
        os.write(result, json.dumps(outcome).encode())
        os._exit(0)
    finally:
        os._exit(99)


def _waited(child: int, patience_s: float) -> int | None:
    """The return code, or minus a signal's number; None if the child had to be killed."""
    descriptor = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        began = monotonic()
        is_done = bool(poll.poll(patience_s * 1000))
        # This ends the processes that it started, too.
        if not is_done or monotonic() - began > patience_s:
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) if is_done else None
    finally:
        os.close(descriptor)

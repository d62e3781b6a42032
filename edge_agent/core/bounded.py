"""Bounds of time and memory for code from outside, which must not take this process along."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.core.errors import how_ended

# What C code does without a look at signals can only be ended together with the process.
_PATIENCE = 3.0
_UNLIMITED = resource.RLIM_INFINITY
_STATM = Path("/proc/self/statm")
_TRIAL_TIMEOUT_S = 60.0
# What a module that is run by `tried_apart` ends with for a fault, which it has written to its standard output.
FAULTY = 65


class OutOfBoundsError(Exception):
    """The message says of what there was too much."""


class _OutOfTime(BaseException):
    """No Exception, which the code might catch."""


@contextmanager
def bounded(*, cpu_s: float, memory_bytes: int) -> Iterator[None]:
    """Raises OutOfBoundsError once the body has used more of this process's CPU time, or wants more memory.

    A body that cannot be interrupted, deep in C, ends the process by SIGVTALRM after three times `cpu_s`. Other threads
    should rest meanwhile: their time counts, and they find no more memory either. For the main thread alone, which is
    the one that hears signals; not to be nested. Raises RuntimeError where it is.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGPROF) is _out_of_time:
        raise RuntimeError("`bounded` is for the main thread alone, and not to be nested")
    try:
        with _limits(cpu_s, memory_bytes):
            yield
    except _OutOfTime as error:
        message, trace = f"takes more than {cpu_s:g} s of CPU time", error.__traceback__
    except MemoryError as error:
        message, trace = f"takes more than {memory_bytes // 10**6} MB of memory", error.__traceback__
    else:
        return
    # What it has made is garbage now, not whenever the collector finds it.
    traceback.clear_frames(trace)
    raise OutOfBoundsError(message)


def tried_apart(module: str, data: bytes) -> bytes:
    """What the module, run as a process of its own, writes to its standard output when it reads these bytes.

    Raises OutOfBoundsError with the fault that it tells, or how it ended. It bounds itself.
    """
    try:
        tried = subprocess.run(  # noqa: S603 - a module of ours
            [sys.executable, "-P", "-m", module],
            input=data,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            timeout=_TRIAL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OutOfBoundsError(f"takes more than {_TRIAL_TIMEOUT_S:g} s") from None
    if tried.returncode == FAULTY:
        raise OutOfBoundsError(tried.stdout.decode())
    if tried.returncode:
        raise OutOfBoundsError(f"ended the process that tried it ({how_ended(tried.returncode)})")
    return tried.stdout


@contextmanager
def _limits(cpu_s: float, memory_bytes: int) -> Iterator[None]:
    handler = signal.signal(signal.SIGPROF, _out_of_time)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, _PATIENCE * cpu_s)
            # Again and again: an exception that is raised in a finalizer is dropped.
            signal.setitimer(signal.ITIMER_PROF, cpu_s, cpu_s)
            resource.setrlimit(resource.RLIMIT_DATA, (_lower(_data_bytes() + memory_bytes, limits), limits[1]))
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
    finally:
        # Once more: it may just have raised, before it was stopped.
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        resource.setrlimit(resource.RLIMIT_DATA, limits)
        signal.signal(signal.SIGPROF, handler)


def _out_of_time(_number: int, _frame: object) -> None:
    raise _OutOfTime


def _data_bytes() -> int:
    """What counts against RLIMIT_DATA, and the stack."""
    return int(_STATM.read_bytes().split()[5]) * resource.getpagesize()


def _lower(wanted: int, limits: tuple[int, int]) -> int:
    return min([wanted, *(limit for limit in limits if limit != _UNLIMITED)])

"""Bounds of time and memory for code from outside that this process runs itself, and that must not take it along."""

from __future__ import annotations

import resource
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What C code does without a look at signals can only be ended together with the process.
_PATIENCE = 3.0
_UNLIMITED = resource.RLIM_INFINITY
_STATM = Path("/proc/self/statm")


class OutOfBoundsError(Exception):
    """The message says of what there was too much."""


class _OutOfTime(BaseException):
    """No Exception, which the code might catch."""


@contextmanager
def bounded(*, cpu_s: float, memory_bytes: int) -> Iterator[None]:
    """Raises OutOfBoundsError once the body has used more of this process's CPU time, or wants more memory.

    A body that cannot be interrupted, deep in C, ends the process by SIGVTALRM after three times `cpu_s`. Other threads
    should rest meanwhile: their time counts, and they find no more memory either. For the main thread alone, which is
    the one that hears signals; not to be nested.
    """
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

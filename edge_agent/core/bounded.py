"""Limits on time and memory for untrusted code."""

import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.core.environment import child_environment
from edge_agent.core.wording import how_ended

# C code that does not check for signals can only be ended together with the process, after this many times the limit.
_PATIENCE = 3.0
_STATM = Path("/proc/self/statm")
_CHILD_TIMEOUT_S = 60.0
# The exit code of a module under `run_in_child` that has written a fault to its standard output.
FAULTY = 65


class OutOfBoundsError(Exception):
    """The message names the bound that was exceeded."""


class _OutOfTime(BaseException):
    """Not an Exception, because the bounded code might catch that."""


@contextmanager
def bounded(*, cpu_s: float, memory_bytes: int) -> Iterator[None]:
    """Raises OutOfBoundsError when the body uses more CPU time of this process, or wants more memory.

    C code that cannot be interrupted ends the process by SIGVTALRM after three times `cpu_s`. Other threads should be
    idle meanwhile, because their time counts and the limits bind them, too. Only for the main thread, which alone
    handles signals, and not nested.
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
    # Frees what the body has allocated now.
    traceback.clear_frames(trace)
    raise OutOfBoundsError(message)


def run_in_child(module: str, data: bytes) -> bytes:
    """Runs a module as a child process with these bytes as standard input; returns its standard output.

    Raises OutOfBoundsError with the fault that it reports, or how it ended. The module bounds itself.
    """
    try:
        child = subprocess.run(  # noqa: S603 - a module of ours
            [sys.executable, "-P", "-m", module],
            input=data,
            capture_output=True,
            env=child_environment(),
            timeout=_CHILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OutOfBoundsError(f"takes more than {_CHILD_TIMEOUT_S:g} s") from None
    if child.returncode == FAULTY:
        raise OutOfBoundsError(child.stdout.decode())
    if child.returncode:
        raise OutOfBoundsError(f"ended the process that tried it ({how_ended(child.returncode)})")
    return child.stdout


@contextmanager
def _limits(cpu_s: float, memory_bytes: int) -> Iterator[None]:
    handler = signal.signal(signal.SIGPROF, _out_of_time)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, _PATIENCE * cpu_s)
            # Repeats, because an exception in a finalizer is dropped.
            signal.setitimer(signal.ITIMER_PROF, cpu_s, cpu_s)
            # This field of /proc/self/statm holds what counts against RLIMIT_DATA, and the stack.
            wanted = int(_STATM.read_bytes().split()[5]) * resource.getpagesize() + memory_bytes
            soft = wanted if limits[1] == resource.RLIM_INFINITY else min(wanted, limits[1])
            resource.setrlimit(resource.RLIMIT_DATA, (soft, limits[1]))
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
    finally:
        # Again, because the timer may have raised before it was stopped.
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        resource.setrlimit(resource.RLIMIT_DATA, limits)
        signal.signal(signal.SIGPROF, handler)


def _out_of_time(_number: int, _frame: object) -> None:
    raise _OutOfTime

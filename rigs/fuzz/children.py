"""Each case in its own forked process, which may die, hang or ask for all memory."""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import resource
import select
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic

from rigs.machine import model_path

# How a case ended, and why.
Outcome = tuple[str, str]
# What no input may cause. A driver says why a case `failed`.
ENDED, HUNG, RAISED, FAILED = "ended", "hung", "raised", "failed"
BAD = (ENDED, HUNG, RAISED, FAILED)
_KEPT_CHARACTERS = 400


def tried(work: Callable[[], Outcome], *, cpu_s: int, memory_bytes: int, patience_s: float = 60.0) -> Outcome:
    """The result of `work` in a child process, or how the child ended.

    cpu_s: of CPU time; memory_bytes: of addresses beyond those of this process; patience_s: of wall time.
    """
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as log:
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            _work_and_end(work, told.fileno(), log.fileno(), cpu_s, memory_bytes)
        status = _waited(child, patience_s)
        told.seek(0)
        log.seek(0)
        if status == 0:
            outcome, why = json.loads(told.read())
            return outcome, why
        words = " ".join(log.read().decode(errors="replace").split())[-_KEPT_CHARACTERS:]
        if status is None:
            return HUNG, f"after {patience_s:g} s: {words}"
        if status == -signal.SIGXCPU:
            return HUNG, f"after {cpu_s} s of CPU time: {words}"
        return ENDED, f"{signal.Signals(-status).name if status < 0 else status}: {words}"


def _work_and_end(work: Callable[[], Outcome], told: int, log: int, cpu_s: int, memory_bytes: int) -> None:
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
        os.write(told, json.dumps(outcome).encode())
        os._exit(0)
    finally:
        os._exit(99)


def _waited(child: int, patience_s: float) -> int | None:
    """The return code, or minus a signal's number; None = the child had to be killed."""
    descriptor = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        began = monotonic()
        is_done = bool(poll.poll(patience_s * 1000))
        # With the processes that it started.
        if not is_done or monotonic() - began > patience_s:
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) if is_done else None
    finally:
        os.close(descriptor)


def report(outcomes: Iterable[tuple[int, Outcome]], *, is_whole: bool = False) -> int:
    """Prints each bad case (with is_whole: every case) and the counts; 1 if a case is bad."""
    counts = Counter[str]()
    for number, (outcome, why) in outcomes:
        counts[outcome] += 1
        if outcome in BAD or is_whole:
            print(f"{number}: {outcome}: {why}", flush=True)
    print(f"{counts.total()} cases: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))
    return 1 if any(counts[outcome] for outcome in BAD) else 0


def drive(
    name: str, about: str | None, outcomes: Callable[..., Iterable[tuple[int, Outcome]]], *, of_model: bool = False
) -> int:
    """The exit code of `python -m rigs.fuzz.NAME`. of_model: `outcomes` takes a model's path before count and first."""
    parser = argparse.ArgumentParser(prog=f"python -m rigs.fuzz.{name}", description=about)
    if of_model:
        parser.add_argument("model", type=model_path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--all", action="store_true", help="print every case, not only the bad ones")
    given = parser.parse_args()
    models = (given.model,) if of_model else ()
    return report(outcomes(*models, given.count, given.first), is_whole=given.all)

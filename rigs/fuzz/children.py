"""Each case in a process of its own, forked from this one: it may die, stand still or want all memory there is."""

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

# What became of a case, and why.
Outcome = tuple[str, str]
# What no input may do. Of `failed` the driver says why.
ENDED, STILL, RAISED, FAILED = "ended", "stood still", "raised", "failed"
BAD = (ENDED, STILL, RAISED, FAILED)
_KEPT_WORDS = 400


def tried(work: Callable[[], Outcome], *, cpu_s: int, memory_bytes: int, patience_s: float = 60.0) -> Outcome:
    """What `work` gives, or how the process of its own ended it.

    cpu_s: of its own time; memory_bytes: of addresses beyond those that this process has. patience_s: by the clock.
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
        words = " ".join(log.read().decode(errors="replace").split())[-_KEPT_WORDS:]
        if status is None:
            return STILL, f"after {patience_s:g} s: {words}"
        if status == -signal.SIGXCPU:
            return STILL, f"after {cpu_s} s of CPU time: {words}"
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
        except Exception as error:  # noqa: BLE001 - what must not come is told
            place = traceback.extract_tb(error.__traceback__)[-1]
            outcome = RAISED, f"{error!r} at {Path(place.filename).name}:{place.lineno}"
        sys.stdout.flush()
        os.write(told, json.dumps(outcome).encode())
        os._exit(0)
    finally:
        os._exit(99)


def _waited(child: int, patience_s: float) -> int | None:
    """Its return code, minus a signal's number; None = it had to be killed."""
    descriptor = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        began = monotonic()
        is_done = bool(poll.poll(patience_s * 1000))
        # Those that it started, too.
        if not is_done or monotonic() - began > patience_s:
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) if is_done else None
    finally:
        os.close(descriptor)


def report(outcomes: Iterable[tuple[int, Outcome]], *, is_whole: bool = False) -> int:
    """Prints what became of each bad case, or of each, and how many of each there were; 1 if one of them is bad."""
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
    """`python -m rigs.fuzz.NAME`: its exit code. of_model: `outcomes` takes a model's path before count and first."""
    parser = argparse.ArgumentParser(prog=f"python -m rigs.fuzz.{name}", description=about)
    if of_model:
        parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--all", action="store_true", help="tell of each, not only of what must not be")
    given = parser.parse_args()
    models = (given.model,) if of_model else ()
    return report(outcomes(*models, given.count, given.first), is_whole=given.all)

"""How requests end at a multiple of an agent's capacity, with mixed deadlines and priorities.

The load is open: requests come at their times, whether earlier ones were answered or not. Latencies are the client's.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from edge_agent.core.terminal import UNKNOWN, aligned
from edge_agent.requests.statistics import percentile
from rigs.bench.agent import BASE, running_agent
from rigs.bench.figures import processor
from rigs.bench.workload import LABELS, SYSTEM
from rigs.load.asking import Answer, Load, answers_of, at_times, in_parallel
from tests.helpers.site import task_table

# Requests that run at once.
WIDTH = 4
PRIORITIES, DEADLINES_MS = (0, 5, 9), (200, 1000, 5000)
SETTLE_S = 60.0


@dataclass(frozen=True)
class Ending:
    """One request and its terminal reply."""

    priority: int
    deadline_ms: int
    status: str
    code: str | None
    latency_ms: float
    """The time from sending to the reply."""
    is_refused_at_once: bool
    """Whether it was refused on arrival, not after it was admitted."""
    retry_after_s: float | None
    agents_ms: float
    """The time from arrival to the reply, as the agent says."""
    run_ms: float
    """The time in the engine."""

    @property
    def is_in_time(self) -> bool:
        return self.status == "ok" and self.latency_ms <= self.deadline_ms


@dataclass(frozen=True)
class Group:
    """The requests of one priority, or of all if it is None. The percentiles are of those refused on arrival."""

    priority: int | None
    offered: int
    admitted: int
    displaced: int
    in_time: int
    late: int
    in_time_share: float | None
    busy_p50_ms: float | None
    busy_p95_ms: float | None
    busy: dict[str, int]


def summarize(priority: int | None, endings: Sequence[Ending]) -> Group:
    refused = [ending for ending in endings if ending.status == "busy" and ending.is_refused_at_once]
    busy = Counter(str(ending.code) for ending in endings if ending.status == "busy")
    admitted, displaced = len(endings) - len(refused), busy.total() - len(refused)
    in_time = sum(ending.is_in_time for ending in endings)
    waits_ms = [ending.latency_ms for ending in refused]
    return Group(
        priority=priority,
        offered=len(endings),
        admitted=admitted,
        displaced=displaced,
        in_time=in_time,
        late=admitted - displaced - in_time,
        in_time_share=round(in_time / (admitted - displaced), 4) if admitted > displaced else None,
        busy_p50_ms=percentile(waits_ms, 50),
        busy_p95_ms=percentile(waits_ms, 95),
        busy=dict(busy),
    )


def capacity_per_s(load: Load, topic: str, *, width: int, seconds: float) -> float:
    """How many requests are answered per second while `width` of them are always under way."""
    ends_at, numbers = time.monotonic() + seconds, itertools.count()

    def ask_until_the_end(_client: int) -> int:
        count = 0
        while not count or time.monotonic() < ends_at:
            load.ask(topic, reading(next(numbers)), deadline_ms=60_000).result(SETTLE_S)
            count += 1
        return count

    counts, took_s = in_parallel(ask_until_the_end, range(width), width)
    return sum(counts) / took_s


def offer(load: Load, topic: str, *, per_s: float, seconds: float, mix: Sequence[tuple[int, int]]) -> list[Ending]:
    """Sends requests at a steady rate, whose priorities and deadlines (ms) take turns; returns how each ended.

    Raises AssertionError if one got more than one reply.
    """

    def ask(number: int) -> Future[Answer]:
        priority, deadline_ms = mix[number % len(mix)]
        return load.ask(topic, reading(number), priority=priority, deadline_ms=deadline_ms)

    answers = answers_of(at_times((number / per_s for number in range(round(per_s * seconds))), ask), SETTLE_S)
    assert load.ledger.is_good, load.ledger.notes
    return [ending(*mix[number % len(mix)], answer) for number, answer in enumerate(answers)]


def ending(priority: int, deadline_ms: int, answer: Answer) -> Ending:
    error, queued_ms = answer.reply["error"] or {}, answer.reply["timing"]["queued_ms"]
    return Ending(
        priority=priority,
        deadline_ms=deadline_ms,
        status=answer.status,
        code=error.get("code"),
        latency_ms=answer.waited_ms,
        is_refused_at_once=queued_ms is None,
        retry_after_s=error.get("retry_after_s"),
        agents_ms=answer.agent_ms,
        run_ms=0.0 if queued_ms is None else answer.agent_ms - queued_ms,
    )


def reading(number: int) -> dict[str, int]:
    return {"pump": number, "vibration_mm_s": 2 + number % 9, "temperature_c": 50 + number % 40}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.bench.overload", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="a bundle, a .gguf or echo:step_ms=20")
    parser.add_argument("--times", type=float, default=10.0, help="the load, as a multiple of what can be answered")
    parser.add_argument("--seconds", type=float, default=15.0, help="default: %(default)s")
    options = parser.parse_args()
    topic = f"{BASE}/infer/triage/request"
    mix = [(priority, deadline_ms) for deadline_ms in DEADLINES_MS for priority in PRIORITIES]
    tasks = task_table("triage", kind="classify", system=SYSTEM, labels=list(LABELS))
    with (
        tempfile.TemporaryDirectory() as folder,
        running_agent(options.model, Path(folder), tasks, {"max_active": WIDTH}) as agent,
    ):
        per_s = capacity_per_s(agent.load, topic, width=4 * WIDTH, seconds=options.seconds / 3)
        endings = offer(agent.load, topic, per_s=options.times * per_s, seconds=options.seconds, mix=mix)
    print(f"{processor()}: capacity {per_s:.1f}/s, offered {options.times * per_s:.1f}/s for {options.seconds:.0f} s")
    groups = [summarize(level, [ending for ending in endings if ending.priority == level]) for level in PRIORITIES]
    print(table([*groups, summarize(None, endings)]))
    return 0


def table(groups: Sequence[Group]) -> str:
    """A line for each group, None as –."""
    rows = [
        [
            UNKNOWN if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)
            for cell in astuple(group)
        ]
        for group in groups
    ]
    return "\n".join(aligned([[column.name for column in fields(Group)], *rows]))


if __name__ == "__main__":
    sys.exit(main())

"""How requests end at a multiple of an agent's capacity, with mixed deadlines and priorities.

The load is open: requests come at their times, whether earlier ones were answered or not. Latencies are the client's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from edge_agent.requests.statistics import percentile
from rigs.bench.agent import BASE, running_agent
from rigs.bench.figures import processor
from rigs.bench.workload import LABELS, SYSTEM
from tests.helpers.client import Client
from tests.helpers.processes import wait_until
from tests.helpers.site import task_table

# Requests that run at once.
WIDTH = 4
PRIORITIES, DEADLINES_MS = (0, 5, 9), (200, 1000, 5000)
SETTLE_S = 60.0


@dataclass(frozen=True)
class Ending:
    """One request, its terminal reply, and the milliseconds from sending to that reply.

    agents_ms: from arrival to that reply, as the agent says; run_ms: of these, the time in the engine.
    """

    priority: int
    deadline_ms: int
    status: str
    code: str | None
    latency_ms: float
    # On arrival, not after it was admitted.
    is_refused_at_once: bool
    retry_after_s: float | None
    agents_ms: float
    run_ms: float

    @property
    def is_in_time(self) -> bool:
        return self.status == "ok" and self.latency_ms <= self.deadline_ms


@dataclass(frozen=True)
class Group:
    """The requests of one priority, or of all (None). busy_p50_ms, busy_p95_ms: of those refused on arrival."""

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


def row(priority: int | None, endings: Sequence[Ending]) -> Group:
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


def capacity_per_s(client: Client, request: str, response: str, *, width: int, seconds: float) -> float:
    """Requests that are answered per second while `width` of them are always under way."""
    before = sent = len(client.on(response))
    first = sent
    began = time.monotonic()
    while time.monotonic() - began < seconds or sent < before + 2 * width:
        if sent - first >= width:
            client.wait(response, count=sent - width + 1)
        client.publish(request, {"input": reading(sent), "deadline_ms": 60_000})
        sent += 1
    client.wait(response, count=sent)
    return (sent - first) / (client.on(response)[-1].at - began)


def offer(
    client: Client, request: str, response: str, *, per_s: float, seconds: float, mix: Sequence[tuple[int, int]]
) -> list[Ending]:
    """Sends requests at a steady rate; their priorities and deadlines (ms) take turns. How each ended."""
    heard = len(client.on(response))
    sent_at: list[float] = []
    began = time.monotonic()
    count = round(per_s * seconds)
    while len(sent_at) < count:
        due = min(count, int((time.monotonic() - began) * per_s) + 1)
        for number in range(len(sent_at), due):
            priority, deadline_ms = mix[number % len(mix)]
            envelope = {"input": reading(number), "id": number, "priority": priority, "deadline_ms": deadline_ms}
            sent_at.append(time.monotonic())
            client.send(request, json.dumps(envelope))
        time.sleep(0.002)
    wait_until(lambda: len(client.on(response)) >= heard + count, "every request is answered", SETTLE_S)
    messages = client.on(response)[heard:]
    replies = {message.json["id"]: (message.json, message.at) for message in messages}
    if len(messages) != count or len(replies) != count:
        raise AssertionError(f"{count} requests had {len(messages)} replies to {len(replies)} of them")
    return [ending(*mix[n % len(mix)], *replies[n], sent_at[n]) for n in range(count)]


def ending(priority: int, deadline_ms: int, reply: dict[str, Any], at: float, sent_at: float) -> Ending:
    error, timing = reply["error"] or {}, reply["timing"]
    queued_ms = timing["queued_ms"]
    return Ending(
        priority=priority,
        deadline_ms=deadline_ms,
        status=reply["status"],
        code=error.get("code"),
        latency_ms=(at - sent_at) * 1000,
        is_refused_at_once=queued_ms is None,
        retry_after_s=error.get("retry_after_s"),
        agents_ms=timing["total_ms"],
        run_ms=0.0 if queued_ms is None else timing["total_ms"] - queued_ms,
    )


def reading(number: int) -> dict[str, int]:
    return {"pump": number, "vibration_mm_s": 2 + number % 9, "temperature_c": 50 + number % 40}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.bench.overload", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="a bundle, a .gguf or echo:step_ms=20")
    parser.add_argument("--times", type=float, default=10.0, help="the load, as a multiple of what can be answered")
    parser.add_argument("--seconds", type=float, default=15.0, help="default: %(default)s")
    options = parser.parse_args()
    request, response = (f"{BASE}/infer/triage/{end}" for end in ("request", "response"))
    mix = [(priority, deadline_ms) for deadline_ms in DEADLINES_MS for priority in PRIORITIES]
    tasks = task_table("triage", kind="classify", system=SYSTEM, labels=list(LABELS))
    with (
        tempfile.TemporaryDirectory() as folder,
        running_agent(options.model, Path(folder), tasks, {"max_active": WIDTH}) as agent,
    ):
        per_s = capacity_per_s(agent.client, request, response, width=4 * WIDTH, seconds=options.seconds / 3)
        endings = offer(agent.client, request, response, per_s=options.times * per_s, seconds=options.seconds, mix=mix)
    print(f"{processor()}: capacity {per_s:.1f}/s, offered {options.times * per_s:.1f}/s for {options.seconds:.0f} s")
    rows = [row(priority, [one for one in endings if one.priority == priority]) for priority in PRIORITIES]
    print(table([*rows, row(None, endings)]))
    return 0


def table(rows: Sequence[Group]) -> str:
    """A line for each group, None as –."""
    lines = [[one.name for one in fields(Group)], *(astuple(one) for one in rows)]
    cells = [
        ["–" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in line]
        for line in lines
    ]
    return "\n".join(" ".join(f"{cell:>13}" for cell in line) for line in cells)


if __name__ == "__main__":
    sys.exit(main())

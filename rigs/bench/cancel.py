"""How soon the worker lets go of a cancelled request, in the middle of a long prompt; and whether others notice.

The caller hears of a cancel or a deadline at once, from the agent; this is when the request stops costing anything.
usage: python -m rigs.bench.cancel MODEL.gguf [--times 10] [--json]
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import statistics
import sys
import time
from pathlib import Path

from edge_agent.core.protocol import (
    Cancel,
    Cancelled,
    ChatMessage,
    EngineSettings,
    Event,
    Finished,
    Load,
    Loading,
    Partial,
    Progress,
    Ready,
    Run,
    Sampling,
    TextPlan,
)
from edge_agent.worker.process import EngineProcess, WorkerExited

LONG = 2000  # words of the prompt that is cancelled
OTHERS = 3
LOAD_S = 300


class Worker:
    """A worker whose events come with the time at which they came."""

    def __init__(self, model: Path) -> None:
        self.events: queue.Queue[tuple[float, Event | WorkerExited]] = queue.Queue()
        load = Load(model_path=str(model), settings=EngineSettings(max_active=OTHERS + 1))
        self.process = EngineProcess(load, lambda event: self.events.put((time.monotonic(), event)))
        self.process.start()
        self.running: set[int] = set()
        if not isinstance(self.next(LOAD_S)[1], Ready):
            raise SystemExit("the worker cannot load the model")

    def start(self, request: Run) -> None:
        self.running.add(request.id)
        self.process.send(request)

    def next(self, timeout_s: float = 60) -> tuple[float, Event | WorkerExited]:
        while True:
            at, event = self.events.get(timeout=timeout_s)
            if isinstance(event, WorkerExited):
                raise SystemExit(f"the worker ended: {event.log_tail[-3:]}")
            if isinstance(event, Finished | Cancelled):
                self.running.discard(event.id)
            if not isinstance(event, Progress | Loading):
                return at, event


def run(number: int, words: int, *, stream: bool = False) -> Run:
    text = " ".join(random.Random(number).choices(["valve", "pump", "rotor", "seal", "motor"], k=words))
    return Run(
        id=number,
        task="generate",
        messages=(ChatMessage(role="user", content=f"Write a long story about: {text}"),),
        plan=TextPlan(),
        # Seldom at an end by itself; `cancel` begins another one then.
        sampling=Sampling(temperature=1.5, seed=number),
        max_tokens=400,
        stream=stream,
    )


def cancel(worker: Worker, number: int, pause_s: float) -> float:
    """Milliseconds from the cancel of a long prompt, some time after its start, to its end."""
    worker.start(run(number, LONG))
    time.sleep(pause_s)  # into the middle of some step
    asked_at = time.monotonic()
    worker.process.send(Cancel(id=number))
    while True:
        at, event = worker.next()
        if isinstance(event, Cancelled) and event.id == number:
            return (at - asked_at) * 1000
        if isinstance(event, Finished) and event.id != number:
            worker.start(run(event.id + OTHERS, 5, stream=True))
        elif not isinstance(event, Partial):
            raise SystemExit(f"the request was not cancelled: {event}")


def gaps_ms(worker: Worker, until: float) -> list[float]:
    """Between two pieces of text of each request that streams."""
    last: dict[int, float] = {}
    found: list[float] = []
    while time.monotonic() < until:
        try:
            at, event = worker.next(max(0.01, until - time.monotonic()))
        except queue.Empty:
            break
        if isinstance(event, Partial):
            if event.id in last:
                found.append((at - last[event.id]) * 1000)
            last[event.id] = at
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    worker = Worker(options.model)
    pauses = [0.15 + 0.037 * number for number in range(options.times)]
    alone = [cancel(worker, 100 + number, pause) for number, pause in enumerate(pauses)]
    for number in range(OTHERS):
        worker.start(run(number, 5, stream=True))
    beside = [cancel(worker, 200 + number, pause) for number, pause in enumerate(pauses)]
    for number in worker.running:
        worker.process.send(Cancel(id=number))
    gaps_ms(worker, time.monotonic() + 1)
    for number in range(10, 10 + OTHERS):
        worker.start(run(number, 5, stream=True))
    quiet = gaps_ms(worker, time.monotonic() + 3)
    worker.start(run(300, LONG))
    time.sleep(0.1)
    worker.process.send(Cancel(id=300))
    disturbed = gaps_ms(worker, time.monotonic() + 3)
    worker.process.stop(5)
    result = {
        "alone_ms": {"median": round(statistics.median(alone), 1), "worst": round(max(alone), 1)},
        "beside_others_ms": {"median": round(statistics.median(beside), 1), "worst": round(max(beside), 1)},
        "gap_of_others_ms": {"median": round(statistics.median(quiet), 1), "worst": round(max(quiet), 1)},
        "gap_around_a_cancel_ms": {"median": round(statistics.median(disturbed), 1), "worst": round(max(disturbed), 1)},
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    print(f"{'':32} {'median':>9} {'worst':>9}")
    for name, value in result.items():
        print(f"{name.removesuffix('_ms').replace('_', ' '):32} {value['median']:>6} ms {value['worst']:>6} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())

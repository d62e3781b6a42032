"""What the monitor of the board adds to steps of the engine: steps in one process, the monitor in another, as the agent
has them; with the monitor and without in turns.

Run as a program (python -m tests.helpers.boards.steps MODEL.gguf) it is the process of the steps: one row each on all
cores, so that the monitor must take its time from one of them. It ends with its input, and prints when steps began
and ended.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_agent.board.board import Board
from edge_agent.board.monitor import Monitor
from edge_agent.board.reading import BoardReading
from edge_agent.core.environment import library_environment
from tests.helpers.boards.trees import load

# Seconds of the monotonic clock, which all processes share: begin and end.
Span = tuple[float, float]

TURN_S = 4.0
# More often than an agent has it, for more passes: what one of them costs does not depend on it.
INTERVAL_S = 0.1
_SETTLE_S = 0.2


@dataclass(frozen=True)
class Costs:
    """Seconds: of each step in turns without the monitor and with it; lost to each pass; of CPU that each pass took."""

    without: list[float]
    beside: list[float]
    lost: list[float]
    cpu: list[float]


class TimedMonitor(Monitor):
    """A monitor that notes when its passes begin, and what CPU time they take."""

    def __init__(self, board: Board) -> None:
        super().__init__(board, lambda _: None, interval_s=INTERVAL_S)
        self.passes: list[tuple[float, float]] = []

    def _read(self) -> BoardReading | None:
        began, used_s = time.monotonic(), time.thread_time()
        reading = super()._read()
        self.passes.append((began, time.thread_time() - used_s))
        return reading


def measure(model: Path, tree: str, *, turns: int) -> Costs:
    """turns: of each kind, an even number."""
    spans: dict[bool, list[Span]] = {False: [], True: []}
    passes: list[tuple[float, float]] = []
    pause = threading.Event()
    with tempfile.TemporaryDirectory() as folder, _stepping(model) as steps:
        root = Path(folder)
        load(tree).write(root)
        for is_beside in [False, True, True, False] * (turns // 2):
            monitor = TimedMonitor(Board(root, root))
            if is_beside:
                monitor.start()
            pause.wait(_SETTLE_S)
            began = time.monotonic()
            pause.wait(TURN_S)
            spans[is_beside].append((began, time.monotonic()))
            monitor.stop()
            passes += [one for one in monitor.passes if began <= one[0] <= began + TURN_S - INTERVAL_S]
            pause.wait(INTERVAL_S)
    return Costs(
        without=durations(steps, spans[False]),
        beside=durations(steps, spans[True]),
        lost=lost(steps, [began for began, _ in passes], INTERVAL_S / 2),
        cpu=[used_s for _, used_s in passes],
    )


def durations(steps: Sequence[Span], turns: Sequence[Span]) -> list[float]:
    """Of the steps that are wholly in one of the turns."""
    return [end - began for began, end in steps if any(first <= began and end <= last for first, last in turns)]


def lost(steps: Sequence[Span], passes: Sequence[float], window_s: float) -> list[float]:
    """What each pass, by its beginning, took from the steps: how much less was done in the window that begins with it
    than in the next one, in seconds of such work. Steps are in order, one right after the other.

    Not the length of the steps that a pass meets: it meets long ones more often than short ones, whatever made them so.
    """
    step_s = statistics.median(end - began for began, end in steps)
    return [
        step_s * (_done(steps, began + window_s, began + 2 * window_s) - _done(steps, began, began + window_s))
        for began in passes
    ]


def _done(steps: Sequence[Span], since: float, until: float) -> float:
    """In steps, with the part of a step that is cut off."""
    first = bisect_right(steps, since, key=lambda step: step[1])
    total = 0.0
    for began, end in itertools.islice(steps, first, None):
        if began >= until:
            break
        total += (min(end, until) - max(began, since)) / (end - began)
    return total


def report(costs: Costs) -> str:
    lines = [f"{'steps':20} {'number':>7} {'median ms':>10} {'p95 ms':>8} {'longest':>8}"]
    for name, seconds in (("without the monitor", costs.without), ("beside the monitor", costs.beside)):
        median, p95, longest = statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1], max(seconds)
        lines.append(f"{name:20} {len(seconds):7d} {1000 * median:10.3f} {1000 * p95:8.3f} {1000 * longest:8.3f}")
    lost_ms, cpu_ms = ([1000 * seconds for seconds in of] for of in (costs.lost, costs.cpu))
    error_ms = statistics.stdev(lost_ms) / len(lost_ms) ** 0.5
    return "\n".join(
        (
            *lines,
            f"{len(costs.lost)} passes, one each {INTERVAL_S:g} s",
            f"lost to a pass: {statistics.mean(lost_ms):.3f} ms of steps (standard error {error_ms:.3f})",
            f"CPU time of a pass: median {statistics.median(cpu_ms):.3f} ms, most {max(cpu_ms):.3f} ms",
        )
    )


@contextmanager
def _stepping(model: Path) -> Iterator[list[Span]]:
    """Steps go on until the end of the block, and are known then."""
    steps: list[Span] = []
    environment = {**os.environ, **library_environment()}
    command = [sys.executable, "-m", "tests.helpers.boards.steps", str(model)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()  # the model is loaded
        yield steps
        process.stdin.close()
        steps.extend((began, end) for began, end in json.loads(process.stdout.readline()))


def _step(model: str) -> None:
    from edge_agent.core.protocol import EngineSettings  # noqa: PLC0415
    from edge_agent.engine.llama import Llama  # noqa: PLC0415
    from edge_agent.engine.llama_engine import context_sizes  # noqa: PLC0415
    from edge_agent.engine.step import calibration  # noqa: PLC0415 - only this process has the library's environment

    llama = Llama(model, context_sizes(EngineSettings(max_active=1)))
    step = calibration.steps_of(llama, range(1), llama.sequences - 1)
    threads = calibration.cpus()
    step(1, 1, threads)
    print("loaded", flush=True)
    is_over = threading.Event()

    def await_end() -> None:
        sys.stdin.read()
        is_over.set()

    threading.Thread(target=await_end, daemon=True).start()
    steps: list[Span] = []
    while not is_over.is_set():
        began = time.monotonic()
        step(1, 1, threads)
        steps.append((began, time.monotonic()))
    print(json.dumps(steps), flush=True)
    llama.close()


if __name__ == "__main__":
    _step(sys.argv[1])

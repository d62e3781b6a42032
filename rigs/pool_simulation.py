"""How a pool of boards answers, by how the board is chosen: refused and late requests, and percentiles of the answers.

SIMULATION: no model answers anything here. Every policy gets the same requests, which arrive at random (Poisson).
A pool queue waits for its broker at each hand-over. The other policies wait for no broker, which favours them.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from heapq import heappop, heappush, heapreplace
from itertools import cycle
from pathlib import Path
from statistics import NormalDist, fmean, quantiles
from tempfile import TemporaryDirectory

from edge_agent.requests.forecast import Estimate
from rigs.bench.agent import running_agent, workload_tasks
from rigs.bench.figures import processor
from rigs.bench.workload import Kind, readings
from rigs.machine import model_path, parser_of

MEASURED = 40
# An assumption, for want of a file of measured times: a lognormal distribution. Its mean is 340 ms.
ASSUMED_MEDIAN_S, ASSUMED_SIGMA = 0.3, 0.5
_LOGARITHM = NormalDist(math.log(ASSUMED_MEDIAN_S), ASSUMED_SIGMA)
ASSUMED_TIMES_S = tuple(math.exp(_LOGARITHM.inv_cdf(thousandth / 1000)) for thousandth in range(1, 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """load: a share of what all boards can answer. times_s: of a fast board all of whose places are taken."""

    boards: int = 200
    slow_share: float = 0.3
    slow_factor: float = 4.0
    load: float = 0.8
    places: int = 1
    deadline_s: float = 5.0
    hand_over_ms: float = 10.0
    seconds: float = 300.0
    seed: int = 1
    times_s: tuple[float, ...] = field(default=ASSUMED_TIMES_S, repr=False)

    def factors(self) -> list[float]:
        """How many times as long as a fast board each board takes."""
        slow = round(self.boards * self.slow_share)
        return [self.slow_factor] * slow + [1.0] * (self.boards - slow)


@dataclass(slots=True)
class Request:
    """work_s: what a fast board takes. answered_at: None = refused."""

    arrived_at: float
    work_s: float
    answered_at: float | None = None


class Board:
    """It forecasts, admits and publishes its wait as the agent does."""

    def __init__(self, number: int, factor: float, plant: Plant) -> None:
        run_s = fmean(plant.times_s) * factor
        deviation_s = fmean(abs(time_s * factor - run_s) for time_s in plant.times_s)
        self._estimate = Estimate(share_s=run_s / plant.places, run_s=run_s, deviation_s=deviation_s)
        self._deadline_s = plant.deadline_s
        self.number, self.factor, self.places = number, factor, plant.places
        self.waiting: deque[Request] = deque()
        self.started_at: list[float] = []

    @property
    def has_place(self) -> bool:
        return len(self.started_at) < self.places

    def _work_s(self, now: float) -> float:
        at_once, share_s = len(self.started_at), self._estimate.share_s
        left_s = (max(0.0, share_s - (now - started_at) / at_once) for started_at in self.started_at)
        return sum(left_s) + len(self.waiting) * share_s

    def wait_s(self, now: float) -> float:
        return 0.0 if self.has_place else self._work_s(now)

    def is_in_time(self, request: Request, now: float) -> bool:
        ahead = len(self.started_at) + len(self.waiting)
        takes_s = self._estimate.answered_in_s(ahead, self._work_s(now), self.places)
        return now + takes_s <= request.arrived_at + self._deadline_s


class Run:
    """One policy's run of a plant."""

    def __init__(self, plant: Plant) -> None:
        self.plant, self.draw = plant, random.Random(plant.seed)
        factors = plant.factors()
        self.boards = [Board(number, factor, plant) for number, factor in enumerate(factors)]
        self.requests: list[Request] = []
        self._ends: list[tuple[float, int, float]] = []
        per_second = plant.load * plant.places * sum(1 / factor for factor in factors) / fmean(plant.times_s)
        now = 0.0
        while (now := now + self.draw.expovariate(per_second)) < plant.seconds:
            self.requests.append(Request(now, self.draw.choice(plant.times_s)))

    def events(self) -> Iterator[tuple[float, Request | Board]]:
        """In the order of time: a request that arrives, or a board one of whose places is free again."""
        for request in self.requests:
            yield from self._ended_until(request.arrived_at)
            yield request.arrived_at, request
        yield from self._ended_until(math.inf)

    def _ended_until(self, limit: float) -> Iterator[tuple[float, Board]]:
        while self._ends and self._ends[0][0] <= limit:
            now, number, started_at = heappop(self._ends)
            self.boards[number].started_at.remove(started_at)
            yield now, self.boards[number]

    def start(self, board: Board, request: Request, now: float) -> None:
        board.started_at.append(now)
        request.answered_at = now + request.work_s * board.factor
        heappush(self._ends, (request.answered_at, board.number, now))


def pull(run: Run, *, is_ideal: bool = False) -> None:
    """Requests wait in one queue. A free place takes the oldest; the place that has been free the longest comes first.

    A board refuses what it would answer late; the agent gives it back first, which matters where all are overloaded.
    is_ideal: there is no hand-over, and the fastest free place comes first.
    """
    hand_over_s = 0.0 if is_ideal else run.plant.hand_over_ms / 1000
    waiting: deque[Request] = deque()
    places = [board for board in run.boards for _ in range(board.places)]
    run.draw.shuffle(places)
    free = [(board.factor if is_ideal else 0.0, turn, board.number) for turn, board in enumerate(places)]
    free.sort()
    for turn, (now, event) in enumerate(run.events(), len(places)):
        if isinstance(event, Board):
            heappush(free, (event.factor if is_ideal else now, turn, event.number))
        else:
            waiting.append(event)
        while waiting and free:
            board, request = run.boards[free[0][2]], waiting.popleft()
            if board.is_in_time(request, now + hand_over_s):
                heappop(free)
                run.start(board, request, now + hand_over_s)


_Choice = Callable[[float], Board]


def push(run: Run, choice_of: Callable[[Run], _Choice]) -> None:
    """A request goes to the chosen board at once, waits there, or is refused there."""
    choose = choice_of(run)
    for now, event in run.events():
        if isinstance(event, Board):
            if event.waiting:
                run.start(event, event.waiting.popleft(), now)
        elif (board := choose(now)).is_in_time(event, now):
            if board.has_place:
                run.start(board, event, now)
            else:
                board.waiting.append(event)


def round_robin(run: Run) -> _Choice:
    turns = cycle(run.boards)
    return lambda _now: next(turns)


def better_of_two(run: Run, every_s: float) -> _Choice:
    """Of two random boards the one with the shorter wait, by the latest figures; every_s: 0 = they are never old."""
    figures = [0.0] * len(run.boards)
    due = sorted((run.draw.uniform(0, every_s), board.number) for board in run.boards)

    def choose(now: float) -> Board:
        while every_s and due[0][0] <= now:
            due_at, number = due[0]
            figures[number] = run.boards[number].wait_s(now)
            heapreplace(due, (due_at + every_s, number))
        pair = run.draw.sample(run.boards, 2)
        return min(pair, key=lambda board: figures[board.number] if every_s else board.wait_s(now))

    return choose


POLICIES: dict[str, Callable[[Run], None]] = {
    "pool queue": pull,
    "round robin": partial(push, choice_of=round_robin),
    "better of two, figures of now": partial(push, choice_of=partial(better_of_two, every_s=0.0)),
    "better of two, figures every 1 s": partial(push, choice_of=partial(better_of_two, every_s=1.0)),
    "better of two, figures every 10 s": partial(push, choice_of=partial(better_of_two, every_s=10.0)),
    "lower bound": partial(pull, is_ideal=True),
}


@dataclass(frozen=True, slots=True)
class Row:
    """late: answered after the deadline. The percentiles are of all answers, in milliseconds since the arrival."""

    policy: str
    sent: int
    answered: int
    refused: int
    late: int
    p50: float
    p95: float
    p99: float


def simulate(policy: str, plant: Plant) -> Row:
    run = Run(plant)
    POLICIES[policy](run)
    times_s = sorted(one.answered_at - one.arrived_at for one in run.requests if one.answered_at is not None)
    late = sum(time_s > plant.deadline_s for time_s in times_s)
    p50, p95, p99 = (times_s[math.ceil(share * len(times_s)) - 1] * 1000 for share in (0.5, 0.95, 0.99))
    sent, answered = len(run.requests), len(times_s)
    return Row(policy, sent, answered, sent - answered, late, p50, p95, p99)


def table(rows: list[Row]) -> str:
    lines = [f"{'':33} {'refused':>8} {'late':>7} {'p50':>8} {'p95':>8} {'p99':>8}"]
    for row in rows:
        shares = f"{row.refused / row.sent:8.2%} {row.late / row.sent:7.2%}"
        lines.append(f"{row.policy:33} {shares} {row.p50:5.0f} ms {row.p95:5.0f} ms {row.p99:5.0f} ms")
    return "\n".join(lines)


def times_of(text: str) -> tuple[float, ...]:
    """An argument's type: the seconds of a file of milliseconds. Raises argparse.ArgumentTypeError."""
    try:
        times_s = tuple(float(word) / 1000 for word in Path(text).read_text("utf-8").split())
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error
    if not times_s or not all(0 < time_s < math.inf for time_s in times_s):
        raise argparse.ArgumentTypeError(f"{text} has to hold milliseconds, one number a line")
    return times_s


def measured_times_s(model: Path) -> tuple[float, ...]:
    """Of an agent that answers one request after the other: MEASURED of each kind."""
    with (
        TemporaryDirectory() as folder,
        running_agent(model, Path(folder), workload_tasks(), {"max_active": 1}) as side,
    ):
        answers = [side.ask(kind, reading) for kind in Kind for reading in readings(MEASURED, seed=f"pool {kind}")]
    return tuple(answer.latency_ms / 1000 for answer in answers if answer.latency_ms is not None)


def main() -> int:
    default, parser = Plant(), parser_of("rigs.pool_simulation", __doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--times", type=times_of, metavar="FILE", help="measured times of answers: ms, one a line")
    source.add_argument("--model", type=model_path, help="a bundle or a .gguf: its times are measured here first")
    parser.add_argument("--json", action="store_true", help="figures for programs")
    for name, meaning in (
        ("boards", "number of boards"),
        ("slow_share", "share of the boards that are slow"),
        ("slow_factor", "how many times as long these take"),
        ("load", "requests, as a share of what all boards can answer"),
        ("places", "requests that a board answers at once"),
        ("deadline_s", "of each request"),
        ("hand_over_ms", "from a free place to its next request, of a pool queue"),
        ("seconds", "how long requests arrive"),
        ("seed", "of the random numbers"),
    ):
        value = getattr(default, name)
        option, described = f"--{name.replace('_', '-')}", f"{meaning} (default: {value:g})"
        parser.add_argument(option, type=type(value), default=value, metavar="N", help=described)
    words = vars(parser.parse_args())
    as_json, times_s, model = words.pop("json"), words.pop("times"), words.pop("model")
    if model is not None:
        times_s = measured_times_s(model)
    plant, rows = Plant(**words, times_s=times_s or ASSUMED_TIMES_S), []
    for policy in POLICIES:
        if sys.stderr.isatty():
            print(f"\r\033[K{policy} …", end="", file=sys.stderr, flush=True)
        rows.append(simulate(policy, plant))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps({"processor": processor(), "plant": words, "rows": [asdict(row) for row in rows]}))
    else:
        deciles = ", ".join(f"{1000 * time_s:.0f}" for time_s in quantiles(plant.times_s, n=10))
        print(processor(), f"times of answers, in deciles: {deciles} ms", table(rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

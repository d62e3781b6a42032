"""What a pool costs and gains where nothing fails."""

from __future__ import annotations

import heapq
import itertools
import os
import random
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

from edge_agent.requests.statistics import percentile
from rigs.bench.figures import Figures
from rigs.load.asking import ANSWER_S, Answer, Load, answers_of, at_times
from rigs.pool.plant import BASE, SITE, Board, Plant

SLOWER = 4.0
LOAD = 0.8
# Requests that wait while a board is added.
WAITING = 3
DEADLINE_MS = 10_000
OVERLOAD_DEADLINE_MS = 3000


def load_of(plant: Plant) -> closing[Load]:
    return closing(Load(plant.cluster.nodes[0].mqtt_port))


def ask(load: Load, deadline_ms: int = 100_000, base: str = BASE) -> Future[Answer]:
    return load.ask(f"{base}/infer/triage/request", "normal", deadline_ms=deadline_ms)


def quiet(folder: Path, figures: Figures, *, nodes: int, requests: int, service_ms: float, seed: int) -> None:
    """Two boards, and two that are SLOWER, at LOAD of their sum: waits and refusals beside an ideal shared queue."""
    steps_ms = [service_ms, service_ms, SLOWER * service_ms, SLOWER * service_ms]
    arrivals_s = poisson(requests, LOAD * sum(1000 / step for step in steps_ms), seed)
    with Plant(folder, nodes, steps_ms) as plant:
        plant.start_boards()
        with load_of(plant) as load:
            answers = answers_of(at_times(arrivals_s, lambda _: ask(load, DEADLINE_MS)))
    answered = [one.waited_ms for one in answers if one.status == "ok"]
    by_board = [[one.engine_ms for one in answers if one.device == board.name] for board in plant.boards]
    services_ms = [statistics.median(times) for times in by_board]
    best = ideal_ms(arrivals_s, services_ms)
    name = f"{service_ms:.0f} ms, {nodes} node{'s' if nodes > 1 else ''}"
    figures.note(f"{name}: refused or late", 100 * (1 - len(answered) / requests), "%", at_most=1.0)
    for percent in (50, 95):
        measured, possible = percentile(answered, percent), percentile(best, percent)
        assert measured is not None
        assert possible is not None
        figures.note(f"{name}: p{percent}", measured, "ms")
        figures.note(f"{name}: p{percent} of an ideal shared queue", possible, "ms")
        bound = 1.15 if percent == 95 else None
        figures.note(f"{name}: p{percent} ÷ ideal", measured / possible, "×", at_most=bound)


def overload(folder: Path, figures: Figures, *, nodes: int, requests: int, service_ms: float, seed: int) -> None:
    """Two boards, and two that are SLOWER, get twice what they can answer: how much of their time is well spent."""
    steps_ms = [service_ms, service_ms, SLOWER * service_ms, SLOWER * service_ms]
    max_per_s = sum(1000 / step for step in steps_ms)
    arrivals_s = poisson(requests, 2 * max_per_s, seed)
    with Plant(folder, nodes, steps_ms) as plant, load_of(plant) as load:
        plant.start_boards()
        began = time.monotonic()
        answers = answers_of(at_times(arrivals_s, lambda _: ask(load, OVERLOAD_DEADLINE_MS)))
    in_time = [one for one in answers if one.status == "ok" and one.waited_ms <= OVERLOAD_DEADLINE_MS]
    figures.note("answered in time", 100 * len(in_time) / requests, "%")
    figures.note("late answers", sum(one.status == "ok" for one in answers) - len(in_time), "")
    per_s = len(in_time) / (last_heard_at(answers) - began)
    figures.note("answers in time a second ÷ what the boards can", per_s / max_per_s, "×", at_least=0.8)
    refused_ms = [one.waited_ms for one in answers if one.status != "ok"]
    figures.note("the others get their refusal after, p95", percentile(refused_ms, 95) or 0.0, "ms")


def scale(folder: Path, figures: Figures, *, nodes: int, requests: int, service_ms: float) -> None:
    """One board, then four equal ones: overhead, throughput, and how soon a board that is added answers."""
    with Plant(folder, nodes, [service_ms] * 4) as plant, load_of(plant) as load:
        first, *others = plant.boards
        plant.start_boards([first])
        _overhead(plant, load, figures, requests)
        one = _throughput(load, requests)
        figures.note("throughput of one board", one, "1/s")
        figures.note("a board that is added answers after", _seconds_until_useful(load, others[0]), "s", at_most=10.0)
        plant.start_boards(others[1:])
        four = _throughput(load, 4 * requests)
        figures.note("throughput of four boards", four, "1/s")
        figures.note("four boards ÷ one", four / one, "×", at_least=3.8)


def _overhead(plant: Plant, load: Load, figures: Figures, requests: int) -> None:
    """By the pool and by the board's own topic, in turns."""
    own = f"edgeai/v1/{SITE}/{plant.boards[0].name}"
    times: dict[str, list[float]] = {BASE: [], own: []}
    for _, base in itertools.product(range(requests), times):
        answer = ask(load, base=base).result(ANSWER_S)
        times[base].append(answer.waited_ms - answer.engine_ms)
    by_pool, by_own = statistics.median(times[BASE]), statistics.median(times[own])
    figures.note("beside the engine's time, by the board's own topic", by_own, "ms")
    figures.note("beside the engine's time, by the pool", by_pool, "ms")
    figures.note("the pool adds", by_pool - by_own, "ms", at_most=10.0)
    figures.note("an fsync takes", fsync_ms(plant.boards[0].config.parent), "ms")


def _throughput(load: Load, requests: int) -> float:
    """Answers a second while all requests wait at once."""
    began = time.monotonic()
    answers = answers_of([ask(load) for _ in range(requests)])
    return requests / (last_heard_at(answers) - began)


def last_heard_at(answers: Iterable[Answer]) -> float:
    return max(answer.heard_at for answer in answers)


def _seconds_until_useful(load: Load, board: Board) -> float:
    """From the start of its program, while requests wait, to its first answer."""
    board.start()
    began = time.monotonic()
    futures: list[Future[Answer]] = []
    while not any(one.done() and one.result().device == board.name for one in futures):
        while load.ledger.unanswered < WAITING:
            futures.append(ask(load))
        time.sleep(0.001)
    return min(one.heard_at for one in answers_of(futures) if one.device == board.name) - began


def poisson(count: int, per_s: float, seed: int) -> list[float]:
    """Times of arrivals, in seconds."""
    chance = random.Random(seed)
    return list(itertools.accumulate(chance.expovariate(per_s) for _ in range(count)))


def ideal_ms(arrivals_s: Iterable[float], services_ms: Iterable[float]) -> list[float]:
    """How long requests take in one shared queue without any cost; the board that is free longest takes the next."""
    free = [(0.0, service_ms / 1000) for service_ms in services_ms]
    heapq.heapify(free)
    times = []
    for at_s in arrivals_s:
        free_at, service_s = heapq.heappop(free)
        ends_at = max(at_s, free_at) + service_s
        heapq.heappush(free, (ends_at, service_s))
        times.append(1000 * (ends_at - at_s))
    return times


def fsync_ms(folder: Path) -> float:
    """Median of 50 appends of a page, each with its fsync."""
    times = []
    with (folder / "fsync").open("wb") as file:
        for _ in range(50):
            began = time.monotonic()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            times.append(1000 * (time.monotonic() - began))
    return statistics.median(times)

"""A simple queueing model of the agent: a bounded queue by priority, and steps over the rows of a few requests."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from edge_agent.board.governor import NO_LIMITS, Limits
from rigs.thermal import parameters as p
from rigs.thermal.board import Board, engine_step


@dataclass(slots=True, eq=False)
class Request:
    arrived_s: float
    deadline_s: float
    priority: int
    prompt_left: int
    answer_left: int


def arrivals() -> Iterator[Request]:
    """Endless Poisson arrivals, always the same."""
    chance = random.Random(1)
    now = 0.0
    while True:
        now += chance.expovariate(p.REQUESTS_PER_S)
        (priority,) = chance.choices(list(p.SHARES), list(p.SHARES.values()))
        deadline_s = p.DEADLINE_S if priority else p.URGENT_DEADLINE_S
        prompt, answer = chance.randint(*p.PROMPT_TOKENS), chance.randint(*p.ANSWER_TOKENS)
        yield Request(now, now + deadline_s, priority, prompt, answer)


@dataclass(slots=True)
class SimulatedAgent:
    """urgent_s: latencies of the requests of priority 0; infinite for a request without an answer."""

    limits: Limits = NO_LIMITS
    tokens: int = 0
    answered: int = 0
    urgent_s: list[float] = field(default_factory=list)
    _waiting: list[tuple[int, int, Request]] = field(default_factory=list)
    _active: list[Request] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=itertools.count)
    _was_prompts: bool = False

    def arrive(self, request: Request) -> None:
        if self.limits.refusal(request.priority) is not None:
            self._end(request, None)
            return
        if self.limits.max_tokens is not None:
            request.answer_left = min(request.answer_left, self.limits.max_tokens)
        heapq.heappush(self._waiting, (request.priority, next(self._order), request))
        if len(self._waiting) > p.QUEUE_CAPACITY:
            last = max(self._waiting)
            self._waiting.remove(last)
            heapq.heapify(self._waiting)
            self._end(last[2], None)

    def work(self, board: Board) -> bool:
        """Runs one step of the engine on this board; False = there is nothing to do."""
        self._start(board.seconds)
        prompts = [request for request in self._active if request.prompt_left]
        writing = [request for request in self._active if not request.prompt_left]
        if not self._active:
            return False
        if prompts and not (writing and self._was_prompts):
            self._prompt_step(prompts, board)
        else:
            self._writing_step(writing, board)
        return True

    def _start(self, now: float) -> None:
        most = min(p.MAX_ACTIVE, self.limits.max_active or p.MAX_ACTIVE)
        while self._waiting and len(self._active) < most:
            _, _, request = heapq.heappop(self._waiting)
            if request.deadline_s <= now:
                self._end(request, None)
            else:
                self._active.append(request)

    def _prompt_step(self, prompts: list[Request], board: Board) -> None:
        rows = 0
        budget = min(p.BATCH_TOKENS, self.limits.batch_tokens or p.BATCH_TOKENS)
        for request in prompts:
            taken = min(request.prompt_left, budget - rows)
            request.prompt_left -= taken
            rows += taken
        self._run(board, rows, min(p.PREFILL_THREADS, self.limits.prefill_threads or p.PREFILL_THREADS))
        self._was_prompts = True

    def _writing_step(self, writing: list[Request], board: Board) -> None:
        self._run(board, len(writing), min(p.DECODE_THREADS, self.limits.decode_threads or p.DECODE_THREADS))
        self._was_prompts = False
        self.tokens += len(writing)
        for request in writing:
            request.answer_left -= 1
        for request in [one for one in self._active if not one.answer_left or one.deadline_s <= board.seconds]:
            self._active.remove(request)
            self._end(request, None if request.answer_left else board.seconds)

    def _run(self, board: Board, rows: int, threads: int) -> None:
        step = engine_step(board, rows, threads)
        board.run(step.seconds, step.watts)

    def _end(self, request: Request, now: float | None) -> None:
        self.answered += now is not None
        if request.priority == 0:
            self.urgent_s.append(math.inf if now is None else now - request.arrived_s)

"""Some clients that ask one side at once, each its next question when it has its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from rigs.bench.workload import Answer, Kind, Reading, check_answer, readings

Question = TypeVar("Question")
Reply = TypeVar("Reply")


class Side(Protocol):
    """Somebody who answers. `ask` may be called by several threads at once; it raises for any answer that is not ok."""

    name: str

    def ask(self, kind: Kind, reading: Reading) -> Answer: ...


@dataclass(frozen=True)
class Run:
    """Answers in the order of their questions, and the seconds that all of them took."""

    answers: Sequence[Answer]
    seconds: float

    @property
    def requests_per_s(self) -> float:
        return len(self.answers) / self.seconds

    @property
    def tokens_per_s(self) -> float:
        return sum(answer.completion_tokens for answer in self.answers) / self.seconds

    @property
    def computed_tokens(self) -> float:
        """Prompt tokens that were not in a cache, per request."""
        return sum(answer.prompt_tokens - answer.cached_tokens for answer in self.answers) / len(self.answers)


def in_parallel(
    ask: Callable[[Question], Reply], questions: Sequence[Question], clients: int
) -> tuple[list[Reply], float]:
    """Replies in the order of the questions, and seconds; `clients` questions are under way until none is left."""
    with ThreadPoolExecutor(clients) as pool:
        began = time.perf_counter()
        replies = list(pool.map(ask, questions))
        return replies, time.perf_counter() - began


def ask_all(side: Side, kind: Kind, questions: Sequence[Reading], *, clients: int, constant_tokens: int = 0) -> Run:
    """Raises ValueError for an answer that `check_answer` does not take, and what the side raises."""

    def ask(reading: Reading) -> Answer:
        answer = side.ask(kind, reading)
        check_answer(kind, answer, constant_tokens=constant_tokens)
        return answer

    return Run(*in_parallel(ask, questions, clients))


def warm_up(side: Side, kind: Kind, *, clients: int, seed: str) -> None:
    """Whoever keeps prompts has seen the constant text of this kind afterwards, once for each client."""
    ask_all(side, kind, readings(2 * clients, seed=f"warm-up {seed}"), clients=clients)

"""How benchmarks ask: several clients at once, each with its next question as soon as it has its answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rigs.bench.workload import Answer, Kind, Reading, check_answer
from rigs.load.asking import in_parallel


class Side(Protocol):
    """Answers from several threads at once; raises for any answer that is not ok."""

    @property
    def name(self) -> str: ...

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


def ask_all(side: Side, kind: Kind, questions: Sequence[Reading], *, clients: int, constant_tokens: int = 0) -> Run:
    """Raises ValueError for an answer that `check_answer` refuses, and what the side raises."""

    def ask(reading: Reading) -> Answer:
        answer = side.ask(kind, reading)
        check_answer(kind, answer, constant_tokens=constant_tokens)
        return answer

    return Run(*in_parallel(ask, questions, clients))

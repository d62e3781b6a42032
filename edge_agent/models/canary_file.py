"""Reads a bundle's canaries.json in a process of its own: its Jinja templates come from the maker of the bundle.

The sandbox bounds neither loops nor what they build, and the agent must not wait for them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter

from edge_agent.core.bounded import FAULTY, OutOfBoundsError, bounded, tried_apart
from edge_agent.core.protocol import Failed, Finished, Run, TaskPrefix
from edge_agent.models.canaries import FILE, MAX_BYTES, Answers, Canaries, Canary, CanaryError, decode
from edge_agent.requests.tasks import Task

_CPU_S = 2.0
_MEMORY_BYTES = 128_000_000
# All rendered requests together; the file itself has at most MAX_BYTES.
_MAX_RENDERED_BYTES = 8 * MAX_BYTES


@dataclass(frozen=True, slots=True)
class Questions:
    """Canaries with their prompts rendered. prefixes: the beginnings of their tasks' prompts."""

    runs: tuple[Run, ...]
    prefixes: tuple[TaskPrefix, ...]
    answers: Answers

    @classmethod
    def of(cls, canaries: Canaries) -> Questions:
        """Renders every template, without bounds."""
        runs = tuple(canaries.run(index, index) for index in range(len(canaries.canaries)))
        prefixes = tuple(Task(name, config).prefix() for name, config in canaries.tasks.items())
        return cls(runs, prefixes, Answers(tolerances=canaries.tolerances, canaries=canaries.canaries))

    @property
    def canaries(self) -> tuple[Canary, ...]:
        return self.answers.canaries

    def run(self, index: int, number: int) -> Run:
        """The request of a canary, with this number."""
        return replace(self.runs[index], id=number)

    def difference(self, index: int, event: Finished | Failed) -> str | None:
        """How an answer differs from the recorded one; None = it does not."""
        return self.answers.difference(index, event)


class CanaryRound:
    """One pass over canaries, one at a time: requests that run side by side may be rounded differently."""

    def __init__(self, canaries: Questions) -> None:
        self._canaries = canaries
        self.asked = 0
        self.differences: list[str] = []

    @property
    def next_run(self) -> Run | None:
        """The next request; None = the round is over."""
        return self._canaries.runs[self.asked] if self.asked < len(self._canaries.runs) else None

    def add(self, answer: Finished | Failed) -> None:
        """The answer to `next_run`."""
        difference = self._canaries.difference(self.asked, answer)
        if difference is not None:
            self.differences.append(difference)
        self.asked += 1


_QUESTIONS = TypeAdapter(Questions)


def read_questions(path: Path) -> Questions:
    """Raises CanaryError, OSError."""
    with path.open("rb") as file:
        return _render_apart(file.read(MAX_BYTES + 1))


# A switch reads the file of the new bundle, then the watch reads it before each round.
@lru_cache(maxsize=2)
def _render_apart(data: bytes) -> Questions:
    try:
        return _QUESTIONS.validate_json(tried_apart("edge_agent.models.canary_file", data))
    except OutOfBoundsError as error:
        raise CanaryError(str(error) if FILE in str(error) else f"{FILE}: {error}") from error


def _main() -> int:
    try:
        with bounded(cpu_s=_CPU_S, memory_bytes=_MEMORY_BYTES):
            found = _QUESTIONS.dump_json(Questions.of(decode(sys.stdin.buffer.read())))
        if len(found) > _MAX_RENDERED_BYTES:
            raise CanaryError(f"{FILE}: should ask at most {_MAX_RENDERED_BYTES} bytes (got {len(found)})")
    except (CanaryError, OutOfBoundsError) as error:
        sys.stdout.buffer.write(str(error).encode(errors="backslashreplace"))
        return FAULTY
    sys.stdout.buffer.write(found)
    return 0


if __name__ == "__main__":
    sys.exit(_main())

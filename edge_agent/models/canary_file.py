"""A bundle's canaries.json, whose templates are Jinja from whoever made the bundle: rendered by a process of its own.

The sandbox bounds neither loops nor what grows in them, and the agent's own thread must not wait for them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter

from edge_agent.core.bounded import FAULTY, OutOfBoundsError, bounded, tried_apart
from edge_agent.core.protocol import Failed, Finished, Refused, Run, TaskPrefix
from edge_agent.models.canaries import FILE, MAX_BYTES, Answers, Canaries, Canary, CanaryError, decode
from edge_agent.requests.tasks import Task

_CPU_S = 2.0
_MEMORY_BYTES = 128_000_000
# Of what is asked; the file itself has at most MAX_BYTES.
_MOST_BYTES = 8 * MAX_BYTES


@dataclass(frozen=True, slots=True)
class Questions:
    """Canaries as they are asked. prefixes: what the prompts of their tasks begin with."""

    runs: tuple[Run, ...]
    prefixes: tuple[TaskPrefix, ...]
    answers: Answers

    @classmethod
    def of(cls, canaries: Canaries) -> Questions:
        runs = tuple(canaries.run(index, index) for index in range(len(canaries.canaries)))
        prefixes = tuple(Task(name, config).prefix() for name, config in canaries.tasks.items())
        return cls(runs, prefixes, Answers(tolerances=canaries.tolerances, canaries=canaries.canaries))

    @property
    def canaries(self) -> tuple[Canary, ...]:
        return self.answers.canaries

    def run(self, index: int, number: int) -> Run:
        """What the worker is asked for a canary, with this number."""
        return replace(self.runs[index], id=number)

    def difference(self, index: int, event: Finished | Refused | Failed) -> str | None:
        """How the worker's answer is not the recorded one; None = it is."""
        return self.answers.difference(index, event)


_QUESTIONS = TypeAdapter(Questions)


def read_questions(path: Path) -> Questions:
    """Raises CanaryError; OSError."""
    with path.open("rb") as file:
        return _tried(file.read(MAX_BYTES + 1))


# A switch reads them, and who asks them from then on.
@lru_cache(maxsize=2)
def _tried(data: bytes) -> Questions:
    try:
        return _QUESTIONS.validate_json(tried_apart("edge_agent.models.canary_file", data))
    except OutOfBoundsError as error:
        raise CanaryError(str(error) if FILE in str(error) else f"{FILE}: {error}") from error


def _main() -> int:
    try:
        with bounded(cpu_s=_CPU_S, memory_bytes=_MEMORY_BYTES):
            found = _QUESTIONS.dump_json(Questions.of(decode(sys.stdin.buffer.read())))
        if len(found) > _MOST_BYTES:
            raise CanaryError(f"{FILE}: should ask at most {_MOST_BYTES} bytes (got {len(found)})")
    except (CanaryError, OutOfBoundsError) as error:
        sys.stdout.buffer.write(str(error).encode(errors="backslashreplace"))
        return FAULTY
    sys.stdout.buffer.write(found)
    return 0


if __name__ == "__main__":
    sys.exit(_main())

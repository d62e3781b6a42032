"""Which prompts are tried, and in which order: cheap ones first."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.kinds.task import Example
from edge_agent.requests.rows import TaskRow

_EXAMPLE_COUNTS = (2, 4, 8, 16)
_PLACES = ("turns", "system")
_SEEDS = 8
_ORDERS = 4


@dataclass(frozen=True, slots=True)
class Prompt:
    name: str
    config: ClassifyTask
    examples: tuple[int, ...] = ()  # The numbers of the rows that it shows, which it is not judged on.

    @property
    def complexity(self) -> int:
        """0 for the configured prompt."""
        return len(self.examples) + (self.name != AS_CONFIGURED)


AS_CONFIGURED = "as configured"


class Results(Protocol):
    """What is known about the prompts so far."""

    def best(self) -> Prompt:
        """The best one that is fast enough."""

    def is_fast_enough(self, prompt: Prompt) -> bool: ...


@dataclass(frozen=True, slots=True)
class Plan:
    config: ClassifyTask
    rows: Sequence[TaskRow]
    pool: Sequence[int]  # The numbers of the rows that may become examples.
    wordings: Sequence[str] = ()  # Other texts for `system`, as the user gave them.

    def prompts(self, results: Results) -> Iterator[Prompt]:
        """Each is tried before the next one is asked for."""
        yield Prompt(AS_CONFIGURED, self.config)
        for number, text in enumerate(self.wordings, start=1):
            yield Prompt(f"wording {number}", self.config.model_copy(update={"system": text}))
        base = results.best()
        sizes = [number for number in _EXAMPLE_COUNTS if number <= len(self.pool) // 3]
        fast = []
        for number in sizes:
            for place in _PLACES:
                prompt = self._with_examples(base, self._drawn(number, seed=0), place, "choice 1")
                yield prompt
                if results.is_fast_enough(prompt):
                    fast.append((number, place))
        for seed in range(1, _SEEDS):
            for number, place in fast:
                yield self._with_examples(base, self._drawn(number, seed=seed), place, f"choice {seed + 1}")
        best = results.best()
        for seed in range(1, _ORDERS if len(best.examples) > 1 else 0):
            order = random.Random(seed).sample(best.examples, len(best.examples))  # noqa: S311 - reproducible
            choice = best.name.rpartition(", ")[2]
            yield self._with_examples(base, order, best.config.examples_as, f"{choice} in order {seed + 1}")

    def _drawn(self, number: int, *, seed: int) -> list[int]:
        """Rows of all labels in turn, as many of each as can be, in random order."""
        draw = random.Random(seed)  # noqa: S311 - reproducible
        labels = draw.sample(self.config.labels, len(self.config.labels))
        by_label = {label: [row for row in self.pool if self.rows[row].answer == label] for label in labels}
        for rows in by_label.values():
            draw.shuffle(rows)
        chosen = list[int]()
        while len(chosen) < number and any(by_label.values()):
            chosen += [rows.pop() for rows in by_label.values() if rows]
        return draw.sample(chosen[:number], min(number, len(chosen)))

    def _with_examples(self, base: Prompt, chosen: Sequence[int], place: str, choice: str) -> Prompt:
        examples = tuple(Example(input=self.rows[row].input, answer=self.rows[row].answer) for row in chosen)
        config = base.config.model_copy(update={"examples": examples, "examples_as": place})
        wording = "" if base.name == AS_CONFIGURED else f"{base.name}, "
        return Prompt(f"{wording}{len(chosen)} examples, {place}, {choice}", config, tuple(chosen))


def can_be_example(value: Any) -> bool:
    """Whether TOML can write this input, which must have no null."""
    if isinstance(value, dict):
        return all(map(can_be_example, value.values()))
    if isinstance(value, list):
        return all(map(can_be_example, value))
    return value is not None

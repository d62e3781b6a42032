"""PURE: the steps of a plan to write JSON: texts that are forced, choices among a few texts, and free slots.

A plan is a graph of steps that is made while it is walked: an array without an end is a circle. What follows a step can
be looked at before the step is taken, so that texts can be cut into tokens together with what comes after them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise, takewhile
from operator import itemgetter

from edge_agent.engine.answer.slots import Slot


class Later:
    """A step that is made when it is first asked for."""

    def __init__(self, make: Callable[[], Step]) -> None:
        self._make = make
        self._step: Step | None = None

    def __call__(self) -> Step:
        if self._step is None:
            self._step = self._make()
        return self._step


@dataclass(frozen=True, eq=False)
class Literal:
    """Text that is forced."""

    text: str
    then: Later


@dataclass(frozen=True, eq=False)
class Choice:
    """One of these texts, each with what follows it; the first is the one that ends soonest."""

    options: tuple[tuple[str, Later], ...]


@dataclass(frozen=True, eq=False)
class Free:
    """Content that the model writes."""

    slot: Slot
    then: Later


@dataclass(frozen=True, eq=False)
class End:
    """Nothing follows."""


Step = Literal | Choice | Free | End
END = End()


def continuations(choice: Choice) -> Iterator[tuple[str, Step]]:
    """The texts of a choice with what is forced behind each, none the beginning of another, and the steps that follow.

    A value that another begins with is told from it by its end, which may be one token with what follows: there the
    text goes on into the next choice.
    """
    texts = sorted(text for text, _ in choice.options)
    stems = ((text, other, text.rstrip('"')) for text, other in [*pairwise(texts), *pairwise(reversed(texts))])
    beginnings = {text for text, other, stem in stems if other.startswith(stem)}
    for text, later in choice.options:
        then = later()
        if text in beginnings and isinstance(then, Choice):
            for begin, after in _by_begin(then):
                yield _with_forced(text + begin, after)
        else:
            yield _with_forced(text, then)


def _with_forced(text: str, then: Step) -> tuple[str, Step]:
    while isinstance(then, Literal):
        text, then = text + then.text, then.then()
    return text, then


def _by_begin(choice: Choice) -> Iterator[tuple[str, Step]]:
    """What a choice's texts begin with, and what is left to choose behind it."""
    for _, group in groupby(sorted(choice.options, key=itemgetter(0)), key=lambda option: option[0][0]):
        options = list(group)
        texts = [text for text, _ in options]
        if len(options) == 1:
            yield texts[0], options[0][1]()
            continue
        # Sorted, all between the first and the last begin with what these two have in common.
        begin = _common_begin(texts[0], texts[-1])
        if begin in texts:
            begin = begin[0]
        yield begin, Choice(tuple((text.removeprefix(begin), later) for text, later in options))


def _common_begin(one: str, other: str) -> str:
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))

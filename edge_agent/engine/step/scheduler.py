"""PURE: which requests run, and which tokens go into the next batch.

Continuous batching at the level of one step (Orca, OSDI 2022; chunked prefill: Sarathi-Serve, OSDI 2024): requests join
and leave between any two steps, and a long prompt never stops those that already write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class Want:
    """Tokens that one sequence waits to have decoded; `outputs` are the offsets after which logits are wanted."""

    key: int
    count: int
    outputs: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Take:
    """The first `count` tokens of a Want go into the batch."""

    key: int
    count: int


def next_batch(wants: Iterable[Want], *, tokens: int, outputs: int, slack: int = 0) -> list[Take]:
    """Takes in the order of the wants, until the token budget or the rows for logits are used up.

    slack: the budget may be passed by so many tokens if nothing is left then: a small rest would cost a step of its
    own.
    The caller orders them: sequences that write first (they are one token each and a user waits), then label branches,
    then prompts by arrival.
    """
    batch = []
    wants = list(wants)
    for want in wants:
        is_last = want is wants[-1]
        count = want.count if is_last and want.count <= tokens + slack else min(want.count, tokens)
        inside = sum(1 for offset in want.outputs if offset < count)
        if inside > outputs:
            # Stop before the first output that has no row left.
            count = sorted(want.outputs)[outputs]
            inside = outputs
        if count:
            batch.append(Take(want.key, count))
            tokens -= count
            outputs -= inside
        if tokens <= 0:
            break
    return batch


class Turn(Enum):
    """Whose rows a step takes."""

    ALL = auto()
    WRITING = auto()
    PROMPTS = auto()


class Turns:
    """Narrow steps are for all; where one would be wide, prompts and those that write have steps of their own.

    From `wide_rows` rows on attention works on tiles of rows and cells, and leaves out only cells that no row of a tile
    sees: a few rows of requests that write make all the others look at those requests' cells too.
    Prompts that end come first, for the more requests write together the less each row costs, but `most_prompt_steps`
    steps in a row at most. A long prompt gets every other step: it must not stop those that already write.
    """

    def __init__(self, wide_rows: int, most_prompt_steps: int) -> None:
        self._wide_rows = wide_rows
        self._most_prompt_steps = most_prompt_steps
        self._prompt_steps = 0

    def take(self, writing: int, prompts: int, *, ends_one: bool) -> Turn:
        """Whose turn it is, where so many tokens of either kind wait. ends_one: a step for prompts would end one."""
        if not writing or not prompts or writing + prompts < self._wide_rows:
            turn = Turn.ALL
        else:
            most = self._most_prompt_steps if ends_one else 1
            turn = Turn.PROMPTS if self._prompt_steps < most else Turn.WRITING
        self._prompt_steps = self._prompt_steps + 1 if turn is Turn.PROMPTS else 0
        return turn


class Linger:
    """Waits a moment for the next requests of those whose answers a step gave, so that they share a step.

    Clients that ask again when they are answered would else come just after the next step has begun. One that comes
    alone never waits, for only as many are waited for as were answered.

    share: of the time of a step, for which the places of those who were answered may stay empty; way_s: for each of
    them, how long an answer's way to its client and the next question's way back may take.
    """

    def __init__(self, share: float, way_s: float) -> None:
        self._share = share
        self._way_s = way_s
        self._missing = 0
        self._until = 0.0

    def answered(self, count: int, *, of: int, step_s: float, now: float) -> None:
        """A step of so many seconds ended `count` of so many requests."""
        self._missing = count
        self._until = now + count * min(self._share * step_s / of, self._way_s)

    def came(self) -> None:
        """A request came, or one more than was waited for."""
        self._missing -= 1

    def seconds(self, now: float) -> float:
        """How long to wait for more; 0 = not at all."""
        return max(0.0, self._until - now) if self._missing > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """KV cells that a request may need at worst, beyond those it shares with a pinned prefix."""

    key: int
    cells: int


class Admission:
    """First come, first served; a request starts only when its worst case fits, so that a full cache cannot happen.

    Who does not fit yet may be overtaken by smaller ones, but so often only: then the others wait until it fits, which
    it will, for what runs ends in bounded time.
    """

    MOST_OVERTAKEN = 16

    def __init__(self, *, max_active: int, cells: int) -> None:
        self.max_active = max_active
        self._cells = cells
        # Request -> how often it was overtaken.
        self._waiting: dict[int, int] = {}
        self._active: dict[int, int] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def active(self) -> int:
        return len(self._active)

    def free_cells(self, pinned_cells: int) -> int:
        return self._cells - pinned_cells - sum(self._active.values())

    def offer(self, key: int) -> None:
        self._waiting[key] = 0

    def candidates(self) -> list[int]:
        """The requests that may start next, in this order, if there is a place."""
        if len(self._active) >= self.max_active:
            return []
        keys = list(self._waiting)
        patient = next((at for at, key in enumerate(keys) if self._waiting[key] >= self.MOST_OVERTAKEN), len(keys))
        return keys[: patient + 1]

    def start(self, reservation: Reservation, pinned_cells: int) -> bool:
        """Whether it started: False if there is no place, or its cells are not free now."""
        if len(self._active) >= self.max_active or reservation.cells > self.free_cells(pinned_cells):
            return False
        for key in self._waiting:
            if key == reservation.key:
                break
            self._waiting[key] += 1
        del self._waiting[reservation.key]
        self._active[reservation.key] = reservation.cells
        return True

    def put_back(self, key: int) -> None:
        """A request that had started waits again, before those that never did."""
        if self._active.pop(key, None) is not None:
            self._waiting = {key: 0, **self._waiting}

    def leave(self, key: int) -> None:
        """The request has ended, or never began."""
        if self._active.pop(key, None) is None:
            self._waiting.pop(key, None)

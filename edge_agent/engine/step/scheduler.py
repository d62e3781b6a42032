"""Which requests run, and which tokens go into the next batch.

Continuous batching (Orca, OSDI 2022) with chunked prefill (Sarathi-Serve, OSDI 2024): requests join and leave between
any two steps, and a long prompt never stops requests that already write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class Want:
    """Tokens that a sequence has to decode; `outputs` are the offsets after which logits are wanted."""

    key: int
    count: int
    outputs: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Take:
    """The first `count` tokens of a Want are in the batch."""

    key: int
    count: int


def next_batch(wants: Iterable[Want], *, tokens: int, outputs: int, slack: int = 0) -> list[Take]:
    """Takes in the order of the wants until the budget of tokens or of rows with logits is used up.

    slack: how far the last want may exceed the budget, so that a small rest does not cost a step of its own.
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
    """Which rows a step takes."""

    ALL = auto()
    WRITING = auto()
    PROMPTS = auto()


class Turns:
    """Narrow steps hold all rows; instead of a wide one, prompts and writing requests get separate steps.

    From `wide_rows` rows on attention works on tiles, and skips only cells that no row of a tile sees. A few rows of
    writing requests make all other rows read those requests' cells too.
    Prompts that a step completes come first, at most `most_prompt_steps` times in a row, because rows cost less the
    more requests write together. A long prompt gets every other step, so that it does not stop writing requests.
    """

    def __init__(self, wide_rows: int, most_prompt_steps: int) -> None:
        self._wide_rows = wide_rows
        self._most_prompt_steps = most_prompt_steps
        self._prompt_steps = 0

    def next(self, writing: int, prompts: int, *, ends_one: bool) -> Turn:
        """The turn for this many waiting tokens of each kind. ends_one: a step of prompts would complete one."""
        if not writing or not prompts or writing + prompts < self._wide_rows:
            turn = Turn.ALL
        else:
            most = self._most_prompt_steps if ends_one else 1
            turn = Turn.PROMPTS if self._prompt_steps < most else Turn.WRITING
        self._prompt_steps = self._prompt_steps + 1 if turn is Turn.PROMPTS else 0
        return turn


class Linger:
    """Waits a moment after answers, so that the clients' next requests share a step.

    Clients that ask again at once would otherwise arrive just after the next step has begun. It waits only for as many
    requests as were answered, so a client that is alone never waits.

    share: of a step's time, for which the answered requests' places may stay empty.
    way_s: the time for an answer's way to its client and the next request's way back.
    """

    def __init__(self, share: float, way_s: float) -> None:
        self._share = share
        self._way_s = way_s
        self._missing = 0
        self._until = 0.0

    def answered(self, count: int, *, of: int, step_s: float, now: float) -> None:
        """A step of `step_s` seconds ended `count` of the `of` running requests."""
        self._missing = count
        self._until = now + count * min(self._share * step_s / of, self._way_s)

    def came(self) -> None:
        """A request came."""
        self._missing -= 1

    def seconds(self, now: float) -> float:
        """How long to wait; 0 = not at all."""
        return max(0.0, self._until - now) if self._missing > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """KV cells that a request needs at most beyond those that it shares with a prefix."""

    key: int
    cells: int


class Admission:
    """Starts requests in order of arrival, each only when its worst case fits: the cache never runs full.

    Smaller requests may overtake one that does not fit yet, at most MOST_OVERTAKEN times. Then all wait until it fits.
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
        """The requests that may start next, in this order; none where all places are taken."""
        if len(self._active) >= self.max_active:
            return []
        keys = list(self._waiting)
        blocked = next((at for at, key in enumerate(keys) if self._waiting[key] >= self.MOST_OVERTAKEN), len(keys))
        return keys[: blocked + 1]

    def start(self, reservation: Reservation, pinned_cells: int) -> bool:
        """Whether it starts: False = no place, or not enough free cells."""
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
        """A started request waits again, before those that never started."""
        if self._active.pop(key, None) is not None:
            self._waiting = {key: 0, **self._waiting}

    def leave(self, key: int) -> None:
        """The request has ended, or was cancelled before its start."""
        if self._active.pop(key, None) is None:
            self._waiting.pop(key, None)

"""PURE. How long requests take, learned from those that have ended; and the deadline of those that nobody gave one.

Two figures, because an engine that batches has two: a request's share of the engine's time, which adds up over the
requests before it, and its run from the hand-over to its end, which is longer the more run beside it.
And a bound: what it takes at the least, which tells what deadlines are hopeless even if it waits for nobody.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

from edge_agent.core.protocol import LabelsPlan, Run
from edge_agent.requests.statistics import percentile

# Runs that a percentile is taken of.
WINDOW = 64
# Weight of the latest share in the mean and in the variance, once there are many.
SMOOTHING = 0.1
# What was measured longer ago is not held against a newcomer: nothing else would show that it takes less by now.
STALE_AFTER_S = 60.0
# What requests take at the least is believed for so long per run that showed it, but no longer than STALE_AFTER_S.
BELIEVED_PER_RUN_S = 5.0
# One that was cut off is taken to need so much longer at the least: else the same deadline would be tried at once.
CUT_OFF_SHORT = 1.1
# Of ordinary text, for requests of which nothing alike was measured.
CHARACTERS_PER_TOKEN = 4
# A default deadline is so many long runs, within these bounds.
DEADLINE_RUNS = 8
SHORTEST_DEADLINE_MS = 5_000
LONGEST_DEADLINE_MS = 60_000

# Task, and the binary magnitudes of the prompt's characters and of the tokens that may be written.
Kind = tuple[str, int, int]


def kind_of(run: Run) -> Kind:
    """Requests of one kind take about as long."""
    characters = sum(len(message.content) for message in run.messages if message.role != "system")
    tokens = 0 if isinstance(run.plan, LabelsPlan) else run.max_tokens
    return (run.task, characters.bit_length(), tokens.bit_length())


@dataclass(slots=True)
class Expectation:
    """What one request takes.

    share_s: seconds of the engine's time, the mean; variance: of the share, in s².
    measured_at: seconds of the monotonic clock; None = it is a guess.
    """

    share_s: float = 0.0
    variance: float = 0.0
    measured_at: float | None = None
    _count: int = 0
    # How many shared a step with it, and its run in seconds.
    _runs: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _percentiles: dict[tuple[int, int], float] = field(default_factory=dict)

    def measure(self, *, share_s: float, run_s: float, batch: int, now: float) -> None:
        self._count += 1
        weight = max(SMOOTHING, 1 / self._count)
        off_s = share_s - self.share_s
        self.share_s += weight * off_s
        self.variance = (1 - weight) * (self.variance + weight * off_s * off_s)
        self._runs.append((batch, run_s))
        self._percentiles.clear()
        self.measured_at = now

    def run_s(self, percent: int, beside: int) -> float:
        """The run that `percent` of 100 requests do not exceed while `beside` of them run at once."""
        known = self._percentiles.get((percent, beside))
        if known is None:
            runs = [run_s for batch, run_s in self._runs if batch <= beside] or [run_s for _, run_s in self._runs]
            known = percentile(runs, percent) if runs else self.share_s * beside
            assert known is not None
            self._percentiles[percent, beside] = known
        return known

    @property
    def is_guess(self) -> bool:
        return self.measured_at is None

    def is_stale(self, now: float) -> bool:
        return self.measured_at is not None and now - self.measured_at >= STALE_AFTER_S


@dataclass(slots=True)
class Least:
    """What requests of one kind take even while nothing else runs, as was seen lately.

    least_s: the fastest of the latest runs that ended. Of one that shared its steps it is its share: alone it takes
    longer. While none ends, it is how long the last one got before it was cut off.
    believed_until: from then on one is tried that it speaks against. So a run that was slow by chance shuts others out
    for seconds, and what many runs have shown is tried once a minute.
    """

    least_s: float = 0.0
    believed_until: float = 0.0
    # How many shared a step with it, and its share in seconds.
    _ended: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _cuts_in_a_row: int = 0

    def ended(self, *, share_s: float, batch: int, now: float) -> None:
        self._ended.append((batch, share_s))
        self._cuts_in_a_row = 0
        self._believe(min(self._alone or [share_s for _, share_s in self._ended]), len(self._ended), now)

    def cut_off(self, run_s: float, now: float) -> None:
        """One that ran alone was told to stop after run_s."""
        least_s = CUT_OFF_SHORT * run_s
        is_known_better = self._alone and not self._cuts_in_a_row
        if now < self.believed_until and (is_known_better or least_s <= self.least_s):
            return
        self._cuts_in_a_row += 1
        self._believe(least_s, self._cuts_in_a_row, now)

    @property
    def _alone(self) -> list[float]:
        return [share_s for batch, share_s in self._ended if batch == 1]

    def _believe(self, least_s: float, runs: int, now: float) -> None:
        self.least_s = least_s
        self.believed_until = now + min(STALE_AFTER_S, BELIEVED_PER_RUN_S * runs)


class Latency:
    """What is known of each kind of request, and of each task over all its kinds."""

    def __init__(self) -> None:
        self._measured: dict[Kind | str, Expectation] = {}
        self._guessed: dict[Kind, Expectation] = {}
        self._least: defaultdict[Kind, Least] = defaultdict(Least)
        self._prefill_tok_s: float | None = None
        self._decode_tok_s: float | None = None

    def set_rates(self, prefill_tok_s: float | None, decode_tok_s: float | None) -> None:
        """The engine's tokens per second; None = not measured."""
        self._prefill_tok_s, self._decode_tok_s = prefill_tok_s, decode_tok_s
        self._guessed.clear()

    def measure(self, kind: Kind, *, share_s: float, run_s: float, batch: int, now: float) -> None:
        """A request has taken this long: see Expectation."""
        self._least[kind].ended(share_s=share_s, batch=batch, now=now)
        self._learn(kind, share_s=share_s, run_s=run_s, batch=batch, now=now)

    def _learn(self, kind: Kind, *, share_s: float, run_s: float, batch: int, now: float) -> None:
        for key in (kind, kind[0]):
            self._measured.setdefault(key, Expectation()).measure(share_s=share_s, run_s=run_s, batch=batch, now=now)

    def gave_up(self, kind: Kind, *, run_s: float, beside: int, now: float) -> None:
        """A request was told to stop after run_s: it takes longer than that.

        Requests that never make their deadline would else never be measured, and be admitted for ever.
        """
        if beside == 1:
            self._least[kind].cut_off(run_s, now)
        expected = self.expect(kind)
        if expected is None or expected.run_s(90, beside) < run_s:
            self._learn(kind, share_s=run_s / beside, run_s=run_s, batch=beside, now=now)

    def expect(self, kind: Kind) -> Expectation | None:
        """By what was measured of the kind, else of its task, else by the engine's rates; None = unknown."""
        return self._measured.get(kind) or self._measured.get(kind[0]) or self._guess(kind)

    def least(self, kind: Kind, now: float) -> Least | None:
        """What a request takes even on an idle engine; None = unknown, or not to be believed any more."""
        least = self._least.get(kind)
        return least if least is not None and now < least.believed_until else None

    def _guess(self, kind: Kind) -> Expectation | None:
        if self._prefill_tok_s is None or self._decode_tok_s is None:
            return None
        if kind not in self._guessed:
            _, characters, tokens = kind
            prompt_s = _middle(characters) / CHARACTERS_PER_TOKEN / self._prefill_tok_s
            self._guessed[kind] = Expectation(share_s=prompt_s + _mean_written(tokens) / self._decode_tok_s)
        return self._guessed[kind]

    def deadline_ms(self, task: str) -> int | None:
        """The deadline of a request of this task if neither it nor the configuration names one; None = unknown.

        From its runs alone, without the wait in the queue: a deadline that grew with the wait would let the wait grow.
        """
        measured = self._measured.get(task)
        if measured is None:
            return None
        long_run_ms = measured.run_s(95, WINDOW) * 1000
        return round(min(max(DEADLINE_RUNS * long_run_ms, SHORTEST_DEADLINE_MS), LONGEST_DEADLINE_MS))


def _middle(magnitude: int) -> float:
    """Of the numbers with so many binary digits."""
    return 0.75 * 2**magnitude if magnitude else 0.0


def _mean_written(magnitude: int) -> float:
    """Tokens of an answer of which only its bound is known: each magnitude up to it is as likely.

    Few answers are as long as they may be: who reckons with that refuses most of the first flood, for nothing.
    """
    return (2**magnitude - 1) / magnitude if magnitude else 0.0
